"""Points of a grid of known factors, their codes, and how much each code tells of each factor.

A *grid* holds one image for each combination of K factors with ``sizes`` values, the last factor running fastest. A
model is a function ``represent``: factors (N, K) to codes (N, D); of an encoder of images that is
``lambda factors: encode(images[index_of(factors, sizes)])``. Where a code is a function of the factors, encode the
whole grid once and use ``indexed``: the protocols ask for millions of codes, dSprites has 737 280 images. Points are
rows throughout, and matrices are codes by factors, (D, K).

Draws are those of the study of Locatello et al. (2019): ``RandomState``, one call for each factor in turn, so that a
published score can be repeated point by point. ``represent`` is called after the draws and must not share their
generator.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import joblib
import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

Represent = Callable[[np.ndarray], np.ndarray]

_ROWS = 16_384  # codes asked of ``represent`` at once


class Points(NamedTuple):
    """What a model says of some points of the grid."""

    codes: np.ndarray  # (N, D) floating
    factors: np.ndarray  # (N, K) int64, each from 0


class Accuracies(NamedTuple):
    """Shares in [0, 1] of points that classifiers get right: numbers, or arrays of one for each factor."""

    train: float | np.ndarray
    test: float | np.ndarray


class Importance(NamedTuple):
    """What trees tell of codes and factors."""

    weights: np.ndarray  # (D, K) >= 0; the columns sum to 1, or to 0 where no code helps
    accuracies: Accuracies  # (K,) each


def index_of(factors: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Rows of a grid, (N,) int64, at ``factors`` (N, K).

    Raises:
        ValueError: a factor is outside of [0, size), or there are not K of them.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(sizes) or not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors must be integers (N, {len(sizes)}), got {factors.dtype} {factors.shape}.")
    outside = ((factors < 0) | (factors >= np.asarray(sizes))).any(0)
    if outside.any():
        k = int(outside.argmax())
        raise ValueError(f"Factor {k} must lie in 0 to {sizes[k] - 1}, got values outside: look at sizes.")
    return np.ravel_multi_index(tuple(factors.T), tuple(sizes)).astype(np.int64)


def indexed(codes: np.ndarray, sizes: Sequence[int]) -> Represent:
    """A ``represent`` that looks up the codes of a whole grid, for models and images without noise.

    Args:
        codes: (M, D), of all images in the grid's order, M the product of ``sizes``.
        sizes: K numbers of values.

    Raises:
        ValueError: another number of codes.
    """
    codes, sizes = checked_codes(codes), checked_sizes(sizes)
    if len(codes) != np.prod(sizes, dtype=np.int64):
        raise ValueError(
            f"codes must be those of all {np.prod(sizes, dtype=np.int64)} images of {sizes}, not {len(codes)}."
        )
    return lambda factors: codes[index_of(factors, sizes)]


def draw_factors(sizes: Sequence[int], points: int, rng: np.random.RandomState) -> np.ndarray:
    """Independent uniform factors, (points, K) int64, one call of ``rng`` for each factor."""
    factors = np.empty((points, len(sizes)), np.int64)
    for k, size in enumerate(sizes):
        factors[:, k] = rng.randint(size, size=points)
    return factors


def sample(
    represent: Represent, sizes: Sequence[int], points: int, rng: np.random.RandomState, batch: int = 16
) -> Points:
    """Points drawn with replacement, in the study's batches, which fix the order of the draws.

    Args:
        represent: factors (N, K) to codes (N, D).
        sizes: K numbers of values.
        points: N.
        rng: of the draws; it is moved on.
        batch: points that are drawn together.

    Raises:
        ValueError: a factor with one value, or codes that are not finite (N, D).
    """
    sizes = checked_sizes(sizes)
    if points < 2:
        raise ValueError(f"points must be at least 2, not {points}.")
    starts = range(0, points, batch)
    factors = np.concatenate([draw_factors(sizes, min(batch, points - start), rng) for start in starts])
    return Points(np.concatenate(list(codes_of(represent, factors))), factors)


def codes_of(represent: Represent, factors: np.ndarray, group: int = 1) -> Iterator[np.ndarray]:
    """Codes of factors (N, K), some thousands of rows at a time and never less than whole groups of rows."""
    step = max(1, _ROWS // group) * group
    for start in range(0, len(factors), step):
        part = factors[start : start + step]
        codes = checked_codes(represent(part))
        if len(codes) != len(part):
            raise ValueError(f"represent must return a code for each of {len(part)} points, not {len(codes)}.")
        yield codes


def digitised(values: np.ndarray, bins: int = 20) -> np.ndarray:
    """Numbers of equal bins between the least and the largest value of each column, (N, D) int64 in 1 to ``bins``.

    The largest value is in the last bin; a constant column has one bin. One outlier thus widens all bins of its column,
    as it does in the study. Edges have the precision of ``values``.
    """
    values = checked_codes(values, "values")
    edges = [np.histogram_bin_edges(column, bins)[:-1] for column in values.T]
    columns = [np.digitize(column, edge) for column, edge in zip(values.T, edges, strict=True)]
    return np.stack(columns, 1).astype(np.int64)


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Plug-in mutual information between each discrete code and each factor, in nats.

    Biased upwards by about (bins - 1)(size - 1) / 2N, 0.037 nats at 20 bins, 40 values and 10 000 points: compare only
    scores of one number of points.

    Args:
        codes: (N, D) integers, see ``digitised``.
        factors: (N, K) integers.

    Returns:
        (D, K) float64 >= 0.

    Raises:
        ValueError: other numbers of points, as of a transposed matrix, or not integers.
    """
    for name, values in (("codes", codes), ("factors", factors)):
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} must be integers with points in rows, got {values.dtype} {values.shape}.")
    if len(codes) != len(factors):
        raise ValueError(f"codes and factors need one row a point, got {codes.shape} and {factors.shape}.")
    columns = [_renumbered(column) for column in codes.T]
    others = [_renumbered(column) for column in factors.T]
    return np.array([[_information(code, factor) for factor in others] for code in columns])


