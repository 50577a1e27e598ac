"""Unpaired street scenes by formula, whose true translations are known: no download, measurable error."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.arrays import PairRows, SameRows, one_domain, splits, whole
from datamodules.cache import rendered
from datamodules.loaders import (
    Batch,
    Policy,
    UnpairedSampler,
    batch_to_signed_unit,
    build_loader,
    placement,
    samples_of,
    unpadded_shard,
)
from datamodules.procedural.streets import CONTENT, CONTENT_RANGES, STYLE, VERSION, classes, factors, planes, street
from datamodules.rendered_domains import FIRST, RenderedDomains
from interfaces.batch import PairedBatch, SceneFacts

# One world of numbered scenes for all runs, so that numbers measured with different seeds compare.
_WORLD = 0


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
        for split in splits("fit" if running is None else running.value):
            self._render(split)

    def setup(self, stage: str) -> None:
        """Open the images of a stage."""
        self.images.update({split: self._render(split) for split in splits(stage)})

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        sampler = UnpairedSampler(self.scenes, self.batch_size, self.seed, start, *placement(trainer))
        a, b = self.images["train"]
        return self._loader(PairRows(a, b, self.seed, self.flip), sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation scenes, without padding."""
        return self._loader(SameRows(PairedBatch, self.images["val"]), self._shard())

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test scenes."""
        return self._loader(SameRows(PairedBatch, self.images["test"]), self._shard())

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The validation images of domain a, then those of domain b."""
        return [self._loader(one_domain(array), self._shard()) for array in self.images["val"][:2]]

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
        size, split = f"{self.size[0]}x{self.size[1]}", splits(stage)[0]
        which = f"{self.scenes[0]} and {self.scenes[1]}" if split == "train" else f"{self.val_scenes}"
        return f"streets version {VERSION}, {' and '.join(self.domains)}, {size}, {which} {split} scenes"

    def scene_facts(self, stage: str) -> SceneFacts:
        """Content, styles and semantic maps of the scenes of ``validate`` or ``test`` (KnowsScenes protocol)."""
        return facts_of(self.domains, FIRST[splits(stage)[-1]], self.val_scenes, self.size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _shard(self) -> range:
        return unpadded_shard(self.val_scenes, *placement(self.trainer))

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return build_loader(dataset, sampler, self.batch_size, self.num_workers, self.seed, collate=whole)

    def _render(self, split: str) -> tuple[np.ndarray, ...]:
        """Arrays (count, 3, H, W) of uint8 in the order of the batch's fields, from the cache or new."""
        a, b = self.domains
        if split == "train":
            both = (a, 0, self.scenes[0]), (b, self.scenes[0], self.scenes[1])
            return tuple(renders(domain, first, count, self.size) for domain, first, count in both)
        first, count = FIRST[split], self.val_scenes
        return tuple(renders(domain, first, count, self.size, draw) for draw in (0, 1) for domain in (a, b))


class StreetDomains(RenderedDomains):
    """Street scenes in two or more of the domains of ``procedural.streets``, for models of many domains.

    Batches are those of ``RenderedDomains``; the scenes are those of ``Streets``.

    Args:
        domains: different ones of ``procedural.streets.DOMAINS``.
        size: height and width, 32 to 512, or one number for both.
        scenes: number of training images per domain.
        val_scenes: number of validation scenes, and of test scenes.
        batch_size: images of each domain per iteration and process; on average, where ``sampling`` draws domains.
        sampling: policy of ``loaders.DomainSampler``: balanced, uniform or proportional.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: unknown or equal domains or fewer than two, a size that cannot be rendered, or too few scenes.
    """

    def __init__(
        self,
        domains: tuple[str, ...] = ("day", "night", "rain", "snow", "fog", "dusk"),
        size: int | tuple[int, int] = 64,
        scenes: int = 1000,
        val_scenes: int = 64,
        batch_size: int = 1,
        sampling: Policy = "balanced",
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(
            *("streets", VERSION, renders, domains, size, scenes, val_scenes),
            *(batch_size, sampling, num_workers, seed, flip),
        )
        for domain in self.domains:  # an unknown domain or size is refused here, not in the middle of rendering
            street(_WORLD, 0, domain, *self.size)

    def scene_facts(self, stage: str) -> SceneFacts:
        """Content, styles and semantic maps of the scenes of ``validate`` or ``test`` (KnowsScenes protocol)."""
        return facts_of(self.domains, FIRST[splits(stage)[-1]], self.evaluated, self.size)


def renders(domain: str, first: int, count: int, size: tuple[int, int], draw: int = 0) -> np.memmap:
    """(count, 3, H, W) uint8, scenes ``first`` to ``first + count - 1`` in a domain, from the cache or new."""
    which: dict[str, Any] = {"domain": domain, "first": first, "draw": draw}
    return rendered(
        partial(planes, seed=_WORLD, height=size[0], width=size[1], **which),
        count,
        (3, *size),
        key={"generator": "streets", "version": VERSION, "world": _WORLD, **which},
        what=f"streets {domain} {size[0]}x{size[1]}",
    )


def facts_of(domains: Sequence[str], first: int, count: int, size: tuple[int, int]) -> SceneFacts:
    """What is known of scenes ``first`` to ``first + count - 1``, whose images are ``renders``."""
    low, high = np.array(list(CONTENT_RANGES.values()), np.float32).T
    drawn = [[factors(_WORLD, first + i, domain) for i in range(count)] for domain in domains]
    content = (np.stack([content for content, _ in drawn[0]]) - low) / (high - low)
    styles = tuple(torch.from_numpy(np.stack([style for _, style in each])) for each in drawn)
    maps = rendered(
        partial(classes, seed=_WORLD, first=first, height=size[0], width=size[1]),
        count,
        size,
        key={"generator": "streets, classes", "version": VERSION, "world": _WORLD, "first": first},
        what=f"streets classes {size[0]}x{size[1]}",
    )
    # Private to this process, and read from the file where they are needed: thousands would fill the memory.
    private = np.memmap(str(maps.filename), np.uint8, "c", maps.offset, maps.shape)
    names = tuple(STYLE[domain] for domain in domains)
    return SceneFacts(torch.from_numpy(content), CONTENT, styles, names, torch.from_numpy(private))
