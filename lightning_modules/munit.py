"""MUNIT: Multimodal Unsupervised Image-to-Image Translation (Huang, Liu, Belongie, Kautz, ECCV 2018).

An image is a content, a map that the domains share, and a style, a short code of its own domain whose prior is
N(0, I). To translate is to keep the content and to draw a style of the other domain, or to read one off an example.

    min_{E,G} max_D  sum_i  GAN_i + lambda_x recon^{x_i} + lambda_c recon^{c_i} + lambda_s recon^{s_i}
                            + lambda_cyc cycle^{x_i} + lambda_vgg VGG_i          (the last two are optional)
    GAN_1        log(1 - D_1(G_1(c_2, s_1))) + log D_1(x_1),   c_i = E^c_i(x_i), s_i ~ N(0, I)
    recon^{x_1}  |G_1(E^c_1(x_1), E^s_1(x_1)) - x_1|           images
    recon^{c_1}  |E^c_2(G_2(c_1, s_2)) - c_1|                  contents
    recon^{s_2}  |E^s_2(G_2(c_1, s_2)) - s_2|                  styles: those that were drawn
    cycle^{x_1}  |G_1(E^c_2(G_2(c_1, s_2)), E^s_1(x_1)) - x_1| there and back, with the image's own style

all L1, and least squares for the logarithms, on three scales (paper, section 5.1). c_1 is no constant in
recon^{c_1}: its gradient reaches the encoder from both sides. Networks are those of the authors' release. Departs from
the release by computing each needed thing once, with the same numbers: contents serve both players, D's step encodes
no styles, each decoder takes its own and the foreign content as one batch, D's weights get no gradient in the
generator's step.
"""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import ImageBatch, UnpairedBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import lsgan_discriminator, lsgan_generator
from losses.perceptual import domain_invariant_perceptual
from losses.reconstruction import l1
from networks.blocks import reflect, zeros
from networks.ema import follow_, frozen_copy
from networks.frozen.vgg import VGG16
from networks.init import kaiming_, normal_
from networks.munit import AdaINDecoder, StyleEncoder
from networks.patch_discriminator import MultiScaleDiscriminator, mean_over_scales, real_and_fake
from networks.prepared import weights_prepared_once
from networks.translator import ContentEncoder


class Decoded(NamedTuple):
    """What the decoders make of one batch: x_ba has the content of an image of b, in domain a, in the style s_a."""

    x_aa: Tensor
    x_ba: Tensor
    x_bb: Tensor
    x_ab: Tensor
    own_a: Tensor  # (N, style_size), read off the images of a
    own_b: Tensor
    s_a: Tensor  # (N, style_size), drawn
    s_b: Tensor


