"""Distances between an image and its reconstruction."""

import math

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def l1(x_recon: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference: the negative log likelihood of a Laplacian, up to scale and constant.

    Args:
        x_recon: (N, ...) reconstruction.
        x: (N, ...) target, same shape.

    Returns:
        Scalar >= 0, averaged over every element, in units of the images' intensity.
    """
    return (x_recon - x).abs().mean()


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """- log p(x) of independent Bernoulli pixels (Kingma and Welling 2014, Appendix C.1).

    Args:
        logits: (N, ...) before the sigmoid.
        x: (N, ...) in [0, 1]; between 0 and 1 it is a cross-entropy, which ends at the entropy of x.

    Returns:
        Scalar >= 0 in nats, summed over pixels, averaged over the batch.
    """
    return binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor) -> Tensor:
    """- log p(x) of independent normal pixels (Kingma and Welling 2014, Appendix C.2).

    Args:
        mean: (N, ...).
        logvar: (N, ...) or what broadcasts to it, logarithm of the variance.
        x: (N, ...).

    Returns:
        Scalar in nats, summed over pixels, averaged over the batch.
    """
    return 0.5 * ((x - mean).square() * (-logvar).exp() + logvar + math.log(2 * math.pi)).sum() / len(x)


def squared_error(x_recon: Tensor, x: Tensor) -> Tensor:
    """Summed over pixels, averaged over the batch: twice ``gaussian_nll`` of variance 1, but for a constant."""
    return (x_recon - x).square().sum() / len(x)
