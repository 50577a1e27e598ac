"""Which first gradients float32 cannot tell, and that no others are let through."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.parity import gradients
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
    line = Line(f"first gradient {NAME}", 4e-4, 1e-4)
    (shown,) = sums.shown([line], SimpleNamespace(gradients={NAME: gradient}))
    assert shown.ok
    assert shown.limit == pytest.approx(2 * 4096 * ROUNDING)
    assert "4096 times as large" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        Line(f"first gradient {NAME}", 5e-4, 1e-4),  # more than rounding
        Line(f"first gradient {NAME}", float("nan"), 1e-4),
        Line("first gradient opt:net.other", 2e-4, 1e-4),
        Line(f"after1 {NAME}", 2e-4, 1e-4),
    ],
)
def test_anything_else_stays_over_its_limit(capsys, line):
    sums, gradient = backward(1.0)
    known = {NAME: gradient, "opt:net.other": torch.ones(1, dtype=torch.float64) * 2}
    assert sums.shown([line], SimpleNamespace(gradients=known)) == [line]
    assert not capsys.readouterr().out


def test_a_sum_that_does_not_cancel_is_told_by_float32():
    sums, gradient = backward(400.0)
    assert sums.of(gradient) == 0
    line = Line(f"first gradient {NAME}", 2e-4, 1e-4)
    assert sums.shown([line], SimpleNamespace(gradients={NAME: gradient})) == [line]


def test_sums_of_any_function_are_seen():
    bias = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(1, 2, 64, 64, dtype=torch.float64)
    weights[:, :, ::2] = -1
    weights += 1 / 4096
    with Sums() as sums:
        ((torch.zeros(1, 2, 64, 64, dtype=torch.float64) + bias) * weights).sum().backward()
    assert sums.of(bias.grad) == pytest.approx(4096)


def test_results_on_either_side_of_float64_are_held_against_it(monkeypatch, capsys):
    """Each keeps the limit; one that does not, ours or the recorded one, stays over it."""
    true = torch.ones(4, dtype=torch.float64)
    case = SimpleNamespace(has=lambda _: True, tensors=lambda _: {NAME: (true * (1 - 6e-5)).float()})
    monkeypatch.setattr(gradients, "usable", lambda *_: torch.ones(4, dtype=torch.bool))
    double = SimpleNamespace(gradients={NAME: true})
    for off, distance in ((8e-5, 8e-5), (1.5e-4, 2.1e-4)):
        single = SimpleNamespace(gradients={NAME: (true * (1 + off)).float()})
        line = Line(f"first gradient {NAME}", off + 6e-5, 1e-4)
        (found,) = gradients.either_side([line], case, double, single)
        assert found.ok == (off < 1e-4)
        assert found.difference == pytest.approx(distance, rel=1e-2)
        assert found.limit == line.limit
    assert capsys.readouterr().out.count("from float64") == 1
    other = Line(f"after1 {NAME}", 2e-4, 1e-4)
    assert gradients.either_side([other], case, double, single) == [other]
