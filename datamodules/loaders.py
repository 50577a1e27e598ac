"""How samples reach the device: order, seeds, shards and loaders shared by every DataModule.

Nothing here keeps a position. The order of training samples is a function of (seed, sample number),
and the sample number comes from the trainer's count of finished iterations, so a run that is killed
and resumed sees exactly the samples that an uninterrupted run would have seen.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from interfaces.batch import UnpairedBatch

Key = tuple[int, ...]
Policy = Literal["balanced", "uniform", "proportional"]
Batch = TypeVar("Batch", bound=NamedTuple)


class UnpairedSampler(Sampler[tuple[int, int, int]]):
    """Random indices into two domains of any sizes, from any position on.

    Yields ``(q, i, j)``: the global sample number, an index into domain a and one into domain b.

    An epoch holds the larger domain rounded up to whole global batches. The larger domain gets a new
    permutation per epoch and is seen whole in it; its last batch is filled from the start of the same
    permutation. The smaller domain is a stream of permutations joined end to end, so the counts of
    any two of its images differ by at most one at any time. The two orders are independent; domains
    of equal size are both treated as the larger. Rank r takes every ``world``-th sample from r on.

    Args:
        sizes: number of images in domain a and in domain b, both at least 1.
        batch: samples per rank and iteration.
        seed: at least 0; decides both orders.
        start: number of finished iterations, asked each time an iteration over the sampler begins.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, sizes: tuple[int, int], batch: int, seed: int, start: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        if min(sizes) < 1 or batch < 1:
            raise ValueError(
                f"Sampling needs images in both domains and a batch of 1 or more, not {sizes} and {batch}."
            )
        self.sizes, self.batch, self.seed, self.start = sizes, batch, seed, start
        self.rank, self.world = rank, world
        self.epoch_length = whole_batches(max(sizes), batch * world)
        self._orders = [Order(size, self.epoch_length if size == max(sizes) else size) for size in sizes]

    def __len__(self) -> int:
        """Samples per rank and epoch, a multiple of ``batch``."""
        return self.epoch_length // self.world

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """One epoch's number of samples, beginning at ``start()`` wherever in an epoch that is."""
        first = self.start() * self.batch
        for p in range(first, first + len(self)):
            q = p * self.world + self.rank
            yield q, self.index(0, q), self.index(1, q)

    def index(self, domain: int, q: int) -> int:
        """Image of ``domain`` (0 or 1) at global sample number ``q``."""
        return self._orders[domain].at(q, (self.seed, domain))


