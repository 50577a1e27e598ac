"""Distances between an image and its reconstruction."""

from torch import Tensor


def l1(x_recon: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference: the negative log likelihood of a Laplacian, up to scale and constant.

    Args:
        x_recon: (N, ...) reconstruction.
        x: (N, ...) target, same shape.

    Returns:
        Scalar >= 0, averaged over every element, in units of the images' intensity.
    """
    return (x_recon - x).abs().mean()
