"""UNIT: Unsupervised Image-to-Image Translation Networks (Liu, Breuel, Kautz, NeurIPS 2017).

One VAE per domain, one latent space for both: views of the same scene share a code, so to translate is to
encode with one domain's encoder and to decode with the other's decoder.

    min_{E,G} max_D  sum_i  VAE_i + GAN_i + CC_i                          (the paper's objective)
    VAE_i  lambda_1 KL(q_i(z|x_i) || N(0, I)) - lambda_2 log p_{G_i}(x_i|z)
    GAN_i  lambda_0 log D_i(x_i) + lambda_0 log(1 - D_i(G_i(z_j)))
    CC_i   lambda_3 KL(q_i(z|x_i)) + lambda_3 KL(q_j(z|x_i^{i->j})) - lambda_4 log p_{G_i}(x_i|z_j)

with q_i(z|x) = N(E_i(x), I) and Laplacian likelihoods, whose negative logarithm is L1.

Two published systems are told apart by constructor arguments:

* The authors' 2018 release (the defaults): no weights shared, least squares on three scales.
* The paper: ``shared_blocks=1``, ``least_squares=False``, ``dis_scales=1``. The last ``shared_blocks`` residual
  blocks of the encoders are one, and so are the first ones of the decoders: only what lies nearest to the code is
  shared, "the high-level" part.

Departs from the paper, in both systems, as the 2018 release does: the KL is mean(mu^2) (no factor 1/2, no sum
over units), the first KL counts once and not again in CC_i, weights are the paper's divided by 10, and networks
use reflection padding, nearest upsampling and the release's layers instead of the paper's table. Departs from
the release by computing each needed thing once, with the same numbers: codes serve both players, each decoder
takes its own and the foreign code as one batch, D's weights get no gradient in the generator's step.
"""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import ImageBatch, UnpairedBatch
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator, lsgan_discriminator, lsgan_generator
from losses.divergence import kl_unit_variance
from losses.perceptual import domain_invariant_perceptual
from losses.reconstruction import l1
from networks.ema import follow_, frozen_copy
from networks.frozen.vgg import VGG16
from networks.init import kaiming_, normal_
from networks.patch_discriminator import MultiScaleDiscriminator, mean_over_scales, real_and_fake
from networks.prepared import weights_prepared_once
from networks.translator import ContentDecoder, ContentEncoder


class Decoded(NamedTuple):
    """What the decoders make of the codes of one batch: x_ba is an image of b, drawn in domain a."""

    x_aa: Tensor
    x_ba: Tensor
    x_bb: Tensor
    x_ab: Tensor


