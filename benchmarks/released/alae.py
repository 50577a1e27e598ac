"""One iteration of ALAE or StyleALAE in the order of computation of the release, as ``released.unit`` has UNIT's.

Written from the description of that release (docs/papers/alae.md), on the parameters of our own module, so that both
steps start from the same weights and, given the same draws, end at the same ones. Below 128 pixels maps are enlarged
before a convolution and halved after one, kernels are put together at every use, blurs are convolutions, the encoder
takes the statistics of its channels once for w and once to take them out, noise, bias and leaky ReLU come one after the
other, F makes as many rows of w as the largest images need, D collects gradients that nobody reads in step II,
gradients are filled with zeros, the losses are asked of the device, and optimizer and running average are loops over
parameters.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, instance_norm, interpolate, leaky_relu, linear, softplus
from torch.optim import Optimizer

from benchmarks.released.progressive_gan import Noise, doubled, faded, forget
from benchmarks.released.stylegan import blur, enlarged, halved
from interfaces.batch import ImageBatch
from lightning_modules.alae import ALAE
from lightning_modules.style_alae import StyleALAE, weight_of
from networks.alae import groups_by_rate

Generate = Callable[[bool], tuple[Tensor, Tensor]]
Encode = Callable[[Tensor], Tensor]


class LREQAdam(Optimizer):
    """v <- b2 v + (1 - b2) g^2, p <- p - rate lr sqrt(1 - b2^t) g / (sqrt(v) + eps), one parameter after the other.

    Args:
        groups: ``params`` and ``rate``.
        lr: of all groups, before ``rate``.
        beta2: b2.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, beta2: float) -> None:
        super().__init__(groups, {"lr": lr})
        self.beta2 = beta2

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; gradients of zero count."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["t"], state["v"] = 0, torch.zeros_like(p)
                state["t"] += 1
                state["v"].mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
                size = group["rate"] * group["lr"] * math.sqrt(1 - self.beta2 ** state["t"])
                p.addcdiv_(p.grad, state["v"].sqrt().add_(1e-8), value=-size)


def optimizers(alae: ALAE | StyleALAE) -> list[Optimizer]:
    """Of E and D, and of G and F."""
    lr = alae.lrs[0] if isinstance(alae, StyleALAE) else alae.lr
    return [LREQAdam(groups_by_rate(*pair), lr, alae.beta2) for pair in ((alae.e, alae.d), (alae.g, alae.f))]


def step(alae: ALAE | StyleALAE, opts: list[Optimizer], batch: ImageBatch, noise: Noise) -> list[Tensor]:
    """Steps I, II and III; returns their losses, on the host.

    Args:
        alae: ``reciprocity_moves_f``.
        opts: of ``optimizers``.
        batch: images in [-1, 1].
        noise: normal draws.
    """
    opt_e, opt_g = opts
    parts = style_parts(alae, opts, batch, noise) if isinstance(alae, StyleALAE) else mlp_parts(alae, batch, noise)
    x, generate, encode = parts
    x = x.detach().requires_grad_()
    opt_e.zero_grad(set_to_none=False)
    with torch.no_grad():
        _, fake = generate(True)
    real_logits, fake_logits = judge(alae.d, encode(x)), judge(alae.d, encode(fake))
    (slopes,) = torch.autograd.grad(real_logits.sum(), x, create_graph=True)
    penalty = alae.gamma / 2 * slopes.pow(2).sum((1, 2, 3)).mean()
    loss_d = softplus(fake_logits).mean() + softplus(-real_logits).mean() + penalty
    loss_d.backward()
    opt_e.step()

    opt_g.zero_grad(set_to_none=False)
    alae.e.requires_grad_(False)
    loss_g = softplus(-judge(alae.d, encode(generate(True)[1]))).mean()
    loss_g.backward()
    opt_g.step()
    alae.e.requires_grad_(True)

    for opt in opts:
        opt.zero_grad(set_to_none=False)
    w, fake = generate(False)
    loss_w = (encode(fake) - w.detach()).pow(2).mean()
    loss_w.backward()
    for opt in opts:
        opt.step()
    for name, net in alae.networks().items():
        follow_(alae.averaged[name], net, 0.5 ** (len(x) / alae.half_life))
    return [loss.detach().cpu() for loss in (loss_d, loss_g, loss_w)]


def style_parts(
    alae: StyleALAE, opts: list[Optimizer], batch: ImageBatch, noise: Noise
) -> tuple[Tensor, Generate, Encode]:
    """Real images, what makes w and images of new codes, whose styles can be mixed, and what encodes images."""
    phase = alae.phase()
    level, blend = phase.level, weight_of(phase.share)
    if alae.growth.grows_at(alae.iteration):
        forget(opts)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = alae.lrs[min(level, len(alae.lrs) - 1)]
    x = faded(batch.image, blend)

    def rows() -> Tensor:
        return map_code(alae.f, noise(x.new_empty(len(x), alae.latent)))[:, None].repeat(1, alae.layers, 1)

    def generate(mixes: bool) -> tuple[Tensor, Tensor]:
        styles = rows()
        alae.w_avg.lerp_(styles.detach().mean(0).to(alae.w_avg.dtype), 1 - 0.995)
        w, crossover = styles[:, 0], alae.crossover(level) if mixes else None
        if crossover is not None:
            first = torch.arange(alae.layers, device=x.device)[:, None] < crossover
            styles = torch.where(first, styles, rows())
        return w, style_decode(alae.g, styles, level, blend, noise)

    return x, generate, lambda image: style_encode(alae.e, image, level, blend)


