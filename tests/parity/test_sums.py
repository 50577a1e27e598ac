"""Which first gradients float32 cannot tell, and that no others are let through."""

import pytest
import torch

from benchmarks.parity.rules import Line
from benchmarks.parity.sums import ROUNDING, Sums

NAME = "opt:net.bias"


def backward(excess: float) -> tuple[Sums, torch.Tensor]:
    """The gradient of a convolution's bias: 1 and -1 in turns over 64 x 64 places, and a little more."""
    conv = torch.nn.Conv2d(1, 1, 1).double()
    signs = torch.ones(64, 64, dtype=torch.float64)
    signs[::2] = -1
    weights = signs + excess / 4096
    with Sums() as sums:
        (conv(torch.zeros(1, 1, 64, 64, dtype=torch.float64)) * weights).sum().backward()
    return sums, conv.bias.grad


def test_the_limit_is_what_one_rounding_of_each_number_does(capsys):
    sums, gradient = backward(1.0)
    assert gradient.item() == pytest.approx(1)
    line = Line(f"first gradient {NAME}", 2e-4, 1e-4)
    (shown,) = sums.shown([line], {NAME: gradient})
    assert shown.ok
    assert shown.limit == pytest.approx(4096 * ROUNDING)
    assert "4096 times as large" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        Line(f"first gradient {NAME}", 3e-4, 1e-4),  # more than rounding
        Line(f"first gradient {NAME}", float("nan"), 1e-4),
        Line("first gradient opt:net.other", 2e-4, 1e-4),
        Line(f"after1 {NAME}", 2e-4, 1e-4),
    ],
)
def test_anything_else_stays_over_its_limit(capsys, line):
    sums, gradient = backward(1.0)
    gradients = {NAME: gradient, "opt:net.other": torch.ones(1, dtype=torch.float64) * 2}
    assert sums.shown([line], gradients) == [line]
    assert not capsys.readouterr().out


def test_a_sum_that_does_not_cancel_is_told_by_float32():
    sums, gradient = backward(400.0)
    assert sums.of(gradient) == 0
    line = Line(f"first gradient {NAME}", 2e-4, 1e-4)
    assert sums.shown([line], {NAME: gradient}) == [line]


def test_sums_of_any_function_are_seen():
    bias = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(1, 2, 64, 64, dtype=torch.float64)
    weights[:, :, ::2] = -1
    weights += 1 / 4096
    with Sums() as sums:
        ((torch.zeros(1, 2, 64, 64, dtype=torch.float64) + bias) * weights).sum().backward()
    assert sums.of(bias.grad) == pytest.approx(4096)
