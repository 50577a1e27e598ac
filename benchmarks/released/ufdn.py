"""One UFDN iteration in the order of computation of the release, as ``released.unit`` has UNIT's.

Written from the description of that release (docs/papers/ufdn.md), on the parameters of our own module, so that both
steps start from the same weights and, given the same draws, end at the same ones. The images are encoded for each use
anew, translations once more for nothing, D_v and D_x collect gradients that nobody reads, and Adam is the loop over
parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    batch_norm,
    binary_cross_entropy_with_logits,
    conv2d,
    conv_transpose2d,
    cross_entropy,
    leaky_relu,
    linear,
    mse_loss,
    one_hot,
)
from torch.optim import Adam, Optimizer

from interfaces.batch import DomainBatch, LabelledBatch
from lightning_modules.ufdn import UFDN

Noise = Callable[[Tensor], Tensor]


def optimizers(ufdn: UFDN) -> list[Optimizer]:
    """Adam of each player in the order of their steps, one parameter after the other as in 2018."""
    return [
        Adam(net.parameters(), *ufdn.adam[name], foreach=False, fused=False) for name, net in ufdn.players().items()
    ]


def step(ufdn: UFDN, opts: list[Optimizer], batch: DomainBatch | LabelledBatch, noise: Noise) -> list[Tensor]:
    """One update of D_v, of D_x where there is one, of E and G; returns their losses."""
    opt = dict(zip(ufdn.players(), opts, strict=True))
    x, v = batch.image, one_hot(batch.domain, len(ufdn.domains)).to(batch.image.dtype)
    v_t, losses = v.roll(1 if ufdn.iteration % 2 == 0 else -1, 1), []
    opt["dv"].zero_grad()
    losses.append(domain_loss(ufdn, x, v, noise))
    losses[-1].backward()
    opt["dv"].step()
    if ufdn.critic is not None:
        opt["dx"].zero_grad()
        losses.append(critic_loss(ufdn, x, v, v_t, noise))
        losses[-1].backward()
        opt["dx"].step()
    opt["g"].zero_grad()
    parts: list[Any] = [vae_loss, confusion_loss]
    parts += [pixel_loss] if ufdn.critic is not None else []
    parts += [class_loss] if ufdn.class_head is not None else []
    losses.append(x.new_zeros(()))
    for part in parts:
        loss = part(ufdn, batch, v, v_t, noise)
        loss.backward()
        losses[-1] += loss.detach()
    opt["g"].step()
    return [loss.detach() for loss in losses]


def domain_loss(ufdn: UFDN, x: Tensor, v: Tensor, noise: Noise) -> Tensor:
    """D_v's; the images are encoded with a graph that nothing uses."""
    z, _, _ = encode(ufdn, x, noise)
    return binary_cross_entropy_with_logits(classify(ufdn.domain_classifier, z.detach()), v)


def critic_loss(ufdn: UFDN, x: Tensor, v: Tensor, v_t: Tensor, noise: Noise) -> Tensor:
    """D_x's, of real images, translations and points between them in three passes."""
    real, domain = judge(ufdn.critic, x)
    z, _, _ = encode(ufdn, x, noise)
    fake = decode(ufdn, z, v_t).detach()
    generated, _ = judge(ufdn.critic, fake)
    alpha = torch.special.ndtr(noise(x.new_empty(len(x), 1)))[:, :, None, None]
    between = (alpha * x + (1 - alpha) * fake).requires_grad_()
    score, _ = judge(ufdn.critic, between)
    slopes = torch.autograd.grad(score, between, torch.ones_like(score), create_graph=True)[0]
    penalty = ((slopes.norm(2, dim=1) - 1) ** 2).mean()
    loss = binary_cross_entropy_with_logits(domain, v) + generated.mean() - real.mean()
    return loss + ufdn.now(ufdn.lambda_gp) * penalty


