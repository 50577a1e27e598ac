"""A tiny instance of every paper, for the contract that all of them keep.

A new paper adds one ``Case``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from interfaces.batch import AttributeBatch, DomainBatch, ImageBatch, LabelledBatch, UnpairedBatch
from lightning_modules.alae import ALAE
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.base import ManualModule
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.dcgan import DCGAN
from lightning_modules.dip_vae import DIPVAE
from lightning_modules.drit import DRIT
from lightning_modules.drit_multidomain import MultiDomainDRIT
from lightning_modules.factor_vae import FactorVAE
from lightning_modules.fader import Fader
from lightning_modules.latent_regressor import LatentRegressor
from lightning_modules.munit import MUNIT
from lightning_modules.progressive_gan import ProgressiveGAN
from lightning_modules.style_alae import StyleALAE
from lightning_modules.stylegan import StyleGAN
from lightning_modules.ufdn import UFDN
from lightning_modules.unit import UNIT
from lightning_modules.vq_vae2 import VQVAE2


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[..., ManualModule]
    batch: Callable[[int, int], NamedTuple]  # (images, seed) -> batch


def unpaired(n: int, seed: int) -> UnpairedBatch:
    rng = torch.Generator().manual_seed(seed)
    return UnpairedBatch(*(torch.rand(n, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2)))


def unit(**changes: Any) -> UNIT:
    tiny: dict[str, Any] = {"width": 4, "blocks": 2, "dis_width": 4, "dis_layers": 3, "dis_scales": 2, "lr": 1e-3}
    return UNIT(("day", "night"), **(tiny | changes))


def unit_of_the_paper() -> UNIT:
    return unit(shared_blocks=1, least_squares=False, dis_scales=1, reuse_fakes=True, ema=0.9)


def drit(**changes: Any) -> DRIT:
    """Every iteration a full one; ``d_iter`` has its own tests."""
    tiny: dict[str, Any] = {
        "width": 2, "downsamplings": 1, "blocks": 1, "mlp_width": 4, "attribute_width": 2, "dis_width": 2,
        "dis_layers": 3, "dis_scales": 2, "content_dis_width": 4, "content_dis_layers": 1, "d_iter": 1, "lr": 1e-3,
        "init_std": 0.1,
    }  # fmt: skip
    return DRIT(("day", "night"), **(tiny | changes))


def drit_of_the_paper() -> DRIT:
    return drit(lambda_ms=0.0, ema=0.9, one_discriminator=True, l1_contents=True)


def drit_for_shapes() -> DRIT:
    return drit(concat=False, lambda_content=0.0, lambda_ms=0.0)


def half_encoded(n: int, seed: int) -> UnpairedBatch:
    """DRIT encodes one half of a batch: ``n`` images of it."""
    return unpaired(2 * n, seed)


SEASONS = ("spring", "summer", "autumn")


def seasons(**changes: Any) -> MultiDomainDRIT:
    """For the contract too: every iteration a full one; ``d_iter`` has its own tests."""
    tiny: dict[str, Any] = {
        "width": 2, "downsamplings": 1, "blocks": 1, "mlp_width": 4, "attribute_width": 2, "dis_width": 2,
        "dis_layers": 3, "dis_kernel": 2, "content_dis_width": 4, "content_dis_layers": 1, "d_iter": 1, "lr": 1e-3,
        "init_std": 0.1,
    }  # fmt: skip
    return MultiDomainDRIT(**({"domains": SEASONS} | tiny | changes))


def shapes(**changes: Any) -> MultiDomainDRIT:
    """Five domains, the mixing generator, no content discriminator, a running average."""
    return seasons(
        domains=tuple("abcde"), **({"concat": False, "lambda_content": 0.0, "ema": 0.9, "init_std": 0.3} | changes)
    )


def halves(n: int, seed: int, domains: int = 3) -> DomainBatch:
    """Halves of ``n`` images each, of random domains."""
    rng = torch.Generator().manual_seed(seed)
    return DomainBatch(
        torch.rand(2 * n, 3, 32, 32, generator=rng) * 2 - 1, torch.randint(domains, (2 * n,), generator=rng)
    )


def halves_of_five(n: int, seed: int) -> DomainBatch:
    return halves(n, seed, 5)


def munit(**changes: Any) -> MUNIT:
    tiny: dict[str, Any] = {
        "width": 4, "blocks": 2, "style_size": 3, "mlp_width": 8, "dis_width": 4, "dis_layers": 3, "dis_scales": 2,
        "lr": 1e-3,
    }  # fmt: skip
    return MUNIT(("day", "night"), **(tiny | changes))


def munit_with_cycle() -> MUNIT:
    return munit(lambda_cycle=10.0, reuse_fakes=True, ema=0.9)


NONE = (0.0, 0.0, 1)


def ufdn(**changes: Any) -> UFDN:
    """Three domains at 32x32, a code of 2x2, every weight large enough to matter."""
    tiny: dict[str, Any] = {
        "domains": ("photo", "sketch", "paint"), "image_size": 32, "widths": (4, 6, 8), "code_channels": 5,
        "dv_widths": (8,), "dx_widths": (4, 6), "dx_hidden": 8, "init_std": 0.1, "normal_gamma": False,
        "lambda_recon": (10.0, 1.0, 4), "lambda_kl": (1e-3, 1e-3, 1), "lambda_feat": (0.1, 1.0, 4),
        "lambda_adv": (0.1, 1.0, 4), "lambda_clf": (0.1, 1.0, 4), "lambda_gp": (10.0, 10.0, 1), "lr": 1e-3,
    }  # fmt: skip
    return UFDN(**(tiny | changes))


def ufdn_of_four_domains() -> UFDN:
    return ufdn(domains=("a", "b", "c", "d"), alternate=False, reuse_fakes=True, gp_per_sample=True, ema=0.9)


def ufdn_of_digits() -> UFDN:
    """Unsupervised domain adaptation, a code of 1x1; no D_x."""
    return ufdn(
        domains=("svhn", "mnist"), widths=(4, 6, 8, 8), classes=10, lambda_recon=(1.0, 1.0, 1),
        lambda_feat=(0.1, 0.1, 1), lambda_adv=NONE, lambda_clf=NONE,
    )  # fmt: skip


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def of_domains(n: int, seed: int) -> DomainBatch:
    """Three images a row, one of each domain."""
    return DomainBatch(images(3 * n, seed), torch.arange(3).repeat_interleave(n))


def of_four_domains(n: int, seed: int) -> DomainBatch:
    return DomainBatch(images(4 * n, seed), torch.arange(4).repeat_interleave(n))


def of_digits(n: int, seed: int) -> LabelledBatch:
    """Only one image of the first domain is labelled."""
    label = torch.arange(n) * 7 % 10
    label[1:] = -1  # of two ranks one has no label
    return LabelledBatch(images(2 * n, seed), torch.arange(2).repeat_interleave(n), torch.cat((label, label * 0 - 1)))


def fader(**changes: Any) -> Fader:
    """Two binary attributes at 32x32; the ramp is over after two iterations."""
    tiny: dict[str, Any] = {
        "attributes": ("glasses", "smile"), "image_size": 32, "width": 4, "max_width": 8, "layers": 3, "hidden": 8,
        "lat_dropout": 0.0, "lambda_lat": 0.5, "ramp": 2, "lr": 1e-3,
    }  # fmt: skip
    return Fader(**(tiny | changes))


def fader_of_all_players() -> Fader:
    """Two steps of the latent discriminator, both others, a skip, three hair colours; ranks draw alike."""
    model = fader(
        attributes=("glasses", "smile", "hair"), categories=(2, 2, 3), skips=1, lambda_ptc=0.3, lambda_clf=0.2,
        lat_steps=2, ptc_steps=1, clf_steps=1, ema=0.9,
    )  # fmt: skip
    model.integers = lambda n, below: (torch.zeros(n, 1, dtype=torch.long) + 5) % below
    return model


def of_two(n: int, seed: int) -> AttributeBatch:
    """``2 n`` images for each of two steps, or for each of five."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(4 * n, 3, 32, 32, generator=rng) * 2 - 1
    return AttributeBatch(x, torch.randint(2, (4 * n, 2), generator=rng))


