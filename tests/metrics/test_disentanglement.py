"""The protocols: known answers, loops that do the same slowly, and mistakes that were published."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from metrics.code_dependence import dependence_of
from metrics.disentanglement import (
    beta_vae_score,
    dci,
    dependence,
    factor_vae_score,
    irs,
    mig,
    modularity_explicitness,
    sap,
    sap_continuous,
)
from metrics.disentanglement_scores import irs_of, modularity_of
from metrics.factor_codes import Points, digitised, indexed, mutual_information, sample

SIZES = (4, 5, 6)
FEW = {"train": 300, "test": 200}


def seeded(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def perfect(factors: np.ndarray) -> np.ndarray:
    return factors / (np.array(SIZES) - 1) - 0.5


def duplicated(factors: np.ndarray) -> np.ndarray:
    return np.concatenate((perfect(factors), perfect(factors)), 1)


def rotated(factors: np.ndarray) -> np.ndarray:
    """The first two codes turned by 45 degrees."""
    a, b, c = perfect(factors).T
    return np.stack((a + b, a - b, c), 1)


def constant(factors: np.ndarray) -> np.ndarray:
    return np.full((len(factors), 4), 0.1)  # whose mean is not exactly 0.1


def one_factor(factors: np.ndarray) -> np.ndarray:
    """Three codes that all tell the last factor."""
    return perfect(factors)[:, [2]] * [1.0, -2.0, 3.0]


def useless(factors: np.ndarray) -> np.ndarray:
    """Noise: images that the model tells nothing of."""
    return np.random.default_rng(0).normal(size=(len(factors), 3))


def noisy(seed: int):
    """A model of a cached grid: factors, mixed, with noise that is a function of the image; 3 to 5 codes."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), 1)
    codes = perfect(grid) @ rng.normal(size=(3, 3 + seed % 3))
    return indexed((codes + 0.2 * rng.normal(size=codes.shape)).astype(np.float32), SIZES)


def with_dead_code(represent, value: float):
    return lambda factors: np.concatenate((np.full((len(factors), 1), value), represent(factors)), 1)


def explicitness(represent, **counts):
    return modularity_explicitness(represent, SIZES, seeded(), **counts)[1]


def test_a_perfect_code_has_all_scores():
    assert beta_vae_score(perfect, SIZES, seeded(), **FEW) == (1, 1)
    votes = factor_vae_score(perfect, SIZES, seeded(), points=500, **FEW)
    assert votes[:3] == (1, 1, 3)
    assert np.count_nonzero(votes.counts) == 3
    assert mig(perfect, SIZES, seeded(), points=5000).score > 0.98  # the rest is bias
    scores = dci(perfect, SIZES, seeded(), **FEW)
    assert min(scores.disentanglement, scores.completeness) > 0.99
    assert scores.informativeness == (1, 1)
    assert scores.importance == pytest.approx(np.eye(3), abs=1e-3)
    modularity, explicit = modularity_explicitness(perfect, SIZES, seeded(), train=1000, test=500)
    assert modularity.score > 0.99
    assert explicit.test.min() > 0.75  # the middle values of a line are not apart from the others
    robust = irs(perfect, SIZES, seeded(), points=1000)
    assert robust.score == pytest.approx(1)
    assert robust.matrix.argmax(1).tolist() == [0, 1, 2]
    assert sap(perfect, SIZES, seeded(), **FEW).score > 0.1  # lines tell the ends of a line
    assert sap_continuous(perfect, SIZES, seeded(), points=2000).score > 0.95


