"""L1: by hand, and as the negative log likelihood of a Laplacian."""

import math

import torch
from torch.distributions import Laplace

from losses.reconstruction import l1


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
