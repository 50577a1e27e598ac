"""Photos with a table of attributes, such as CelebA: the data of Fader Networks."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.attribute_table import read_attributes, read_partition
from datamodules.domain_folders import kept_out_of
from datamodules.image_files import ImageFiles, Images, content_of
from datamodules.images import verify_images
from datamodules.loaders import Batch, ShuffledSampler, batch_to_signed_unit, build_loader, placement, unpadded_shard
from datamodules.transforms import Pipeline, Spec, default_eval, default_train
from interfaces.batch import AttributeBatch


class AttributeImages(pl.LightningDataModule):
    """Images of a folder with the attributes that a table gives them.

    All stages give ``AttributeBatch``; training in random order, validation and test (the same images) in the order of
    the table. Prediction gives ``ImageBatch``. Files of the folder that the table does not name are passed over.

    Args:
        root: folder with the images.
        table: of their attributes, as ``attribute_table.read_attributes`` reads it.
        attributes: columns of the table to use, in this order; None for all.
        partition: CelebA's ``list_eval_partition``, of which training has part 0, validation and test part 1; None to
            keep out a share.
        held_out: that share, at least one image.
        size: height and width that models get, or one number for both.
        resize: shorter side of an image before the crop; None for the longer side of ``size``.
        train_transforms: albumentations as ``{class_path, init_args}``; None for flip, resize, random crop.
        eval_transforms: the same for validation, test and prediction; None for resize and centre crop.
        batch_size: images per iteration and process; Fader Networks need several parts, see there.
        num_workers: reading processes per training process.
        seed: of order and augmentation, 0 or more.

    Raises:
        FileNotFoundError: a folder, table or image does not exist.
        ValueError: the table does not fit, or too few images are left.
    """

    def __init__(
        self,
        root: str,
        table: str,
        attributes: list[str] | None = None,
        partition: str | None = None,
        held_out: float = 0.1,
        size: int | tuple[int, int] = 256,
        resize: int | None = None,
        train_transforms: list[dict[str, Any]] | None = None,
        eval_transforms: list[dict[str, Any]] | None = None,
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.image_shape = (3, *self.size)
        self.specs: dict[str, Sequence[Spec]] = {
            "train": default_train(self.size, resize) if train_transforms is None else train_transforms,
            "test": default_eval(self.size, resize) if eval_transforms is None else eval_transforms,
        }
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        if not 0 < held_out < 1:
            raise ValueError(f"data.held_out is {held_out}: give a share between 0 and 1.")
        if not self.root.is_dir():
            raise FileNotFoundError(f"There is no folder {root}: data.root must hold the images that the table names.")
        self.table = read_attributes(Path(table).expanduser(), attributes)
        self.attributes, self.categories = self.table.attributes, self.table.categories
        files = [self.root / name for name in self.table.files]
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise FileNotFoundError(
                f"{table} names {absent[0]}, which does not exist ({len(absent)} of its {len(files)} images do not): "
                "correct data.root or remove their lines."
            )
        self._files = {"train": [*range(len(files))], "test": [*range(len(files))]}
        if partition is not None:
            parts = read_partition(Path(partition).expanduser())
            for part, split in enumerate(("train", "test")):
                self._files[split] = [k for k, name in enumerate(self.table.files) if parts.get(name) == part]
        elif len(files) > 1:
            kept = set(kept_out_of(files, held_out))
            self._files = {
                split: [k for k in range(len(files)) if (files[k] in kept) == (split == "test")]
                for split in self._files
            }
        short = [split for split, rows in self._files.items() if not rows]
        if short or len(files) < 2:
            raise ValueError(f"{table} leaves no image for {'training' if short == ['train'] else 'validation'}.")
        self.sources: dict[str, ImageFiles] = {}

    def prepare_data(self) -> None:
        """Decode the images that were never checked, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        for split in _splits("fit" if running is None else running.value):
            verify_images(self._list(split), split)

    def setup(self, stage: str) -> None:
        """Check the images and the transforms of a stage.

        Raises:
            ValueError: an image cannot be read or is too small, or transforms do not fit.
        """
        for split in _splits(stage):
            files, pipeline = self._list(split), Pipeline(self.specs[split])
            pipeline.check(files, verify_images(files, split), self.size)
            self.sources[split] = ImageFiles(files, pipeline)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        return self._loader(self._attributed("train"), self._sampler(start, *placement(trainer)))

    def val_dataloader(self) -> DataLoader[Any]:
        """The images kept out of training; this process's share, without padding."""
        shard = unpadded_shard(len(self._files["test"]), *placement(self.trainer))
        return self._loader(self._attributed("test"), [(0, k) for k in shard])

    def test_dataloader(self) -> DataLoader[Any]:
        """The same as validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The images kept out of training."""
        shard = unpadded_shard(len(self._files["test"]), *placement(self.trainer))
        return self._loader(Images(self.sources["test"]), shard)

    def fingerprint(self, stage: str = "fit") -> str:
        """Number of images of a stage, and a hash of their names, contents, attributes and transforms."""
        split = _splits(stage)[0]
        listing = "\n".join(f"{file.name} {content_of(file, split)}" for file in self._list(split))
        how = json.dumps(
            [self.attributes, self.table.values[self._files[split]].tolist(), list(self.specs[split])], default=str
        )
        digest = hashlib.sha256(f"{listing}{how}".encode()).hexdigest()[:16]
        return f"{split}: {len(self._files[split])} images with {', '.join(self.attributes)} {digest}"

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """The files behind each row of a training batch (NamesImages protocol)."""
        samples = self._sampler(lambda: iteration, rank, placement(self.trainer)[1]).iteration(iteration)
        return {"image": [self.sources["train"].file(i) for _, i in samples]}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> ShuffledSampler:
        return ShuffledSampler(len(self._files["train"]), self.batch_size, self.seed, start, rank, world)

    def _attributed(self, split: str) -> "_Attributed":
        return _Attributed(self.sources[split], self.table.values[self._files[split]], self.seed)

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return build_loader(dataset, sampler, self.batch_size, self.num_workers, self.seed)

    def _list(self, split: str) -> list[Path]:
        return [self.root / self.table.files[k] for k in self._files[split]]


class _Attributed(Dataset[AttributeBatch]):
    """Images with their attributes, addressed by (sample number, index)."""

    def __init__(self, source: ImageFiles, values: np.ndarray, seed: int) -> None:
        self._source, self._values, self._seed = source, values, seed

    def __getitem__(self, sample: tuple[int, int]) -> AttributeBatch:
        q, index = sample
        image: Tensor = self._source(index, (self._seed, q))
        return AttributeBatch(image, torch.from_numpy(self._values[index]))


def _splits(stage: str) -> tuple[str, ...]:
    return ("train", "test") if stage == "fit" else ("test",)