@pytest.mark.parametrize("represent", [constant, useless])
def test_a_code_that_tells_nothing_is_at_chance(represent):
    assert beta_vae_score(represent, SIZES, seeded(), train=1000, test=1000).test == pytest.approx(1 / 3, abs=0.06)
    assert factor_vae_score(represent, SIZES, seeded(), train=1000, test=1000, points=500).test < 0.4
    assert mig(represent, SIZES, seeded(), points=5000).score < 0.01
    assert sap(represent, SIZES, seeded(), **FEW).score < 0.06
    assert sap_continuous(represent, SIZES, seeded(), points=5000).score < 0.01
    explicit = explicitness(represent, train=2000, test=2000)
    assert explicit.test == pytest.approx([0.5, 0.5, 0.5], abs=0.05)
    assert irs(represent, SIZES, seeded(), points=2000).score < 0.35
    assert dependence(represent, SIZES, seeded(), points=2000).total_correlation < 0.01


def test_constant_codes_are_exactly_nothing():
    assert factor_vae_score(constant, SIZES, seeded(), points=500, **FEW)[:3] == (0, 0, 0)
    scores = dci(constant, SIZES, seeded(), train=100, test=100)
    assert (scores.disentanglement, scores.completeness) == (0, 0)
    modularity, explicit = modularity_explicitness(constant, SIZES, seeded(), train=300, test=300)
    assert modularity.score == 0
    assert (*explicit.train, *explicit.test) == (0.5,) * 6
    assert (mig(constant, SIZES, seeded(), points=500).score, sap(constant, SIZES, seeded(), **FEW).score) == (0, 0)
    assert irs(constant, SIZES, seeded(), points=500)[0::2] == (0, 0)
    assert dependence(constant, SIZES, seeded(), points=500) == (0, 0, 0, 0)


def test_a_duplicated_code_is_modular_and_not_compact():
    assert factor_vae_score(duplicated, SIZES, seeded(), points=500, **FEW).test == 1
    assert mig(duplicated, SIZES, seeded(), points=500).score == 0
    assert sap(duplicated, SIZES, seeded(), **FEW).score == 0
    scores = dci(duplicated, SIZES, seeded(), **FEW)
    assert scores.disentanglement > 0.99
    assert scores.completeness == pytest.approx(1 - np.log(2) / np.log(6), abs=0.05)
    modularity, _ = modularity_explicitness(duplicated, SIZES, seeded(), train=1000, test=500)
    assert modularity.score > 0.99
    assert irs(duplicated, SIZES, seeded(), points=1000).score == pytest.approx(1)
    assert dependence(duplicated, SIZES, seeded(), points=1000).total_correlation == np.inf


def test_a_rotated_code_loses_what_was_turned_and_keeps_the_rest():
    gaps = mig(rotated, SIZES, seeded(), points=5000).factors
    assert gaps[:2].max() < 0.05
    assert gaps[2] > 0.98
    scores = dci(rotated, SIZES, seeded(), **FEW)
    aggregate = scores.importance / scores.importance.sum(1, keepdims=True)
    assert aggregate[:2, :2].max() < 0.75
    assert scores.disentanglement < 0.65
    assert scores.informativeness.test > 0.9, "everything is still there"
    robust = irs(rotated, SIZES, seeded(), points=2000)
    assert robust.codes[2] == pytest.approx(1)
    assert robust.codes[:2].max() < 0.7
    modularity, _ = modularity_explicitness(rotated, SIZES, seeded(), train=5000, test=500)
    assert modularity.codes[:2] == pytest.approx([0.5, 0.5], abs=0.2)  # two of three factors alike: 1 - 1/2
    assert modularity.codes[2] > 0.99