class MUNIT(ManualModule):
    """Two domains, one content space, a style space for each. Defaults are those of the authors' release.

    Args:
        domains: their names, for logs and pictures.
        width: channels after the first convolution.
        downsamplings: stride-2 convolutions between image and content; heights and widths must be multiples of
            2^downsamplings. The style encoder always has four.
        blocks: residual blocks in each content encoder and each decoder.
        style_size: coordinates of a style.
        mlp_width: hidden layers between a style and the decoder's AdaIN layers.
        zero_padding: zeros at the borders of all convolutions instead of reflections, as in the release's animal and
            HD models of April 2018; a little slower.
        same_start: both domains' networks start from the same weights, so that contents agree from the first
            iteration; neither the paper nor the release does so.
        calm_start: decoders start nearly indifferent to styles, their AdaIN layers near a plain normalisation. In
            paper and release the weights of AdaIN have mean 0, and each style turns the signs of features at random
            until training has sorted them; a short run has no time for that.
        dis_width: channels after the first convolution of a discriminator.
        dis_layers: stride-2 convolutions in a discriminator.
        dis_scales: discriminators per domain, each at half the resolution of the one before.
        dis_init: standard deviation of their initial weights. The release's 0.02 is meant for width 64: a narrow
            discriminator hardly answers with it, and wants something like 0.07.
        lambda_gan: weight of the adversarial terms.
        lambda_recon: of the image reconstructions, the paper's lambda_x = 10.
        lambda_style: of the style reconstructions, the paper's lambda_s = 1.
        lambda_content: of the content reconstructions, the paper's lambda_c = 1.
        lambda_cycle: of the style-augmented cycle; 10 in the release where a translation keeps its shapes (seasons,
            streets), 0 where it does not (edges, animals).
        lambda_vgg: of the domain-invariant perceptual term (paper, section 5.1; 1 for pictures of 512 and more).
        vgg_weights: file of VGG-16 weights, needed where lambda_vgg > 0.
        lr: of both optimizers.
        betas: of both optimizers.
        weight_decay: L2, added to the gradient.
        lr_step: iterations between decays of the learning rate.
        lr_gamma: factor of each decay.
        reuse_fakes: D learns from the very translations that G learns from in the same iteration, not from those of
            a style draw of its own. The distribution is the same, two decodes an iteration are saved.
        ema: decay of a running average of encoders and decoders, which serves outside training; 0 keeps none, as
            paper and release. It takes out the wandering of a short adversarial training.
    """

    def __init__(
        self,
        domains: tuple[str, str] = ("a", "b"),
        width: int = 64,
        downsamplings: int = 2,
        blocks: int = 4,
        style_size: int = 8,
        mlp_width: int = 256,
        zero_padding: bool = False,
        same_start: bool = False,
        calm_start: bool = False,
        dis_width: int = 64,
        dis_layers: int = 4,
        dis_scales: int = 3,
        dis_init: float = 0.02,
        lambda_gan: float = 1.0,
        lambda_recon: float = 10.0,
        lambda_style: float = 1.0,
        lambda_content: float = 1.0,
        lambda_cycle: float = 0.0,
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
        self.domains, self.style_spec = tuple(domains), LatentSpec(style_size)
        self.reuse_fakes = reuse_fakes
        self.lambda_gan, self.lambda_recon, self.lambda_style = lambda_gan, lambda_recon, lambda_style
        self.lambda_content, self.lambda_cycle, self.lambda_vgg = lambda_content, lambda_cycle, lambda_vgg
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.lr_step, self.lr_gamma = lr_step, lr_gamma
        if lambda_vgg > 0 and vgg_weights is None:
            raise ValueError("lambda_vgg > 0 needs vgg_weights, the path of a file of VGG-16 weights.")
        self.vgg = VGG16(vgg_weights) if lambda_vgg > 0 and vgg_weights else None

        padding = zeros if zero_padding else reflect
        self.content_encoders = nn.ModuleList(ContentEncoder(3, width, downsamplings, blocks, padding) for _ in domains)
        self.style_encoders = nn.ModuleList(StyleEncoder(3, width, style_size, padding) for _ in domains)
        self.decoders = nn.ModuleList(
            AdaINDecoder(3, width, downsamplings, blocks, style_size, mlp_width, padding) for _ in domains
        )
        self.discriminators = nn.ModuleList(
            MultiScaleDiscriminator(3, dis_width, dis_layers, dis_scales, padding=padding) for _ in domains
        )
        for nets in self.generators():
            kaiming_(nets)
            if same_start:
                nets[1].load_state_dict(nets[0].state_dict())
        if calm_start:
            for g in self.decoders:
                g.calm_(0.2)
        normal_(self.discriminators, dis_init)
        self.ema = ema
        self.averaged = frozen_copy(self.generators()) if ema > 0 else None

    def generators(self) -> nn.ModuleList:
        """Content encoders, style encoders and decoders, each of both domains."""
        return nn.ModuleList((self.content_encoders, self.style_encoders, self.decoders))

    @weights_prepared_once()
    def training_step(self, batch: UnpairedBatch, batch_idx: int) -> None:
        """One step of D, one of E and G, on the same images."""
        smallest = max(StyleEncoder.smallest, self.discriminators[0].smallest())
        self.check_size(batch.a, smallest)
        self.check_size(batch.b, smallest)
        opt_d, opt_g = self.optimizers()
        # D's step leaves E and G as they are, so contents hold for both.
        c_a, c_b = self.content_encoders[0](batch.a), self.content_encoders[1](batch.b)
        decoded = self.decode(batch, c_a, c_b) if self.reuse_fakes else None
        with self.toggled_optimizer(opt_d):
            x_ba, x_ab = (decoded.x_ba, decoded.x_ab) if decoded is not None else self.fakes(batch, c_a, c_b)
            loss, terms, scores = self.discriminator_loss(batch, x_ba.detach(), x_ab.detach())
            self.descend(opt_d, loss)
        self.log_terms("d", terms)
        self.log_terms("score", scores)
        with self.toggled_optimizer(opt_g):
            decoded = decoded if decoded is not None else self.decode(batch, c_a, c_b)
            loss, terms = self.generator_loss(batch, c_a, c_b, decoded)
            self.descend(opt_g, loss)
        self.log_terms("g", terms)
        if self.averaged is not None:
            follow_(self.averaged, self.generators(), self.ema, self.iteration)
        self.end_iteration()

    def draw_styles(self, batch: UnpairedBatch) -> tuple[Tensor, Tensor]:
        """s_a, s_b ~ N(0, I), (N, style_size): s_a is for what becomes an image of a, so for the contents of b."""
        size = self.style_spec.size  # drawn as the release draws them, (N, size, 1, 1)
        s_a = self.noise_like(batch.b.new_empty(len(batch.b), size, 1, 1))
        s_b = self.noise_like(batch.a.new_empty(len(batch.a), size, 1, 1))
        return s_a.flatten(1), s_b.flatten(1)

    def decode(self, batch: UnpairedBatch, c_a: Tensor, c_b: Tensor) -> Decoded:
        """Each content in its own domain and style, and in the other domain in a drawn style."""
        own_a, own_b = self.style_encoders[0](batch.a), self.style_encoders[1](batch.b)
        s_a, s_b = self.draw_styles(batch)
        x_aa, x_ba = self.decoders[0](torch.cat((c_a, c_b)), torch.cat((own_a, s_a))).split((len(c_a), len(c_b)))
        x_bb, x_ab = self.decoders[1](torch.cat((c_b, c_a)), torch.cat((own_b, s_b))).split((len(c_b), len(c_a)))
        return Decoded(x_aa, x_ba, x_bb, x_ab, own_a, own_b, s_a, s_b)

    @torch.no_grad()
    def fakes(self, batch: UnpairedBatch, c_a: Tensor, c_b: Tensor) -> tuple[Tensor, Tensor]:
        """Translations x_ba, x_ab in styles of a draw of their own, as the release makes them for D's step."""
        s_a, s_b = self.draw_styles(batch)
        return self.decoders[0](c_b, s_a), self.decoders[1](c_a, s_b)

    def discriminator_loss(self, batch: UnpairedBatch, x_ba: Tensor, x_ab: Tensor) -> tuple[Tensor, Terms, Terms]:
        """GAN_a + GAN_b, real and generated images in one batch: no layer of D mixes images.

        Beside the loss and its terms, the mean scores: 1 is real and 0 generated.
        """
        d_a, d_b = self.discriminators
        (real_a, fake_a), (real_b, fake_b) = real_and_fake(d_a, batch.a, x_ba), real_and_fake(d_b, batch.b, x_ab)
        terms = {"a": lsgan_discriminator(real_a, fake_a), "b": lsgan_discriminator(real_b, fake_b)}
        scores = {"real_a": real_a, "fake_a": fake_a, "real_b": real_b, "fake_b": fake_b}
        loss = self.lambda_gan * (terms["a"] + terms["b"])
        return loss, terms, {name: mean_over_scales(each) for name, each in scores.items()}

    def generator_loss(self, batch: UnpairedBatch, c_a: Tensor, c_b: Tensor, decoded: Decoded) -> tuple[Tensor, Terms]:
        """The generator's objective; terms of weight zero beyond the first two are not computed."""
        (ec_a, ec_b), (es_a, es_b) = self.content_encoders, self.style_encoders
        (g_a, g_b), (d_a, d_b) = self.decoders, self.discriminators
        x_aa, x_ba, x_bb, x_ab, own_a, own_b, s_a, s_b = decoded
        terms = {
            "recon": l1(x_aa, batch.a) + l1(x_bb, batch.b),
            "adv": lsgan_generator(d_a(x_ba)) + lsgan_generator(d_b(x_ab)),
        }
        loss = self.lambda_recon * terms["recon"] + self.lambda_gan * terms["adv"]  # recon^x and GAN
        if self.lambda_style > 0:
            terms["style"] = l1(es_a(x_ba), s_a) + l1(es_b(x_ab), s_b)
            loss = loss + self.lambda_style * terms["style"]  # recon^s
        if self.lambda_content > 0 or self.lambda_cycle > 0:
            c_aba, c_bab = ec_b(x_ab), ec_a(x_ba)
        if self.lambda_content > 0:
            terms["content"] = l1(c_aba, c_a) + l1(c_bab, c_b)
            loss = loss + self.lambda_content * terms["content"]  # recon^c
        if self.lambda_cycle > 0:
            terms["cycle"] = l1(g_a(c_aba, own_a), batch.a) + l1(g_b(c_bab, own_b), batch.b)
            loss = loss + self.lambda_cycle * terms["cycle"]  # cycle^x
        if self.vgg is not None:
            terms["vgg"] = domain_invariant_perceptual(self.vgg, x_ba, batch.b) + domain_invariant_perceptual(
                self.vgg, x_ab, batch.a
            )
            loss = loss + self.lambda_vgg * terms["vgg"]
        return loss, terms

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """Decode the content of ``x`` in a style of domain ``target`` (Translator protocol).

        Args:
            x: (N, 3, H, W) in [-1, 1] of domain ``source``.
            source: 0 or 1.
            target: 0 or 1; with ``style_of(x, source)`` for a style, ``source`` gives the reconstruction.
            style: (N, style_size), drawn or from ``style_of``; None is the mean of the prior, zeros.
        """
        contents, _, decoders = self.averaged or self.generators()
        style = x.new_zeros(len(x), self.style_spec.size) if style is None else style
        self.check_size(x, max(4, 2 * self.size_multiple))  # reflection by three at the image, by one at the content
        return decoders[target](contents[source](x), style)

    def style_of(self, x: Tensor, domain: int) -> Tensor:
        """E^s(x), (N, style_size), what ``translate`` takes towards ``domain`` (Stylist protocol)."""
        self.check_size(x, StyleEncoder.smallest)
        _, styles, _ = self.averaged or self.generators()
        return styles[domain](x)

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """E^c(x), (N, C, h, w) (ContentCoder protocol)."""
        contents, _, _ = self.averaged or self.generators()
        return contents[source](x)

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Translate in the mean style: the first prediction loader holds domain a, the second domain b."""
        return self.translate(batch.image, dataloader_idx, 1 - dataloader_idx)

    @property
    def size_multiple(self) -> int:
        """What heights and widths must be multiples of (Sized protocol)."""
        return 2 ** len(self.content_encoders[0].downs)

    @property
    def smallest_size(self) -> int:
        """Least height and width for ``translate`` and ``style_of`` (Sized protocol)."""
        return max(StyleEncoder.smallest, 2 * self.size_multiple)

    def check_size(self, x: Tensor, smallest: int) -> None:
        """Refuse heights and widths that the networks cannot give back (ValueError names the multiple)."""
        multiple = self.size_multiple
        if any(side % multiple or side < smallest for side in x.shape[-2:]):
            least = f" and at least {smallest}" if smallest > multiple else ""
            raise ValueError(
                f"MUNIT needs images whose height and width are multiples of {multiple}{least}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: change the size in the data section."
            )

    def configure_optimizers(self):
        """Adam for each player; at 0-based iteration k the release's rate is lr gamma^floor((k + 1) / lr_step)."""
        players = self.discriminators.parameters(), chain(*(nets.parameters() for nets in self.generators()))
        opts = [Adam(p, self.lr, self.betas, weight_decay=self.weight_decay, fused=True) for p in players]
        return opts, [LambdaLR(opt, lambda k: self.lr_gamma ** ((k + 1) // self.lr_step)) for opt in opts]
