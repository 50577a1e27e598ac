"""How far each code of a model stands for one factor of the data, on images whose factors are known.

The protocols of the study of Locatello et al. (2019), with its numbers of points as defaults. They ask a model,
``represent``, for the codes of the factors that they draw (``metrics/factor_codes.py``, which also has ``indexed`` for
a grid that is coded once); the formulas are in ``metrics/disentanglement_scores.py``.

``sizes`` are the numbers of values of the factors; which factors count changes every score. Scores with classifiers
depend on scikit-learn's version, whose logistic regression is multinomial since 0.22 and was one against the rest in
the study: state it beside them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metrics.code_dependence import Dependence, dependence_of
from metrics.disentanglement_scores import (
    Explicitness,
    Gaps,
    Modularity,
    Robustness,
    dci_of,
    explicitness_of,
    irs_of,
    logistic,
    mig_of,
    modularity_of,
    sap_of,
    standardised,
)
from metrics.factor_codes import (
    Accuracies,
    Represent,
    boosted_importance,
    check_varied,
    checked_sizes,
    codes_of,
    digitised,
    draw_factors,
    entropies,
    margin_accuracies,
    mutual_information,
    sample,
    squared_correlations,
)


class DCIScores(NamedTuple):
    """``DCI`` of trees, and how well the trees read the factors."""

    disentanglement: float
    completeness: float
    informativeness: Accuracies  # means over factors; the paper gives errors instead
    importance: np.ndarray  # (D, K)


class Votes(NamedTuple):
    """The FactorVAE score."""

    train: float  # accuracies of the majority vote
    test: float
    active: int  # codes that vary; where they are fewer than factors, the score cannot reach 1
    counts: np.ndarray  # (K, active) training votes


def beta_vae_score(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    train: int = 10_000,
    test: int = 5_000,
    pairs: int = 64,
) -> Accuracies:
    """How often a linear classifier tells which factor two images share (Higgins et al. 2017).

    What it sees is the difference of the codes of two images, absolute and averaged over pairs with the same shared
    factor. The classifier is scikit-learn's logistic regression, as in the study, instead of the paper's Adagrad.

    Args:
        represent: factors (N, K) to codes (N, D).
        sizes: K numbers of values, at least 2 factors.
        rng: of the draws.
        train: labelled points to fit to.
        test: labelled points to count.
        pairs: images on either side of a point.

    Returns:
        Accuracies; chance is 1 / K.

    Raises:
        ValueError: a single factor, a factor with one value, no points, or codes that are not finite (N, D).
    """
    sizes = _several(sizes)
    if min(train, test, pairs) < 1:
        raise ValueError(f"train, test and pairs must be at least 1, not {train}, {test} and {pairs}.")
    x, y = _differences(represent, sizes, rng, train, pairs)
    x_test, y_test = _differences(represent, sizes, rng, test, pairs)
    if len(np.unique(y)) < 2:
        raise ValueError(f"train must hold points of at least two factors: {train} were too few, draw more.")
    classifier = logistic(x, y)
    return Accuracies(*(float((classifier.predict(a) == b).mean()) for a, b in ((x, y), (x_test, y_test))))


def factor_vae_score(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    points: int = 10_000,
    threshold: float = 0.05,
) -> Votes:
    """How often the code that varies least tells which factor a batch of images shares (Kim and Mnih 2018).

    The variance of a code within the batch is divided by that over all images; each code stands for the factor that
    made it the least most often.

    Args:
        represent: factors (N, K) to codes (N, D).
        sizes: K numbers of values, at least 2 factors.
        rng: of the draws.
        train: votes that settle which factor a code stands for.
        test: votes that are counted.
        batch: images of a vote.
        points: images for the variance over all.
        threshold: codes of a smaller standard deviation have collapsed and do not vote, nor do constant ones.

    Returns:
        Accuracies, 0 where no code varies; chance is 1 / K.

    Raises:
        ValueError: a single factor, a factor with one value, no variance to take, or codes that are not finite (N, D).
    """
    sizes = _several(sizes)
    if min(train, test) < 1 or min(batch, points) < 2:
        given = f"{train}, {test}, {batch} and {points}"
        raise ValueError(f"train and test must be at least 1, batch and points at least 2, not {given}.")
    factors = draw_factors(sizes, points, rng)  # at once, unlike ``sample``
    codes = np.concatenate(list(codes_of(represent, factors)))
    spread = codes.var(0, dtype=np.float64, ddof=1)
    # A constant has a ratio of 0 to 0, which numpy takes for the least.
    active = (np.sqrt(spread) >= threshold) & (np.ptp(codes, 0) > 0)
    counts, counts_test = (
        _votes(represent, sizes, rng, votes, batch, np.where(active, spread, np.inf))[:, active]
        for votes in (train, test)
    )
    if not active.any():
        return Votes(0.0, 0.0, 0, counts)
    chosen = counts.argmax(0), np.arange(counts.shape[1])
    return Votes(
        float(counts[chosen].sum() / train), float(counts_test[chosen].sum() / test), int(active.sum()), counts
    )


def mig(
    represent: Represent, sizes: Sequence[int], rng: np.random.RandomState, points: int = 10_000, bins: int = 20
) -> Gaps:
    """``mig_of`` the histogram of codes, the study's protocol; means as codes, not draws as in the paper.

    The estimate of the information grows with ``bins`` over ``points``: keep both.
    """
    codes, factors = sample(represent, sizes, points, rng)
    return mig_of(mutual_information(digitised(codes, bins), factors), entropies(factors))


def dci(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    train: int = 10_000,
    test: int = 5_000,
    seed: int = 0,
    jobs: int = 1,
) -> DCIScores:
    """``dci_of`` the importance to gradient boosted trees, the study's protocol: minutes for factors of 40 values.

    Args:
        represent: factors (N, K) to codes (N, D).
        sizes: K numbers of values, at least 2 factors.
        rng: of the draws.
        train: points to fit to.
        test: points to count.
        seed: of the trees, which the study leaves to chance: the scores then vary in the third or fourth decimal.
        jobs: processes, at most K of which help; the scores do not depend on it.
    """
    sizes = _several(sizes)
    seen, unseen = sample(represent, sizes, train, rng), sample(represent, sizes, test, rng)
    weights, accuracies = boosted_importance(seen, unseen, seed, jobs)
    aggregate = dci_of(weights)
    informativeness = Accuracies(*(float(np.mean(values)) for values in accuracies))
    return DCIScores(aggregate.disentanglement, aggregate.completeness, informativeness, weights)


def sap(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    train: int = 10_000,
    test: int = 5_000,
    jobs: int = 1,
) -> Gaps:
    """``sap_of`` support vector machines, the study's protocol, which takes all factors for classes."""
    seen, unseen = sample(represent, sizes, train, rng), sample(represent, sizes, test, rng)
    return sap_of(margin_accuracies(seen, unseen, jobs))


