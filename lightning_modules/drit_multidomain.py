"""DRIT++ between any number of domains (Lee, Tseng et al., IJCV 2020, released as MDMM).

An image is a content c = E^c(x), the same whatever the domain, and an attribute a = E^a(x, k), where k is the one-hot
code of its domain. One generator G(c, a, k) serves all domains. A batch has two halves A and B of images of any
domains; contents change places between them and attributes and codes stay: x_cross is x's attribute on the other's
content.

    min_{G,E^c,E^a} max_{D,D'}  lambda_adv L_adv + lambda_cls_g L_cls + lambda_content L_content + lambda_cycle L_cc
                                + lambda_recon L_recon + lambda_latent L_latent + lambda_kl L_KL + lambda_ms L_ms

    L_adv      of translations with an image's attribute (D) and with a random one (D'), one of each for all domains
    L_cls      D and D' tell the domain of real images, translations are to be told as k
    L_content  D^c tells the domain from a content, E^c makes it say yes to all domains but the right one
    L_cc       contents of two images change places, and change back: the images again
    L_recon    an image from its own content and attribute
    L_latent   the attribute of a translation with a random attribute is that attribute
    L_KL       attributes are N(0, I)
    L_ms       mode seeking: two random attributes give two images

Domains and attributes are added behind the residual blocks of G, which are blind to them: they run once a content,
whatever is rendered of it (``networks.drit_multidomain``). ``concat=False`` is the generator for domains that differ in
shape, which the authors call not fully tested.

Departs from the paper as the release does: two discriminators, of image attributes and of random ones; D^c's game is K
yes-or-no questions, with targets k for D^c and 1 - k for E^c; L_adv and the KL of ``concat`` are *sums* over the images
of a batch where all else is a mean, so their share grows with the batch (of all processes, here); scores have a ring of
zeros (``dis_ring``); contents are regularised by their mean square, noise included; without ``concat`` L_KL is a mean
square too; E^c and G take one step for what encoded attributes give and one for random ones, E^a only the first. D^c
steps in the iterations that are its alone, two of three, and its rate never falls.

Departs from the release: L_ms, which the paper has and the release has not (``lambda_ms=0`` leaves it out; with it D'
and L_cls see both draws, L_latent the first, as in the release between two domains); gradients of both steps of E and
G come from one graph before either is taken; with ``d_iter=1`` D^c steps in every iteration, where the release would
never train it; rates fall by iterations, not epochs; a posterior's deviation is at most e^5; the generator's last bias
starts within 1 / sqrt(channels in). ``lightning_modules/drit.py`` has the reasons.
"""

import warnings
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import DomainBatch, ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import log_discriminator, log_generator
from losses.divergence import kl_normal, kl_unit_variance
from losses.diversity import mode_seeking
from losses.reconstruction import l1
from networks.drit import ContentTrunk
from networks.drit_multidomain import (
    ContentClassifier,
    DomainAttributeEncoder,
    DomainConcatGenerator,
    DomainDiscriminator,
    DomainGaussianAttributeEncoder,
    DomainMixingGenerator,
)
from networks.ema import follow_, frozen_copy
from networks.freezing import frozen
from networks.init import normal_convolutions_
from networks.prepared import weights_prepared_once


class Drawn(NamedTuple):
    """What encoders and generator make of the N images of a batch; rows are images unless said otherwise."""

    c: Tensor  # contents, with noise
    kl: Tensor  # divergence of attributes from the prior
    x_self: Tensor  # own content, own attribute
    x_cross: Tensor  # content of the other half, own attribute
    z: Tensor  # random attributes, the same in both halves; with mode seeking 2 N, the second draw behind the first
    x_random: Tensor  # content of the other half, random attribute, domain of x; as many


