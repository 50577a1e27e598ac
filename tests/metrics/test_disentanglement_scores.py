"""Formulas of matrices and arrays: by hand, and against loops."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from metrics.disentanglement_scores import (
    dci_of,
    explicitness_of,
    irs_of,
    mig_of,
    modularity_of,
    sap_of,
    standardised,
)
from metrics.factor_codes import Points


def random_matrix(seed: int) -> np.ndarray:
    """(D, K) >= 0, with a code and a factor of zeros now and then."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((rng.integers(2, 7), rng.integers(2, 6))) ** 3
    if seed % 2:
        matrix[0] = 0
    if seed % 3 == 0:
        matrix[:, -1] = 0
    return matrix


def test_gaps_by_hand():
    information = np.array([[0.6, 0.1], [0.2, 0.3], [0.0, 0.2]])
    found = mig_of(information, np.array([1.0, 0.5]))
    assert found.factors == pytest.approx([0.4, 0.2])
    assert found.score == pytest.approx(0.3)
    assert sap_of(information).factors == pytest.approx([0.4, 0.1])
    assert mig_of(information[:1], np.array([1.0, 0.5])).factors == pytest.approx([0.6, 0.2]), "no second code"
    with pytest.raises(ValueError, match="Factor 1 has no entropy"):
        mig_of(information, np.array([1.0, 0.0]))


def test_dci_by_hand():
    diagonal = 5 * np.eye(5)
    assert dci_of(diagonal)[:2] == pytest.approx((1, 1))
    assert dci_of(np.concatenate((diagonal, diagonal)))[:2] == pytest.approx((1, 1 - np.log(2) / np.log(10)))
    assert dci_of(np.concatenate((diagonal, diagonal), 1))[:2] == pytest.approx((1 - np.log(2) / np.log(10), 1))
    assert dci_of(np.zeros((4, 3)))[:2] == (0, 0)
    assert dci_of(np.ones((4, 3)))[:2] == pytest.approx((0, 0))
    weighted = dci_of(np.array([[3.0, 0.0], [1.0, 1.0]]))
    assert weighted.codes == pytest.approx([1, 0])
    assert weighted.disentanglement == pytest.approx(3 / 5)
    assert dci_of(np.array([[0.7, 0.3]])).factors.tolist() == [1, 1], "a single code serves each factor alone"
    with pytest.raises(ValueError, match="must not be negative"):
        dci_of(-diagonal)


@pytest.mark.parametrize("seed", range(12))
def test_dci_of_random_importance_is_that_of_loops(seed):
    matrix = random_matrix(seed)
    found = dci_of(matrix)

    def one_way(rows):
        values = [1 - entropy(row + 1e-11, base=len(row)) for row in rows]
        return np.array(values), sum(row.sum() * value for row, value in zip(rows, values, strict=True)) / rows.sum()

    for (values, mean), each, score in (
        (one_way(matrix), found.codes, found.disentanglement),
        (one_way(matrix.T), found.factors, found.completeness),
    ):
        assert each == pytest.approx(values, abs=1e-12)
        assert score == pytest.approx(mean, abs=1e-12)


def test_modularity_by_hand():
    assert modularity_of(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).score == pytest.approx(2 / 3)
    pairs = np.kron(np.eye(5), np.ones((1, 2)))  # 5 codes, each of two of ten factors
    assert modularity_of(pairs).score == pytest.approx(1 - 1 / 9)
    assert modularity_of(np.zeros((3, 2))).score == 0
    with pytest.raises(ValueError, match="K at least 2"):
        modularity_of(np.ones((3, 1)))


@pytest.mark.parametrize("seed", range(12))
def test_modularity_of_random_information_is_that_of_loops(seed):
    matrix = random_matrix(seed)
    expected = []
    for row in matrix:
        best = max(row)
        others = sorted(value**2 for value in row)[:-1]
        expected.append(0 if best == 0 else 1 - sum(others) / (best**2 * len(others)))
    assert modularity_of(matrix).codes == pytest.approx(expected)


