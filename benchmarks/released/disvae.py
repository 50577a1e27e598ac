"""One iteration of a beta-VAE, beta-TCVAE or FactorVAE in the order of computation of disvae (Dubois et al. 2019).

Written from the description of that release (docs/papers/beta_vae.md), on the parameters of our own module, so that
both steps start from the same weights and, given the same draws, end at the same ones. Probabilities stand for logits,
mean and variance come from one layer, Adam is the loop over parameters, and FactorVAE sends a whole batch through the
networks for nothing. In two places the release is another mathematics than its papers and our modules:

* beta-TCVAE: ``densities`` counts the weight of an estimate once for each coordinate of the code, in the joint density
  too. With a code of one coordinate that is ours.
* FactorVAE: D's loss goes back through codes that are not detached, so that the encoder also descends ``leak``, which
  teaches it what D wants. ``leaks=False`` leaves that out, and is ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy,
    conv2d,
    conv_transpose2d,
    cross_entropy,
    l1_loss,
    leaky_relu,
    linear,
    mse_loss,
)
from torch.optim import Adam, Optimizer

from interfaces.batch import ImageBatch
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.factor_vae import FactorVAE
from losses.total_correlation import log_densities, stratified_sampling

Noise = Callable[[Tensor], Tensor]


class Densities(NamedTuple):
    """Logarithms of (N,) densities of codes, under the release's names, and of (N, N) weights."""

    log_pz: Tensor
    log_qz: Tensor
    log_prod_qzi: Tensor
    log_q_zCx: Tensor
    log_iw_mat: Tensor


def optimizers(vae: BetaVAE) -> list[Optimizer]:
    """Adam of encoder and decoder and of D where there is one, one parameter after the other."""
    opts: list[Optimizer] = [
        Adam([*vae.encoder.parameters(), *vae.decoder.parameters()], vae.lr, vae.betas, foreach=False, fused=False)
    ]
    if isinstance(vae, FactorVAE):
        opts.append(Adam(vae.discriminator.parameters(), vae.dis_lr, vae.dis_betas, foreach=False, fused=False))
    return opts


def step(vae: BetaVAE, opts: list[Optimizer], batch: ImageBatch, noise: Noise, leaks: bool = True) -> list[Tensor]:
    """One iteration; returns the loss of each optimizer.

    Args:
        vae: BetaVAE, BetaTCVAE with ``stratified`` or FactorVAE with ``halves``, with convolutions and ReLU.
        opts: of ``optimizers``.
        batch: images in [-1, 1].
        noise: normal draws, also those whose order shuffles a coordinate.
        leaks: D's loss of FactorVAE moves the encoder.
    """
    x = vae.pixels(batch.image)
    if isinstance(vae, FactorVAE):
        losses = factor_step(vae, opts, x, noise, leaks)
    else:
        p, z, mu, logvar = forward(vae, x, noise)
        loss = reconstruction(p, x) + regulariser(vae, z, mu, logvar)
        opts[0].zero_grad()
        loss.backward()
        opts[0].step()
        losses = [loss]
    vae.iterations += 1
    return [loss.detach() for loss in losses]