class MultiDomainDRIT(ManualModule):
    """Any number of domains, one of each network. Defaults are those of the release, with DRIT++'s mode seeking.

    Args:
        domains: their names, for logs and pictures, in the order of ``DomainBatch.domain``; ``main.py`` takes those of
            the data where none are given.
        concat: append domain and attribute to the generator's features, and encode a distribution of the attribute.
            False mixes them in by 1x1 convolutions and encodes a point.
        style_size: coordinates of an attribute.
        width: channels after the content encoder's first convolution.
        downsamplings: stride-2 convolutions before a content; heights and widths are multiples of 2^downsamplings.
        blocks: residual blocks of the generator with ``concat``; the content encoder, and the generator without
            ``concat``, have one more.
        mlp_width: hidden units between attribute and generator, without ``concat``.
        attribute_width: channels after the attribute encoder's first convolution.
        dis_width: channels after the first convolution of a discriminator.
        dis_layers: stride-2 convolutions in a discriminator.
        dis_kernel: of its domain head; the release has int(size / 64), 3 at 216 pixels, 4 at 256.
        dis_ring: its scores have the release's border of zeros.
        content_dis_width: channels of the content discriminator.
        content_dis_layers: its 7x7 convolutions of stride 2. The release's 3 need images of 212 pixels.
        init_std: standard deviation of the initial convolution weights; narrow networks want more than 0.02.
        lambda_adv: weight of L_adv.
        lambda_cls: of L_cls, for D and D'.
        lambda_cls_g: of L_cls, for E and G.
        lambda_content: of L_content; 0 leaves out the content discriminator and its iterations.
        lambda_cycle: of L_cc.
        lambda_recon: of L_recon.
        lambda_latent: of L_latent.
        lambda_kl: of L_KL.
        lambda_content_norm: of the mean square of contents.
        lambda_ms: of L_ms; 0 is the release, and draws one random attribute an image.
        d_iter: one iteration in so many updates everything but the content discriminator, the others only that; 1
            updates everything in every iteration.
        lr: of all optimizers but the content discriminator's.
        content_lr: its share of ``lr``.
        content_clip: largest norm of its gradient.
        betas: of all optimizers.
        weight_decay: L2, added to the gradient.
        decay_from: iteration from which the rate falls linearly, half of ``decay_to`` as 600 of 1200 epochs are.
        decay_to: iteration at which it is zero: the release's 500 000 full updates.
        ema: decay of a running average of E and G, which translates outside training; 0 keeps none, as the release.
    """

    def __init__(
        self,
        domains: tuple[str, ...] = (),
        concat: bool = True,
        style_size: int = 8,
        width: int = 64,
        downsamplings: int = 2,
        blocks: int = 3,
        mlp_width: int = 256,
        attribute_width: int = 64,
        dis_width: int = 64,
        dis_layers: int = 6,
        dis_kernel: int = 3,
        dis_ring: bool = True,
        content_dis_width: int = 256,
        content_dis_layers: int = 3,
        init_std: float = 0.02,
        lambda_adv: float = 1.0,
        lambda_cls: float = 1.0,
        lambda_cls_g: float = 5.0,
        lambda_content: float = 1.0,
        lambda_cycle: float = 10.0,
        lambda_recon: float = 10.0,
        lambda_latent: float = 10.0,
        lambda_kl: float = 0.01,
        lambda_content_norm: float = 0.01,
        lambda_ms: float = 1.0,
        d_iter: int = 3,
        lr: float = 1e-4,
        content_lr: float = 0.4,
        content_clip: float = 5.0,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-4,
        decay_from: int = 750_000,
        decay_to: int = 1_500_000,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.domains, self.style_spec = tuple(domains), LatentSpec(style_size)
        self.lambda_adv, self.lambda_cls, self.lambda_cls_g = lambda_adv, lambda_cls, lambda_cls_g
        self.lambda_content, self.lambda_cycle, self.lambda_recon = lambda_content, lambda_cycle, lambda_recon
        self.lambda_latent, self.lambda_kl, self.lambda_ms = lambda_latent, lambda_kl, lambda_ms
        self.lambda_content_norm = lambda_content_norm
        self.concat, self.d_iter = concat, d_iter
        self.lr, self.content_lr, self.content_clip = lr, content_lr, content_clip
        self.betas, self.weight_decay, self.ema = tuple(betas), weight_decay, ema
        self.decay_from, self.decay_to = decay_from, decay_to
        if len(self.domains) < 2:
            raise ValueError(f"MultiDomainDRIT translates between domains, but has {len(self.domains)}: set domains.")
        if d_iter < 1 or decay_to <= decay_from:
            raise ValueError(
                f"MultiDomainDRIT needs d_iter >= 1 and decay_to > decay_from: {d_iter}, {decay_to}, {decay_from}."
            )

        self.size_multiple = 2**downsamplings  # of which heights and widths must be multiples (Sized protocol)
        self.smallest_size = max(16, 2 * self.size_multiple)  # the attribute encoders halve four times (Sized protocol)
        channels, k = width * self.size_multiple, len(self.domains)
        self.content_encoder = ContentTrunk(width, downsamplings, blocks + 1)
        encoder = DomainGaussianAttributeEncoder if concat else DomainAttributeEncoder
        self.attribute_encoder = encoder(k, style_size, attribute_width)
        self.generator: DomainConcatGenerator | DomainMixingGenerator = (
            DomainConcatGenerator(k, channels, style_size, downsamplings, blocks)
            if concat
            else DomainMixingGenerator(k, channels, style_size, downsamplings, blocks + 1, mlp_width)
        )
        self.discriminator, self.random_discriminator = (
            DomainDiscriminator(k, dis_width, dis_layers, dis_kernel, dis_ring) for _ in range(2)
        )
        self.content_discriminator = (
            ContentClassifier(k, channels, content_dis_width, content_dis_layers) if lambda_content > 0 else None
        )
        normal_convolutions_(self, init_std)
        self.averaged = frozen_copy(nn.ModuleList(self.makers())) if ema > 0 else None

    def makers(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The networks that make translations: E^c, E^a, G."""
        return self.content_encoder, self.attribute_encoder, self.generator

    @weights_prepared_once()
    def training_step(self, batch: DomainBatch, batch_idx: int) -> None:
        """One step of D^c alone or, in every ``d_iter``-th iteration, one of D and D' and then two of E and G."""
        opt_d, opt_g, *opt_content = self.optimizers()
        self.check_batch(batch)
        x, k = batch.image, one_hot(batch.domain, len(self.domains)).to(batch.image.dtype)
        if self.only_content():
            with torch.no_grad():
                c = self.content(x)
            self.step_content(opt_content[0], c, k)
        else:
            drawn = self.draw(x, k)  # D's step leaves E and G as they are
            with self.toggled_optimizer(opt_d):
                loss, terms, scores = self.discriminator_loss(x, k, drawn)
                self.descend(opt_d, loss)
            self.log_terms("d", terms)
            self.log_terms("score", scores)
            if self.content_discriminator is not None and self.d_iter == 1:
                self.step_content(opt_content[0], drawn.c.detach(), k)
            with self.toggled_optimizer(opt_g):
                loss, terms = self.encoded_loss(x, k, drawn)
                random_loss, random_terms = self.random_loss(k, drawn)
                self.descend(opt_g, loss, random_loss)
            self.log_terms("g", terms | random_terms)
            if self.averaged is not None:
                follow_(self.averaged, nn.ModuleList(self.makers()), self.ema, self.iteration)
        self.end_iteration()

    def only_content(self) -> bool:
        """Whether this iteration trains nothing but the content discriminator."""
        return self.content_discriminator is not None and (self.iteration + 1) % self.d_iter != 0

    def step_content(self, opt: torch.optim.Optimizer, c: Tensor, k: Tensor) -> None:
        """One step of D^c on contents without a graph."""
        with self.toggled_optimizer(opt):
            loss = recognition(self.content_discriminator(c), k)
            self.descend(opt, loss, clip=self.content_clip)
        self.log_terms("content", {"domain": loss})

    def draw(self, x: Tensor, k: Tensor) -> Drawn:
        """Encode each image once and render its content with everything that a loss asks for."""
        g, n = self.generator, len(x) // 2
        c = self.content(x)
        a, kl = self.attribute(x, k)
        draws = 2 if self.lambda_ms > 0 else 1
        z = torch.cat([self.noise_like(a[:n]).repeat(2, 1) for _ in range(draws)])
        own = g.content(c)
        other = swap(own)
        # One call for what the first step needs, one for the second: neither then goes back through the other's rows.
        x_self, x_cross = g.render(torch.cat((own, other)), a.repeat(2, 1), k.repeat(2, 1)).chunk(2)
        x_random = g.render(torch.cat([other] * draws), z, k.repeat(draws, 1))
        return Drawn(c, kl, x_self, x_cross, z, x_random)

    def content(self, x: Tensor) -> Tensor:
        """Content with the noise of training: N(E^c(x), I)."""
        c = self.content_encoder(x)
        return c + self.noise_like(c)

    def attribute(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Attribute, drawn from its posterior if there is one, and L_KL of it."""
        encoded = self.attribute_encoder(x, k)
        if not self.concat:
            return encoded, kl_unit_variance(encoded)
        mu, logvar = encoded
        a = mu + (logvar.clamp(max=10) / 2).exp() * self.noise_like(mu)
        return a, self.rows(x) * kl_normal(mu, logvar)

    def rows(self, x: Tensor) -> int:
        """Rows of all processes, which all hold as many: what makes a sum of a mean over them."""
        return len(x) if self._trainer is None else len(x) * self.trainer.world_size

    def discriminator_loss(self, x: Tensor, k: Tensor, drawn: Drawn) -> tuple[Tensor, Terms, Terms]:
        """L_adv and L_cls for D and D'; beside the loss and its terms the mean scores: positive is real."""
        terms: Terms = {}
        scores: Terms = {}
        for name, d, fakes in (
            ("encoded", self.discriminator, drawn.x_cross),
            ("random", self.random_discriminator, drawn.x_random),
        ):
            score, domain = d(torch.cat((x, fakes.detach())))  # no layer mixes images
            real, fake = score.split([len(x), len(fakes)])
            terms[name] = self.rows(fakes) * log_discriminator([real], [fake])
            terms[f"cls_{name}"] = recognition(domain[: len(x)], k)
            scores |= {f"real_{name}": real.mean(), f"fake_{name}": fake.mean()}
        loss = terms["encoded"] + terms["random"] + self.lambda_cls * (terms["cls_encoded"] + terms["cls_random"])
        return loss, terms, scores

    def encoded_loss(self, x: Tensor, k: Tensor, drawn: Drawn) -> tuple[Tensor, Terms]:
        """First step of E and G: everything that encoded attributes give."""
        c_cross, (a_cross, _) = self.content(drawn.x_cross), self.attribute(drawn.x_cross, k)
        x_cycle = self.generator(swap(c_cross), a_cross, k)
        score, domain = self.discriminator(drawn.x_cross)
        terms = {
            "adv": self.rows(x) * log_generator([score]),
            "cls": recognition(domain, k),
            "recon": l1(drawn.x_self, x),
            "cycle": l1(x_cycle, x),
            "kl": drawn.kl,
            "content_norm": kl_unit_variance(drawn.c),
        }
        loss = (
            self.lambda_adv * terms["adv"] + self.lambda_cls_g * terms["cls"]
            + self.lambda_recon * terms["recon"] + self.lambda_cycle * terms["cycle"]
            + self.lambda_kl * terms["kl"] + self.lambda_content_norm * terms["content_norm"]
        )  # fmt: skip
        if self.content_discriminator is not None:
            terms["content"] = recognition(self.content_discriminator(drawn.c), 1 - k)
            loss = loss + self.lambda_content * terms["content"]
        return loss, terms

    def random_loss(self, k: Tensor, drawn: Drawn) -> tuple[Tensor, Terms]:
        """Second step of E^c and G: everything that random attributes give, each term a sum over draws or halves."""
        x, z, n, draws = drawn.x_random, drawn.z, len(k) // 2, len(drawn.z) // len(k)
        score, domain = self.random_discriminator(x)
        with frozen(self.attribute_encoder):
            a = self.attribute_encoder.mean(x[: 2 * n], k)
        terms = {
            "adv_random": self.rows(x) * log_generator([score]),
            "cls_random": draws * recognition(domain, k.repeat(draws, 1)),
            "latent": 2 * l1(a, z[: 2 * n]),
        }
        loss = (
            self.lambda_adv * terms["adv_random"] + self.lambda_cls_g * terms["cls_random"]
            + self.lambda_latent * terms["latent"]
        )  # fmt: skip
        if self.lambda_ms > 0:
            (a_1, b_1, a_2, b_2), (z_1, _, z_2, _) = x.split(n), z.split(n)
            terms["ms"] = mode_seeking(a_1, a_2, z_1, z_2) + mode_seeking(b_1, b_2, z_1, z_2)
            loss = loss + self.lambda_ms * terms["ms"]
        return loss, terms

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """Content of ``x`` with a domain and an attribute, by default the prior's mean (Translator protocol)."""
        return self.blend(x, source, self.code(x, target), style)

    def blend(self, x: Tensor, source: int, mixture: Tensor, style: Tensor | None = None) -> Tensor:
        """As ``translate``, to a (N, D) mixture of domains (Blender protocol)."""
        self.check_size(x, max(4, 2 * self.size_multiple))  # reflection by three at the image, by one at the content
        content_encoder, _, generator = self.makers() if self.averaged is None else self.averaged
        z = x.new_zeros(len(x), self.style_spec.size) if style is None else style
        return generator(content_encoder(x), z, mixture)

    def style_of(self, x: Tensor, domain: int) -> Tensor:
        """Attribute without a draw, (N, size) (Stylist protocol)."""
        self.check_size(x, self.smallest_size)
        _, attribute_encoder, _ = self.makers() if self.averaged is None else self.averaged
        return attribute_encoder.mean(x, self.code(x, domain))

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """Content without noise, (N, C, h, w) (ContentCoder protocol)."""
        content_encoder, _, _ = self.makers() if self.averaged is None else self.averaged
        return content_encoder(x)

    def code(self, x: Tensor, domain: int) -> Tensor:
        """One-hot rows of a domain, (N, D)."""
        k = x.new_zeros(len(x), len(self.domains))
        k[:, domain] = 1
        return k

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Translate: prediction loader d holds domain d, which becomes the next one, the last the first."""
        return self.translate(batch.image, dataloader_idx, (dataloader_idx + 1) % len(self.domains))

    def check_batch(self, batch: DomainBatch) -> None:
        """Refuse what training cannot use (ValueError says what to change)."""
        smallest = max(self.smallest_size, self.discriminator.smallest())
        if self.content_discriminator is not None:
            smallest = max(smallest, self.content_discriminator.smallest() * self.size_multiple)
        self.check_size(batch.image, smallest)
        if len(batch.image) % 2:
            raise ValueError(
                f"MultiDomainDRIT changes contents between the halves of a batch, and {len(batch.image)} images have "
                "none: set data.batch_size to an even number for each process."
            )
        # On an accelerator to look would be to wait; there one_hot itself fails.
        if batch.domain.device.type == "cpu" and batch.domain.max() >= len(self.domains):
            raise ValueError(
                f"The data has a domain number {int(batch.domain.max())}, but MultiDomainDRIT has "
                f"{len(self.domains)} domains, counted from 0: set model.domains to the data's."
            )

    def check_size(self, x: Tensor, smallest: int) -> None:
        """Refuse heights and widths that the networks cannot take or give back (ValueError names the multiple)."""
        if any(side % self.size_multiple or side < smallest for side in x.shape[-2:]):
            least = f" and at least {smallest}" if smallest > self.size_multiple else ""
            raise ValueError(
                f"MultiDomainDRIT needs images whose height and width are multiples of {self.size_multiple}{least}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: change data.size, or content_dis_layers, dis_layers, dis_kernel."
            )

    def configure_optimizers(self):
        """Adam for D and D', for E and G, for D^c; the rate is constant, then falls linearly, but for D^c."""
        players = [
            (chain(self.discriminator.parameters(), self.random_discriminator.parameters()), self.lr),
            (chain(*(maker.parameters() for maker in self.makers())), self.lr),
        ]
        if self.content_discriminator is not None:
            players.append((self.content_discriminator.parameters(), self.lr * self.content_lr))
        opts = [Adam(p, lr, self.betas, weight_decay=self.weight_decay, fused=True) for p, lr in players]
        # Rates are counted in iterations, and not every optimizer steps in the first of them.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return opts, [LambdaLR(opt, self.rate) for opt in opts[:2]]

    def rate(self, iteration: int) -> float:
        """Factor of the learning rate at a 0-based iteration."""
        return 1 - max(0, min(iteration, self.decay_to) - self.decay_from) / (self.decay_to - self.decay_from)


def swap(rows: Tensor) -> Tensor:
    """The halves of a batch in each other's place."""
    return rows.roll(len(rows) // 2, 0)


def recognition(logits: Tensor, k: Tensor) -> Tensor:
    """Cross-entropy of one yes or no a domain, (N, D) logits with (N, D) targets, averaged over both."""
    return binary_cross_entropy_with_logits(logits, k)
