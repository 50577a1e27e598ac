"""A GAN and an encoder that is regressed on its codes: the latent regressor of Donahue et al. (BiGAN, ICLR 2017).

What BiGAN and ALAE are held against. G makes an image of a normal z, D tells it from real ones, and E, which neither of
them knows, learns to say of a generated image the z that it was made of:

    D:  softplus(D(G(z))) + softplus(-D(x)) + gamma/2 |grad_x D(x)|^2
    G:  softplus(-D(G(z)))
    E:  |z - E(G(z))|^2, a mean over all coordinates, on the images of G's step

Networks, penalty and optimizer are those of ``lightning_modules.alae``, so that the two compare: D is ALAE's E with one
output in place of the code, E is linear in the end because z is normal. Donahue et al. have other networks, z uniform
and no penalty; they train E beside the GAN, as here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator, r1_penalty, slope
from networks.alae import MLPEncoder, MLPGenerator, checked_half_life, follow_images_, groups_by_rate
from networks.ema import frozen_copy
from networks.freezing import frozen
from networks.lreq_adam import LREQAdam
from networks.processes import processes

LINEAR = 1.0  # slope of a LeakyReLU that is none


class LatentRegressor(ManualModule):
    """A GAN whose generator is inverted afterwards. Defaults are those of ALAE on MNIST.

    Args:
        latent: coordinates of z. Donahue et al. on MNIST: 50.
        width: units of the hidden layers of all three.
        slopes: of the hidden LeakyReLUs of D and E.
        generator_slopes: of those of G.
        gamma: weight of the gradient penalty, which is halved.
        lr: of the optimizers, before each layer's rate.
        beta2: of the optimizers.
        half_life: images after which weights count half in the running average that serves outside training.
    """

    def __init__(
        self,
        latent: int = 50,
        width: int = 1024,
        slopes: tuple[float, float] = (0.2, 0.2),
        generator_slopes: tuple[float, float] = (0.01, 0.01),
        gamma: float = 10.0,
        lr: float = 0.002,
        beta2: float = 0.99,
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latent_spec, self.gamma = LatentSpec(latent), gamma
        self.lr, self.beta2, self.half_life = lr, beta2, checked_half_life(half_life)
        self.g = MLPGenerator(latent, width, tuple(generator_slopes), 28)
        self.d = MLPEncoder(1, width, (*slopes, LINEAR))
        self.e = MLPEncoder(latent, width, (*slopes, LINEAR))
        self.averaged = frozen_copy(self.served())

    def served(self) -> nn.ModuleDict:
        """What serves outside training, by name."""
        return nn.ModuleDict({"g": self.g, "e": self.e})

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """D, G, E."""
        self.check_batch(batch)
        x, (opt_d, opt_g, opt_e) = self.pixels(batch.image), self.optimizers()
        loss, terms = self.discriminator_loss(x)
        self.descend(opt_d, loss)
        self.log_terms("d", terms)
        z = self.draw(x)
        fake = self.g(z)
        with frozen(self.d):
            loss = log_generator([self.d(fake)])
        self.descend(opt_g, loss)
        self.log_terms("g", {"adv": loss})
        loss = mse_loss(self.e(fake.detach()), z)
        self.descend(opt_e, loss)
        self.log_terms("e", {"z": loss})
        for name, net in self.served().items():
            follow_images_(self.averaged[name], net, len(x) * processes(), self.half_life)
        self.end_iteration()

    def draw(self, x: Tensor) -> Tensor:
        """As many z as there are images."""
        return self.noise_like(x.new_empty(len(x), self.latent_spec.size))

    def discriminator_loss(self, x: Tensor) -> tuple[Tensor, Terms]:
        """D's, for (N, 1, 28, 28) in [0, 1]."""
        with torch.no_grad():
            fake = self.g(self.draw(x))
        x = x.detach().requires_grad_()
        real_logits, fake_logits = self.d(x), self.d(fake)
        terms = {
            "adv": log_discriminator([real_logits], [fake_logits]),
            "r1": r1_penalty(slope(real_logits, x)),
            "real": real_logits.mean(),
            "fake": fake_logits.mean(),
        }
        return terms["adv"] + self.gamma * terms["r1"], terms

    @staticmethod
    def pixels(image: Tensor) -> Tensor:
        """[-1, 1] to [0, 1]."""
        return (image + 1) / 2

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) in [-1, 1] to z, (N, latent) (Encoder protocol)."""
        return self.averaged["e"](self.pixels(x))

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What E's second layer says of images, (N, width), and z (FeatureEncoder protocol)."""
        return self.averaged["e"].features(self.pixels(x))

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, 1, 28, 28) in [-1, 1] (Decoder protocol)."""
        return (2 * self.averaged["g"](z) - 1).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw (n, 1, 28, 28) in [-1, 1] (Generator protocol)."""
        return self.decode(self.latent_spec.draw(n, rng).to(self.device))

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstruct."""
        return self.decode(self.encode(batch.image))

    def check_batch(self, batch: ImageBatch) -> None:
        """Refuse images of another shape (ValueError says what to change)."""
        if tuple(batch.image.shape[1:]) != (1, 28, 28):
            raise ValueError(
                f"LatentRegressor takes grey images of 28 x 28, not {tuple(batch.image.shape[1:])}: give data such as "
                "datamodules.factor_digits.SmallDigits."
            )

    def configure_optimizers(self):
        """One for each, at a constant rate."""
        return [LREQAdam(groups_by_rate(net), self.lr, self.beta2) for net in (self.d, self.g, self.e)], []
