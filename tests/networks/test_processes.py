"""What processes know of each other: nothing changes in one, and gradients in two are those of the whole batch."""

import pytest
import torch
from torch.distributed import init_process_group

from networks.processes import mean_over_processes, processes, rows_of_all
from tests.ddp import run_ddp


def test_one_process_holds_everything():
    x = torch.randn(3)
    assert processes() == 1
    assert mean_over_processes(x) is x
    assert rows_of_all(x) is x


def on_a_rank(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    init_process_group("gloo")
    x = torch.arange(12, dtype=torch.float64).view(2, 3, 2)[rank].T.requires_grad_()  # not contiguous
    rows = rows_of_all(x)
    objective = rows.prod(0).square().sum()  # no mean over rows
    mean = mean_over_processes(x.sum())
    (objective + mean).backward()
    return rows.detach(), mean.detach(), x.grad


@pytest.mark.ddp
def test_two_processes_hold_all_rows_and_gradients_go_back_to_both():
    (first, mean, grad), (second, other_mean, other_grad) = run_ddp(on_a_rank)
    whole = torch.cat([part.T for part in torch.arange(12, dtype=torch.float64).view(2, 3, 2)]).requires_grad_()
    assert torch.equal(first, whole)
    assert torch.equal(second, whole)
    assert mean == other_mean == whole.sum() / 2
    (2 * whole.prod(0).square().sum() + whole.sum()).backward()  # each of two processes asks for both
    torch.testing.assert_close(torch.cat((grad, other_grad)), whole.grad)
