"""Handwritten digits in two domains, of which one is labelled: the data of UFDN's unsupervised domain adaptation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.arrays import splits as parts_of
from datamodules.arrays import whole
from datamodules.cache import rendered
from datamodules.loaders import (
    Batch,
    DomainSampler,
    batch_to_signed_unit,
    build_loader,
    placement,
    unpadded_shard,
)
from datamodules.procedural.digit_variants import SIZE, VARIANTS, VERSION, planes
from interfaces.batch import ImageBatch, LabelledBatch

RECORDED: tuple[str, ...] = ("mnist", "usps", "svhn")
DOMAINS: tuple[str, ...] = (*VARIANTS, *RECORDED)

_WORLD = 0  # one set of images for all runs, so that numbers measured with different seeds compare
# The labels of scikit-learn's digits show one form of some 130 digits, filled in 14 times; UCI says by 13 people. These
# are 8, 2 and 4 whole forms, so that hardly any hand is in two parts.
_GLYPHS = {"train": (0, 1029), "val": (1029, 1287), "test": (1287, 1797)}
_HELD = 1000  # last images of a recorded training set, which are kept for validation
_FILES = {"mnist": "MNIST/raw/*-ubyte", "usps": "usps.bz2 and usps.t.bz2", "svhn": "*_32x32.mat"}


class Digits(pl.LightningDataModule):
    """A labelled and an unlabelled domain of 32x32 digits.

    * ``plain``, ``inverted``, ``coloured``, ``warped``: the 1797 digits that scikit-learn brings along, drawn by
      ``procedural.digit_variants``; nothing is downloaded. The first 1029 train, the next 258 validate, the last 510
      test, in whole forms of one writer each. Where both domains are of this kind, one trains on every other glyph and
      the other on those between, so that no glyph is seen in both.
    * ``mnist``, ``usps``, ``svhn``: through torchvision, from ``root``. Gray images are repeated to three channels;
      28x28 and 16x16 are brought to 32x32 by Pillow's bilinear filter (the official code takes skimage's for USPS, and
      the CoGAN pickle of 7438 and 1860 images, where torchvision has 7291 and 2007). The last 1000 training images
      validate, which the official code trains on: it selects its model on the test set.

    Training gives ``LabelledBatch``: ``batch_size`` images of the source and as many of the target, whose labels are
    -1, mixed. Validation and test give ``LabelledBatch`` of the images of both that were kept out, with true labels;
    each domain as far through as the other at any time. Prediction gives ``ImageBatch`` from two loaders, one a domain.

    The images do not depend on ``seed``. Those by formula are drawn once and then read from the cache folder.

    Args:
        source: the labelled domain, one of ``DOMAINS``.
        target: the domain whose labels training must not know.
        root: folder of torchvision's data sets; none is needed where both domains are by formula.
        download: let torchvision fetch what ``root`` lacks.
        svhn_extra: train on SVHN's extra split of 531,131 images, as the official code does, which takes 1.6 GB of
            memory a process; otherwise on its training split of 73,257.
        copies: draws of each glyph in training.
        source_only: train without any image of the target, the baseline of domain adaptation: what a model does before
            it has seen the target, not even through statistics of BatchNorm. An iteration then has ``batch_size``
            images.
        batch_size: images of each domain per iteration and process; official: 16.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of the order, 0 or more.

    Raises:
        ValueError: unknown or equal domains, no ``root`` where one is needed, or too few copies.
    """

    true_pairs = False
    image_shape = (3, SIZE, SIZE)

    def __init__(
        self,
        source: str = "plain",
        target: str = "coloured",
        root: str | None = None,
        download: bool = False,
        svhn_extra: bool = True,
        copies: int = 8,
        source_only: bool = False,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.domains = (source, target)
        self.root, self.download, self.svhn_extra = root, download, svhn_extra
        self.copies, self.batch_size, self.num_workers, self.seed = copies, batch_size, num_workers, seed
        self.source_only = source_only
        self.digits: dict[str, tuple[Labelled, ...]] = {}
        for key, name in zip(("source", "target"), self.domains, strict=True):
            if name not in DOMAINS:
                raise ValueError(f"data.{key} is {name!r}: give one of {', '.join(DOMAINS)}.")
            if name in RECORDED and root is None:
                raise ValueError(f"data.{key} is {name!r}, whose files need a folder: give data.root.")
        if source == target:
            raise ValueError(f"data.source and data.target are both {source!r}: give two different ones.")
        if copies < 1:
            raise ValueError(f"data.copies is {copies}: give 1 or more.")

    def prepare_data(self) -> None:
        """Fetch what may be fetched and draw what is not in the cache, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        for place, name in enumerate(self.domains):
            if name in VARIANTS or self.download:
                self._open(place, parts_of("fit" if running is None else running.value), self.download)

    def setup(self, stage: str) -> None:
        """Open the images of a stage.

        Raises:
            FileNotFoundError: ``root`` does not hold a recorded domain.
            ImportError: a domain by formula without scikit-learn.
        """
        splits = parts_of(stage)
        source, target = (self._open(place, splits, download=False) for place in (0, 1))
        self.digits.update({split: (source[split], target[split]) for split in splits})

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        sampler = self._sampler((lambda: 0) if trainer is None else (lambda: trainer.global_step), *placement(trainer))
        return self._loader(_Rows(self.digits["train"], unlabelled=1), sampler, self.batch_size * len(sampler.sizes))

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation images of both domains, without padding."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test images."""
        return self._evaluation("test")

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """The validation images of the source, then those of the target."""
        shards = [unpadded_shard(len(each.labels), *placement(self.trainer)) for each in self.digits["val"]]
        rows = [[(i, domain, i) for i in shard] for domain, shard in enumerate(shards)]
        size = self.batch_size * len(self.domains)
        return [self._loader(_Rows(self.digits["val"]), each, size, _images_alone) for each in rows]

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``digits plain glyph 17 draw 2`` or ``mnist image 17`` for each row of a training batch (NamesImages)."""
        _, world = placement(self.trainer)
        samples = self._sampler(lambda: 0, rank, world).iteration(iteration)
        return {"image": [self._name(domain, index) for _, domain, index in samples]}

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        split = parts_of(stage)[0]
        places = (0,) if self.source_only and split == "train" else (0, 1)
        return f"{split} images of {' and '.join(self._described(place, split) for place in places)}"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> DomainSampler:
        sizes = [len(each.labels) for each in self.digits["train"]][: 1 if self.source_only else None]
        return DomainSampler(sizes, self.batch_size, self.seed, start, rank, world)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        sizes = [len(each.labels) for each in self.digits[split]]
        # By how far through its domain an image is: the first batches of an evaluation that is cut short show both.
        order = sorted(((i + 0.5) / size, domain, i) for domain, size in enumerate(sizes) for i in range(size))
        rows = [(q, *order[q][1:]) for q in unpadded_shard(len(order), *placement(self.trainer))]
        return self._loader(_Rows(self.digits[split]), rows, self.batch_size * len(self.domains))

    def _loader(
        self, dataset: "_Rows", rows: Any, size: int, collate: Callable[[Any], Any] | None = None
    ) -> DataLoader[Any]:
        return build_loader(dataset, rows, size, self.num_workers, self.seed, collate or whole)

    def _open(self, place: int, splits: Sequence[str], download: bool) -> dict[str, "Labelled"]:
        """The images of one domain in the parts of a stage."""
        name = self.domains[place]
        if name in VARIANTS:
            glyphs, labels = _glyphs()
            return {split: self._drawn(place, split, glyphs, labels) for split in splits}
        assert self.root is not None  # for mypy: the constructor has seen to it
        images, labels = _recorded(name, self.root, splits[0] != "test", self.svhn_extra, download)
        rows = {"train": slice(None, -_HELD), "val": slice(-_HELD, None), "test": slice(None)}
        return {split: Labelled(_resized(images[rows[split]]), labels[rows[split]]) for split in splits}

    def _drawn(self, place: int, split: str, glyphs: np.ndarray, labels: np.ndarray) -> "Labelled":
        name, which, draws = self.domains[place], self._which(place, split), self.copies if split == "train" else 1
        images = rendered(
            partial(planes, variant=name, glyphs=glyphs, which=np.array(which), world=_WORLD),
            len(which) * draws,
            self.image_shape,
            key={"generator": "digits", "version": VERSION, "world": _WORLD, "domain": name, "glyphs": str(which)},
            what=f"digits {name}",
        )
        return Labelled(images, np.tile(labels[which], draws))

    def _which(self, place: int, split: str) -> range:
        """Glyphs of a domain by formula: every other one where both domains are, and train."""
        first, end = _GLYPHS[split]
        shared = split == "train" and set(self.domains) <= set(VARIANTS)
        return range(first + place, end, 2) if shared else range(first, end)

    def _name(self, place: int, index: int) -> str:
        if self.domains[place] in RECORDED:
            return f"{self.domains[place]} image {index}"
        which = self._which(place, "train")
        return f"digits {self.domains[place]} glyph {which[index % len(which)]} draw {index // len(which)}"

    def _described(self, place: int, split: str) -> str:
        name, which = self.domains[place], self._which(place, split)
        if name in VARIANTS:
            draws = self.copies if split == "train" else 1
            every = "every other glyph of" if which.step > 1 else "glyphs"
            return f"digits {name} version {VERSION}, {every} {which[0]} to {which[-1]} in {draws} draw(s)"
        extra = " extra" if name == "svhn" and self.svhn_extra and split != "test" else ""
        part = {"train": f", all but the last {_HELD}", "val": f", the last {_HELD}", "test": ""}[split]
        return f"{name}{extra} by torchvision{part}"


class Labelled(NamedTuple):
    """Images of one domain with their digits."""

    images: np.ndarray  # (N, 1 or 3, 32, 32) uint8
    labels: np.ndarray  # (N,) int64


class _Rows(Dataset[LabelledBatch]):
    """Whole batches, a domain's rows at once; addressed by what ``DomainSampler`` yields.

    Args:
        domains: images of each.
        unlabelled: the domain whose labels are -1, or None.
    """

    def __init__(self, domains: Sequence[Labelled], unlabelled: int | None = None) -> None:
        self._images = [each.images for each in domains]
        self._labels = [
            np.full_like(each.labels, -1) if k == unlabelled else each.labels for k, each in enumerate(domains)
        ]

    def __getitems__(self, samples: Sequence[tuple[int, int, int]]) -> LabelledBatch:
        _, domain, index = np.array(samples, np.int64).T
        image, label = np.empty((len(samples), 3, SIZE, SIZE), np.uint8), np.empty(len(samples), np.int64)
        for k in range(len(self._images)):
            rows = domain == k
            image[rows] = self._images[k][index[rows]]  # gray is repeated here
            label[rows] = self._labels[k][index[rows]]
        return LabelledBatch(torch.from_numpy(image), torch.from_numpy(domain.copy()), torch.from_numpy(label))


def _images_alone(batch: Any) -> ImageBatch:
    return ImageBatch(batch.image)


def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 of 0 to 16, and (1797,) int64: the test set of UCI's optical digits, by 13 writers."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"Digits in {', '.join(VARIANTS)} are drawn from those of scikit-learn: pip install scikit-learn, or give "
            f"data.source and data.target of {', '.join(RECORDED)}."
        ) from error
    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def _recorded(name: str, root: str, train: bool, extra: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1 or 3, H, W) uint8 and (N,) int64 of one of torchvision's data sets.

    Raises:
        FileNotFoundError: it cannot be read or fetched.
    """
    from torchvision import datasets

    try:
        if name == "svhn":
            split = "test" if not train else "extra" if extra else "train"
            svhn = datasets.SVHN(root, split=split, download=download)
            return svhn.data, svhn.labels
        kind = datasets.MNIST if name == "mnist" else datasets.USPS
        found = kind(root, train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"There is no {name} in {root} ({error}): set data.root to the folder that holds {_FILES[name]}, or "
            "data.download to true where the network allows it."
        ) from error
    return np.asarray(found.data)[:, None], np.asarray(found.targets, np.int64)


def _resized(images: np.ndarray) -> np.ndarray:
    """Gray (N, 1, h, w) to (N, 1, 32, 32) by Pillow's bilinear filter; 32x32 images pass unchanged."""
    if images.shape[2:] == (SIZE, SIZE):
        return images
    grown = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in images[:, 0]]
    return np.stack([np.asarray(image) for image in grown])[:, None]
