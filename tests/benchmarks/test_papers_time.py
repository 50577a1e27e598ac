"""The rows that only some machines have: each step in the precision of GPUs and of CPUs that know bf16."""

import copy

import pytest
import torch

from benchmarks.papers import PAPERS, Paper
from benchmarks.papers_time import ours
from benchmarks.timing import precision


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_both_orders_take_a_step_in_bf16(paper: Paper):
    size = paper.size or 64
    model, batch = paper.build(8, size), paper.batch(min(paper.images, 4), size)
    theirs = paper.released(copy.deepcopy(model), batch)
    with precision(torch.device("cpu"), bf16=True):
        expected = theirs()
    found = ours(model, batch, bf16=True)()
    found = found[: len(found) - paper.passed_on][-len(expected) :]
    torch.testing.assert_close(torch.stack(found).float(), torch.stack(expected).float(), rtol=0.1, atol=0.1)
