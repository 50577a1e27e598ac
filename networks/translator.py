"""Encoder and decoder of the official UNIT, whose content paths MUNIT uses too."""

import torch
from torch import Tensor, nn

from networks.blocks import FewChannelsConv, LayerNorm, Padding, ResBlock, UpsampleConv, instance_norm, reflect


class ContentEncoder(nn.Module):
    """Image to feature map: 7x7 stem, stride-2 convolutions that double the width, residual blocks.

    Args:
        channels: of the image.
        width: channels after the stem; official 64.
        downsamplings: number of stride-2 convolutions; official 2.
        blocks: residual blocks at the lowest resolution; official 4.
        padding: of all convolutions.
    """

    def __init__(
        self, channels: int, width: int = 64, downsamplings: int = 2, blocks: int = 4, padding: Padding = reflect
    ) -> None:
        super().__init__()
        self.padding = padding
        widths = [width * 2**k for k in range(downsamplings + 1)]
        self.stem = nn.Conv2d(channels, width, 7)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.blocks = nn.ModuleList(ResBlock(widths[-1], padding) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, width 2^d, H / 2^d, W / 2^d), d the number of downsamplings."""
        x = instance_norm(self.stem(self.padding(x, 3))).relu_()
        for down in self.downs:
            x = instance_norm(down(self.padding(x, 1))).relu_()
        for block in self.blocks:
            x = block(x)
        return x


class ContentDecoder(nn.Module):
    """Feature map to image: residual blocks, upsamplings that halve the width, 7x7 head with tanh.

    Args:
        channels: of the image.
        width: channels before the head; official 64.
        upsamplings: official 2.
        blocks: residual blocks at the lowest resolution; official 4.
    """

    def __init__(self, channels: int, width: int = 64, upsamplings: int = 2, blocks: int = 4) -> None:
        super().__init__()
        widths = [width * 2**k for k in reversed(range(upsamplings + 1))]
        self.blocks = nn.ModuleList(ResBlock(widths[0]) for _ in range(blocks))
        self.ups = nn.ModuleList(UpsampleConv(i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(LayerNorm(o) for o in widths[1:])
        self.head = FewChannelsConv(width, channels, 7)

    def forward(self, z: Tensor) -> Tensor:
        """(N, width 2^u, h, w) to (N, channels, h 2^u, w 2^u) in (-1, 1), u the number of upsamplings."""
        for block in self.blocks:
            z = block(z)
        for up, norm in zip(self.ups, self.norms, strict=True):
            z = norm(up(z)).relu_()
        return torch.tanh(self.head(reflect(z, 3)))
