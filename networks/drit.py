"""Encoders and generators of DRIT and DRIT++, two domains.

A domain is given by its index where weights are shared between domains, and by its own module where none are.

The generators are split where the attribute z enters: ``share(c)`` is what all domains make of a content,
``content(share(c), domain)`` what one domain makes of it whatever the attribute, ``render(h, z, domain)`` adds the
attribute. Two domains share one ``share``, several attributes one ``content``.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, group_norm, leaky_relu, pad

from networks.blocks import ResBlock, instance_norm, reflect
from networks.prepared import prepared

DOMAINS = 2


class ContentEncoder(nn.Module):
    """Image to content: a trunk for each domain, then one residual block that all share.

    Args:
        width: channels after the first convolution; official 64.
        downsamplings: stride-2 convolutions that double the width; official 2.
        blocks: residual blocks of a trunk; official 3.
    """

    def __init__(self, width: int = 64, downsamplings: int = 2, blocks: int = 3) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(ContentTrunk(width, downsamplings, blocks) for _ in range(DOMAINS))
        self.share = ResBlock(width * 2**downsamplings)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        """(N, 3, H, W) to (N, width 2^d, H / 2^d, W / 2^d), without the noise that training adds."""
        return self.share(self.trunks[domain](x))


class ContentTrunk(nn.Module):
    """7x7 stem without normalisation, 3x3 convolutions of stride 2, residual blocks.

    Args:
        width: channels after the stem.
        downsamplings: number of stride-2 convolutions.
        blocks: residual blocks at the lowest resolution.
    """

    def __init__(self, width: int, downsamplings: int, blocks: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(downsamplings + 1)]
        self.stem = nn.Conv2d(3, width, 7)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 3, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.blocks = nn.ModuleList(ResBlock(widths[-1]) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, width 2^d, H / 2^d, W / 2^d)."""
        x = leaky_relu(self.stem(reflect(x, 3)), 0.01)
        for down in self.downs:
            x = instance_norm(down(reflect(x, 1))).relu_()
        for block in self.blocks:
            x = block(x)
        return x