class DomainSampler(Sampler[tuple[int, int, int]]):
    """Random images of D domains of any sizes, from any position on.

    Yields ``(q, domain, index)``: the global sample number, a domain and an index into it. An iteration has D times
    ``batch`` samples a rank, whatever the policy:

    * ``balanced``: ``batch`` of each domain, domains in random order. The order of a domain's images is that of
      ``UnpairedSampler``: the larger domains are seen whole in an epoch, the smaller ones are streams of permutations
      joined end to end.
    * ``uniform``: each sample is of a domain drawn uniformly, and of an image drawn uniformly from it (MDMM's release).
    * ``proportional``: each sample is drawn uniformly from all images, so that larger domains come more often.

    An epoch is the largest domain rounded up to whole global batches, for all three. Ranks never share a sample.

    Args:
        sizes: number of images in each domain, at least 1 each.
        batch: samples of each domain per rank and iteration, on average where a policy draws domains.
        seed: at least 0; decides every order.
        start: number of finished iterations, asked each time an iteration over the sampler begins.
        rank: of this process.
        world: number of processes.
        policy: one of the above.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch: int,
        seed: int,
        start: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        policy: Policy = "balanced",
    ) -> None:
        if not sizes or min(sizes) < 1 or batch < 1:
            raise ValueError(
                f"Sampling needs images in every domain and a batch of 1 or more, not {sizes} and {batch}."
            )
        if policy not in get_args(Policy):
            raise ValueError(f"sampling is {policy!r}: give one of {', '.join(get_args(Policy))}.")
        self.sizes, self.batch, self.seed, self.start = tuple(sizes), batch, seed, start
        self.rank, self.world, self.policy = rank, world, policy
        self.epoch_length = whole_batches(max(sizes), batch * world)
        self._orders = [Order(size, self.epoch_length if size == max(sizes) else size) for size in sizes]
        self._ends = np.cumsum(sizes)

    def __len__(self) -> int:
        """Samples per rank and epoch, a multiple of ``batch`` times the number of domains."""
        return self.epoch_length // self.world * len(self.sizes)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """One epoch's number of samples, beginning at ``start()`` wherever in an epoch that is."""
        first = self.start()
        for iteration in range(first, first + len(self) // (self.batch * len(self.sizes))):
            yield from self.iteration(iteration)

    def iteration(self, iteration: int) -> Iterator[tuple[int, int, int]]:
        """The samples of this rank in one 0-based iteration."""
        # A paper that pairs the halves of a batch must not always pair the same domains.
        rng = np.random.default_rng((self.seed, iteration, self.rank, len(self.sizes)))
        row_of = [0] * len(self.sizes)  # how many rows each domain has had
        for domain in rng.permutation(np.repeat(np.arange(len(self.sizes)), self.batch)).tolist():
            place = (iteration * self.batch + row_of[domain]) * self.world + self.rank  # among samples of one domain
            row_of[domain] += 1
            q = place * len(self.sizes) + domain
            if self.policy == "balanced":
                yield q, domain, self._orders[domain].at(place, (self.seed, domain))
            else:
                yield q, *self._drawn(np.random.default_rng((self.seed, q)))

    def _drawn(self, rng: np.random.Generator) -> tuple[int, int]:
        if self.policy == "uniform":
            domain = int(rng.integers(len(self.sizes)))
            return domain, int(rng.integers(self.sizes[domain]))
        number = int(rng.integers(self._ends[-1]))
        domain = int(np.searchsorted(self._ends, number, side="right"))
        return domain, number - int(self._ends[domain]) + self.sizes[domain]


class ShuffledSampler(Sampler[tuple[int, int]]):
    """Random images of one set, ``(q, index)``, from any position on; an epoch is the set in whole global batches.

    Args:
        size: number of images, at least 1.
        batch: samples per rank and iteration.
        seed: at least 0; decides the order.
        start: number of finished iterations, asked each time an iteration over the sampler begins.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, size: int, batch: int, seed: int, start: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        if size < 1 or batch < 1:
            raise ValueError(f"Sampling needs images and a batch of 1 or more, not {size} and {batch}.")
        self.batch, self.seed, self.start, self.rank, self.world = batch, seed, start, rank, world
        self.epoch_length = whole_batches(size, batch * world)
        self._order = Order(size, self.epoch_length)

    def __len__(self) -> int:
        """Samples per rank and epoch, a multiple of ``batch``."""
        return self.epoch_length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """One epoch's number of samples, beginning at ``start()`` wherever in an epoch that is."""
        first = self.start()
        for iteration in range(first, first + len(self) // self.batch):
            yield from self.iteration(iteration)

    def iteration(self, iteration: int) -> Iterator[tuple[int, int]]:
        """The samples of this rank in one 0-based iteration."""
        for k in range(self.batch):
            q = (iteration * self.batch + k) * self.world + self.rank
            yield q, self._order.at(q, (self.seed,))


class Order:
    """Permutations of one domain joined end to end; one begins every ``period`` places and starts again if too short.

    Args:
        size: number of images.
        period: at least ``size``.
    """

    def __init__(self, size: int, period: int) -> None:
        self.size, self.period = size, period
        self._current: tuple[tuple[int, ...], np.ndarray] = ((), np.empty(0))

    def at(self, place: int, key: tuple[int, ...]) -> int:
        """Image at a place; ``key`` decides the permutations."""
        number, position = divmod(place, self.period)
        if self._current[0] != (*key, number):
            self._current = (*key, number), np.random.default_rng((*key, number)).permutation(self.size)
        return int(self._current[1][position % self.size])


def whole_batches(samples: int, batch: int) -> int:
    """``samples`` rounded up to a multiple of ``batch``."""
    return -(-samples // batch) * batch


def samples_of(
    iteration: int, sizes: tuple[int, int], batch: int, seed: int, rank: int, world: int
) -> list[tuple[int, int, int]]:
    """The ``(q, i, j)`` that ``UnpairedSampler`` gave or will give ``rank`` in 0-based ``iteration``."""
    sampler = UnpairedSampler(sizes, batch, seed, lambda: iteration, rank, world)
    return list(islice(sampler, batch))


class UnpairedDataset(Dataset[UnpairedBatch]):
    """Two independent sources, addressed by what ``UnpairedSampler`` yields.

    Args:
        a: ``a(index, key)`` gives one (C, H, W) image; whatever it draws must come from ``key``.
        b: the same for the other domain.
        seed: at least 0. The key is ``(seed, q, domain)``, which neither the number of workers nor a
            resume can change.
    """

    def __init__(self, a: Callable[[int, Key], Tensor], b: Callable[[int, Key], Tensor], seed: int) -> None:
        self.a, self.b, self.seed = a, b, seed

    def __getitem__(self, sample: tuple[int, int, int]) -> UnpairedBatch:
        """One image of each domain for ``(q, i, j)``."""
        q, i, j = sample
        return UnpairedBatch(self.a(i, (self.seed, q, 0)), self.b(j, (self.seed, q, 1)))


def unpadded_shard(n: int, rank: int, world: int) -> range:
    """Indices of this rank in an evaluation over ``n`` images: each image on exactly one rank.

    Shards differ by up to one image (torch's DistributedSampler evens them out by counting some images
    twice), so ranks may run different numbers of batches: gather at the end of the epoch, never per batch.

    Raises:
        ValueError: a rank would get nothing. Lightning skips the whole validation there, its end
            included, and the ranks that wait for it hang.
    """
    if n < world:
        raise ValueError(f"Evaluation has {n} image(s) for {world} processes: give it at least one image per process.")
    return range(rank, n, world)


def unpaired_shard(sizes: tuple[int, int], rank: int, world: int) -> list[tuple[int, int, int]]:
    """This rank's ``(q, i, j)`` in an evaluation of two unpaired domains: image q of a beside image q of b.

    Each image of the larger domain comes once; the smaller one starts again from its beginning when it ends.
    """
    return [(q, q % sizes[0], q % sizes[1]) for q in unpadded_shard(max(sizes), rank, world)]


def each_domain_shard(sizes: Sequence[int], rank: int, world: int) -> list[tuple[int, ...]]:
    """``unpaired_shard`` of any number of domains, without the sample number: one index into each domain a row."""
    return [tuple(q % size for size in sizes) for q in unpadded_shard(max(sizes), rank, world)]


def to_signed_unit(x: Tensor) -> Tensor:
    """Scale uint8 [0, 255] to float32 [-1, 1] on the device of ``x``; other dtypes pass unchanged."""
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32).div_(127.5).sub_(1.0)


def batch_to_signed_unit(batch: Batch) -> Batch:
    """``to_signed_unit`` on every field of a batch, for ``on_after_batch_transfer``."""
    return batch._make(map(to_signed_unit, batch))


def placement(trainer: Any) -> tuple[int, int]:
    """Rank and number of processes; (0, 1) without a trainer.

    Raises:
        ValueError: the trainer would replace our samplers by padded shards of shards.
    """
    if trainer is None:
        return 0, 1
    # Lightning keeps this flag in a private place only; without it the data would be sharded twice, silently.
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
        raise ValueError("Set trainer.use_distributed_sampler to false: the data are already divided among the ranks.")
    return trainer.global_rank, trainer.world_size


def build_loader(
    dataset: Dataset[Any],
    sampler: Sampler[Any] | Sequence[Any],
    batch_size: int | None,
    num_workers: int,
    seed: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A DataLoader that takes nothing from the global random state and whose workers use one thread.

    Args:
        dataset: indexed by what ``sampler`` yields.
        sampler: gives the order; anything iterable, with a length where all epochs have the same.
        batch_size: samples per batch; the last batch may be smaller. None where the sampler gives whole batches.
        num_workers: processes, kept between epochs; 0 reads in the training process.
        seed: of the loader's own generator, from which torch seeds its workers.
        collate: None for torch's default, which keeps NamedTuples.
    """
    # Keywords only: Lightning re-creates the loader of `predict` by keyword and refuses a positional batch_size.
    return DataLoader(
        dataset=dataset,
        sampler=cast("Sampler[Any] | Iterable[Any]", sampler),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=one_thread,
        generator=torch.Generator().manual_seed(seed),
    )


def one_thread(worker: int) -> None:
    """Keep a worker from starting one OpenCV or OpenMP thread per core: the workers are the parallelism."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