def factor_step(vae: FactorVAE, opts: list[Optimizer], x: Tensor, noise: Noise, leaks: bool) -> list[Tensor]:
    """Both players of FactorVAE; both step when both gradients are there."""
    forward(vae, x, noise)
    first, second = x.split(len(x) // 2)
    p, z, mu, logvar = forward(vae, first, noise)
    d_z = judge(vae.discriminator, z)
    tc = (d_z[:, 0] - d_z[:, 1]).mean()
    loss = reconstruction(p, first) + kl(mu, logvar).sum() + ramp(vae) * vae.factor_gamma * tc
    opts[0].zero_grad()
    loss.backward(retain_graph=True)
    z_other = sample(*encode(vae.encoder, second), noise)
    z_perm = z_other.gather(0, noise(z_other).argsort(0)).detach()
    seen = d_z if leaks else judge(vae.discriminator, z.detach())
    d_perm = judge(vae.discriminator, z_perm)
    d_loss = leak(seen) + 0.5 * cross_entropy(d_perm, torch.ones(len(d_perm), dtype=torch.long, device=x.device))
    opts[1].zero_grad()
    d_loss.backward()
    for opt in opts:
        opt.step()
    return [loss, d_loss]


def leak(d_z: Tensor) -> Tensor:
    """What D's loss says of codes as they are: half their cross-entropy, which the release's encoder descends too."""
    return 0.5 * cross_entropy(d_z, torch.zeros(len(d_z), dtype=torch.long, device=d_z.device))


def reconstruction(p: Tensor, x: Tensor, kind: str = "bernoulli") -> Tensor:
    """Of probabilities, by the release's names, each with its own scale (ValueError for another name)."""
    if kind == "bernoulli":
        return binary_cross_entropy(p, x, reduction="sum") / len(x)
    if kind == "gaussian":
        return mse_loss(255 * p, 255 * x, reduction="sum") / 255 / len(x)
    if kind == "laplace":
        return 3 * l1_loss(p, x, reduction="sum") / len(x)
    raise ValueError(f"rec_dist is {kind!r}, but the release has bernoulli, gaussian and laplace.")


def regulariser(vae: BetaVAE, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Of beta-VAE and beta-TCVAE."""
    if isinstance(vae, BetaTCVAE):
        return stratified_objective(vae, *decomposed(densities(z, mu, logvar, vae.data_size)))
    divergence = kl(mu, logvar).sum()
    if vae.gamma > 0:
        return vae.gamma * (divergence - capacity(0, vae.c_max, vae.iteration + 1, vae.c_steps)).abs()
    return ramp(vae) * (vae.beta * divergence)


def stratified_objective(vae: BetaTCVAE, mi: Tensor, tc: Tensor, dwkl: Tensor, gamma: float = 1.0) -> Tensor:
    """alpha MI + beta TC + gamma dwKL, of which the last grows; ours has no gamma."""
    return vae.alpha * mi + (vae.beta * tc + ramp(vae) * gamma * dwkl)


def densities(z: Tensor, mu: Tensor, logvar: Tensor, images: int) -> Densities:
    """By the release's minibatch stratified sampling: the weight is in each coordinate before they are summed."""
    weights = stratified_sampling(len(z), images, z)
    each = log_densities(z, mu, logvar)
    weighted = each + weights[..., None]
    log_pz = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    own = each.diagonal().sum(0)
    return Densities(log_pz, weighted.sum(2).logsumexp(1), weighted.logsumexp(1).sum(1), own, weights)


def decomposed(q: Densities) -> tuple[Tensor, Tensor, Tensor]:
    """MI, TC and dwKL."""
    return (q.log_q_zCx - q.log_qz).mean(), (q.log_qz - q.log_prod_qzi).mean(), (q.log_prod_qzi - q.log_pz).mean()


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Of each coordinate, mean over images."""
    return 0.5 * (-1 - logvar + mu.pow(2) + logvar.exp()).mean(0)


def ramp(vae: BetaVAE) -> float:
    """Of the weight that grows from 0 to 1 in ``anneal`` iterations."""
    return capacity(0, 1, vae.iteration + 1, vae.anneal)


def capacity(initial: float, final: float, t: int, steps: float) -> float:
    """On the line from ``initial`` to ``final`` in iteration t = 1, 2, ... of so many, of which there may be none."""
    return min(initial + (final - initial) * t / steps, final) if steps > 0 else final


def forward(vae: BetaVAE, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image to probabilities, code, mean and logarithm of the variance."""
    mu, logvar = encode(vae.encoder, x)
    z = sample(mu, logvar, noise)
    return decode(vae.decoder, z), z, mu, logvar


def sample(mu: Tensor, logvar: Tensor, noise: Noise) -> Tensor:
    """A code."""
    return mu + (0.5 * logvar).exp() * noise(mu)


def encode(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Image to mean and logarithm of the variance, by turns in one layer."""
    for conv in encoder.convs:
        x = conv2d(x, conv.weight, conv.bias, 2, 1).relu()
    h = x.flatten(1)
    for layer in encoder.layers:
        h = linear(h, layer.weight, layer.bias).relu()
    heads = (encoder.mu, encoder.logvar)
    weight = torch.stack([head.weight for head in heads], 1).flatten(0, 1)
    bias = torch.stack([head.bias for head in heads], 1).flatten()
    mu, logvar = linear(h, weight, bias).view(len(h), -1, 2).unbind(-1)
    return mu, logvar


def decode(decoder: nn.Module, z: Tensor) -> Tensor:
    """Code to probabilities."""
    for layer in decoder.layers:
        z = linear(z, layer.weight, layer.bias).relu()
    h = z.unflatten(1, decoder.map_shape)
    for conv in decoder.convs[:-1]:
        h = conv_transpose2d(h, conv.weight, conv.bias, 2, 1).relu()
    return conv_transpose2d(h, decoder.convs[-1].weight, decoder.convs[-1].bias, 2, 1).sigmoid()


def judge(discriminator: nn.Module, z: Tensor) -> Tensor:
    """Code to logits."""
    for layer in discriminator.layers:
        z = leaky_relu(linear(z, layer.weight, layer.bias), 0.2)
    return linear(z, discriminator.head.weight, discriminator.head.bias)
