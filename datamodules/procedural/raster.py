"""A small deferred rasteriser: polygons of a 3-D scene become images of colour, depth, light and class.

Every polygon belongs to a `Surface`. Painting writes only the number of the surface, into one supersampled map; what a
domain needs (colour, depth, emitted light, ...) is then looked up per sample and averaged per pixel. Shading
afterwards is plain array arithmetic on the averages, so one set of shapes serves every domain and all edges are
anti-aliased the same way.

Lengths are metres: x to the right, y up from the ground, z away from the camera. On the screen ``u`` and ``v`` are the
offsets from the vanishing point (right and down) in units of the shorter image side.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[float, float, float]  # RGB in [0, 1]

_SHIFT = 4  # sub-pixel bits of cv2's integer coordinates


class Camera(NamedTuple):
    """A pinhole camera that looks along the street.

    Attributes:
        vanishing_x: screen position of the vanishing point, as a fraction of the width.
        horizon: the same, as a fraction of the height from the top.
        x: the camera's offset from the middle of the road.
        height: the camera's height above the road.
        focal: focal length in units of the shorter image side.
    """

    vanishing_x: float
    horizon: float
    x: float
    height: float
    focal: float

    def wall(self, x: float) -> Colour:
        """Coefficients of 1/z = a u + b v + c on the vertical plane at ``x`` that runs along the street."""
        offset = x - self.x
        return 1.0 / (self.focal * (offset if abs(offset) > 0.05 else 0.05)), 0.0, 0.0

    def floor(self, y: float = 0.0) -> Colour:
        """The same coefficients on the level plane at height ``y``, below the camera."""
        return 0.0, 1.0 / (self.focal * max(self.height - y, 0.05)), 0.0

    def front(self, z: float) -> Colour:
        """The same coefficients on the plane at distance ``z`` that faces the camera."""
        return 0.0, 0.0, 1.0 / z


class Surface(NamedTuple):
    """What all samples of some polygons have in common.

    Attributes:
        colour: reflectance, RGB in [0, 1].
        kind: semantic class.
        plane: coefficients of 1/z (see `Camera.wall`).
        up: how far the surface looks up, 0 to 1: there it catches sky light and snow.
        side: x component of its normal, -1 to 1.
        glow: light it emits after dark, RGB in [0, 1].
        ground: 1 on the flat ground, which reflects in rain.
        sky: 1 where nothing is hit.
        outline: surfaces of the same outline number have no drawn line between them; 0 gives a number of its own.
    """

    colour: Colour
    kind: int
    plane: Colour = (0.0, 0.0, 0.0)
    up: float = 0.0
    side: float = 0.0
    glow: Colour = (0.0, 0.0, 0.0)
    ground: float = 0.0
    sky: float = 0.0
    outline: int = 0


class Buffers(NamedTuple):
    """Averages over the samples of each pixel; all float32.

    Attributes:
        colour, glow: (H, W, 3), already weighted by 1 - sky.
        up, side, ground, sky: (H, W), as in `Surface`.
        x, y, z: (H, W), the point that is seen; z is capped at 400 where the sky is.
        u, v: (1, W) and (H, 1) screen offsets from the vanishing point.
    """

    colour: np.ndarray
    glow: np.ndarray
    up: np.ndarray
    side: np.ndarray
    ground: np.ndarray
    sky: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Canvas:
    """Collects polygons from far to near, then paints all of them at once.

    Args:
        camera: projects the points.
        height: of the final image, in pixels.
        width: of the final image, in pixels.
    """

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera, self.height, self.width = camera, height, width
        self.unit = min(height, width)
        self.samples = 3 if self.unit <= 288 else 2  # per pixel and direction
        self._surfaces: list[Surface] = [Surface((0.0, 0.0, 0.0), 0, sky=1.0)]
        self._points: list[np.ndarray] = []
        self._shapes: list[tuple[int, int, int]] = []  # surface, polygons, points per polygon
        self._ids: np.ndarray | None = None

    @property
    def detailed(self) -> bool:
        """Whether the picture is large enough to show what is smaller than a window."""
        return self.unit >= 96

    def enters(self, x: float) -> float:
        """The distance at which the line along the street at ``x`` comes into the picture."""
        camera, offset = self.camera, x - self.camera.x
        room = 1.0 - camera.vanishing_x if offset > 0 else camera.vanishing_x
        return camera.focal * abs(offset) * self.unit / (room * self.width)

    def pixel(self, z: float) -> float:
        """Metres that one output pixel spans at distance ``z``: thin things are kept this wide to stay visible."""
        return z / (self.camera.focal * self.unit)

    def fill(self, points: object, surface: Surface) -> None:
        """Paint one polygon (n, 3), or several of the same number of corners (k, n, 3), over what is there."""
        array = np.asarray(points, dtype=np.float32)
        count, corners = (1, array.shape[0]) if array.ndim == 2 else array.shape[:2]
        if count:
            self._points.append(array.reshape(-1, 3))
            self._shapes.append((len(self._surfaces), count, corners))
            self._surfaces.append(surface)

    def semantic(self) -> np.ndarray:
        """(H, W) uint8: the class at the middle of each pixel."""
        middle = self.samples // 2
        kinds = np.array([surface.kind for surface in self._surfaces], np.uint8)
        return kinds[self._paint()[middle :: self.samples, middle :: self.samples]]

    def outlines(self, thickness: float) -> np.ndarray:
        """(H, W) float32 in [0, 1]: lines where one outlined surface meets another.

        Args:
            thickness: of a line, in pixels of the final image.
        """
        numbers = np.array([s.outline or 1000 + i for i, s in enumerate(self._surfaces)], np.uint16)
        number = numbers[self._paint()]
        edge = np.zeros(number.shape, np.uint8)
        edge[:, 1:] |= number[:, 1:] != number[:, :-1]
        edge[1:] |= number[1:] != number[:-1]
        size = max(1, round(thickness * self.samples))
        if size > 1:
            edge = cv2.dilate(edge, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
        return self._average(edge.astype(np.float32))

    def buffers(self) -> Buffers:
        """Everything that shading needs, averaged per pixel."""
        ids, camera = self._paint(), self.camera
        colour = self._look_up([(*s.colour, s.up) for s in self._surfaces], ids)
        glow = self._look_up([(*s.glow, 0.5 + 0.5 * s.side) for s in self._surfaces], ids)
        ground = self._average(np.array([s.ground for s in self._surfaces], np.float32).take(ids))
        planes = np.array([(*s.plane, s.sky) for s in self._surfaces], np.float32)
        plane = self._average(planes.take(ids, axis=0))
        u = (np.arange(self.width, dtype=np.float32)[None] + 0.5 - camera.vanishing_x * self.width) / self.unit
        v = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5 - camera.horizon * self.height) / self.unit
        sky = plane[..., 3]
        nearness = plane[..., 0] * u + plane[..., 1] * v + plane[..., 2]
        # The sky adds nothing to `plane`, so the depth of the rest of a pixel is its share of the sum.
        z = np.maximum(1.0 - sky, 1e-3) / np.maximum(nearness, 1e-3)
        z = np.clip(z, 1.0, 400.0)
        x, y = camera.x + u * z / camera.focal, camera.height - v * z / camera.focal
        side = 2.0 * glow[..., 3] - 1.0
        return Buffers(colour[..., :3], glow[..., :3], colour[..., 3], side, ground, sky, x, y, z, u, v)

    def _paint(self) -> np.ndarray:
        """The number of the surface at every sample, uint16."""
        if self._ids is not None:
            return self._ids
        camera, samples = self.camera, self.samples
        self._ids = np.zeros((self.height * samples, self.width * samples), np.uint16)
        points = np.concatenate(self._points)
        scale = camera.focal * self.unit / points[:, 2]
        screen = np.empty((len(points), 2), np.float32)
        screen[:, 0] = camera.vanishing_x * self.width + (points[:, 0] - camera.x) * scale
        screen[:, 1] = camera.horizon * self.height + (camera.height - points[:, 1]) * scale
        # cv2 puts sample centres on whole numbers, hence the half.
        fixed = np.rint((screen * samples - 0.5) * (1 << _SHIFT)).astype(np.int32)
        start = 0
        for surface, count, corners in self._shapes:
            stop = start + count * corners
            polygons = fixed[start:stop]
            several = [polygons] if count == 1 else list(polygons.reshape(count, corners, 2))
            cv2.fillPoly(self._ids, several, surface, cv2.LINE_8, _SHIFT)
            start = stop
        return self._ids

    def _look_up(self, table: list[tuple[float, float, float, float]], ids: np.ndarray) -> np.ndarray:
        # Four bytes are gathered as one word, which is several times faster than rows of four.
        entries = np.rint(np.array(table, np.float32) * 255.0).astype(np.uint8)
        words = entries.view(np.uint32)[:, 0].take(ids)
        image = words.view(np.uint8).reshape(*ids.shape, 4)
        return self._average(image).astype(np.float32) * np.float32(1 / 255)

    def _average(self, image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)


def disc(x: float, y: float, z: float, radius_x: float, radius_y: float, corners: int = 14) -> np.ndarray:
    """(corners, 3) an ellipse that faces the camera, centred at (x, y, z)."""
    cosine, sine, zero = _circle(corners)
    return _points(x + radius_x * cosine, y + radius_y * sine, z + zero)


def pool(x: float, z: float, radius_x: float, radius_z: float, corners: int = 16) -> np.ndarray:
    """(corners, 3) an ellipse flat on the ground, centred at (x, 0, z)."""
    cosine, sine, zero = _circle(corners)
    return _points(x + radius_x * cosine, zero, np.maximum(z + radius_z * sine, 0.4))


def wheel(x: float, y: float, z: float, radius: float, corners: int = 12) -> np.ndarray:
    """(corners, 3) an upright circle that faces sideways, centred at (x, y, z)."""
    cosine, sine, zero = _circle(corners)
    return _points(x + zero, y + radius * sine, z + radius * cosine)


def _points(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.array((x, y, z), np.float32).T


@cache
def _circle(corners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    angle = np.arange(corners, dtype=np.float32) * np.float32(2 * np.pi / corners)
    return np.cos(angle), np.sin(angle), np.zeros(corners, np.float32)
