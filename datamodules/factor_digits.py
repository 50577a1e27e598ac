"""Digits whose one factor is their label, of 28x28 pixels: the data of the lecture's auto-encoder.

Sources of ``factors.FactorDataModule``. Nothing is fetched but MNIST, where that is allowed.
"""

import zlib
from collections.abc import Callable
from functools import cached_property, partial

import cv2
import numpy as np

from datamodules.cache import rendered
from datamodules.factor_grid import checked
from datamodules.procedural import digit_variants

_WORLD = 0  # one set of drawn digits for all runs


class LabelledDigits:
    """28x28 digits whose one factor is the label: what the two sets below have in common.

    Args:
        title: for messages and the fingerprint.
        read: gives (M, 1, 28, 28) uint8 images of training and then of evaluation, their (M,) int64 labels, and how
            many are for training; called when images are first asked for.
    """

    names = ("digit",)
    sizes = (10,)
    image_shape = (1, 28, 28)

    def __init__(self, title: str, read: Callable[[], tuple[np.ndarray, np.ndarray, int]]) -> None:
        self._title, self._reader = title, read

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 1, 28, 28) uint8, an image of each row of factors: of equal rows, one image after the other.

        Raises:
            ValueError: other columns, a value out of range, or a digit of which there is no image.
        """
        wanted = checked(factors, self.names, self.sizes)[:, 0]
        index = np.empty(len(wanted), np.int64)
        for digit in np.unique(wanted):
            asked, there = np.flatnonzero(wanted == digit), np.flatnonzero(self.labels[:, 0] == digit)
            if not len(there):
                raise ValueError(f"factors ask for digit {digit}, of which there is no image in {self._title}.")
            index[asked] = there[np.arange(len(asked)) % len(there)]
        return self.rows(index)

    def rows(self, index: np.ndarray) -> np.ndarray:
        """(N, 1, 28, 28) uint8, images by number."""
        return self._read[0][index]

    @property
    def labels(self) -> np.ndarray:
        """(M, 1) int64, the digit of each image."""
        return self._read[1]

    @property
    def trained(self) -> int:
        """Training draws from so many first images, evaluation from the others."""
        return self._read[2]

    def fingerprint(self) -> str:
        """The images and labels by the sum of their bytes."""
        images, labels, _ = self._read
        return f"{self._title} {zlib.crc32(labels.tobytes(), zlib.crc32(images.tobytes())):08x}"

    @cached_property
    def _read(self) -> tuple[np.ndarray, np.ndarray, int]:
        images, labels, trained = self._reader()
        return images, labels[:, None], trained


class SmallDigits(LabelledDigits):
    """The 1797 digits that scikit-learn brings along, white on black, as large as MNIST's; nothing is downloaded.

    They are drawn as ``plain`` of ``procedural.digit_variants``. The first 1287 train, and the last 510, whole forms
    of one writer each, evaluate (see ``datamodules.digits``).

    Args:
        copies: draws of each, placed a little differently.

    Raises:
        ValueError: too few copies.
    """

    def __init__(self, copies: int = 4) -> None:
        if copies < 1:
            raise ValueError(f"copies is {copies}: give 1 or more.")
        super().__init__("scikit-learn's digits", partial(_small_digits, copies))


class MNIST(LabelledDigits):
    """MNIST through torchvision: 60,000 images train, the 10,000 of its test set evaluate.

    Args:
        root: folder of torchvision's data sets, which holds ``MNIST/raw``.
        download: let torchvision fetch what ``root`` lacks.

    Raises:
        FileNotFoundError: when images are first asked for, ``root`` does not hold them.
    """

    def __init__(self, root: str, download: bool = False) -> None:
        super().__init__("MNIST", partial(_mnist, root, download))


_TRAINED = 1287  # of scikit-learn's digits


def _small_digits(copies: int) -> tuple[np.ndarray, np.ndarray, int]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    glyphs, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    parts = np.arange(_TRAINED), np.arange(_TRAINED, len(glyphs))
    images = [
        rendered(
            partial(_digit, glyphs=glyphs, which=which),
            len(which) * copies,
            LabelledDigits.image_shape,
            key={"generator": "digits 28x28", "version": digit_variants.VERSION, "first": int(which[0])},
            what="digits 28x28",
        )
        for which in parts
    ]
    order = np.concatenate([np.tile(which, copies) for which in parts])
    return np.concatenate(images), labels[order], len(images[0])


def _digit(index: int, glyphs: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(1, 28, 28) uint8: all glyphs of ``which`` in draw 0, then all in draw 1."""
    drawn = digit_variants.planes(index, "plain", glyphs, which, _WORLD)[0]
    return cv2.resize(drawn, (28, 28), interpolation=cv2.INTER_AREA)[None]


def _mnist(root: str, download: bool) -> tuple[np.ndarray, np.ndarray, int]:
    from torchvision import datasets

    try:
        train, test = (datasets.MNIST(root, train=part, download=download) for part in (True, False))
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"There is no MNIST in {root} ({error}): set root to the folder that holds MNIST/raw, or download to true "
            "where the network allows it."
        ) from error
    images = np.concatenate([np.asarray(part.data) for part in (train, test)])
    labels = np.concatenate([np.asarray(part.targets, np.int64) for part in (train, test)])
    return images[:, None], labels, len(train.data)
