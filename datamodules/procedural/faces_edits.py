"""The truth of an edit: the same face with one attribute that it has not, or without one that it has."""

import numpy as np

from datamodules.procedural.faces import factors, planes
from datamodules.procedural.faces_content import AMOUNTS, Marginals


def swapped(
    index: int,
    seed: int,
    first: int,
    domain: str,
    height: int,
    width: int,
    draw: int = 0,
    marginals: Marginals | None = None,
    attribute: str = "smile",
) -> np.ndarray:
    """(3, H, W) uint8 of face ``first + index`` with ``attribute`` swapped; all else stays, pixel by pixel.

    The amount of the attribute is the middle of those of faces that have it, or have it not.
    """
    marginals = marginals or Marginals()
    has = factors(seed, first + index, marginals).attributes[attribute]
    low, high = AMOUNTS[attribute][1 - has]
    overrides = {attribute: (low + high) / 2}
    return planes(index, seed, first, domain, height, width, draw, marginals, overrides)
