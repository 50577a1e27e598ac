"""Images whose factors are known, for what learns to disentangle them and for what measures how well it has."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.arrays import splits, whole
from datamodules.factor_grid import checked, factors_of
from datamodules.loaders import Batch, batch_to_signed_unit, build_loader, placement, unpadded_shard, whole_batches
from interfaces.batch import FactorBatch, ImageBatch

_WORLD = 0  # one evaluation for all runs, so that numbers measured with different seeds compare
_BLOCK = 4096  # draws from one generator: a generator a sample would take longer than its image


class FactorSource(Protocol):
    """Where images come from.

    Drawn by formula (``procedural.sprites``, ``procedural.rooms``) or read (``factor_files``, ``factor_objects``,
    ``factor_digits``). Every combination of values is one image, unless the source is a ``LabelledSource``.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of K factors."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, C, H, W) uint8, an image of each row of (N, K) int64 factors."""
        ...

    def fingerprint(self) -> str:
        """Which images these are, in words that fix every pixel."""
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """A ``FactorSource`` that is no grid: numbered images, of which many have the same factors."""

    @property
    def labels(self) -> np.ndarray:
        """(M, K) int64, the factors of each image."""
        ...

    @property
    def trained(self) -> int:
        """Training draws from so many first images, evaluation from the others."""
        ...

    def rows(self, index: np.ndarray) -> np.ndarray:
        """(N, C, H, W) uint8, images by number."""
        ...


