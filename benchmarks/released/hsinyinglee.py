"""Layers and networks as the releases of DRIT and MDMM compute them, on the parameters of our own modules.

Written from the descriptions of both (docs/papers/drit.md, docs/papers/drit_multidomain.md). In which order a release
calls them, its own file here says.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    avg_pool2d,
    binary_cross_entropy,
    conv2d,
    instance_norm,
    layer_norm,
    leaky_relu,
    pad,
)
from torch.optim import Adam

from lightning_modules.drit import DRIT
from lightning_modules.drit_multidomain import MultiDomainDRIT

Noise = Callable[[Tensor], Tensor]


def adams(nets: dict[str, nn.Module], ours: DRIT | MultiDomainDRIT) -> dict[str, Adam]:
    """One Adam a network, with the rates of our module, one parameter after the other as then."""
    return {
        name: Adam(
            net.parameters(),
            ours.lr * (ours.content_lr if name == "disContent" else 1),
            ours.betas,
            weight_decay=ours.weight_decay,
            foreach=False,
            fused=False,
        )
        for name, net in nets.items()
    }


def content_of(x: Tensor, trunk: nn.Module, blocks: Iterable[nn.Module]) -> Tensor:
    """Image to content by a trunk's stem and halvings, then residual blocks."""
    x = leaky_relu(padded_conv(x, trunk.stem, 3), 0.01)
    for down in trunk.downs:
        x = instance_norm(padded_conv(x, down, 1)).relu()
    for block in blocks:
        x = residual(x, block)
    return x


def attribute_of(x: Tensor, encoder: nn.Module) -> Tensor:
    """Image to attribute by an encoder without ``concat``."""
    x = padded_conv(x, encoder.stem, 3).relu()
    for down in encoder.downs:
        x = padded_conv(x, down, 1).relu()
    return encoder.head(adaptive_avg_pool2d(x, 1)).flatten(1)


def posterior_of(x: Tensor, encoder: nn.Module) -> tuple[Tensor, Tensor]:
    """Image to mean and log-variance of the attribute by an encoder with ``concat``."""
    x = padded_conv(x, encoder.stem, 1)
    for block in encoder.blocks:
        h = padded_conv(leaky_relu(x, 0.2), block.conv1, 1)
        h = avg_pool2d(padded_conv(leaky_relu(h, 0.2), block.conv2, 1), 2)
        x = h + block.shortcut(avg_pool2d(x, 2))
    x = adaptive_avg_pool2d(leaky_relu(x, 0.2), 1).flatten(1)
    return encoder.mu(x), encoder.logvar(x)


def concat_image(x: Tensor, z: Tensor, trunk: Iterable[nn.Module], renderer: nn.Module) -> Tensor:
    """Features that already have the attribute appended, and the attribute, to image."""
    for block in trunk:
        x = residual(x, block)
    for up in renderer.ups:
        x = upsampled(append(x, z), up)
    return renderer.head(append(x, z)).tanh()


def mixing_image(x: Tensor, z: Tensor, first: nn.Module, renderer: nn.Module) -> Tensor:
    """Content and what the blocks' codes are computed of to image; ``first`` is the first block's convolution."""
    codes = renderer.mlp(z).chunk(len(renderer.blocks), 1)
    for conv, block, code in zip((first, *renderer.convs), renderer.blocks, codes, strict=True):
        h = mixed(instance_norm(padded_conv(x, conv, 1)), code, block.mix1)
        x = x + mixed(instance_norm(padded_conv(h, block.conv, 1)), code, block.mix2)
    for up in renderer.ups:
        x = upsampled(x, up)
    return renderer.head(x).tanh()


def content_scores(discriminator: nn.Module, c: Tensor) -> Tensor:
    """Content to scores."""
    for conv in discriminator.layers:
        c = leaky_relu(padded_conv(c, conv, 1), 0.01)
    return discriminator.score(leaky_relu(padded_conv(c, discriminator.last, 0), 0.01))


def entropy(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of probabilities."""
    p = logits.sigmoid()
    return binary_cross_entropy(p, torch.full_like(p, target))


def append(x: Tensor, z: Tensor) -> Tensor:
    """A vector as constant maps behind the channels of x."""
    return torch.cat((x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])), 1)


def mixed(h: Tensor, z: Tensor, mixing: nn.Module) -> Tensor:
    """Two 1x1 convolutions of features and vector."""
    return mixing.narrow(mixing.wide(append(h, z)).relu()).relu()


def upsampled(x: Tensor, up: nn.Module) -> Tensor:
    """Transposed convolution, layer norm, ReLU."""
    x = up.conv(x)
    gamma, beta = (weight[:, None, None].expand(x.shape[1:]) for weight in (up.gamma, up.beta))
    return layer_norm(x, x.shape[1:], gamma, beta, 1e-5).relu()


def residual(x: Tensor, block: nn.Module) -> Tensor:
    """Two convolutions and the input."""
    h = instance_norm(padded_conv(x, block.conv1, 1)).relu()
    return x + instance_norm(padded_conv(h, block.conv2, 1))


def padded_conv(x: Tensor, conv: nn.Module, margin: int) -> Tensor:
    """Reflection padding, then the convolution."""
    x = pad(x, (margin,) * 4, mode="reflect") if margin else x
    return conv2d(x, conv.weight, conv.bias, conv.stride)
