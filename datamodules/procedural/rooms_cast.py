"""The ray caster of ``rooms``: one body in a lit room, as shares of colours that have yet to be chosen.

The floor is y = 0, the body stands on it about the y axis, and the camera goes round that axis; the walls and the lamp
stay where they are. Points and directions are (3, N) or (3, 1), a row a coordinate. A ray at distance t is at
``origin + t * ray``, whose length need not be 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIZE = 64
SHAPES: tuple[str, ...] = ("cube", "cylinder", "sphere", "capsule")
SCALES = np.linspace(0.75, 1.25, 8)
ANGLES = np.radians(np.linspace(-30.0, 30.0, 15))
FLOOR, WALL, BODY, WHITE = range(4)

_FINE = 4  # samples per pixel and direction
_STRIPS = 8  # of an image, cast one by one: what fits into a processor's cache takes half the time
_LOW = np.array([[-4.0], [0.0], [-4.0]])  # corners of the room, of which the ceiling and the front are never seen
_HIGH = np.array([[4.0], [12.0], [9.0]])
_DISTANCE, _EYE = 6.7, 3.0  # of the camera from the y axis, and its height
_AIM = 0.95  # height of the point of the y axis that is the middle of every image
_HALF_WIDTH = 0.42  # of what is seen at distance 1: a lens of 46 degrees
# At scale 1.
_CUBE = 0.92  # half a side
_CYLINDER = 0.88, 2.0  # radius and height
_SPHERE = 1.1  # radius
_CAPSULE = 0.75, 2.5  # radius and height

_LAMP, _LAMP_SIDE = (-3.4, 9.5, 6.0), 2.2  # middle and side of a square lamp, which hangs level
_REACH = 9.4  # distance at which the lamp gives its light in full
_AMBIENT, _FROM_ABOVE, _DIRECT = 0.15, 0.07, 0.74  # light from all sides, more of it from above, and of the lamp
_GLOSS, _SHARPNESS = 0.7, 50.0  # share of white in the middle of a highlight, and its exponent
_GAMMA = 2.2  # lights add up as energies, and are shown as roots of them


class Body(NamedTuple):
    """A convex body.

    Attributes:
        enter: of rays by origin and direction, the distances (N,) at which they come in from outside; infinity where
            they pass by, and where the body lies behind them.
        normal: at points (3, N) of the surface, unit vectors outwards.
    """

    enter: Callable[[np.ndarray, np.ndarray], np.ndarray]
    normal: Callable[[np.ndarray], np.ndarray]


def cast(index: int) -> np.ndarray:
    """The shares of one view, by its number among scales, shapes and orientations, of which the last runs fastest.

    Returns:
        (4, 64, 64) uint8, in 255ths: how much each pixel has of the colours of the floor, the walls and the body, and
        of white. They sum to 255 or less.
    """
    row, orientation = divmod(index, len(ANGLES))
    scale, shape = divmod(row, len(SHAPES))
    seen = view(body(SHAPES[shape], float(SCALES[scale])), float(ANGLES[orientation]))
    return np.rint(seen * 255.0).astype(np.uint8)


def view(solid: Body, azimuth: float) -> np.ndarray:
    """(4, 64, 64), shares as in ``cast`` of 1, from a camera that has gone round by an angle in radians.

    The camera at 0 looks along -z, and with growing angle goes to its right. Surfaces are Lambert's, the light of the
    lamp falls off with the square of the distance, and the body has a highlight (Blinn 1977, with an exponent). Every
    sample of a pixel looks at another place of the lamp, so that shadows are soft. Nothing is clipped: the lamp is such
    that no body of this set is brighter than 1.
    """
    eye, rays = camera(azimuth)
    strips = zip(np.split(rays, _STRIPS, 1), np.split(_lamp(), _STRIPS, 1), strict=True)
    return np.concatenate([_strip(solid, eye, *strip) for strip in strips], axis=1)


def _strip(solid: Body, eye: np.ndarray, rays: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """Some rows of ``view``, of which rays and places on the lamp are given."""
    far, axis = _leave(eye, rays)
    near = solid.enter(eye, rays)
    hit = near < far
    point = eye + np.minimum(near, far) * rays
    normal = np.where(axis == np.arange(3)[:, None], -np.sign(rays), 0.0)
    normal[:, hit] = solid.normal(point[:, hit])

    towards = lamp - point
    squared = _dot(towards, towards)
    cosine = np.maximum(_dot(normal, towards), 0.0) / np.sqrt(squared)
    direct = cosine * _REACH**2 / squared
    # A convex body is dark where it faces away from the lamp, and nowhere else: it is the room that lies in its shadow.
    room = ~hit
    direct[room] *= solid.enter(point[:, room], towards[:, room]) > 1.0
    shade = (_AMBIENT + _FROM_ABOVE * normal[1] + _DIRECT * direct) ** (1.0 / _GAMMA)

    half = _unit(towards[:, hit]) - _unit(rays[:, hit])
    aligned = np.maximum(_dot(normal[:, hit], _unit(half)), 0.0)
    white = np.where(cosine[hit] > 0.0, _GLOSS * aligned**_SHARPNESS, 0.0)

    out = np.zeros((4, len(shade)))
    out[FLOOR] = np.where(room & (axis == 1), shade, 0.0)
    out[WALL] = np.where(room & (axis != 1), shade, 0.0)
    out[BODY, hit] = shade[hit] * (1.0 - white)
    out[WHITE, hit] = white
    return out.reshape(4, -1, _FINE, SIZE, _FINE).mean((2, 4))


def camera(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the camera is, (3, 1), and its rays (3, 256 * 256), row by row from the upper left one."""
    sine, cosine, tilt = np.sin(azimuth), np.cos(azimuth), np.arctan2(_EYE - _AIM, _DISTANCE)
    line = ((np.arange(SIZE * _FINE) + 0.5) / (SIZE * _FINE) * 2.0 - 1.0) * _HALF_WIDTH
    right, up = (each.ravel() for each in np.meshgrid(line, -line))
    level, y = np.cos(tilt) + np.sin(tilt) * up, np.cos(tilt) * up - np.sin(tilt)
    eye = np.array([[_DISTANCE * sine], [_EYE], [_DISTANCE * cosine]])
    return eye, np.stack([cosine * right - sine * level, y, -sine * right - cosine * level])


