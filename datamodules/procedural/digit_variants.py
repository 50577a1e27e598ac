"""Handwritten digits in four looks: what a classifier of one look finds hard in another, although a person does not.

A glyph is one of scikit-learn's bundled digits: (8, 8), 0 to 16, the ink in each cell of 4x4 pixels of a scan. A look
is a function of the glyph and of ``numbers``, from which all its draws come: equal numbers, equal pixels. Every draw
places the glyph a little differently, so that a few hundred glyphs make a few thousand images.
"""

from collections.abc import Sequence

import cv2
import numpy as np

VERSION = 1  # raised whenever a rendered pixel changes; part of the cache key
SIZE = 32
VARIANTS: tuple[str, ...] = ("plain", "inverted", "coloured", "warped")

_INK = 22.0  # height and width of the middle draw of a glyph, in pixels; MNIST's digits are as large at this size
_UP, _PAD = 4, 2  # pixels of the blown-up glyph per cell, and empty cells around it
_FINE = 4  # samples per pixel and direction of what OpenCV draws
_EDGE = 0.4  # ink from the outside to the inside of a stroke; a cubic blow-up alone is blurred


def plain(glyph: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """White on black, as MNIST.

    Args:
        glyph: (8, 8), 0 to 16.
        numbers: integers >= 0, the seed of all draws.

    Returns:
        (32, 32, 3) uint8, as of every look.
    """
    return _bytes(_placed(glyph, np.random.default_rng(numbers))[..., None].repeat(3, 2))


def inverted(glyph: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Black on white: the same draw as ``plain`` of the same numbers."""
    return 255 - plain(glyph, numbers)


def coloured(glyph: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """One colour on a texture of others, lighter or darker, between parts of other characters, as SVHN."""
    rng = np.random.default_rng(numbers)
    ink = np.maximum(_placed(glyph, rng), _distractors(rng))
    paper, pen = _colours(rng)
    picture = paper + _texture(rng)
    picture += ink[..., None] * (pen - picture)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8))
    return _bytes(picture + rng.normal(0.0, 0.02, picture.shape))


def warped(glyph: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """White on black in another hand: slanted, thin or bold, and bent by a smooth random field, as USPS to MNIST."""
    rng = np.random.default_rng(numbers)
    slant, thickness = rng.uniform(0.2, 0.5) * rng.choice((-1.0, 1.0)), rng.choice((0.28, 0.58))
    bend = rng.normal(0.0, 1.2, (2, 4, 4)).astype(np.float32)
    return _bytes(_placed(glyph, rng, slant, thickness, bend)[..., None].repeat(3, 2))


def planes(index: int, variant: str, glyphs: np.ndarray, which: np.ndarray, world: int) -> np.ndarray:
    """Image ``index`` of a look, as `datamodules.cache.rendered` wants it: all glyphs in draw 0, then all in draw 1.

    Args:
        index: of the image.
        variant: one of ``VARIANTS``.
        glyphs: (N, 8, 8), 0 to 16.
        which: (n,) places in ``glyphs`` of those that are shown.
        world: seed of all draws.

    Returns:
        (3, 32, 32) uint8.
    """
    draw, place = divmod(index, len(which))
    glyph = int(which[place])
    look = {"plain": plain, "inverted": inverted, "coloured": coloured, "warped": warped}[variant]
    return np.ascontiguousarray(look(glyphs[glyph], (world, draw, glyph)).transpose(2, 0, 1))


def _placed(
    glyph: np.ndarray,
    rng: np.random.Generator,
    slant: float = 0.0,
    threshold: float = 0.45,
    bend: np.ndarray | None = None,
) -> np.ndarray:
    """The ink of a glyph on the canvas, (32, 32) float32 in [0, 1], under a small turn, scale and shift.

    Args:
        glyph: (8, 8), 0 to 16.
        rng: of the placement.
        slant: how far the top leans to the right, per height.
        threshold: of the blown-up ink, where a stroke ends: lower is bolder.
        bend: (2, k, k) displacements in pixels on a coarse grid; None for none.
    """
    angle, scale = rng.normal(0.0, 0.08), _INK / 8.0 * rng.uniform(0.88, 1.12, 2)
    shift = rng.uniform(-2.0, 2.0, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # From pixels of the canvas back to cells of the glyph, whose centre is between cells 3 and 4.
    back = np.linalg.inv(turn @ np.array([[1.0, -slant], [0.0, 1.0]]) @ np.diag(scale))
    at = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), 0).reshape(2, -1) - (SIZE - 1) / 2 - shift[:, None]
    if bend is not None:
        at += np.stack([cv2.resize(axis, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for axis in bend]).reshape(2, -1)
    x, y = ((back @ at + 3.5 + _PAD) * _UP + (_UP - 1) / 2).astype(np.float32).reshape(2, SIZE, SIZE)
    field = cv2.remap(_blown_up(glyph), x, y, cv2.INTER_LINEAR)
    edge = np.clip((field - threshold) / _EDGE + 0.5, 0.0, 1.0)
    return edge * edge * (3.0 - 2.0 * edge)


def _blown_up(glyph: np.ndarray) -> np.ndarray:
    """(48, 48) float32: the ink, 0 to 1, between the cells by cubic interpolation, with an empty border."""
    cells = np.pad(glyph.astype(np.float32) / 16.0, _PAD)
    return cv2.resize(cells, None, fx=_UP, fy=_UP, interpolation=cv2.INTER_CUBIC)


def _distractors(rng: np.random.Generator) -> np.ndarray:
    """(32, 32) float32: arcs and bars that come in from the left and right edges, as neighbours of a house number."""
    fine = np.zeros((_FINE * SIZE, _FINE * SIZE), np.uint8)
    for edge in (0.0, 1.0):
        if rng.random() < 0.7:
            centre = edge + (2.0 * edge - 1.0) * rng.uniform(-0.05, 0.1), rng.uniform(0.25, 0.75)
            axes = rng.uniform((0.04, 0.12), (0.16, 0.36))
            start = rng.uniform(0.0, 360.0)
            cv2.ellipse(
                fine,
                _fine(centre),
                _fine(axes),
                rng.normal(0.0, 15.0),
                start,
                start + rng.uniform(150.0, 360.0),
                255,
                int(rng.integers(8, 16)),
                cv2.LINE_AA,
            )
    return cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0


def _fine(point: tuple[float, float] | np.ndarray) -> tuple[int, int]:
    return round(_FINE * SIZE * point[0]), round(_FINE * SIZE * point[1])


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours of paper and pen, (3,) float32 each, far apart in brightness; of five pens, four are the lighter one."""
    hues = rng.uniform(-0.2, 0.2, (2, 3))
    dark, light = rng.uniform((0.1, 0.65), (0.35, 0.95))
    paper, pen = (dark, light) if rng.random() < 0.8 else (light, dark)
    first, second = np.clip(np.array([[paper], [pen]]) + hues, 0.0, 1.0).astype(np.float32)
    return first, second


def _texture(rng: np.random.Generator) -> np.ndarray:
    """(32, 32, 3) float32 around 0: a slope, blotches and grain."""
    picture = np.zeros((SIZE, SIZE, 3), np.float32)
    for cells, strength in ((2, 0.12), (4, 0.07), (11, 0.04)):
        noise = rng.normal(0.0, strength, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return picture


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
