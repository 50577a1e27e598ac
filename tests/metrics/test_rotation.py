import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from metrics.active_units import kl_from_prior
from metrics.rotation import (
    among,
    expected_loss,
    full_rate,
    generator_of,
    kl_to_rotated,
    random_rotation,
    rate_change,
    rotated_covariance,
    same_precisions,
    same_variances,
    turn,
)

QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
DIAGONALS = [same_variances, same_precisions]


def draws(n=6, size=5, seed=0):
    """Means, variances and a rotation."""
    rng = torch.Generator().manual_seed(seed)
    mu, logvar = torch.randn(2, n, size, generator=rng, dtype=torch.float64)
    return mu, (1.5 * logvar).exp(), random_rotation(size, rng)


def close(a, b, atol=1e-10):
    b = torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_the_rate_of_the_full_covariance_does_not_know_the_rotation():
    mu, variance, rotation = draws()
    covariance = rotated_covariance(variance, rotation)
    close(full_rate(mu @ rotation.T, covariance), kl_from_prior(mu, variance.log()).sum(1))
    prior = MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    close(full_rate(mu, covariance), kl_divergence(MultivariateNormal(mu, covariance), prior))


def test_the_diagonals_are_those_of_the_covariance_and_of_its_inverse():
    _, variance, rotation = draws()
    covariance = rotated_covariance(variance, rotation)
    brute = torch.stack([rotation @ torch.diag(each) @ rotation.T for each in variance])
    close(covariance, brute)
    close(same_variances(variance, rotation), covariance.diagonal(dim1=1, dim2=2))
    close(1 / same_precisions(variance, rotation), covariance.inverse().diagonal(dim1=1, dim2=2), 1e-9)


@pytest.mark.parametrize("diagonal_of", DIAGONALS)
def test_rate_and_divergence_are_those_of_torchs_distributions(diagonal_of):
    mu, variance, rotation = draws()
    covariance, diagonal = rotated_covariance(variance, rotation), diagonal_of(variance, rotation)
    full, ours = MultivariateNormal(mu, covariance), MultivariateNormal(mu, diagonal.diag_embed())
    close(kl_to_rotated(diagonal, variance, rotation), kl_divergence(ours, full), 1e-9)
    change = kl_from_prior(mu, diagonal.log()).sum(1) - full_rate(mu, covariance)
    close(rate_change(diagonal, variance), change)
    close(expected_loss(diagonal, variance, rotation), kl_divergence(ours, full), 1e-9)


def test_hadamard_lowers_the_rate_of_the_variances_and_the_precisions_lose_least():
    for seed in range(20):
        _, variance, rotation = draws(seed=seed)
        covariance = rotated_covariance(variance, rotation)
        logdet = torch.logdet(covariance)
        moments, precisions = (diagonal_of(variance, rotation) for diagonal_of in DIAGONALS)
        close(rate_change(moments, variance), -0.5 * (moments.log().sum(1) - logdet), 1e-9)
        assert (rate_change(moments, variance) < -1e-3).all()
        least = kl_to_rotated(precisions, variance, rotation)
        close(least, 0.5 * (logdet - precisions.log().sum(1)), 1e-9)
        assert (least > 1e-3).all()
        assert (kl_to_rotated(moments, variance, rotation) > least).all()
        for step in (-1e-3, 1e-3):  # nothing near it is nearer
            assert (kl_to_rotated(precisions * (1 + step), variance, rotation) > least).all()


def test_two_coordinates_at_45_degrees_have_the_closed_form():
    variance, rotation = torch.tensor([[0.04, 0.36]], dtype=torch.float64), turn(QUARTER, math.pi / 4)
    # Both variances become their mean, both precisions the mean of 25 and 25 / 9.
    close(same_variances(variance, rotation), [[0.2, 0.2]])
    close(same_precisions(variance, rotation), [[0.072, 0.072]])
    close(rate_change(same_variances(variance, rotation), variance), [-math.log(0.2 / 0.12)])
    loss = kl_to_rotated(same_precisions(variance, rotation), variance, rotation)
    close(loss, [math.log(0.12 / 0.072)])