def of_three(n: int, seed: int) -> AttributeBatch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(10 * n, 3, 32, 32, generator=rng) * 2 - 1
    return AttributeBatch(x, torch.stack([torch.randint(k, (10 * n,), generator=rng) for k in (2, 2, 3)], 1))


def vae(kind: type[BetaVAE] = BetaVAE, **changes: Any) -> BetaVAE:
    """At 16x16 with a code of three coordinates, which is far from the prior."""
    tiny: dict[str, Any] = {
        "image_shape": (3, 16, 16), "latent": 3, "convs": (4, 4), "kernels": (4, 2), "hidden": (8,), "dec_hidden": (8,),
        "lr": 1e-3,
    }  # fmt: skip
    return kind(**(tiny | changes))


def vae_with_capacity() -> BetaVAE:
    return vae(gaussian=True, gamma=10.0, c_steps=2, glorot=False)


def beta_tcvae() -> BetaVAE:
    return vae(BetaTCVAE, data_size=100)


def dip_vae() -> BetaVAE:
    return vae(DIPVAE, second=True)


def factor_vae() -> BetaVAE:
    """Ranks shuffle alike: coordinates, not images."""
    model = vae(FactorVAE, halves=True, dis_width=8, dis_layers=2, dis_lr=1e-3)
    model.shuffled = lambda z: z.roll(1, 1)
    return model