def mlp_parts(alae: ALAE, batch: ImageBatch, noise: Noise) -> tuple[Tensor, Generate, Encode]:
    """As ``style_parts``; there is nothing to mix."""
    x = alae.pixels(batch.image)

    def generate(mixes: bool) -> tuple[Tensor, Tensor]:
        w = map_code(alae.f, noise(x.new_empty(len(x), alae.latent)))
        alae.w_avg.lerp_(w.detach().mean(0).to(alae.w_avg.dtype), 1 - 0.995)
        return w, mlp_decode(alae.g, w)

    return x, generate, lambda image: mlp_encode(alae.e, image)


def map_code(f: nn.Module, z: Tensor) -> Tensor:
    """z to w."""
    w = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
    for layer in f.layers:
        w = leaky_relu(linear(w, layer.weight, layer.bias), 0.2)
    return w


def judge(d: nn.Module, w: Tensor) -> Tensor:
    """w to logits."""
    for layer in d.layers:
        w = linear(w, layer.weight, layer.bias)
    return w[:, d.logit]


def mlp_encode(e: nn.Module, x: Tensor) -> Tensor:
    """Image to w."""
    h = interpolate(x, size=(28, 28), mode="nearest").flatten(1)
    for layer, slope in zip(e.layers, e.slopes, strict=True):
        h = leaky_relu(linear(h, layer.weight, layer.bias), slope)
    return h


def mlp_decode(g: nn.Module, w: Tensor) -> Tensor:
    """w to image."""
    for layer, slope in zip(g.layers, (*g.slopes, 1.0), strict=True):
        w = leaky_relu(linear(w, layer.weight, layer.bias), slope)
    return interpolate(w.view(-1, 1, 28, 28), size=(g.size, g.size), mode="nearest")


def style_decode(g: nn.Module, styles: Tensor, level: int, blend: float, noise: Noise) -> Tensor:
    """Styles of all layers to image."""
    x = g.const
    for k in range(level + 1):
        lower, x = x, generator_block(g.blocks[k], x, styles[:, 2 * k], styles[:, 2 * k + 1], noise)
    image = conv2d(x, g.to_rgb[level].weight, g.to_rgb[level].bias)
    if blend == 1:
        return image
    return torch.lerp(doubled(conv2d(lower, g.to_rgb[level - 1].weight, g.to_rgb[level - 1].bias)), image, blend)


def generator_block(block: nn.Module, x: Tensor, first: Tensor, second: Tensor, noise: Noise) -> Tensor:
    """Noise, bias, leaky ReLU, normalisation and style, one after the other, twice."""
    if block.conv_1 is not None:
        x = blur(enlarged(x, block.conv_1.weight))
    x = x + block.noise_weight_1 * noise(x[:, :1])
    x = leaky_relu(x + block.bias_1, 0.2)
    x = modulated(instance_norm(x, eps=1e-8), linear(first, block.style_1.weight, block.style_1.bias))
    x = conv2d(x, block.conv_2.weight, padding=1)
    x = x + block.noise_weight_2 * noise(x[:, :1])
    x = leaky_relu(x + block.bias_2, 0.2)
    return modulated(instance_norm(x, eps=1e-8), linear(second, block.style_2.weight, block.style_2.bias))


def modulated(x: Tensor, style: Tensor) -> Tensor:
    """A scale, from 1 on, and a shift."""
    style = style.view(len(style), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def style_encode(e: nn.Module, x: Tensor, level: int, blend: float) -> Tensor:
    """Image to w."""
    number = len(e.blocks) - 1 - level
    h = from_rgb(e.from_rgb[number], x)
    w = torch.zeros(len(x), e.blocks[0].style_1.out_features, dtype=x.dtype, device=x.device)
    for block in e.blocks[number:]:
        h, first, second = encoder_block(block, h, e.deviation_eps)
        if block is e.blocks[number] and blend != 1:
            first, second = first * blend, second * blend
            h = torch.lerp(from_rgb(e.from_rgb[number + 1], avg_pool2d(x, 2)), h, blend)
        w = w + first + second
    return w


def from_rgb(conv: nn.Module, x: Tensor) -> Tensor:
    """Colours to channels, with two leaky ReLUs."""
    return leaky_relu(leaky_relu(conv2d(x, conv.weight, conv.bias), 0.2), 0.2)


def encoder_block(block: nn.Module, h: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Features of half the size, and what both convolutions say of w."""
    h = leaky_relu(conv2d(h, block.conv_1.weight, padding=1) + block.bias_1, 0.2)
    first = linear(statistics(h, eps), block.style_1.weight, block.style_1.bias)
    h = instance_norm(h, eps=1e-5)
    h = leaky_relu(halved(blur(h), block.conv_2.weight) + block.bias_2, 0.2)
    second = linear(statistics(h, eps), block.style_2.weight, block.style_2.bias)
    return instance_norm(h, eps=1e-5), first, second


def statistics(h: Tensor, eps: float) -> Tensor:
    """Means and deviations of the channels."""
    mean = h.mean((2, 3), keepdim=True)
    deviation = ((h - mean).pow(2).mean((2, 3), keepdim=True) + eps).sqrt()
    return torch.cat((mean, deviation), 1).flatten(1)


@torch.no_grad()
def follow_(average: nn.Module, module: nn.Module, decay: float) -> None:
    """A running average, one parameter after the other."""
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
