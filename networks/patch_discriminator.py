"""Discriminators that score patches: fully convolutional, one score a position."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from networks.blocks import FewPositionsConv, Padding, reflect


class PatchDiscriminator(nn.Module):
    """4x4 convolutions of stride 2 with LeakyReLU, no normalisation, then 1x1 to one score (UNIT, MUNIT, DRIT).

    Args:
        channels: of the image.
        width: channels after the first convolution, doubled by each that follows; official 64.
        layers: number of stride-2 convolutions; official 4.
        slope: of the LeakyReLU below zero; DRIT 0.01.
        padding: of all convolutions.
    """

    def __init__(
        self, channels: int, width: int = 64, layers: int = 4, slope: float = 0.2, padding: Padding = reflect
    ) -> None:
        super().__init__()
        self._slope, self._padding = slope, padding
        widths = [channels] + [width * 2**k for k in range(layers)]
        self.layers = nn.ModuleList(FewPositionsConv(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 1, H / 2^layers, W / 2^layers), sizes rounded down at every layer."""
        for conv in self.layers:
            x = leaky_relu(conv(self._padding(x, 1)), self._slope)
        return self.score(x)


class MultiScaleDiscriminator(nn.Module):
    """A ``PatchDiscriminator`` of its own for the image and for each of its halvings (Wang et al. 2018; UNIT, DRIT).

    Args:
        channels: of the image.
        width: of each discriminator; official 64.
        layers: of each discriminator; official 4.
        scales: how many resolutions; official 3.
        slope: of the LeakyReLU below zero; DRIT 0.01.
        padding: of all convolutions.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        layers: int = 4,
        scales: int = 3,
        slope: float = 0.2,
        padding: Padding = reflect,
    ) -> None:
        super().__init__()
        self._layers = layers
        self.scales = nn.ModuleList(PatchDiscriminator(channels, width, layers, slope, padding) for _ in range(scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) to one score map a scale, the full resolution first."""
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


def real_and_fake(discriminator: nn.Module, x: Tensor, x_fake: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Scores of real and of generated images, scale by scale, from one pass."""
    logits = discriminator(torch.cat((x, x_fake)))
    return [score[: len(x)] for score in logits], [score[len(x) :] for score in logits]


def mean_over_scales(scores: list[Tensor]) -> Tensor:
    """Mean score of images and places at each scale, averaged over scales; for the logs, without gradient."""
    return torch.stack([score.detach().mean() for score in scores]).mean()
