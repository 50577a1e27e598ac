"""Two folders of photos that were never paired, the data of CycleGAN, UNIT, MUNIT and DRIT."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from datamodules.image_files import ImageFiles, Images, content_of
from datamodules.images import list_images, verify_images
from datamodules.loaders import (
    Batch,
    UnpairedDataset,
    UnpairedSampler,
    batch_to_signed_unit,
    build_loader,
    placement,
    samples_of,
    unpadded_shard,
    unpaired_shard,
)
from datamodules.transforms import Pipeline, Spec, default_eval, default_train

_FOLDERS = {"train_a": "trainA", "train_b": "trainB", "test_a": "testA", "test_b": "testB"}
_STAGES = {
    "fit": ("train_a", "train_b", "test_a", "test_b"),
    "validate": ("test_a", "test_b"),
    "test": ("test_a", "test_b"),
    "predict": ("test_a", "test_b"),
}


class UnpairedImages(pl.LightningDataModule):
    """Unpaired images of two domains from folders or list files.

    Training gives ``UnpairedBatch``; each epoch shows the whole larger domain, in new random pairs
    (``loaders.UnpairedSampler``). Validation and test give ``UnpairedBatch`` over the test folders: image i
    of a beside image i of b, the larger domain once, the smaller one from its beginning again.
    Prediction gives ``ImageBatch`` from two loaders, ``test_a`` and ``test_b`` in listing order.

    Every image is decoded once, before the first training ever; see ``images.verify_images``.

    Args:
        root: folder with ``trainA``, ``trainB``, ``testA`` and ``testB``.
        train_a: folder or ``.txt`` list that replaces ``root/trainA``.
        train_b: replaces ``root/trainB``.
        test_a: replaces ``root/testA``.
        test_b: replaces ``root/testB``.
        domains: names of the two domains, for titles and keys.
        size: height and width that models get, or one number for both.
        resize: shorter side of an image before the crop; None for the longer side of ``size``.
        train_transforms: albumentations as ``{class_path, init_args}``; None for flip, resize, random crop.
        eval_transforms: the same for validation, test and prediction; None for resize and centre crop.
        batch_size: images of each domain per iteration and process.
        num_workers: reading processes per training process.
        seed: of order and augmentation, 0 or more.
    """

    true_pairs = False

    def __init__(
        self,
        root: str | None = None,
        train_a: str | None = None,
        train_b: str | None = None,
        test_a: str | None = None,
        test_b: str | None = None,
        domains: tuple[str, str] = ("a", "b"),
        size: int | tuple[int, int] = 256,
        resize: int | None = None,
        train_transforms: list[dict[str, Any]] | None = None,
        eval_transforms: list[dict[str, Any]] | None = None,
        batch_size: int = 1,
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = None if root is None else Path(root).expanduser()
        self._given = {"train_a": train_a, "train_b": train_b, "test_a": test_a, "test_b": test_b}
        self.domains = (domains[0], domains[1])
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.image_shape = (3, *self.size)
        self.specs: dict[str, Sequence[Spec]] = {
            "train": default_train(self.size, resize) if train_transforms is None else train_transforms,
            "test": default_eval(self.size, resize) if eval_transforms is None else eval_transforms,
        }
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.sources: dict[str, ImageFiles] = {}

    def prepare_data(self) -> None:
        """Decode the images that were never checked, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        stage = "fit" if running is None else running.value
        for split in _STAGES[stage]:
            verify_images(self._list(split), split)

    def setup(self, stage: str) -> None:
        """Find and check the images and the transforms of a stage.

        Raises:
            FileNotFoundError: a folder, list file or listed image does not exist.
            ValueError: no images, one that cannot be read or is too small, or transforms that do not fit.
        """
        pipelines = {kind: Pipeline(specs) for kind, specs in self.specs.items()}
        for split in _STAGES[stage]:
            files, pipeline = self._list(split), pipelines[split.partition("_")[0]]
            pipeline.check(files, verify_images(files, split), self.size)
            self.sources[split] = ImageFiles(files, pipeline)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        a, b = self.sources["train_a"], self.sources["train_b"]
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        sampler = UnpairedSampler((len(a), len(b)), self.batch_size, self.seed, start, *placement(trainer))
        return self._loader(UnpairedDataset(a, b, self.seed), sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The test folders; this process's share, without padding."""
        a, b = self.sources["test_a"], self.sources["test_b"]
        rows = unpaired_shard((len(a), len(b)), *placement(self.trainer))
        return self._loader(UnpairedDataset(a, b, self.seed), rows)

    def test_dataloader(self) -> DataLoader[Any]:
        """The same as validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The test images of domain a, then those of domain b, each in listing order."""
        both = self.sources["test_a"], self.sources["test_b"]
        return [self._loader(Images(one), unpadded_shard(len(one), *placement(self.trainer))) for one in both]

    def fingerprint(self, stage: str = "fit") -> str:
        """Numbers of images of a stage, and a hash of their names, contents and transforms.

        Contents of training images, which no number is measured on and which may be many, are known by their size.
        """
        parts = []
        for split in _STAGES[stage][:2]:
            files = self._list(split)
            listing = "\n".join(f"{file.name} {content_of(file, split)}" for file in files)
            how = json.dumps(list(self.specs[split.partition("_")[0]]), default=str)
            parts.append(f"{split} {len(files)} {hashlib.sha256(f'{listing}{how}'.encode()).hexdigest()[:16]}")
        return f"{' and '.join(self.domains)}: {', '.join(parts)}"

    @property
    def evaluation_sizes(self) -> tuple[int, int]:
        """How many different images of each domain an evaluation has; the smaller domain starts again after that."""
        return len(self.sources["test_a"]), len(self.sources["test_b"])

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """The files behind each row of a training batch (NamesImages protocol)."""
        a, b = self.sources["train_a"], self.sources["train_b"]
        _, world = placement(self.trainer)
        samples = samples_of(iteration, (len(a), len(b)), self.batch_size, self.seed, rank, world)
        return {"a": [a.file(i) for _, i, _ in samples], "b": [b.file(j) for _, _, j in samples]}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return build_loader(dataset, sampler, self.batch_size, self.num_workers, self.seed)

    def _list(self, split: str) -> list[Path]:
        """Images of one of the four sets; errors say how the whole should look."""
        source = self._given[split]
        if source is None and self.root is None:
            raise ValueError(f"The data need `root` or `{split}`: {_tree(Path('root'))}.")
        if source is None:
            assert self.root is not None  # for mypy: the case above
            folder = self.root / _FOLDERS[split]
            if not folder.is_dir():
                raise FileNotFoundError(f"There is no folder {folder}: {_tree(self.root)}{_advice(self.root, split)}.")
            source = str(folder)
        files = list_images(source)
        if split.startswith("train") and len(files) < 2:
            raise ValueError(f"{source} holds a single image, and training needs at least two: add images to it.")
        return files


def _tree(root: Path) -> str:
    return (
        f"{root} must hold trainA/ and trainB/ (training images of the two domains) "
        "and testA/ and testB/ (images kept out of training)"
    )


def _advice(root: Path, split: str) -> str:
    """What to change, judged by what is there instead."""
    if not root.is_dir():
        return f", but {root} does not exist"
    for near in _neighbours(root):
        if (near / _FOLDERS["train_a"]).is_dir():
            return f"; {near} does, so set root to it"
    if split.startswith("test") and (root / _FOLDERS["train_a"]).is_dir():
        return f"; move some images of train{split[-1].upper()} there"
    there = sorted(entry.name for entry in root.iterdir())
    shown = ", ".join(there[:6]) + (", ..." if len(there) > 6 else "")
    return f", but it holds {shown}" if there else ", but it is empty"


def _neighbours(root: Path) -> Iterator[Path]:
    yield root.absolute().parent
    yield from sorted(entry for entry in root.iterdir() if entry.is_dir())
