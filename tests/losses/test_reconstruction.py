"""Distances by hand, and as the negative log likelihoods that they are."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Laplace, Normal

from losses.reconstruction import bernoulli_nll, gaussian_nll, l1, squared_error
from tests.hashed import hashed


def test_by_hand():
    assert l1(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 1.0]])).item() == 1.25
    x = torch.randn(2, 3, 4, 4)
    assert l1(x, x) == 0


def test_it_is_a_laplacian_up_to_a_constant():
    x, recon = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    nll = -Laplace(recon, torch.ones_like(recon)).log_prob(x).mean()
    torch.testing.assert_close(l1(recon, x), nll - math.log(2))


def test_gradients():
    x = torch.randn(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: l1(r, x), (x + 0.5).requires_grad_())


def test_likelihoods_are_torchs():
    logits, mean, logvar = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64).round()
    exact = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(bernoulli_nll(logits, x), exact)
    exact = -Normal(mean, (logvar / 2).exp()).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(gaussian_nll(mean, logvar, x), exact)
    unit = gaussian_nll(mean, torch.zeros_like(mean), x) - 8 * math.log(2 * math.pi)
    torch.testing.assert_close(squared_error(mean, x), 2 * unit)


def test_likelihoods_of_the_specification():
    x, r = (hashed((4, 1, 64, 64), 1000) + 1) / 2, 3 * hashed((4, 1, 64, 64), 1001)
    assert bernoulli_nll(r, x).item() == pytest.approx(4136.632750869708, rel=1e-12)
    assert squared_error(r.sigmoid(), x).item() == pytest.approx(751.6528792641158, rel=1e-12)
    # A head of tanh, tanh(r) / 2 + 1 / 2, is a sigmoid of 2 r; the recorded one was clipped at 1e-6.
    assert bernoulli_nll(2 * r, x).item() == pytest.approx(6721.816500994952, rel=1e-6)
