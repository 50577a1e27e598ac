"""The network behind our own features of digits: it reads the label, and where the ink lies."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class DigitReading(NamedTuple):
    """What ``DigitNet`` makes of N images."""

    embedding: Tensor  # (N, 64) >= 0
    label_logits: Tensor  # (N, 10)
    moments: Tensor  # (N, 7), in units that its training chose: six of the ink, and the grain of the image


class DigitNet(nn.Module):
    """Convolutions from 28x28 down to 4x4, and one embedding.

    Args:
        labels: how many there are to tell apart.
        moments: how many numbers say where the ink lies, and how grainy the image is.
        embedding: size of the feature vector.
    """

    def __init__(self, labels: int = 10, moments: int = 7, embedding: int = 64) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.embed = nn.Linear(widths[-1] * 4 * 4, embedding)
        self.label, self.moments = nn.Linear(embedding, labels), nn.Linear(embedding, moments)

    def forward(self, x: Tensor) -> DigitReading:
        """(N, 1, 28, 28) in [-1, 1] to everything that the network reads."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        h = relu(self.embed(x.flatten(1)))
        return DigitReading(h, self.label(h), self.moments(h))
