"""Portraits by formula: one face can be seen as a photograph, a sketch and a painting, with known attributes.

A face is a draw of attributes, such as glasses, and of factors, such as the pose. A *domain* adds its own *style*,
drawn apart from the face. Same seed and index, other domain: the same face, line for line, so every translation has
its true answer; the same face with another attribute is a call away, so every edit has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from datamodules.procedural import faces_shapes as parts
from datamodules.procedural import faces_style
from datamodules.procedural.faces_content import (
    AMOUNTS,
    ATTRIBUTES,
    FACTORS,
    PROBABILITIES,
    Face,
    Marginals,
    draw_face,
)
from datamodules.procedural.faces_light import resolved
from datamodules.procedural.faces_paint import paint
from datamodules.procedural.faces_style import STYLE

__all__ = [
    "AMOUNTS",
    "ATTRIBUTES",
    "CLASSES",
    "DOMAINS",
    "FACTORS",
    "PROBABILITIES",
    "STYLE",
    "VERSION",
    "Face",
    "Marginals",
    "Portrait",
    "attributes_of",
    "classes",
    "face",
    "factors",
    "facts_of",
    "planes",
    "planes_and_classes",
    "style",
]

VERSION = 1  # raised whenever a rendered pixel changes; part of the cache key
DOMAINS: tuple[str, ...] = ("photo", "sketch", "paint")
CLASSES: tuple[str, ...] = ("background", "skin", "hair", "beard", "brow", "eye", "mouth", "clothes", "hat", "glasses")

_SIZES = (32, 512)
_DRAWN = {"photo": faces_style.photo, "sketch": faces_style.sketch, "paint": faces_style.paint}
_USUAL = Marginals()
_NONE: Mapping[str, float] = MappingProxyType({})
_MEMBERS = {
    "background": (parts.BACKGROUND,),
    "skin": (parts.NECK, parts.EAR, parts.FACE),
    "hair": (parts.BACK_HAIR, parts.HAIR, parts.BANGS),
    "beard": (parts.BEARD,),
    "brow": (parts.BROW,),
    "eye": (parts.EYE, parts.IRIS, parts.PUPIL, parts.GLINT),
    "mouth": (parts.MOUTH, parts.TEETH, parts.LIP),
    "clothes": (parts.SHIRT, parts.COLLAR),
    "hat": (parts.HAT, parts.BRIM),
    "glasses": (parts.FRAME,),
}
_KINDS = np.zeros(len(parts.PARTS), np.uint8)
for _name, _which in _MEMBERS.items():
    _KINDS[list(_which)] = CLASSES.index(_name)
_KINDS.setflags(write=False)


class Portrait(NamedTuple):
    """One render of one face.

    Attributes:
        image: (H, W, 3) uint8 RGB; the three are equal in a sketch.
        semantic: (H, W) uint8, indices into `CLASSES`; the same in all domains.
        face: what is drawn; the same in all domains and sizes.
        style: (len(STYLE[domain]),) float32 in [0, 1]; the same in all sizes.
        domain: index into `DOMAINS`.
    """

    image: np.ndarray
    semantic: np.ndarray
    face: Face
    style: np.ndarray
    domain: int


def face(
    seed: int,
    index: int,
    domain: str,
    height: int,
    width: int,
    draw: int = 0,
    marginals: Marginals = _USUAL,
    overrides: Mapping[str, float] = _NONE,
) -> Portrait:
    """Render a face.

    Args:
        seed: of the collection of faces, >= 0.
        index: of the face in its collection, >= 0.
        domain: one of `DOMAINS`.
        height: of the image, 32 to 512.
        width: of the image, 32 to 512.
        draw: picks another style for the same face and domain, >= 0.
        marginals: how often faces have their attributes.
        overrides: amounts of `ATTRIBUTES`, 0 to 1, and of `FACTORS`, in their ranges, instead of those that are drawn.
            ``{"glasses": 0}`` and ``{"glasses": 1}`` are one face without and with glasses; ``{"smile": 0.5}`` is
            half a smile. Glasses and hat are there from 0.5 on.

    Returns:
        The render; the same arguments always give the same arrays.

    Raises:
        ValueError: for an unknown domain or name, a size or override out of range, marginals that cannot be, or a
            negative seed, index or draw.
    """
    if not all(_SIZES[0] <= size <= _SIZES[1] for size in (height, width)):
        raise ValueError(f"Faces of {height}x{width} cannot be rendered; each side must be {_SIZES[0]} to {_SIZES[1]}.")
    numbers, rng = _styled(seed, index, domain, draw)
    drawn = draw_face(seed, index, marginals, overrides)
    board = paint(drawn, height, width)
    light = _DRAWN[domain](drawn, board, resolved(drawn, board), numbers, rng)
    picture = np.rint(np.clip(light, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Portrait(picture, board.semantic(_KINDS), drawn, numbers, DOMAINS.index(domain))


def factors(seed: int, index: int, marginals: Marginals = _USUAL, overrides: Mapping[str, float] = _NONE) -> Face:
    """The face of ``face(seed, index, ...)`` without rendering it."""
    return draw_face(seed, index, marginals, overrides)


def style(seed: int, index: int, domain: str, draw: int = 0) -> np.ndarray:
    """(len(STYLE[domain]),) float32: the style of ``face(seed, index, domain, ..., draw)`` without rendering it."""
    return _styled(seed, index, domain, draw)[0]


def attributes_of(seed: int, first: int, count: int, marginals: Marginals = _USUAL) -> np.ndarray:
    """(count, len(ATTRIBUTES)) uint8, 0 or 1, of the faces from ``first`` on, in the order of `ATTRIBUTES`."""
    faces = (draw_face(seed, first + i, marginals, _NONE).attributes for i in range(count))
    rows = [[attributes[name] for name in ATTRIBUTES] for attributes in faces]
    return np.array(rows, np.uint8).reshape(count, len(ATTRIBUTES))


def facts_of(seed: int, first: int, count: int) -> np.ndarray:
    """(count, len(FACTORS)) float32 of the faces from ``first`` on: the factors in units of their ranges, 0 to 1.

    Marginals do not move them.
    """
    rows = [draw_face(seed, first + i, _USUAL, _NONE).facts() for i in range(count)]
    return np.array(rows, np.float32).reshape(count, len(FACTORS))


def planes(
    index: int,
    seed: int,
    first: int,
    domain: str,
    height: int,
    width: int,
    draw: int = 0,
    marginals: Marginals = _USUAL,
    overrides: Mapping[str, float] | None = None,
) -> np.ndarray:
    """(3, H, W) uint8 of face ``first + index``: the picture alone, index first as `datamodules.cache.rendered` wants.

    It stands here and not beside the DataModule because render workers import its module, and this one loads no torch.
    """
    portrait = face(seed, first + index, domain, height, width, draw, marginals, overrides or _NONE)
    return np.ascontiguousarray(portrait.image.transpose(2, 0, 1))


def classes(index: int, seed: int, first: int, height: int, width: int, marginals: Marginals = _USUAL) -> np.ndarray:
    """(H, W) uint8 semantic map of face ``first + index``."""
    drawn = draw_face(seed, first + index, marginals, _NONE)
    return paint(drawn, height, width).semantic(_KINDS)


def planes_and_classes(
    index: int, seed: int, first: int, domain: str, height: int, width: int, marginals: Marginals = _USUAL
) -> np.ndarray:
    """(4, H, W) uint8: ``planes`` and, as the fourth, the semantic map."""
    portrait = face(seed, first + index, domain, height, width, marginals=marginals)
    return np.concatenate([portrait.image.transpose(2, 0, 1), portrait.semantic[None]])


def _styled(seed: int, index: int, domain: str, draw: int) -> tuple[np.ndarray, np.random.Generator]:
    """The style of a face in a domain, and the generator that places grain and strokes."""
    if domain not in DOMAINS:
        raise ValueError(f"There is no face domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    if min(seed, index, draw) < 0:
        raise ValueError(f"seed, index and draw must be 0 or more, not {seed}, {index} and {draw}.")
    rng = np.random.default_rng([12 + DOMAINS.index(domain), seed, index, draw])
    return rng.random(len(STYLE[domain]), dtype=np.float32), rng
