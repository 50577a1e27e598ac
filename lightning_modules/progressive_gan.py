"""Progressive GAN: Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2018).

Generator G and critic D begin with images of 4x4. Again and again a resolution is added, fades in over some images and
is trained for some more:

    G: (1 - a) enlarged rgb of the level below + a rgb of the level       D: the same backwards, and real images alike
    L_D = E[D(G(z))] - E[D(x)] + lambda_gp E[(|grad D(xhat)| - gamma)^2] / gamma^2 + drift E[D(x)^2]
    L_G = - E[D(G(z))]

xhat lie between real and generated images, all of them faded alike. Level and share a are pure functions of the
iteration (``interfaces.growth``), so that a run goes on in the middle of a fade as if it had not stopped. Layers keep
the features of a pixel at unit size (G), learn at equal rates, and D sees how much images of a group differ.

As the authors' code has it, the deviation is that of groups of 4 images and the running average of G a matter of
images, not of iterations (half-life of 10 000; 0.999 an iteration at 16 images is the same), and Adam's moments are
forgotten where a resolution begins. The code's learning rate rises with the resolution on several GPUs; here it is the
paper's 0.001 throughout. Codes are normal, and G brings them to unit size.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim import Adam

from interfaces.batch import ImageBatch
from interfaces.growth import Growth, Phase, check_goes_on
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import drift, gradient_penalty, slope, wasserstein_critic, wasserstein_generator
from networks.ema import follow_, frozen_copy
from networks.prepared import weights_prepared_once
from networks.processes import processes
from networks.progressive_gan import Discriminator, Generator
from networks.style import faded


class ProgressiveGAN(ManualModule):
    """Images of normal codes at a resolution that grows. Defaults are those of the paper for CelebA-HQ on one GPU.

    A training batch has images of the resolution that ``growth`` asks for; outside training images have the last one.

    Args:
        resolution: the last one, a power of 2 from 4 on.
        batches: images an iteration and process at 4x4, 8x8, ...; the last number counts for all that follow.
        first: images that are seen at 4x4, by all processes.
        fade: images over which each other resolution fades in.
        stable: images after that.
        channels: of the images.
        latent: coordinates of z.
        widths: channels at 4x4, 8x8, ...; those beyond the resolution are not used.
        group: images of which the minibatch deviation is taken, of one process's batch; 1 switches it off.
        lambda_gp: weight of the gradient penalty.
        gamma: slope that it asks for. CIFAR-10: 750.
        lambda_drift: weight of the drift.
        lr: of Adam, for both.
        betas: of Adam, for both.
        half_life: images after which G's weights count half in the running average that serves outside training; 0
            keeps none.

    Raises:
        ValueError: a resolution or images that make no sense, or too few widths.
    """

    shown: Tensor

    def __init__(
        self,
        resolution: int = 1024,
        batches: tuple[int, ...] = (16, 16, 16, 16, 16, 16, 14, 6, 3),
        first: int = 800_000,
        fade: int = 800_000,
        stable: int = 800_000,
        channels: int = 3,
        latent: int = 512,
        widths: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64, 32, 16),
        group: int = 4,
        lambda_gp: float = 10.0,
        gamma: float = 1.0,
        lambda_drift: float = 1e-3,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        levels = resolution.bit_length() - 2
        if levels < 1 or resolution != 2 ** (levels + 1) or levels > len(widths):
            raise ValueError(
                f"ProgressiveGAN has {len(widths)} widths, one for each of 4x4, 8x8, ..., but its resolution is "
                f"{resolution}: give a power of 2 up to {2 ** (len(widths) + 1)}, or more widths."
            )
        self.growth = Growth(tuple(4 * 2**k for k in range(levels)), tuple(batches), first, fade, stable)
        self.latent_spec = LatentSpec(latent)
        self.lambda_gp, self.gamma, self.lambda_drift = lambda_gp, gamma, lambda_drift
        self.lr, self.betas, self.half_life = lr, tuple(betas), half_life
        self.generator = Generator(latent, widths[:levels], channels)
        self.discriminator = Discriminator(widths[:levels], channels, group)
        self.averaged = frozen_copy(self.generator) if half_life > 0 else None
        self.register_buffer("shown", torch.tensor([0.0, 1.0]))  # level and share of the last iteration

    def on_fit_start(self) -> None:
        """As the base class; refuse to go on in another phase than the one that was left (ValueError)."""
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:
            last = self.growth.at(max(int(self.iterations) - 1, 0), processes())
            check_goes_on(self, self.shown.tolist(), last, processes())

    @weights_prepared_once()
    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step of D, then one of G with codes of its own."""
        opt_d, opt_g = self.optimizers()
        phase = self.growth.at(self.iteration, processes())
        self.check_batch(batch.image, phase)
        if self.growth.grows_at(self.iteration, processes()):
            for opt in (opt_d, opt_g):
                opt.optimizer.state.clear()
        x = faded(batch.image, phase.share)
        with self.toggled_optimizer(opt_d):
            loss, terms, scores = self.critic_loss(x, phase)
            self.descend(opt_d, loss)
        self.log_terms("d", terms)
        self.log_terms("score", scores)
        with self.toggled_optimizer(opt_g):
            loss, terms = self.generator_loss(x, phase)
            self.descend(opt_g, loss)
        self.log_terms("g", terms)
        self.shown[0].fill_(phase.level)
        self.shown[1].fill_(phase.share)
        if self.averaged is not None:
            decay = 0.5 ** (len(x) * processes() / self.half_life)
            follow_(self.averaged, self.generator, decay, self.iteration)
        self.end_iteration()

    def critic_loss(self, x: Tensor, phase: Phase) -> tuple[Tensor, Terms, Terms]:
        """L_D of real images, faded as the generated ones are; beside it the mean scores."""
        with torch.no_grad():
            fake = self.generator(self.codes(x), phase.level, phase.share).to(x.dtype)
        real, generated = (self.discriminator(images, phase.level, phase.share) for images in (x, fake))
        with torch.autocast(x.device.type, enabled=False):  # slopes of half precision are no good to a penalty
            between = torch.lerp(fake, x, self.shares(x)).requires_grad_()
            slopes = slope(self.discriminator(between, phase.level, phase.share), between)
        terms = {
            "adv": wasserstein_critic(real, generated),
            "gp": gradient_penalty(slopes, self.gamma),
            "drift": drift(real),
        }
        loss = terms["adv"] + self.lambda_gp * terms["gp"] + self.lambda_drift * terms["drift"]
        return loss, terms, {"real": real.mean(), "fake": generated.mean()}

    def generator_loss(self, x: Tensor, phase: Phase) -> tuple[Tensor, Terms]:
        """L_G of as many images as ``x`` has."""
        fake = self.generator(self.codes(x), phase.level, phase.share)
        loss = wasserstein_generator(self.discriminator(fake, phase.level, phase.share))
        return loss, {"adv": loss}

    def codes(self, x: Tensor) -> Tensor:
        """z for as many images, (N, latent)."""
        return self.noise_like(x.new_empty(len(x), self.latent_spec.size))

    def shares(self, x: Tensor) -> Tensor:
        """Uniform in [0, 1], (N, 1, 1, 1): the distribution function of a normal draw."""
        return torch.special.ndtr(self.noise_like(x.new_empty(len(x), 1)))[:, :, None, None]

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, C, H, W) in [-1, 1] at the last resolution (Decoder protocol).

        Level and share are those of the last iteration; images of lower levels are enlarged, each pixel repeated.
        """
        level, share = int(self.shown[0]), float(self.shown[1])
        x = (self.averaged or self.generator)(z, level, share)
        return interpolate(x, scale_factor=self.growth.resolutions[-1] // self.growth.resolutions[level]).clamp(-1, 1)

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """``n`` images of codes that ``rng`` draws (Generator protocol)."""
        return self.decode(self.latent_spec.draw(n, rng).to(self.device))

    def check_batch(self, x: Tensor, phase: Phase) -> None:
        """Refuse images of another resolution than the phase's (ValueError)."""
        if tuple(x.shape[-2:]) != (phase.resolution, phase.resolution):
            raise ValueError(
                f"ProgressiveGAN trains iteration {self.iteration} on images of {phase.resolution} x "
                f"{phase.resolution}, not {x.shape[-2]} x {x.shape[-1]}: use data that follow the growth of the model."
            )

    def configure_optimizers(self):
        """Adam for each player, at a constant rate."""
        nets = self.discriminator, self.generator
        return [Adam(net.parameters(), self.lr, self.betas, fused=True) for net in nets], []
