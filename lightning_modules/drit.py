"""DRIT: Diverse Image-to-Image Translation via Disentangled Representations (Lee, Tseng et al., ECCV 2018) and its
extension DRIT++ (IJCV 2020), between two domains.

An image is a content, whose space the domains share, and an attribute, whose space each domain has to itself. To
translate is to give a content of one domain an attribute of the other: that of an image, or a draw from N(0, I).

    min_{G,E^c,E^a} max_{D,D^c}  lambda_adv L_domain + lambda_content L_content + lambda_cycle L_cc
                                 + lambda_recon L_recon + lambda_latent L_latent + lambda_kl L_KL + lambda_ms L_ms

    L_content  D^c tells the domain from a content, E^c makes it say 1/2
    L_domain   of translations with an image's attribute (D) and with a random one (D'), two discriminators a domain
    L_cc       attributes of two images are swapped, and swapped back: x_ab and x_ba give x_a and x_b again
    L_recon    an image from its own content and attribute
    L_latent   the attribute of a translation with a random attribute is that attribute
    L_KL       attributes are N(0, I)
    L_ms       mode seeking (DRIT++): two random attributes give two images

Published systems are told apart by constructor arguments: DRIT++ is the default, ``lambda_ms=0`` is DRIT;
``concat=False`` is the generator for domains that differ in shape (cats and dogs, portraits).

Departs from the papers as the authors' release does: two discriminators a domain where the papers draw one (which
``one_discriminator`` is); the first half of a batch is encoded, the second serves only as real images for D' (the
release fixes the first half to one image); contents are regularised by their mean square, with the noise that training
adds to them, instead of an L1 norm (``l1_contents``); without ``concat`` L_KL is a mean square too; E^c and G take one
step for what encoded attributes give and one for random ones, E^a only the first. Most iterations train D^c alone.

Departs from the release: gradients of both steps come from one graph before either is taken (the release mixed old
activations with new weights there, which today's PyTorch refuses; measured, the two rules differ by 1e-4 to 4e-2); the
KL of ``concat`` is averaged over encoded images, not summed (the release encodes one); rates fall by iterations, not
epochs, whose last batches are like all others; a posterior's deviation is at most e^5; the generator's last bias starts
within 1 / sqrt(channels in), not within the 1 / sqrt(3) of a transposed convolution. What is needed once is computed
once, with the same numbers: see ``networks.drit``, and only rows that a loss needs pass the generator.
"""

import warnings
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import ImageBatch, UnpairedBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_confusion, log_discriminator, log_generator
from losses.divergence import kl_normal, kl_unit_variance
from losses.diversity import mode_seeking
from losses.reconstruction import l1
from networks.content_discriminator import ContentDiscriminator
from networks.drit import AttributeEncoder, ConcatGenerator, ContentEncoder, GaussianAttributeEncoder, MixingGenerator
from networks.ema import follow_, frozen_copy
from networks.freezing import frozen
from networks.init import normal_convolutions_
from networks.patch_discriminator import MultiScaleDiscriminator, mean_over_scales
from networks.prepared import weights_prepared_once


class Drawn(NamedTuple):
    """What encoders and generators make of the n encoded images of each domain; x_ba is of b, drawn in domain a."""

    c_a: Tensor  # contents, with noise
    c_b: Tensor
    kl_a: Tensor  # divergence of attributes from the prior
    kl_b: Tensor
    x_aa: Tensor
    x_bb: Tensor
    x_ba: Tensor  # with the attribute of x_a
    x_ab: Tensor
    z: Tensor  # random attributes: n rows, with mode seeking 2 n
    x_ba_random: Tensor  # with the random attributes
    x_ab_random: Tensor


