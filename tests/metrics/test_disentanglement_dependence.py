import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso
from sklearn.metrics import mutual_info_score

from metrics.code_dependence import (
    dependence_of,
    lasso_weights,
    mean_information,
    rank_correlations,
    total_correlation,
    udr,
    wasserstein_correlation,
)
from metrics.factor_codes import digitised


def correlated(seed: int, points: int = 300, codes: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(points, codes)) @ rng.normal(size=(codes, codes)) + rng.normal(size=codes)


def with_covariance(covariance: np.ndarray) -> np.ndarray:
    """Points of exactly this covariance."""
    z = np.random.default_rng(0).normal(size=(50, len(covariance)))
    z = z - z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return z @ np.linalg.cholesky(covariance).T


def test_two_gaussians_in_closed_form():
    rho = 0.6
    z = with_covariance(np.array([[1.0, rho], [rho, 1.0]]))
    assert total_correlation(z) == pytest.approx(-0.5 * np.log(1 - rho**2))
    expected = 2 * 2 - 2 * (np.sqrt(1 + rho) + np.sqrt(1 - rho))
    assert wasserstein_correlation(z) == pytest.approx(expected)
    assert dependence_of(z).wasserstein_normalised == pytest.approx(expected / 2)


@pytest.mark.parametrize("seed", range(5))
def test_random_codes_against_the_plain_formulas(seed):
    z = correlated(seed)
    covariance = np.cov(z.T)
    variances = np.diag(covariance)
    found = dependence_of(z)
    expected = 0.5 * (np.log(variances).sum() - np.log(np.linalg.det(covariance)))
    assert found.total_correlation == pytest.approx(expected)
    root = sqrtm(variances[:, None] * covariance)
    expected = 2 * np.trace(covariance) - 2 * np.trace(root).real
    assert found.wasserstein == pytest.approx(expected)
    assert found.wasserstein_normalised == pytest.approx(expected / np.trace(covariance))
    bins = digitised(z)
    pairs = [mutual_info_score(bins[:, i], bins[:, j]) for i, j in np.ndindex(4, 4) if i != j]
    assert found.information == pytest.approx(np.mean(pairs))


def test_total_correlation_knows_no_scale_and_the_distance_does():
    z = correlated(0)
    scales = np.array([1e-4, 1.0, 30.0, 1e5])
    assert total_correlation(z * scales) == pytest.approx(total_correlation(z))
    assert wasserstein_correlation(2 * z) == pytest.approx(4 * wasserstein_correlation(z))


def test_codes_that_do_not_vary_depend_on_nothing():
    z = np.concatenate((correlated(0), np.full((300, 2), 0.1)), 1)
    assert total_correlation(z) == total_correlation(z[:, :4])
    assert wasserstein_correlation(z) == pytest.approx(wasserstein_correlation(z[:, :4]))
    assert dependence_of(np.full((20, 3), 0.1)) == (0, pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12), 0)
    assert dependence_of(correlated(0)[:, :1]) == (0, pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12), 0)


def test_a_code_twice_is_infinite_total_correlation():
    z = correlated(0)
    assert total_correlation(np.concatenate((z, 2 * z[:, :1] - 1), 1)) == np.inf
    assert np.isfinite(wasserstein_correlation(np.concatenate((z, z), 1)))


def test_gaussians_do_not_see_a_rotated_square_and_the_histogram_does():
    side = np.arange(100.0)
    square = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    rotated = square @ np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    assert (total_correlation(square), total_correlation(rotated)) == pytest.approx((0, 0), abs=1e-12)
    assert mean_information(square) == pytest.approx(0, abs=1e-12)
    assert mean_information(rotated) > 0.2


def independent(codes: int = 5) -> np.ndarray:
    """Codes whose sample correlations are exactly 0."""
    return 3 * with_covariance(np.eye(codes)) + 1