def sap_continuous(
    represent: Represent, sizes: Sequence[int], rng: np.random.RandomState, points: int = 10_000
) -> Gaps:
    """``sap_of`` squared correlations, for factors whose values are in order."""
    drawn = sample(represent, sizes, points, rng)
    check_varied(drawn.factors)
    return sap_of(squared_correlations(drawn))


def modularity_explicitness(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    train: int = 10_000,
    test: int = 5_000,
    bins: int = 20,
) -> tuple[Modularity, Explicitness]:
    """``modularity_of`` the training codes in bins, and ``explicitness_of`` both sets, as the study has them.

    There, codes are standardised, and explicitness is the mean over factors. A factor that is NaN needs more points.
    """
    sizes = _several(sizes)
    seen, unseen = sample(represent, sizes, train, rng), sample(represent, sizes, test, rng)
    information = mutual_information(digitised(seen.codes, bins), seen.factors)
    return modularity_of(information), explicitness_of(*standardised(seen, unseen))


def irs(
    represent: Represent,
    sizes: Sequence[int],
    rng: np.random.RandomState,
    points: int = 10_000,
    bins: int = 20,
    quantile: float = 0.99,
) -> Robustness:
    """``irs_of`` codes and factors in bins, the study's protocol: 40 orientations become 20 groups."""
    codes, factors = sample(represent, sizes, points, rng)
    return irs_of(codes, digitised(factors, bins), quantile)


def dependence(
    represent: Represent, sizes: Sequence[int], rng: np.random.RandomState, points: int = 10_000, bins: int = 20
) -> Dependence:
    """``dependence_of`` codes of random points, the study's protocol for scores that need no factors."""
    return dependence_of(sample(represent, sizes, points, rng).codes, bins)


def _several(sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = checked_sizes(sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes must be of at least 2 factors to tell apart, got {sizes}.")
    return sizes


def _differences(
    represent: Represent, sizes: tuple[int, ...], rng: np.random.RandomState, points: int, pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (points, D) and labels (points,) of the beta-VAE score."""
    labels = np.empty(points, np.int64)
    factors = np.empty((points, 2, pairs, len(sizes)), np.int64)
    for i in range(points):  # the order of the draws leaves nothing else
        labels[i] = k = rng.randint(len(sizes))
        factors[i] = draw_factors(sizes, pairs, rng), draw_factors(sizes, pairs, rng)
        factors[i, 1, :, k] = factors[i, 0, :, k]
    rows = factors.reshape(-1, len(sizes))
    features = []
    for codes in codes_of(represent, rows, group=2 * pairs):
        first, second = np.moveaxis(codes.reshape(-1, 2, pairs, codes.shape[1]), 1, 0)
        features.append(np.abs(first - second).mean(1))
    return np.concatenate(features), labels


def _votes(
    represent: Represent,
    sizes: tuple[int, ...],
    rng: np.random.RandomState,
    votes: int,
    batch: int,
    spread: np.ndarray,
) -> np.ndarray:
    """How often each code varied least under each fixed factor, (K, D); never a code of infinite ``spread``."""
    fixed = np.empty(votes, np.int64)
    factors = np.empty((votes, batch, len(sizes)), np.int64)
    for i in range(votes):
        fixed[i] = k = rng.randint(len(sizes))
        factors[i] = draw_factors(sizes, batch, rng)
        factors[i, :, k] = factors[i, 0, k]
    least = []
    for codes in codes_of(represent, factors.reshape(-1, len(sizes)), group=batch):
        local = codes.reshape(-1, batch, codes.shape[1]).var(1, dtype=np.float64, ddof=1)
        least.append(np.where(np.isfinite(spread), local / spread, np.inf).argmin(1))
    cells = fixed * len(spread) + np.concatenate(least)
    return np.bincount(cells, minlength=len(sizes) * len(spread)).reshape(len(sizes), len(spread))
