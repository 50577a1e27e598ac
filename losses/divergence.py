"""Divergences between a posterior and its prior."""

from torch import Tensor


def kl_unit_variance(mu: Tensor) -> Tensor:
    """KL(N(mu, I) || N(0, I)) per code unit, times two: the mean of mu^2 (UNIT, official 2018 code).

    The divergence itself is half the *sum* of mu^2 over units (Liu et al. 2017, Eq. 3 with unit variance); the
    released code averages instead, so the weight beside it does not depend on resolution.

    Args:
        mu: (N, ...) posterior means.

    Returns:
        Scalar >= 0, averaged over every element.
    """
    return mu.square().mean()


def kl_normal_of_each(mu: Tensor, logvar: Tensor) -> Tensor:
    """``kl_normal`` of each unit of (N, D), averaged over the batch: (D,) nats, whose sum it is."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0)


def kl_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag(exp logvar)) || N(0, I)) in nats (Kingma and Welling 2014, Appendix B).

    Args:
        mu: (N, ...) posterior means.
        logvar: (N, ...) logarithms of the variances.

    Returns:
        Scalar >= 0, summed over units, averaged over the batch.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
