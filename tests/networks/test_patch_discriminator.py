"""Discriminators: the release's sizes, its layers as the reference, and the smallest image."""

import pytest
import torch

from benchmarks.released import unit as released_order
from networks.patch_discriminator import MultiScaleDiscriminator, PatchDiscriminator


def test_parameter_counts_are_the_releases():
    assert sum(p.numel() for p in PatchDiscriminator(3).parameters()) == 2_757_057
    assert sum(p.numel() for p in MultiScaleDiscriminator(3).parameters()) == 8_271_171


def test_one_score_map_a_scale():
    logits = MultiScaleDiscriminator(3, 2)(torch.randn(2, 3, 256, 128))
    assert [tuple(score.shape) for score in logits] == [(2, 1, 16, 8), (2, 1, 8, 4), (2, 1, 4, 2)]


@pytest.mark.parametrize("size", [(64, 64), (70, 93)])
@pytest.mark.parametrize("n", [1, 3])
def test_scores_are_those_of_the_releases_layers(size, n):
    torch.manual_seed(0)
    net = MultiScaleDiscriminator(3, 2).double()
    x = torch.randn(n, 3, *size, dtype=torch.float64, requires_grad=True)
    wanted = (x, *net.parameters())
    grads = []
    fast, plain = net(x), released_order.scores(net, x)
    for logits in (fast, plain):
        grads.append(torch.autograd.grad(sum(score.square().sum() for score in logits), wanted))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("layers", "scales"), [(4, 3), (2, 2), (3, 1)])
def test_smallest_is_the_smallest(layers, scales):
    net = MultiScaleDiscriminator(3, 2, layers, scales)
    smallest = net.smallest()
    assert all(score.isfinite().all() for score in net(torch.randn(1, 3, smallest, smallest)))
    with pytest.raises(RuntimeError):
        net(torch.randn(1, 3, smallest - 1, smallest - 1))
