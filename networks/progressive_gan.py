"""The networks of Progressive GAN, whose layers are all there from the start and used up to a level.

Level k has images of 4 2^k. Kernels are 3 where nothing else is said, rectifiers are leaky with slope 0.2, and all
layers have an equalised learning rate. Convolutions of enlarged maps are one step (``EqualizedConv2d.enlarged``);
before D halves a map stands a rectifier, so that there it has to be two.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv_transpose2d, leaky_relu

from networks.style import EqualizedConv2d, Verdict, doubled, pixel_norm

SLOPE = 0.2


class FirstMap(EqualizedConv2d):
    """Code to the first map: kernels of 4 around a single pixel, as one matrix product (official code: a dense layer of
    gain sqrt(2) / 4 and a bias for each channel).

    Args:
        inputs: coordinates of the code.
        outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs, 4, 4)."""
        return conv_transpose2d(x[:, :, None, None], self.scaled().transpose(0, 1), self.bias)


class Generator(nn.Module):
    """G, code to image.

    Args:
        latent: coordinates of the code.
        widths: channels at each level; official 512, 512, 512, 512, 256, 128, 64, 32, 16.
        channels: of the image.
    """

    def __init__(self, latent: int, widths: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        self.first = FirstMap(latent, widths[0])
        self.up = nn.ModuleList(EqualizedConv2d(i, o, 3) for i, o in pairwise(widths))
        self.convs = nn.ModuleList(EqualizedConv2d(width, width, 3) for width in widths)
        self.to_rgb = nn.ModuleList(EqualizedConv2d(width, channels, 1, gain=1.0) for width in widths)

    def forward(self, z: Tensor, level: int, share: float = 1.0) -> Tensor:
        """Images of a level, which has faded in as far as ``share`` from the one below.

        Args:
            z: (N, latent), which is brought to unit size.
            level: from 0 on.
            share: from 0, the level below enlarged, to 1, this level; of level 0 it is 1.

        Returns:
            (N, channels, 4 2^level, 4 2^level), real numbers that learn to be in [-1, 1].
        """
        h = below = activated(self.convs[0](activated(self.first(pixel_norm(z)))))
        for k in range(1, level + 1):
            below = h
            h = activated(self.up[k - 1].enlarged(h))  # type: ignore[operator]
            h = activated(self.convs[k](h))
        x = self.to_rgb[level](h)
        return x if share >= 1 else torch.lerp(doubled(self.to_rgb[level - 1](below)), x, share)


class Discriminator(nn.Module):
    """D, image to a score.

    Args:
        widths: channels at each level, the generator's.
        channels: of the image.
        group: images of which the minibatch deviation is taken; 1 makes it a constant, so that D judges each image
            alone.
    """

    def __init__(self, widths: Sequence[int], channels: int = 3, group: int = 4) -> None:
        super().__init__()
        self.from_rgb = nn.ModuleList(EqualizedConv2d(channels, width, 1) for width in widths)
        self.convs = nn.ModuleList(EqualizedConv2d(width, width, 3) for width in widths[1:])
        self.down = nn.ModuleList(EqualizedConv2d(o, i, 3) for i, o in pairwise(widths))
        self.verdict = Verdict(widths[0], group, gain=1.0)

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
            h = leaky_relu(self.convs[k - 1](h), SLOPE)
            h = avg_pool2d(leaky_relu(self.down[k - 1](h), SLOPE), 2)
            if k == level and share < 1:
                h = torch.lerp(leaky_relu(self.from_rgb[level - 1](avg_pool2d(x, 2)), SLOPE), h, share)
        return self.verdict(h)


def activated(h: Tensor) -> Tensor:
    """What follows every convolution of G but those to colours."""
    return pixel_norm(leaky_relu(h, SLOPE))