class GaussianAttributeEncoder(nn.Module):
    """Image to mean and log-variance of its attribute (``concat``): no normalisation, which would remove the style.

    Args:
        size: of the attribute; official 8.
        width: channels after the first convolution; official 64. They grow by as many with each block.
        blocks: halvings after the first; official 3.
    """

    def __init__(self, size: int = 8, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        widths = [width * (k + 1) for k in range(blocks + 1)]
        self.stem = nn.Conv2d(3, width, 4, 2)
        self.blocks = nn.ModuleList(PoolingBlock(i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.mu = nn.Linear(widths[-1], size)
        self.logvar = nn.Linear(widths[-1], size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to mu and logvar, (N, size) each."""
        h = self.stem(reflect(x, 1))
        for block in self.blocks:
            h = block(h)
        h = leaky_relu(h, 0.2).mean((2, 3))
        return self.mu(h), self.logvar(h)

    def mean(self, x: Tensor) -> Tensor:
        """Attribute without a draw: (N, 3, H, W) to (N, size)."""
        return self(x)[0]


class PoolingBlock(nn.Module):
    """Two pre-activated 3x3 convolutions and a shortcut, then 2x2 mean pooling (BicycleGAN, DRIT).

    Args:
        in_channels: of the input (N, C, H, W); an odd last row or column is dropped.
        out_channels: of the output (N, C', H / 2, W / 2).
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        line = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.get_default_dtype()) / 2
        self.register_buffer("taps", torch.kron(line, line), persistent=False)  # (9, 16): a quarter at four places
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / 2, W / 2)."""
        h = leaky_relu(self.conv1(reflect(leaky_relu(x, 0.2), 1)), 0.2)
        # A 3x3 convolution and the mean of 2x2 of its outputs are one 4x4 convolution of stride 2: 16 products, not 36.
        with torch.autocast(x.device.type, enabled=False):  # sums of weights are rounded once, by the convolution
            kernel = prepared(self.conv2.weight, lambda weight: (weight.flatten(2) @ self.taps).unflatten(2, (4, 4)))
        return conv2d(reflect(h, 1), kernel, self.conv2.bias, stride=2) + self.shortcut(avg_pool2d(x, 2))


class AttributeEncoder(nn.Module):
    """Image to attribute, deterministic (without ``concat``).

    Args:
        size: of the attribute; official 8.
        width: channels after the first convolution, doubled twice; official 64.
        halvings: 4x4 convolutions of stride 2; official 4.
    """

    def __init__(self, size: int = 8, width: int = 64, halvings: int = 4) -> None:
        super().__init__()
        widths = [width * min(2**k, 4) for k in range(halvings + 1)]
        self.stem = nn.Conv2d(3, width, 7)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 4, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1], size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, size)."""
        x = self.stem(reflect(x, 3)).relu_()
        for down in self.downs:
            x = down(reflect(x, 1)).relu_()
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)

    def mean(self, x: Tensor) -> Tensor:
        """The same, under the name that ``GaussianAttributeEncoder`` has for it."""
        return self(x)


class ConcatGenerator(nn.Module):
    """Attribute appended as constant maps at every stage (``concat``): for domains that differ little in shape.

    Reflection padding keeps a constant map constant, so what a convolution makes of it is one number a channel, which
    the instance norm behind it removes. The residual blocks therefore pass the appended z on and are blind to it: they
    run with zeros in its place, once for each content, and z is added to their last channels afterwards. Only the
    upsamplings, whose layer norm keeps differences between channels, and the last layer see it.

    Args:
        width: channels of the content; official 256.
        style: size of the attribute; official 8.
        upsamplings: official 2.
        blocks: residual blocks of a domain, after the one that domains share; official 3.
    """

    def __init__(self, width: int = 256, style: int = 8, upsamplings: int = 2, blocks: int = 3) -> None:
        super().__init__()
        self.style = style
        self.share = ResBlock(width)
        self.trunks = nn.ModuleList(
            nn.Sequential(*(ResBlock(width + style) for _ in range(blocks))) for _ in range(DOMAINS)
        )
        self.renderers = nn.ModuleList(ConcatRenderer(width + style, style, upsamplings) for _ in range(DOMAINS))

    def forward(self, c: Tensor, z: Tensor, domain: int) -> Tensor:
        """(N, width, h, w) and (N, style) to (N, 3, h 2^u, w 2^u) in (-1, 1)."""
        return self.render(self.content(self.share(c), domain), z, domain)

    def content(self, c: Tensor, domain: int) -> Tensor:
        """What ``share`` gave, (N, width, h, w), to (N, width + style, h, w)."""
        return self.trunks[domain](pad(c, (0, 0, 0, 0, 0, self.style)))

    def render(self, h: Tensor, z: Tensor, domain: int) -> Tensor:
        """What ``content`` gave and (N, style) to (N, 3, H, W) in (-1, 1)."""
        return self.renderers[domain](h, z)


class ConcatRenderer(nn.Module):
    """The part of a domain's ``ConcatGenerator`` that sees the attribute.

    Args:
        width: channels in, of which the attribute belongs to the last.
        style: size of the attribute.
        upsamplings: each halves the channels, the appended attribute included.
    """

    def __init__(self, width: int, style: int, upsamplings: int) -> None:
        super().__init__()
        widths = [width]
        for _ in range(upsamplings):
            widths.append((widths[-1] + style) // 2)
        self.ups = nn.ModuleList(Upsampling(i + style, o) for i, o in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1] + style, 3, 1)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(N, width, h, w) and (N, style) to (N, 3, H, W) in (-1, 1)."""
        h = h + pad(z, (h.shape[1] - z.shape[1], 0))[:, :, None, None]
        for up in self.ups:
            h = up(torch.cat((h, z[:, :, None, None].expand(-1, -1, *h.shape[2:])), 1))
        return torch.tanh(pointwise(h, z, self.head))


class MixingGenerator(nn.Module):
    """Attribute mixed in by 1x1 convolutions (without ``concat``), for domains that differ in shape.

    Args:
        width: channels of the content; official 256.
        style: size of the attribute; official 8.
        upsamplings: official 2.
        blocks: mixing blocks, of which domains share none; official 4.
        mlp_width: hidden units of the network from z to one code for each block; official 256.
    """

    def __init__(
        self, width: int = 256, style: int = 8, upsamplings: int = 2, blocks: int = 4, mlp_width: int = 256
    ) -> None:
        super().__init__()
        self.share = nn.Identity()
        self.firsts = nn.ModuleList(nn.Conv2d(width, width, 3) for _ in range(DOMAINS))
        self.renderers = nn.ModuleList(
            MixingRenderer(width, style, upsamplings, blocks, mlp_width) for _ in range(DOMAINS)
        )

    def forward(self, c: Tensor, z: Tensor, domain: int) -> Tensor:
        """(N, width, h, w) and (N, style) to (N, 3, h 2^u, w 2^u) in (-1, 1)."""
        return self.render(self.content(self.share(c), domain), z, domain)

    def content(self, c: Tensor, domain: int) -> Tensor:
        """(N, width, h, w) to (N, 2 width, h, w): the content and its first convolution, which is before z enters."""
        return torch.cat((c, instance_norm(self.firsts[domain](reflect(c, 1)))), 1)

    def render(self, h: Tensor, z: Tensor, domain: int) -> Tensor:
        """What ``content`` gave and (N, style) to (N, 3, H, W) in (-1, 1)."""
        return self.renderers[domain](h, z)


class MixingRenderer(nn.Module):
    """The part of a domain's ``MixingGenerator`` that sees the attribute: see there for the arguments."""

    def __init__(self, width: int, style: int, upsamplings: int, blocks: int, mlp_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(style, mlp_width), nn.ReLU(),
            nn.Linear(mlp_width, mlp_width), nn.ReLU(),
            nn.Linear(mlp_width, width * blocks),
        )  # fmt: skip
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3) for _ in range(blocks - 1))
        self.blocks = nn.ModuleList(MixingBlock(width) for _ in range(blocks))
        widths = [width // 2**k for k in range(upsamplings + 1)]
        self.ups = nn.ModuleList(Upsampling(i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(N, 2 width, h, w) and (N, style) to (N, 3, H, W) in (-1, 1)."""
        x, h = h.chunk(2, 1)
        for k, (block, code) in enumerate(zip(self.blocks, self.mlp(z).chunk(len(self.blocks), 1), strict=True)):
            h = instance_norm(self.convs[k - 1](reflect(x, 1))) if k > 0 else h
            x = block(x, h, code)
        for up in self.ups:
            x = up(x)
        return torch.tanh(self.head(x))


class MixingBlock(nn.Module):
    """x + M2(IN(conv(M1(h, z))), z), where h = IN(conv(x)) and M appends z and applies two 1x1 convolutions with ReLU.

    Args:
        width: channels in and out, and size of the code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix1, self.mix2 = Mixing(width), Mixing(width)
        self.conv = nn.Conv2d(width, width, 3)

    def forward(self, x: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """(N, width, H, W) twice and (N, width) to (N, width, H, W)."""
        return x + self.mix2(instance_norm(self.conv(reflect(self.mix1(h, z), 1))), z)


class Mixing(nn.Module):
    """Append a code as constant maps, 1x1 convolution, ReLU, 1x1 convolution, ReLU.

    Args:
        width: channels in and out, and size of the code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(N, width, H, W) and (N, width) to (N, width, H, W)."""
        return self.narrow(pointwise(h, z, self.wide).relu_()).relu_()


class Upsampling(nn.Module):
    """Transposed 3x3 convolution of stride 2, layer norm over channels and positions, ReLU.

    The norm is torch's (biased variance, eps 1e-5 in the root) with one weight and bias a channel; a group norm of one
    group is the same arithmetic. MUNIT's is another.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output (N, C', 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, 1)
        self.gamma = nn.Parameter(torch.ones(out_channels))
        self.beta = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', 2 H, 2 W)."""
        return group_norm(self.conv(x), 1, self.gamma, self.beta).relu_()


def pointwise(x: Tensor, z: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of x with z appended as constant maps, whose part is one number an image and channel.

    Args:
        x: (N, C, H, W).
        z: (N, D).
        conv: from C + D channels.

    Returns:
        (N, C', H, W).
    """
    of_x, of_z = conv.weight.split((x.shape[1], z.shape[1]), 1)
    return conv2d(x, of_x, conv.bias) + conv2d(z[:, :, None, None], of_z)
