"""Domain-invariant perceptual distance: what it ignores, what it sees, and its value by hand."""

import torch
from torch import nn

from losses.perceptual import domain_invariant_perceptual


def test_it_ignores_mean_and_scale_of_each_feature_map():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    scale, shift = torch.rand(2, 2, 3, 1, 1, dtype=torch.float64)
    distance = domain_invariant_perceptual(lambda x: 1e3 * x, (scale + 0.5) * x + shift, x)
    assert distance < 1e-8


def test_it_sees_the_layout():
    x = torch.randn(2, 3, 8, 8)
    assert domain_invariant_perceptual(lambda x: x, x.flip(-1), x) > 0.5


def test_by_hand():
    x = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)  # zero mean and unit variance already, but for eps
    torch.testing.assert_close(domain_invariant_perceptual(lambda x: x, x, -x), torch.tensor(4.0), rtol=1e-4, atol=0)


def test_gradients_reach_both_images():
    torch.manual_seed(0)
    features = nn.Conv2d(3, 4, 3).double()
    images = torch.randn(2, 1, 3, 5, 5, dtype=torch.float64)
    x_ab, x_a = (x.requires_grad_() for x in images.unbind())
    assert torch.autograd.gradcheck(lambda a, b: domain_invariant_perceptual(features, a, b), (x_ab, x_a))
