"""The networks of StyleGAN: codes are mapped to styles, which scale and shift what is made of a constant.

Level k has images of 4 2^k and two layers. All layers have an equalised learning rate with the gain sqrt(2), those to
colours and to scores too, as in rosinality/style-based-gan-pytorch, whose sizes these are. Enlarging before a
convolution and halving after one are one step with it (``EqualizedConv2d.enlarged`` and ``halved``), at every level.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from networks.style import SQRT2, Blur, EqualizedConv2d, EqualizedLinear, Verdict, doubled, pixel_norm, styled

SLOPE = 0.2  # of all leaky ReLUs


class Mapping(nn.Module):
    """f, code z to w.

    Args:
        latent: coordinates of both.
        layers: official 8.
        rate: multiplies what the optimizer does to them.
    """

    def __init__(self, latent: int, layers: int = 8, rate: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EqualizedLinear(latent, latent, rate=rate) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, latent)."""
        w = pixel_norm(z)
        for layer in self.layers:
            w = leaky_relu(layer(w), SLOPE)
        return w


class Noise(nn.Module):
    """Adds an image of noise, of a strength that each channel learns from 0 on.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = math.sqrt(2 / channels)  # the equalised learning rate, as the release has it here too
        self.weight = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(N, C, H, W) and (N, 1, H, W) to the former."""
        return torch.addcmul(x, noise, (self.weight * self.scale).to(x.dtype))