class FactorDataModule(pl.LightningDataModule):
    """One source of images with known factors.

    Training draws tuples of factors independently and uniformly, with replacement, as the papers do. It draws from the
    whole grid, and so does evaluation: a disentangling model is asked what it has made of the factors, not whether it
    generalises. Where a source is no grid, training and evaluation share no image.

    All stages give ``FactorBatch``; prediction gives ``ImageBatch`` of the validation images. Validation and test have
    ``val_images`` each, different ones, which depend on nothing but the source and this number. An epoch has as many
    samples as there are images to draw from, rounded up to whole batches.

    Args:
        source: ``procedural.sprites.Sprites``, ``procedural.rooms.Rooms``, or one of ``factor_files``,
            ``factor_objects`` or ``factor_digits``.
        val_images: number of validation images, and of test images.
        batch_size: images per iteration and process.
        num_workers: reading processes; 0 is enough for sprites and for what lies uncompressed in a file.
        seed: of the draws, 0 or more.

    Raises:
        ValueError: too few images or an empty batch.
    """

    def __init__(
        self,
        source: FactorSource,
        val_images: int = 1000,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.val_images = source, val_images
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        if val_images < 1 or batch_size < 1:
            raise ValueError(
                f"data.val_images is {val_images} and data.batch_size is {batch_size}: give 1 or more of each."
            )

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the factors, in the order of the columns of ``FactorBatch.factors`` (FactorData protocol)."""
        return self.source.names

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has (FactorData protocol)."""
        return self.source.sizes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.source.image_shape

    def images(self, factors: Any) -> np.ndarray:
        """Images with given factors (FactorData protocol).

        Args:
            factors: (N, K) integers, an array, a tensor on the CPU or a list.

        Returns:
            (N, C, H, W) uint8. Where many images have the same factors, rows that are equal get one after the other of
            them, from the first on and round again.

        Raises:
            ValueError: other columns, or a value out of range.
        """
        return self.source.images(checked(np.asarray(factors), self.factor_names, self.factor_sizes))

    def prepare_data(self) -> None:
        """Convert what cannot be read where it lies, in one process per machine."""
        _batch(self.source, np.zeros(1, np.int64))

    def setup(self, stage: str) -> None:
        """Open the files of the source, before any reading process begins.

        Raises:
            ValueError: there are too few images to evaluate.
        """
        _batch(self.source, np.zeros(1, np.int64))
        room = len(self._pool()) // 2
        if self.val_images > room:
            raise ValueError(
                f"data.val_images is {self.val_images}: give {room} or fewer, as many for each evaluation."
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        return self._loader(self._sampler(start, *placement(trainer)))

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation images, without padding."""
        return self._loader(self._shard("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test images."""
        return self._loader(self._shard("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The validation images."""
        return self._loader(self._shard("val"), _images_alone)

    def labelled_dataloader(self) -> DataLoader[Any]:
        """This process's share of the training images, each once and in order (LabelledData protocol).

        Raises:
            ValueError: the source is a grid, of which training draws tuples of factors and not images of a list.
        """
        if not isinstance(self.source, LabelledSource):
            raise ValueError(
                f"data.source is {type(self.source).__name__}, a grid, which has no list of training images to go "
                "through: give a source with labels, such as datamodules.factor_digits.SmallDigits."
            )
        return self._loader(np.array(unpadded_shard(self.source.trained, *placement(self.trainer))))

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``shape 2, scale 0, ... (image 417)`` for each row of a training batch (NamesImages protocol)."""
        index = list(self._sampler(lambda: 0, rank, placement(self.trainer)[1]).iteration(iteration))
        names = []
        for i, row in zip(index, _factors(self.source, np.array(index)).tolist(), strict=True):
            values = ", ".join(f"{name} {value}" for name, value in zip(self.factor_names, row, strict=True))
            names.append(f"{values} (image {i})")
        return {"image": names}

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        split = splits(stage)[0]
        what = "draws" if split == "train" else f"{self.val_images} of {split}"
        return f"{self.source.fingerprint()}, {what}"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> "IndependentSampler":
        return IndependentSampler(self._trained(), self.batch_size, self.seed, start, rank, world)

    def _trained(self) -> int:
        source = self.source
        return source.trained if isinstance(source, LabelledSource) else int(np.prod(source.sizes))

    def _pool(self) -> range:
        """Images of which an evaluation has some."""
        source = self.source
        return (
            range(source.trained, len(source.labels)) if isinstance(source, LabelledSource) else range(self._trained())
        )

    def _shard(self, split: str) -> np.ndarray:
        pool, first = self._pool(), {"val": 0, "test": self.val_images}[split]
        order = pool.start + np.random.default_rng((_WORLD, len(pool))).permutation(len(pool))
        mine = unpadded_shard(self.val_images, *placement(self.trainer))
        return order[first : first + self.val_images][mine.start :: mine.step]

    def _loader(self, index: Any, collate: Callable[[Any], Any] | None = None) -> DataLoader[Any]:
        rows = _Rows(self.source)
        return build_loader(rows, index, self.batch_size, self.num_workers, self.seed, collate or whole)


class IndependentSampler(Sampler[int]):
    """Independent draws with replacement, from any position on: sample q is a function of (seed, q) alone.

    Args:
        count: number of images to draw from, at least 1; an epoch has as many draws, in whole global batches.
        batch: samples per rank and iteration.
        seed: at least 0; decides every draw.
        start: number of finished iterations, asked each time an iteration over the sampler begins.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, count: int, batch: int, seed: int, start: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"Sampling needs images and a batch of 1 or more, not {count} and {batch}.")
        self.count, self.batch, self.seed, self.start, self.rank, self.world = count, batch, seed, start, rank, world
        self._block: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Samples per rank and epoch, a multiple of ``batch``."""
        return whole_batches(self.count, self.batch * self.world) // self.world

    def __iter__(self) -> Iterator[int]:
        """One epoch's number of samples, beginning at ``start()``."""
        first = self.start()
        for iteration in range(first, first + len(self) // self.batch):
            yield from self.iteration(iteration)

    def iteration(self, iteration: int) -> Iterator[int]:
        """The images of this rank in one 0-based iteration."""
        for k in range(self.batch):
            yield self._draw((iteration * self.batch + k) * self.world + self.rank)

    def _draw(self, q: int) -> int:
        number, place = divmod(q, _BLOCK)
        if self._block[0] != number:
            self._block = number, np.random.default_rng((self.seed, number)).integers(self.count, size=_BLOCK).tolist()
        return self._block[1][place]


class _Rows(Dataset[FactorBatch]):
    """Whole batches by the numbers of their images."""

    def __init__(self, source: FactorSource) -> None:
        self._source = source

    def __getitems__(self, index: Sequence[int]) -> FactorBatch:
        return _batch(self._source, np.array(index, np.int64))


def _batch(source: FactorSource, index: np.ndarray) -> FactorBatch:
    factors = _factors(source, index)
    images = source.rows(index) if isinstance(source, LabelledSource) else source.images(factors)
    return FactorBatch(torch.from_numpy(images), torch.from_numpy(factors))


def _factors(source: FactorSource, index: np.ndarray) -> np.ndarray:
    return source.labels[index] if isinstance(source, LabelledSource) else factors_of(index, source.sizes)


def _images_alone(batch: FactorBatch) -> ImageBatch:
    return ImageBatch(batch.image)