def vae_loss(ufdn: UFDN, batch: DomainBatch | LabelledBatch, v: Tensor, v_t: Tensor, noise: Noise) -> Tensor:
    """L_vae, its divergence summed over everything."""
    z, mu, logvar = encode(ufdn, batch.image, noise)
    recon = mse_loss(decode(ufdn, z, v), batch.image)
    kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())
    return ufdn.now(ufdn.lambda_recon) * recon + ufdn.now(ufdn.lambda_kl) * kl


def confusion_loss(ufdn: UFDN, batch: DomainBatch | LabelledBatch, v: Tensor, v_t: Tensor, noise: Noise) -> Tensor:
    """L_E with the labels flipped."""
    z, _, _ = encode(ufdn, batch.image, noise)
    logits = classify(ufdn.domain_classifier, z)
    return ufdn.now(ufdn.lambda_feat) * binary_cross_entropy_with_logits(logits, 1 - v)


def pixel_loss(ufdn: UFDN, batch: DomainBatch | LabelledBatch, v: Tensor, v_t: Tensor, noise: Noise) -> Tensor:
    """L_G and L_cls for G; translations are encoded, and what comes out is forgotten."""
    z, _, _ = encode(ufdn, batch.image, noise)
    fake = decode(ufdn, z.detach(), v_t)
    encode(ufdn, fake, noise)
    score, domain = judge(ufdn.critic, fake)
    recognised = binary_cross_entropy_with_logits(domain, v_t)
    return -ufdn.now(ufdn.lambda_adv) * score.mean() + ufdn.now(ufdn.lambda_clf) * recognised


def class_loss(ufdn: UFDN, batch: LabelledBatch, v: Tensor, v_t: Tensor, noise: Noise) -> Tensor:
    """Cross-entropy of the labelled images."""
    z, _, _ = encode(ufdn, batch.image, noise)
    return ufdn.lambda_class * cross_entropy(classify(ufdn.class_head, z), batch.label, ignore_index=-1)


def encode(ufdn: UFDN, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """Image to a drawn code, its mean and the logarithm of its variance."""
    encoder = ufdn.encoder
    for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
        x = leaky_relu(normalise(conv2d(x, conv.weight, conv.bias, 2, 1), norm), 0.2)
    mu, logvar = (conv2d(x, conv.weight, conv.bias, 2, 1) for conv in (encoder.mu, encoder.logvar))
    eps = noise(mu.flatten(1)).view(mu.shape)
    return eps * (logvar * 0.5).exp() + mu, mu, logvar


def decode(ufdn: UFDN, z: Tensor, v: Tensor) -> Tensor:
    """Code and domain to image."""
    x = torch.cat((z, v[:, :, None, None].repeat(1, 1, *z.shape[2:])), 1)
    for conv, norm in zip(ufdn.decoder.convs, ufdn.decoder.norms, strict=True):
        x = leaky_relu(normalise(conv_transpose2d(x, conv.weight, conv.bias, 2, 1), norm), 0.2)
    return conv_transpose2d(x, ufdn.decoder.head.weight, ufdn.decoder.head.bias, 2, 1).tanh()


def normalise(x: Tensor, norm: Any) -> Tensor:
    """Batch normalisation in training."""
    norm.num_batches_tracked += 1
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 0.1, 1e-5)


def classify(net: nn.Module, z: Tensor) -> Tensor:
    """Code to logits."""
    h = z.flatten(1)
    for layer in net.layers:
        h = leaky_relu(linear(h, layer.weight, layer.bias), 0.2)
    return linear(h, net.head.weight, net.head.bias)


def judge(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Image to its score and the logits of its domain."""
    for conv in critic.convs:
        x = leaky_relu(conv2d(x, conv.weight, conv.bias, 2, 1), 0.2)
    h = leaky_relu(linear(x.flatten(1), critic.hidden.weight, critic.hidden.bias), 0.2)
    return linear(h, critic.score.weight, critic.score.bias), linear(h, critic.domain.weight, critic.domain.bias)
