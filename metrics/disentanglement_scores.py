"""Formulas of disentanglement: scores of matrices and of arrays of codes and factors, without a model.

Matrices are codes by factors, (D, K), and points are rows. ``metrics/disentanglement.py`` has the protocols that
measure a model with them.
"""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from metrics.factor_codes import Points, check_varied, checked_codes


class Gaps(NamedTuple):
    """How far the best code of each factor is ahead of the second."""

    score: float  # mean over factors, in [0, 1]
    factors: np.ndarray  # (K,)


class DCI(NamedTuple):
    """Both scores in [0, 1]."""

    disentanglement: float  # of codes, weighted by importance
    completeness: float  # of factors, weighted by importance
    codes: np.ndarray  # (D,) 1 where a code serves one factor, 0 where it serves all alike, or none
    factors: np.ndarray  # (K,) 1 where one code serves a factor, 0 where all do alike, or none


class Modularity(NamedTuple):
    """Whether each code is informative of one factor only."""

    score: float  # mean over codes, in [0, 1]
    codes: np.ndarray  # (D,) 0 where a code tells nothing


class Explicitness(NamedTuple):
    """Areas under the curve, one class against the rest, averaged over classes: (K,) each; NaN without a class."""

    train: np.ndarray
    test: np.ndarray


class Robustness(NamedTuple):
    """The interventional robustness score."""

    score: float  # in [0, 1], weighted by the codes' largest deviations
    codes: np.ndarray  # (D,) of each code's best factor; 0 where a code is constant
    active: int  # codes that vary
    matrix: np.ndarray  # (D, K)


def mig_of(information: np.ndarray, entropy: np.ndarray) -> Gaps:
    """Mutual information gap (Chen et al. 2018): best code less second best, in units of the factor's entropy.

    Args:
        information: (D, K) in nats; the second of a single code is 0.
        entropy: (K,) in nats, of the same points.

    Raises:
        ValueError: a factor without entropy.
    """
    if (entropy <= 0).any():
        k = int((entropy <= 0).argmax())
        raise ValueError(f"Factor {k} has no entropy, one value in all points: leave it out, or draw more points.")
    return _gaps(information, entropy)


def dci_of(importance: np.ndarray) -> DCI:
    """Disentanglement and completeness of a matrix of importance (Eastwood and Williams 2018).

    Of a code, 1 less the entropy of its importance over factors to the base K; of a factor, that over codes to the
    base D. The mean over codes, or factors, is weighted by their importance.

    Args:
        importance: (D, K) >= 0.

    Raises:
        ValueError: negative importance.
    """
    if (importance < 0).any():
        raise ValueError("importance must not be negative: take absolute values.")
    codes, factors = _concentration(importance), _concentration(importance.T)
    total = importance.sum()
    if total == 0:
        return DCI(0.0, 0.0, codes, factors)
    weights, weights_of_factors = importance.sum(1) / total, importance.sum(0) / total
    return DCI(float(weights @ codes), float(weights_of_factors @ factors), codes, factors)


def sap_of(scores: np.ndarray) -> Gaps:
    """Separated attribute predictability (Kumar et al. 2018): the gap of the two best codes.

    Args:
        scores: (D, K) in [0, 1], of reading a factor from a code: ``margin_accuracies``, or for factors that are
            quantities ``squared_correlations``. The second of a single code is 0.
    """
    return _gaps(scores, np.ones(scores.shape[1]))


def modularity_of(information: np.ndarray) -> Modularity:
    """Modularity (Ridgeway and Mozer 2018): how near each code is to telling of one factor only.

    One less the squared information about other factors, over K - 1 times that about the best one.

    Args:
        information: (D, K) >= 0, at least 2 factors.

    Raises:
        ValueError: a single factor.
    """
    if information.shape[1] < 2:
        raise ValueError("Modularity compares factors: information must be (D, K) with K at least 2.")
    squares = np.square(information, dtype=np.float64)
    best = squares.max(1)
    alive = best > 0
    others = (squares.sum(1) - best) / (np.where(alive, best, 1.0) * (information.shape[1] - 1))
    codes = np.where(alive, 1 - others, 0.0)
    return Modularity(float(codes.mean()), codes)


