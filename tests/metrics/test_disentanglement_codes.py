import re

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from metrics.factor_codes import (
    Points,
    boosted_importance,
    digitised,
    draw_factors,
    entropies,
    index_of,
    indexed,
    margin_accuracies,
    mutual_information,
    sample,
    squared_correlations,
)

SIZES = (2, 3, 5)


def grid() -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(30), SIZES), 1)


def random_points(seed: int, points: int = 200, codes: int = 4) -> Points:
    rng = np.random.RandomState(seed)
    factors = draw_factors(SIZES, points, rng)
    return Points(rng.randn(points, codes) + factors @ rng.randn(3, codes), factors)


def test_the_last_factor_runs_fastest():
    assert index_of(grid(), SIZES).tolist() == list(range(30))
    assert index_of(np.array([[1, 2, 4], [0, 1, 0]]), SIZES).tolist() == [29, 5]


def test_an_index_is_exact_beyond_the_integers_of_a_float():
    """disentanglement_lib computes it in floats, and lets the factor after the last one pass."""
    sizes = (2,) * 60
    ones = np.ones((1, 60), np.int64)
    assert index_of(ones, sizes) == 2**60 - 1
    assert index_of(ones - np.eye(60, dtype=np.int64)[-1:], sizes) == 2**60 - 2
    with pytest.raises(ValueError, match="Factor 1 must lie in 0 to 2"):
        index_of(np.array([[1, 3, 0]]), SIZES)
    with pytest.raises(ValueError, match="Factor 0 must lie"):
        index_of(np.array([[-1, 0, 0]]), SIZES)
    with pytest.raises(ValueError, match="integers"):
        index_of(np.zeros((1, 3)), SIZES)


def test_a_grid_that_is_coded_once_is_the_model():
    def model(factors):
        return np.stack((factors @ [1.0, 2.0, 3.0], factors[:, 0] ** 2.0), 1)

    cached = indexed(model(grid()), SIZES)
    points = sample(cached, SIZES, 100, np.random.RandomState(3))
    assert np.array_equal(points.codes, model(points.factors))
    live = sample(model, SIZES, 100, np.random.RandomState(3))
    assert all(np.array_equal(a, b) for a, b in zip(points, live, strict=True))
    with pytest.raises(ValueError, match="all 30 images"):
        indexed(np.zeros((29, 2)), SIZES)


def test_factors_are_drawn_in_batches_of_16_factor_by_factor():
    factors = sample(lambda f: f.astype(float), SIZES, 37, np.random.RandomState(5)).factors
    rng, expected = np.random.RandomState(5), []
    for rows in (16, 16, 5):
        expected.append(np.stack([rng.randint(size, size=rows) for size in SIZES], 1))
    assert np.array_equal(factors, np.concatenate(expected))
    assert [set(column) for column in factors.T] == [set(range(size)) for size in SIZES]


def test_many_points_are_asked_for_in_parts(monkeypatch):
    monkeypatch.setattr("metrics.factor_codes._ROWS", 7)
    rows = []

    def model(factors):
        rows.append(len(factors))
        return factors[:, :1] * 1.0

    points = sample(model, SIZES, 20, np.random.RandomState(0))
    assert rows == [7, 7, 6]
    assert np.array_equal(points.codes[:, 0], points.factors[:, 0])