class DRIT(ManualModule):
    """Two domains, one content space, an attribute space for each. Defaults are those of the release: DRIT++.

    Args:
        domains: their names, for logs and pictures.
        concat: append the attribute to the generator's features, and encode a distribution of it. False mixes it in by
            1x1 convolutions and encodes a point.
        style_size: coordinates of an attribute.
        width: channels after the content encoder's first convolution.
        downsamplings: stride-2 convolutions before a content; heights and widths are multiples of 2^downsamplings.
        blocks: residual blocks of a domain in the content encoder and, with ``concat``, in the generator; one more is
            shared. Without ``concat`` the generator has one more, and shares none.
        mlp_width: hidden units between attribute and generator, without ``concat``.
        attribute_width: channels after the attribute encoder's first convolution.
        dis_width: channels after the first convolution of a domain discriminator.
        dis_layers: stride-2 convolutions in a domain discriminator.
        dis_scales: resolutions that it scores.
        one_discriminator: the same discriminator of a domain judges translations with the attribute of an image and
            with a random one, as the paper draws; the release has two.
        content_dis_width: channels of the content discriminator.
        content_dis_layers: its 7x7 convolutions of stride 2. The release's 3 need images of 212 pixels.
        init_std: standard deviation of the initial convolution weights; narrow networks want more than 0.02.
        lambda_adv: weight of L_domain.
        lambda_content: of L_content; 0 leaves out the content discriminator and its iterations.
        lambda_cycle: of L_cc.
        lambda_recon: of L_recon.
        lambda_latent: of L_latent.
        lambda_kl: of L_KL.
        lambda_content_norm: of the size of contents.
        l1_contents: their size is their mean absolute value, as in the paper; the release has their mean square.
        lambda_ms: of L_ms; 0 is DRIT, and draws one random attribute an image.
        d_iter: one iteration in so many updates everything, the others only the content discriminator.
        encoded_rows: so many first images of a batch are encoded; None is half of it. The release: 1.
        lr: of all optimizers but the content discriminator's.
        content_lr: its share of ``lr``.
        content_clip: largest norm of its gradient.
        betas: of all optimizers.
        weight_decay: L2, added to the gradient.
        decay_from: iteration from which the rate falls linearly: 600 epochs of the release, of Yosemite's 615 batches.
        decay_to: iteration at which it is zero.
        ema: decay of a running average of E and G, which translates outside training; 0 keeps none, as the release.
    """

    def __init__(
        self,
        domains: tuple[str, str] = ("a", "b"),
        concat: bool = True,
        style_size: int = 8,
        width: int = 64,
        downsamplings: int = 2,
        blocks: int = 3,
        mlp_width: int = 256,
        attribute_width: int = 64,
        dis_width: int = 64,
        dis_layers: int = 4,
        dis_scales: int = 3,
        one_discriminator: bool = False,
        content_dis_width: int = 256,
        content_dis_layers: int = 3,
        init_std: float = 0.02,
        lambda_adv: float = 1.0,
        lambda_content: float = 1.0,
        lambda_cycle: float = 10.0,
        lambda_recon: float = 10.0,
        lambda_latent: float = 10.0,
        lambda_kl: float = 0.01,
        lambda_content_norm: float = 0.01,
        l1_contents: bool = False,
        lambda_ms: float = 1.0,
        d_iter: int = 3,
        encoded_rows: int | None = None,
        lr: float = 1e-4,
        content_lr: float = 0.4,
        content_clip: float = 5.0,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-4,
        decay_from: int = 369_000,
        decay_to: int = 738_000,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.domains, self.style_spec = tuple(domains), LatentSpec(style_size)
        self.lambda_adv, self.lambda_content, self.lambda_cycle = lambda_adv, lambda_content, lambda_cycle
        self.lambda_recon, self.lambda_latent, self.lambda_kl = lambda_recon, lambda_latent, lambda_kl
        self.lambda_content_norm, self.l1_contents, self.lambda_ms = lambda_content_norm, l1_contents, lambda_ms
        self.concat, self.d_iter, self.encoded_rows = concat, d_iter, encoded_rows
        self.lr, self.content_lr, self.content_clip = lr, content_lr, content_clip
        self.betas, self.weight_decay, self.ema = tuple(betas), weight_decay, ema
        self.decay_from, self.decay_to = decay_from, decay_to
        if d_iter < 1 or decay_to <= decay_from:
            raise ValueError(f"DRIT needs d_iter >= 1 and decay_to > decay_from: {d_iter}, {decay_to}, {decay_from}.")

        self.size_multiple = 2**downsamplings  # of which heights and widths must be multiples (Sized protocol)
        self.smallest_size = max(16, 2 * self.size_multiple)  # the attribute encoders halve four times (Sized protocol)
        channels = width * self.size_multiple
        self.content_encoder = ContentEncoder(width, downsamplings, blocks)
        encoder = GaussianAttributeEncoder if concat else AttributeEncoder
        self.attribute_encoders = nn.ModuleList(encoder(style_size, attribute_width) for _ in domains)
        self.generator: ConcatGenerator | MixingGenerator = (
            ConcatGenerator(channels, style_size, downsamplings, blocks)
            if concat
            else MixingGenerator(channels, style_size, downsamplings, blocks + 1, mlp_width)
        )
        self.discriminators, for_random = (
            nn.ModuleList(MultiScaleDiscriminator(3, dis_width, dis_layers, dis_scales, slope=0.01) for _ in domains)
            for _ in range(2)
        )
        self.random_discriminators = None if one_discriminator else for_random
        self.content_discriminator = (
            ContentDiscriminator(channels, content_dis_width, content_dis_layers) if lambda_content > 0 else None
        )
        normal_convolutions_(self, init_std)
        self.averaged = frozen_copy(nn.ModuleList(self.makers())) if ema > 0 else None

    def makers(self) -> tuple[ContentEncoder, nn.ModuleList, ConcatGenerator | MixingGenerator]:
        """The networks that make translations: E^c, E^a of each domain, G."""
        return self.content_encoder, self.attribute_encoders, self.generator

    def judges_of_random(self) -> nn.ModuleList:
        """D' of each domain, which is D with ``one_discriminator``."""
        return self.discriminators if self.random_discriminators is None else self.random_discriminators

    @weights_prepared_once()
    def training_step(self, batch: UnpairedBatch, batch_idx: int) -> None:
        """One step of D^c, and in every ``d_iter``-th iteration before it one of D and D', after it two of E and G."""
        opt_d, opt_g, *opt_content = self.optimizers()
        n = self.check_batch(batch)
        x_a, x_b = batch.a[:n], batch.b[:n]
        if self.only_content():
            with torch.no_grad():
                contents = self.content(x_a, 0), self.content(x_b, 1)
            self.step_content(opt_content[0], *contents)
        else:
            drawn = self.draw(x_a, x_b)  # D's step leaves E and G as they are
            with self.toggled_optimizer(opt_d):
                loss, terms, scores = self.discriminator_loss(batch, drawn)
                self.descend(opt_d, loss)
            self.log_terms("d", terms)
            self.log_terms("score", scores)
            if self.content_discriminator is not None:
                self.step_content(opt_content[0], drawn.c_a.detach(), drawn.c_b.detach())
            with self.toggled_optimizer(opt_g):
                loss, terms = self.encoded_loss(x_a, x_b, drawn)
                random_loss, random_terms = self.random_loss(drawn)
                self.descend(opt_g, loss, random_loss)
            self.log_terms("g", terms | random_terms)
            if self.averaged is not None:
                follow_(self.averaged, nn.ModuleList(self.makers()), self.ema, self.iteration)
        self.end_iteration()

    def only_content(self) -> bool:
        """Whether this iteration trains nothing but the content discriminator."""
        return self.content_discriminator is not None and (self.iteration + 1) % self.d_iter != 0

    def step_content(self, opt: torch.optim.Optimizer, c_a: Tensor, c_b: Tensor) -> None:
        """One step of D^c on contents without a graph."""
        with self.toggled_optimizer(opt):
            loss, terms = self.content_loss(c_a, c_b)
            self.descend(opt, loss, clip=self.content_clip)
        self.log_terms("content", terms)

    def draw(self, x_a: Tensor, x_b: Tensor) -> Drawn:
        """Encode each image once and decode its content with every attribute that a loss asks for."""
        g = self.generator
        c_a, c_b = self.content(x_a, 0), self.content(x_b, 1)
        (a_a, kl_a), (a_b, kl_b) = self.attribute(x_a, 0), self.attribute(x_b, 1)
        draws = 2 if self.lambda_ms > 0 else 1
        z = torch.cat([self.noise_like(a_a) for _ in range(draws)])  # the same for both directions
        shared_a, shared_b = g.share(c_a), g.share(c_b)
        h_aa, h_ab = g.content(shared_a, 0), g.content(shared_a, 1)
        h_ba, h_bb = g.content(shared_b, 0), g.content(shared_b, 1)
        # One call for what the first step needs, one for the second: neither then goes back through the other's rows.
        x_aa, x_ba = g.render(torch.cat((h_aa, h_ba)), torch.cat((a_a, a_a)), 0).chunk(2)
        x_bb, x_ab = g.render(torch.cat((h_bb, h_ab)), torch.cat((a_b, a_b)), 1).chunk(2)
        x_ba_random = g.render(torch.cat([h_ba] * draws), z, 0)
        x_ab_random = g.render(torch.cat([h_ab] * draws), z, 1)
        return Drawn(c_a, c_b, kl_a, kl_b, x_aa, x_bb, x_ba, x_ab, z, x_ba_random, x_ab_random)

    def content(self, x: Tensor, domain: int) -> Tensor:
        """Content with the noise of training: N(E^c(x), I)."""
        c = self.content_encoder(x, domain)
        return c + self.noise_like(c)

    def attribute(self, x: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        """Attribute, drawn from its posterior if there is one, and L_KL of it."""
        encoded = self.attribute_encoders[domain](x)
        if not self.concat:
            return encoded, kl_unit_variance(encoded)
        mu, logvar = encoded
        # Nothing holds the variance of a translation's attribute: an overflow here once ended a run.
        return mu + (logvar.clamp(max=10) / 2).exp() * self.noise_like(mu), kl_normal(mu, logvar)

    def discriminator_loss(self, batch: UnpairedBatch, drawn: Drawn) -> tuple[Tensor, Terms, Terms]:
        """L_domain for D and D', real and generated images in one batch: no layer of theirs mixes images.

        Beside the loss and its terms, the mean scores before the sigmoid: positive is real.
        """
        n = len(drawn.c_a)
        (d_a, d_b), (d_a_random, d_b_random) = self.discriminators, self.judges_of_random()
        terms: Terms = {}
        scores: Terms = {}
        for name, d, x, fakes in (
            ("a", d_a, batch.a[:n], [drawn.x_ba]),
            ("b", d_b, batch.b[:n], [drawn.x_ab]),
            ("a_random", d_a_random, batch.a[n:], drawn.x_ba_random.split(n)),
            ("b_random", d_b_random, batch.b[n:], drawn.x_ab_random.split(n)),
        ):
            terms[name], scores[f"real_{name}"], scores[f"fake_{name}"] = discriminate(d, x, *fakes)
        return terms["a"] + terms["b"] + terms["a_random"] + terms["b_random"], terms, scores

    def content_loss(self, c_a: Tensor, c_b: Tensor) -> tuple[Tensor, Terms]:
        """L_content for D^c, which calls contents of b real."""
        logits_a, logits_b = self.content_discriminator(torch.cat((c_a, c_b))).split(len(c_a))
        loss = log_discriminator([logits_b], [logits_a])
        return loss, {"domain": loss}

    def encoded_loss(self, x_a: Tensor, x_b: Tensor, drawn: Drawn) -> tuple[Tensor, Terms]:
        """First step of E and G: everything that encoded attributes give."""
        g, (d_a, d_b) = self.generator, self.discriminators
        x_ba, x_ab = drawn.x_ba, drawn.x_ab
        size = magnitude if self.l1_contents else kl_unit_variance
        c_bab, c_aba = self.content(x_ba, 0), self.content(x_ab, 1)
        (a_a, _), (a_b, _) = self.attribute(x_ba, 0), self.attribute(x_ab, 1)
        x_aba, x_bab = g(c_aba, a_a, 0), g(c_bab, a_b, 1)
        terms = {
            "adv": log_generator(d_a(x_ba)) + log_generator(d_b(x_ab)),
            "recon": l1(drawn.x_aa, x_a) + l1(drawn.x_bb, x_b),
            "cycle": l1(x_aba, x_a) + l1(x_bab, x_b),
            "kl": drawn.kl_a + drawn.kl_b,
            "content_norm": size(drawn.c_a) + size(drawn.c_b),
        }
        loss = (
            self.lambda_adv * terms["adv"] + self.lambda_recon * terms["recon"] + self.lambda_cycle * terms["cycle"]
            + self.lambda_kl * terms["kl"] + self.lambda_content_norm * terms["content_norm"]
        )  # fmt: skip
        if self.content_discriminator is not None:
            logits_a, logits_b = self.content_discriminator(torch.cat((drawn.c_a, drawn.c_b))).chunk(2)
            terms["content"] = log_confusion(logits_a) + log_confusion(logits_b)
            loss = loss + self.lambda_content * terms["content"]
        return loss, terms

    def random_loss(self, drawn: Drawn) -> tuple[Tensor, Terms]:
        """Second step of E^c and G: everything that random attributes give. L_latent is of the first draw."""
        (d_a, d_b), n = self.judges_of_random(), len(drawn.c_a)
        x_ba, x_ab, z = drawn.x_ba_random.split(n), drawn.x_ab_random.split(n), drawn.z.split(n)
        e_a, e_b = self.attribute_encoders
        with frozen(self.attribute_encoders):
            a_a, a_b = e_a.mean(x_ba[0]), e_b.mean(x_ab[0])
        terms = {
            "adv_random": adversary(d_a, x_ba) + adversary(d_b, x_ab),
            "latent": l1(a_a, z[0]) + l1(a_b, z[0]),
        }
        loss = self.lambda_adv * terms["adv_random"] + self.lambda_latent * terms["latent"]
        if self.lambda_ms > 0:
            terms["ms"] = mode_seeking(*x_ab, *z) + mode_seeking(*x_ba, *z)
            loss = loss + self.lambda_ms * terms["ms"]
        return loss, terms

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """Content of ``x`` with an attribute, by default the prior's mean (Translator protocol)."""
        self.check_size(x, max(4, 2 * self.size_multiple))  # reflection by three at the image, by one at the content
        content_encoder, _, generator = self.makers() if self.averaged is None else self.averaged
        z = x.new_zeros(len(x), self.style_spec.size) if style is None else style
        return generator(content_encoder(x, source), z, target)

    def style_of(self, x: Tensor, domain: int) -> Tensor:
        """Attribute without a draw, (N, size) (Stylist protocol)."""
        self.check_size(x, self.smallest_size)
        _, attribute_encoders, _ = self.makers() if self.averaged is None else self.averaged
        return attribute_encoders[domain].mean(x)

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """Content without noise, (N, C, h, w) (ContentCoder protocol)."""
        content_encoder, _, _ = self.makers() if self.averaged is None else self.averaged
        return content_encoder(x, source)

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Translate: the first prediction loader holds domain a, the second domain b."""
        return self.translate(batch.image, dataloader_idx, 1 - dataloader_idx)

    def check_batch(self, batch: UnpairedBatch) -> int:
        """Refuse what training cannot use (ValueError says what to change); returns how many images are encoded."""
        smallest = max(self.smallest_size, self.discriminators[0].smallest())
        if self.content_discriminator is not None:
            smallest = max(smallest, self.content_discriminator.smallest() * self.size_multiple)
        for x in batch.a, batch.b:
            self.check_size(x, smallest)
        n = len(batch.a) // 2 if self.encoded_rows is None else self.encoded_rows
        if n < 1 or (len(batch.a) <= n and not self.only_content()):
            raise ValueError(
                f"DRIT encodes one part of a batch and needs the rest as real images, so {len(batch.a)} of each domain "
                "are too few: set data.batch_size to an even number."
            )
        return n

    def check_size(self, x: Tensor, smallest: int) -> None:
        """Refuse heights and widths that the networks cannot take or give back (ValueError names the multiple)."""
        if any(side % self.size_multiple or side < smallest for side in x.shape[-2:]):
            least = f" and at least {smallest}" if smallest > self.size_multiple else ""
            raise ValueError(
                f"DRIT needs images whose height and width are multiples of {self.size_multiple}{least}, not "
                f"{x.shape[-2]} x {x.shape[-1]}: change data.size, or content_dis_layers, dis_layers and dis_scales."
            )

    def configure_optimizers(self):
        """Adam for D and D', for E and G, for D^c; the rate is constant, then falls linearly."""
        players = [
            (nn.ModuleList((self.discriminators, self.judges_of_random())).parameters(), self.lr),
            (chain(*(maker.parameters() for maker in self.makers())), self.lr),
        ]
        if self.content_discriminator is not None:
            players.append((self.content_discriminator.parameters(), self.lr * self.content_lr))
        opts = [Adam(p, lr, self.betas, weight_decay=self.weight_decay, fused=True) for p, lr in players]
        # Rates are counted in iterations, and not every optimizer steps in the first of them.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return opts, [LambdaLR(opt, self.rate) for opt in opts]

    def rate(self, iteration: int) -> float:
        """Factor of the learning rate at a 0-based iteration."""
        return 1 - max(0, min(iteration, self.decay_to) - self.decay_from) / (self.decay_to - self.decay_from)


def discriminate(discriminator: nn.Module, x: Tensor, *fakes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss on real images against each of several sets of fakes, which learn nothing from it; mean scores of both."""
    logits = discriminator(torch.cat((x, *(fake.detach() for fake in fakes))))
    parts = [score.split([len(x), *map(len, fakes)]) for score in logits]
    real, *generated = zip(*parts, strict=True)
    loss = torch.stack([log_discriminator(real, fake) for fake in generated]).sum()
    return loss, mean_over_scales(real), mean_over_scales([score[len(x) :] for score in logits])


def magnitude(c: Tensor) -> Tensor:
    """L1 norm of a content, averaged over every element."""
    return c.abs().mean()


def adversary(discriminator: nn.Module, fakes: tuple[Tensor, ...]) -> Tensor:
    """Loss of the generator summed over several sets of as many fakes."""
    return len(fakes) * log_generator(discriminator(torch.cat(fakes)))
