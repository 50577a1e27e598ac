"""FactorVAE: Disentangling by Factorising (Kim and Mnih, ICML 2018).

A discriminator D tells codes from codes whose coordinates come each from another image. What it says is how much the
coordinates depend on each other, and the encoder is to lower it:

    L   = E_q(z|x) [- log p(x|z)] + KL(q(z|x) || N(0, I)) + gamma E[log D(z) - log(1 - D(z))]          (Eq. 2, 3)
    L_D = - 1/2 E[log D(z)] - 1/2 E[log(1 - D(shuffled z))]                                          (Algorithm 2)

L moves encoder and decoder alone, L_D moves D alone. The paper shuffles the codes of a second batch: with ``halves`` a
batch is cut in two, of which the second serves for that. Without it the same codes are shuffled, as Locatello et al.
2019 do. disvae (Dubois et al.) cuts it too, has five layers in D, and lets gamma grow (``anneal``); that its D also
moves the encoder is left out. Both gradients are of the weights before the first step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from interfaces.batch import ImageBatch
from lightning_modules.base import Terms
from lightning_modules.beta_vae import BetaVAE, drop_labels
from losses.total_correlation import density_ratio, permutation_discriminator
from networks.init import glorot_, he_uniform_
from networks.precision import wide
from networks.vae import PermutationDiscriminator


class FactorVAE(BetaVAE):
    """A VAE that plays against a discriminator of its codes.

    Args:
        factor_gamma: gamma, weight of the total correlation. Paper: 35 for dSprites; Locatello et al. 10 to 100.
        halves: the second half of a batch is what D sees shuffled.
        dis_width: units of a hidden layer of D.
        dis_layers: hidden layers of D; disvae 5.
        dis_lr: of Adam for D.
        dis_betas: of Adam for D.
        beta: weight of the KL.
        **others: of ``BetaVAE``; ``anneal`` is the ramp of gamma.
    """

    logits: Tensor  # (N, 2), what D said of the last codes

    def __init__(
        self,
        factor_gamma: float = 35.0,
        halves: bool = False,
        dis_width: int = 1000,
        dis_layers: int = 6,
        dis_lr: float = 1e-4,
        dis_betas: tuple[float, float] = (0.5, 0.9),
        beta: float = 1.0,
        **others: Any,
    ) -> None:
        drop_labels(others)
        super().__init__(beta=beta, **others)  # as it stands, so that the command line finds BetaVAE's arguments
        self.factor_gamma, self.halves = factor_gamma, halves
        self.dis_lr, self.dis_betas = dis_lr, tuple(dis_betas)
        self.discriminator = PermutationDiscriminator(self.latent_spec.size, dis_width, dis_layers)
        (glorot_ if others.get("glorot", True) else he_uniform_)(self.discriminator)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step of encoder and decoder, one of D, whose one look at z serves both."""
        opt_vae, opt_dis = self.optimizers()
        x = self.pixels(batch.image)
        if self.halves:
            x, second = self.cut(x)
        mu, logvar = self.encoder(x)
        z = self.draw(mu, logvar)
        recon = self.nll(self.decoder(z), x)
        prior, terms = self.prior_loss(z, mu, logvar)
        with torch.no_grad():
            shuffled = self.shuffled(self.draw(*self.encoder(second)) if self.halves else z)
        loss = permutation_discriminator(self.logits, self.discriminator(shuffled))
        self.descend(opt_vae, recon + prior)
        self.log_terms("vae", {"recon": recon} | terms)
        self.descend(opt_dis, loss)
        self.log_terms("dis", {"adv": loss})
        self.end_iteration()

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """KL + gamma TC."""
        kl, tc = self.kl(wide(mu), wide(logvar)), self.total_correlation(z)
        return self.beta * kl + self.ramp() * self.factor_gamma * tc, {"kl": kl, "tc": tc}

    def total_correlation(self, z: Tensor) -> Tensor:
        """E[log D(z) - log(1 - D(z))], through which z learns and D does not; D's logits are kept for its own loss."""
        seen = z.detach().requires_grad_()
        self.logits = self.discriminator(seen)
        tc = density_ratio(self.logits)
        (slope,) = torch.autograd.grad(tc, seen, retain_graph=True)
        return tc.detach() + ((z - z.detach()) * slope).sum()

    def shuffled(self, z: Tensor) -> Tensor:
        """Each coordinate of (N, latent) codes in another order."""
        order = self.noise_like(z).argsort(0)
        return z.gather(0, order)

    def cut(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both halves of a batch (ValueError where it has none)."""
        if len(x) % 2:
            raise ValueError(f"FactorVAE with halves needs batches of an even number of images, not {len(x)}.")
        first, second = x.chunk(2)
        return first, second

    def configure_optimizers(self):
        """Adam for encoder and decoder, and for D, at constant rates."""
        return [
            super().configure_optimizers(),
            Adam(self.discriminator.parameters(), self.dis_lr, self.dis_betas, fused=True),
        ], []
