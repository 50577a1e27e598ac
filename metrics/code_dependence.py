"""What codes tell without known factors: how far they depend on each other, and whether other seeds find the same.

Independent codes need not stand for factors: none of these replaces ``metrics/disentanglement.py``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import Lasso

from metrics.factor_codes import checked_codes, digitised, mutual_information


class Dependence(NamedTuple):
    """How far codes depend on each other; all 0 where they do not."""

    total_correlation: float  # nats, of Gaussians; infinite where a code is a linear function of others
    wasserstein: float  # squared units of the codes, of Gaussians
    wasserstein_normalised: float  # the same over the total variance
    information: float  # nats, mean over pairs of codes


class UDR(NamedTuple):
    """Unsupervised disentanglement ranking."""

    models: np.ndarray  # (M,) medians over the other models
    pairs: np.ndarray  # (M, M) of each model read from each other; NaN on the diagonal


def dependence_of(codes: np.ndarray, bins: int = 20) -> Dependence:
    """What the study of Locatello et al. (2019) reports without factors, of codes (N, D)."""
    distance, variance = wasserstein_correlation(codes), float(_varying(codes).var(0, ddof=1).sum())
    normalised = distance / variance if variance > 0 else 0.0
    return Dependence(total_correlation(codes), distance, normalised, mean_information(codes, bins))


def total_correlation(codes: np.ndarray) -> float:
    """Total correlation, in nats, of a Gaussian with the codes' covariance.

    Half the sum of the logarithms of the variances less the log-determinant; that of the correlations, so that codes of
    small variance count alike. Constant codes depend on nothing and are left out.

    Args:
        codes: (N, D).

    Returns:
        At least 0; infinite where a code is a linear function of others.
    """
    z = _varying(codes)
    if z.shape[1] < 2:
        return 0.0
    z = (z - z.mean(0)) / z.std(0)
    values = np.linalg.eigvalsh(z.T @ z / len(z))
    if values[0] <= z.shape[1] * np.finfo(np.float64).eps:
        return float("inf")
    return max(0.0, float(-0.5 * np.log(values).sum()))


def wasserstein_correlation(codes: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of a Gaussian with the codes' covariance and one with their variances alone.

    2 tr C - 2 tr (S C)^(1/2) with S the diagonal of C; the trace of the root is that of the symmetric
    (S^(1/2) C S^(1/2))^(1/2), which is never complex.

    Args:
        codes: (N, D).

    Returns:
        At least 0, in squared units of the codes.
    """
    z = _varying(codes)
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    deviation = np.sqrt(np.diag(covariance))
    root = np.sqrt(np.linalg.eigvalsh(deviation[:, None] * covariance * deviation).clip(0)).sum()
    return max(0.0, float(2 * np.trace(covariance) - 2 * root))


def mean_information(codes: np.ndarray, bins: int = 20) -> float:
    """Mean mutual information, in nats, of two different codes (N, D) in histograms; 0 for a single code."""
    found = digitised(codes, bins)
    pairs = ~np.eye(found.shape[1], dtype=bool)
    return float(mutual_information(found, found)[pairs].mean()) if pairs.any() else 0.0


def lasso_weights(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Absolute weights of a lasso (alpha = 0.1) that reads ``codes`` (N, D) from ``others`` (N, E): (D, E).

    Of standardised codes; 0.9 at most where the others do not depend on each other.
    """
    return np.abs(Lasso(alpha=0.1).fit(others, codes).coef_).reshape(codes.shape[1], others.shape[1])


def rank_correlations(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Absolute Spearman correlations of the codes (N, D) and (N, E) of two models: (D, E) in [0, 1]."""
    x, y = (_standardised(rankdata(z, axis=0)) for z in (codes, others))
    return np.abs(x.T @ y) / len(x)


def udr(
    codes: Sequence[np.ndarray],
    divergences: Sequence[np.ndarray],
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray] = lasso_weights,
    threshold: float = 0.01,
) -> UDR:
    """Unsupervised disentanglement ranking (Duan et al. 2020): do models from other seeds find the same codes?

    Of a pair of models, the square of each code's best similarity over the sum of its similarities, averaged over the
    informative codes of either model, and over both models. A code that the other model lacks counts as 0.

    Args:
        codes: M times (N, D), of the same images in the same order; D may differ. The protocol takes 1000 images.
        divergences: M times (D,), KL divergence of each code from the prior in nats, a mean over images.
        similarity: of (N, D) and (N, E), standardised, to (D, E): ``lasso_weights`` or ``rank_correlations``.
        threshold: codes of no more nats are not informative and left out.

    Returns:
        A model's score is the median over the others; 0 for a model without informative codes.

    Raises:
        ValueError: fewer than two models, or models on other images.
    """
    if len(codes) < 2 or len(divergences) != len(codes):
        raise ValueError(f"UDR compares at least 2 models, with divergences of each: {len(codes)}, {len(divergences)}.")
    if len({len(z) for z in codes}) > 1:
        raise ValueError(f"codes must be of the same images for all models, got {[len(z) for z in codes]} images.")
    informative = []
    for m, (z, kl) in enumerate(zip(codes, divergences, strict=True)):
        if np.shape(kl) != (np.shape(z)[1],):
            raise ValueError(f"divergences[{m}] must be one number a code, {np.shape(z)[1]}, got {np.shape(kl)}.")
        z = checked_codes(z).astype(np.float64)
        informative.append(_standardised(z[:, (np.asarray(kl) > threshold) & (np.ptp(z, 0) > 0)]))
    pairs = np.full((len(codes), len(codes)), np.nan)
    for i, j in np.ndindex(pairs.shape):
        if i != j:
            pairs[i, j] = _agreement(informative[i], informative[j], similarity)
    return UDR(np.nanmedian(pairs, 1), pairs)


def _varying(codes: np.ndarray) -> np.ndarray:
    """Codes in float64, without those that are constant but for the rounding of their mean."""
    codes = checked_codes(codes).astype(np.float64)
    return codes[:, np.ptp(codes, 0) > 0]


def _standardised(codes: np.ndarray) -> np.ndarray:
    return (codes - codes.mean(0)) / codes.std(0)


def _agreement(
    codes: np.ndarray, others: np.ndarray, similarity: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> float:
    if codes.shape[1] == 0 or others.shape[1] == 0:
        return 0.0
    values = similarity(codes, others)
    ways = []
    for way in (values, values.T):
        total, best = way.sum(1), way.max(1)
        ways.append(np.where(total > 0, best**2 / np.where(total > 0, total, 1.0), 0.0).mean())
    return float(np.mean(ways))
