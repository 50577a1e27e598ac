"""White shapes on black by formula: the factors and the looks of dSprites, without its file.

A sprite of one shape, scale and orientation is one small binary mask, and positions are whole pixels apart. So there
are 720 masks, drawn once a process, and an image is one of them laid on black.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from datamodules.factor_grid import checked

VERSION = 1  # raised whenever a pixel changes
SIZE = 64
SHAPES: tuple[str, ...] = ("square", "ellipse", "heart")
NAMES: tuple[str, ...] = ("shape", "scale", "orientation", "position x", "position y")
SIZES: tuple[int, ...] = (3, 6, 40, 32, 32)
SCALES = np.linspace(0.5, 1.0, SIZES[1])
ANGLES = np.linspace(0.0, 2.0 * np.pi, SIZES[2])  # as published: the first and the last are the same

_WINDOW = SIZE - SIZES[3] + 1  # height and width of a mask
_FINE = 8  # samples per pixel and direction
# Where a shape turns, right of and above the middle of its window: off the pixels' own symmetry, so that quarter turns
# of a small square differ and no two of 3 x 6 x 39 masks are equal, as in the published file no two images should be.
_PIVOT = 0.3, 0.2
# Pixels at scale 1.
_HALF_SIDE = 11.0  # of the square, a third of the image from side to side
_HALF_AXES = 14.0, 9.0  # of the ellipse
_HEART = 10.5  # length of a unit of the heart's equation, in which the heart is 2.28 wide and 2.23 high
_HEART_CENTRE = 0.2935  # height of its centre of mass, about which it turns, in these units


class Sprites:
    """Every combination of 3 shapes, 6 scales, 40 orientations, 32 columns and 32 rows: 737,280 images.

    The factors, their numbers of values and the order of the images are those of dSprites (Matthey et al. 2017): image
    ``factor_grid.index_of(factors)``, in which the last factor runs fastest. Scales are 0.5 to 1 of a square of 22x22,
    an ellipse of 28x18 and a heart of 24x24 pixels; orientations turn anticlockwise by 360/39 degrees, so that the last
    is the first again; positions step by one pixel, to the right and downwards, and no image cuts a shape. The shapes
    are drawn anew: pixels are not those of the published file.
    """

    names = NAMES
    sizes = SIZES
    image_shape = (1, SIZE, SIZE)

    def images(self, factors: np.ndarray) -> np.ndarray:
        """The image of each row of factors.

        Args:
            factors: (N, 5) integers, columns as ``names``, values from 0 to ``sizes`` - 1.

        Returns:
            (N, 1, 64, 64) uint8, 0 or 255.

        Raises:
            ValueError: other columns, or a value out of range.
        """
        factors, shapes = checked(factors, NAMES, SIZES), masks()
        out = np.zeros((len(factors), 1, SIZE, SIZE), np.uint8)
        for image, (shape, scale, orientation, x, y) in zip(out[:, 0], factors.tolist(), strict=True):
            image[y : y + _WINDOW, x : x + _WINDOW] = shapes[shape, scale, orientation]
        return out

    def fingerprint(self) -> str:
        """Which images these are, in words that fix every pixel."""
        return f"sprites version {VERSION}"


@cache
def masks() -> np.ndarray:
    """(3, 6, 40, 33, 33) uint8, 255 where a shape covers half of a pixel or more: by shape, scale and orientation."""
    fine = _WINDOW * _FINE
    line = (np.arange(fine) + 0.5) / _FINE - _WINDOW / 2
    right, up = np.meshgrid(line - _PIVOT[0], -line - _PIVOT[1])
    out = np.empty((*SIZES[:3], _WINDOW, _WINDOW), np.uint8)
    for k, angle in enumerate(ANGLES):
        # The shape turns one way, so its own coordinates are those of the picture turned the other way.
        x, y = np.cos(angle) * right + np.sin(angle) * up, np.cos(angle) * up - np.sin(angle) * right
        for j, scale in enumerate(SCALES):
            for i, name in enumerate(SHAPES):
                inside = _INSIDE[name](x / scale, y / scale)
                covered = inside.reshape(_WINDOW, _FINE, _WINDOW, _FINE).sum((1, 3), dtype=np.uint8)
                out[i, j, k] = np.where(covered >= _FINE**2 // 2, 255, 0)
    out.flags.writeable = False  # all callers share it
    return out


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) <= _HALF_SIDE


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x / _HALF_AXES[0]) ** 2 + (y / _HALF_AXES[1]) ** 2 <= 1.0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x^2 + y^2 - 1)^3 <= x^2 y^3, the well-known sextic."""
    squared, y = (x / _HEART) ** 2, y / _HEART + _HEART_CENTRE
    round_ = squared + y * y - 1.0
    return round_ * round_ * round_ <= squared * y * y * y


_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "square": _square,
    "ellipse": _ellipse,
    "heart": _heart,
}
