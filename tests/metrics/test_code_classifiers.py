import numpy as np
import pytest

from metrics.code_classifiers import nearest_neighbour, support_vectors

CODES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0], [1.0, 4.0]])
LABELS = np.array([0, 1, 1, 0])  # exclusive or: no plane tells them


def test_the_nearest_code_says_the_label():
    asked = np.array([[0.4, 0.3], [0.6, 0.3], [0.4, 3.7], [0.6, 3.7]])
    assert nearest_neighbour(CODES, LABELS, asked).tolist() == LABELS.tolist()
    assert nearest_neighbour(CODES * [10, 1], LABELS, asked * [10, 1]).tolist() == LABELS.tolist()
    assert nearest_neighbour(CODES, LABELS, np.array([[0.3, 2.9]])).tolist() == [1]  # by l2 of codes as they are
    assert nearest_neighbour(CODES * [10, 1], LABELS, np.array([[3.0, 1.9]])).tolist() == [0]


def test_planes_tell_what_planes_can():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    three = np.digitize(x[:, 1], [-0.5, 0.5])  # of which planes against the others tell both ends
    for labels, least, most in ((x[:, 0] > 0, 0.95, 1.0), (three != 1, 0.5, 0.75), (x[:, 0] * x[:, 1] > 0, 0.35, 0.65)):
        right = (support_vectors(x[:300], labels[:300], x[300:]) == labels[300:]).mean()
        assert least <= right <= most
    right = support_vectors(x[:300], three[:300], x[300:])[three[300:] != 1] == three[300:][three[300:] != 1]
    assert right.mean() > 0.95


def test_where_errors_hardly_count_the_more_frequent_label_wins():
    """With C near 0 the plane is C times the sum of y (x, 1): 4 x - 56, below 0 at both places."""
    codes, labels = np.array([[1.0]] * 2 + [[0.0]] * 30), np.array([1] * 2 + [0] * 30)
    assert support_vectors(codes, labels, np.array([[1.0]]), c=1e-4).tolist() == [0]
    assert support_vectors(codes, labels, np.array([[1.0]]), c=10.0).tolist() == [1]


def test_what_cannot_be_told_is_refused():
    for classifier in (nearest_neighbour, support_vectors):
        for wrong in ((CODES * np.nan, LABELS, CODES), (CODES, LABELS, CODES + np.inf)):
            with pytest.raises(ValueError, match="look for a model that has diverged"):
                classifier(*wrong)
    with pytest.raises(ValueError, match=r"two values or more, not \[1\] alone"):
        support_vectors(CODES, np.ones(4, np.int64), CODES)
