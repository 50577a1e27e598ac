"""One StyleGAN iteration in the order of computation of rosinality's release, as ``released.unit`` has UNIT's.

Written from the description of that release (docs/papers/stylegan.md), on the parameters of our own module, so that
both steps start from the same weights and, given the same draws, end at the same ones. Below 128 pixels maps are
enlarged before a convolution and halved after one, weights are scaled at every use, blurs are convolutions, R1 has a
backward pass of its own, each code is mapped alone, whether to mix is asked of the host, and Adam and the running
average are loops over parameters. What our module has otherwise than the release is as in our module.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, instance_norm, leaky_relu, pad, softplus
from torch.optim import Adam, Optimizer

from benchmarks.released.progressive_gan import (
    Noise,
    doubled,
    faded,
    follow_,
    forget,
    scaled_conv,
    scaled_linear,
    verdict,
)
from interfaces.batch import ImageBatch
from interfaces.growth import Phase
from lightning_modules.stylegan import StyleGAN

FUSED = 128  # from so many pixels on resizing and convolution are one step in the release too


def optimizers(gan: StyleGAN) -> list[Optimizer]:
    """Adam of D and of G, one parameter after the other."""
    nets = gan.discriminator, gan.generator
    return [Adam(net.parameters(), gan.lrs[0], gan.betas, foreach=False, fused=False) for net in nets]


def step(gan: StyleGAN, opts: list[Optimizer], batch: ImageBatch, noise: Noise) -> list[Tensor]:
    """One update of D, one of G; returns their losses."""
    phase, (opt_d, opt_g) = gan.phase(gan.iteration), opts
    if gan.growth.grows_at(gan.iteration):
        forget(opts)
    for opt in opts:
        opt.param_groups[0]["lr"] = gan.lrs[0] * gan.rate(gan.iteration)
    x = faded(batch.image, phase.share).detach().requires_grad_()
    opt_d.zero_grad()
    real = judge(gan.discriminator, x, phase)
    loss_real = softplus(-real).mean()
    loss_real.backward(retain_graph=True)
    (slopes,) = torch.autograd.grad(real.sum(), x, create_graph=True)
    penalty = gan.gamma / 2 * slopes.flatten(1).pow(2).sum(1).mean()
    penalty.backward()
    with torch.no_grad():
        fake = generate(gan, len(x), x, phase, noise)
    loss_fake = softplus(judge(gan.discriminator, fake, phase)).mean()
    loss_fake.backward()
    opt_d.step()
    opt_g.zero_grad()
    gan.discriminator.requires_grad_(False)
    loss_g = softplus(-judge(gan.discriminator, generate(gan, len(x), x, phase, noise), phase)).mean()
    loss_g.backward()
    opt_g.step()
    gan.discriminator.requires_grad_(True)
    follow_(gan.averaged, gan.generator, 0.5 ** (len(x) / gan.half_life), gan.iteration)
    return [(loss_real + penalty + loss_fake).detach(), loss_g.detach()]


def generate(gan: StyleGAN, n: int, like: Tensor, phase: Phase, noise: Noise) -> Tensor:
    """Images of new codes; with some luck the upper levels have the style of another."""
    luck = torch.special.ndtr(noise(like.new_empty(1, 2)))[0].tolist()
    z, other = (noise(like.new_empty(n, gan.latent)) for _ in range(2))
    styles = [map_code(gan.generator.mapping, z)] * gan.layers
    if luck[0] < gan.mixing:
        first = 2 * (min(int(luck[1] * phase.level), max(phase.level - 1, 0)) + 1)
        styles[first:] = [map_code(gan.generator.mapping, other)] * (gan.layers - first)
    return synthesize(gan.generator.synthesis, styles, phase, noise)


def map_code(mapping: nn.Module, z: Tensor) -> Tensor:
    """z to w."""
    w = z / (z.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in mapping.layers:
        w = leaky_relu(scaled_linear(layer, w), 0.2)
    return w


def synthesize(net: nn.Module, styles: list[Tensor], phase: Phase, noise: Noise) -> Tensor:
    """Styles of all layers to image."""
    h = below = net.constant.repeat(len(styles[0]), 1, 1, 1)
    for k in range(phase.level + 1):
        below = h
        if k > 0:
            h = blur(enlarged(h, net.up[k - 1].weight * net.up[k - 1].scale, net.up[k - 1].bias))
        h = finished(net, h, styles[2 * k], 2 * k, noise)
        h = finished(net, scaled_conv(net.convs[k], h), styles[2 * k + 1], 2 * k + 1, noise)
    x = scaled_conv(net.to_rgb[phase.level], h)
    if phase.share < 1:
        x = (1 - phase.share) * doubled(scaled_conv(net.to_rgb[phase.level - 1], below)) + phase.share * x
    return x


def finished(net: nn.Module, h: Tensor, w: Tensor, layer: int, noise: Noise) -> Tensor:
    """Noise, leaky ReLU, normalisation and style, one after the other."""
    strength = net.noises[layer]
    h = leaky_relu(h + strength.weight * strength.scale * noise(h[:, :1]), 0.2)
    scale, shift = scaled_linear(net.styles[layer], w)[:, :, None, None].chunk(2, 1)
    return (1 + scale) * instance_norm(h, eps=1e-5) + shift


def judge(net: nn.Module, x: Tensor, phase: Phase) -> Tensor:
    """Image to score."""
    h = leaky_relu(scaled_conv(net.from_rgb[phase.level], x), 0.2)
    for k in range(phase.level, 0, -1):
        h = blur(leaky_relu(scaled_conv(net.convs[k - 1], h), 0.2))
        h = leaky_relu(halved(h, net.down[k - 1].weight * net.down[k - 1].scale, net.down[k - 1].bias), 0.2)
        if k == phase.level and phase.share < 1:
            lower = leaky_relu(scaled_conv(net.from_rgb[k - 1], avg_pool2d(x, 2)), 0.2)
            h = (1 - phase.share) * lower + phase.share * h
    return verdict(net.verdict, h)


def enlarged(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Twice the size, then a convolution; one of 4x4 for larger maps."""
    if 2 * x.shape[-1] < FUSED:
        return conv2d(doubled(x), weight, bias, padding=1)
    return conv_transpose2d(x, four_copies(weight).flip(2, 3).transpose(0, 1), bias, stride=2, padding=1)


def halved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution, then half the size; one of 4x4 for larger maps."""
    if x.shape[-1] < FUSED:
        return avg_pool2d(conv2d(x, weight, bias, padding=1), 2)
    return conv2d(x, four_copies(weight) / 4, bias, stride=2, padding=1)


def four_copies(weight: Tensor) -> Tensor:
    """A kernel of 3x3 and a box of 2x2 in one."""
    wide = pad(weight, (1, 1, 1, 1))
    return wide[..., 1:, 1:] + wide[..., 1:, :-1] + wide[..., :-1, 1:] + wide[..., :-1, :-1]


def blur(x: Tensor) -> Tensor:
    """[1, 2, 1] x [1, 2, 1] / 16 over each channel by a convolution, zeros around."""
    return conv2d(x, blur_filter(x.shape[1], x.dtype, x.device), padding=1, groups=x.shape[1])


@functools.cache
def blur_filter(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(channels, 1, 3, 3), a buffer in the release."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=dtype, device=device) / 4
    return (line[:, None] * line).repeat(channels, 1, 1, 1)