def vq_vae2(**changes: Any) -> VQVAE2:
    tiny: dict[str, Any] = {"width": 4, "res_blocks": 1, "res_width": 3, "dim": 3, "codes": 6, "lr": 1e-3}
    return VQVAE2(**(tiny | changes))


def vq_vae2_of_three_levels() -> VQVAE2:
    return vq_vae2(levels=3, stride=2, decay=0.8, restart_below=0.0)


def small(n: int, seed: int) -> ImageBatch:
    rng = torch.Generator().manual_seed(seed)
    return ImageBatch(torch.rand(4 * n, 3, 16, 16, generator=rng) * 2 - 1)


CASES = [
    Case("unit", unit, unpaired),
    Case("unit_paper", unit_of_the_paper, unpaired),
    Case("dritpp", drit, half_encoded),
    Case("drit", drit_of_the_paper, half_encoded),
    Case("drit_shapes", drit_for_shapes, half_encoded),
    Case("seasons", seasons, halves),
    Case("shapes", shapes, halves_of_five),
    Case("ufdn", ufdn, of_domains),
    Case("ufdn_digits", ufdn_of_digits, of_digits),
    Case("ufdn_four", ufdn_of_four_domains, of_four_domains),
    Case("fader", fader, of_two),
    Case("fader_all", fader_of_all_players, of_three),
    Case("munit", munit, unpaired),
    Case("munit_cycle", munit_with_cycle, unpaired),
    Case("vae", vae, small),
    Case("vae_capacity", vae_with_capacity, small),
    Case("beta_tcvae", beta_tcvae, small),
    Case("dip_vae", dip_vae, small),
    Case("factor_vae", factor_vae, small),
    Case("vq_vae2", vq_vae2, small),
    Case("vq_vae2_three", vq_vae2_of_three_levels, small),
]


class Batches(pl.LightningDataModule):
    """Ready-made batches of one case; rank r of w gets rows r, r + w, ... of each."""

    def __init__(self, case: Case, iterations: int, images: int) -> None:
        super().__init__()
        self.case, self.iterations, self.images = case, iterations, images

    def train_dataloader(self) -> DataLoader:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = [self.case.batch(self.images, seed) for seed in range(self.iterations)]
        return DataLoader([type(b)(*(t[rank::world] for t in b)) for b in batches], batch_size=None)


def fit(module: ManualModule, data: pl.LightningDataModule, steps: int, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "max_epochs": -1,
        "max_steps": steps,
    }
    trainer = pl.Trainer(**(quiet | options))
    trainer.fit(module, data)
    return trainer


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def dcgan(**changes: Any) -> DCGAN:
    """At 16x16; narrow networks learn from larger weights."""
    tiny: dict[str, Any] = {"image_size": 16, "latent": 5, "width": 4, "lr": 1e-3, "ema": 0.9}
    return DCGAN(**(tiny | changes))


GROWING: dict[str, Any] = {"batches": (4,), "first": 1, "fade": 1, "stable": 1, "latent": 6, "half_life": 50.0}


