"""Encoders, generators and discriminators of DRIT++ for any number of domains: one set for all of them.

A domain is told by its code k, one real number a domain and image, one-hot in training. What a code or an attribute
adds as constant maps is one number an image and channel: it is added as such, and no layer sees the maps.

As in ``networks.drit``, generators are split where they stop being the same for all: ``content(c)`` is what one makes
of a content whatever the attribute z and the domain k, ``render(h, z, k)`` adds both. All domains and all attributes
share one ``content``.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, linear, pad

from networks.blocks import FewPositionsConv, ResBlock, instance_norm, reflect
from networks.content_discriminator import ContentDiscriminator
from networks.drit import ConcatRenderer, MixingRenderer, PoolingBlock


class DomainGaussianAttributeEncoder(nn.Module):
    """Image and domain to mean and log-variance of the attribute (``concat``), without normalisation.

    Args:
        domains: how many.
        size: of the attribute; official 8.
        width: channels after the first convolution; official 64. They grow by as many with each block.
        blocks: halvings after the first; official 3.
    """

    def __init__(self, domains: int, size: int = 8, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        widths = [width * (j + 1) for j in range(blocks + 1)]
        self.stem = nn.Conv2d(3 + domains, width, 4, 2)
        self.blocks = nn.ModuleList(PoolingBlock(i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.mu = nn.Linear(widths[-1], size)
        self.logvar = nn.Linear(widths[-1], size)

    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) and (N, domains) to mu and logvar, (N, size) each."""
        h = coded(reflect(x, 1), k, self.stem)
        for block in self.blocks:
            h = block(h)
        h = leaky_relu(h, 0.2).mean((2, 3))
        return self.mu(h), self.logvar(h)

    def mean(self, x: Tensor, k: Tensor) -> Tensor:
        """Attribute without a draw: (N, 3, H, W) and (N, domains) to (N, size)."""
        return self(x, k)[0]


class DomainAttributeEncoder(nn.Module):
    """Image and domain to attribute, deterministic (without ``concat``).

    Args:
        domains: how many.
        size: of the attribute; official 8.
        width: channels after the first convolution, doubled twice; official 64.
        halvings: 4x4 convolutions of stride 2; official 4.
    """

    def __init__(self, domains: int, size: int = 8, width: int = 64, halvings: int = 4) -> None:
        super().__init__()
        widths = [width * min(2**j, 4) for j in range(halvings + 1)]
        self.stem = nn.Conv2d(3 + domains, width, 7)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1], size, 1)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """(N, 3, H, W) and (N, domains) to (N, size)."""
        x = coded(reflect(x, 3), k, self.stem).relu_()
        for down in self.downs:
            x = down(reflect(x, 1)).relu_()
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)

    def mean(self, x: Tensor, k: Tensor) -> Tensor:
        """The same, under the name that ``DomainGaussianAttributeEncoder`` has for it."""
        return self(x, k)


class DomainConcatGenerator(nn.Module):
    """Domain and attribute appended as constant maps, the domain once, the attribute at every stage (``concat``).

    Residual blocks pass both on and are blind to them, since an instance norm removes what is constant: see
    ``networks.drit.ConcatGenerator``. They run with zeros in their place, once for each content.

    Args:
        domains: how many.
        width: channels of the content; official 256.
        style: size of the attribute; official 8.
        upsamplings: official 2.
        blocks: residual blocks after the first; official 3.
    """

    def __init__(self, domains: int, width: int = 256, style: int = 8, upsamplings: int = 2, blocks: int = 3) -> None:
        super().__init__()
        self.domains, self.style = domains, style
        self.first = ResBlock(width)
        self.trunk = nn.Sequential(*(ResBlock(width + domains + style) for _ in range(blocks)))
        self.renderer = ConcatRenderer(width + domains + style, style, upsamplings)

    def forward(self, c: Tensor, z: Tensor, k: Tensor) -> Tensor:
        """(N, width, h, w), (N, style) and (N, domains) to (N, 3, h 2^u, w 2^u) in (-1, 1)."""
        return self.render(self.content(c), z, k)

    def content(self, c: Tensor) -> Tensor:
        """(N, width, h, w) to (N, width + domains + style, h, w)."""
        return self.trunk(pad(self.first(c), (0, 0, 0, 0, 0, self.domains + self.style)))

    def render(self, h: Tensor, z: Tensor, k: Tensor) -> Tensor:
        """What ``content`` gave, (N, style) and (N, domains) to (N, 3, H, W) in (-1, 1)."""
        width = h.shape[1] - self.domains - self.style
        return self.renderer(h + pad(k, (width, self.style))[:, :, None, None], z)


