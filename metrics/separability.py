"""Linear separability (StyleGAN, Karras et al. 2019, Sec. 4.2): whether planes tell who has an attribute.

The number of the paper is ``separability_of(told_by_planes(codes, logits)).score``. Departs from the paper in two
points: planes are logistic regressions on standardised codes, and not support vector machines; and each half of the
codes is told by a plane that was fitted to the other half, where the paper fits to what it tells. With 100 000 codes
that is the same, with a thousand a plane separates any codes of 512 coordinates that it has seen.
"""

from typing import NamedTuple

import numpy as np

from metrics.disentanglement_scores import logistic


class Told(NamedTuple):
    """What a classifier of images and planes through the codes say of each attribute of each code; (N, K) bool each."""

    truth: np.ndarray  # by the classifier
    plane: np.ndarray  # by the plane; meaningless where a code does not count
    counts: np.ndarray  # whether the code is among the half of which the classifier is surer


class Separability(NamedTuple):
    """How much is left to know of the attributes when the planes have spoken."""

    score: float  # exp of the sum of the entropies: from 1, perfect, to 2^K
    entropies: np.ndarray  # (K,) nats, from 0 to log 2


def told_by_planes(codes: np.ndarray, logits: np.ndarray) -> Told:
    """Fit a plane for each attribute to the codes of which the classifier is surest, and ask it.

    Args:
        codes: (N, D), N at least 8.
        logits: (N, K), the classifier's, positive where an image has the attribute.

    Raises:
        ValueError: other shapes, or values that are not finite.
    """
    if codes.ndim != 2 or logits.ndim != 2 or len(codes) != len(logits) or len(codes) < 8:
        raise ValueError(f"Separability needs codes (N, D) and logits (N, K), N >= 8: {codes.shape}, {logits.shape}.")
    if not (np.isfinite(codes).all() and np.isfinite(logits).all()):
        raise ValueError("The codes or logits hold NaN or infinity: look for a model that has diverged.")
    x = codes.astype(np.float64)
    deviations = x.std(0)
    x = (x - x.mean(0)) / np.where(deviations > 0, deviations, 1.0)
    truth, plane, counts = logits > 0, np.zeros(logits.shape, bool), np.zeros(logits.shape, bool)
    for k, column in enumerate(np.abs(logits.T)):
        kept = np.sort(np.argsort(-column, kind="stable")[: -(-len(x) // 2)])
        counts[kept, k] = True
        plane[kept, k] = _across(x[kept], truth[kept, k])
    return Told(truth, plane, counts)


def separability_of(told: Told) -> Separability:
    """The score: exp of the sum over attributes of H(Y|X), of the classifier's word Y given the plane's X."""
    each = zip(told.truth.T, told.plane.T, told.counts.T, strict=True)
    entropies = np.array([conditional_entropy(y[counts], x[counts]) for y, x, counts in each])
    return Separability(float(np.exp(entropies.sum())), entropies)


def conditional_entropy(y: np.ndarray, x: np.ndarray) -> float:
    """H(Y|X) in nats of two (N,) bool arrays; 0 of none."""
    joint = np.array([[np.sum((x == a) & (y == b)) for b in (False, True)] for a in (False, True)], np.float64)
    within = joint / np.maximum(joint.sum(1, keepdims=True), 1)
    return float(-(joint * np.log(np.where(joint > 0, within, 1.0))).sum() / max(joint.sum(), 1.0))


def _across(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) bool: what a plane through every second code says of the others, and the other way round."""
    said = np.zeros(len(y), bool)
    for fitted in (0, 1):
        seen, told = y[fitted::2], slice(1 - fitted, None, 2)
        said[told] = seen[0] if seen.all() or not seen.any() else logistic(x[fitted::2], seen).predict(x[told])
    return said
