"""The discriminator of DRIT and DRIT++ that tells the domain of a content. Nothing is normalised."""

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from networks.blocks import FewPositionsConv, reflect


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
