"""What ``papers_time`` times: a model, a batch and the released order of each paper after UNIT."""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.released import alae as released_alae
from benchmarks.released import dcgan as released_dcgan
from benchmarks.released import disvae as released_disvae
from benchmarks.released import drit as released_drit
from benchmarks.released import fader as released_fader
from benchmarks.released import mdmm as released_mdmm
from benchmarks.released import munit as released_munit
from benchmarks.released import progressive_gan as released_progressive_gan
from benchmarks.released import stylegan as released_stylegan
from benchmarks.released import ufdn as released_ufdn
from benchmarks.timing import Step, images
from interfaces.batch import AttributeBatch, DomainBatch, ImageBatch, LabelledBatch, UnpairedBatch
from lightning_modules.alae import ALAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.dcgan import DCGAN
from lightning_modules.drit import DRIT
from lightning_modules.drit_multidomain import MultiDomainDRIT
from lightning_modules.factor_vae import FactorVAE
from lightning_modules.fader import Fader
from lightning_modules.munit import MUNIT
from lightning_modules.progressive_gan import ProgressiveGAN
from lightning_modules.style_alae import StyleALAE
from lightning_modules.stylegan import StyleGAN
from lightning_modules.ufdn import UFDN


def munit(width: int) -> MUNIT:
    """With the cycle that streets have; the weights of seed 0."""
    torch.manual_seed(0)
    return MUNIT(width=width, dis_width=width, lambda_cycle=10)


def drit(width: int) -> DRIT:
    """DRIT++ whose iterations are all full; the weights of seed 0."""
    torch.manual_seed(0)
    return DRIT(
        width=width, attribute_width=width, dis_width=width, content_dis_width=4 * width, content_dis_layers=1, d_iter=1
    )


def multi_domain_drit(width: int) -> MultiDomainDRIT:
    """Its third iteration, which is a full one and leaves D^c alone; the weights of seed 0."""
    torch.manual_seed(0)
    model = MultiDomainDRIT(
        ("a", "b", "c"), width=width, attribute_width=width, dis_width=width, dis_layers=4, dis_kernel=2,
        content_dis_width=4 * width, content_dis_layers=1, lambda_ms=0,
    )  # fmt: skip
    model.iterations += 2
    return model


def ufdn(width: int) -> UFDN:
    """Faces, with all weights at their last values; the weights of seed 0."""
    torch.manual_seed(0)
    return UFDN(
        widths=tuple(width * 2**k for k in range(5)), code_channels=16 * width, lambda_recon=(1, 1, 1),
        lambda_feat=(1, 1, 1), lambda_adv=(1e-6, 1e-6, 1), lambda_clf=(1e-6, 1e-6, 1),
    )  # fmt: skip


def ufdn_of_digits(width: int) -> UFDN:
    """Domain adaptation: no D_x, ten classes; the weights of seed 0."""
    torch.manual_seed(0)
    return UFDN(
        ("svhn", "mnist"), widths=tuple(2 * width * 2**k for k in range(4)), code_channels=32 * width,
        dv_widths=(1024, 256), classes=10, lambda_recon=(1, 1, 1), lambda_kl=(1e-7, 1e-7, 1),
        lambda_feat=(0.1, 0.1, 1), lambda_adv=(0, 0, 1), lambda_clf=(0, 0, 1),
    )  # fmt: skip


def fader(width: int) -> Fader:
    """Two attributes, the ramp at its end, no dropout, which draws; the weights of seed 0."""
    torch.manual_seed(0)
    return Fader(
        ("smile", "glasses"), image_size=64, width=width // 2, max_width=8 * width, layers=4, lat_dropout=0, ramp=0
    )


def beta_vae(width: int) -> BetaVAE:
    """The networks of Burgess et al.; the weights of seed 0."""
    torch.manual_seed(0)
    return BetaVAE(**burgess(width))


def factor_vae(width: int) -> FactorVAE:
    """With D of five layers, and the second half of a batch for its shuffles; the weights of seed 0."""
    torch.manual_seed(0)
    return FactorVAE(6.4, halves=True, dis_width=16 * width, dis_layers=5, **burgess(width))