@pytest.mark.parametrize(
    ("represent", "sizes", "message"),
    [
        (lambda f: f * 1.0, (2, 1), "leave constant factors out"),
        (lambda f: f * 1.0, (), "at least 2 values of each factor"),
        (lambda f: f * np.nan, SIZES, "NaN or infinity"),
        (lambda f: f[:, 0] * 1.0, SIZES, "codes must be (N, D)"),
        (lambda f: f[:3] * 1.0, SIZES, "a code for each of 20 points, not 3"),
    ],
)
def test_what_cannot_be_measured_is_said(represent, sizes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(represent, sizes, 20, np.random.RandomState(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_bins_are_those_of_histogram_and_digitize(dtype):
    values = (100 * np.random.RandomState(0).randn(500, 3)).astype(dtype)
    expected = [np.digitize(column, np.histogram(column, 20)[1][:-1]) for column in values.T]
    found = digitised(values)
    assert np.array_equal(found, np.stack(expected, 1))
    assert found.min(0).tolist() == [1, 1, 1]
    assert found[values.argmax(0), range(3)].tolist() == [20, 20, 20], "the largest value has no bin of its own"


def test_a_constant_has_one_bin_and_an_outlier_widens_the_others():
    assert len(np.unique(digitised(np.full((9, 1), 0.3)))) == 1
    assert digitised(np.array([[0.0], [1.0], [2.0], [200.0]]))[:, 0].tolist() == [1, 1, 1, 20]


@pytest.mark.parametrize("seed", range(5))
def test_information_is_scikit_learns(seed):
    points = random_points(seed)
    codes = digitised(points.codes, 7)
    found = mutual_information(codes, 10 * points.factors - 3)  # any integers
    expected = [[mutual_info_score(z, y) for y in points.factors.T] for z in codes.T]
    assert found == pytest.approx(np.array(expected), abs=1e-12)
    own = [mutual_info_score(y, y) for y in points.factors.T]
    assert entropies(points.factors) == pytest.approx(np.array(own), abs=1e-12)


def test_information_of_equal_and_of_independent_columns():
    factors = grid()
    found = mutual_information(factors, factors)
    assert found == pytest.approx(np.diag(np.log(SIZES)), abs=1e-12)


def test_a_matrix_on_its_side_is_refused():
    points = random_points(0)
    codes = digitised(points.codes)
    with pytest.raises(ValueError, match="one row a point"):
        mutual_information(codes.T, points.factors)
    with pytest.raises(ValueError, match="codes must be integers"):
        mutual_information(points.codes, points.factors)


def test_correlations_are_numpys_and_0_for_a_constant():
    codes, factors = random_points(1)
    codes[:, 2] = 0.7
    found = squared_correlations(Points(codes, factors))
    for d, k in np.ndindex(found.shape):
        expected = 0 if d == 2 else np.corrcoef(codes[:, d], factors[:, k])[0, 1] ** 2
        assert found[d, k] == pytest.approx(expected, abs=1e-12)


def test_support_vectors_pair_by_pair():
    train, test = random_points(2), random_points(3, points=100)
    found = margin_accuracies(train, test)
    for d, k in np.ndindex(4, 3):
        machine = LinearSVC(C=0.01, class_weight="balanced").fit(train.codes[:, d : d + 1], train.factors[:, k])
        assert found[d, k] == machine.score(test.codes[:, d : d + 1], test.factors[:, k])


def test_classifiers_repeat_whatever_numpys_state_and_however_many_processes():
    """disentanglement_lib leaves the seed of both to numpy's global state."""
    train, test = random_points(4, points=80), random_points(5, points=40)
    train, test = (Points(np.concatenate((p.codes, p.codes), 1), p.factors[:, :2]) for p in (train, test))  # ties
    found = []
    for state, jobs in ((0, 1), (1, 1), (2, 2)):
        np.random.seed(state)  # noqa: NPY002
        importance = boosted_importance(train, test, jobs=jobs)
        found.append((importance.weights, *importance.accuracies, margin_accuracies(train, test, jobs)))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    again = boosted_importance(train, test, seed=1).weights
    assert not np.array_equal(again, found[0][0]), "the seed chooses between equal codes"


def test_importance_is_that_of_each_factor_alone_whichever_is_fitted_first():
    train, test = random_points(4, points=80), random_points(5, points=40)
    assert np.any(np.diff([len(np.unique(factor)) for factor in train.factors.T]) != 0)
    for order in ([0, 1, 2], [2, 0, 1]):
        seen, unseen = (Points(p.codes, p.factors[:, order]) for p in (train, test))
        found = boosted_importance(seen, unseen, jobs=2)
        for place, k in enumerate(order):
            alone = boosted_importance(*(Points(p.codes, p.factors[:, [k]]) for p in (train, test)))
            assert np.array_equal(found.weights[:, place], alone.weights[:, 0])
            assert (found.accuracies.train[place], found.accuracies.test[place]) == tuple(
                float(share[0]) for share in alone.accuracies
            )


def test_importance_finds_the_code_that_tells_and_zero_where_none_does():
    factors = np.tile(grid(), (4, 1))
    rng = np.random.RandomState(0)
    codes = np.stack((rng.randn(120), factors[:, 2] * 1.0, np.full(120, 0.3)), 1)
    weights, accuracies = boosted_importance(Points(codes, factors[:, 2:]), Points(codes, factors[:, 2:]))
    assert weights[:, 0] == pytest.approx([0, 1, 0], abs=1e-6)
    assert (accuracies.train, accuracies.test) == (1, 1)
    dead = Points(np.zeros((120, 2)), factors[:, 2:])
    assert boosted_importance(dead, dead).weights.tolist() == [[0], [0]]


@pytest.mark.parametrize("read", [margin_accuracies, boosted_importance])
def test_a_factor_that_does_not_vary_is_named(read):
    points = Points(np.random.RandomState(0).randn(10, 2), np.array([[0, 4], [1, 4]] * 5))
    with pytest.raises(ValueError, match=r"factors\[:, 1\] has one value among 10 points"):
        read(points, points)
