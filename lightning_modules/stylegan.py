"""StyleGAN: A Style-Based Generator Architecture for Generative Adversarial Networks (Karras, Laine, Aila, CVPR 2019).

A code z is mapped to w, from which every layer of the synthesis g takes its style: a scale and a shift of each feature
map (adaptive instance normalisation). What g starts from is a learned constant, and what is left to chance comes as
noise in every layer:

    G(z) = g(f(z), noise)
    L_D = - E[log D(x)] - E[log(1 - D(G(z)))] + gamma / 2 E[|grad D(x)|^2]
    L_G = - E[log D(G(z))]

Images grow from 8x8 on as in Progressive GAN: a resolution fades in over some images and is trained for some more;
level and share are pure functions of the iteration (``interfaces.growth``). In most batches the styles of the upper
levels are those of a second code (style mixing), and w can be drawn towards its mean outside training (truncation).

This is configuration F with the loss that the paper has for FFHQ. That for CelebA-HQ, WGAN-GP, is not here:
``lightning_modules.progressive_gan`` has it. Networks, schedule, rates and the place of mixing, between levels and once
a batch, are those of rosinality/style-based-gan-pytorch, which keeps a bias before the blur, equalises the strengths of
noise and has a larger D (25.4 million weights, paper 23.1). As in the paper, and not there: each layer has noise of its
own, D looks at groups of 4 images, g's enlarging convolutions are of one scale at all levels (there, from 128 pixels
on, 4 times smaller), f's learning rate is in its layers, Adam's moments are forgotten where a resolution begins, and
the running average of G is a matter of images. Real images fade in as generated ones do.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import ImageBatch
from interfaces.growth import Growth, Phase, check_goes_on
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator, r1_penalty, slope
from networks.ema import follow_, frozen_copy
from networks.prepared import weights_prepared_once
from networks.processes import mean_over_processes, processes
from networks.style import faded
from networks.stylegan import Discriminator, Generator, mixed, truncated


class StyleGAN(ManualModule):
    """Images of normal codes by way of styles. Defaults are those of the release for FFHQ.

    A training batch has images of the resolution that ``growth`` asks for; outside training images have the last one.

    Args:
        resolution: the last one, a power of 2.
        start: the first one, a power of 2 from 4 on.
        batches: images an iteration and process at each of them; the last number counts for all that follow.
        first: images that are seen at the first resolution, by all processes.
        fade: images over which each other resolution fades in.
        stable: images after that.
        channels: of the images.
        latent: coordinates of z and of w.
        mapping: layers of f.
        mapping_rate: multiplies what the optimizer does to f. With the paper's hundredth f stands nearly still in a few
            thousand iterations, and colours of images stay as normal as the codes are.
        widths: channels at 4x4, 8x8, ...; those beyond the resolution are not used.
        group: images of which the minibatch deviation is taken, of one process's batch; 1 switches it off.
        gamma: weight of R1.
        mixing: probability that a batch has styles of two codes.
        psi: truncation of what ``decode`` and ``sample`` make: 1 for none. The paper's pictures: 0.7.
        cutoff: layers that it counts for, from the lowest on.
        lrs: of Adam at each resolution, for both; the last number counts for all that follow.
        betas: of Adam, for both.
        half_life: images after which G's weights count half in the running average that serves outside training; 0
            keeps none.

    Raises:
        ValueError: resolutions, images or rates that make no sense, or too few widths.
    """

    shown: Tensor
    w_mean: Tensor

    def __init__(
        self,
        resolution: int = 1024,
        start: int = 8,
        batches: tuple[int, ...] = (256, 128, 64, 32),
        first: int = 1_200_000,
        fade: int = 600_000,
        stable: int = 600_000,
        channels: int = 3,
        latent: int = 512,
        mapping: int = 8,
        mapping_rate: float = 0.01,
        widths: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64, 32, 16),
        group: int = 4,
        gamma: float = 10.0,
        mixing: float = 0.9,
        psi: float = 1.0,
        cutoff: int = 8,
        lrs: tuple[float, ...] = (1e-3, 1e-3, 1e-3, 1e-3, 1.5e-3, 2e-3, 3e-3),
        betas: tuple[float, float] = (0.0, 0.99),
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.start_level, levels = start.bit_length() - 3, resolution.bit_length() - 2
        self.check_arguments(start, resolution, levels, len(widths), lrs)
        resolutions = tuple(4 * 2**k for k in range(self.start_level, levels))
        self.growth = Growth(resolutions, tuple(batches), first, fade, stable)
        self.latent_spec, self.latent, self.layers = LatentSpec(latent), latent, 2 * levels
        self.gamma, self.mixing, self.psi, self.cutoff = gamma, mixing, psi, cutoff
        self.lrs, self.betas, self.half_life = tuple(lrs), tuple(betas), half_life
        self.generator = Generator(latent, mapping, widths[:levels], channels, mapping_rate)
        self.discriminator = Discriminator(widths[:levels], channels, group)
        self.averaged = frozen_copy(self.generator) if half_life > 0 else None
        self.register_buffer("w_mean", torch.zeros(latent))
        self.register_buffer("shown", torch.tensor([self.start_level, 1.0]))  # level and share of the last iteration

    def on_fit_start(self) -> None:
        """As the base class; refuse to go on in another phase than the one that was left (ValueError)."""
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:
            last = self.phase(max(int(self.iterations) - 1, 0))
            check_goes_on(self, self.shown.tolist(), last, processes())

    @weights_prepared_once()
    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step of D, then one of G with codes of its own."""
        opt_d, opt_g = self.optimizers()
        phase = self.phase(self.iteration)
        self.check_batch(batch.image, phase)
        if self.growth.grows_at(self.iteration, processes()):
            for opt in (opt_d, opt_g):
                opt.optimizer.state.clear()
        x = faded(batch.image, phase.share)
        with self.toggled_optimizer(opt_d):
            loss, terms, scores = self.discriminator_loss(x, phase)
            self.descend(opt_d, loss)
        self.log_terms("d", terms)
        self.log_terms("score", scores)
        with self.toggled_optimizer(opt_g):
            loss, terms, w = self.generator_loss(x, phase)
            self.descend(opt_g, loss)
        self.log_terms("g", terms)
        self.follow_mean(w)
        self.shown[0].fill_(phase.level)
        self.shown[1].fill_(phase.share)
        if self.averaged is not None:
            decay = 0.5 ** (len(x) * processes() / self.half_life)
            follow_(self.averaged, self.generator, decay, self.iteration)
        self.end_iteration()

    def phase(self, iteration: int) -> Phase:
        """What the iteration after as many finished ones trains; its level counts from 4x4 on, as the networks do."""
        phase = self.growth.at(iteration, processes())
        return phase._replace(level=phase.level + self.start_level)

    def discriminator_loss(self, x: Tensor, phase: Phase) -> tuple[Tensor, Terms, Terms]:
        """L_D of real images, faded as the generated ones are; beside it the mean scores."""
        with torch.no_grad():
            fake = self.generated(self.styles(x, phase)[0], phase)
        generated = self.discriminator(fake, phase.level, phase.share)
        with torch.autocast(x.device.type, enabled=False):  # slopes of half precision are no good to a penalty
            x = x.detach().requires_grad_()
            real = self.discriminator(x, phase.level, phase.share)
            slopes = slope(real, x)
        terms = {"adv": log_discriminator([real], [generated]), "r1": r1_penalty(slopes)}
        return terms["adv"] + self.gamma * terms["r1"], terms, {"real": real.mean(), "fake": generated.mean()}

    def generator_loss(self, x: Tensor, phase: Phase) -> tuple[Tensor, Terms, Tensor]:
        """L_G of as many images as ``x`` has; beside it their w."""
        styles, w = self.styles(x, phase)
        loss = log_generator([self.discriminator(self.generated(styles, phase), phase.level, phase.share)])
        return loss, {"adv": loss}, w.detach()

    def styles(self, x: Tensor, phase: Phase) -> tuple[Tensor, Tensor]:
        """Styles of as many images, (N, layers, latent), mixed of two codes; beside them w of the first."""
        luck = torch.special.ndtr(self.noise_like(x.new_empty(1, 2)))[0]  # uniform
        z = [self.noise_like(x.new_empty(len(x), self.latent)) for _ in range(2)]
        first, second = self.generator.mapping(torch.cat(z)).chunk(2)
        return mixed(first, second, phase.level, self.layers, luck, self.mixing), first

    def generated(self, styles: Tensor, phase: Phase) -> Tensor:
        """Images in training, with noise."""
        return self.generator.synthesis(styles, phase.level, phase.share, self.noise_like)

    @torch.no_grad()
    def follow_mean(self, w: Tensor) -> None:
        """Move the mean of w towards that of a batch, by 0.005 of the way and at first by more."""
        rate = max(0.005, 9 / (10 + self.iteration))
        self.w_mean.lerp_(mean_over_processes(w.to(self.w_mean.dtype).mean(0)), rate)

    def map(self, z: Tensor) -> Tensor:
        """f(z), (N, latent) to (N, latent), without truncation (StyledGenerator protocol)."""
        return (self.averaged or self.generator).mapping(z)

    def synthesize(self, w: Tensor, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Images of styles at the last resolution (StyledGenerator protocol).

        Level and share are those of the last iteration; images of lower levels are enlarged, each pixel repeated.

        Args:
            w: (N, latent), or of each layer its own, (N, layers, latent).
            noise: draw of each layer, as for ``networks.stylegan.Synthesis``; None gives every image the same noise.

        Returns:
            (N, C, H, W) in [-1, 1].
        """
        styles = w if w.ndim == 3 else w[:, None].expand(-1, self.layers, -1)
        level, share = int(self.shown[0]), float(self.shown[1])
        x = (self.averaged or self.generator).synthesis(styles, level, share, noise or fixed_noise())
        return interpolate(x, scale_factor=2 ** (self.layers // 2 - 1 - level)).clamp(-1, 1)

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, C, H, W) in [-1, 1], truncated by ``psi`` (Decoder protocol)."""
        w = self.map(z)[:, None].expand(-1, self.layers, -1)
        return self.synthesize(truncated(w, self.w_mean, self.psi, self.cutoff))

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """``n`` images of codes that ``rng`` draws (Generator protocol)."""
        return self.decode(self.latent_spec.draw(n, rng).to(self.device))

    def rate(self, finished: int) -> float:
        """Learning rate of the iteration after ``finished`` ones, as a share of the first resolution's."""
        level = self.growth.at(finished, processes()).level
        return self.lrs[min(level, len(self.lrs) - 1)] / self.lrs[0]

    def check_batch(self, x: Tensor, phase: Phase) -> None:
        """Refuse images of another resolution than the phase's (ValueError)."""
        if tuple(x.shape[-2:]) != (phase.resolution, phase.resolution):
            raise ValueError(
                f"StyleGAN trains iteration {self.iteration} on images of {phase.resolution} x {phase.resolution}, not "
                f"{x.shape[-2]} x {x.shape[-1]}: use data that follow the growth of the model."
            )

    def check_arguments(self, start: int, resolution: int, levels: int, widths: int, lrs: tuple[float, ...]) -> None:
        """Refuse what the networks cannot have (ValueError says what to change)."""
        if start < 4 or start & (start - 1) or resolution & (resolution - 1) or resolution < start:
            raise ValueError(
                f"StyleGAN grows from {start} to {resolution} pixels: give powers of 2 from 4 on, the last not smaller."
            )
        if levels > widths:
            raise ValueError(
                f"StyleGAN has {widths} widths, one for each of 4x4, 8x8, ..., but a resolution of {resolution} needs "
                f"{levels}."
            )
        if not lrs or lrs[0] <= 0:
            raise ValueError(f"StyleGAN has lrs {list(lrs)}: give a learning rate > 0 for each resolution.")

    def configure_optimizers(self):
        """Adam for each player; rates go with the resolution."""
        nets = self.discriminator, self.generator
        opts = [Adam(net.parameters(), self.lrs[0], self.betas, fused=True) for net in nets]
        return opts, [LambdaLR(opt, self.rate) for opt in opts]


def fixed_noise() -> Callable[[Tensor], Tensor]:
    """The same draws for each layer at every use, so that images do not flicker; one for all images of a batch."""
    rng = torch.Generator().manual_seed(0)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape[1:], generator=rng).to(x).expand_as(x)

    return noise