def standardised(train: Points, test: Points) -> tuple[Points, Points]:
    """Both with the codes in training means and (population) deviations, float64; 0 for a code that is constant."""
    codes = train.codes.astype(np.float64)
    alive = np.ptp(codes, 0) > 0
    scale = np.where(alive, 1 / np.where(alive, codes.std(0), 1.0), 0.0)
    seen, unseen = ((z - codes.mean(0)) * scale for z in (codes, test.codes))
    return Points(seen, train.factors), Points(unseen, test.factors)


def explicitness_of(train: Points, test: Points) -> Explicitness:
    """Explicitness (Ridgeway and Mozer 2018): how well logistic regression on all codes ranks each value of a factor.

    Where the training or the test points lack a value that the other ones have, the factor's test area is NaN: draw
    more points, 183 car types need them.

    Args:
        train: what is fitted; see ``standardised``.
        test: what is ranked.

    Raises:
        ValueError: a factor that does not vary among the training points.
    """
    check_varied(train.factors)
    areas = [
        _areas(train.codes, y, test.codes, y_test) for y, y_test in zip(train.factors.T, test.factors.T, strict=True)
    ]
    return Explicitness(*np.array(areas).T)


def irs_of(codes: np.ndarray, factors: np.ndarray, quantile: float = 0.99) -> Robustness:
    """Interventional robustness score (Suter et al. 2019): whether a factor holds a code whatever the others do.

    For each value of a factor, a high quantile of the deviation of a code from its mean at that value; averaged over
    values, in units of the largest deviation from the mean over all points.

    Args:
        codes: (N, D).
        factors: (N, K) integers; the study puts them into 20 bins.
        quantile: of the deviations; 1, the largest, in the paper.

    Returns:
        Scores, 0 where all codes are constant.

    Raises:
        ValueError: other numbers of points, or codes that are not finite (N, D).
    """
    codes = checked_codes(codes).astype(np.float64)
    if factors.ndim != 2 or len(factors) != len(codes):
        raise ValueError(f"codes and factors need one row a point, got {codes.shape} and {factors.shape}.")
    largest = np.abs(codes - codes.mean(0)).max(0)
    alive = np.ptp(codes, 0) > 0
    deviations = np.stack([_deviations(codes, factor, quantile) for factor in factors.T], 1)
    matrix = np.where(alive[:, None], 1 - deviations / np.where(alive, largest, 1.0)[:, None], 0.0)
    best = matrix.max(1)
    score = float(np.average(best, weights=largest * alive)) if alive.any() else 0.0
    return Robustness(score, best, int(alive.sum()), matrix)


def logistic(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """scikit-learn's default, whether or not it converges in 100 iterations: the study takes it as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression().fit(x, y)


def _gaps(scores: np.ndarray, units: np.ndarray) -> Gaps:
    padded = np.concatenate((scores, np.zeros((1, scores.shape[1])))) if len(scores) == 1 else scores
    second, best = np.sort(padded, 0)[-2:]
    factors = (best - second) / units
    return Gaps(float(factors.mean()), factors)


def _concentration(importance: np.ndarray) -> np.ndarray:
    """One less the normalised entropy of each row; 0 for a row of zeros."""
    rows, columns = importance.shape
    if columns == 1:
        return (importance[:, 0] > 0).astype(np.float64)
    shares = importance + 1e-11  # the study's, so that a row of zeros is even
    shares = shares / shares.sum(1, keepdims=True)
    return 1 + (shares * np.log(shares)).sum(1) / np.log(columns)


def _areas(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> tuple[float, float]:
    classifier = logistic(x, y)
    classes = classifier.classes_

    def area(points: np.ndarray, truth: np.ndarray) -> float:
        # Two classes as well: the area of either is the same.
        probabilities = classifier.predict_proba(points)
        return float(np.mean([roc_auc_score(truth == c, p) for c, p in zip(classes, probabilities.T, strict=True)]))

    return area(x, y), area(x_test, y_test) if np.array_equal(np.unique(y_test), classes) else float("nan")


def _deviations(codes: np.ndarray, factor: np.ndarray, quantile: float) -> np.ndarray:
    """(D,) quantiles of the deviations from the mean of each group, averaged over groups."""
    groups = [codes[factor == value] for value in np.unique(factor)]
    return np.mean([np.quantile(np.abs(z - z.mean(0)), quantile, axis=0) for z in groups], 0)
