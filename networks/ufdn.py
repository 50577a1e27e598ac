"""The networks of UFDN: a variational encoder, a decoder that is told the domain, and what judges codes and images.

All convolutions halve or double height and width: kernel 4, stride 2, padding 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, leaky_relu_

from networks.batch_norm import BatchNorm2d

SLOPE = 0.2  # of all leaky ReLUs


class Halving(nn.Conv2d):
    """The convolution that halves height and width.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / 2, W / 2)."""
        if x.shape[2:] == (2, 2):  # all but the inner taps see padding
            return conv2d(x, self.weight[:, :, 1:3, 1:3], self.bias)
        return super().forward(x)


class Doubling(nn.ConvTranspose2d):
    """The transposed convolution that doubles height and width.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) to (N, C', 2 H, 2 W)."""
        if x.shape[2:] == (1, 1):  # all but the inner taps write beyond the border
            return conv_transpose2d(x, self.weight[:, :, 1:3, 1:3], self.bias)
        return super().forward(x)


class Encoder(nn.Module):
    """E, image to a posterior of its code: halvings with batch normalisation and leaky ReLU, then one each for mean and
    logarithm of the variance.

    Args:
        widths: channels after each halving but the last; official 64, 128, 256, 512, 1024.
        code_channels: of the code; official 1024.
    """

    def __init__(self, widths: Sequence[int], code_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Halving(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.norms = nn.ModuleList(BatchNorm2d(o) for o in widths)
        self.mu, self.logvar = Halving(widths[-1], code_channels), Halving(widths[-1], code_channels)

    def trunk(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, widths[-1], 2 h, 2 w): everything that has running statistics."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = leaky_relu_(norm(conv(x)), SLOPE)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to mean and logarithm of the variance, (N, code_channels, h, w) each."""
        h = self.trunk(x)
        return self.mu(h), self.logvar(h)


class Decoder(nn.Module):
    """G, code and domain to image: doublings with batch normalisation and leaky ReLU, the last with tanh alone.

    Args:
        domains: entries of a domain vector, which becomes as many constant channels beside the code.
        code_channels: of the code.
        widths: channels after each doubling but the last; official 1024, 512, 256, 128, 64.
    """

    def __init__(self, domains: int, code_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels = (code_channels + domains, *widths)
        self.convs = nn.ModuleList(Doubling(i, o) for i, o in zip(channels, widths, strict=False))
        self.norms = nn.ModuleList(BatchNorm2d(o) for o in widths)
        self.head = Doubling(widths[-1], 3)

    def forward(self, z: Tensor, v: Tensor) -> Tensor:
        """(N, code_channels, h, w) and (N, domains), any real numbers, to (N, 3, H, W) in (-1, 1)."""
        h = torch.cat((z, v[:, :, None, None].expand(-1, -1, *z.shape[2:])), 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = leaky_relu_(norm(conv(h)), SLOPE)
        return torch.tanh(self.head(h))


class DomainClassifier(nn.Module):
    """D_v, tells the domain from a code: linear layers with leaky ReLU. Without hidden ones it is a linear classifier.

    Args:
        size: numbers in a code.
        widths: of the hidden layers; official 512, 256, 128, 64.
        classes: that it tells apart.
    """

    def __init__(self, size: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip((size, *widths), widths, strict=False))
        self.head = nn.Linear((size, *widths)[-1], classes)

    def forward(self, z: Tensor) -> Tensor:
        """(N, ...) of ``size`` numbers a row to (N, classes) logits."""
        h = z.flatten(1)
        for layer in self.layers:
            h = leaky_relu(layer(h), SLOPE)
        return self.head(h)


class Critic(nn.Module):
    """D_x, scores an image and tells its domain: halvings, a linear layer, two linear heads; nothing is normalised.

    Args:
        size: height and width of the images.
        widths: channels after each halving; official 16, 32, 64, 128, 256.
        hidden: units of the linear layer; official 512.
        domains: that it tells apart.
    """

    def __init__(self, size: int, widths: Sequence[int], hidden: int, domains: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Halving(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.hidden = nn.Linear(widths[-1] * (size // 2 ** len(widths)) ** 2, hidden)
        self.score, self.domain = nn.Linear(hidden, 1), nn.Linear(hidden, domains)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) to what both heads read, (N, hidden)."""
        for conv in self.convs:
            x = leaky_relu(conv(x), SLOPE)
        return leaky_relu(self.hidden(x.flatten(1)), SLOPE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, size, size) to scores, (N, 1), and logits of the domains, (N, domains)."""
        h = self.features(x)
        return self.score(h), self.domain(h)
