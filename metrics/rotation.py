"""A code whose space is turned, z' = U z: what normal posteriors become, and what is lost if they must be diagonal.

q(z|x) = N(mu, diag(s)) becomes N(U mu, C) with C = U diag(s) U^T, the prior N(0, I) stays what it is, and the decoder
p(x|U^T z') turns back: rate, distortion and bound are the same for every U. Only a model whose posteriors are diagonal
tells one U from another (Rolinek, Zietlow and Martius 2019), since it must put a diagonal in the place of C:

    v = diag(C)           ``same_variances``, nearest to C in KL(N(., C) || N(., diag(v)))
    v = 1 / diag(C^-1)    ``same_precisions``, nearest to C in KL(N(., diag(v)) || N(., C))

By Hadamard's inequality the first has a larger determinant than C, so that its *rate is lower* by half the difference
of the logarithms, but more than that is lost in distortion; the second has a smaller one. Where the posterior was the
best normal one, the bound falls by ``kl_to_rotated``, least of all by the second.

Variances are (N, D) and rotations (D, D), float64 both; means play no part in a loss.
"""

import math

import torch
from scipy.linalg import schur
from torch import Tensor


def rotated_covariance(variance: Tensor, rotation: Tensor) -> Tensor:
    """C = U diag(s) U^T of each image: (N, D) variances to (N, D, D)."""
    return (rotation * variance[:, None]) @ rotation.T


def same_variances(variance: Tensor, rotation: Tensor) -> Tensor:
    """diag(C), the diagonal posterior with the moments of the rotated one: (N, D) to (N, D)."""
    return variance @ rotation.square().T


def same_precisions(variance: Tensor, rotation: Tensor) -> Tensor:
    """1 / diag(C^-1), how far each coordinate is open where the others are known: (N, D) to (N, D)."""
    return 1 / (1 / variance @ rotation.square().T)


def full_rate(mu: Tensor, covariance: Tensor) -> Tensor:
    """KL(N(mu, C) || N(0, I)) of each image, the rate of a posterior that need not be diagonal.

    Args:
        mu: (N, D) means.
        covariance: (N, D, D).

    Returns:
        (N,) nats >= 0.
    """
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    return 0.5 * (mu.square().sum(1) + trace - mu.shape[1] - torch.linalg.slogdet(covariance).logabsdet)


def rate_change(diagonal: Tensor, variance: Tensor) -> Tensor:
    """Rate of N(., diag(v)) less that of the rotated posterior, whose trace and determinant are those of diag(s).

    For ``same_variances`` minus (sum log diag(C) - log det C) / 2, which is never above 0.

    Args:
        diagonal: (N, D) variances v.
        variance: (N, D) variances s before the rotation.

    Returns:
        (N,) nats.
    """
    return 0.5 * (diagonal - variance - diagonal.log() + variance.log()).sum(1)


def kl_to_rotated(diagonal: Tensor, variance: Tensor, rotation: Tensor) -> Tensor:
    """KL(N(., diag(v)) || N(., C)) of each image: what the bound loses where N(., C) is p(z'|x) itself.

    Args:
        diagonal: (N, D) variances v.
        variance: (N, D) variances s before the rotation.
        rotation: (D, D).

    Returns:
        (N,) nats >= 0; for ``same_precisions`` (sum log diag(C^-1) - log det C^-1) / 2.
    """
    precision = 1 / same_precisions(variance, rotation)
    return 0.5 * (diagonal * precision - 1 - diagonal.log() + variance.log()).sum(1)


def expected_loss(diagonal: Tensor, variance: Tensor, rotation: Tensor, beta: float = 1.0) -> Tensor:
    """Fall of the evidence lower bound where the posterior was the best normal one for distortion + beta rate.

    If the distortion is quadratic within a posterior, distortion + beta rate rises by beta times ``kl_to_rotated``
    (beta is a temperature); the bound weighs the rate with 1.

    Args:
        diagonal: (N, D) variances v.
        variance: (N, D) variances s before the rotation.
        rotation: (D, D).
        beta: weight of the rate in training, above 0.

    Returns:
        (N,) nats; for beta = 1 the KL itself.
    """
    return beta * kl_to_rotated(diagonal, variance, rotation) + (1 - beta) * rate_change(diagonal, variance)


def random_rotation(size: int, rng: torch.Generator) -> Tensor:
    """A rotation by the uniform (Haar) measure, (size, size) float64 (ValueError below 2 coordinates)."""
    if size < 2:
        raise ValueError(f"size is {size}: only 2 coordinates or more can turn.")
    basis, upper = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=rng))
    rotation = basis * upper.diagonal().sign()  # makes the factors unique, and so the measure uniform
    if torch.linalg.det(rotation) < 0:
        rotation[:, 0] *= -1
    return rotation


def generator_of(rotation: Tensor) -> Tensor:
    """log U in the unit in which ``turn`` counts: the root mean square of the angles of its planes is 1 radian.

    Args:
        rotation: (D, D) float64, orthogonal with determinant 1.

    Returns:
        (D, D) skew-symmetric, with D // 2 planes.

    Raises:
        ValueError: not a rotation, one by nothing, or one by half a turn, whose sense nobody can tell.
    """
    identity = torch.eye(len(rotation), dtype=rotation.dtype)
    if not torch.allclose(rotation @ rotation.T, identity, rtol=0, atol=1e-9):
        raise ValueError("rotation must be orthogonal in float64: take random_rotation or turn.")
    # Of a normal matrix the triangle is diagonal: eigenvectors at right angles even where eigenvalues repeat.
    triangle, vectors = (torch.from_numpy(part) for part in schur(rotation.numpy(), output="complex"))
    angles = triangle.diagonal().angle()
    if (math.pi - angles.abs() < 1e-9).any():
        raise ValueError("rotation has a plane that turns by half, or is a reflection: it has no one logarithm.")
    mean_square = angles.square().sum() / (2 * (len(rotation) // 2))
    if mean_square < 1e-18:
        raise ValueError("rotation turns nothing: there is no path to it.")
    logarithm = ((vectors * (1j * angles)) @ vectors.mH).real
    return (logarithm - logarithm.T) / (2 * mean_square.sqrt())


def turn(generator: Tensor, angle: float) -> Tensor:
    """The rotation at ``angle`` radians (root mean square over planes) on the path exp(angle generator): (D, D)."""
    return torch.linalg.matrix_exp(angle * generator)


def among(generator: Tensor, coordinates: Tensor, size: int) -> Tensor:
    """A generator of some coordinates, (d, d), as one of all, (size, size), that leaves the others where they are."""
    whole = generator.new_zeros(size, size)
    whole[coordinates[:, None], coordinates] = generator
    return whole
