"""What procedural data of any number of domains have in common: splits, loaders, names; who draws, they say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from datamodules.arrays import DomainRows, aligned, one_domain, splits, whole
from datamodules.loaders import (
    Batch,
    DomainSampler,
    Policy,
    batch_to_signed_unit,
    build_loader,
    placement,
    unpadded_shard,
)

# Numbers of the first images of each split: one world for all runs, so that numbers of different seeds compare.
FIRST = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}
Renders = Callable[..., np.ndarray]  # (domain, first, count, size, draw=0) to (count, 3, H, W) uint8

TOGETHER = 8  # images of a domain in a batch of evaluation: calls for single ones cost more than their arithmetic


class RenderedDomains(pl.LightningDataModule):
    """Numbered images of two or more domains, drawn by formula and kept in the cache folder.

    Training gives ``DomainBatch`` from disjoint numbers: domain k shows ``count`` images from k * ``count`` on.
    Validation and test give ``AlignedBatch`` over numbers of their own, the same in every domain and once more with
    another draw of each domain's style. Prediction gives ``ImageBatch`` from one loader a domain.

    Args:
        what: in plural, for names and messages.
        version: of the renders.
        renders: draws them.
        domains: different ones, two or more.
        size: height and width, or one number for both.
        count: number of training images per domain.
        evaluated: number of validation images of each domain, and of test images.
        batch_size: images of each domain per iteration and process; on average, where ``sampling`` draws domains.
            Validation and test, where no gradients are kept, take ``TOGETHER`` at least.
        sampling: policy of ``loaders.DomainSampler``.
        num_workers: reading processes.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: equal domains or fewer than two, or too few images.
    """

    true_pairs = True

    def __init__(
        self,
        what: str,
        version: int,
        renders: Renders,
        domains: tuple[str, ...],
        size: int | tuple[int, int],
        count: int,
        evaluated: int,
        batch_size: int,
        sampling: Policy,
        num_workers: int,
        seed: int,
        flip: bool,
    ) -> None:
        super().__init__()
        self.what, self.version, self.renders = what, version, renders
        self.domains = tuple(domains)
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.count, self.evaluated = count, evaluated
        self.batch_size, self.sampling = batch_size, sampling
        self.num_workers, self.seed, self.flip = num_workers, seed, flip
        self.image_shape = (3, *self.size)
        self.images: dict[str, list[np.ndarray]] = {}
        if len(set(self.domains)) != len(self.domains) or len(self.domains) < 2:
            raise ValueError(f"data.domains is {list(self.domains)}: give two or more different ones.")
        if count < 2 or evaluated < 1:
            raise ValueError(f"Training needs 2 or more {what} and validation 1 or more, not {count} and {evaluated}.")

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
        return self._loader(
            DomainRows(self.images["train"], self.seed, self.flip),
            self._sampler(start, *placement(trainer)),
            self.batch_size * len(self.domains),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation images, without padding."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test images."""
        return self._evaluation("test")

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The validation images of each domain in turn."""
        each = self.images["val"][: len(self.domains)]
        return [self._loader(one_domain(array), self._shard(), self.batch_size) for array in each]

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``streets day number 17`` for each row of a training batch (NamesImages protocol)."""
        samples = self._sampler(lambda: iteration, rank, placement(self.trainer)[1]).iteration(iteration)
        return {"image": [f"{self.what} {self.domains[d]} number {d * self.count + i}" for _, d, i in samples]}

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        size, split = f"{self.size[0]}x{self.size[1]}", splits(stage)[0]
        count = self.count if split == "train" else self.evaluated
        return f"{self.what} version {self.version}, {' and '.join(self.domains)}, {size}, {count} of {split}"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> DomainSampler:
        sizes = [self.count] * len(self.domains)
        return DomainSampler(sizes, self.batch_size, self.seed, start, rank, world, self.sampling)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        d, size = len(self.domains), max(self.batch_size, TOGETHER)
        return self._loader(aligned(self.images[split][:d], self.images[split][d:]), self._shard(), size)

    def _shard(self) -> range:
        return unpadded_shard(self.evaluated, *placement(self.trainer))

    def _loader(self, dataset: Dataset[Any], sampler: Any, batch_size: int) -> DataLoader[Any]:
        return build_loader(dataset, sampler, batch_size, self.num_workers, self.seed, collate=whole)

    def _render(self, split: str) -> list[np.ndarray]:
        """Arrays (n, 3, H, W) of uint8: of each domain; of validation and test, of each once more."""
        if split == "train":
            n = self.count
            return [self.renders(domain, k * n, n, self.size) for k, domain in enumerate(self.domains)]
        first, n = FIRST[split], self.evaluated
        return [self.renders(domain, first, n, self.size, draw=draw) for draw in (0, 1) for domain in self.domains]
