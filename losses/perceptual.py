"""Distances in the feature space of a frozen network, which the caller gives as a function."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import instance_norm


def domain_invariant_perceptual(features: Callable[[Tensor], Tensor], x_ab: Tensor, x_a: Tensor) -> Tensor:
    """Squared distance of instance-normalised features of a translation and its source (MUNIT, Eq. in section 5.1).

    Normalising each feature map removes its mean and scale, which carry the domain, and leaves layout.

    Args:
        features: (N, 3, H, W) in [-1, 1] to (N, F, h, w); official: VGG-16 relu5_3.
        x_ab: (N, 3, H, W), the translation.
        x_a: (N, 3, H, W), the image it was made from.

    Returns:
        Scalar >= 0, averaged over every feature element.
    """
    return (instance_norm(features(x_ab)) - instance_norm(features(x_a))).square().mean()
