"""Directions in a space of codes along which one attribute changes, and edits (ALAE, Pidhorskyi et al. 2020).

A direction is the normal of the plane by which a linear support vector machine tells codes with an attribute from codes
without: scikit-learn's, with the settings of ALAE's release (C = 1, primal, 10 000 iterations). Here it has length 1,
so that a slider is a coordinate: after an edit of one attribute the code is there, and not elsewhere.
"""

from typing import NamedTuple

import torch
from sklearn.svm import LinearSVC
from torch import Tensor

LEAST = 5  # codes with an attribute, and without it, below which a plane says nothing


class Directions(NamedTuple):
    """Of K attributes, float64 on the CPU."""

    vectors: (
        Tensor  # (K, D) of length 1, towards codes that have the attribute; 0 where too few have it, or have it not
    )
    mean: Tensor  # (D,) of the codes
    spreads: Tensor  # (K,) standard deviations of the codes along each

    @property
    def known(self) -> Tensor:
        """(K,) bool, where there is a direction."""
        return self.vectors.any(1)


def attribute_directions(codes: Tensor, has: Tensor) -> Directions:
    """Find a direction for each attribute.

    Args:
        codes: (N, D) on the CPU.
        has: (N, K) bool, which attributes their images have.

    Raises:
        ValueError: other shapes, or a code that is not finite.
    """
    if codes.ndim != 2 or has.ndim != 2 or len(codes) != len(has) or not len(codes):
        raise ValueError(
            f"Directions need codes (N, D) and attributes (N, K), not {tuple(codes.shape)} and {tuple(has.shape)}."
        )
    if not codes.isfinite().all():
        raise ValueError("The codes hold NaN or infinity: look for a model that has diverged.")
    mean = codes.double().mean(0)
    u = codes.double() - mean
    vectors = torch.stack([_normal(u, y) for y in has.T])
    return Directions(vectors, mean, (u @ vectors.T).std(0, correction=0))


def sliders_of(codes: Tensor, directions: Directions) -> Tensor:
    """Where (N, D) codes are along each direction, (N, K) float64; 0 is the mean of all codes."""
    return (codes.double() - directions.mean) @ directions.vectors.T


def edited(codes: Tensor, sliders: Tensor, directions: Directions) -> Tensor:
    """Codes whose parts along the directions are replaced by sliders.

    u - sum_k <u, d_k> d_k + sum_k slider_k d_k, where u is the code from the mean and all products are taken of the
    same u; directions need not be orthogonal. The code's own sliders give the code back.

    Args:
        codes: (N, D).
        sliders: (N, K) of each code, in units of the code.
        directions: of K attributes.

    Returns:
        (N, D) float64.
    """
    return codes.double() + (sliders.double() - sliders_of(codes, directions)) @ directions.vectors


def moved(codes: Tensor, k: int, values: Tensor, directions: Directions) -> Tensor:
    """(N, D) codes whose slider ``k`` is at (N,) ``values`` and whose other sliders are their own; float64."""
    sliders = sliders_of(codes, directions)
    sliders[:, k] = values
    return edited(codes, sliders, directions)


def _normal(u: Tensor, y: Tensor) -> Tensor:
    """(D,) of length 1, from (N, D) codes that have ``y`` not to those that have it; 0 where nothing can be found."""
    if min(int(y.sum()), int((~y).sum())) < LEAST:
        return torch.zeros(u.shape[1], dtype=torch.float64)
    machine = LinearSVC(C=1.0, dual=False, max_iter=10_000).fit(u.numpy(), y.numpy())
    normal = torch.from_numpy(machine.coef_[0]).double()
    return normal / normal.norm().clamp_min(1e-12)
