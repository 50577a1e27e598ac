"""Batches cut out of arrays of rendered images: what the procedural DataModules have in common."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from interfaces.batch import AlignedBatch, DomainBatch, ImageBatch, UnpairedBatch


def rows(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """A copy of some rows, so that nothing writes into the cache."""
    return torch.from_numpy(np.asarray(images[list(indices)]))


def mirrored(images: Tensor, numbers: Sequence[int], key: tuple[int, ...], then: int) -> Tensor:
    """Half of the images mirrored in place: image k where the draw of (*key, numbers[k], then) says so."""
    for row, q in enumerate(numbers):
        if np.random.default_rng((*key, q, then)).random() < 0.5:
            images[row] = images[row].flip(-1)
    return images


def whole(batch: Any) -> Any:
    """Collate of a dataset that gives whole batches: nothing is left to do."""
    return batch


def splits(stage: str) -> tuple[str, ...]:
    """The sets of procedural data that a stage serves."""
    return {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("val",)}[stage]


class SameRows(Dataset[Any]):
    """Whole evaluation batches: the same rows of every array.

    Args:
        kind: makes a batch of one tensor an array.
        arrays: (N, C, H, W) uint8 each, or (N, K) int64 of what is known of them.
    """

    def __init__(self, kind: Callable[..., NamedTuple], arrays: Sequence[np.ndarray]) -> None:
        self._kind, self._arrays = kind, arrays

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitems__(self, indices: Sequence[int]) -> NamedTuple:
        return self._kind(*(rows(array, indices) for array in self._arrays))


def one_domain(array: np.ndarray) -> SameRows:
    """``ImageBatch`` of one domain, for prediction."""
    return SameRows(ImageBatch, (array,))


def aligned(images: Sequence[np.ndarray], again: Sequence[np.ndarray]) -> SameRows:
    """``AlignedBatch`` of renders of the same scenes, one array a domain, and of those with another draw of style."""
    return SameRows(_aligned, (*images, *again))


def _aligned(*each: Tensor) -> AlignedBatch:
    half = len(each) // 2
    return AlignedBatch(torch.stack(each[:half], 1), torch.stack(each[half:], 1))


class PairRows(Dataset[UnpairedBatch]):
    """Whole training batches of two unpaired domains, addressed by what ``loaders.UnpairedSampler`` yields.

    Args:
        a: (N, C, H, W) uint8.
        b: of the other domain.
        seed: of the mirroring.
        flip: mirror half of the images.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, seed: int, flip: bool) -> None:
        self._images, self._seed, self._flip = (a, b), seed, flip

    def __getitems__(self, samples: Sequence[tuple[int, int, int]]) -> UnpairedBatch:
        numbers, i, j = zip(*samples, strict=True)
        return UnpairedBatch(self._take(0, numbers, i), self._take(1, numbers, j))

    def _take(self, domain: int, numbers: Sequence[int], indices: Sequence[int]) -> Tensor:
        images = rows(self._images[domain], indices)
        return mirrored(images, numbers, (self._seed,), domain) if self._flip else images


class DomainRows(Dataset[DomainBatch]):
    """Whole training batches of several domains, addressed by what ``loaders.DomainSampler`` yields.

    Args:
        arrays: (N, C, H, W) uint8 of each domain.
        seed: of the mirroring.
        flip: mirror half of the images.
    """

    def __init__(self, arrays: Sequence[np.ndarray], seed: int, flip: bool) -> None:
        self._arrays, self._seed, self._flip = arrays, seed, flip

    def __getitems__(self, samples: Sequence[tuple[int, int, int]]) -> DomainBatch:
        numbers, domains, indices = zip(*samples, strict=True)
        images = torch.stack([rows(self._arrays[d], (i,))[0] for d, i in zip(domains, indices, strict=True)])
        if self._flip:
            mirrored(images, numbers, (self._seed,), 0)
        return DomainBatch(images, torch.tensor(domains))
