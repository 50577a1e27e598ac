import pytest
import torch

from metrics.frechet import frechet_distance_of_sets
from metrics.intervals import bootstrap, bootstrap_sets


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_mean_of_many_values_has_the_normal_interval():
    values = normal(2000) * 3 + 1
    low, high = bootstrap(values, resamples=4000)
    error = 1.96 * values.std().item() / 2000**0.5
    assert (low, high) == pytest.approx((values.mean().item() - error, values.mean().item() + error), abs=0.02)


def test_coverage_on_gaussians():
    trials = 300
    intervals = [bootstrap(normal(40, seed=seed), level=0.9, resamples=200) for seed in range(trials)]
    covered = sum(low <= 0 <= high for low, high in intervals) / trials
    assert 0.84 <= covered <= 0.94  # 0.9 to within two standard errors, less the known optimism at 40 values


def test_any_statistic_and_level():
    values = torch.arange(101.0)
    narrow, wide = (bootstrap(values, torch.median, level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < 50 < narrow.high < wide.high


def test_deterministic_and_deaf_to_the_global_state():
    values = normal(30)
    first = bootstrap(values)
    torch.manual_seed(7)
    assert first == bootstrap(values)
    assert first != bootstrap(values, seed=1)


def test_equal_values_leave_no_doubt():
    assert bootstrap(torch.full((5,), 0.25)) == (0.25, 0.25)


def test_sets_cover_the_expectation_at_their_size():
    """What percentiles of the resamples would miss: every redrawn set has a greater distance."""
    n, d, trials = 60, 8, 60
    pairs = [(normal(n, d, seed=2 * t + 1), normal(n, d, seed=2 * t + 2) * 1.3 + 0.2) for t in range(500)]
    expected = torch.stack([frechet_distance_of_sets(*pair) for pair in pairs]).mean().item()
    intervals = [bootstrap_sets(*pair, frechet_distance_of_sets, resamples=40) for pair in pairs[:trials]]
    covered = sum(low <= expected <= high for low, high in intervals) / trials
    assert covered >= 0.9  # percentiles of the resamples: 0.4


def test_sets_of_unequal_size_and_another_statistic():
    real, fake = normal(200, 2), normal(300, 2, seed=1) + 1

    def shift(x, y):
        return (y - x.mean(0)).mean()

    low, high = bootstrap_sets(real, fake, shift)
    error = 1.96 * (1 / 400 + 1 / 600) ** 0.5
    assert high - low == pytest.approx(2 * error, rel=0.2)
    assert low < shift(real, fake) < high
    assert (low, high) == bootstrap_sets(real, fake, shift)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(N,\), got \(3, 2\)"):
        bootstrap(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        bootstrap(torch.zeros(1))
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        bootstrap_sets(torch.zeros(5, 2), torch.zeros(1, 2), frechet_distance_of_sets)
    with pytest.raises(ValueError, match="between 0 and 1, not at 95"):
        bootstrap(torch.zeros(5), level=95)