def entropies(factors: np.ndarray) -> np.ndarray:
    """Plug-in entropy of each column of integers (N, K), (K,) in nats; of the points, not of the grid."""
    shares = [np.bincount(_renumbered(column)[0]) / len(factors) for column in factors.T]
    return np.array([-(p * np.log(p)).sum() for p in shares])


def squared_correlations(points: Points) -> np.ndarray:
    """Squared Pearson correlation of each code and factor, (D, K) in [0, 1]; 0 where a variance is below 1e-12."""
    z, y = (values - values.mean(0, dtype=np.float64) for values in points)
    power_z, power_y = (z**2).sum(0) / (len(z) - 1), (y**2).sum(0) / (len(y) - 1)
    alive = (power_z[:, None] > 1e-12) & (power_y > 1e-12)
    products = np.where(alive, power_z[:, None] * power_y, 1.0)
    return np.where(alive, (z.T @ y / (len(z) - 1)) ** 2 / products, 0.0)


def margin_accuracies(train: Points, test: Points, jobs: int = 1) -> np.ndarray:
    """How often a linear support vector machine reads each factor from one code alone.

    As in the study: C = 0.01 and classes weighted to be equal.

    Args:
        train: what is fitted.
        test: what is counted.
        jobs: processes; the numbers do not depend on it.

    Returns:
        (D, K) accuracies in [0, 1].

    Raises:
        ValueError: a factor that does not vary among the points.
    """
    check_varied(train.factors)
    shape = train.codes.shape[1], train.factors.shape[1]
    tasks = (
        joblib.delayed(_margin_accuracy)(
            train.codes[:, [d]], train.factors[:, k], test.codes[:, [d]], test.factors[:, k]
        )
        for d, k in np.ndindex(shape)
    )
    return np.array(joblib.Parallel(n_jobs=jobs)(tasks)).reshape(shape)


def boosted_importance(train: Points, test: Points, seed: int = 0, jobs: int = 1) -> Importance:
    """Importance of each code to gradient boosted trees that read a factor from all codes.

    scikit-learn's defaults, as in the study: 100 stages of depth 3, each of one tree for every class. Of two codes
    that tell the same, ``seed`` chooses.

    Args:
        train: what is fitted.
        test: what is counted.
        seed: of each factor's trees.
        jobs: processes; the numbers do not depend on it. One for each factor is the most that helps.

    Raises:
        ValueError: a factor that does not vary among the points.
    """
    check_varied(train.factors)
    # The factors of most values first, whose trees take longest: then processes end at about the same time.
    order = np.argsort([-len(np.unique(factor)) for factor in train.factors.T], kind="stable")
    tasks = (
        joblib.delayed(_boosted)(train.codes, train.factors[:, k], test.codes, test.factors[:, k], seed) for k in order
    )
    found = joblib.Parallel(n_jobs=jobs)(tasks)
    weights, seen, unseen = zip(*(found[place] for place in np.argsort(order)), strict=True)
    return Importance(np.stack(weights, 1), Accuracies(np.array(seen), np.array(unseen)))


def checked_codes(codes: np.ndarray, name: str = "codes") -> np.ndarray:
    """Codes as they are, if they are finite (N, D)."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"{name} must be (N, D), one row a point, got {codes.shape}: flatten maps first.")
    if not np.isfinite(codes).all():
        raise ValueError(f"{name} hold NaN or infinity: look for a model that diverged.")
    return codes


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes as a tuple, if every factor varies."""
    sizes = tuple(int(size) for size in sizes)
    constant = [k for k, size in enumerate(sizes) if size < 2]
    if constant or not sizes:
        raise ValueError(f"sizes need at least 2 values of each factor, got {sizes}: leave constant factors out.")
    return sizes


def check_varied(factors: np.ndarray) -> None:
    """Refuse points among which a factor is constant."""
    constant = (factors == factors[:1]).all(0)
    if constant.any():
        raise ValueError(
            f"factors[:, {int(constant.argmax())}] has one value among {len(factors)} points: leave the factor out, or "
            "draw more points."
        )


def _renumbered(column: np.ndarray) -> tuple[np.ndarray, int]:
    """A column of integers as ranks of its values, and the number of values."""
    values, ranks = np.unique(column, return_inverse=True)
    return ranks, len(values)


def _information(a: tuple[np.ndarray, int], b: tuple[np.ndarray, int]) -> float:
    joint = np.bincount(a[0] * b[1] + b[0], minlength=a[1] * b[1]).reshape(a[1], b[1]) / len(a[0])
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    return max(0.0, float((joint[there] * np.log(joint[there] / independent[there])).sum()))


def _margin_accuracy(codes: np.ndarray, factor: np.ndarray, codes_test: np.ndarray, factor_test: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol stops there
        machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0).fit(codes, factor)
    return float((machine.predict(codes_test) == factor_test).mean())


def _boosted(
    codes: np.ndarray, factor: np.ndarray, codes_test: np.ndarray, factor_test: np.ndarray, seed: int
) -> tuple[np.ndarray, float, float]:
    trees = GradientBoostingClassifier(random_state=seed).fit(codes, factor)
    seen, unseen = trees.predict(codes) == factor, trees.predict(codes_test) == factor_test
    return np.abs(trees.feature_importances_), float(seen.mean()), float(unseen.mean())
