"""How far the coordinates of a code are from independent, by a batch's posteriors, a discriminator or covariances."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class Decomposition(NamedTuple):
    """The KL to the prior in three parts, in nats, means over the batch (Chen et al. 2018, Eq. 2)."""

    mi: Tensor  # KL(q(z, n) || q(z) p(n)), mutual information of code and index
    tc: Tensor  # KL(q(z) || prod_d q(z_d)), total correlation
    dwkl: Tensor  # sum_d KL(q(z_d) || p(z_d)), dimension-wise KL


def log_densities(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z_j,d; mu_i,d, exp(logvar_i,d)) of every code under every posterior.

    Args:
        z: (N, D) codes.
        mu: (M, D) means.
        logvar: (M, D) logarithms of variances.

    Returns:
        (N, M, D).
    """
    square = (z[:, None] - mu).square() * (-logvar).exp()
    return -0.5 * (square + logvar + math.log(2 * math.pi))


def weighted_sampling(n: int, size: int, like: Tensor) -> Tensor:
    """log weights of minibatch weighted sampling, log 1 / (n size) for every posterior (Chen et al. 2018, Eq. S5).

    Args:
        n: images in the batch.
        size: images in the data.
        like: gives type and device.

    Returns:
        (n, n).
    """
    return like.new_full((n, n), -math.log(n * size))


def stratified_sampling(n: int, size: int, like: Tensor) -> Tensor:
    """log weights of minibatch stratified sampling, as the authors lay them out (Chen et al. 2018, Eq. S6).

    Row j is of code j, column i of posterior i: 1 / (n - 1), but column 0 has 1 / size and column 1 what is left.

    Args:
        n: images in the batch, 2 or more.
        size: images in the data, at least n.
        like: gives type and device.

    Returns:
        (n, n).

    Raises:
        ValueError: fewer images, or more than the data has.
    """
    if not 2 <= n <= size:
        raise ValueError(
            f"Stratified sampling needs a batch of 2 to {size} images, of as many as the data has, not {n}."
        )
    m = n - 1
    left = (size - m) / (size * m)
    weights = like.new_full((n, n), 1 / m)
    weights[:, 0], weights[:, 1] = 1 / size, left
    weights[m - 1, 0] = left
    return weights.log()


def decompose(z: Tensor, mu: Tensor, logvar: Tensor, log_weights: Tensor) -> Decomposition:
    """The KL in three parts, estimated from a batch (Chen et al. 2018, Eq. 2, S4).

    A weight counts once for the joint density and once for each coordinate's, not once for each coordinate in both.

    Args:
        z: (N, D), code j drawn from posterior j.
        mu: (N, D) means.
        logvar: (N, D) logarithms of variances.
        log_weights: (N, N), of ``weighted_sampling`` or ``stratified_sampling``.
    """
    each = log_densities(z, mu, logvar)
    log_qz_x = each.diagonal().sum(0)  # (D, N) summed over coordinates
    log_qz = (log_weights + each.sum(2)).logsumexp(1)
    log_product = (log_weights[..., None] + each).logsumexp(1).sum(1)
    log_pz = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return Decomposition((log_qz_x - log_qz).mean(), (log_qz - log_product).mean(), (log_product - log_pz).mean())


def total_correlation(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Total correlation by minibatch weighted sampling without its constant (Locatello et al. 2019).

    Short of ``decompose(...).tc`` by (D - 1) log(N size), which has no gradient; usually far below zero.

    Args:
        z: (N, D), code j drawn from posterior j.
        mu: (N, D) means.
        logvar: (N, D) logarithms of variances.

    Returns:
        Scalar in nats, averaged over the batch.
    """
    each = log_densities(z, mu, logvar)
    return (each.sum(2).logsumexp(1) - each.logsumexp(1).sum(1)).mean()


def density_ratio(logits: Tensor) -> Tensor:
    """log q(z) / prod_d q(z_d) as a discriminator sees it, mean over the batch (Kim and Mnih 2018, Eq. 3).

    Args:
        logits: (N, 2), of codes as they are and of shuffled ones.

    Returns:
        Scalar in nats, of any sign.
    """
    joint, product = (logits if logits.dtype == torch.float64 else logits.float()).unbind(1)  # 16 bits would round it
    return (joint - product).mean()


def permutation_discriminator(logits: Tensor, shuffled_logits: Tensor) -> Tensor:
    """Cross-entropy of codes with class 0 and of shuffled ones with class 1, half of each (Kim and Mnih 2018, Alg. 2).

    Args:
        logits: (N, 2) of codes.
        shuffled_logits: (M, 2) of codes whose coordinates were shuffled.

    Returns:
        Scalar >= 0 in nats; log 2 where it knows nothing.
    """
    first = logits.new_zeros(len(logits), dtype=torch.long)
    second = logits.new_ones(len(shuffled_logits), dtype=torch.long)
    return 0.5 * (cross_entropy(logits, first) + cross_entropy(shuffled_logits, second))


def covariance(mu: Tensor) -> Tensor:
    """Covariance of a batch with divisor N, (N, D) to (D, D)."""
    centred = mu - mu.mean(0)
    return centred.T @ centred / len(mu)


def dip(cov: Tensor, lambda_od: float, lambda_d: float) -> Tensor:
    """Distance of a covariance from the identity (Kumar et al. 2018, Eq. 6 and 7).

    Args:
        cov: (D, D): of means for DIP-VAE-I; with the mean of variances added to its diagonal for DIP-VAE-II.
        lambda_od: weight of what is off the diagonal.
        lambda_d: weight of the diagonal's distance from 1.

    Returns:
        Scalar >= 0, a sum over entries.
    """
    diagonal = cov.diagonal()
    off = cov - torch.diag(diagonal)
    return lambda_od * off.square().sum() + lambda_d * (diagonal - 1).square().sum()
