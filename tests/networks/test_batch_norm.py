"""Batch normalisation: as torch's in one process, of the whole batch in two, and what its running statistics forget."""

import pytest
import torch
from torch import nn

from networks.batch_norm import BatchNorm1d, BatchNorm2d, counted, only_finite_statistics
from tests.ddp import run_ddp

BOTH = pytest.mark.parametrize(
    ("ours", "theirs", "shape"), [(BatchNorm1d, nn.BatchNorm1d, (6, 3)), (BatchNorm2d, nn.BatchNorm2d, (6, 3, 2, 4))]
)


def layers(ours, theirs):
    """One of each with the same weights."""
    torch.manual_seed(0)
    a, b = ours(3).double(), theirs(3).double()
    nn.init.normal_(b.weight)
    nn.init.normal_(b.bias)
    a.load_state_dict(b.state_dict())
    return a, b


@BOTH
def test_one_process_is_torch(ours, theirs, shape):
    a, b = layers(ours, theirs)
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(a(x), b(x), rtol=0, atol=1e-14)
    a.eval()
    b.eval()
    torch.testing.assert_close(a(x), b(x), rtol=0, atol=1e-14)
    for name, value in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], value, rtol=0, atol=1e-14)


@BOTH
def test_a_pass_may_count_as_many(ours, theirs, shape):
    a, b = layers(ours, theirs)
    x, y = torch.randn(2, *shape, dtype=torch.float64)
    net = nn.Sequential(a)
    with counted(net, 5):
        net(x)
    net(y)
    for _ in range(5):
        b(x)
    b(y)
    for name, value in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], value, rtol=0, atol=1e-14)
    assert a.passes == 1


def test_what_is_not_finite_is_forgotten():
    net = nn.Sequential(BatchNorm2d(2))
    x = torch.randn(4, 2, 3, 3)
    with only_finite_statistics(net):
        net(x)
    mean, var = net[0].running_mean.clone(), net[0].running_var.clone()
    assert mean.abs().min() > 0
    y = x + 1
    y[0, 1, 0, 0] = float("nan")
    with only_finite_statistics(net):
        net(y)
    assert net[0].running_mean[1] == mean[1]
    assert net[0].running_var[1] == var[1]
    torch.testing.assert_close(net[0].running_mean[0], 0.9 * mean[0] + 0.1 * y[:, 0].mean())


def on_a_rank(rank: int, world: int, kind: type, shape: tuple[int, ...]) -> dict:
    """Output, running statistics and gradients of a loss that is a mean over rows; rows of each rank by turns."""
    if world > 1:
        torch.distributed.init_process_group("gloo")
    layer, _ = layers(kind, kind)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = x[rank::world].clone().requires_grad_()
    with counted(layer, 2):
        y = layer(mine)
    (y.square() * torch.arange(y[0].numel()).view(y[0].shape) + y.exp()).mean().backward()
    gradients = [layer.weight.grad, layer.bias.grad]
    for gradient in gradients:
        if world > 1:
            torch.distributed.all_reduce(gradient)
    return {
        "y": y.detach(),
        "x": mine.grad / world,
        "gradients": [gradient / world for gradient in gradients],
        "state": layer.state_dict(),
    }


@pytest.mark.ddp
@BOTH
def test_two_processes_normalise_the_whole_batch(ours, theirs, shape):
    alone = on_a_rank(0, 1, theirs_counted(theirs), shape)
    for rank, result in enumerate(run_ddp(on_a_rank, ours, shape)):
        torch.testing.assert_close(result["y"], alone["y"][rank::2], rtol=0, atol=1e-13)
        torch.testing.assert_close(result["x"], alone["x"][rank::2], rtol=0, atol=1e-13)
        torch.testing.assert_close(result["gradients"], alone["gradients"], rtol=0, atol=1e-13)
        torch.testing.assert_close(result["state"], alone["state"], rtol=0, atol=1e-13)


def theirs_counted(theirs: type) -> type:
    """Torch's layer, which sends a batch through twice where ours counts it twice."""

    class Twice(theirs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            super().forward(x)
            return super().forward(x)

    return Twice
