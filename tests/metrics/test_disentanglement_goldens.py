"""Numbers that were worked out apart from this code, on codes by formula; and the field's own bounds."""

import numpy as np
import pytest

from metrics.code_dependence import dependence_of
from metrics.disentanglement import beta_vae_score, factor_vae_score, irs, mig, sap, sap_continuous
from metrics.disentanglement_scores import dci_of, explicitness_of, irs_of, mig_of, modularity_of, sap_of
from metrics.factor_codes import (
    Points,
    boosted_importance,
    digitised,
    entropies,
    margin_accuracies,
    mutual_information,
    sample,
    squared_correlations,
)

SIZES = (3, 6, 10, 8)
EXACT = {"rel": 1e-12}  # float64 sums in another order


def hashed(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Numbers in [-1, 1] by integer arithmetic, the same everywhere."""
    h = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(stream * 97531 + 12345)
    h &= np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 2246822519), (13, 3266489917), (16, 1)):
        h ^= h >> np.uint64(shift)
        h = h * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    return (h / 2**31 - 1).reshape(shape)


def units(factors: np.ndarray) -> np.ndarray:
    return 2 * factors / (np.array(SIZES) - 1) - 1


@pytest.fixture(scope="module")
def points() -> Points:
    factors = np.stack(np.unravel_index(np.arange(1440), SIZES), 1)
    u, e = units(factors).T, hashed((6, 1440), 42)
    codes = (
        u[0] + 0.1 * e[0],
        u[1] + 0.3 * u[2] + 0.1 * e[1],
        0.8 * u[2] + 0.1 * e[2],
        u[3] + 0.05 * e[3],
        0.5 * u[3] + 0.5 * u[1] + 0.2 * e[4],
        0.01 * e[5],
    )
    return Points(np.stack(codes, 1), factors)


@pytest.fixture(scope="module")
def information(points: Points) -> np.ndarray:
    return mutual_information(digitised(points.codes), points.factors)


def test_the_codes_themselves(points):
    first = [-0.123747383710, -0.951990336180, -0.961633752100, -0.532733484637]
    assert hashed((4,), 0) == pytest.approx(first, abs=1e-12)
    assert points.codes.sum() == pytest.approx(2.0550510891526557, **EXACT)


def test_bins_entropies_and_information(points, information):
    assert digitised(points.codes)[:12, 0].tolist() == [1, 2, 2, 1, 1, 1, 2, 2, 2, 1, 1, 1]
    assert entropies(points.factors) == pytest.approx([1.09861228867, 1.79175946923, 2.30258509299, 2.07944154168])
    assert information[1] == pytest.approx([0.00734816, 1.19528871, 0.46239078, 0.02499798], abs=1e-8)
    assert information[4] == pytest.approx([0.01115199, 0.37975755, 0.06272938, 0.37544079], abs=1e-8)


def test_scores_of_the_information(points, information):
    assert mig_of(information, entropies(points.factors)).score == pytest.approx(0.7331758539566889, **EXACT)
    assert modularity_of(information).score == pytest.approx(0.9007561054107605, **EXACT)
    aggregate = dci_of(information)
    assert aggregate.disentanglement == pytest.approx(0.745113301764683, **EXACT)
    assert aggregate.completeness == pytest.approx(0.6457063939761268, **EXACT)


def test_sap(points):
    assert sap_of(squared_correlations(points)).score == pytest.approx(0.7218166886241365, **EXACT)
    score = sap_of(margin_accuracies(points, points)).score
    assert score == pytest.approx(0.20989583333333334, abs=0.01)  # scikit-learn 1.9.1, where it is exact


def test_irs(points):
    factors = digitised(points.factors)
    assert irs_of(points.codes, factors).score == pytest.approx(0.7651977330019265, **EXACT)
    assert irs_of(points.codes, factors, quantile=1.0).score == pytest.approx(0.7593618193741435, **EXACT)


def test_dependence(points):
    found = dependence_of(points.codes)
    assert found.total_correlation == pytest.approx(1.4205434634987881, **EXACT)
    assert found.wasserstein == pytest.approx(0.26842015940141817, **EXACT)
    assert found.wasserstein_normalised == pytest.approx(0.12726771925519232, **EXACT)
    assert found.information == pytest.approx(0.1451254930889147, **EXACT)


def test_trees_and_explicitness_of_every_second_point(points):
    train, test = Points(points.codes[::2], points.factors[::2]), Points(points.codes[1::2], points.factors[1::2])
    importance = boosted_importance(train, test)
    aggregate = dci_of(importance.weights)
    assert aggregate.disentanglement == pytest.approx(0.90506, abs=5e-3)  # scikit-learn 1.9.1 and numpy's own seed
    assert aggregate.completeness == pytest.approx(0.90599, abs=5e-3)
    assert importance.accuracies.train.mean() == 1
    assert importance.accuracies.test.mean() == pytest.approx(0.71493, abs=5e-3)
    found = explicitness_of(*(Points(part.codes[:, :4], part.factors[:, [2]]) for part in (train, test)))
    assert found.train == pytest.approx(0.98705, abs=1e-4)  # of codes as they are, not standardised
    assert found.test == pytest.approx(0.98600, abs=1e-4)


def mixed(factors: np.ndarray) -> np.ndarray:
    u = units(factors).T
    return np.stack((u[0], u[1] + 0.3 * u[2], 0.8 * u[2], u[3], 0.5 * u[3] + 0.5 * u[1], 0 * u[0]), 1)


def test_protocols_draw_as_the_study_does():
    rng = np.random.RandomState
    first = sample(mixed, SIZES, 2000, rng(0)).codes[0]
    assert first == pytest.approx([-1.0, -0.7, -0.266666666667, -1.0, -0.8, 0.0], abs=1e-11)
    assert mig(mixed, SIZES, rng(0), points=2000).score == pytest.approx(0.5617246494378004, **EXACT)
    counts = {"train": 2000, "test": 1000}
    assert factor_vae_score(mixed, SIZES, rng(0), points=2000, **counts).test == 1
    assert beta_vae_score(mixed, SIZES, rng(0), **counts).test == 1


TENS = (10,) * 10


def as_they_are(factors: np.ndarray) -> np.ndarray:
    return factors.astype(np.float64)


def nothing(factors: np.ndarray) -> np.ndarray:
    return np.zeros(factors.shape)


def twice(factors: np.ndarray) -> np.ndarray:
    return np.concatenate((factors, factors), 1).astype(np.float64)


def shuffled(factors: np.ndarray) -> np.ndarray:
    """Each point's factors in an order of its own."""
    return np.random.default_rng(0).permuted(factors.astype(np.float64), axis=1)


def test_official_bounds_of_a_perfect_code():
    rng = np.random.RandomState
    assert beta_vae_score(as_they_are, TENS, rng(0), train=2000, test=2000, pairs=5).test > 0.9
    assert factor_vae_score(as_they_are, TENS, rng(0), train=3000, test=2000, batch=5, points=2500).test > 0.9
    assert 0.9 <= mig(as_they_are, TENS, rng(0), points=3000).score <= 1
    assert sap_continuous(as_they_are, TENS, rng(0), points=1000).score > 0.9
    assert irs(as_they_are, TENS, rng(0), points=3000).score > 0.9
    points = sample(as_they_are, TENS, 3000, rng(0))
    assert modularity_of(mutual_information(digitised(points.codes), points.factors)).score > 0.9


def test_official_bounds_of_no_code():
    rng = np.random.RandomState
    assert factor_vae_score(nothing, TENS, rng(0), train=300, test=200, batch=5, points=250).test <= 0.2
    assert mig(nothing, TENS, rng(0), points=3000).score <= 0.2
    assert sap(nothing, TENS[:3], rng(0), train=500, test=500).score <= 0.2
    assert sap_continuous(nothing, TENS, rng(0), points=1000).score <= 0.2
    assert irs(nothing, TENS, rng(0), points=1000).score <= 0.1


def test_official_bounds_of_a_code_twice():
    rng = np.random.RandomState
    assert mig(twice, TENS, rng(0), points=3000).score <= 0.1
    assert sap_continuous(twice, TENS, rng(0), points=1000).score <= 0.2
    points = sample(twice, TENS, 3000, rng(0))
    assert modularity_of(mutual_information(digitised(points.codes), points.factors)).score > 0.9


def test_official_bounds_of_a_shuffled_code():
    points = sample(shuffled, TENS, 20_000, np.random.RandomState(0))
    assert modularity_of(mutual_information(digitised(points.codes), points.factors)).score <= 0.2


def test_official_bounds_of_trees():
    """With 4 factors of 5 values for 10 of 10."""
    sizes = (5,) * 4

    def aggregate(represent):
        rng = np.random.RandomState(0)
        train, test = sample(represent, sizes, 600, rng), sample(represent, sizes, 100, rng)
        return dci_of(boosted_importance(train, test).weights)

    perfect, double, useless = aggregate(as_they_are), aggregate(twice), aggregate(shuffled)
    assert min(perfect.disentanglement, perfect.completeness) > 0.9
    assert double.disentanglement > 0.9
    assert double.completeness == pytest.approx(1 - np.log(2) / np.log(8), abs=0.1)
    assert max(useless.disentanglement, useless.completeness) <= 0.2
