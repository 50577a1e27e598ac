"""Networks of Fader Networks: an auto-encoder whose decoder is told attributes, and what reads attributes back.

All are 4x4 convolutions of stride 2. Names of tensors are those of the release, so that its files need no table.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from networks.batch_norm import BatchNorm2d


def widths(channels: int, width: int, max_width: int, layers: int) -> list[int]:
    """Channels before and after each of ``layers`` convolutions: doubled by each, up to ``max_width``."""
    return [channels, *(min(width * 2**k, max_width) for k in range(layers))]


def mode_(net: nn.Module, training: bool) -> None:
    """``net.train(training)`` for the layers to which it makes a difference; at half the cost."""
    for layer in net.modules():
        if isinstance(layer, BatchNorm2d | nn.Dropout):
            layer.training = training


def down(in_channels: int, out_channels: int, norm: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """Convolution of stride 2, batch normalisation, LeakyReLU 0.2, dropout of single numbers."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 4, 2, 1),
        *([BatchNorm2d(out_channels)] if norm else []),
        nn.LeakyReLU(0.2, inplace=True),
        *([nn.Dropout(dropout)] if dropout > 0 else []),
    )


class AutoEncoder(nn.Module):
    """E(x), and D(E(x), y) with y as constant planes beside the features of every layer.

    Args:
        attributes: channels of y.
        width: channels after the first convolution; official 32.
        max_width: most channels; official 512.
        layers: convolutions, and transposed convolutions back; official 6.
        skips: decoder layers after the first that also see the encoder's map of their size; official 0.
        dropout: after the normalisation of the decoder's first three layers; official 0.
    """

    def __init__(
        self,
        attributes: int,
        width: int = 32,
        max_width: int = 512,
        layers: int = 6,
        skips: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        c = widths(3, width, max_width, layers)
        self.attributes, self.skips = attributes, skips
        self.enc_layers = nn.ModuleList(down(c[i], c[i + 1], norm=i > 0) for i in range(layers))
        self.dec_layers = nn.ModuleList()
        for k, i in enumerate(reversed(range(layers))):
            skip = c[i + 1] if 1 <= k <= skips else 0
            up = nn.ConvTranspose2d(c[i + 1] + attributes + skip, c[i], 4, 2, 1, bias=False)
            drop = [nn.Dropout(dropout)] if dropout > 0 and k < 3 else []
            after = [BatchNorm2d(c[i]), *drop, nn.ReLU(inplace=True)] if i > 0 else [nn.Tanh()]
            self.dec_layers.append(nn.Sequential(up, *after))

    def encode(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to the maps after each layer, (N, C, H / 2, W / 2) and so on; the last is the code."""
        maps = []
        for layer in self.enc_layers:
            x = layer(x)
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[Tensor], y: Tensor) -> Tensor:
        """The maps of ``encode`` and (N, attributes) to (N, 3, H, W) in (-1, 1)."""
        h = maps[-1]
        for k in range(len(self.dec_layers)):
            h = self.decode_layer(k, h, maps, y)
        return h

    def decode_layer(self, k: int, h: Tensor, maps: Sequence[Tensor], y: Tensor) -> Tensor:
        """What layer k of the decoder makes of h: (N, C, H, W) to (N, C', 2 H, 2 W)."""
        up, *after = self.dec_layers[k].children()
        h = up_with_planes(h, y, up.get_parameter("weight"), maps[-1 - k] if 1 <= k <= self.skips else None)
        for layer in after:
            h = layer(h)
        return h


class LatentDiscriminator(nn.Module):
    """Reads the attributes off a map of the encoder: convolutions down to one position, two linear layers.

    Args:
        attributes: channels of y.
        image_size: side of the images, a power of 2.
        width, max_width, layers, skips: of the auto-encoder; it reads the map after ``layers - skips`` convolutions.
        hidden: features between the linear layers; official 512.
        dropout: of single numbers, after every convolution; official 0.3.
    """

    def __init__(
        self,
        attributes: int,
        image_size: int = 256,
        width: int = 32,
        max_width: int = 512,
        layers: int = 6,
        skips: int = 0,
        hidden: int = 512,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        c = widths(3, width, max_width, image_size.bit_length() - 1)[layers - skips :]
        self.conv_layers = nn.Sequential(*(down(i, o, dropout=dropout) for i, o in zip(c, c[1:], strict=False)))
        self.proj_layers = two_linear_layers(c[-1], hidden, attributes)

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, h, w) to logits (N, attributes)."""
        return self.proj_layers(self.conv_layers(h).flatten(1))


class Classifier(nn.Module):
    """Reads the attributes off an image, as ``LatentDiscriminator`` does off a map of the encoder.

    Args:
        attributes, image_size, width, max_width, hidden: as there.
    """

    def __init__(
        self, attributes: int, image_size: int = 256, width: int = 32, max_width: int = 512, hidden: int = 512
    ) -> None:
        super().__init__()
        c = widths(3, width, max_width, image_size.bit_length() - 1)
        layers = (down(i, o, norm=k > 0) for k, (i, o) in enumerate(zip(c, c[1:], strict=False)))
        self.conv_layers = nn.Sequential(*layers)
        self.proj_layers = two_linear_layers(c[-1], hidden, attributes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, attributes)."""
        return self.proj_layers(self.conv_layers(x).flatten(1))


class PatchDiscriminator(nn.Module):
    """How probable it is that an image is real: the mean over its patches of their probabilities.

    Args:
        width: channels after the first convolution, doubled by each of the next three; official 32.
    """

    smallest = 32  # least height and width

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for k, stride in enumerate((2, 2, 1)):
            i, o = width * 2**k, width * 2 ** (k + 1)
            layers += [nn.Conv2d(i, o, 4, stride, 1), BatchNorm2d(o), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N,) in (0, 1), in float32 at least: bfloat16 has no probabilities near 1."""
        logits = self.layers(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid().mean((1, 2, 3))


def two_linear_layers(features: int, hidden: int, attributes: int) -> nn.Sequential:
    """What ends both readers of attributes."""
    return nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2, inplace=True), nn.Linear(hidden, attributes))


def up_with_planes(h: Tensor, y: Tensor, weight: Tensor, skip: Tensor | None = None) -> Tensor:
    """The transposed 4x4 convolution, stride 2, padding 1, of h with y as constant planes behind it, then ``skip``.

    What constant planes add to the output depends on y and, at the border, on the position: y makes one 4x4 kernel a
    channel of all planes, and of a kernel each position gets the taps that reach it. The planes need no convolution.

    Args:
        h: (N, C, H, W).
        y: (N, A).
        weight: (C + A, C', 4, 4), or (C + A + C_skip, C', 4, 4).
        skip: (N, C_skip, H, W).

    Returns:
        (N, C', 2 H, 2 W).
    """
    c, a = h.shape[1], y.shape[1]
    of_h, of_y, of_skip = weight.split((c, a, len(weight) - c - a))
    if skip is not None:
        h, of_h = torch.cat((h, skip), 1), torch.cat((of_h, of_skip))
    taps = (y @ of_y.flatten(1)).view(len(y), -1, 4, 4)
    rows, columns = (reached(size, taps.dtype, taps.device) for size in h.shape[2:])
    return conv_transpose2d(h, of_h, stride=2, padding=1) + rows @ taps @ columns.T


@lru_cache(maxsize=64)
def reached(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2 size, 4): 1 where a tap of the kernel brings some input position to an output position, else 0."""
    with torch.inference_mode(False):  # or training could not use what a validation has made
        source = torch.arange(2 * size, device=device)[:, None] + 1 - torch.arange(4, device=device)
        return ((source % 2 == 0) & (source >= 0) & (source < 2 * size)).to(dtype)
