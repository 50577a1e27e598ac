"""Street scenes by formula: one scene can be seen in eight domains, so the true pair of every image is known.

A scene is a draw of *content*: the street, its houses, cars, trees and people. A *domain* adds its own *style*: light
and weather, drawn apart from the content. Same seed and index, other domain: the same street, pixel for pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from datamodules.procedural import streets_style
from datamodules.procedural.raster import Canvas
from datamodules.procedural.streets_content import CONTENT, CONTENT_RANGES, Scene, draw_scene
from datamodules.procedural.streets_paint import CLASSES, paint
from datamodules.procedural.streets_style import STYLE

__all__ = [
    "CLASSES",
    "CONTENT",
    "CONTENT_RANGES",
    "DOMAINS",
    "PALETTE",
    "STYLE",
    "VERSION",
    "Street",
    "classes",
    "factors",
    "planes",
    "planes_and_classes",
    "street",
]

VERSION = 2  # raised whenever a rendered pixel changes; part of the cache key
DOMAINS: tuple[str, ...] = ("day", "night", "rain", "snow", "fog", "dusk", "labels", "sketch")
PALETTE: np.ndarray = np.array(  # colours of the labels domain, one per class, close to those of Cityscapes
    [
        (70, 130, 180),  # sky
        (70, 70, 70),  # building
        (250, 200, 60),  # window
        (128, 64, 128),  # road
        (235, 235, 235),  # marking
        (244, 35, 232),  # sidewalk
        (152, 251, 152),  # terrain
        (107, 142, 35),  # tree
        (0, 0, 142),  # car
        (220, 20, 60),  # person
        (190, 153, 153),  # lamp
    ],
    np.uint8,
)
PALETTE.setflags(write=False)

_SIZES = (32, 512)
_SHADED = {
    "day": streets_style.day,
    "night": streets_style.night,
    "rain": streets_style.rain,
    "snow": streets_style.snow,
    "fog": streets_style.fog,
    "dusk": streets_style.dusk,
}


class Street(NamedTuple):
    """One render of one scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        semantic: (H, W) uint8, indices into `CLASSES`; the same in all domains.
        content: (len(CONTENT),) float32, see `CONTENT_RANGES`; the same in all domains and sizes.
        style: (len(STYLE[domain]),) float32 in [0, 1]; the same in all sizes.
        domain: index into `DOMAINS`.
    """

    image: np.ndarray
    semantic: np.ndarray
    content: np.ndarray
    style: np.ndarray
    domain: int


def street(seed: int, index: int, domain: str, height: int, width: int, draw: int = 0) -> Street:
    """Render a scene.

    Args:
        seed: of the collection of scenes, >= 0.
        index: of the scene in its collection, >= 0.
        domain: one of `DOMAINS`.
        height: of the image, 32 to 512.
        width: of the image, 32 to 512.
        draw: picks another style for the same scene and domain, >= 0.

    Returns:
        The render; the same arguments always give the same arrays.

    Raises:
        ValueError: for an unknown domain, a size out of range, or a negative seed, index or draw.
    """
    if not all(_SIZES[0] <= size <= _SIZES[1] for size in (height, width)):
        raise ValueError(
            f"Streets of {height}x{width} cannot be rendered; each side must be {_SIZES[0]} to {_SIZES[1]}."
        )
    scene, style, rng = _drawn(seed, index, domain, draw)
    canvas = paint(scene, height, width)
    semantic = canvas.semantic()
    if domain == "labels":
        picture = PALETTE[semantic]
    elif domain == "sketch":
        picture = _sketch(canvas)
    else:
        light = _SHADED[domain](scene, canvas.buffers(), style, rng)
        picture = np.rint(np.clip(light, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Street(picture, semantic, scene.vector(), style, DOMAINS.index(domain))


def factors(seed: int, index: int, domain: str, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Content and style of ``street(seed, index, domain, ..., draw)`` without rendering it."""
    scene, style, _ = _drawn(seed, index, domain, draw)
    return scene.vector(), style


def _drawn(seed: int, index: int, domain: str, draw: int) -> tuple[Scene, np.ndarray, np.random.Generator]:
    """A scene, its style in a domain, and the generator that places stars, drops and flakes."""
    if domain not in DOMAINS:
        raise ValueError(f"There is no street domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    if min(seed, index, draw) < 0:
        raise ValueError(f"seed, index and draw must be 0 or more, not {seed}, {index} and {draw}.")
    rng = np.random.default_rng([2 + DOMAINS.index(domain), seed, index, draw])
    style = rng.random(len(STYLE[domain]), dtype=np.float32)
    return draw_scene(np.random.default_rng([1, seed, index])), style, rng


def planes(index: int, seed: int, first: int, domain: str, height: int, width: int, draw: int = 0) -> np.ndarray:
    """(3, H, W) uint8 of scene ``first + index``: the picture alone, index first as `datamodules.cache.rendered` wants.

    It stands here and not beside the DataModule because render workers import its module, and this one loads no torch.
    """
    return np.ascontiguousarray(street(seed, first + index, domain, height, width, draw).image.transpose(2, 0, 1))


def classes(index: int, seed: int, first: int, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 semantic map of scene ``first + index``."""
    return street(seed, first + index, "labels", height, width).semantic


def planes_and_classes(index: int, seed: int, first: int, domain: str, height: int, width: int) -> np.ndarray:
    """(4, H, W) uint8: ``planes`` and, as the fourth, the semantic map."""
    scene = street(seed, first + index, domain, height, width)
    return np.concatenate([scene.image.transpose(2, 0, 1), scene.semantic[None]])


def _sketch(canvas: Canvas) -> np.ndarray:
    """(H, W, 3) uint8: ink lines on warm white paper, with a light wash where things are dark."""
    lines = canvas.outlines(thickness=max(0.6, 0.0045 * canvas.unit))
    buffers = canvas.buffers()
    # Far lines are fainter; the nearest depth around a pixel counts, as half of a line may lie on the sky.
    near = cv2.erode(buffers.z, np.ones((3, 3), np.uint8))
    lines = lines * np.clip(1.15 - near / 70.0, 0.35, 1.0)
    dark = 0.24 * np.clip(0.75 - buffers.colour.mean(axis=-1) - buffers.sky, 0.0, 1.0)
    ink = np.clip(dark + 0.85 * lines, 0.0, 1.0)[..., None]
    paper, black = np.array((252.0, 250.0, 244.0), np.float32), np.array((38.0, 38.0, 46.0), np.float32)
    return np.rint(paper + ink * (black - paper)).astype(np.uint8)
