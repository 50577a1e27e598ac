"""The plain autoencoder: a code of few numbers from which an image comes back, by the squared error alone.

    E, G:  |x - G(E(x))|^2, a sum over pixels, a mean over images

What ALAE is held against; networks and optimizer are those of ``lightning_modules.alae``, of which E is linear in the
end here. An autoencoder has no distribution of codes. To draw some, the running mean and variance of each coordinate of
the codes of training images are kept, and samples are images of normal codes of these, as if coordinates were
independent, which nothing has asked of them.
"""

import torch
from torch import Tensor, nn

from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule
from losses.reconstruction import squared_error
from networks.alae import MLPEncoder, MLPGenerator, checked_half_life, follow_images_, groups_by_rate
from networks.ema import frozen_copy
from networks.lreq_adam import LREQAdam
from networks.processes import mean_over_processes, processes

LINEAR = 1.0  # slope of a LeakyReLU that is none


class Autoencoder(ManualModule):
    """Deterministic. Defaults are the sizes of ALAE on MNIST.

    Args:
        latent: numbers of the code.
        width: units of the hidden layers of E and G.
        slopes: of the hidden LeakyReLUs of E.
        generator_slopes: of those of G.
        lr: of the optimizer, before each layer's rate.
        beta2: of the optimizer.
        half_life: images after which weights count half in the running average that serves outside training.
    """

    code_mean: Tensor
    code_square: Tensor

    def __init__(
        self,
        latent: int = 50,
        width: int = 1024,
        slopes: tuple[float, float] = (0.2, 0.2),
        generator_slopes: tuple[float, float] = (0.01, 0.01),
        lr: float = 0.002,
        beta2: float = 0.99,
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latent, self.lr, self.beta2, self.half_life = latent, lr, beta2, checked_half_life(half_life)
        self.e = MLPEncoder(latent, width, (*slopes, LINEAR))
        self.g = MLPGenerator(latent, width, tuple(generator_slopes), 28)
        self.averaged = frozen_copy(self.networks())
        self.register_buffer("code_mean", torch.zeros(latent))
        self.register_buffer("code_square", torch.ones(latent))

    def networks(self) -> nn.ModuleDict:
        """Both, by name."""
        return nn.ModuleDict({"e": self.e, "g": self.g})

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step."""
        self.check_batch(batch)
        x = self.pixels(batch.image)
        code = self.e(x)
        loss = squared_error(self.g(code), x)
        self.descend(self.optimizers(), loss)
        self.log_terms("ae", {"recon": loss})
        seen = mean_over_processes(torch.stack((code.detach(), code.detach().square())).mean(1))
        for average, new in zip((self.code_mean, self.code_square), seen, strict=True):
            average.copy_(torch.where(new.isfinite(), average.lerp(new, 1 - 0.995), average))
        for name, net in self.networks().items():
            follow_images_(self.averaged[name], net, len(x) * processes(), self.half_life)
        self.end_iteration()

    @staticmethod
    def pixels(image: Tensor) -> Tensor:
        """[-1, 1] to [0, 1]."""
        return (image + 1) / 2

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) in [-1, 1] to the code, (N, latent) (Encoder protocol)."""
        return self.averaged["e"](self.pixels(x))

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What E's second layer says of images, (N, width), and the code (FeatureEncoder protocol)."""
        return self.averaged["e"].features(self.pixels(x))

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, 1, 28, 28) in [-1, 1] (Decoder protocol)."""
        return (2 * self.averaged["g"](z) - 1).clamp(-1, 1)

    @property
    def latent_spec(self) -> LatentSpec:
        """The code, drawn with the mean and variance of each coordinate in training (Decoder protocol)."""
        return LatentSpec(self.latent, prior="mapped", mapping=self.mapped)

    @torch.no_grad()
    def mapped(self, z: Tensor) -> Tensor:
        """(N, latent) normal draws on the CPU to codes there."""
        deviation = (self.code_square - self.code_mean.square()).clamp_min(0).sqrt()
        return (self.code_mean + deviation * z.to(deviation)).to(z)

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
                f"Autoencoder takes grey images of 28 x 28, not {tuple(batch.image.shape[1:])}: give data such as "
                "datamodules.factor_digits.SmallDigits."
            )

    def configure_optimizers(self):
        """One at a constant rate."""
        return LREQAdam(groups_by_rate(self.e, self.g), self.lr, self.beta2)
