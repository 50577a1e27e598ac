"""ALAE: Adversarial Latent Autoencoders (Pidhorskyi, Adjeroh, Doretto, CVPR 2020), the one for MNIST, of MLPs.

The generator of a GAN is cut in two, G(F(z)), and so is the discriminator, D(E(x)). What lies between, w, has no prior
that somebody chose: F learns it. That E says of a generated image the w that it was made of is asked of w itself, not
of pixels, and makes E an encoder and G its decoder. In this order (Algorithm 1):

    I    E, D:  softplus(D(E(G(F(z))))) + softplus(-D(E(x))) + gamma/2 |grad_x D(E(x))|^2
    II   F, G:  softplus(-D(E(G(F(z)))))
    III  E, G:  |F(z) - E(G(F(z)))|^2, a mean over all coordinates

Each step has a new z and the weights of the step before.

Departs from the paper as the authors' release does: III also moves F, through G's input (``reciprocity_moves_f=False``
is the paper's). The release's last configuration for MNIST does not run; the defaults here are those of the branch that
made its numbers, and ``networks.alae`` says what that branch leaves unused. Its average of weights starts at weights of
its own; here at those that are trained. Mixing styles has no effect on MLPs, so that there is none.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator, r1_penalty, slope
from networks.alae import (
    MappingD,
    MappingF,
    MLPEncoder,
    MLPGenerator,
    checked_half_life,
    follow_images_,
    groups_by_rate,
)
from networks.ema import frozen_copy
from networks.freezing import frozen
from networks.lreq_adam import LREQAdam
from networks.processes import mean_over_processes, processes


class ALAE(ManualModule):
    """An autoencoder whose code a GAN learns. Defaults are those of the release's runs on MNIST.

    Args:
        image_size: height and width, 28 or 32; the MLPs see and make 28, resized by nearest pixels. Last configuration:
            32.
        latent: numbers of z and w.
        width: units of the hidden layers of E and G.
        mapping_layers: of F.
        encoder_slopes: of the LeakyReLUs of E. Last configuration: 0.2, 0.2, 0.2.
        generator_slopes: of those of G. Last configuration: 0.2, 0.2.
        unit_range: E and G have pixels in [0, 1]. Last configuration: False, [-1, 1].
        reciprocity_moves_f: III moves F too. Paper: False.
        gamma: weight of the gradient penalty, which is halved.
        psi: how far samples are from the mean of w, in parts of their distance; 1 leaves them.
        lr: of the optimizer, before each layer's rate.
        beta2: of the optimizer.
        half_life: images after which weights count half in the running average that serves outside training.
    """

    w_avg: Tensor

    def __init__(
        self,
        image_size: int = 28,
        latent: int = 50,
        width: int = 1024,
        mapping_layers: int = 6,
        encoder_slopes: tuple[float, float, float] = (0.2, 0.2, 0.01),
        generator_slopes: tuple[float, float] = (0.01, 0.01),
        unit_range: bool = True,
        reciprocity_moves_f: bool = True,
        gamma: float = 10.0,
        psi: float = 0.7,
        lr: float = 0.002,
        beta2: float = 0.99,
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_size, self.latent, self.unit_range, self.psi = image_size, latent, unit_range, psi
        self.reciprocity_moves_f, self.gamma, self.lr, self.beta2 = reciprocity_moves_f, gamma, lr, beta2
        self.half_life = checked_half_life(half_life)
        if image_size not in (28, 32):
            raise ValueError(f"ALAE has MLPs of 28 x 28 pixels, not {image_size}: set model.image_size to 28 or 32.")

        self.f, self.d = MappingF(latent, mapping_layers), MappingD(latent, latent, logit=0)
        self.e = MLPEncoder(latent, width, tuple(encoder_slopes))
        self.g = MLPGenerator(latent, width, tuple(generator_slopes), image_size)
        self.averaged = frozen_copy(self.networks())
        self.register_buffer("w_avg", torch.zeros(latent))

    def networks(self) -> nn.ModuleDict:
        """All four, by name."""
        return nn.ModuleDict({"f": self.f, "g": self.g, "e": self.e, "d": self.d})

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Steps I, II and III."""
        self.check_batch(batch)
        x, (opt_e, opt_g) = self.pixels(batch.image), self.optimizers()
        loss, terms = self.discriminator_loss(x)
        self.descend(opt_e, loss)
        self.log_terms("d", terms)
        loss, terms = self.generator_loss(x)
        self.descend(opt_g, loss)
        self.log_terms("g", terms)
        w, fake = self.generated(x)
        seen = fake.detach().requires_grad_()
        loss = mse_loss(self.e(seen), w.detach())  # III
        self.descend(opt_e, loss)
        self.descend(opt_g, (fake * seen.grad).sum())  # what III says of G and F: E had not moved yet
        self.log_terms("e", {"w": loss})
        for name, net in self.networks().items():
            follow_images_(self.averaged[name], net, len(x) * processes(), self.half_life)
        self.end_iteration()

    def generated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """w = F(z) and G(w), as many as images; the mean of w follows. For III w learns only if it shall."""
        w = self.draw(x)
        return w, self.g(w if self.reciprocity_moves_f else w.detach())

    def draw(self, x: Tensor) -> Tensor:
        """w = F(z) of as many new z as there are images; the mean of w follows."""
        w = self.f(self.noise_like(x.new_empty(len(x), self.latent)))
        self.w_avg.lerp_(mean_over_processes(w.detach().mean(0)), 1 - 0.995)
        return w

    def discriminator_loss(self, x: Tensor) -> tuple[Tensor, Terms]:
        """I, for (N, 1, H, W) pixels."""
        with torch.no_grad():
            fake = self.g(self.draw(x))
        x = x.detach().requires_grad_()
        real_logits, fake_logits = self.d(self.e(x)), self.d(self.e(fake))
        terms = {
            "adv": log_discriminator([real_logits], [fake_logits]),
            "r1": r1_penalty(slope(real_logits, x)),
            "real": real_logits.mean(),
            "fake": fake_logits.mean(),
        }
        return terms["adv"] + self.gamma * terms["r1"], terms

    def generator_loss(self, x: Tensor) -> tuple[Tensor, Terms]:
        """II; of ``x`` only the number of images is used."""
        fake = self.g(self.draw(x))
        with frozen(self.e), frozen(self.d):
            loss = log_generator([self.d(self.e(fake))])
        return loss, {"adv": loss}

    def pixels(self, image: Tensor) -> Tensor:
        """[-1, 1] to what E and G have."""
        return (image + 1) / 2 if self.unit_range else image

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] to w, (N, latent) (Encoder protocol)."""
        return self.averaged["e"](self.pixels(x))

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What E's second layer says of images, (N, width), and w (FeatureEncoder protocol)."""
        return self.averaged["e"].features(self.pixels(x))

    def decode(self, z: Tensor) -> Tensor:
        """w, (N, latent), to (N, 1, image_size, image_size) in [-1, 1] (Decoder protocol)."""
        image = self.averaged["g"](z)
        return (2 * image - 1 if self.unit_range else image).clamp(-1, 1)

    @property
    def latent_spec(self) -> LatentSpec:
        """w, which is what F makes of a normal draw (Decoder protocol)."""
        return LatentSpec(self.latent, prior="mapped", mapping=self.mapped)

    @torch.no_grad()
    def mapped(self, z: Tensor) -> Tensor:
        """F(z) of (N, latent) normal draws on the CPU, there too."""
        return self.averaged["f"](z.to(self.w_avg)).to(z)

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw (n, 1, image_size, image_size) in [-1, 1], of w that are ``psi`` of their distance from the mean."""
        w = self.mapped(torch.randn(n, self.latent, generator=rng)).to(self.w_avg)
        return self.decode(self.w_avg.lerp(w, self.psi))

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstruct."""
        return self.decode(self.encode(batch.image))

    def check_batch(self, batch: ImageBatch) -> None:
        """Refuse images of another shape (ValueError says what to change)."""
        if tuple(batch.image.shape[1:]) != (1, self.image_size, self.image_size):
            raise ValueError(
                f"ALAE takes grey images of {self.image_size} x {self.image_size}, not {tuple(batch.image.shape[1:])}: "
                "set model.image_size to the data's, or data.size and channels to the model's."
            )

    def configure_optimizers(self):
        """One for E and D, one for G and F, at constant rates."""
        pairs = (self.e, self.d), (self.g, self.f)
        return [LREQAdam(groups_by_rate(*pair), self.lr, self.beta2) for pair in pairs], []
