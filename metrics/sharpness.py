"""How sharp images are: variance of their Laplacian (WAE, Tolstikhin et al., ICLR 2018, Sec. 4).

It sees edges, and noise as well: an image is as sharp as real ones where it has as much of it, not where it has more.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

GREY = 0.299, 0.587, 0.114  # ITU-R BT.601; the paper does not say which
LAPLACE = (0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)


def sharpness(x: Tensor) -> Tensor:
    """Variance over the pixels of a grey image of what a 3x3 Laplace filter gives; the paper averages it over images.

    The filter stays inside of the image, so that a border is no edge.

    Args:
        x: (N, C, H, W) in [-1, 1], of 1 or 3 channels, H and W at least 3.

    Returns:
        (N,) float64 >= 0, in units of the 0..1 range, squared; 0 for an even image and for an even slope.

    Raises:
        ValueError: another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 3:
        raise ValueError(
            f"Sharpness is of images (N, C, H, W) of 1 or 3 channels and of 3x3 pixels or more, not {tuple(x.shape)}."
        )
    x = (x.detach().double() + 1) / 2
    if x.shape[1] == 3:
        x = (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    return conv2d(x, x.new_tensor(LAPLACE)[None, None]).flatten(1).var(1, correction=0)


def sharpness_ratio(fake: Tensor, real: Tensor) -> Tensor:
    """Mean sharpness of (N,) images over that of (M,) real ones: below 1 is blurred. NaN where real ones are even."""
    return torch.where(real.mean() > 0, fake.mean() / real.mean(), torch.nan)
