import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metrics.active_units import active_units, kl_from_prior


def test_a_unit_is_active_where_its_mean_moves_by_more_than_a_tenth():
    # Of +s and -s in turn the variance is s^2 n / (n - 1).
    signs = np.tile([1.0, -1.0], 5000)[:, None]
    codes = signs * np.array([1.0, 0.101, 0.099, 0.0]) + np.array([0.0, 5.0, -5.0, 2.0])
    assert active_units(codes).tolist() == [True, True, False, False]
    assert active_units(codes, threshold=0.5).tolist() == [True, False, False, False]


def test_the_variance_is_that_of_a_sample_and_the_threshold_itself_is_not_active():
    codes = np.array([[0.0, 0.0], [0.5, 0.25]])  # variances 1/8 and 1/32
    assert active_units(codes, threshold=0.125).tolist() == [False, False]
    assert active_units(codes, threshold=0.124).tolist() == [True, False]
    assert active_units(codes.astype(np.float32), threshold=0.03).tolist() == [True, True]


def test_a_large_mean_hides_no_variance():
    codes = np.float32(1000) + np.tile(np.array([0, 1], np.float32), 500)[:, None]
    assert active_units(codes).tolist() == [True]


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.zeros((1, 3)), "2 images or more"),
        (np.zeros(3), r"must be \(N, D\)"),
        (np.array([[0.0], [np.nan]]), "NaN or infinity"),
    ],
)
def test_codes_without_a_variance_are_refused(codes, words):
    with pytest.raises(ValueError, match=words):
        active_units(codes)


def test_the_kl_is_that_of_torchs_distributions():
    rng = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 5, 4, generator=rng, dtype=torch.float64)
    exact = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(kl_from_prior(mu, logvar), exact)
    assert torch.equal(kl_from_prior(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2, 3))
