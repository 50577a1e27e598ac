"""StyleALAE: ALAE with a style-based generator (Pidhorskyi, Adjeroh, Doretto, CVPR 2020, section 5).

As ``lightning_modules.alae``: G(F(z)) against D(E(x)), with E(G(w)) = w asked of w. G is StyleGAN's, whose blocks w
enters as styles. E mirrors it: each block tells w the means and deviations of its channels, and then takes them out.

    I    E, D:  softplus(D(E(G(F(z))))) + softplus(-D(E(x))) + gamma/2 |grad_x D(E(x))|^2
    II   F, G:  softplus(-D(E(G(F(z)))))
    III  E, G:  |F(z) - E(G(F(z)))|^2, a mean over all coordinates

Images grow (``interfaces.growth``): a new resolution fades in by a share b, weighed 0.5 sin(pi b - pi/2) + 0.5, in G,
in E and in the real images alike. All of it is a function of the iteration. In I and II styles of two z are mixed.

Departs from the paper as the authors' release does: III also moves F, through G's input (``reciprocity_moves_f=False``
is the paper's). Departs from the release: its average of weights starts at weights of its own, here at those that are
trained; phases are of images, not of epochs.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, mse_loss

from interfaces.batch import ImageBatch
from interfaces.growth import Growth, Phase, check_goes_on
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator, r1_penalty, slope
from networks.alae import (
    LOWEST,
    Encoder,
    Generator,
    MappingD,
    MappingF,
    Noise,
    checked_half_life,
    follow_images_,
    groups_by_rate,
)
from networks.ema import frozen_copy
from networks.freezing import frozen
from networks.lreq_adam import LREQAdam
from networks.prepared import weights_prepared_once
from networks.processes import mean_over_processes, processes
from networks.style import faded


class StyleALAE(ManualModule):
    """An autoencoder whose code a style-based GAN learns. Defaults are those of the release for CelebA at 128x128.

    Args:
        resolution: height and width of the images in the end, 4 times a power of 2. FFHQ: 1024.
        channels: of the images.
        latent: numbers of z and w. FFHQ, bedrooms: 512.
        width: channels of G and E at ``resolution``; twice as many at each lower one. FFHQ: 16, bedrooms 32.
        max_width: but never more than this. FFHQ, bedrooms: 512.
        mapping_layers: of F.
        batches: images an iteration and process at 4x4, 8x8 and so on; the last number counts for all that follow.
        first: images at 4x4.
        fade: images over which each other resolution fades in; 0 for none. FFHQ 480 000.
        stable: images after that. FFHQ 480 000.
        mixing: probability that styles of two z are mixed in an iteration of this process.
        reciprocity_moves_f: III moves F too. Paper: False.
        gamma: weight of the gradient penalty, which is halved.
        deviation_eps: see ``networks.alae.Encoder``; 1e-12 for images of which a channel can be constant.
        psi: how far samples are from the mean of w, in parts of their distance, in the first ``cutoff`` style codes.
        cutoff: so many; the codes that follow are left as they are.
        lrs: of both optimizers at 4x4, 8x8 and so on, before each layer's rate; the last number counts for all that
            follow. CelebA-HQ at 256x256: 0.0015 there too.
        beta2: of both optimizers.
        half_life: images after which weights count half in the running average that serves outside training.
    """

    w_avg: Tensor
    shown: Tensor

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        latent: int = 256,
        width: int = 64,
        max_width: int = 256,
        mapping_layers: int = 8,
        batches: tuple[int, ...] = (128, 128, 128, 64, 32, 16),
        first: int = 1_095_822,
        fade: int = 547_911,
        stable: int = 547_911,
        mixing: float = 0.9,
        reciprocity_moves_f: bool = True,
        gamma: float = 10.0,
        deviation_eps: float = 0.0,
        psi: float = 0.7,
        cutoff: int = 8,
        lrs: tuple[float, ...] = (0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.002, 0.003),
        beta2: float = 0.99,
        half_life: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latent, self.mixing, self.gamma, self.psi, self.cutoff = latent, mixing, gamma, psi, cutoff
        self.channels, self.reciprocity_moves_f = channels, reciprocity_moves_f
        self.lrs, self.beta2, self.half_life = tuple(lrs), beta2, checked_half_life(half_life)
        levels = round(math.log2(max(resolution, 1) / LOWEST)) + 1
        if levels < 1 or LOWEST * 2 ** (levels - 1) != resolution or not self.lrs:
            raise ValueError(
                f"StyleALAE has resolution {resolution} and {len(self.lrs)} lrs: give 4, 8, 16 or so on, and 1 or more."
            )
        self.layers = 2 * levels
        self.growth = Growth(tuple(LOWEST * 2**k for k in range(levels)), tuple(batches), first, fade, stable)

        self.f, self.d = MappingF(latent, mapping_layers), MappingD(latent, 2 * latent, logit=latent)
        self.e = Encoder(channels, levels, latent, width, max_width, deviation_eps)
        self.g = Generator(channels, levels, latent, width, max_width)
        self.averaged = frozen_copy(self.networks())
        self.register_buffer("w_avg", torch.zeros(2 * levels, latent))
        self.register_buffer("shown", torch.tensor([0.0, 1.0]))  # level and share of the last iteration

    def networks(self) -> nn.ModuleDict:
        """All four, by name."""
        return nn.ModuleDict({"f": self.f, "g": self.g, "e": self.e, "d": self.d})

    def on_fit_start(self) -> None:
        """As the base class; refuse to go on in another phase than the one that was left (ValueError)."""
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:
            last = self.growth.at(max(int(self.iterations) - 1, 0), processes())
            check_goes_on(self, self.shown.tolist(), last, processes())

    @weights_prepared_once()
    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Steps I, II and III."""
        phase = self.phase()
        self.check_batch(batch, phase)
        level, blend = phase.level, weight_of(phase.share)
        self.set_rates(phase)
        x, (opt_e, opt_g) = faded(batch.image, blend), self.optimizers()
        loss, terms = self.discriminator_loss(x, level, blend)
        self.descend(opt_e, loss)
        self.log_terms("d", terms)
        loss, terms = self.generator_loss(x, level, blend)
        self.descend(opt_g, loss)
        self.log_terms("g", terms)
        w = self.draw(x)
        fake = self.g(self.rows(w if self.reciprocity_moves_f else w.detach(), level), level, blend, self.noise_like)
        seen = fake.detach().requires_grad_()
        loss = mse_loss(self.e(seen, level, blend), w.detach())  # III
        self.descend(opt_e, loss)
        self.descend(opt_g, (fake * seen.grad).sum())  # what III says of G and F: E had not moved yet
        self.log_terms("e", {"w": loss})
        self.log_terms("growth", {"resolution": x.new_tensor(phase.resolution), "blend": x.new_tensor(blend)})
        self.shown[0].fill_(phase.level)
        self.shown[1].fill_(phase.share)
        for name, net in self.networks().items():
            follow_images_(self.averaged[name], net, len(x) * processes(), self.half_life)
        self.end_iteration()

    def phase(self) -> Phase:
        """What this iteration trains."""
        return self.growth.at(self.iteration, processes())

    @property
    def reached(self) -> tuple[int, float]:
        """Level and weight of the last iteration: what the networks can do outside training."""
        return int(self.shown[0]), weight_of(float(self.shown[1]))

    def set_rates(self, phase: Phase) -> None:
        """Rates of this resolution; where it has just begun, the optimizers begin anew too, as the release's do."""
        grows = self.growth.grows_at(self.iteration, processes())
        for opt in self.optimizers(use_pl_optimizer=False):
            if grows:
                opt.forget()
            for group in opt.param_groups:
                group["lr"] = self.lrs[min(phase.level, len(self.lrs) - 1)]

    def draw(self, x: Tensor) -> Tensor:
        """w = F(z), (N, latent), of as many new z as there are images; the mean of w follows."""
        w = self.f(self.noise_like(x.new_empty(len(x), self.latent)))
        self.w_avg.lerp_(mean_over_processes(w.detach().mean(0)).expand_as(self.w_avg), 1 - 0.995)
        return w

    def mixed(self, x: Tensor, level: int) -> Tensor:
        """Styles of as many new z as there are images; from a random row on they may be those of other z."""
        styles, crossover = self.rows(self.draw(x), level), self.crossover(level)
        if crossover is None:
            return styles
        others = self.rows(self.f(self.noise_like(x.new_empty(len(x), self.latent))), level)
        return torch.cat((styles[:, :crossover], others[:, crossover:]), 1)

    def crossover(self, level: int) -> int | None:
        """First row of the other styles, from 1 to the number of rows, where there are none left; None for no mixing.

        Each process decides for itself.
        """
        return self.dice.randint(1, 2 * (level + 1)) if self.dice.random() < self.mixing else None

    def rows(self, w: Tensor, level: int) -> Tensor:
        """(N, latent) to the (N, 2 (level + 1), latent) that G takes."""
        return w[:, None].expand(-1, 2 * (level + 1), -1)

    def discriminator_loss(self, x: Tensor, level: int, blend: float) -> tuple[Tensor, Terms]:
        """I, for (N, C, H, W) at the resolution of ``level``."""
        with torch.no_grad():
            fake = self.g(self.mixed(x, level), level, blend, self.noise_like)
        x = x.detach().requires_grad_()
        with torch.autocast(x.device.type, enabled=False):  # slopes of seven bits would be noise
            real_logits = self.d(self.e(x, level, blend))
            penalty = r1_penalty(slope(real_logits, x))
        fake_logits = self.d(self.e(fake, level, blend))
        terms = {
            "adv": log_discriminator([real_logits], [fake_logits]),
            "r1": penalty,
            "real": real_logits.mean(),
            "fake": fake_logits.mean(),
        }
        return terms["adv"] + self.gamma * terms["r1"], terms

    def generator_loss(self, x: Tensor, level: int, blend: float) -> tuple[Tensor, Terms]:
        """II; of ``x`` only the number of images is used."""
        fake = self.g(self.mixed(x, level), level, blend, self.noise_like)
        with frozen(self.e), frozen(self.d):
            loss = log_generator([self.d(self.e(fake, level, blend))])
        return loss, {"adv": loss}

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] of ``resolution`` to w, (N, latent) (Encoder protocol).

        While the model grows, images are averaged down to what it has learnt.
        """
        level, blend = self.reached
        factor = x.shape[-1] // self.growth.resolutions[level]
        x = avg_pool2d(x, factor) if factor > 1 else x
        return self.averaged["e"](faded(x, blend), level, blend)

    def decode(self, z: Tensor) -> Tensor:
        """w, (N, latent), to (N, C, H, W) in [-1, 1] of ``resolution``, with one noise for all (Decoder protocol).

        While the model grows, its images are enlarged.
        """
        return self.synthesize(z)

    @property
    def w_mean(self) -> Tensor:
        """(latent,) mean of w (StyledGenerator protocol)."""
        return self.w_avg[0]

    def map(self, z: Tensor) -> Tensor:
        """F(z), (N, latent) to (N, latent) (StyledGenerator protocol)."""
        return self.averaged["f"](z)

    def synthesize(self, w: Tensor) -> Tensor:
        """One w for all layers, (N, latent), or one for each, (N, layers, latent), to images as ``decode``."""
        level, _ = self.reached
        return self.image_of(w[:, : 2 * (level + 1)] if w.ndim == 3 else self.rows(w, level), constant_noise())

    def image_of(self, styles: Tensor, noise: Noise) -> Tensor:
        """(N, 2 (level + 1), latent) to (N, C, H, W) in [-1, 1] of ``resolution``."""
        level, blend = self.reached
        image = self.averaged["g"](styles, level, blend, noise).clamp(-1, 1)
        factor = self.growth.resolutions[-1] // image.shape[-1]
        return interpolate(image, scale_factor=factor, mode="nearest") if factor > 1 else image

    @property
    def latent_spec(self) -> LatentSpec:
        """w, which is what F makes of a normal draw (Decoder protocol)."""
        return LatentSpec(self.latent, prior="mapped", mapping=self.mapped)

    @torch.no_grad()
    def mapped(self, z: Tensor) -> Tensor:
        """F(z) of (N, latent) normal draws on the CPU, there too."""
        return self.map(z.to(self.w_avg)).to(z)

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw (n, C, H, W) in [-1, 1] of ``resolution``: noise for each image, styles as near the mean as ``psi``."""
        level, _ = self.reached
        w = self.mapped(torch.randn(n, self.latent, generator=rng)).to(self.w_avg)
        return self.image_of(self.truncated(self.rows(w, level)), lambda x: torch.randn(x.shape, generator=rng).to(x))

    def truncated(self, styles: Tensor) -> Tensor:
        """(N, rows, latent) whose first ``cutoff`` rows go ``psi`` of the way from their mean to what they were."""
        near = self.w_avg[: styles.shape[1]].lerp(styles, self.psi)
        return torch.cat((near[:, : self.cutoff], styles[:, self.cutoff :]), 1)

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstruct."""
        return self.decode(self.encode(batch.image))

    def check_batch(self, batch: ImageBatch, phase: Phase) -> None:
        """Refuse images that are not of this iteration's resolution (ValueError says what to change)."""
        expected = (self.channels, phase.resolution, phase.resolution)
        if tuple(batch.image.shape[1:]) != expected:
            raise ValueError(
                f"StyleALAE is at images of shape {expected} in iteration {self.iteration}, but the batch has "
                f"{tuple(batch.image.shape[1:])}: take data that follow model.growth, and as many channels."
            )

    def configure_optimizers(self):
        """One for E and D, one for G and F; ``set_rates`` gives the rates of each resolution."""
        pairs = (self.e, self.d), (self.g, self.f)
        return [LREQAdam(groups_by_rate(*pair), self.lrs[0], self.beta2) for pair in pairs], []


def weight_of(share: float) -> float:
    """0.5 sin(pi b - pi/2) + 0.5: weight of a resolution that has faded in by a share b in [0, 1]; 1 for b = 1."""
    return 0.5 * math.sin(math.pi * share - math.pi / 2) + 0.5


def constant_noise() -> Noise:
    """Noise that all images share and that is the same each time: one map a place, drawn on the CPU."""
    rng = torch.Generator().manual_seed(0)
    return lambda x: torch.randn((1, *x.shape[1:]), generator=rng).to(x)
