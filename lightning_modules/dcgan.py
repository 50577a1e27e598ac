"""DCGAN: Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz, Chintala, ICLR 2016).

A generator G makes images of normal codes z, a discriminator D tells them from real ones, and both are nothing but
strided convolutions with batch normalisation:

    L_D = - E[log D(x)] - E[log(1 - D(G(z)))]
    L_G = - E[log D(G(z))] + lambda_ms L_ms

Networks, sizes and order are those of PyTorch's example: one step of D, then one of G on the same generated images,
which the new D judges; D always sees real and generated images apart, each normalised by statistics of its own. The
paper's networks are twice as wide (``width`` 128), its batches have 128 images and its codes are uniform. L_ms is not
of the paper: it asks images of the first and second half of a batch to differ as their codes do (Mao et al., *Mode
Seeking GANs*, CVPR 2019). Nor is ``ema``, an average of G that serves outside training.

Departs from the example in the loss alone, which is computed from scores before the sigmoid: the same number where the
sigmoid has not rounded to 0 or 1.
"""

import torch
from torch import Tensor
from torch.optim import Adam

from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator
from losses.diversity import mode_seeking
from networks.batch_norm import only_finite_statistics
from networks.dcgan import Discriminator, Generator
from networks.ema import follow_, frozen_copy


class DCGAN(ManualModule):
    """Images of normal codes. Defaults are those of PyTorch's example.

    Args:
        image_size: height and width, a power of 2 from 8 on.
        channels: of the images.
        latent: coordinates of z.
        width: channels at half the height, which double towards 4x4, of G and of D. Paper: 128.
        lambda_ms: weight of the mode-seeking term; 0 leaves it out. MSGAN: 1.
        lr: of Adam, for both.
        betas: of Adam, for both.
        ema: decay of a running average of G, which serves outside training; 0 keeps none.

    Raises:
        ValueError: another ``image_size``.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        latent: int = 100,
        width: int = 64,
        lambda_ms: float = 0.0,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = image_size.bit_length() - 3
        if layers < 1 or image_size != 4 * 2**layers:
            raise ValueError(f"DCGAN doubles 4x4 a few times, but image_size is {image_size}: give 8, 16, 32, 64, ...")
        self.image_size, self.latent_spec, self.lambda_ms = image_size, LatentSpec(latent), lambda_ms
        self.lr, self.betas, self.ema = lr, tuple(betas), ema
        widths = [width * 2**k for k in range(layers)]
        self.generator = Generator(latent, widths[::-1], channels)
        self.discriminator = Discriminator(widths, channels)
        self.averaged = frozen_copy(self.generator) if ema > 0 else None

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step of D, then one of G on the same generated images."""
        x = batch.image
        self.check_batch(x)
        opt_d, opt_g = self.optimizers()
        with only_finite_statistics(self):
            z = self.noise_like(x.new_empty(len(x), self.latent_spec.size))
            fake = self.generator(z)
            with self.toggled_optimizer(opt_d):
                loss, terms, scores = self.discriminator_loss(x, fake.detach())
                self.descend(opt_d, loss)
            self.log_terms("d", terms)
            self.log_terms("score", scores)
            with self.toggled_optimizer(opt_g):
                loss, terms = self.generator_loss(z, fake)
                self.descend(opt_g, loss)
            self.log_terms("g", terms)
        if self.averaged is not None:
            follow_(self.averaged, self.generator, self.ema, self.iteration)
        self.end_iteration()

    def discriminator_loss(self, x: Tensor, fake: Tensor) -> tuple[Tensor, Terms, Terms]:
        """L_D of as many real images as generated ones; beside it the mean scores."""
        real, generated = self.discriminator(x), self.discriminator(fake)
        loss = log_discriminator([real], [generated])
        return loss, {"adv": loss}, {"real": real.mean(), "fake": generated.mean()}

    def generator_loss(self, z: Tensor, fake: Tensor) -> tuple[Tensor, Terms]:
        """L_G of (N, C, H, W) images, through which G learns, and their (N, latent) codes."""
        terms = {"adv": log_generator([self.discriminator(fake)])}
        loss = terms["adv"]
        if self.lambda_ms > 0:
            terms["ms"] = mode_seeking(*fake.chunk(2), *z.chunk(2))
            loss = loss + self.lambda_ms * terms["ms"]
        return loss, terms

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, C, H, W) in [-1, 1]; in eval mode no image depends on the others (Decoder protocol)."""
        return (self.averaged or self.generator)(z)

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """``n`` images of codes that ``rng`` draws (Generator protocol)."""
        return self.decode(self.latent_spec.draw(n, rng).to(self.device))

    def check_batch(self, x: Tensor) -> None:
        """Refuse what training cannot use (ValueError says what to change)."""
        if tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"DCGAN trains on images of {self.image_size} x {self.image_size}, not {x.shape[-2]} x {x.shape[-1]}: "
                "set model.image_size to the data's size."
            )
        if self.lambda_ms > 0 and len(x) % 2:
            raise ValueError(
                f"DCGAN with lambda_ms compares the halves of a batch, but one has {len(x)} images: make "
                "data.batch_size even."
            )

    def configure_optimizers(self):
        """Adam for each player, at a constant rate."""
        nets = self.discriminator, self.generator
        return [Adam(net.parameters(), self.lr, self.betas, fused=True) for net in nets], []
