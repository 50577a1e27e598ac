"""Files with their transforms, by number: what every DataModule of photographs reads."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images import load_rgb
from datamodules.loaders import Key
from datamodules.transforms import Pipeline
from interfaces.batch import ImageBatch


class ImageFiles:
    """Files and their transforms: ``source(index, key)`` for ``loaders.UnpairedDataset``."""

    def __init__(self, files: Sequence[Path], pipeline: Pipeline) -> None:
        # One array of bytes instead of many objects: workers that read it do not copy its pages.
        self._files = np.array([os.fsencode(file) for file in files])
        self._pipeline = pipeline

    def __len__(self) -> int:
        return len(self._files)

    def __call__(self, index: int, key: Key) -> Tensor:
        """(3, H, W) uint8, or float32 where the transforms normalise; the draws come from ``key``."""
        return self._pipeline(load_rgb(self.file(index)), key)

    def file(self, index: int) -> str:
        """Path of one image."""
        return os.fsdecode(self._files[index])


class Images(Dataset[ImageBatch]):
    """One domain, image by image."""

    def __init__(self, source: ImageFiles) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> ImageBatch:
        return ImageBatch(self._source(index, (index,)))


def content_of(file: Path, split: str) -> str:
    """The size in bytes; of an image that numbers are measured on, a hash of all of them."""
    if split.startswith("train"):
        return str(file.stat().st_size)
    return hashlib.sha256(file.read_bytes()).hexdigest()
