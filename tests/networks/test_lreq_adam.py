"""ALAE's optimizer against its formula in plain Python, and what a gradient that is missing does."""

import copy
import math

import pytest
import torch
from torch import nn

from networks.lreq_adam import LREQAdam
from tests.hashed import hashed


def parameter(k: int = 5) -> nn.Parameter:
    return nn.Parameter(hashed((3,), k))


def stepped(opt: LREQAdam, *gradients: tuple[nn.Parameter, torch.Tensor | None]) -> None:
    for p, g in gradients:
        p.grad = g
    opt.step()


def by_formula(p: float, gradients: list[float], rate: float, lr: float = 0.002, eps: float = 1e-8) -> float:
    v = 0.0
    for t, g in enumerate(gradients, 1):
        v = 0.99 * v + 0.01 * g * g
        p -= lr * rate * math.sqrt(1 - 0.99**t) * g / (math.sqrt(v) + eps)
    return p


def test_three_steps_are_as_recorded():
    p = parameter()
    opt = LREQAdam([{"params": [p], "rate": 0.25}])
    for k in (10, 11, 12):
        stepped(opt, (p, hashed((3,), k)))
    expected = torch.tensor([-0.494211448303, -0.462614792741, 0.536902213077], dtype=torch.float64)
    torch.testing.assert_close(p.data, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9])
def test_epsilon_is_not_rescaled(scale):
    """Of gradients as small as epsilon it decides the step."""
    p, gradients = nn.Parameter(torch.tensor([0.3], dtype=torch.float64)), [1.0, -0.5, 0.25, 2.0]
    opt = LREQAdam([{"params": [p], "rate": 0.5}], lr=0.01)
    for g in gradients:
        stepped(opt, (p, torch.tensor([scale * g], dtype=torch.float64)))
    expected = by_formula(0.3, [scale * g for g in gradients], 0.5, 0.01)
    assert p.item() - 0.3 == pytest.approx(expected - 0.3, rel=1e-12)


def test_a_missing_gradient_is_zero_for_what_has_moved_and_nothing_for_what_has_not():
    p, never = parameter(), parameter()
    opt = LREQAdam([{"params": [p, never], "rate": 1.0}])
    for g in (1.0, None, 2.0):
        stepped(opt, (p, None if g is None else torch.full((3,), g, dtype=torch.float64)))
    assert p[0].item() == pytest.approx(by_formula(hashed((3,), 5)[0].item(), [1.0, 0.0, 2.0], 1.0), rel=1e-13)
    assert torch.equal(never.data, hashed((3,), 5))
    assert never not in opt.state
    stepped(opt, (p, None))
    assert p.grad is None


def test_rates_and_a_schedule_multiply():
    a, b = parameter(), parameter()
    opt = LREQAdam([{"params": [a], "rate": 0.1}, {"params": [b], "rate": 3.0}])
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 0.5**k)
    for k in range(2):
        stepped(opt, (a, hashed((3,), k)), (b, hashed((3,), k)))
        schedule.step()
    assert [group["lr"] for group in opt.param_groups] == [0.0005, 0.0005]
    assert [group["eps"] for group in opt.param_groups] == [1e-8, 1e-8]
    torch.testing.assert_close(b.data - hashed((3,), 5), 30 * (a.data - hashed((3,), 5)))


def test_state_is_saved_and_forgotten():
    p, q = parameter(), parameter()
    opt, other = LREQAdam([{"params": [p]}]), LREQAdam([{"params": [q]}])
    stepped(opt, (p, hashed((3,), 1)))
    q.data.copy_(p.data)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert other.param_groups[0]["t"] == 1
    stepped(opt, (p, hashed((3,), 2)))
    stepped(other, (q, hashed((3,), 2)))
    assert torch.equal(p.data, q.data)
    opt.forget()
    assert (dict(opt.state), opt.param_groups[0]["t"]) == ({}, 0)
    p.data.fill_(1.0)
    stepped(opt, (p, torch.full((3,), 2.0, dtype=torch.float64)))
    assert p[0].item() == pytest.approx(by_formula(1.0, [2.0], 1.0), rel=1e-13)


def test_a_step_that_is_not_finite_is_left_out():
    p = parameter()
    opt = LREQAdam([{"params": [p]}])
    opt.found_inf = torch.tensor(1.0)
    stepped(opt, (p, torch.full((3,), math.nan, dtype=torch.float64)))
    assert torch.equal(p.data, hashed((3,), 5))
    opt.found_inf = torch.tensor(0.0)
    stepped(opt, (p, hashed((3,), 1)))
    assert p[0].item() == pytest.approx(
        by_formula(hashed((3,), 5)[0].item(), [hashed((3,), 1)[0].item()], 1.0), rel=1e-9
    )


def test_it_is_fused_and_runs_a_closure_first():
    p = parameter()
    opt = LREQAdam([{"params": [p]}])
    assert opt.defaults["fused"]

    def closure():
        assert torch.is_grad_enabled()
        p.grad = hashed((3,), 1)
        return 7

    assert opt.step(closure) == 7
    assert not torch.equal(p.data, hashed((3,), 5))