# For ``progressive_gan`` and ``stylegan``: two iterations at the first resolution, three in which the next one fades in
# (shares 0, 1/3, 2/3), then that.
SLOWLY: dict[str, Any] = {"batches": (8,), "first": 16, "fade": 24, "stable": 16}


def progressive_gan(**changes: Any) -> ProgressiveGAN:
    """From 4x4 to 8x8: an iteration at 4x4, one in which 8x8 begins to fade in, then 8x8, however many processes."""
    tiny: dict[str, Any] = {"resolution": 8, "widths": (5, 4), "group": 2, "lr": 1e-2}
    return ProgressiveGAN(**(GROWING | tiny | changes))


def stylegan(**changes: Any) -> StyleGAN:
    """As ``progressive_gan``, from 8x8 to 16x16."""
    tiny: dict[str, Any] = {"resolution": 16, "widths": (5, 5, 4), "mapping": 2, "group": 2, "lrs": (1e-2, 2e-2)}
    return StyleGAN(**(GROWING | tiny | changes))


def square(n: int, seed: int, side: int) -> ImageBatch:
    """``4 n`` images."""
    return ImageBatch(torch.rand(4 * n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def growing_to_8(n: int, seed: int) -> ImageBatch:
    """Of iteration ``seed`` of ``progressive_gan``."""
    return square(n, seed, 4 if seed == 0 else 8)


def growing_to_16(n: int, seed: int) -> ImageBatch:
    """Of iteration ``seed`` of ``stylegan``."""
    return square(n, seed, 8 if seed == 0 else 16)


# Not among the others: G looks at no real image, so that one that is not finite leaves out D's step alone. Their own
# tests hold them to the rest of the contract.
GENERATORS = [
    Case("dcgan", dcgan, small),
    Case("progressive_gan", progressive_gan, growing_to_8),
    Case("stylegan", stylegan, growing_to_16),
]


class Growing(pl.LightningDataModule):
    """Images of the size that the model asks for, a batch a function of the iteration; processes share its rows."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Grown(self.trainer), batch_size=None)


class _Grown(IterableDataset):
    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[ImageBatch]:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        for k in count(self.trainer.global_step):
            phase = self.trainer.lightning_module.growth.at(k, world)
            batch = square(phase.batch * world // 4, k, phase.resolution)
            yield ImageBatch(batch.image[rank::world])


def alae(**changes: Any) -> ALAE:
    return ALAE(**({"latent": 4, "width": 8, "mapping_layers": 2} | changes))


def style_alae(**changes: Any) -> StyleALAE:
    """4x4 in iteration 0, a fade to 8x8 in iterations 1 and 2, 8x8 in 3, a fade to 16x16 in 4 and 5, then 16x16."""
    tiny: dict[str, Any] = {
        "resolution": 16, "latent": 4, "width": 4, "max_width": 6, "mapping_layers": 2, "batches": (2,), "first": 2,
        "fade": 4, "stable": 2,
    }  # fmt: skip
    return StyleALAE(**(tiny | changes))


def digits(n: int, seed: int) -> ImageBatch:
    rng = torch.Generator().manual_seed(seed)
    return ImageBatch(torch.rand(n, 1, 28, 28, generator=rng) * 2 - 1)


def grown(n: int, seed: int) -> ImageBatch:
    """As ``style_alae`` wants them in iteration ``seed``."""
    size, rng = style_alae().growth.at(seed).resolution, torch.Generator().manual_seed(seed)
    return ImageBatch(torch.rand(n, 3, size, size, generator=rng) * 2 - 1)


# Not among CASES: steps II and III do not look at the images, so that an image that is not finite stops step I alone.
ALAE_CASES = [Case("alae", alae, digits), Case("style_alae", style_alae, grown)]


def autoencoder(**changes: Any) -> Autoencoder:
    return Autoencoder(**({"latent": 4, "width": 8} | changes))


def latent_regressor(**changes: Any) -> LatentRegressor:
    return LatentRegressor(**({"latent": 4, "width": 8} | changes))


CASES.append(Case("autoencoder", autoencoder, digits))
GENERATORS.append(Case("latent_regressor", latent_regressor, digits))
