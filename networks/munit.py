"""What MUNIT has beside UNIT's networks: a style encoder, and a decoder that takes a content and a style."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from networks.adain import adain
from networks.blocks import FewChannelsConv, FewPositionsConv, LayerNorm, Padding, UpsampleConv, reflect


class StyleEncoder(nn.Module):
    """Image to style code: 7x7 stem, four stride-2 convolutions, mean over positions, 1x1 convolution.

    No normalisation: it would remove the feature means that carry the style.

    Args:
        channels: of the image.
        width: channels after the stem, doubled by the first two convolutions; official 64.
        size: of the style code; official 8.
        padding: of all convolutions.
    """

    smallest = 16  # least height and width: reflection by one needs two pixels before every stride

    def __init__(self, channels: int, width: int = 64, size: int = 8, padding: Padding = reflect) -> None:
        super().__init__()
        self.padding = padding
        widths = [width * factor for factor in (1, 2, 4, 4, 4)]
        self.stem = nn.Conv2d(channels, width, 7)
        self.downs = nn.ModuleList(FewPositionsConv(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1], size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, size), unbounded; any height and width from ``smallest`` on."""
        x = self.stem(self.padding(x, 3)).relu_()
        for down in self.downs:
            x = down(self.padding(x, 1)).relu_()
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)


class StyleMLP(nn.Module):
    """Style code to the parameters of every AdaIN layer: three linear layers, ReLU between them.

    Args:
        size: of the style code.
        width: of the hidden layers; official 256.
        parameters: how many AdaIN needs for an image.
    """

    def __init__(self, size: int, width: int, parameters: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size, width), nn.Linear(width, width)
        self.last = nn.Linear(width, parameters)

    def forward(self, s: Tensor) -> Tensor:
        """(N, size) to (N, parameters)."""
        return self.last(relu(self.second(relu(self.first(s)))))


class AdaINResBlock(nn.Module):
    """x + AdaIN(conv(ReLU(AdaIN(conv(x))))), 3x3 convolutions.

    Args:
        width: channels in and out.
        padding: of both convolutions.
    """

    def __init__(self, width: int, padding: Padding = reflect) -> None:
        super().__init__()
        self.padding = padding
        self.conv1 = nn.Conv2d(width, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(N, width, H, W) and (N, 4 width), what ``adain`` takes for the first and for the second convolution."""
        first, second = style.chunk(2, dim=1)
        h = adain(self.conv1(self.padding(x, 1)), first).relu_()
        return adain(self.conv2(self.padding(h, 1)), second).add_(x)


class AdaINDecoder(nn.Module):
    """Content and style to image: residual blocks with AdaIN, upsamplings that halve the width, 7x7 head with tanh.

    After the upsamplings comes ``LayerNorm``, which keeps the channels' means and deviations in proportion: AdaIN
    would be undone by instance normalisation there.

    Args:
        channels: of the image.
        width: channels before the head; official 64.
        upsamplings: official 2.
        blocks: residual blocks at the lowest resolution; official 4.
        style_size: of the style code; official 8.
        mlp_width: of the hidden layers between style and AdaIN; official 256.
        padding: of all convolutions.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        upsamplings: int = 2,
        blocks: int = 4,
        style_size: int = 8,
        mlp_width: int = 256,
        padding: Padding = reflect,
    ) -> None:
        super().__init__()
        self.padding = padding
        widths = [width * 2**k for k in reversed(range(upsamplings + 1))]
        self.blocks = nn.ModuleList(AdaINResBlock(widths[0], padding) for _ in range(blocks))
        self.ups = nn.ModuleList(UpsampleConv(i, o, padding) for i, o in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(LayerNorm(o) for o in widths[1:])
        self.head = FewChannelsConv(width, channels, 7)
        self.mlp = StyleMLP(style_size, mlp_width, 4 * widths[0] * blocks)

    @torch.no_grad()
    def calm_(self, share: float) -> None:
        """Make every AdaIN layer nearly a plain normalisation: weights about 1, biases about 0, whatever the style.

        Args:
            share: of the dependence on the style that the initial weights give.
        """
        last = self.mlp.last
        last.weight.mul_(share)
        for layer in last.bias.chunk(2 * len(self.blocks)):
            _, weights = layer.chunk(2)
            weights.fill_(1)

    def forward(self, c: Tensor, s: Tensor) -> Tensor:
        """(N, width 2^u, h, w) and (N, style_size) to (N, channels, h 2^u, w 2^u) in (-1, 1), u the upsamplings."""
        for block, style in zip(self.blocks, self.mlp(s).chunk(len(self.blocks), dim=1), strict=True):
            c = block(c, style)
        for up, norm in zip(self.ups, self.norms, strict=True):
            c = norm(up(c)).relu_()
        return torch.tanh(self.head(self.padding(c, 3)))
