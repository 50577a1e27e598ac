"""Unpaired street scenes by formula, whose true translations are known: no download, measurable error."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.cache import rendered
from datamodules.loaders import (
    Batch,
    UnpairedSampler,
    batch_to_signed_unit,
    build_loader,
    placement,
    samples_of,
    unpadded_shard,
)
from datamodules.procedural.streets import CONTENT, CONTENT_RANGES, STYLE, VERSION, classes, factors, planes, street
from interfaces.batch import ImageBatch, PairedBatch, SceneFacts, UnpairedBatch

# One world of numbered scenes for all runs, so that numbers measured with different seeds compare.
_WORLD = 0
_FIRST = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}


class Streets(pl.LightningDataModule):
    """Street scenes in two of the domains of ``procedural.streets``.

    Training gives ``UnpairedBatch`` from disjoint scenes: domain a shows scenes 0 to n_a - 1 and domain b
    the n_b scenes after them, so no training image has its pair anywhere. Validation and test give
    ``PairedBatch`` over scenes of their own, the same for both domains; ``a_again`` and ``b_again`` are
    the same scenes under another draw of light and weather. Prediction gives ``ImageBatch`` from two loaders,
    one a domain.

    The scenes do not depend on ``seed``. They are rendered once and then read from the cache folder.

    Args:
        domains: two different ones of ``procedural.streets.DOMAINS``.
        size: height and width, 32 to 512, or one number for both.
        scenes: number of training images per domain, or one number for each.
        val_scenes: number of validation scenes, and of test scenes.
        batch_size: images of each domain per iteration and process.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: unknown or equal domains, a size that cannot be rendered, or too few scenes.
    """

    true_pairs = True

    def __init__(
        self,
        domains: tuple[str, str] = ("day", "night"),
        size: int | tuple[int, int] = 64,
        scenes: int | tuple[int, int] = 4000,
        val_scenes: int = 64,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__()
        self.domains = (domains[0], domains[1])
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.scenes = (scenes, scenes) if isinstance(scenes, int) else (scenes[0], scenes[1])
        self.val_scenes = val_scenes
        self.batch_size, self.num_workers, self.seed, self.flip = batch_size, num_workers, seed, flip
        self.image_shape = (3, *self.size)
        self.images: dict[str, tuple[np.ndarray, ...]] = {}
        if self.domains[0] == self.domains[1]:
            raise ValueError(f"Both domains of the streets are {self.domains[0]!r}: give two different ones.")
        if min(self.scenes) < 2 or val_scenes < 1:
            raise ValueError(f"Streets need 2 or more scenes and 1 or more val_scenes, not {scenes} and {val_scenes}.")
        for domain in self.domains:  # an unknown domain or size is refused here, not in the middle of rendering
            street(_WORLD, 0, domain, *self.size)

    def prepare_data(self) -> None:
        """Render what is not in the cache, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        for split in _splits("fit" if running is None else running.value):
            self._render(split)

    def setup(self, stage: str) -> None:
        """Open the images of a stage."""
        self.images.update({split: self._render(split) for split in _splits(stage)})

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        sampler = UnpairedSampler(self.scenes, self.batch_size, self.seed, start, *placement(trainer))
        a, b = self.images["train"]
        return self._loader(_TrainStreets(a, b, self.seed, self.flip), sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation scenes, without padding."""
        return self._loader(_EvalStreets(PairedBatch, self.images["val"]), self._shard())

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test scenes."""
        return self._loader(_EvalStreets(PairedBatch, self.images["test"]), self._shard())

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The validation images of domain a, then those of domain b."""
        return [self._loader(_EvalStreets(ImageBatch, (array,)), self._shard()) for array in self.images["val"][:2]]

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``streets day scene 17`` for each row of a training batch (NamesImages protocol)."""
        _, world = placement(self.trainer)
        samples = samples_of(iteration, self.scenes, self.batch_size, self.seed, rank, world)
        a, b = self.domains
        return {
            "a": [f"streets {a} scene {i}" for _, i, _ in samples],
            "b": [f"streets {b} scene {self.scenes[0] + j}" for _, _, j in samples],
        }

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        size, split = f"{self.size[0]}x{self.size[1]}", _splits(stage)[0]
        which = f"{self.scenes[0]} and {self.scenes[1]}" if split == "train" else f"{self.val_scenes}"
        return f"streets version {VERSION}, {' and '.join(self.domains)}, {size}, {which} {split} scenes"

    def scene_facts(self, stage: str) -> SceneFacts:
        """Content, styles and semantic maps of the scenes of ``validate`` or ``test`` (KnowsScenes protocol)."""
        first, count = _FIRST[_splits(stage)[-1]], self.val_scenes
        low, high = np.array(list(CONTENT_RANGES.values()), np.float32).T
        drawn = [[factors(_WORLD, first + i, domain) for i in range(count)] for domain in self.domains]
        content = (np.stack([content for content, _ in drawn[0]]) - low) / (high - low)
        a, b = (torch.from_numpy(np.stack([style for _, style in each])) for each in drawn)
        maps = rendered(
            partial(classes, seed=_WORLD, first=first, height=self.size[0], width=self.size[1]),
            count,
            self.size,
            key={"generator": "streets, classes", "version": VERSION, "world": _WORLD, "first": first},
            what=f"streets classes {self.size[0]}x{self.size[1]}",
        )
        names = STYLE[self.domains[0]], STYLE[self.domains[1]]
        # Private to this process, and read from the file where they are needed: thousands would fill the memory.
        private = np.memmap(str(maps.filename), np.uint8, "c", maps.offset, maps.shape)
        return SceneFacts(torch.from_numpy(content), CONTENT, (a, b), names, torch.from_numpy(private))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _shard(self) -> range:
        return unpadded_shard(self.val_scenes, *placement(self.trainer))

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return build_loader(dataset, sampler, self.batch_size, self.num_workers, self.seed, collate=_whole)

    def _render(self, split: str) -> tuple[np.ndarray, ...]:
        """Arrays (count, 3, H, W) of uint8 in the order of the batch's fields, from the cache or new."""
        a, b = self.domains
        if split == "train":
            return self._scenes(a, 0, self.scenes[0]), self._scenes(b, self.scenes[0], self.scenes[1])
        first, count = _FIRST[split], self.val_scenes
        return tuple(self._scenes(domain, first, count, draw) for draw in (0, 1) for domain in (a, b))

    def _scenes(self, domain: str, first: int, count: int, draw: int = 0) -> np.ndarray:
        return rendered(
            partial(
                planes, seed=_WORLD, first=first, domain=domain, height=self.size[0], width=self.size[1], draw=draw
            ),
            count,
            self.image_shape,
            key={
                "generator": "streets",
                "version": VERSION,
                "world": _WORLD,
                "domain": domain,
                "first": first,
                "draw": draw,
            },
            what=f"streets {domain} {self.size[0]}x{self.size[1]}",
        )


class _TrainStreets(Dataset[UnpairedBatch]):
    """Whole training batches, cut out of two arrays at once."""

    def __init__(self, a: np.ndarray, b: np.ndarray, seed: int, flip: bool) -> None:
        self._images, self._seed, self._flip = (a, b), seed, flip

    def __getitems__(self, samples: Sequence[tuple[int, int, int]]) -> UnpairedBatch:
        numbers, i, j = zip(*samples, strict=True)
        return UnpairedBatch(self._take(0, numbers, i), self._take(1, numbers, j))

    def _take(self, domain: int, numbers: Sequence[int], indices: Sequence[int]) -> Tensor:
        images = _rows(self._images[domain], indices)
        if self._flip:
            for row, q in enumerate(numbers):
                if np.random.default_rng((self._seed, q, domain)).random() < 0.5:
                    images[row] = images[row].flip(-1)
        return images


class _EvalStreets(Dataset[Any]):
    """Whole evaluation batches: the same rows of every array."""

    def __init__(self, kind: type[PairedBatch] | type[ImageBatch], arrays: Sequence[np.ndarray]) -> None:
        self._kind, self._arrays = kind, arrays

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitems__(self, indices: Sequence[int]) -> NamedTuple:
        return self._kind(*(_rows(array, indices) for array in self._arrays))


def _rows(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """A copy of some rows, so that nothing writes into the cache."""
    return torch.from_numpy(np.asarray(images[list(indices)]))


def _whole(batch: Any) -> Any:
    """Collate of a dataset that gives whole batches: nothing is left to do."""
    return batch


def _splits(stage: str) -> tuple[str, ...]:
    return {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("val",)}[stage]