def test_codes_of_one_factor_are_modular_and_tell_one_factor():
    scores = dci(one_factor, SIZES, seeded(), **FEW)
    assert scores.informativeness.test == pytest.approx((1 + 1 / 4 + 1 / 5) / 3, abs=0.06)
    assert mig(one_factor, SIZES, seeded(), points=5000).score < 0.01
    modularity, explicit = modularity_explicitness(one_factor, SIZES, seeded(), train=5000, test=1000)
    assert modularity.score > 0.99
    assert explicit.test[:2].max() < 0.6
    assert explicit.test[2] > 0.75
    single = factor_vae_score(lambda f: perfect(f)[:, 2:], SIZES, seeded(), points=500, **FEW)
    assert single.active == 1
    assert single.test == pytest.approx(1 / 3, abs=0.1), "one vote for all: fewer codes than factors"
    assert mig(lambda f: perfect(f)[:, 2:], SIZES, seeded(), points=5000).score == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_the_beta_vae_score_is_that_of_a_loop(seed):
    represent = noisy(seed)

    def labelled(points, rng):
        x, y = [], []
        for _ in range(points):
            k = rng.randint(3)
            first = np.stack([rng.randint(size, size=9) for size in SIZES], 1)
            second = np.stack([rng.randint(size, size=9) for size in SIZES], 1)
            second[:, k] = first[:, k]
            x.append(np.abs(represent(first) - represent(second)).mean(0))
            y.append(k)
        return np.array(x), np.array(y)

    rng = seeded(seed)
    train = labelled(150, rng)
    classifier = LogisticRegression().fit(*train)
    test = labelled(120, rng)
    expected = classifier.score(*train), classifier.score(*test)
    assert beta_vae_score(represent, SIZES, seeded(seed), train=150, test=120, pairs=9) == expected
    assert 0.4 < expected[1] <= 1


def looped_factor_vae(represent, rng, threshold: float, train: int, test: int):
    """Vote by vote, and as published: a deviation that equals the threshold is active, even 0."""
    spread = represent(np.stack([rng.randint(size, size=400) for size in SIZES], 1)).astype(float).var(0, ddof=1)
    active = np.flatnonzero(np.sqrt(spread) >= threshold)

    def vote():
        k = rng.randint(3)
        factors = np.stack([rng.randint(size, size=8) for size in SIZES], 1)
        factors[:, k] = factors[0, k]
        local = represent(factors).astype(float).var(0, ddof=1)
        with np.errstate(invalid="ignore"):
            return k, np.argmin(local[active] / spread[active])

    counts = np.zeros((3, len(active)), int)
    for _ in range(train):
        counts[vote()] += 1
    majority = counts.argmax(0)
    right = [majority[d] == k for k, d in (vote() for _ in range(test))]
    return counts.max(0).sum() / train, np.mean(right), len(active), counts


@pytest.mark.parametrize("seed", range(3))
def test_the_factor_vae_score_is_that_of_a_loop(seed):
    represent = with_dead_code(noisy(seed), 0.25)
    found = factor_vae_score(represent, SIZES, seeded(seed), train=200, test=150, batch=8, points=400)
    expected = looped_factor_vae(represent, seeded(seed), 0.05, 200, 150)
    assert found[:3] == pytest.approx(expected[:3])
    assert found.active == 3 + seed % 3, "and not the length of the mask, 1 more"
    assert np.array_equal(found.counts, expected[3]), "columns are those of active codes"


@pytest.mark.parametrize("threshold", [0.05, 0.0])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_dead_code_takes_no_votes_even_without_a_threshold(threshold, value):
    """disentanglement_lib's default and disent's only threshold is 0, at which 0 / 0 wins every vote."""
    counts = {"train": 200, "test": 150}
    represent = with_dead_code(perfect, value)
    found = factor_vae_score(represent, SIZES, seeded(), points=400, batch=8, threshold=threshold, **counts)
    assert found[:3] == (1, 1, 3)
    as_published = looped_factor_vae(with_dead_code(perfect, 0.0), seeded(), 0.0, 200, 150)
    assert as_published[1] < 0.5, "what is mended"


def test_a_collapsed_code_does_not_vote():
    """Of a deviation of 0.04 it would win the votes for its factor, of 0.06 it does."""
    deviation = np.sqrt((np.array(SIZES)[2] ** 2 - 1) / 12) / (SIZES[2] - 1)
    for size, active in ((0.04, 2), (0.06, 3)):
        found = factor_vae_score(lambda f, size=size: perfect(f) * [1, 1, size / deviation], SIZES, seeded(), **FEW)
        assert found.active == active
        assert (found.test == 1) == (active == 3)


