"""The network behind our own features: it reads a street scene's content, style, domain and semantic map."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, relu


class SceneReading(NamedTuple):
    """What ``SceneNet`` makes of N images."""

    embedding: Tensor  # (N, 128) >= 0
    domain_logits: Tensor  # (N, domains)
    content: Tensor  # (N, factors), each in units of its range: 0 lowest, 1 highest
    style: Tensor  # (N, domains, factors), the factors as they would be if the image were of that domain, 0 to 1
    semantic_logits: Tensor  # (N, classes, 64, 64)


class SceneNet(nn.Module):
    """Convolutions from 64x64 down to 4x4, one embedding for all factors, and a way back up for the semantic map.

    Args:
        domains: how many there are to tell apart.
        content: number of content factors.
        style: largest number of style factors of a domain.
        classes: of the semantic map.
        embedding: size of the feature vector.
    """

    def __init__(self, domains: int, content: int, style: int, classes: int, embedding: int = 128) -> None:
        super().__init__()
        widths = (24, 48, 96, 128)
        self.stages = nn.ModuleList(Stage(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.squeeze = nn.Conv2d(widths[-1], 32, 1)
        self.embed = nn.Linear(32 * 4 * 4, embedding)
        self.domain, self.content = nn.Linear(embedding, domains), nn.Linear(embedding, content)
        self.style = nn.Linear(embedding, domains * style)
        self.laterals = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in widths)
        self.merges = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in widths[1:])
        self.semantic = nn.Conv2d(32, 4 * classes, 3, padding=1)
        self.domains, self.classes = domains, classes

    def forward(self, x: Tensor) -> SceneReading:
        """(N, 3, 64, 64) in [-1, 1] to everything that the network reads."""
        levels = self.levels(x)
        embedding = self.embedding(levels)
        domain_logits, content, style = self.factors(embedding)
        return SceneReading(embedding, domain_logits, content, style, self.semantic_logits(levels))

    def levels(self, x: Tensor) -> list[Tensor]:
        """(N, 3, 64, 64) to maps of 32, 16, 8 and 4 pixels."""
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def embedding(self, levels: list[Tensor]) -> Tensor:
        """The feature vector, (N, embedding), from the smallest map."""
        return relu(self.embed(relu(self.squeeze(levels[-1])).flatten(1)))

    def factors(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Domain logits, content and style, all linear in the embedding."""
        style = self.style(embedding).unflatten(1, (self.domains, -1))
        return self.domain(embedding), self.content(embedding), style

    def semantic_logits(self, levels: list[Tensor]) -> Tensor:
        """(N, classes, 64, 64): from coarse to fine, each level added to what is known of the coarser ones."""
        laterals = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        h = relu(laterals.pop())
        for merge in self.merges:
            h = relu(merge(interpolate(h, scale_factor=2.0) + laterals.pop()))
        return pixel_shuffle(self.semantic(h), 2)


class Stage(nn.Module):
    """Half the resolution, then a residual convolution.

    Args:
        channels: in.
        width: channels out.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, width, H / 2, W / 2)."""
        x = torch.relu(self.norm(self.down(x)))
        return torch.relu(x + self.norm2(self.conv(x)))