def burgess(width: int) -> dict[str, Any]:
    """Arguments of networks whose convolutions have half of ``width``."""
    return {
        "convs": (width // 2,) * 4, "kernels": (4,) * 4, "hidden": (4 * width,) * 2, "dec_hidden": (4 * width,) * 2,
        "glorot": False,
    }  # fmt: skip


def alae(width: int, size: int) -> ALAE:
    """For MNIST; the weights of seed 0."""
    torch.manual_seed(0)
    return ALAE(size, width=32 * width)


def style_alae(width: int, size: int) -> StyleALAE:
    """Grown, as for CelebA where width is 64, and styles that meet in the middle; the weights of seed 0."""
    torch.manual_seed(0)
    model = grown(StyleALAE(size, latent=4 * width, width=width, max_width=4 * width))
    object.__setattr__(model, "crossover", lambda level: level + 1)
    return model


def dcgan(width: int, size: int) -> DCGAN:
    """The weights of seed 0."""
    torch.manual_seed(0)
    return DCGAN(size, width=width)


def progressive_gan(width: int, size: int) -> ProgressiveGAN:
    """Grown; the weights of seed 0."""
    torch.manual_seed(0)
    return grown(ProgressiveGAN(size, latent=8 * width, widths=narrowing(width, size)))


def stylegan(width: int, size: int) -> StyleGAN:
    """Grown; the weights of seed 0."""
    torch.manual_seed(0)
    return grown(StyleGAN(size, latent=8 * width, widths=narrowing(width, size)))


def narrowing(width: int, size: int) -> tuple[int, ...]:
    """Channels at 4x4, 8x8 and so on to ``width`` at ``size``: half as many each time, but eight times it at most."""
    levels = size.bit_length() - 2
    return tuple(min(8, 2 ** (levels - 1 - k)) * width for k in range(levels))


def grown(model: Any) -> Any:
    """The same at its last resolution, which has faded in."""
    model.iterations += model.growth.iterations()
    return model


def at_any_size(build: Callable[[int], Any]) -> Callable[[int, int], Any]:
    """Networks of a width that do not ask for a size."""
    return lambda width, size: build(width)


class Noise:
    """Standard normal, a function of how many draws of its shape came before in the step: both orders draw alike."""

    def __init__(self) -> None:
        self.draws: Counter[torch.Size] = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        """A draw in the shape, type and place of ``x``."""
        self.draws[x.shape] += 1
        generator = torch.Generator(x.device).manual_seed(abs(hash((self.draws[x.shape], *x.shape))))
        return torch.randn(x.shape, generator=generator, device=x.device).to(x.dtype)


def released_of_munit(model: MUNIT, batch: UnpairedBatch) -> Step:
    """A step in the order of MUNIT's release; returns the losses of D and of G."""
    opts = released_munit.optimizers(model)
    return lambda: list(released_munit.step(model, *opts, batch, Noise()))


def released_of_factor_vae(model: FactorVAE, batch: ImageBatch) -> Step:
    """Steps in the order of disvae, whose D does not move the encoder."""
    opts = released_disvae.optimizers(model)
    return lambda: released_disvae.step(model, opts, batch, Noise(), leaks=False)


def released_of(release: Any) -> Callable[[Any, Any], Step]:
    """Steps in the order of a release, of a model and a batch; they return its last losses."""

    def released(model: Any, batch: Any) -> Step:
        opts = release.optimizers(model)
        return lambda: release.step(model, opts, batch, Noise())

    return released


def pairs(n: int, size: int) -> UnpairedBatch:
    """Uniform noise, as all batches here: no layer is faster or slower for it."""
    return images(argparse.Namespace(size=size, batch=n), torch.device("cpu"))


def noise_images(n: int, size: int) -> Tensor:
    """(n, 3, size, size) in [-1, 1]."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def of_three_domains(n: int, size: int) -> DomainBatch:
    """As many of each."""
    return DomainBatch(noise_images(n, size), torch.arange(n) % 3)


def of_labelled_domains(n: int, size: int) -> LabelledBatch:
    """Half of each of two domains, of which the first is labelled."""
    domain = torch.arange(n) % 2
    return LabelledBatch(noise_images(n, size), domain, torch.where(domain == 0, torch.arange(n) % 10, -1))


def of_two_attributes(n: int, size: int) -> AttributeBatch:
    """All four combinations."""
    return AttributeBatch(noise_images(n, size), torch.stack((torch.arange(n) % 2, torch.arange(n) // 2 % 2), 1))


def coloured(n: int, size: int) -> ImageBatch:
    """Three channels."""
    return ImageBatch(noise_images(n, size))


def grey(n: int, size: int) -> ImageBatch:
    """One channel."""
    return ImageBatch(noise_images(n, size)[:, :1].contiguous())


class Sizes(NamedTuple):
    """Of what is timed."""

    size: int  # height and width of the images
    width: int
    batch: int  # images


class Paper(NamedTuple):
    """What is timed of a paper."""

    name: str
    build: Callable[[int, int], Any]  # of a width and a size
    released: Callable[[Any, Any], Step]  # of a model and a batch
    batch: Callable[[int, int], Any]  # of a number of images and a size
    images: int
    size: int | None = None  # where there is no other
    published: Sizes | None = None  # of the paper's runs
    passed_on: int = 0  # losses of ours, the last ones, that pass a gradient on and are nobody's objective


PAPERS = [
    Paper("MUNIT", at_any_size(munit), released_of_munit, pairs, 1),
    Paper("DRIT++", at_any_size(drit), released_of(released_drit), pairs, 2),
    Paper(
        "DRIT++ between three domains", at_any_size(multi_domain_drit), released_of(released_mdmm), of_three_domains, 6
    ),
    Paper("UFDN", at_any_size(ufdn), released_of(released_ufdn), of_three_domains, 24),
    Paper("UFDN adapting digits", at_any_size(ufdn_of_digits), released_of(released_ufdn), of_labelled_domains, 16),
    Paper("Fader Networks", at_any_size(fader), released_of(released_fader), of_two_attributes, 32),
    Paper("beta-VAE", at_any_size(beta_vae), released_of(released_disvae), grey, 64),
    Paper("FactorVAE", at_any_size(factor_vae), released_of_factor_vae, grey, 64),
    Paper("ALAE", alae, released_of(released_alae), grey, 128, size=28, published=Sizes(28, 32, 128), passed_on=1),
    Paper(
        "StyleALAE", style_alae, released_of(released_alae), coloured, 8, published=Sizes(128, 64, 16), passed_on=1
    ),
    Paper("DCGAN", dcgan, released_of(released_dcgan), coloured, 32, published=Sizes(64, 64, 64)),
    Paper(
        "Progressive GAN", progressive_gan, released_of(released_progressive_gan), coloured, 8,
        published=Sizes(256, 64, 14),
    ),
    Paper("StyleGAN", stylegan, released_of(released_stylegan), coloured, 8, published=Sizes(256, 64, 32)),
]  # fmt: skip
