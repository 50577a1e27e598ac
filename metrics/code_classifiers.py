"""What codes know of labels, by classifiers that are fitted to some codes and asked of others.

By the protocol of BiGAN and ALAE on MNIST: the label of the nearest code, and a linear support vector machine.
"""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC


def nearest_neighbour(codes: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The label of the nearest of the known codes, by the l2 distance.

    Args:
        codes: (N, D) float.
        labels: (N,) integers.
        asked: (M, D).

    Returns:
        (M,) labels.

    Raises:
        ValueError: a code is not finite.
    """
    check_codes(codes, asked)
    return KNeighborsClassifier(1).fit(codes, labels).predict(asked)


def support_vectors(
    codes: np.ndarray, labels: np.ndarray, asked: np.ndarray, c: float = 0.02, max_iter: int = 5000
) -> np.ndarray:
    """The label by linear support vector machines, one class against the others; codes are taken as they are.

    Args:
        codes: (N, D) float.
        labels: (N,) integers, of two values or more.
        asked: (M, D).
        c: weight of the errors. Release: 0.02.
        max_iter: of the solver. Release: 5000. With more codes than coordinates it solves the primal problem,
            which has the same answer and draws nothing.

    Returns:
        (M,) labels.

    Raises:
        ValueError: a code is not finite, or there is one label alone.
    """
    check_codes(codes, asked)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"A classifier needs labels of two values or more, not {np.unique(labels).tolist()} alone.")
    return LinearSVC(C=c, max_iter=max_iter, dual="auto", random_state=0).fit(codes, labels).predict(asked)


def check_codes(*codes: np.ndarray) -> None:
    """Refuse codes that are not finite (ValueError)."""
    if not all(np.isfinite(each).all() for each in codes):
        raise ValueError("The codes hold NaN or infinity: look for a model that has diverged.")
