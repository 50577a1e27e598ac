"""Turns a face into shapes: which part of it each sample of the picture shows, and the thin lines on top.

The head lives in its own coordinates: x to the right, y down, z to the viewer, in units of half its height; the crown
is at y = -1, the chin at y = 1. `Pose` turns it and puts it on the screen, where ``u`` and ``v`` are offsets from the
middle of the picture in units of its shorter side.
"""

from __future__ import annotations

from functools import cache
from math import cos, radians, sin
from typing import NamedTuple

import cv2
import numpy as np

from datamodules.procedural.faces_content import Face

PARTS: tuple[str, ...] = (
    "background",
    "back_hair",
    "neck",
    "shirt",
    "collar",
    "ear",
    "face",
    "beard",
    "eye",
    "iris",
    "pupil",
    "glint",
    "mouth",
    "teeth",
    "lip",
    "brow",
    "hair",
    "bangs",
    "hat",
    "brim",
    "frame",
)
(
    BACKGROUND,
    BACK_HAIR,
    NECK,
    SHIRT,
    COLLAR,
    EAR,
    FACE,
    BEARD,
    EYE,
    IRIS,
    PUPIL,
    GLINT,
    MOUTH,
    TEETH,
    LIP,
    BROW,
    HAIR,
    BANGS,
    HAT,
    BRIM,
    FRAME,
) = range(len(PARTS))

_SHIFT = 4  # sub-pixel bits of cv2's integer coordinates
_HALF = 0.335  # half the height of a head, in units of the shorter side
_PIVOT = 0.95  # y of the point about which a head rolls


