"""Coloured bodies in a coloured room, by ray casting: the factors and the looks of 3D Shapes, without its file.

Colours light nothing but themselves, so that an image is a sum: of each colour, as much as its surface is seen and lit
in a pixel. The shares are those of 480 views, cast once a machine; what the hues make of them is a small product.
"""

from functools import cache

import numpy as np

from datamodules.cache import rendered
from datamodules.factor_grid import checked, index_of
from datamodules.procedural.rooms_cast import ANGLES, SCALES, SHAPES, SIZE, cast

VERSION = 1  # raised whenever a pixel changes; part of the cache key
NAMES: tuple[str, ...] = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")
SIZES: tuple[int, ...] = (10, 10, 10, len(SCALES), len(SHAPES), len(ANGLES))
# Around the circle of hues from red in steps of 36 degrees at full saturation, in fifths of full intensity.
HUES: np.ndarray = np.array(
    [(5, 0, 0), (5, 3, 0), (4, 5, 0), (1, 5, 0), (0, 5, 2), (0, 5, 5), (0, 2, 5), (1, 0, 5), (4, 0, 5), (5, 0, 3)],
    np.float32,
)
HUES.setflags(write=False)
_FULL = np.float32(5.0)


class Rooms:
    """Every combination of 10 hues of the floor, the walls and the object, 8 scales, 4 shapes and 15 views: 480,000.

    The factors, their numbers of values and the order of the images are those of 3D Shapes (Burgess and Kim 2018):
    image ``factor_grid.index_of(factors)``, in which the last factor runs fastest. Hues are 36 degrees apart, from red;
    scales are 0.75 to 1.25; shapes are cube, cylinder, sphere and capsule, standing on the floor; orientations take the
    camera about the object from 30 degrees on its left to 30 on its right. The rooms are drawn anew: pixels are not
    those of the published file. No two images are equal.

    The first use casts 480 views into the cache, 8 MB, which takes seconds.
    """

    names = NAMES
    sizes = SIZES
    image_shape = (3, SIZE, SIZE)

    def images(self, factors: np.ndarray) -> np.ndarray:
        """The image of each row of factors.

        Args:
            factors: (N, 6) integers, columns as ``names``, values from 0 to ``sizes`` - 1.

        Returns:
            (N, 3, 64, 64) uint8, RGB.

        Raises:
            ValueError: other columns, or a value out of range.
            OSError: the views cannot be stored in the cache.
        """
        factors, seen = checked(factors, NAMES, SIZES), shares()
        views = index_of(factors[:, 3:], NAMES[3:], SIZES[3:])
        colours = np.full((len(factors), 4, 3), _FULL)  # of floor, walls, object and the white of its highlight
        colours[:, :3] = HUES[factors[:, :3]]
        out = np.empty((len(factors), 3, SIZE, SIZE), np.uint8)
        for image, colour, view in zip(out.reshape(-1, 3, SIZE**2), colours, views.tolist(), strict=True):
            # Sums of whole numbers, exact in any order; and a fifth of one never lies half-way between two.
            image[...] = np.rint(colour.T @ seen[view].astype(np.float32) / _FULL)
        return out

    def fingerprint(self) -> str:
        """Which images these are, in words that fix every pixel."""
        return f"rooms version {VERSION}"


@cache
def shares() -> np.ndarray:
    """(480, 4, 4096) uint8 from the cache or new, what ``rooms_cast.cast`` gives of each view, pixels row by row."""
    count, shape = int(np.prod(SIZES[3:])), (4, SIZE, SIZE)
    seen = rendered(cast, count, shape, {"source": "rooms", "version": VERSION}, f"views of rooms {SIZE}x{SIZE}")
    return np.asarray(seen).reshape(count, 4, SIZE**2)