def test_models_that_learned_the_same_agree_whatever_order_sign_and_scale():
    z, kl = independent(), np.ones(5)
    models = [z, -2 * z[:, [3, 1, 0, 4, 2]] + 7]
    found = udr(models, [kl, kl])
    assert found.models == pytest.approx([0.9, 0.9])  # 1 less the lasso's alpha
    assert np.isnan(np.diag(found.pairs)).all()
    found = udr(models, [kl, kl], rank_correlations)
    assert found.pairs[0, 1] == pytest.approx(found.pairs[1, 0])
    assert (rank_correlations(z, z).diagonal() > 1 - 1e-12).all()


def test_rotated_models_agree_less_than_equal_ones():
    z, kl = independent(4), np.ones(4)
    turn = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]]) / np.sqrt(2)
    same, rotated = udr([z, z], [kl, kl]).models[0], udr([z, (z - 1) @ turn], [kl, kl]).models[0]
    # Each code is two weights of sqrt(1/2) - 0.1: the square of one over both is half of it.
    assert rotated == pytest.approx((np.sqrt(0.5) - 0.1) / 2)
    assert same == pytest.approx(0.9)


def test_collapsed_codes_neither_help_nor_harm():
    z, kl = independent(), np.ones(5)
    noise = np.random.default_rng(1).normal(size=(50, 2))
    padded, padded_kl = np.concatenate((noise, z, np.full((50, 1), 0.3)), 1), np.array([0.01, 0.0, *kl, 1.0])
    found = udr([padded, z, z[:, ::-1]], [padded_kl, kl, kl])
    assert found.models == pytest.approx([0.9, 0.9, 0.9])
    alone = udr([z, z, z], [np.zeros(5), kl, kl])
    assert alone.models == pytest.approx([0, 0.45, 0.45])  # the median of 0 and 0.9


def test_a_code_that_the_other_model_lacks_counts_as_zero():
    z, kl = independent(4), np.ones(4)
    found = udr([z, z[:, :2]], [kl, kl[:2]])
    assert found.models == pytest.approx([(0.9 * 2 / 4 + 0.9) / 2] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_random_models_against_loops(seed):
    models, rng = [correlated(10 * seed + m, 80, 3 + m) for m in range(3)], np.random.default_rng(seed)
    kls = [rng.uniform(0.005, 0.03, z.shape[1]) for z in models]
    kls[0][:] = 1

    def pair(i, j, spearman):
        x, y = ((z - z.mean(0)) / z.std(0) for z in (models[i], models[j]))
        x, y = x[:, kls[i] > 0.01], y[:, kls[j] > 0.01]
        table = np.zeros((x.shape[1], y.shape[1]))
        for a in range(len(table)):
            weights = Lasso(alpha=0.1).fit(y, x[:, a]).coef_
            for b in range(y.shape[1]):
                table[a, b] = abs(spearmanr(x[:, a], y[:, b]).statistic) if spearman else abs(weights[b])
        rows = [max(row) ** 2 / sum(row) if sum(row) else 0 for row in table]
        columns = [max(column) ** 2 / sum(column) if sum(column) else 0 for column in table.T]
        return (np.mean(rows) + np.mean(columns)) / 2

    for similarity in (lasso_weights, rank_correlations):
        found = udr(models, kls, similarity)
        for i, j in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
            expected = pair(i, j, similarity is rank_correlations)
            assert found.pairs[i, j] == pytest.approx(expected, rel=1e-6)
        assert found.models[0] == pytest.approx(np.median([found.pairs[0, 1], found.pairs[0, 2]]))


def test_udr_says_what_is_missing():
    z, kl = independent(), np.ones(5)
    with pytest.raises(ValueError, match="at least 2 models"):
        udr([z], [kl])
    with pytest.raises(ValueError, match="the same images"):
        udr([z, z[:10]], [kl, kl])
    with pytest.raises(ValueError, match=r"divergences\[1\] must be one number a code"):
        udr([z, z], [kl, kl[:2]])