def test_the_defaults_are_the_studys():
    two, bins = {"train": 10_000, "test": 5_000}, {"points": 10_000, "bins": 20}
    for metric, defaults in (
        (beta_vae_score, {**two, "pairs": 64}),
        (factor_vae_score, {**two, "batch": 64, "points": 10_000, "threshold": 0.05}),
        (mig, bins),
        (dci, {**two, "seed": 0, "jobs": 1}),
        (sap, {**two, "jobs": 1}),
        (modularity_explicitness, {**two, "bins": 20}),
        (irs, {**bins, "quantile": 0.99}),
        (dependence, bins),
    ):
        assert metric.__kwdefaults__ is None
        names = metric.__code__.co_varnames[3 : metric.__code__.co_argcount]
        assert dict(zip(names, metric.__defaults__, strict=True)) == defaults


@pytest.mark.parametrize("group", [1, 7, 10_000])
def test_votes_do_not_depend_on_how_many_codes_are_asked_for_at_once(monkeypatch, group):
    whole = factor_vae_score(noisy(1), SIZES, seeded(), train=50, test=50, batch=8, points=100)
    pairs = beta_vae_score(noisy(1), SIZES, seeded(), train=50, test=50, pairs=8)
    monkeypatch.setattr("metrics.factor_codes._ROWS", group)
    parts = factor_vae_score(noisy(1), SIZES, seeded(), train=50, test=50, batch=8, points=100)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert beta_vae_score(noisy(1), SIZES, seeded(), train=50, test=50, pairs=8) == pairs


def test_a_matrix_of_codes_is_not_reshaped_into_its_transpose():
    """disentangling-vae's view of (n, D) as (D, n) mixes codes and points, and its gap is 0 for every model."""
    points = sample(perfect, SIZES, 3000, seeded())
    mixed = points.codes.reshape(3, 3000).T
    assert mutual_information(digitised(mixed), points.factors).max() < 0.05
    assert mig(perfect, SIZES, seeded(), points=3000).score > 0.95


def test_the_gap_is_in_units_of_the_entropy_of_the_points():
    """And not of log(size), as disentangling-vae has it, which is that of all images alone."""
    found = mig(perfect, SIZES, seeded(), points=12)
    codes, factors = sample(perfect, SIZES, 12, seeded())
    second, best = np.sort(mutual_information(digitised(codes), factors), 0)[-2:]
    shares = [np.bincount(column) / 12 for column in factors.T]
    entropy = np.array([-sum(p * np.log(p) for p in share if p > 0) for share in shares])
    assert (entropy < 0.99 * np.log(SIZES)).any()
    assert found.factors == pytest.approx((best - second) / entropy)


def test_a_value_that_is_missing_is_nan_for_its_factor_alone():
    """disentanglement_lib raises."""
    found, rng = explicitness(perfect, train=200, test=15), seeded()
    drawn = [sample(perfect, SIZES, points, rng).factors for points in (200, 15)][1]
    missing = [len(set(column)) < size for column, size in zip(drawn.T, SIZES, strict=True)]
    assert any(missing)
    assert not all(missing)
    assert np.isnan(found.test).tolist() == missing
    assert np.isfinite(found.train).all()