@pytest.mark.parametrize("diagonal_of", DIAGONALS)
def test_nothing_is_lost_without_a_turn_or_by_a_round_posterior(diagonal_of):
    _, variance, rotation = draws()
    still = torch.eye(5, dtype=torch.float64)
    for s, u in ((variance, still), (torch.full((3, 5), 0.3, dtype=torch.float64), rotation)):
        diagonal = diagonal_of(s, u)
        close(diagonal, s)
        close(rate_change(diagonal, s), torch.zeros(len(s)))
        close(expected_loss(diagonal, s, u, beta=4.0), torch.zeros(len(s)))


@pytest.mark.parametrize("diagonal_of", DIAGONALS)
def test_the_loss_of_a_beta_vae_is_that_of_its_quadratic_decoder(diagonal_of):
    # Of distortion 0.5 tr(H C) + beta rate the best covariance has the precision I + H / beta.
    _, variance, rotation = draws()
    beta, variance = 4.0, variance / (1 + variance)  # below 1, so that H is positive
    hessian = rotation @ (beta * (1 / variance - 1)).diag_embed() @ rotation.T
    diagonal, covariance = diagonal_of(variance, rotation), rotated_covariance(variance, rotation)
    distortions = [0.5 * (hessian @ c).diagonal(dim1=1, dim2=2).sum(1) for c in (diagonal.diag_embed(), covariance)]
    rates = [full_rate(torch.zeros_like(variance), c) for c in (diagonal.diag_embed(), covariance)]
    change = distortions[0] - distortions[1] + rates[0] - rates[1]
    close(expected_loss(diagonal, variance, rotation, beta), change, 1e-8)
    assert (change > 0).all()


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_the_path_begins_at_rest_and_passes_through_its_rotation(size):
    rotation = random_rotation(size, torch.Generator().manual_seed(size))
    close(rotation @ rotation.T, torch.eye(size))
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    generator = generator_of(rotation)
    close(generator, -generator.T, 0)
    assert float(generator.square().sum()) == pytest.approx(2 * (size // 2)), "the mean square angle of a plane is 1"
    close(turn(generator, 0.0), torch.eye(size), 0)
    angles = torch.linalg.eigvals(rotation).angle()
    close(turn(generator, float((angles.square().sum() / (2 * (size // 2))).sqrt())), rotation, 1e-9)


def test_a_generator_turns_its_own_plane_by_the_angle_and_no_other():
    generator = generator_of(turn(QUARTER, 0.3))
    close(generator, QUARTER)
    whole = turn(among(generator, torch.tensor([3, 1]), 4), math.pi / 6)
    expected = torch.eye(4, dtype=torch.float64)
    expected[3, 3] = expected[1, 1] = math.sqrt(0.75)
    expected[3, 1], expected[1, 3] = -0.5, 0.5
    close(whole, expected)


def test_two_planes_that_turn_alike_have_one_logarithm():
    planes = torch.block_diag(turn(QUARTER, 0.7), turn(QUARTER, 0.7))
    basis = random_rotation(4, torch.Generator().manual_seed(3))
    rotation = basis @ planes @ basis.T
    close(turn(generator_of(rotation), 0.7), rotation, 1e-9)


def test_random_rotations_have_no_favourite_direction():
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(3, rng) for _ in range(2000)])
    # Entries of the Haar measure have mean 0 and mean square 1 / D, deviations 0.013 and 0.007 of 2000 draws.
    assert drawn.mean(0).abs().max() < 0.06
    assert (drawn.square().mean(0) - 1 / 3).abs().max() < 0.03


@pytest.mark.parametrize(
    ("rotation", "words"),
    [
        (torch.eye(3, dtype=torch.float64), "turns nothing"),
        (torch.diag(torch.tensor([1.0, 1.0, -1.0])).double(), "reflection"),
        (torch.diag(torch.tensor([1.0, -1.0, -1.0])).double(), "turns by half"),
        (2 * torch.eye(3, dtype=torch.float64), "must be orthogonal"),
    ],
)
def test_what_has_no_path_is_refused(rotation, words):
    with pytest.raises(ValueError, match=words):
        generator_of(rotation)


def test_one_coordinate_does_not_turn():
    with pytest.raises(ValueError, match="2 coordinates or more"):
        random_rotation(1, torch.Generator())