def body(shape: str, scale: float) -> Body:
    """One of ``SHAPES``, so many times as large as at scale 1."""
    return _BODIES[shape](scale)


def cube(half: float) -> Body:
    """A cube with sides of ``2 * half`` along the axes."""
    low, high = np.array([[-half], [0.0], [-half]]), np.array([[half], [2.0 * half], [half]])

    def enter(origin: np.ndarray, ray: np.ndarray) -> np.ndarray:
        first, last = _slab(origin, ray, low, high)
        return _entered(first.max(0), last.min(0))

    def normal(point: np.ndarray) -> np.ndarray:
        outwards = point - (low + high) / 2.0
        nearest = np.abs(outwards).argmax(0)
        return np.where(nearest == np.arange(3)[:, None], np.sign(outwards), 0.0)

    return Body(enter, normal)


def cylinder(radius: float, height: float) -> Body:
    """An upright cylinder."""

    def enter(origin: np.ndarray, ray: np.ndarray) -> np.ndarray:
        (first, last), (low, high) = _round(origin[::2], ray[::2], radius), _slab(origin[1], ray[1], 0.0, height)
        return _entered(np.maximum(first, low), np.minimum(last, high))

    def normal(point: np.ndarray) -> np.ndarray:
        x, y, z = point
        out, up = np.hypot(x, z), y - height / 2.0
        flat = np.abs(up) - height / 2.0 > out - radius  # nearer to an end than to the side
        return np.where(flat, [0.0 * x, np.sign(up), 0.0 * z], [x / out, 0.0 * y, z / out])

    return Body(enter, normal)


def capsule(radius: float, height: float) -> Body:
    """An upright cylinder between two halves of a sphere; a sphere, where ``height`` is ``2 * radius``."""
    ends = np.array([[0.0], [radius], [0.0]]), np.array([[0.0], [height - radius], [0.0]])

    def enter(origin: np.ndarray, ray: np.ndarray) -> np.ndarray:
        found = [_entered(*_round(origin - end, ray, radius)) for end in ends]
        if height > 2.0 * radius:
            found.append(between.enter(origin - ends[0], ray))
        return np.minimum.reduce(found)

    def normal(point: np.ndarray) -> np.ndarray:
        return _unit(point - np.clip(point, *ends))

    between = cylinder(radius, height - 2.0 * radius)
    return Body(enter, normal)


_BODIES: dict[str, Callable[[float], Body]] = {
    "cube": lambda scale: cube(_CUBE * scale),
    "cylinder": lambda scale: cylinder(_CYLINDER[0] * scale, _CYLINDER[1] * scale),
    "sphere": lambda scale: capsule(_SPHERE * scale, 2.0 * _SPHERE * scale),
    "capsule": lambda scale: capsule(_CAPSULE[0] * scale, _CAPSULE[1] * scale),
}


def _entered(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The first distance, of a ray that is inside from the first to the last, where it is ahead."""
    return np.where((first <= last) & (first > 0.0), first, np.inf)


def _slab(
    origin: np.ndarray, ray: np.ndarray, low: np.ndarray | float, high: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """From where to where each coordinate is between two values."""
    with np.errstate(divide="ignore"):  # along the slab: from -infinity to infinity, or one infinity to the same
        a, b = (low - origin) / ray, (high - origin) / ray
    return np.minimum(a, b), np.maximum(a, b)


def _round(origin: np.ndarray, ray: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """From where to where rays are within a distance of 0, in as many coordinates as are given.

    The roots of a t^2 + 2 b t + c; where there are none, from infinity to -infinity.
    """
    a = np.maximum(_dot(ray, ray), 1e-300)  # 0 along the axis of a cylinder: from ever to ever, or never
    b, c = _dot(ray, origin), _dot(origin, origin) - radius * radius
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0.0))
    never = np.where(square < 0.0, np.inf, 0.0)
    return (-b - root) / a + never, (-b + root) / a - never


def _leave(origin: np.ndarray, ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances at which rays reach the room's surface from within, and the axis (0, 1, 2) that it is across."""
    ends = _slab(origin, ray, _LOW, _HIGH)[1]
    return ends.min(0), ends.argmin(0)


def _lamp() -> np.ndarray:
    """(3, 256 * 256), a place on the lamp for each ray of the camera: those of a pixel are spread over all of it."""
    # In another order than in the pixel, or shadows would be moved and sharp rather than soft.
    order = (np.arange(_FINE**2) * 7) % _FINE**2
    x, z = (((each + 0.5) / _FINE - 0.5) * _LAMP_SIDE for each in divmod(order.reshape(_FINE, _FINE), _FINE))
    place = np.stack([_LAMP[0] + x, np.full_like(x, _LAMP[1]), _LAMP[2] + z])
    return np.tile(place, (1, SIZE, SIZE)).reshape(3, -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(_dot(vectors, vectors))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("kn,kn->n", a, b))