class UNIT(ManualModule):
    """Two domains, one shared latent space. Defaults are those of the authors' 2018 release.

    Args:
        domains: their names, for logs and pictures.
        width: channels after the first convolution.
        downsamplings: stride-2 convolutions between image and code; heights and widths must be multiples of
            2^downsamplings.
        blocks: residual blocks in each encoder and each decoder.
        shared_blocks: how many of them, nearest to the code, the two domains share; the paper 1, the release 0.
        same_start: both domains' networks start from the same weights, so that a translation starts as a
            reconstruction and codes agree from the first iteration; neither the paper nor the release does so.
        dis_width: channels after the first convolution of a discriminator.
        dis_layers: stride-2 convolutions in a discriminator.
        dis_scales: discriminators per domain, each at half the resolution of the one before; the paper 1.
        dis_init: standard deviation of their initial weights. The release's 0.02 is meant for width 64: a narrow
            discriminator hardly answers with it, and wants something like 0.07.
        least_squares: LSGAN as in the release, or the paper's log loss.
        lambda_gan: weight of the adversarial terms, the paper's lambda_0 = 10.
        lambda_kl: of the codes' KL, the paper's lambda_1 = 0.1.
        lambda_recon: of the reconstructions, the paper's lambda_2 = 100.
        lambda_cycle_kl: of the KL of the translations' codes, the paper's lambda_3 = 0.1.
        lambda_cycle: of the cycle reconstructions, the paper's lambda_4 = 100.
        lambda_vgg: of the domain-invariant perceptual term (release only; 1 for its street scenes at 512).
        vgg_weights: file of VGG-16 weights, needed where lambda_vgg > 0.
        lr: of both optimizers.
        betas: of both optimizers.
        weight_decay: L2, added to the gradient.
        lr_step: iterations between decays of the learning rate.
        lr_gamma: factor of each decay.
        reuse_fakes: D learns from the very translations that G learns from in the same iteration, not from a draw
            with noise of its own. The distribution is the same, two decodes an iteration are saved.
        ema: decay of a running average of E and G, from which translations are made outside training; 0 keeps none,
            as paper and release. It takes out the wandering of a short adversarial training.
    """

    style_spec = None  # one translation per image

    def __init__(
        self,
        domains: tuple[str, str] = ("a", "b"),
        width: int = 64,
        downsamplings: int = 2,
        blocks: int = 4,
        shared_blocks: int = 0,
        same_start: bool = False,
        dis_width: int = 64,
        dis_layers: int = 4,
        dis_scales: int = 3,
        dis_init: float = 0.02,
        least_squares: bool = True,
        lambda_gan: float = 1.0,
        lambda_kl: float = 0.01,
        lambda_recon: float = 10.0,
        lambda_cycle_kl: float = 0.01,
        lambda_cycle: float = 10.0,
        lambda_vgg: float = 0.0,
        vgg_weights: str | None = None,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-4,
        lr_step: int = 100_000,
        lr_gamma: float = 0.5,
        reuse_fakes: bool = False,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.domains = tuple(domains)
        self.least_squares, self.reuse_fakes = least_squares, reuse_fakes
        self.lambda_gan, self.lambda_kl, self.lambda_recon = lambda_gan, lambda_kl, lambda_recon
        self.lambda_cycle_kl, self.lambda_cycle, self.lambda_vgg = lambda_cycle_kl, lambda_cycle, lambda_vgg
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.lr_step, self.lr_gamma = lr_step, lr_gamma
        if not 0 <= shared_blocks <= blocks:
            raise ValueError(f"shared_blocks is {shared_blocks}, but there are {blocks} blocks to share.")
        if lambda_vgg > 0 and vgg_weights is None:
            raise ValueError("lambda_vgg > 0 needs vgg_weights, the path of a file of VGG-16 weights.")
        self.vgg = VGG16(vgg_weights) if lambda_vgg > 0 and vgg_weights else None

        self.encoders = nn.ModuleList(ContentEncoder(3, width, downsamplings, blocks) for _ in domains)
        self.decoders = nn.ModuleList(ContentDecoder(3, width, downsamplings, blocks) for _ in domains)
        self.discriminators = nn.ModuleList(
            MultiScaleDiscriminator(3, dis_width, dis_layers, dis_scales) for _ in domains
        )
        for k in range(shared_blocks):
            self.encoders[1].blocks[blocks - 1 - k] = self.encoders[0].blocks[blocks - 1 - k]
            self.decoders[1].blocks[k] = self.decoders[0].blocks[k]
        kaiming_(self.encoders)
        kaiming_(self.decoders)
        if same_start:
            self.encoders[1].load_state_dict(self.encoders[0].state_dict())
            self.decoders[1].load_state_dict(self.decoders[0].state_dict())
        normal_(self.discriminators, dis_init)
        self.ema = ema
        self.averaged = frozen_copy(nn.ModuleList((self.encoders, self.decoders))) if ema > 0 else None

    @weights_prepared_once()
    def training_step(self, batch: UnpairedBatch, batch_idx: int) -> None:
        """One step of D, one of E and G, on the same images."""
        self.check_size(batch.a, self.discriminators[0].smallest())
        self.check_size(batch.b, self.discriminators[1].smallest())
        opt_d, opt_g = self.optimizers()
        mu_a, mu_b = self.encoders[0](batch.a), self.encoders[1](batch.b)  # D's step leaves E and G as they are
        decoded = self.decode(mu_a, mu_b) if self.reuse_fakes else None
        with self.toggled_optimizer(opt_d):
            x_ba, x_ab = (decoded.x_ba, decoded.x_ab) if decoded is not None else self.fakes(mu_a, mu_b)
            loss, terms, scores = self.discriminator_loss(batch, x_ba.detach(), x_ab.detach())
            self.descend(opt_d, loss)
        self.log_terms("d", terms)
        self.log_terms("score", scores)
        with self.toggled_optimizer(opt_g):
            decoded = decoded if decoded is not None else self.decode(mu_a, mu_b)
            loss, terms = self.generator_loss(batch, mu_a, mu_b, decoded)
            self.descend(opt_g, loss)
        self.log_terms("g", terms)
        if self.averaged is not None:
            follow_(self.averaged, nn.ModuleList((self.encoders, self.decoders)), self.ema, self.iteration)
        self.end_iteration()

    def decode(self, mu_a: Tensor, mu_b: Tensor) -> Decoded:
        """Draw z ~ q(z|x) = N(mu, I) once for each image and decode it in both domains."""
        z_a, z_b = self.perturb(mu_a), self.perturb(mu_b)
        n = len(mu_a)
        z = torch.cat((z_a, z_b))
        own_a, own_b = self.decoders[0](z), self.decoders[1](z)
        return Decoded(x_aa=own_a[:n], x_ba=own_a[n:], x_bb=own_b[n:], x_ab=own_b[:n])

    @torch.no_grad()
    def fakes(self, mu_a: Tensor, mu_b: Tensor) -> tuple[Tensor, Tensor]:
        """Translations x_ba, x_ab from a noise draw of their own, as the release makes them for D's step."""
        z_a, z_b = self.perturb(mu_a), self.perturb(mu_b)
        return self.decoders[0](z_b), self.decoders[1](z_a)

    def discriminator_loss(self, batch: UnpairedBatch, x_ba: Tensor, x_ab: Tensor) -> tuple[Tensor, Terms, Terms]:
        """lambda_0 (GAN_a + GAN_b), real and generated images in one batch: no layer of D mixes images.

        Beside the loss and its terms, the mean scores: of least squares 1 is real and 0 generated, of the log loss
        they are logits.
        """
        adversarial = lsgan_discriminator if self.least_squares else log_discriminator
        d_a, d_b = self.discriminators
        (real_a, fake_a), (real_b, fake_b) = real_and_fake(d_a, batch.a, x_ba), real_and_fake(d_b, batch.b, x_ab)
        terms = {"a": adversarial(real_a, fake_a), "b": adversarial(real_b, fake_b)}
        scores = {"real_a": real_a, "fake_a": fake_a, "real_b": real_b, "fake_b": fake_b}
        loss = self.lambda_gan * (terms["a"] + terms["b"])
        return loss, terms, {name: mean_over_scales(each) for name, each in scores.items()}

    def generator_loss(
        self, batch: UnpairedBatch, mu_a: Tensor, mu_b: Tensor, decoded: Decoded
    ) -> tuple[Tensor, Terms]:
        """The generator's objective; terms of weight zero are not computed."""
        adversarial = lsgan_generator if self.least_squares else log_generator
        (e_a, e_b), (g_a, g_b), (d_a, d_b) = self.encoders, self.decoders, self.discriminators
        x_aa, x_ba, x_bb, x_ab = decoded
        terms = {
            "kl": kl_unit_variance(mu_a) + kl_unit_variance(mu_b),
            "recon": l1(x_aa, batch.a) + l1(x_bb, batch.b),
            "adv": adversarial(d_a(x_ba)) + adversarial(d_b(x_ab)),
        }
        loss = (
            self.lambda_kl * terms["kl"] + self.lambda_recon * terms["recon"]  # VAE_a + VAE_b
            + self.lambda_gan * terms["adv"]  # GAN_a + GAN_b
        )  # fmt: skip
        if self.lambda_cycle > 0 or self.lambda_cycle_kl > 0:
            mu_aba, mu_bab = e_b(x_ab), e_a(x_ba)
            terms["cycle_kl"] = kl_unit_variance(mu_aba) + kl_unit_variance(mu_bab)
            x_aba, x_bab = g_a(self.perturb(mu_aba)), g_b(self.perturb(mu_bab))
            terms["cycle"] = l1(x_aba, batch.a) + l1(x_bab, batch.b)
            loss = loss + self.lambda_cycle_kl * terms["cycle_kl"] + self.lambda_cycle * terms["cycle"]  # CC_a + CC_b
        if self.vgg is not None:
            terms["vgg"] = domain_invariant_perceptual(self.vgg, x_ba, batch.b) + domain_invariant_perceptual(
                self.vgg, x_ab, batch.a
            )
            loss = loss + self.lambda_vgg * terms["vgg"]
        return loss, terms

    def perturb(self, mu: Tensor) -> Tensor:
        """z ~ N(mu, I)."""
        return mu + self.noise_like(mu)

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """Decode the posterior mean, without noise (Translator protocol); source == target reconstructs."""
        self.check_size(x, self.smallest_size)
        encoders, decoders = (self.encoders, self.decoders) if self.averaged is None else self.averaged
        return decoders[target](encoders[source](x))

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """Posterior mean of the shared code, (N, C, h, w) (ContentCoder protocol)."""
        encoders = self.encoders if self.averaged is None else self.averaged[0]
        return encoders[source](x)

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Translate: the first prediction loader holds domain a, the second domain b."""
        return self.translate(batch.image, dataloader_idx, 1 - dataloader_idx)

    @property
    def size_multiple(self) -> int:
        """What heights and widths must be multiples of (Sized protocol)."""
        return 2 ** len(self.encoders[0].downs)

    @property
    def smallest_size(self) -> int:
        """Least height and width to translate: reflection by three at the image, by one at the code (Sized)."""
        return max(4, 2 * self.size_multiple)

    def check_size(self, x: Tensor, smallest: int) -> None:
        """Refuse heights and widths that the networks cannot give back (ValueError names the multiple)."""
        multiple = self.size_multiple
        if any(side % multiple or side < smallest for side in x.shape[-2:]):
            least = f" and at least {smallest}" if smallest > multiple else ""
            raise ValueError(
                f"UNIT needs images whose height and width are multiples of {multiple}{least}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: change the size in the data section."
            )

    def configure_optimizers(self):
        """Adam for each player; at 0-based iteration k the release's rate is lr gamma^floor((k + 1) / lr_step)."""
        players = self.discriminators.parameters(), chain(self.encoders.parameters(), self.decoders.parameters())
        opts = [Adam(p, self.lr, self.betas, weight_decay=self.weight_decay, fused=True) for p in players]
        return opts, [LambdaLR(opt, lambda k: self.lr_gamma ** ((k + 1) // self.lr_step)) for opt in opts]