def test_a_dead_code_changes_no_score():
    """Standardised by a deviation of 0 it is NaN, at which scikit-learn raises."""
    represent = with_dead_code(perfect, 0.1)
    bare, dead = (explicitness(model, train=300, test=200) for model in (perfect, represent))
    assert dead.train == pytest.approx(bare.train, abs=1e-6)
    assert dead.test == pytest.approx(bare.test, abs=1e-6)
    gaps = [mig(model, SIZES, seeded(), points=500).factors for model in (perfect, represent)]
    assert gaps[1] == pytest.approx(gaps[0])
    bare, dead = (dci(model, SIZES, seeded(), train=100, test=50) for model in (perfect, represent))
    assert dead.disentanglement == pytest.approx(bare.disentanglement, abs=1e-3)
    bare, dead = (irs(model, SIZES, seeded(), points=500) for model in (perfect, represent))
    assert dead.score == pytest.approx(bare.score)
    assert (dead.active, bare.active) == (3, 3), "and not the sum of the codes"
    modular = [modularity_explicitness(model, SIZES, seeded(), **FEW)[0].score for model in (perfect, represent)]
    assert modular[1] == pytest.approx(modular[0] * 3 / 4), "modularity, as published, counts it as 0"


def test_protocols_are_the_formulas_of_their_draws():
    represent = noisy(2)
    codes, factors = sample(represent, SIZES, 700, seeded(4))
    assert dependence(represent, SIZES, seeded(4), points=700) == dependence_of(codes)
    expected = irs_of(codes, digitised(factors))
    assert irs(represent, SIZES, seeded(4), points=700).score == expected.score
    found, _ = modularity_explicitness(represent, SIZES, seeded(4), train=700, test=100)
    assert found.score == modularity_of(mutual_information(digitised(codes), factors)).score


def test_irs_collapses_many_values_into_bins():
    """Of 40 values in 20 bins each bin holds two: a perfect code is not quite robust, as in the study."""
    sizes = (40, 2)
    points = Points(*(np.stack(np.unravel_index(np.arange(80), sizes), 1),) * 2)
    assert irs_of(points.codes, points.factors).score == 1
    binned = irs_of(points.codes, digitised(points.factors))
    assert binned.matrix[0, 0] == pytest.approx(1 - 0.5 / 19.5)
    found = irs(lambda f: f * 1.0, sizes, seeded(), points=4000)
    assert found.matrix[0, 0] == pytest.approx(1 - 0.5 / 19.5, abs=2e-3)


def test_scores_repeat_and_move_with_the_seed():
    represent = noisy(1)
    scores = [
        lambda rng: beta_vae_score(represent, SIZES, rng, train=100, test=100).test,
        lambda rng: factor_vae_score(represent, SIZES, rng, train=100, test=100, batch=8, points=100).test,
        lambda rng: mig(represent, SIZES, rng, points=200).score,
        lambda rng: sap(represent, SIZES, rng, train=100, test=100).score,
    ]
    for score in scores:
        assert score(seeded(1)) == score(seeded(1)) != score(seeded(2))


@pytest.mark.parametrize("metric", [beta_vae_score, factor_vae_score, dci, modularity_explicitness])
def test_one_factor_alone_is_refused_where_factors_are_compared(metric):
    with pytest.raises(ValueError, match="at least 2 factors"):
        metric(lambda f: f * 1.0, (5,), seeded())


@pytest.mark.parametrize("metric", [beta_vae_score, factor_vae_score, mig, dci, sap, sap_continuous, irs])
def test_a_constant_factor_is_refused_before_any_code_is_asked_for(metric):
    def model(factors):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=re.escape("got (3, 1, 5): leave constant factors out")):
        metric(model, (3, 1, 5), seeded())


def test_counts_that_measure_nothing_are_refused():
    with pytest.raises(ValueError, match="batch and points at least 2, not 10, 10, 1 and 100"):
        factor_vae_score(perfect, SIZES, seeded(), train=10, test=10, batch=1, points=100)
    with pytest.raises(ValueError, match="pairs must be at least 1, not 10, 10 and 0"):
        beta_vae_score(perfect, SIZES, seeded(), train=10, test=10, pairs=0)
    with pytest.raises(ValueError, match="at least two factors: 1 were too few"):
        beta_vae_score(perfect, SIZES, seeded(), train=1, test=10)
    with pytest.raises(ValueError, match="points must be at least 2, not 1"):
        mig(perfect, SIZES, seeded(), points=1)
