"""What a sick run looks like, in numbers: detectors that are fed readings and know nothing of trainers.

They would rather be late than cry wolf: each wants its symptom in several readings in a row.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor


class Streak:
    """Whether readings have stayed below a limit.

    Args:
        limit: a reading below it counts.
        length: how many in a row are a symptom.

    Attributes:
        count: length of the streak so far, all that a checkpoint needs.
    """

    def __init__(self, limit: float, length: int) -> None:
        self.limit, self.length, self.count = limit, length, 0

    def feed(self, reading: float) -> bool:
        """Take a reading; True while the streak is at least ``length`` long. NaN breaks a streak."""
        self.count = self.count + 1 if reading < self.limit else 0
        return self.count >= self.length


class Saturation:
    """Discriminator terms that have all but vanished while the generator's adversarial terms have not fallen.

    Every adversarial loss in use (least squares, log, hinge) goes to 0 for a discriminator that tells real from
    generated without fail, so each term is compared with what an untrained discriminator had. Where the players
    balance, least squares is at half of that, the log loss at all of it. The generator's terms are the second
    witness: had the generator become perfect, they would have fallen.

    Args:
        share: a term whose mean is below this part of its start has vanished. 0.05 is a least-squares error of 0.16
            in each score; the lowest mean of twenty readings in healthy ``unit_streets`` runs was 0.3.
        length: readings in the mean.
        first: readings whose mean is the start.
        penalties: beginnings of terms (after a slash) that are no adversarial losses and may vanish.
    """

    def __init__(
        self, share: float = 0.05, length: int = 10, first: int = 3, penalties: Sequence[str] = ("r1", "r2", "gp")
    ) -> None:
        self._share, self._length, self._first, self._penalties = share, length, first, tuple(penalties)
        self._last: dict[str, deque[float]] = {}
        self._starts: dict[str, list[float]] = {}

    def feed(self, discriminator: dict[str, float], adversarial: dict[str, float]) -> list[str]:
        """Take the readings of one iteration.

        Args:
            discriminator: the discriminator's terms by name.
            adversarial: the generator's adversarial terms by name, other names than those.

        Returns:
            Names of saturated discriminator terms.
        """
        for name, value in (discriminator | adversarial).items():
            if len(starts := self._starts.setdefault(name, [])) < self._first:
                starts.append(value)
            self._last.setdefault(name, deque(maxlen=self._length)).append(value)
        if adversarial and all(map(self._has_halved, adversarial)):
            return []
        return [name for name in discriminator if self._has_vanished(name)]

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        """Readings by name: the first, ``starts``, and the last, ``last``."""
        return {"starts": dict(self._starts), "last": {name: list(last) for name, last in self._last.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave; ``last`` may be missing."""
        self._starts = {name: list(values) for name, values in state["starts"].items()}
        self._last = {name: deque(values, maxlen=self._length) for name, values in state.get("last", {}).items()}

    def _has_vanished(self, name: str) -> bool:
        last, start = self._last[name], fmean(self._starts[name])
        is_penalty = name.rpartition("/")[2].startswith(self._penalties)
        return not is_penalty and len(last) == self._length and fmean(last) < self._share * start

    def _has_halved(self, name: str) -> bool:
        start = fmean(self._starts[name])
        return fmean(self._last[name]) < start - 0.5 * abs(start)


class DeadLatents:
    """Most dimensions of a latent code carry no information: their KL to the prior stays at zero.

    A few dead dimensions are what a beta-VAE is for, and at the start of training all are dead; so most of them must
    be, and one that has never lived gets twenty times as long.

    Args:
        nats: below this a dimension is dead in a reading; above ten times as much it has lived.
        length: readings in a row.
        most: the share of dimensions that must be dead.
    """

    def __init__(self, nats: float = 0.01, length: int = 10, most: float = 0.5) -> None:
        self._nats, self._length, self._most = nats, length, most
        self._counts: list[int] = []
        self._lived: list[bool] = []

    def feed(self, kl: Sequence[float]) -> list[int]:
        """Take one KL per dimension, in nats; returns the dead dimensions if they are most, else nothing."""
        if len(kl) != len(self._counts):
            self._counts, self._lived = [0] * len(kl), [False] * len(kl)
        self._counts = [count + 1 if k < self._nats else 0 for count, k in zip(self._counts, kl, strict=True)]
        self._lived = [lived or k > 10 * self._nats for lived, k in zip(self._lived, kl, strict=True)]
        dead = [
            dimension
            for dimension, (count, lived) in enumerate(zip(self._counts, self._lived, strict=True))
            if count >= (self._length if lived else 20 * self._length)
        ]
        return dead if len(dead) > self._most * len(kl) else []

    def state_dict(self) -> dict[str, list[Any]]:
        """Of each dimension ``counts``, readings in which it has been dead, and ``lived``."""
        return {"counts": list(self._counts), "lived": list(self._lived)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave; both may be missing."""
        self._counts, self._lived = list(state.get("counts", [])), list(state.get("lived", []))


def spread(images: Tensor) -> float:
    """Root mean square difference between two of the images, over all pairs, pixels and channels.

    Args:
        images: (N, C, H, W), N at least 2.
    """
    return float(images.float().var(dim=0).mean().mul(2).sqrt())  # E (x - y)^2 = 2 var


def relative_spread(images: Tensor, reference: Tensor) -> float:
    """``spread`` of images as a part of that of other ones; NaN where these are all alike."""
    return spread(images) / scale if (scale := spread(reference)) > 1e-6 else math.nan