class Pose(NamedTuple):
    """How the head is held and where it is.

    Attributes:
        yaw, pitch, roll: radians.
        u, v: screen position of the middle of the head.
        size: of half a head on the screen.
    """

    yaw: float
    pitch: float
    roll: float
    u: float
    v: float
    size: float

    @classmethod
    def of(cls, face: Face) -> Pose:
        """The pose of a face."""
        f = face.factors
        return cls(
            radians(f["yaw"]), radians(f["pitch"]), radians(f["roll"]), f["x"], f["y"] + 0.005, _HALF * f["scale"]
        )

    def matrix(self) -> tuple[np.ndarray, np.ndarray]:
        """(3, 2) and (2,): u and v of points p of the head are ``p @ matrix + offset``, as far things have no depth."""
        cy, sy, cp, sp, cr, sr = (f(a) for a in (self.yaw, self.pitch, self.roll) for f in (cos, sin))
        turned = np.array([(cy, -sy * sp), (0.0, cp), (sy, cy * sp)])
        rolled = np.array([(cr, sr), (-sr, cr)])
        offset = np.array((self.u, self.v + self.size * _PIVOT)) - self.size * _PIVOT * rolled[1]
        return self.size * turned @ rolled, offset

    def upright(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the head's plane at screen positions, without its yaw and pitch."""
        x, y = (u - self.u) / self.size, (v - self.v) / self.size - _PIVOT
        return x * cos(self.roll) + y * sin(self.roll), y * cos(self.roll) - x * sin(self.roll) + _PIVOT

    def at(self, x: float, y: float, lift: float = 0.0) -> tuple[float, float]:
        """Where a point on the face is in the plane of `upright`."""
        z = float(depth(np.array(x), np.array(y))) + lift
        return (
            x * cos(self.yaw) + z * sin(self.yaw),
            y * cos(self.pitch) + (z * cos(self.yaw) - x * sin(self.yaw)) * sin(self.pitch),
        )


def depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the face at x and y: an ellipsoid."""
    return 0.8 * np.sqrt(np.maximum(1.0 - (x / 0.92) ** 2 - (y / 1.25) ** 2, 0.02))


def raised(x: np.ndarray, y: np.ndarray, lift: float = 0.0) -> np.ndarray:
    """(n, 3) points on the face, ``lift`` above it."""
    points = np.empty((len(x), 3))
    points[:, 0], points[:, 1], points[:, 2] = x, y, depth(x, y) + lift
    return points


class Board:
    """The map of parts and lines, at several samples per pixel and direction.

    Args:
        pose: of the head.
        height: of the final picture, in pixels.
        width: of the final picture, in pixels.
    """

    def __init__(self, pose: Pose, height: int, width: int) -> None:
        self.pose, self.height, self.width = pose, height, width
        self.unit = min(height, width)
        self.samples = 3 if self.unit <= 288 else 2  # per pixel and direction
        size = height * self.samples, width * self.samples
        self.parts = np.zeros(size, np.uint8)
        self._matrix, self._offset = pose.matrix()
        self._ink, self._crease = np.zeros(size, np.uint8), np.zeros(size, np.uint8)

    def screen(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) u and v of (n, 3) points of the head."""
        return points @ self._matrix + self._offset

    def head(self, part: int, outline: np.ndarray) -> None:
        """Fill a polygon, (n, 3) of the head."""
        cv2.fillPoly(self.parts, [self._fixed(self.screen(outline))], part, cv2.LINE_8, _SHIFT)

    def body(self, part: int, outline: np.ndarray) -> None:
        """Fill a polygon, (n, 2), that does not turn with the head."""
        points = outline * self.pose.size + (self.pose.u, self.pose.v)
        cv2.fillPoly(self.parts, [self._fixed(points)], part, cv2.LINE_8, _SHIFT)

    def skin(self, part: int, x: np.ndarray, y: np.ndarray, lift: float = 0.0) -> None:
        """Fill a polygon that lies on the face, ``lift`` above it."""
        self.head(part, raised(x, y, lift))

    def inside(self, part: int, x: np.ndarray, y: np.ndarray, frame: np.ndarray, lift: float = 0.0) -> None:
        """Fill what two convex polygons share: one on the face, and ``frame`` (n, 2) of u and v."""
        points = self.screen(raised(x, y, lift)).astype(np.float32)
        area, shared = cv2.intersectConvexConvex(points * 1000.0, frame.astype(np.float32) * 1000.0)
        if area > 0 and shared is not None:
            cv2.fillPoly(self.parts, [self._fixed(shared[:, 0] / 1000.0)], part, cv2.LINE_8, _SHIFT)

    def line(self, x: np.ndarray, y: np.ndarray, width: float, *, ink: bool, lift: float = 0.0) -> None:
        """Draw a line on the face, ``width`` in units of the head and at least half a pixel; light if not ``ink``."""
        points = self._fixed(self.screen(raised(x, y, lift)))
        target, wide = (self._ink if ink else self._crease), self.width_of(width, 0.55)
        cv2.polylines(target, [points], False, 255, wide, cv2.LINE_8, _SHIFT)

    def ring(self, part: int, x: np.ndarray, y: np.ndarray, width: float, lift: float, *, closed: bool) -> None:
        """Draw a line as a part."""
        points = self._fixed(self.screen(raised(x, y, lift)))
        cv2.polylines(self.parts, [points], closed, part, self.width_of(width, 1.0), cv2.LINE_8, _SHIFT)

    def width_of(self, width: float, pixels: float) -> int:
        """Samples of a line, at least ``pixels`` of the final picture."""
        return max(1, round(max(width * self.pose.size * self.unit, pixels) * self.samples))

    def ink(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: lashes, nostrils and the line of the mouth, where no hair is in front."""
        return self._average(np.where(self._seen(), self._ink, 0))

    def crease(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: folds of the skin, where they are seen."""
        return self._average(np.where(self._seen(), self._crease, 0))

    def cover(self) -> np.ndarray:
        """(H, W, len(PARTS)) float32: how much of each pixel shows each part; sums to 1."""
        groups = -(-len(PARTS) // 4)
        table = np.zeros((groups, len(PARTS), 4), np.uint8)
        for part in range(len(PARTS)):
            table[part // 4, part, part % 4] = 255
        # Four bytes are gathered as one word, which is several times faster than rows of four.
        words = [t.view(np.uint32)[:, 0].take(self.parts) for t in table]
        averages = [self._average(w.view(np.uint8).reshape(*self.parts.shape, 4)) for w in words]
        return np.concatenate(averages, axis=2)[..., : len(PARTS)]

    def outlines(self, groups: np.ndarray, thickness: float) -> np.ndarray:
        """(H, W) float32 in [0, 1]: lines where parts of different groups meet.

        Args:
            groups: (len(PARTS),) uint8, the group of each part.
            thickness: of a line, in pixels of the final picture.
        """
        group = groups.take(self.parts)
        edge: np.ndarray = np.zeros(group.shape, np.uint8)
        edge[:, 1:] |= group[:, 1:] != group[:, :-1]
        edge[1:] |= group[1:] != group[:-1]
        size = max(1, round(thickness * self.samples))
        if size > 1:
            edge = cv2.dilate(edge, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
        return self._average(edge * np.uint8(255))

    def semantic(self, kinds: np.ndarray) -> np.ndarray:
        """(H, W) uint8: ``kinds`` of the part at the middle of each pixel."""
        middle = self.samples // 2
        return kinds[self.parts[middle :: self.samples, middle :: self.samples]]

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """u (1, W) and v (H, 1) of the pixels, float32."""
        u = (np.arange(self.width, dtype=np.float32)[None] + 0.5 - 0.5 * self.width) / self.unit
        v = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5 - 0.5 * self.height) / self.unit
        return u, v

    def _seen(self) -> np.ndarray:
        return _LINED.take(self.parts)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        scale = self.unit * self.samples
        middle = np.array((self.width, self.height)) * (0.5 * self.samples)
        # cv2 puts sample centres on whole numbers, hence the half.
        return np.rint((points * scale + middle - 0.5) * (1 << _SHIFT)).astype(np.int32)

    def _average(self, image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) * np.float32(1 / 255)


_LINED = np.isin(np.arange(len(PARTS)), (FACE, BEARD, EYE, IRIS, PUPIL, GLINT, MOUTH, TEETH, LIP, BROW, NECK, EAR))


def curve(*points: tuple[float, ...], closed: bool = False, steps: int = 6) -> np.ndarray:
    """(n, d) a smooth line through points (Catmull-Rom)."""
    p = np.array(points, np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    four = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)  # (segments, 4, d)
    line = np.einsum("tk,skd->std", _basis(steps), four).reshape(-1, p.shape[1])
    return line if closed else np.concatenate([line, p[-1:]])


def mirrored(half: np.ndarray) -> np.ndarray:
    """A closed outline from its right half, (n, d) from top to bottom."""
    return np.concatenate([half, half[::-1] * np.array([-1.0] + [1.0] * (half.shape[1] - 1))])


@cache
def _basis(steps: int) -> np.ndarray:
    t = np.arange(steps) / steps
    rows = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return 0.5 * np.stack(rows, axis=1)
