"""One UNIT iteration in the order of computation of the 2018 release: what ``step_time`` measures against.

Written from the description of that release (docs/papers/unit.md), on the parameters of our own module, so that
both steps start from the same weights and, given the same noise, end at the same ones. Every forward pass that the
release repeats is repeated, every layer is the textbook one, and Adam is the loop over parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, instance_norm, interpolate, leaky_relu, pad
from torch.optim import Adam, Optimizer

from interfaces.batch import UnpairedBatch
from lightning_modules.unit import UNIT
from networks.blocks import LayerNorm

Noise = Callable[[Tensor], Tensor]


def optimizers(unit: UNIT) -> tuple[Adam, Adam]:
    """Adam for D and for E and G, one parameter after the other as in 2018."""
    return tuple(
        Adam(
            [p for net in nets for p in net.parameters()],
            unit.lr,
            unit.betas,
            weight_decay=unit.weight_decay,
            foreach=False,
            fused=False,
        )
        for nets in ((unit.discriminators,), tuple(zip_domains(unit)))
    )  # type: ignore[return-value]


def zip_domains(unit: UNIT) -> list[nn.Module]:
    """Encoder and decoder of the first domain, then of the second."""
    return [net for pair in zip(unit.encoders, unit.decoders, strict=True) for net in pair]


def step(unit: UNIT, opt_d: Optimizer, opt_g: Optimizer, batch: UnpairedBatch, noise: Noise) -> tuple[Tensor, Tensor]:
    """One update of D, one of E and G; returns their losses."""
    opt_d.zero_grad()
    loss_d = discriminator_loss(unit, batch.a, batch.b, noise)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = generator_loss(unit, batch.a, batch.b, noise)
    loss_g.backward()
    opt_g.step()
    return loss_d.detach(), loss_g.detach()


def discriminator_loss(unit: UNIT, x_a: Tensor, x_b: Tensor, noise: Noise) -> Tensor:
    """The images are encoded and decoded with a graph that nothing uses."""
    mu_a, mu_b = encode(unit.encoders[0], x_a), encode(unit.encoders[1], x_b)
    x_ba, x_ab = decode(unit.decoders[0], mu_b + noise(mu_b)), decode(unit.decoders[1], mu_a + noise(mu_a))
    loss_a = distance(scores(unit.discriminators[0], x_ba.detach()), 0) + distance(
        scores(unit.discriminators[0], x_a), 1
    )
    loss_b = distance(scores(unit.discriminators[1], x_ab.detach()), 0) + distance(
        scores(unit.discriminators[1], x_b), 1
    )
    return unit.lambda_gan * loss_a + unit.lambda_gan * loss_b


def generator_loss(unit: UNIT, x_a: Tensor, x_b: Tensor, noise: Noise) -> Tensor:
    """The images are encoded again, each code is decoded alone, and D's weights collect gradients."""
    mu_a, mu_b = encode(unit.encoders[0], x_a), encode(unit.encoders[1], x_b)
    z_a, z_b = mu_a + noise(mu_a), mu_b + noise(mu_b)
    x_aa, x_bb = decode(unit.decoders[0], z_a), decode(unit.decoders[1], z_b)
    x_ba, x_ab = decode(unit.decoders[0], z_b), decode(unit.decoders[1], z_a)
    mu_bab, mu_aba = encode(unit.encoders[0], x_ba), encode(unit.encoders[1], x_ab)
    x_aba = decode(unit.decoders[0], mu_aba + noise(mu_aba))
    x_bab = decode(unit.decoders[1], mu_bab + noise(mu_bab))
    adversarial = distance(scores(unit.discriminators[0], x_ba), 1) + distance(scores(unit.discriminators[1], x_ab), 1)
    return (
        unit.lambda_gan * adversarial
        + unit.lambda_recon * ((x_aa - x_a).abs().mean() + (x_bb - x_b).abs().mean())
        + unit.lambda_kl * (mu_a.square().mean() + mu_b.square().mean())
        + unit.lambda_cycle * ((x_aba - x_a).abs().mean() + (x_bab - x_b).abs().mean())
        + unit.lambda_cycle_kl * (mu_aba.square().mean() + mu_bab.square().mean())
    )


def distance(logits: Sequence[Tensor], target: float) -> Tensor:
    """Squared distance of scores from a target, summed over scales."""
    return sum(((score - target).square().mean() for score in logits), torch.zeros((), device=logits[0].device))


def encode(encoder: nn.Module, x: Tensor) -> Tensor:
    """Image to posterior mean."""
    x = instance_norm(padded_conv(x, encoder.stem, 3)).relu()
    for down in encoder.downs:
        x = instance_norm(padded_conv(x, down, 1)).relu()
    for block in encoder.blocks:
        x = residual(x, block)
    return x


def decode(decoder: nn.Module, z: Tensor) -> Tensor:
    """Code to image."""
    for block in decoder.blocks:
        z = residual(z, block)
    for up, norm in zip(decoder.ups, decoder.norms, strict=True):
        z = padded_conv(interpolate(z, scale_factor=2, mode="nearest"), up, 2)
        z = layer_norm(z, norm).relu()
    return padded_conv(z, decoder.head, 3).tanh()


def scores(discriminator: nn.Module, x: Tensor) -> list[Tensor]:
    """Image to one score map a scale."""
    logits = []
    for scale in discriminator.scales:
        h = x
        for conv in scale.layers:
            h = leaky_relu(padded_conv(h, conv, 1), 0.2)
        logits.append(scale.score(h))
        x = avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    return logits


def residual(x: Tensor, block: nn.Module) -> Tensor:
    """Two convolutions and the input."""
    h = instance_norm(padded_conv(x, block.conv1, 1)).relu()
    return x + instance_norm(padded_conv(h, block.conv2, 1))


def padded_conv(x: Tensor, conv: nn.Module, margin: int) -> Tensor:
    """Reflection padding, then the convolution."""
    return conv2d(pad(x, (margin,) * 4, mode="reflect"), conv.weight, conv.bias, conv.stride)


def layer_norm(x: Tensor, norm: LayerNorm) -> Tensor:
    """Mean and unbiased deviation over channels and positions, eps outside the root, one operation after the other."""
    flat = x.flatten(1)
    mean, std = flat.mean(1).view(-1, 1, 1, 1), flat.std(1).view(-1, 1, 1, 1)
    x = (x - mean) / (std + norm.eps)
    return x * norm.gamma.view(1, -1, 1, 1) + norm.beta.view(1, -1, 1, 1)