class Synthesis(nn.Module):
    """g, styles to image. A layer is a convolution, noise, leaky ReLU and a style; the first has a constant instead.

    Args:
        latent: coordinates of w.
        widths: channels at each level; official 512, 512, 512, 512, 256, 128, 64, 32, 16.
        channels: of the image.
    """

    def __init__(self, latent: int, widths: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        layers = [width for width in widths for _ in range(2)]
        self.constant = nn.Parameter(torch.ones(1, widths[0], 4, 4))
        self.up = nn.ModuleList(EqualizedConv2d(i, o, 3) for i, o in pairwise(widths))
        self.blurs = nn.ModuleList(Blur(width) for width in widths[1:])
        self.convs = nn.ModuleList(EqualizedConv2d(width, width, 3) for width in widths)
        self.noises = nn.ModuleList(Noise(width) for width in layers)
        self.styles = nn.ModuleList(EqualizedLinear(latent, 2 * width) for width in layers)
        self.to_rgb = nn.ModuleList(EqualizedConv2d(width, channels, 1) for width in widths)

    def forward(self, w: Tensor, level: int, share: float, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Images of a level, which has faded in as far as ``share`` from the one below.

        Args:
            w: (N, layers, latent), of each layer its own, the lowest first; those beyond the level are not used.
            level: from 0 on.
            share: from 0, the level below enlarged, to 1, this level; of level 0 it is 1.
            noise: gives each layer's draw in the shape (N, 1, H, W) of what it gets.

        Returns:
            (N, channels, 4 2^level, 4 2^level), real numbers that learn to be in [-1, 1].
        """
        h = below = self.constant.expand(len(w), -1, -1, -1)
        for k in range(level + 1):
            below = h
            if k > 0:
                h = self.blurs[k - 1](self.up[k - 1].enlarged(h))  # type: ignore[operator]
            h = self.finished(h, w, 2 * k, noise)
            h = self.finished(self.convs[k](h), w, 2 * k + 1, noise)
        x = self.to_rgb[level](h)
        return x if share >= 1 else torch.lerp(doubled(self.to_rgb[level - 1](below)), x, share)

    def finished(self, h: Tensor, w: Tensor, layer: int, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """What follows a convolution."""
        h = leaky_relu(self.noises[layer](h, noise(h[:, :1])), SLOPE)
        return styled(h, self.styles[layer](w[:, layer]), 1e-5)


class Generator(nn.Module):
    """G = g(f(z)).

    Args:
        latent: coordinates of z and w.
        mapping: layers of f.
        widths: channels at each level.
        channels: of the image.
        mapping_rate: multiplies what the optimizer does to f.
    """

    def __init__(
        self, latent: int, mapping: int, widths: Sequence[int], channels: int = 3, mapping_rate: float = 0.01
    ) -> None:
        super().__init__()
        self.mapping = Mapping(latent, mapping, mapping_rate)
        self.synthesis = Synthesis(latent, widths, channels)


class Discriminator(nn.Module):
    """D, image to a score before the sigmoid.

    A level is a convolution to the channels of the level below, leaky ReLU, blur, another convolution that halves the
    map, and leaky ReLU. (The paper's, of 23.1 million weights, gets there only with its second convolution; this is the
    release's.)

    Args:
        widths: channels at each level, the generator's.
        channels: of the image.
        group: images of which the minibatch deviation is taken; 1 makes it a constant, so that D judges each image
            alone.
    """

    def __init__(self, widths: Sequence[int], channels: int = 3, group: int = 4) -> None:
        super().__init__()
        self.from_rgb = nn.ModuleList(EqualizedConv2d(channels, width, 1) for width in widths)
        self.convs = nn.ModuleList(EqualizedConv2d(o, i, 3) for i, o in pairwise(widths))
        self.blurs = nn.ModuleList(Blur(width) for width in widths[:-1])
        self.down = nn.ModuleList(EqualizedConv2d(width, width, 3) for width in widths[:-1])
        self.verdict = Verdict(widths[0], group, gain=SQRT2)

    def forward(self, x: Tensor, level: int, share: float = 1.0) -> Tensor:
        """Scores of images of a level, which has faded in as far as ``share``.

        Args:
            x: (N, channels, 4 2^level, 4 2^level).
            level: from 0 on.
            share: from 0, the level below sees the halved image, to 1, this level sees the image.

        Returns:
            (N,).
        """
        h = leaky_relu(self.from_rgb[level](x), SLOPE)
        for k in range(level, 0, -1):
            h = self.blurs[k - 1](leaky_relu(self.convs[k - 1](h), SLOPE))
            h = leaky_relu(self.down[k - 1].halved(h), SLOPE)  # type: ignore[operator]
            if k == level and share < 1:
                h = torch.lerp(leaky_relu(self.from_rgb[level - 1](avg_pool2d(x, 2)), SLOPE), h, share)
        return self.verdict(h)


def mixed(first: Tensor, second: Tensor, level: int, layers: int, luck: Tensor, probability: float) -> Tensor:
    """Styles of each layer: those of one code, or of another from a random level on (style mixing, section 3.1).

    The last level of the first code is one of 0 .. level - 1, each as likely; in images of level 0 there is nothing to
    mix. All images of a batch change at the same place, which the host need not know.

    Args:
        first: (N, latent) w.
        second: (N, latent) w.
        level: of the images.
        layers: of the synthesis, two a level.
        luck: (2,) uniform in [0, 1]: whether to mix, and where.
        probability: of mixing.

    Returns:
        (N, layers, latent).
    """
    levels = torch.arange(layers, device=first.device) // 2
    other = (luck[0] < probability) & (levels > (luck[1] * level).floor().clamp(max=max(level - 1, 0)))
    return torch.where(other[:, None], second[:, None], first[:, None])


def truncated(w: Tensor, mean: Tensor, psi: float, layers: int) -> Tensor:
    """w-bar + psi (w - w-bar) for the first layers, w for the others (appendix B).

    Args:
        w: (N, layers, latent).
        mean: (latent,) w-bar.
        psi: 1 leaves w as it is; 0 is the mean.
        layers: how many, from the lowest on.
    """
    if psi == 1:
        return w
    return torch.cat((torch.lerp(mean.expand_as(w[:, :layers]), w[:, :layers], psi), w[:, layers:]), 1)
