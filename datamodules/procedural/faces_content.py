"""Who is in a portrait: everything that all its renders share, in any domain, style and image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

# Two ranges of the amount of each attribute: of faces that have it not, and of faces that have it. The amount is what
# is drawn, 0 to 1; the attribute is 1 from an amount of 0.5 on.
AMOUNTS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "smile": ((0.0, 0.25), (0.75, 1.0)),
    "glasses": ((0.0, 0.0), (1.0, 1.0)),
    "beard": ((0.0, 0.0), (0.7, 1.0)),
    "long_hair": ((0.0, 0.3), (0.75, 1.0)),
    "dark_hair": ((0.0, 0.2), (0.8, 1.0)),
    "bangs": ((0.0, 0.0), (0.7, 1.0)),
    "old": ((0.0, 0.1), (0.8, 1.0)),
    "hat": ((0.0, 0.0), (1.0, 1.0)),
}
ATTRIBUTES: tuple[str, ...] = tuple(AMOUNTS)
PROBABILITIES: dict[str, float] = {
    "smile": 0.5,
    "glasses": 0.35,
    "beard": 0.3,
    "long_hair": 0.5,
    "dark_hair": 0.5,
    "bangs": 0.3,
    "old": 0.3,
    "hat": 0.2,
}

# Names and ranges of the factors, each uniform in its range. "Left" and "right" are those of the picture.
FACTORS: dict[str, tuple[float, float]] = {
    "skin": (0.0, 1.0),  # pale to dark
    "hair_hue": (0.0, 1.0),  # ash to red
    "hair_volume": (0.0, 1.0),
    "hair_wave": (0.0, 1.0),
    "parting": (-1.0, 1.0),  # where the hair parts, left to right
    "yaw": (-22.0, 22.0),  # degrees, to the right
    "pitch": (-8.0, 8.0),  # degrees, downwards
    "roll": (-9.0, 9.0),  # degrees, clockwise
    "x": (-0.03, 0.03),  # of the head, in units of the shorter image side
    "y": (-0.015, 0.015),
    "scale": (0.95, 1.05),
    "face_width": (0.92, 1.08),  # times the usual
    "jaw": (0.0, 1.0),  # pointed to square
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-0.4, 0.4),
    "eye_size": (0.9, 1.12),
    "eye_spacing": (0.93, 1.07),
    "eye_colour": (0.0, 1.0),  # brown, hazel, green, blue
    "brow_height": (0.0, 1.0),
    "brow_weight": (0.0, 1.0),
    "nose_size": (0.85, 1.15),
    "mouth_width": (0.9, 1.1),
    "lip_red": (0.0, 1.0),
    "frame_shape": (0.0, 1.0),  # of the glasses, round to square
    "hat_hue": (0.0, 1.0),
    "shirt_hue": (0.0, 1.0),
    "shirt_light": (0.0, 1.0),
    "background_hue": (0.0, 1.0),
    "background_light": (0.0, 1.0),
    "light": (-1.0, 1.0),  # where it comes from, left to right
}

_NORMAL = NormalDist()


class Marginals(NamedTuple):
    """How often faces have their attributes, and which go together.

    Attributes are bits of a Gaussian copula: ``z ~ N(0, R)``, and attribute k is 1 where ``Phi(z_k) < p_k``. ``R`` is
    the identity but for ``correlation``. Of two attributes of probability 1/2 the bits correlate (phi) by
    ``2 / pi * arcsin(r)``: r = 0.71 gives 1/2, r = 1 gives 1. Other probabilities bring phi nearer to 0.

    Attributes:
        probabilities: of attributes by name, 0 to 1; one that is missing has that of ``PROBABILITIES``.
        correlation: (attribute, other attribute, r), each pair once at most, r in [-1, 1]: correlation of their z.
    """

    probabilities: Mapping[str, float] = {}
    correlation: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class Face:
    """All that is drawn of one face.

    Attributes:
        amounts: of each of ``ATTRIBUTES``, 0 to 1.
        factors: of each of ``FACTORS``, in its range.
        numbers: (16,) in [0, 1], further draws: how strands and locks fall.
    """

    amounts: Mapping[str, float]
    factors: Mapping[str, float]
    numbers: tuple[float, ...]

    @property
    def attributes(self) -> dict[str, int]:
        """0 or 1 by name."""
        return {name: int(amount >= 0.5) for name, amount in self.amounts.items()}

    def facts(self) -> np.ndarray:
        """(len(FACTORS),) float32: the factors in units of their ranges, 0 to 1."""
        return np.array(
            [(self.factors[name] - low) / (high - low) for name, (low, high) in FACTORS.items()], np.float32
        )


def draw_face(seed: int, index: int, marginals: Marginals, overrides: Mapping[str, float]) -> Face:
    """A face from numbers.

    Args:
        seed: of the collection of faces, >= 0.
        index: of the face in its collection, >= 0.
        marginals: of the attributes.
        overrides: amounts of attributes, 0 to 1, and factors, in their ranges, which replace what is drawn.

    Returns:
        The face. All else is the same as without ``overrides``, and factors are the same for all ``marginals``.

    Raises:
        ValueError: for negative numbers, an unknown name, or a value out of range.
    """
    if min(seed, index) < 0:
        raise ValueError(f"seed and index must be 0 or more, not {seed} and {index}.")
    root, chances = _prepared(*_hashable(marginals))
    rng = np.random.default_rng([11, seed, index])
    latent, within, where = rng.random(len(ATTRIBUTES)), rng.random(len(ATTRIBUTES)), rng.random(len(FACTORS))
    z = root @ np.array([_NORMAL.inv_cdf(min(max(u, 1e-16), 1.0 - 1e-16)) for u in latent.tolist()])
    amounts: dict[str, float] = {}
    for name, score, chance, share in zip(ATTRIBUTES, z.tolist(), chances, within.tolist(), strict=True):
        low, high = AMOUNTS[name][_NORMAL.cdf(score) < chance]
        amounts[name] = low + share * (high - low)
    factors = {
        name: low + share * (high - low)
        for (name, (low, high)), share in zip(FACTORS.items(), where.tolist(), strict=True)
    }
    for name, value in overrides.items():
        _check_override(name, value)
        (amounts if name in amounts else factors)[name] = float(value)
    return Face(amounts, factors, tuple(rng.random(16).tolist()))


def _check_override(name: str, value: float) -> None:
    low, high = (0.0, 1.0) if name in AMOUNTS else FACTORS.get(name, (1.0, 0.0))
    if low > high:
        known = ", ".join([*ATTRIBUTES, *FACTORS])
        raise ValueError(f"A face has no {name!r} to override; choose from {known}.")
    if not low <= value <= high:
        raise ValueError(f"The override {name}={value} is out of range; choose {low} to {high}.")


def _hashable(marginals: Marginals) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, str, float], ...]]:
    probabilities, correlation = marginals
    return tuple(sorted(probabilities.items())), tuple((a, b, r) for a, b, r in correlation)


@cache
def _prepared(
    probabilities: tuple[tuple[str, float], ...], correlation: tuple[tuple[str, str, float], ...]
) -> tuple[np.ndarray, tuple[float, ...]]:
    """A square root of R, and the probabilities in the order of `ATTRIBUTES`."""
    for name in [name for name, _ in probabilities] + [name for a, b, _ in correlation for name in (a, b)]:
        if name not in ATTRIBUTES:
            raise ValueError(f"A face has no attribute {name!r}; choose from {', '.join(ATTRIBUTES)}.")
    for name, chance in probabilities:
        if not 0.0 <= chance <= 1.0:
            raise ValueError(f"The probability of {name!r} must be 0 to 1, not {chance}.")
    matrix, seen = np.eye(len(ATTRIBUTES)), set()
    for a, b, r in correlation:
        if a == b or frozenset((a, b)) in seen:
            raise ValueError(f"The correlation of {a!r} and {b!r} must join two attributes and stand once; remove it.")
        if not -1.0 <= r <= 1.0:
            raise ValueError(f"The correlation of {a!r} and {b!r} must be -1 to 1, not {r}.")
        seen.add(frozenset((a, b)))
        i, j = ATTRIBUTES.index(a), ATTRIBUTES.index(b)
        matrix[i, j] = matrix[j, i] = r
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-9:
        pairs = ", ".join(f"{a}-{b} {r}" for a, b, r in correlation)
        raise ValueError(f"No attributes can correlate like this, R is not positive definite: {pairs}; weaken a pair.")
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    given = PROBABILITIES | dict(probabilities)
    return root, tuple(given[name] for name in ATTRIBUTES)
