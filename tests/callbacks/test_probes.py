import pytest
import torch

from callbacks.probes import Probes, in_order, in_parts
from tests.callbacks.toy import ddp_options, toy_trainer
from tests.ddp import run_ddp


def test_first_images_are_kept_and_no_more():
    trainer, probes = toy_trainer("."), Probes(3)
    for first in (0, 2, 4):
        column = torch.arange(first, first + 2.0)[:, None]
        probes.add(trainer, column, -column)
    a, b = probes.share()
    assert a.flatten().tolist() == [0, 1, 2]
    assert b.flatten().tolist() == [0, -1, -2]
    gathered = probes.gather(trainer)
    probes.add(trainer, torch.full((2, 1), 9.0), torch.full((2, 1), 9.0))
    assert probes.gather(trainer) is gathered
    assert torch.equal(gathered[0], a)


def test_no_image_is_no_column():
    assert Probes(3).gather(toy_trainer(".")) == ()


def test_kept_images_do_not_hold_their_batch():
    probes = Probes(1)
    probes.add(toy_trainer("."), torch.zeros(100, 3, 4, 4))
    assert probes._rows[0][0].untyped_storage().nbytes() == 3 * 4 * 4 * 4


def test_eight_rows_at_a_time():
    sizes = []

    def add(x, y):
        sizes.append(len(x))
        return x + y

    assert in_parts(add, torch.arange(19.0), torch.ones(19)).tolist() == list(range(1, 20))
    assert sizes == [8, 8, 3]


def _gather(rank, world, counts):
    trainer = toy_trainer(".", **ddp_options(world))
    trainer.strategy.setup_environment()
    results = []
    for images in counts:
        probes = Probes(4)
        for k in range(rank, images, world):
            probes.add(trainer, torch.tensor([[float(k)]]))
        shown = [column.flatten().tolist() for column in probes.gather(trainer)]
        results.append((in_order(trainer, list(range(rank, images, world))), shown))
    return results


@pytest.mark.ddp
def test_ranks_gather_in_the_order_of_one_process():
    counts = (0, 1, 3, 7)
    expected = [(list(range(n)), [list(range(n))[:4]] if n else []) for n in counts]
    assert run_ddp(_gather, counts) == [expected] * 2
