"""Folders of photos, one a domain, any number of them: the data of UFDN, StarGAN and multi-domain DRIT++."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.image_files import ImageFiles, Images, content_of
from datamodules.images import list_images, verify_images
from datamodules.loaders import (
    Batch,
    DomainSampler,
    Policy,
    batch_to_signed_unit,
    build_loader,
    each_domain_shard,
    placement,
    unpadded_shard,
)
from datamodules.transforms import Pipeline, Spec, default_eval, default_train
from interfaces.batch import DomainBatch, EachDomainBatch

_HELD_OUT = ("test", "val")  # names of the folder beside ``train``


class DomainImages(pl.LightningDataModule):
    """Unpaired images of two domains or more, each a folder.

    ``root`` is one of

    * ``root/<domain>/...``: a share of each folder is kept out of training, chosen by the files' names;
    * ``root/train/<domain>/...`` and ``root/test/<domain>/...`` (or ``root/val/...``).

    Training gives ``DomainBatch``, by default with as many images of each domain; an epoch is the largest domain.
    Validation and test give ``EachDomainBatch`` over the images that were kept out: image i of every domain in a row,
    the largest domain once, smaller ones from their beginning again. Prediction gives ``ImageBatch`` from one loader a
    domain, in listing order. Every image is decoded once, before the first training ever.

    Args:
        root: see above.
        folders: folders or ``.txt`` lists of training images instead of ``root``, one a domain.
        test_folders: as many with images kept out of training; None to keep out a share of ``folders``.
        domains: names of the domains, in the order of their numbers; of ``root`` those of its folders that are used,
            by default all, in alphabetical order; of ``folders`` by default their own names.
        held_out: share of each domain kept out where no folder says so, at least one image.
        size: height and width that models get, or one number for both.
        resize: shorter side of an image before the crop; None for the longer side of ``size``.
        train_transforms: albumentations as ``{class_path, init_args}``; None for flip, resize, random crop.
        eval_transforms: the same for validation, test and prediction; None for resize and centre crop.
        batch_size: images of each domain per iteration and process; on average, where ``sampling`` draws domains.
        sampling: policy of ``loaders.DomainSampler``: balanced, uniform or proportional.
        num_workers: reading processes per training process.
        seed: of order and augmentation, 0 or more.

    Raises:
        FileNotFoundError: ``root`` or a folder in it does not exist.
        ValueError: fewer than two domains, or as many names as folders are not given.
    """

    true_pairs = False

    def __init__(
        self,
        root: str | None = None,
        folders: list[str] | None = None,
        test_folders: list[str] | None = None,
        domains: list[str] | None = None,
        held_out: float = 0.1,
        size: int | tuple[int, int] = 256,
        resize: int | None = None,
        train_transforms: list[dict[str, Any]] | None = None,
        eval_transforms: list[dict[str, Any]] | None = None,
        batch_size: int = 1,
        sampling: Policy = "balanced",
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.image_shape = (3, *self.size)
        self.specs: dict[str, Sequence[Spec]] = {
            "train": default_train(self.size, resize) if train_transforms is None else train_transforms,
            "test": default_eval(self.size, resize) if eval_transforms is None else eval_transforms,
        }
        self.held_out, self.sampling = held_out, sampling
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        if not 0 < held_out < 1:
            raise ValueError(f"data.held_out is {held_out}: give a share between 0 and 1.")
        if (root is None) == (folders is None):
            raise ValueError(f"The data need either `root` or `folders`: {_LAYOUT.format(root='root')}.")
        found = _of_root(Path(root).expanduser(), domains) if root else _listed(folders or [], test_folders, domains)
        self._train, self._test = found
        self.domains = tuple(self._train)
        if len(self.domains) < 2:
            raise ValueError(f"There is one domain, {self.domains[0]}, and a translation needs two or more folders.")
        self.sources: dict[str, list[ImageFiles]] = {}

    def prepare_data(self) -> None:
        """Decode the images that were never checked, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        for split in _splits("fit" if running is None else running.value):
            for domain in self.domains:
                verify_images(self._list(split, domain), domain)

    def setup(self, stage: str) -> None:
        """Find and check the images and the transforms of a stage.

        Raises:
            FileNotFoundError: a folder, list file or listed image does not exist.
            ValueError: no images, one that cannot be read or is too small, or transforms that do not fit.
        """
        for split in _splits(stage):
            pipeline = Pipeline(self.specs[split])
            each = [self._list(split, domain) for domain in self.domains]
            for domain, files in zip(self.domains, each, strict=True):
                pipeline.check(files, verify_images(files, domain), self.size)
            self.sources[split] = [ImageFiles(files, pipeline) for files in each]

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        dataset = _OfDomains(self.sources["train"], self.seed)
        return self._loader(dataset, self._sampler(start, *placement(trainer)), self.batch_size * len(self.domains))

    def val_dataloader(self) -> DataLoader[Any]:
        """The images kept out of training; this process's share, without padding."""
        sources = self.sources["test"]
        rows = each_domain_shard([len(one) for one in sources], *placement(self.trainer))
        return self._loader(_SideBySide(sources), rows, self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The same as validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The images kept out, of each domain in turn, in listing order."""
        each = self.sources["test"]
        shards = [unpadded_shard(len(one), *placement(self.trainer)) for one in each]
        return [self._loader(Images(one), shard, self.batch_size) for one, shard in zip(each, shards, strict=True)]

    def fingerprint(self, stage: str = "fit") -> str:
        """Numbers of images of a stage, and a hash of their names, contents and transforms."""
        split = _splits(stage)[0]
        how = json.dumps(list(self.specs[split]), default=str)
        parts = []
        for domain in self.domains:
            files = self._list(split, domain)
            listing = "\n".join(f"{file.name} {content_of(file, split)}" for file in files)
            parts.append(f"{domain} {len(files)} {hashlib.sha256(f'{listing}{how}'.encode()).hexdigest()[:16]}")
        return f"{split}: {', '.join(parts)}"

    @property
    def evaluation_sizes(self) -> tuple[int, ...]:
        """How many different images of each domain an evaluation has; a smaller domain starts again after that."""
        return tuple(len(one) for one in self.sources["test"])

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """The files behind each row of a training batch (NamesImages protocol)."""
        samples = self._sampler(lambda: iteration, rank, placement(self.trainer)[1]).iteration(iteration)
        return {"image": [self.sources["train"][domain].file(i) for _, domain, i in samples]}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> DomainSampler:
        sizes = [len(one) for one in self.sources["train"]]
        return DomainSampler(sizes, self.batch_size, self.seed, start, rank, world, self.sampling)

    def _loader(self, dataset: Dataset[Any], sampler: Any, batch_size: int) -> DataLoader[Any]:
        return build_loader(dataset, sampler, batch_size, self.num_workers, self.seed)

    def _list(self, split: str, domain: str) -> list[Path]:
        """Images of a domain that are trained on, or kept out."""
        if domain in self._test:
            return list_images((self._train if split == "train" else self._test)[domain])
        files = list_images(self._train[domain])
        if len(files) < 2:
            raise ValueError(
                f"{self._train[domain]} holds a single image, and one is kept out of training: add images to it."
            )
        kept_out = set(kept_out_of(files, self.held_out))
        return [file for file in files if (file in kept_out) == (split == "test")]


def kept_out_of(files: Sequence[Path], share: float) -> list[Path]:
    """A share of some files, at least one and not all, by their names alone: other files hardly change who they are."""
    count = min(max(1, round(share * len(files))), len(files) - 1)
    return sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())[:count]


class _OfDomains(Dataset[DomainBatch]):
    """Images with their domain, addressed by what ``loaders.DomainSampler`` yields."""

    def __init__(self, sources: Sequence[ImageFiles], seed: int) -> None:
        self._sources, self._seed = sources, seed

    def __getitem__(self, sample: tuple[int, int, int]) -> DomainBatch:
        q, domain, index = sample
        return DomainBatch(self._sources[domain](index, (self._seed, q)), torch.tensor(domain))


class _SideBySide(Dataset[EachDomainBatch]):
    """One image of every domain, addressed by a row of ``loaders.each_domain_shard``."""

    def __init__(self, sources: Sequence[ImageFiles]) -> None:
        self._sources = sources

    def __getitem__(self, row: tuple[int, ...]) -> EachDomainBatch:
        return EachDomainBatch(torch.stack([one(i, (i,)) for one, i in zip(self._sources, row, strict=True)]))


def _of_root(root: Path, domains: Sequence[str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Folders of training images by domain and, where there are such, of images kept out."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}: {_LAYOUT.format(root=root)}.")
    trained = root / "train" if (root / "train").is_dir() else root
    there = sorted(entry.name for entry in trained.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    wanted = there if domains is None else list(domains)
    missing = [name for name in wanted if name not in there]
    if missing or len(wanted) < 2:
        what = f"has no folder {missing[0]}" if missing else "holds fewer than two folders"
        held = f"it holds {', '.join(there) or 'no folder at all'}"
        raise FileNotFoundError(f"{trained} {what}, {held}: {_LAYOUT.format(root=root)}.")
    if trained == root:
        return {name: str(root / name) for name in wanted}, {}
    kept = next((root / name for name in _HELD_OUT if (root / name).is_dir()), None)
    if kept is None:
        raise FileNotFoundError(f"{root} holds train/, but neither test/ nor val/: {_LAYOUT.format(root=root)}.")
    lost = [name for name in wanted if not (kept / name).is_dir()]
    if lost:
        raise FileNotFoundError(f"There is no folder {kept / lost[0]}: move some images of {trained / lost[0]} there.")
    return {name: str(trained / name) for name in wanted}, {name: str(kept / name) for name in wanted}


def _listed(
    folders: Sequence[str], test_folders: Sequence[str] | None, domains: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The same from lists."""
    names = [Path(folder).stem for folder in folders] if domains is None else list(domains)
    kept = list(test_folders or ())
    if len(names) != len(folders) or len(set(names)) != len(names) or (kept and len(kept) != len(folders)):
        raise ValueError(
            f"data.folders has {len(folders)} entries, data.domains {names} and data.test_folders {len(kept)}: give "
            "as many different names as folders, and as many test_folders or none."
        )
    return dict(zip(names, folders, strict=True)), dict(zip(names, kept, strict=False))


def _splits(stage: str) -> tuple[str, ...]:
    return ("train", "test") if stage == "fit" else ("test",)


_LAYOUT = (
    "{root} must hold one folder of images a domain, two or more ({root}/photo/, {root}/sketch/, ...), "
    "or train/ and test/ with such folders each"
)
