"""Discriminators of DRIT and DRIT++: of images of a domain, and of the domain of a content. Nothing is normalised."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from networks.blocks import FewPositionsConv, reflect


class DomainDiscriminator(nn.Module):
    """Scores of patches on several resolutions, with a network of its own for each.

    Args:
        width: channels after the first convolution, doubled by each that follows; official 64.
        layers: 4x4 convolutions of stride 2; official 4.
        scales: how many resolutions, each half of the one before; official 3.
    """

    def __init__(self, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        self._layers = layers
        self.scales = nn.ModuleList(PatchDiscriminator(width, layers) for _ in range(scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to one score map a scale, the full resolution first."""
        logits = []
        for k, discriminator in enumerate(self.scales):
            if k > 0:
                x = avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(discriminator(x))
        return logits

    def smallest(self) -> int:
        """Least height and width: reflection by one needs two pixels before every stride."""
        size = 2**self._layers
        for _ in self.scales[1:]:
            size = 2 * size - 1
        return size


class PatchDiscriminator(nn.Module):
    """4x4 convolutions of stride 2 with LeakyReLU(0.01), no normalisation, then 1x1 to one score.

    Args:
        width: channels after the first convolution.
        layers: number of stride-2 convolutions.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        widths = [3] + [width * 2**k for k in range(layers)]
        self.layers = nn.ModuleList(FewPositionsConv(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1, H / 2^layers, W / 2^layers), sizes rounded down at every layer."""
        for conv in self.layers:
            x = leaky_relu(conv(reflect(x, 1)), 0.01)
        return self.score(x)


class ContentDiscriminator(nn.Module):
    """Tells the domain from a content: 7x7 convolutions of stride 2, one 4x4, scores.

    Args:
        channels: of the content; official 256.
        width: channels inside; official 256.
        layers: 7x7 convolutions; official 3, which takes contents of 53 x 53 and more.
    """

    def __init__(self, channels: int = 256, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        widths = [channels] + [width] * layers
        self.layers = nn.ModuleList(FewPositionsConv(i, o, 7, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.last = FewPositionsConv(widths[-1], width, 4)
        self.score = nn.Conv2d(width, 1, 1)

    def forward(self, c: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, 1, h', w')."""
        for conv in self.layers:
            c = leaky_relu(conv(reflect(c, 1)), 0.01)
        return self.score(leaky_relu(self.last(c), 0.01))

    def smallest(self) -> int:
        """Least height and width of a content, whose last map must hold a 4x4 window."""
        size = 4
        for _ in self.layers:
            size = 2 * size + 3
        return size
