"""One DCGAN iteration in the order of computation of PyTorch's example, as ``released.unit`` has UNIT's.

Written from the description of that example (docs/papers/dcgan.md), on the networks of our own module, which are its
own, so that both steps start from the same weights and, given the same draws, end at the same ones. Probabilities stand
for logits, real and generated images have a backward pass each, D collects gradients that nobody reads in G's step, and
Adam is the loop over parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from torch.optim import Adam, Optimizer

from interfaces.batch import ImageBatch
from lightning_modules.dcgan import DCGAN
from networks.precision import wide

Noise = Callable[[Tensor], Tensor]


def optimizers(dcgan: DCGAN) -> list[Optimizer]:
    """Adam of D and of G, one parameter after the other."""
    nets = dcgan.discriminator, dcgan.generator
    return [Adam(net.parameters(), dcgan.lr, dcgan.betas, foreach=False, fused=False) for net in nets]


def step(dcgan: DCGAN, opts: list[Optimizer], batch: ImageBatch, noise: Noise) -> list[Tensor]:
    """One update of D, one of G on the same generated images; returns their losses.

    Args:
        dcgan: without a mode-seeking term and an average, which the example has not.
        opts: of ``optimizers``.
        batch: images in [-1, 1].
        noise: normal draws.
    """
    x, (opt_d, opt_g) = batch.image, opts
    opt_d.zero_grad()
    loss_real = crossed(dcgan, x, 1.0)
    loss_real.backward()
    fake = dcgan.generator(noise(x.new_empty(len(x), dcgan.latent_spec.size)))
    loss_fake = crossed(dcgan, fake.detach(), 0.0)
    loss_fake.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = crossed(dcgan, fake, 1.0)
    loss_g.backward()
    opt_g.step()
    return [(loss_real + loss_fake).detach(), loss_g.detach()]


def crossed(dcgan: DCGAN, x: Tensor, target: float) -> Tensor:
    """Cross-entropy of D's probabilities with a label for all images."""
    p = wide(dcgan.discriminator(x)).sigmoid()
    with torch.autocast(x.device.type, enabled=False):  # which refuses it
        return binary_cross_entropy(p, torch.full_like(p, target))
