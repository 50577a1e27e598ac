import itertools

import numpy as np
import pytest
import torch

from datamodules.loaders import (
    DomainSampler,
    Key,
    UnpairedDataset,
    UnpairedSampler,
    batch_to_signed_unit,
    build_loader,
    each_domain_shard,
    placement,
    samples_of,
    to_signed_unit,
    unpadded_shard,
    unpaired_shard,
)
from interfaces.batch import UnpairedBatch

SIZES = [(1, 1), (1, 5), (7, 3), (3, 7), (8, 8), (10, 9), (16, 2), (2, 33)]
COMBINATIONS = list(itertools.product(SIZES, (1, 3, 4), (1, 2, 3)))


def sampler(sizes, batch=1, seed=0, iterations=0, rank=0, world=1):
    return UnpairedSampler(sizes, batch, seed, lambda: iterations, rank, world)


def epoch_of(sizes, batch, world, epoch=0, seed=0):
    """All samples of one epoch, over all ranks, by sample number."""
    length = len(sampler(sizes, batch, world=world))
    parts = [sampler(sizes, batch, seed, epoch * length // batch, r, world) for r in range(world)]
    return sorted(s for part in parts for s in part)


@pytest.mark.parametrize(("sizes", "batch", "world"), COMBINATIONS)
def test_epoch_shows_whole_larger_domain_and_balances_the_smaller(sizes, batch, world):
    length = -(-max(sizes) // (batch * world)) * batch * world
    balance = np.zeros(min(sizes), int)
    larger = int(sizes[1] > sizes[0])
    for epoch in range(3):
        samples = epoch_of(sizes, batch, world, epoch)
        assert [q for q, _, _ in samples] == list(range(epoch * length, (epoch + 1) * length))  # ranks are disjoint
        columns = np.array(samples)[:, 1:]
        seen = np.bincount(columns[:, larger], minlength=max(sizes))
        assert seen.min() >= 1
        assert seen.max() - seen.min() <= 1
        if sizes[0] != sizes[1]:
            balance += np.bincount(columns[:, 1 - larger], minlength=min(sizes))
            assert balance.max() - balance.min() <= 1


def test_order_is_reproducible_new_in_each_epoch_and_decided_by_the_seed():
    first = epoch_of((50, 50), 5, 1)
    assert first == epoch_of((50, 50), 5, 1)
    orders = [first, epoch_of((50, 50), 5, 1, epoch=1), epoch_of((50, 50), 5, 1, seed=1)]
    for column in (1, 2):
        assert len({tuple(s[column] for s in order) for order in orders}) == 3


def test_orders_of_the_domains_are_independent():
    i, j = np.array([s[1:] for e in range(40) for s in epoch_of((50, 50), 5, 1, epoch=e)]).T
    assert abs(np.corrcoef(i, j)[0, 1]) < 0.08  # 2000 pairs: standard deviation 0.022
    pairs = {(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    assert len(pairs) > 1200  # of 2500 pairs, 2000 draws hit 1377 on average; a fixed pairing would hit 50


@pytest.mark.parametrize(("sizes", "batch", "world"), [((7, 3), 2, 1), ((5, 11), 3, 2), ((6, 6), 2, 1)])
def test_resume_at_any_iteration_continues_the_same_stream(sizes, batch, world):
    for rank in range(world):
        per_epoch = len(sampler(sizes, batch, world=world)) // batch
        stream = [s for e in range(4) for s in sampler(sizes, batch, 3, e * per_epoch, rank, world)]
        for iterations in range(2 * per_epoch):
            resumed = list(sampler(sizes, batch, 3, iterations, rank, world))
            assert resumed == stream[iterations * batch :][: len(resumed)]
            assert len(resumed) == per_epoch * batch


@pytest.mark.parametrize("rank", [0, 1])
def test_samples_of_an_iteration_are_those_that_the_sampler_gives(rank):
    given = [list(sampler((7, 3), 2, seed=4, iterations=k, rank=rank, world=2))[:2] for k in range(9)]
    stream = list(sampler((7, 3), 2, seed=4, rank=rank, world=2))
    assert [samples_of(k, (7, 3), 2, 4, rank, 2) for k in range(9)] == given
    assert given[0] + given[1] == stream[:4]


def test_position_is_asked_at_every_iter():
    finished = 0
    order = UnpairedSampler((4, 4), 2, 0, lambda: finished)
    assert [q for q, _, _ in order] == [0, 1, 2, 3]
    finished = 2
    assert [q for q, _, _ in order] == [4, 5, 6, 7]


def test_sampler_refuses_an_empty_domain():
    with pytest.raises(ValueError, match="both domains"):
        sampler((0, 3))


def draw(index: int, key: Key) -> torch.Tensor:
    return torch.tensor([index, *np.random.default_rng(key).integers(0, 256, 3).tolist()])


@pytest.mark.parametrize("iterations", [0, 3])
def test_samples_do_not_depend_on_the_number_of_workers_nor_on_global_state(iterations):
    def batches(num_workers: int) -> list[UnpairedBatch]:
        data = UnpairedDataset(draw, draw, seed=5)
        loader = build_loader(data, sampler((9, 4), 2, 5, iterations), 2, num_workers, seed=5)
        return list(loader)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    plain = batches(0)
    assert torch.equal(before, torch.get_rng_state())
    assert len(plain) == 5
    assert all(isinstance(batch, UnpairedBatch) and batch.a.shape == (2, 4) for batch in plain)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    for one, two in zip(plain, batches(2), strict=True):
        assert torch.equal(one.a, two.a)
        assert torch.equal(one.b, two.b)
    drawn = torch.cat([torch.cat([batch.a, batch.b]) for batch in plain])[:, 1:]
    assert len(drawn.unique(dim=0)) == 20  # each sample and domain draws for itself


@pytest.mark.parametrize(("n", "world"), [(1, 1), (7, 2), (8, 3), (5, 5)])
def test_shards_hold_every_image_once(n, world):
    shards = [unpadded_shard(n, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*shards)) == list(range(n))


def test_shard_refuses_a_process_without_images():
    with pytest.raises(ValueError, match=r"2 image\(s\) for 3 processes"):
        unpadded_shard(2, 0, 3)


def test_unpaired_shard_repeats_the_smaller_domain():
    assert unpaired_shard((2, 5), 0, 1) == [(0, 0, 0), (1, 1, 1), (2, 0, 2), (3, 1, 3), (4, 0, 4)]
    assert unpaired_shard((2, 5), 1, 2) == [(1, 1, 1), (3, 1, 3)]


def test_signed_unit_is_exact_at_the_ends_and_leaves_floats_alone():
    x = torch.arange(256, dtype=torch.uint8)
    y = to_signed_unit(x)
    assert y.dtype == torch.float32
    assert (y[0], y[255]) == (-1, 1)
    assert torch.equal(((y + 1) * 127.5).round().to(torch.uint8), x)
    assert to_signed_unit(y) is y
    batch = batch_to_signed_unit(UnpairedBatch(x, y))
    assert isinstance(batch, UnpairedBatch)
    assert torch.equal(batch.a, batch.b)


class FakeTrainer:
    global_rank, world_size = 1, 2

    def __init__(self, replaces: bool) -> None:
        self._accelerator_connector = type("Connector", (), {"use_distributed_sampler": replaces})


def test_placement_refuses_a_trainer_that_would_shard_again():
    assert placement(None) == (0, 1)
    assert placement(FakeTrainer(False)) == (1, 2)
    with pytest.raises(ValueError, match="use_distributed_sampler to false"):
        placement(FakeTrainer(True))


def domains_epoch(sizes, batch, world, policy="balanced", epoch=0, seed=0):
    """All samples of one epoch, one list a rank."""
    length = len(DomainSampler(sizes, batch, seed, lambda: 0, 0, world)) // (batch * len(sizes))
    each = [DomainSampler(sizes, batch, seed, lambda: epoch * length, r, world, policy) for r in range(world)]
    return [list(one) for one in each]


@pytest.mark.parametrize(
    ("sizes", "batch", "world"), [((5, 3), 2, 1), ((7, 7, 2), 2, 2), ((1, 2, 3, 4, 5, 6, 7, 8), 3, 3)]
)
def test_balanced_batches_have_as_many_of_each_domain_and_an_epoch_shows_the_largest_whole(sizes, batch, world):
    ranks = domains_epoch(sizes, batch, world)
    for samples in ranks:
        for k in range(0, len(samples), batch * len(sizes)):
            domains = [d for _, d, _ in samples[k : k + batch * len(sizes)]]
            assert sorted(domains) == np.repeat(range(len(sizes)), batch).tolist()
    firsts = {samples[k][1] for samples in ranks for k in range(0, len(samples), batch * len(sizes))}
    assert len(firsts) > 1 or len(sizes) * world < 3  # no domain always has the same rows
    numbers = [q for samples in ranks for q, _, _ in samples]
    assert sorted(numbers) == list(range(len(numbers)))  # ranks are disjoint
    for domain, size in enumerate(sizes):
        seen = np.bincount([i for samples in ranks for _, d, i in samples if d == domain], minlength=size)
        assert len(seen) == size
        assert seen.max() - seen.min() <= 1
        if size == max(sizes):
            assert seen.min() >= 1


def test_two_balanced_domains_are_those_of_unpaired_sampling():
    (domains,) = domains_epoch((9, 4), 3, 1)
    unpaired = list(sampler((9, 4), 3))
    for domain in (0, 1):
        assert [i for _, d, i in domains if d == domain] == [sample[1 + domain] for sample in unpaired]


@pytest.mark.parametrize(
    ("policy", "expected"), [("uniform", (1 / 3, 1 / 3, 1 / 3)), ("proportional", (0.1, 0.3, 0.6))]
)
def test_drawn_domains_come_as_often_as_the_policy_says(policy, expected):
    ranks = domains_epoch((100, 300, 600), 5, 2, policy)
    assert not {q for q, _, _ in ranks[0]} & {q for q, _, _ in ranks[1]}
    samples = [sample for rank in ranks for sample in rank]
    shares = np.bincount([d for _, d, _ in samples]) / len(samples)
    assert np.abs(shares - expected).max() < 4 * (0.25 / len(samples)) ** 0.5
    assert all(0 <= i < (100, 300, 600)[d] for _, d, i in samples)
    assert len({(d, i) for _, d, i in samples}) > 600


@pytest.mark.parametrize("policy", ["balanced", "uniform", "proportional"])
def test_a_sampler_of_domains_goes_on_from_any_iteration(policy):
    one = DomainSampler((5, 2, 3), 2, 0, lambda: 0, 1, 2, policy)
    later = DomainSampler((5, 2, 3), 2, 0, lambda: 1, 1, 2, policy)
    assert list(one)[6:] == list(later)[: len(one) - 6]
    assert list(one.iteration(1)) == list(later)[:6]


def test_a_sampler_of_domains_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="images in every domain"):
        DomainSampler((5, 0), 2, 0, lambda: 0)
    with pytest.raises(ValueError, match="sampling is 'fair': give one of balanced, uniform, proportional"):
        DomainSampler((5, 2), 2, 0, lambda: 0, policy="fair")


def test_evaluation_rows_of_domains_have_each_image_of_the_largest_once():
    assert each_domain_shard((2, 5, 3), 0, 2) == [(0, 0, 0), (0, 2, 2), (0, 4, 1)]
    assert each_domain_shard((2, 5, 3), 1, 2) == [(1, 1, 1), (1, 3, 0)]
