"""UFDN: A Unified Feature Disentangler for Multi-Domain Image Translation and Manipulation (Liu et al., NeurIPS 2018).

One encoder finds a code z of an image, without its domain; one decoder makes an image of a code and a domain vector v,
a corner of the simplex in training and any real vector afterwards. D_v tries to tell the domain from z, D_x scores
images and tells their domains. v_c is the domain of x, v_t another, xhat_t = G(E(x), v_t):

    L_vae = lambda_recon |G(E(x), v_c) - x|^2 + lambda_kl KL(q(z|x) || N(0, I))
    L_Dv  = - log P(l_v = v_c | E(x))                    L_E = - L_Dv
    L_Dx  = D_x(xhat_t) - D_x(x) + lambda_gp GP          L_G = - D_x(xhat_t)
    L_cls = - log P(l_x = v_t | xhat_t)  for G,          - log P(l_x = v_c | x)  for D_x
    E: L_vae + lambda_feat L_E,   G: L_vae + lambda_adv L_G + lambda_clf L_cls,   D_v: L_Dv,   D_x: L_Dx + L_cls

These are not the signs that the paper prints. Descended, as its Eq. 6 has it, its Eqs. 2, 3 and 5 would teach D_v to be
wrong, E to help it, and D_x and G to make the right domain *less* probable: their log-likelihoods lack a minus. Release
and everything here descend what is written above.

Departs from the paper as the authors' release does: D_x is a Wasserstein critic (Eq. 4 has logarithms), whose penalty
asks for a slope of 1 at every *pixel* (``gp_per_sample`` is the usual one); log P is a yes-or-no question a domain; L_E
is not -L_Dv but asks D_v to say yes to all domains but the right one (``negate`` is the paper's, ``uniform`` asks for
1/D each); reconstruction is a mean over everything, KL a *sum* over the images of the batch, here of all processes',
so lambda_kl goes with a batch of 96; gradients of L_G and L_cls end at z; most weights grow over 10 000 iterations.
BatchNorm starts with weights around 0 (``normal_gamma=False``: at 1, for short runs).

Departs from the release: it encodes the same images five times an iteration, with the same weights; here once, with as
many draws of z, and its running statistics follow in closed form (``networks.batch_norm.counted``; a sixth, of
translations, only feeds them; ``bn_compat=False`` leaves both out). L_vae, L_E, L_G and L_cls have one backward pass.
With classes (unsupervised domain adaptation) a linear layer also reads the class off z, of the images that have one.
Images may be larger than 2^layers: then the code is a map, of which D_v and the classifier see all numbers in a row.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, one_hot
from torch.optim import Adam

from interfaces.batch import DomainBatch, ImageBatch, LabelledBatch
from lightning_modules.base import ManualModule, Terms
from losses.adversarial import (
    gradient_penalty,
    pixel_gradient_penalty,
    slope,
    wasserstein_critic,
    wasserstein_generator,
)
from losses.divergence import kl_normal
from networks.batch_norm import BatchNorm2d, counted, only_finite_statistics
from networks.ema import follow_, frozen_copy
from networks.init import normal_convolutions_
from networks.processes import mean_over_processes, processes
from networks.ufdn import Critic, Decoder, DomainClassifier, Encoder

Ramp = tuple[float, float, int]  # a weight's first value, its last, iterations between them


class UFDN(ManualModule):
    """Any number of domains, one code. Defaults are those of the release for faces: photo, sketch, paint at 64x64.

    Args:
        domains: their names, in the order of ``DomainBatch.domain``.
        image_size: height and width in training, a multiple of 2^layers; translation takes any such multiple.
        widths: channels after each halving of E but the last; G has them backwards. 2^layers is 2^(len(widths) + 1).
            Domain adaptation: 128, 256, 512, 1024.
        code_channels: of the code. Domain adaptation: 2048.
        dv_widths: hidden layers of D_v. Domain adaptation: 1024, 256.
        dx_widths: channels after each halving of D_x.
        dx_hidden: units of its linear layer.
        classes: that z is to tell, of a ``LabelledBatch``; 0 is none.
        init_std: standard deviation of the initial convolution weights; narrow networks want more than 0.02.
        normal_gamma: weights of BatchNorm start as N(0, 0.02^2), as in the release, not as 1.
        lambda_recon: weight of the reconstruction, as (first, last, iterations between). Domain adaptation: 1.
        lambda_kl: of KL. Domain adaptation: 1e-7.
        lambda_feat: of L_E; 0 throughout leaves out D_v. Domain adaptation: 0.1.
        lambda_adv: of L_G; where this and ``lambda_clf`` are 0 throughout, there is no D_x. Domain adaptation: 0.
        lambda_clf: of L_cls for G. Domain adaptation: 0.
        lambda_gp: of the gradient penalty.
        lambda_class: of the cross-entropy of classes.
        alternate: v_t is the next domain in even iterations, the one before in odd ones; for 2 or 3 domains. False: any
            other domain, each image's for itself.
        negate: L_E = -L_Dv.
        uniform: L_E asks D_v for 1/D each.
        gp_per_sample: the penalty takes the norm of a whole image, as WGAN-GP.
        bn_compat: running statistics as if every pass of the release were made. False: of one pass of real images,
            which suits evaluation better.
        reuse_fakes: D_x learns from the very translations that G learns from, and not from those of another draw of z.
        lr: of Adam for E and G (and the classifier).
        dv_lr: for D_v.
        dx_lr: for D_x.
        betas: of Adam for E and G.
        dv_betas: for D_v.
        dx_betas: for D_x.
        ema: decay of a running average of E, G and the classifier, which serves outside training; 0 keeps none, as
            paper and release.
    """

    def __init__(
        self,
        domains: tuple[str, ...] = ("photo", "sketch", "paint"),
        image_size: int = 64,
        widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
        code_channels: int = 1024,
        dv_widths: tuple[int, ...] = (512, 256, 128, 64),
        dx_widths: tuple[int, ...] = (16, 32, 64, 128, 256),
        dx_hidden: int = 512,
        classes: int = 0,
        init_std: float = 0.02,
        normal_gamma: bool = True,
        lambda_recon: Ramp = (100.0, 1.0, 1000),
        lambda_kl: Ramp = (1e-6, 1e-6, 1),
        lambda_feat: Ramp = (0.0, 1.0, 10_000),
        lambda_adv: Ramp = (0.0, 1e-6, 10_000),
        lambda_clf: Ramp = (0.0, 1e-6, 10_000),
        lambda_gp: Ramp = (100.0, 100.0, 1),
        lambda_class: float = 1.0,
        alternate: bool = True,
        negate: bool = False,
        uniform: bool = False,
        gp_per_sample: bool = False,
        bn_compat: bool = True,
        reuse_fakes: bool = False,
        lr: float = 1e-4,
        dv_lr: float = 1e-4,
        dx_lr: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        dv_betas: tuple[float, float] = (0.5, 0.999),
        dx_betas: tuple[float, float] = (0.5, 0.999),
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.domains, self.style_spec, self.classes, self.image_size = tuple(domains), None, classes, image_size
        self.lambda_recon, self.lambda_kl, self.lambda_feat = ramp(*lambda_recon), ramp(*lambda_kl), ramp(*lambda_feat)
        self.lambda_adv, self.lambda_clf, self.lambda_gp = ramp(*lambda_adv), ramp(*lambda_clf), ramp(*lambda_gp)
        self.lambda_class, self.alternate, self.negate, self.uniform = lambda_class, alternate, negate, uniform
        self.penalty = gradient_penalty if gp_per_sample else pixel_gradient_penalty
        self.bn_compat, self.reuse_fakes, self.ema = bn_compat, reuse_fakes, ema
        self.adam = {"g": (lr, tuple(betas)), "dv": (dv_lr, tuple(dv_betas)), "dx": (dx_lr, tuple(dx_betas))}
        self.size_multiple = self.smallest_size = 2 ** (len(widths) + 1)  # Sized protocol
        self.check_arguments(len(dx_widths))

        k, size = len(self.domains), code_channels * (image_size // self.size_multiple) ** 2
        self.encoder = Encoder(widths, code_channels)
        self.decoder = Decoder(k, code_channels, widths[::-1])
        self.class_head = DomainClassifier(size, (), classes) if classes > 0 else None
        self.domain_classifier = DomainClassifier(size, dv_widths, k) if any(self.lambda_feat) else None
        with_critic = any(self.lambda_adv) or any(self.lambda_clf)
        self.critic = Critic(image_size, dx_widths, dx_hidden, k) if with_critic else None
        normal_convolutions_(self, init_std)
        for layer in self.modules():
            if isinstance(layer, BatchNorm2d) and normal_gamma:
                nn.init.normal_(layer.weight, 0.0, 0.02)
        self.averaged = frozen_copy(self.makers()) if ema > 0 else None

    def makers(self) -> nn.ModuleList:
        """E and G, and with classes the classifier: what one optimizer moves and what serves outside training."""
        return nn.ModuleList([net for net in (self.encoder, self.decoder, self.class_head) if net is not None])

    def players(self) -> dict[str, nn.Module]:
        """Those that take a step, in the order of their steps."""
        judges = {"dv": self.domain_classifier, "dx": self.critic}
        return {name: net for name, net in judges.items() if net is not None} | {"g": self.makers()}

    def training_step(self, batch: DomainBatch | LabelledBatch, batch_idx: int) -> None:
        """One step of D_v, one of D_x, one of E and G, on the same images."""
        self.check_batch(batch)
        opts = self.optimizers()
        opt = dict(zip(self.players(), opts if isinstance(opts, list) else [opts], strict=True))
        x, v = batch.image, one_hot(batch.domain, len(self.domains)).to(batch.image.dtype)
        v_t, fake = self.targets(v), None
        with only_finite_statistics(self.makers()):
            with counted(self.encoder, self.release_passes() if self.bn_compat else 1):
                q = self.encoder(x)  # no step but the last moves E or G
            if self.domain_classifier is not None:
                with self.toggled_optimizer(opt["dv"]):
                    loss = binary_cross_entropy_with_logits(self.domain_classifier(self.draw(*q).detach()), v)
                    self.descend(opt["dv"], loss)
                self.log_terms("dv", {"adv": loss})
            if self.critic is not None:
                fake = self.fakes(q, v_t)
                with self.toggled_optimizer(opt["dx"]):
                    loss, terms, scores = self.critic_loss(x, v, fake.detach())
                    self.descend(opt["dx"], loss)
                self.log_terms("dx", terms)
                self.log_terms("score", scores)
            with self.toggled_optimizer(opt["g"]):
                loss, terms = self.makers_loss(batch, q, v, v_t, fake if self.reuse_fakes else None)
                self.descend(opt["g"], loss)
            self.log_terms("g", terms)
        if self.averaged is not None:
            follow_(self.averaged, self.makers(), self.ema, self.iteration)
        self.end_iteration()

    def draw(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """z ~ q(z|x), of which every use has a draw of its own."""
        eps = self.noise_like(mu.flatten(1))
        return mu + (logvar / 2).exp() * eps.view_as(mu)

    def targets(self, v: Tensor) -> Tensor:
        """v_t, one-hot rows of other domains."""
        if self.alternate:
            return v.roll(1 if self.iteration % 2 == 0 else -1, 1)
        luck = self.noise_like(v).masked_fill(v > 0, -torch.inf)  # each other domain has the largest as often
        return one_hot(luck.argmax(1), v.shape[1]).to(v.dtype)

    def release_passes(self) -> int:
        """How often the release encodes the images of an iteration: for each judge, for L_vae, L_E, L_G and classes."""
        return 1 + 2 * (self.domain_classifier is not None) + 2 * (self.critic is not None) + (self.classes > 0)

    def fakes(self, q: tuple[Tensor, Tensor], v_t: Tensor) -> Tensor:
        """xhat_t for D_x; G learns from them only with ``reuse_fakes``, where the one pass counts as both."""
        passes = 2 if self.reuse_fakes and self.bn_compat else 1
        with torch.set_grad_enabled(self.reuse_fakes), counted(self.decoder, passes):
            return self.decoder(self.draw(*q).detach(), v_t)

    def critic_loss(self, x: Tensor, v: Tensor, fake: Tensor) -> tuple[Tensor, Terms, Terms]:
        """L_Dx + L_cls on real images; beside the loss and its terms the mean scores."""
        h_real, h_fake = self.critic.features(torch.cat((x, fake))).chunk(2)  # no layer mixes images
        # One call each, so that the bias' gradients cancel to the last bit: Adam would make steps of their rounding.
        real, generated = self.critic.score(h_real), self.critic.score(h_fake)
        alpha = self.shares(x)
        between = (alpha * x + (1 - alpha) * fake).requires_grad_()
        terms = {
            "adv": wasserstein_critic(real, generated),
            "gp": self.penalty(slope(self.critic(between)[0], between)),
            "cls": binary_cross_entropy_with_logits(self.critic.domain(h_real), v),
        }
        loss = terms["adv"] + self.now(self.lambda_gp) * terms["gp"] + terms["cls"]
        return loss, terms, {"real": real.mean(), "fake": generated.mean()}

    def shares(self, x: Tensor) -> Tensor:
        """Uniform in [0, 1], (N, 1, 1, 1): the distribution function of a normal draw."""
        return torch.special.ndtr(self.noise_like(x.new_empty(len(x), 1)))[:, :, None, None]

    def makers_loss(
        self, batch: DomainBatch | LabelledBatch, q: tuple[Tensor, Tensor], v: Tensor, v_t: Tensor, fake: Tensor | None
    ) -> tuple[Tensor, Terms]:
        """L_vae, L_E, L_G and L_cls in one sum: z is cut off from E where G alone is to learn.

        Args:
            batch: the images, and with classes their labels.
            q: their encoding.
            v: their domains, (N, D).
            v_t: the other domains, (N, D).
            fake: translations to judge; None makes new ones.
        """
        x, rows = batch.image, processes() * len(batch.image)  # KL is a sum, and gradients are averaged over processes
        terms = {"recon": mse_loss(self.decoder(self.draw(*q), v), x), "kl": rows * kl_normal(*q)}
        loss = self.now(self.lambda_recon) * terms["recon"] + self.now(self.lambda_kl) * terms["kl"]  # L_vae
        if self.domain_classifier is not None:
            terms["adv_e"] = self.confusion(self.domain_classifier(self.draw(*q)), v)
            loss = loss + self.now(self.lambda_feat) * terms["adv_e"]  # L_E
        if self.critic is not None:
            fake = self.decoder(self.draw(*q).detach(), v_t) if fake is None else fake
            self.release_encodes(fake.detach())
            score, domain = self.critic(fake)
            terms |= {"adv": wasserstein_generator(score), "cls": binary_cross_entropy_with_logits(domain, v_t)}
            loss = loss + self.now(self.lambda_adv) * terms["adv"] + self.now(self.lambda_clf) * terms["cls"]
        if self.class_head is not None:
            terms["class"] = labelled_cross_entropy(self.class_head(self.draw(*q)), batch.label)
            loss = loss + self.lambda_class * terms["class"]
        return loss, terms

    def confusion(self, logits: Tensor, v: Tensor) -> Tensor:
        """L_E: what E wants D_v to say."""
        if self.negate:
            return -binary_cross_entropy_with_logits(logits, v)
        return binary_cross_entropy_with_logits(logits, torch.full_like(v, 1 / v.shape[1]) if self.uniform else 1 - v)

    @torch.no_grad()
    def release_encodes(self, fake: Tensor) -> None:
        """Let the encoder's running statistics see translations, a fifth of what the release's are made of."""
        if self.bn_compat:
            self.encoder.trunk(fake)

    def now(self, weights: list[float]) -> float:
        """A weight in this iteration."""
        return weights[min(self.iteration, len(weights) - 1)]

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """G(mu, v) with v of domain ``target``; ``source`` says nothing to E (Translator protocol)."""
        v = x.new_zeros(len(x), len(self.domains))
        v[:, target] = 1
        return self.blend(x, source, v)

    def blend(self, x: Tensor, source: int, mixture: Tensor, style: Tensor | None = None) -> Tensor:
        """As ``translate``, to a (N, D) mixture of domains, of any real numbers (Blender protocol)."""
        _, decoder, *_ = self.served()
        return decoder(self.content_of(x, source), mixture)

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """mu, (N, code_channels, h, w), 1x1 at the smallest size (ContentCoder protocol)."""
        self.check_size(x)
        encoder, *_ = self.served()
        mu, _ = encoder(x)
        return mu

    def classify(self, x: Tensor) -> Tensor:
        """(N, classes) logits of images of any domain, at ``image_size``, from mu (ValueError without classes)."""
        if self.class_head is None:
            raise ValueError("This UFDN does not classify images: train it with model.classes on labelled data.")
        return self.served()[2](self.content_of(x, 0))

    def served(self) -> nn.ModuleList:
        """E, G and the classifier as they are used outside training."""
        return self.makers() if self.averaged is None else self.averaged

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Translate: prediction loader d holds domain d, which becomes the next one, the last the first."""
        return self.translate(batch.image, dataloader_idx, (dataloader_idx + 1) % len(self.domains))

    def check_arguments(self, dx_layers: int) -> None:
        """Refuse what cannot be trained (ValueError says what to change)."""
        if len(self.domains) < 2:
            raise ValueError(f"UFDN translates between domains, but has {len(self.domains)}: set model.domains.")
        if self.alternate and len(self.domains) > 3:
            raise ValueError(
                f"UFDN would translate each of {len(self.domains)} domains only to its neighbours: set model.alternate "
                "to false."
            )
        if self.negate and self.uniform:
            raise ValueError("UFDN has two answers to what E wants of D_v: set only one of model.negate and uniform.")
        if self.image_size % self.size_multiple or self.image_size < 2**dx_layers:
            raise ValueError(
                f"UFDN needs an image_size that is a multiple of {self.size_multiple} and at least {2**dx_layers}, not "
                f"{self.image_size}: change it, or the number of widths or dx_widths."
            )

    def check_batch(self, batch: DomainBatch | LabelledBatch) -> None:
        """Refuse what training cannot use (ValueError says what to change)."""
        if tuple(batch.image.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"UFDN trains on images of {self.image_size} x {self.image_size}, not {batch.image.shape[-2]} x "
                f"{batch.image.shape[-1]}: set model.image_size to the data's size."
            )
        if self.class_head is not None and not isinstance(batch, LabelledBatch):
            raise ValueError(
                f"UFDN is to tell {self.classes} classes, but the data gives no labels: set model.classes to 0, or use "
                "data that gives a LabelledBatch."
            )
        # On an accelerator to look would be to wait; there one_hot itself fails.
        if batch.domain.device.type == "cpu" and batch.domain.max() >= len(self.domains):
            raise ValueError(
                f"The data has a domain number {int(batch.domain.max())}, but UFDN has {len(self.domains)} domains, "
                "counted from 0: set model.domains to the data's."
            )

    def check_size(self, x: Tensor) -> None:
        """Refuse heights and widths that G cannot give back (ValueError names the multiple)."""
        if any(side % self.size_multiple for side in x.shape[-2:]):
            raise ValueError(
                f"UFDN needs images whose height and width are multiples of {self.size_multiple}, not {x.shape[-2]} x "
                f"{x.shape[-1]}: change data.size, or the number of widths."
            )

    def configure_optimizers(self):
        """Adam for each player, at a constant rate."""
        opts = []
        for name, net in self.players().items():
            lr, betas = self.adam[name]
            opts.append(Adam(net.parameters(), lr, betas, fused=True))
        return opts, []


def ramp(first: float, last: float, steps: int) -> list[float]:
    """A weight in each iteration, until it changes no more; equal steps, added up as the release does.

    Rounding decides whether there is one step more than asked for: 0 to 1 in 10 000 ends at 1.0001.

    Raises:
        ValueError: no step is asked for.
    """
    if steps < 1:
        raise ValueError(f"The ramp of a UFDN weight takes {steps} iterations: give (first, last, 1 or more).")
    increment, values = (last - first) / steps, [first]
    while increment * values[-1] < increment * last:
        values.append(values[-1] + increment)
    return values


def labelled_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy averaged over the labelled images of all processes; 0 where there is none.

    Args:
        logits: (N, classes).
        label: (N,) int64, -1 where unknown.
    """
    known = mean_over_processes((label >= 0).sum().to(logits.dtype))
    return cross_entropy(logits, label, ignore_index=-1, reduction="sum") / known.clamp(min=1 / processes())
