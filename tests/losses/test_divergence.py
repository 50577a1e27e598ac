"""KL of the code: its closed form against torch's divergence of distributions."""

import torch
from torch.distributions import Normal, kl_divergence

from losses.divergence import kl_normal, kl_normal_of_each, kl_unit_variance


def test_it_is_twice_the_divergence_of_one_unit():
    mu = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    exact = kl_divergence(Normal(mu, torch.ones_like(mu)), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(kl_unit_variance(mu), 2 * exact.mean())


def test_it_is_zero_only_at_the_prior():
    assert kl_unit_variance(torch.zeros(2, 3)) == 0
    assert kl_unit_variance(torch.tensor([[0.0, 2.0]])) == 2


def test_gradients():
    assert torch.autograd.gradcheck(kl_unit_variance, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


def test_kl_of_a_normal_sums_units_and_averages_images():
    mu, logvar = torch.randn(2, 3, 8, dtype=torch.float64)
    exact = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(kl_normal(mu, logvar), exact.sum(1).mean())
    torch.testing.assert_close(kl_normal_of_each(mu, logvar), exact.mean(0))
    assert kl_normal(torch.zeros(1, 8), torch.zeros(1, 8)) == 0
    assert torch.autograd.gradcheck(kl_normal, (mu.requires_grad_(), logvar.requires_grad_()))
