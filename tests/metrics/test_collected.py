import pytest
import torch
from torch.distributed import init_process_group

from metrics.collected import CollectedFeatures
from metrics.features.extractor import Features
from tests.ddp import run_ddp


def features(n=11):
    rng = torch.Generator().manual_seed(0)
    return Features(torch.randn(n, 4, generator=rng), torch.randn(n, 3, generator=rng))


def part(which):
    return Features(*(v[which] for v in features()))


def test_any_order_and_batch_size_gives_the_images_in_their_order():
    metric = CollectedFeatures(4, 3)
    for which in torch.randperm(11, generator=torch.Generator().manual_seed(1)).split(3):
        metric.update(part(which), which)
    metric.update(part(slice(0, 0)), torch.zeros(0, dtype=torch.int64))
    assert all(map(torch.equal, metric.compute(), features()))


def test_reset_forgets():
    metric = CollectedFeatures(4, 3)
    assert [v.shape for v in metric.compute()] == [(0, 4), (0, 3)]
    metric.update(features(), torch.arange(11))
    metric.reset()
    metric.update(part([7, 2]), torch.tensor([7, 2]))
    assert all(map(torch.equal, metric.compute(), part([2, 7])))


def test_half_precision_is_kept_as_float32():
    metric = CollectedFeatures(4, 3)
    metric.update(Features(*(v.bfloat16() for v in features())), torch.arange(11, dtype=torch.int32))
    assert all(v.dtype == torch.float32 for v in metric.compute())


def test_an_image_given_twice_is_refused():
    metric = CollectedFeatures(4, 3)
    metric.update(features(), torch.arange(11))
    metric.update(part([3, 5]), torch.tensor([3, 5]))
    with pytest.raises(ValueError, match=r"Image 3 was evaluated more than once \(2 repetitions in all\)"):
        metric.compute()


@pytest.mark.parametrize(("which", "index"), [(slice(0, 3), torch.arange(2)), (slice(0, 2), torch.arange(2)[None])])
def test_an_index_that_does_not_fit_is_refused(which, index):
    with pytest.raises(ValueError, match=r"Expected \(N, 4\), \(N, 3\) and an index \(N,\)"):
        CollectedFeatures(4, 3).update(part(which), index)


def _shard(rank, world, shares):
    init_process_group("gloo", rank=rank, world_size=world)
    metric = CollectedFeatures(4, 3)
    for which in shares[rank]:
        metric.update(part(which), torch.tensor(which))
    first = [v.clone() for v in metric.compute()]
    metric.reset()  # and again, as the next validation will
    for which in shares[rank]:
        metric.update(part(which), torch.tensor(which))
    assert all(map(torch.equal, metric.compute(), first))
    return [v.tolist() for v in first]


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("shares", [([[0, 2, 4], [6, 8, 10]], [[9], [1, 7], [5, 3]]), ([], [list(range(11))])])
def test_two_processes_equal_one(shares):
    first, second = run_ddp(_shard, shares)
    assert first == second == [v.tolist() for v in features()]
