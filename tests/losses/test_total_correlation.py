"""Total correlation against triple loops, known cases and the numbers of the specification."""

import math

import pytest
import torch
from torch.distributions import Normal

from losses.divergence import kl_normal
from losses.total_correlation import (
    covariance,
    decompose,
    density_ratio,
    dip,
    log_densities,
    permutation_discriminator,
    stratified_sampling,
    total_correlation,
    weighted_sampling,
)
from tests.hashed import hashed

SIZE = 737280  # images in dSprites


@pytest.fixture
def codes():
    mu, logvar, eps = hashed((16, 10), 2001), hashed((16, 10), 2002) - 1, hashed((16, 10), 2003)
    return mu + (logvar / 2).exp() * eps, mu, logvar


def test_numbers_of_the_specification(codes):
    z, mu, logvar = codes
    assert kl_normal(mu, logvar).item() == pytest.approx(4.035418820198382, rel=1e-12)
    assert total_correlation(z, mu, logvar).item() == pytest.approx(-22.681978756476536, rel=1e-12)
    mws = decompose(z, mu, logvar, weighted_sampling(16, SIZE, z))
    assert [term.item() for term in mws] == pytest.approx([16.213339232516255, 123.86782690216747, -134.1263579313026])
    mss = decompose(z, mu, logvar, stratified_sampling(16, SIZE, z))
    assert [term.item() for term in mss] == pytest.approx([2.698205040723174, 2.167218350273838, 1.08938481238414])
    first, second = covariance(mu), covariance(mu) + torch.diag(logvar.exp().mean(0))
    assert dip(first, 10, 100).item() == pytest.approx(450.2157747291375, rel=1e-12)
    assert dip(second, 10, 10).item() == pytest.approx(13.87771394882921, rel=1e-12)


def test_densities_are_torchs(codes):
    z, mu, logvar = codes
    each = log_densities(z, mu, logvar)
    for j, i, d in ((0, 0, 0), (3, 7, 9), (15, 2, 4)):
        assert each[j, i, d].item() == pytest.approx(
            Normal(mu[i, d], (logvar[i, d] / 2).exp()).log_prob(z[j, d]).item()
        )


@pytest.mark.parametrize("weights", [weighted_sampling, stratified_sampling])
def test_a_decomposition_is_that_of_triple_loops(codes, weights):
    """A published code adds the weight of the joint density once for each coordinate: that gives -31.7, not 5.9."""
    z, mu, logvar = (each[:5, :3] for each in codes)
    log_w = weights(5, 40, z)
    mi = tc = dwkl = 0.0
    for j in range(5):
        normals = [
            [Normal(mu[i, d], (logvar[i, d] / 2).exp()).log_prob(z[j, d]).item() for d in range(3)] for i in range(5)
        ]
        w = [math.exp(log_w[j, i]) for i in range(5)]
        log_qz = math.log(sum(w[i] * math.exp(sum(normals[i])) for i in range(5)))
        log_product = sum(math.log(sum(w[i] * math.exp(normals[i][d]) for i in range(5))) for d in range(3))
        log_pz = sum(-0.5 * z[j, d].item() ** 2 - 0.5 * math.log(2 * math.pi) for d in range(3))
        mi += (sum(normals[j]) - log_qz) / 5
        tc += (log_qz - log_product) / 5
        dwkl += (log_product - log_pz) / 5
    assert [term.item() for term in decompose(z, mu, logvar, log_w)] == pytest.approx([mi, tc, dwkl])


def test_the_constant_that_training_leaves_out_has_no_gradient(codes):
    z, mu, logvar = (each.clone().requires_grad_() for each in codes)
    whole = decompose(z, mu, logvar, weighted_sampling(16, SIZE, z)).tc
    short = total_correlation(z, mu, logvar)
    assert (whole - short).item() == pytest.approx(9 * math.log(16 * SIZE))
    for one, two in zip(
        torch.autograd.grad(whole, (z, mu, logvar)), torch.autograd.grad(short, (z, mu, logvar)), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_parts_add_up_to_a_sample_of_the_kl(codes):
    z, mu, logvar = codes
    log_ratio = log_densities(z, mu, logvar).diagonal().sum(0) - Normal(0.0, 1.0).log_prob(z).sum(1)
    for weights in (weighted_sampling, stratified_sampling):
        assert sum(decompose(z, mu, logvar, weights(16, SIZE, z))).item() == pytest.approx(log_ratio.mean().item())


def test_stratified_weights():
    """Four images of a hundred; that one row has no 1 / size is the authors' layout."""
    left = (100 - 3) / (100 * 3)
    expected = [[1 / 100, left, 1 / 3, 1 / 3]] * 4
    expected[2] = [left, left, 1 / 3, 1 / 3]
    weights = stratified_sampling(4, 100, torch.zeros(1, dtype=torch.float64)).exp()
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 1.3133333, 1])
    with pytest.raises(ValueError, match="batch of 2 to 100 images, of as many as the data has, not 101"):
        stratified_sampling(101, 100, torch.zeros(1))


def test_independent_coordinates_have_no_total_correlation_and_copies_have_much():
    rng = torch.Generator().manual_seed(0)
    mu = torch.randn(512, 2, generator=rng, dtype=torch.float64)
    tight = torch.full((512, 2), -3.0, dtype=torch.float64)
    draw = torch.randn(512, 2, generator=rng, dtype=torch.float64)
    values = []
    for means in (mu, mu[:, :1].expand(-1, 2)):
        z = means + (tight / 2).exp() * draw
        values.append(decompose(z, means, tight, weighted_sampling(512, 1, z)).tc.item())
    assert abs(values[0]) < 0.25  # a bias of so few images
    assert values[1] > 1.2


def test_what_a_discriminator_says():
    right, blind = torch.tensor([[9.0, -9.0]]), torch.zeros(3, 2)
    assert density_ratio(right).item() == 18
    assert permutation_discriminator(right, -right).item() < 1e-6
    assert permutation_discriminator(blind, blind[:2]).item() == pytest.approx(math.log(2))
    assert permutation_discriminator(right, right).item() == pytest.approx(9, rel=1e-3)  # half of 18


def test_covariances():
    mu = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(covariance(mu), torch.cov(mu.T, correction=0))
    assert dip(torch.eye(3), 5, 7) == 0
    assert dip(torch.tensor([[3.0, 2.0], [2.0, 1.0]]), 10, 1) == 10 * 8 + 4
    assert torch.autograd.gradcheck(lambda mu: dip(covariance(mu), 2.0, 3.0), mu.requires_grad_())
