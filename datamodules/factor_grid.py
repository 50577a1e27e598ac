"""Numbers of images in a grid of factors, of which the last runs fastest."""

from collections.abc import Sequence

import numpy as np


def index_of(factors: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
    """The number of each row of factors in a grid of which the last factor runs fastest.

    Args:
        factors: (N, K) integers.
        names: of the K factors.
        sizes: numbers of their values.

    Returns:
        (N,) int64: the dot product with prod(sizes) / cumprod(sizes), as dSprites' authors have it.

    Raises:
        ValueError: other columns, or a value out of range.
    """
    columns = tuple(checked(factors, names, sizes).T)
    return np.ravel_multi_index(columns, tuple(sizes)).astype(np.int64, copy=False)


def factors_of(index: np.ndarray | range, sizes: Sequence[int]) -> np.ndarray:
    """(N, K) int64, the factors of images by number: the inverse of ``index_of``.

    Raises:
        ValueError: a number out of range.
    """
    return np.stack(np.unravel_index(np.asarray(index, np.int64), tuple(sizes)), axis=-1).astype(np.int64, copy=False)


def checked(factors: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
    """The same factors as (N, K) int64.

    Raises:
        ValueError: other columns, or a value out of range.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(names) or not np.issubdtype(factors.dtype, np.integer):
        what = f"{factors.dtype} {factors.shape}"
        raise ValueError(f"factors are {what}: give whole numbers, one row an image, columns {', '.join(names)}.")
    wrong = (factors < 0) | (factors >= np.array(sizes))
    if wrong.any():
        row, k = np.argwhere(wrong)[0]
        raise ValueError(f"{names[k]} is {factors[row, k]} in row {row} of factors: give 0 to {sizes[k] - 1}.")
    return factors.astype(np.int64, copy=False)
