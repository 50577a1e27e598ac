import math

import numpy as np
import pytest

from metrics.separability import Told, conditional_entropy, separability_of, told_by_planes

RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((600, 4))


def score(codes, logits):
    return separability_of(told_by_planes(codes, logits))


def test_attributes_that_are_coordinates_are_perfectly_separable():
    found = score(CODES, CODES[:, :2] * 3 + [0, 0.5])
    assert found.score == pytest.approx(1, abs=0.05)
    assert found.entropies.shape == (2,)


def test_attributes_that_codes_do_not_tell_cost_a_factor_of_two_each():
    logits = RNG.standard_normal((600, 3))
    assert score(CODES, logits).score == pytest.approx(8, rel=0.03)


def test_what_no_plane_tells_is_not_separable():
    """Exclusive or of two coordinates."""
    assert score(CODES, CODES[:, :1] * CODES[:, 1:2]).score == pytest.approx(2, abs=0.1)


def test_long_codes_do_not_seem_separable_because_a_plane_has_seen_them():
    codes = np.random.default_rng(1).standard_normal((200, 300))
    labels = np.random.default_rng(2).standard_normal((200, 1))
    assert score(codes, labels).score > 1.9  # a plane through all of them tells every one


def test_the_surer_half_counts():
    """Of codes on both sides of a plane, those far from it; the others are labelled by chance."""
    x = np.linspace(-1, 1, 400)
    logits = np.where(np.abs(x) > 0.5, x, 0.01 * np.random.default_rng(3).standard_normal(400))
    told = told_by_planes(x[:, None], logits[:, None])
    assert told.counts.sum() == 200
    assert (np.abs(x[told.counts[:, 0]]) > 0.49).all()
    assert separability_of(told).score == 1


def test_units_of_the_codes_do_not_matter_and_a_constant_coordinate_does_not_hurt():
    stretched = np.concatenate((CODES * [1e-3, 1, 10, 1e3] + 5, np.ones((600, 1))), 1)
    logits = CODES[:, :2]
    assert np.array_equal(told_by_planes(stretched, logits).plane, told_by_planes(CODES, logits).plane)


def test_an_attribute_that_all_have_leaves_nothing_to_know():
    assert score(CODES, np.full((600, 1), 2.0)).score == 1


def test_conditional_entropy_by_hand():
    y = np.array([1, 1, 1, 0, 0, 0, 0, 1], bool)
    x = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert conditional_entropy(y, x) == pytest.approx(h)  # the same on both sides of the plane
    assert conditional_entropy(y, y) == conditional_entropy(y, ~y) == conditional_entropy(y[:0], x[:0]) == 0
    assert conditional_entropy(y, np.ones(8, bool)) == pytest.approx(math.log(2))


def test_only_what_counts_is_summed():
    truth, plane = np.array([[1], [0], [1], [0]], bool), np.array([[1], [0], [0], [1]], bool)
    right = np.array([[1], [1], [0], [0]], bool)
    assert separability_of(Told(truth, plane, right)).score == 1
    assert separability_of(Told(truth, plane, ~right)).score == 1  # the plane with its sides exchanged
    assert separability_of(Told(truth, plane, np.ones((4, 1), bool))).score == pytest.approx(2)


@pytest.mark.parametrize(
    ("codes", "logits", "message"),
    [
        (CODES[:7], CODES[:7], "N >= 8"),
        (CODES, CODES[:10], "N >= 8"),
        (CODES * np.nan, CODES, "diverged"),
        (CODES, CODES * np.inf, "diverged"),
    ],
)
def test_what_cannot_be_told_is_refused(codes, logits, message):
    with pytest.raises(ValueError, match=message):
        told_by_planes(codes, logits)