class DomainMixingGenerator(nn.Module):
    """Domain and attribute mixed in by 1x1 convolutions (without ``concat``), for domains that differ in shape.

    Args:
        domains: how many.
        width: channels of the content; official 256.
        style: size of the attribute; official 8.
        upsamplings: official 2.
        blocks: mixing blocks; official 4.
        mlp_width: hidden units of the network from (k, z) to one code for each block; official 256.
    """

    def __init__(
        self,
        domains: int,
        width: int = 256,
        style: int = 8,
        upsamplings: int = 2,
        blocks: int = 4,
        mlp_width: int = 256,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3)
        self.renderer = MixingRenderer(width, domains + style, upsamplings, blocks, mlp_width)

    def forward(self, c: Tensor, z: Tensor, k: Tensor) -> Tensor:
        """(N, width, h, w), (N, style) and (N, domains) to (N, 3, h 2^u, w 2^u) in (-1, 1)."""
        return self.render(self.content(c), z, k)

    def content(self, c: Tensor) -> Tensor:
        """(N, width, h, w) to (N, 2 width, h, w): the content and its first convolution."""
        return torch.cat((c, instance_norm(self.first(reflect(c, 1)))), 1)

    def render(self, h: Tensor, z: Tensor, k: Tensor) -> Tensor:
        """What ``content`` gave, (N, style) and (N, domains) to (N, 3, H, W) in (-1, 1)."""
        return self.renderer(h, torch.cat((k, z), 1))


class DomainDiscriminator(nn.Module):
    """Tells real from generated images, and their domains: 3x3 convolutions of stride 2, then a head for each.

    Args:
        domains: how many.
        width: channels after the first convolution, doubled by all that follow but the last; official 64.
        layers: stride-2 convolutions; official 6.
        kernel: of the domain head, whose logits are averaged over places; official int(size / 64), 3 at 216 pixels.
        ring: scores have a border of zeros, from the padding of a 1x1 convolution, as in the release: 20 of the 36
            scores at 216 pixels, whose cross-entropy is ln 2 whatever the image. False leaves it out.
    """

    def __init__(self, domains: int, width: int = 64, layers: int = 6, kernel: int = 3, ring: bool = True) -> None:
        super().__init__()
        self._kernel = kernel
        widths = [3, *(width * 2 ** min(j, max(layers - 2, 0)) for j in range(layers))]
        self.layers = nn.ModuleList(FewPositionsConv(i, o, 3, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.score = nn.Conv2d(widths[-1], 1, 1, padding=int(ring), bias=False)
        self.domain = nn.Conv2d(widths[-1], domains, kernel, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to scores (N, 1, h, w), positive is real, and a logit for each domain (N, domains)."""
        for conv in self.layers:
            x = leaky_relu(conv(reflect(x, 1)), 0.01)
        return self.score(x), self.domain(x).mean((2, 3))

    def smallest(self) -> int:
        """Least height and width: the last map holds the kernel, and reflection by one needs two pixels."""
        size = self._kernel
        for _ in self.layers:
            size = max(2 * size - 1, 2)
        return size


class ContentClassifier(ContentDiscriminator):
    """``ContentDiscriminator`` with a logit for each domain, averaged over places (the release allows one place).

    Args:
        domains: how many.
        channels: of the content; official 256.
        width: channels inside; official 256.
        layers: 7x7 convolutions; official 3.
    """

    def __init__(self, domains: int, channels: int = 256, width: int = 256, layers: int = 3) -> None:
        super().__init__(channels, width, layers)
        self.score = nn.Conv2d(width, domains, 1)

    def forward(self, c: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, domains)."""
        return super().forward(c).mean((2, 3))


def coded(x: Tensor, k: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution of x with k appended as constant maps, whose part is one number an image and channel.

    Args:
        x: (N, C, H, W), padded by reflection, which keeps a constant map constant.
        k: (N, D).
        conv: from C + D channels, without padding of its own.

    Returns:
        (N, C', H', W').
    """
    of_x, of_k = conv.weight.split((x.shape[1], k.shape[1]), 1)
    return conv2d(x, of_x, conv.bias, conv.stride) + linear(k, of_k.sum((2, 3)))[:, :, None, None]