def test_irs_by_hand():
    factors = np.stack(np.unravel_index(np.arange(4), (2, 2)), 1)
    codes = np.stack((factors[:, 0], factors.sum(1), 3 * factors[:, 1], np.full(4, 0.1)), 1)
    found = irs_of(codes, factors, quantile=1.0)
    # The sum is 1/2 away from its mean at each value of either factor, and 1 away from its mean at most.
    assert found.matrix == pytest.approx(np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 0]]))
    assert found.score == pytest.approx((0.5 * 1 + 1 * 0.5 + 1.5 * 1) / 3)
    assert found.active == 3


def test_irs_of_constant_codes_is_0_whatever_the_constant():
    """disentanglement_lib asks whether any value is not 0, and divides by 0 otherwise."""
    factors = np.arange(6)[:, None] % 2
    for value in (0.0, 0.1, -3.0):
        assert irs_of(np.full((6, 2), value), factors)[:3:2] == (0, 0)
    with pytest.raises(ValueError, match="one row a point"):
        irs_of(np.zeros((6, 2)), factors.T)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("quantile", [0.99, 1.0, 0.5])
def test_irs_of_random_codes_is_that_of_loops(seed, quantile):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, (150, 3))
    codes = factors @ rng.normal(size=(3, 4)) + rng.normal(size=(150, 4))
    found = irs_of(codes, factors, quantile)
    best, largest = [], []
    for z in codes.T:
        largest.append(max(abs(z - z.mean())))
        scores = []
        for y in factors.T:
            deviations = []
            for value in set(y):
                group = np.sort(abs(z[y == value] - z[y == value].mean()))
                place = quantile * (len(group) - 1)  # between two of them, linearly
                low, high = group[int(np.floor(place))], group[int(np.ceil(place))]
                deviations.append(low + (place - np.floor(place)) * (high - low))
            scores.append(1 - np.mean(deviations) / largest[-1])
        best.append(max(scores))
    assert found.codes == pytest.approx(best)
    assert found.score == pytest.approx(np.dot(best, largest) / sum(largest))


def labelled(seed: int, points: int, values: int) -> Points:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, values, (points, 2))
    return Points(factors @ np.array([[1.0, 0.3], [0.2, -0.5]]) + rng.normal(size=(points, 2)), factors)


@pytest.mark.parametrize("values", [2, 5])
def test_explicitness_is_the_mean_area_of_each_value_against_the_rest(values):
    train, test = labelled(0, 200, values), labelled(1, 150, values)
    found = explicitness_of(train, test)
    for k in range(2):
        classifier = LogisticRegression().fit(train.codes, train.factors[:, k])
        for points, area in ((train, found.train[k]), (test, found.test[k])):
            scores = classifier.predict_proba(points.codes)
            truth = points.factors[:, k]
            areas = [roc_auc_score(truth == value, scores[:, value]) for value in range(values)]
            assert area == pytest.approx(np.mean(areas))


def test_explicitness_is_nan_where_a_value_is_missing_on_either_side():
    train, test = labelled(0, 100, 4), labelled(1, 100, 4)
    without = test.factors[:, 1] != 3
    for seen, unseen in ((train, Points(test.codes[without], test.factors[without])), (train, test)):
        found = explicitness_of(seen, unseen)
        assert np.isnan(found.test).tolist() == [False, unseen is not test]
        assert np.isfinite(found.train).all()
    without = train.factors[:, 0] != 0
    found = explicitness_of(Points(train.codes[without], train.factors[without]), test)
    assert np.isnan(found.test).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"factors\[:, 0\] has one value"):
        explicitness_of(Points(train.codes, np.zeros_like(train.factors)), test)


def test_standardised_by_the_training_points():
    train, test = labelled(0, 100, 4), labelled(1, 100, 4)
    train, test = (Points(np.append(p.codes, np.full((100, 1), 0.1), 1), p.factors) for p in (train, test))
    seen, unseen = standardised(train, test)
    assert seen.codes.mean(0) == pytest.approx([0, 0, 0], abs=1e-12)
    assert seen.codes.std(0) == pytest.approx([1, 1, 0])
    expected = (test.codes[:, :2] - train.codes[:, :2].mean(0)) / train.codes[:, :2].std(0)
    assert unseen.codes[:, :2] == pytest.approx(expected)
    assert not unseen.codes[:, 2].any()
