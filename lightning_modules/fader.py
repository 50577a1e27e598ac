"""Fader Networks: Manipulating Images by Sliding Attributes (Lample et al., NIPS 2017).

An auto-encoder is told the attributes y of an image where it decodes, and its code E(x) is kept free of them: a latent
discriminator tries to read y off the code, and the encoder learns to make it wrong. Then an image is edited by decoding
it with another y, which may lie between or beyond the attributes: a slider. No discriminator looks at images.

    min_{E,D}   ||D(E(x), y) - x||^2 - lambda_E log P_dis(1 - y | E(x))      (paper, Eq. 3)
    min_{dis}   - log P_dis(y | E(x))                                        (Eq. 2)

The squared error is the mean over all numbers; of several attributes the logarithms are summed. An attribute has two
channels in y, "not" and "has", or one for each of its n > 2 categories; then the encoder wants any other category,
drawn uniformly (release). lambda_E grows linearly from 0 over ``ramp`` iterations. Beside the paper, the release has
two players for pictures that look real, off by default:

    patches     - log (1 - s) is real, s is made: P(x), P(D(E(x), y')), with smoothed labels; lambda_ptc, ramped too
    classifier  the categories y' of an edited image as a classifier C reads them; lambda_clf, ramped too

for y' drawn uniformly among all categories. Networks and numbers are those of the release; the paper has width 16 and
7 layers, and lr 0.002. Every step of the release draws a batch of its own, in another order; here a training batch is
cut into as many parts. Departs from the release by computing each needed thing once, with the same numbers: the planes
of y need no convolution, and discriminators get no gradient in the auto-encoder's step. A resumed run goes on with the
ramp where it was; the release starts it again. Of the release's ways to upsample only its default is here, the
transposed convolution, and of its normalisations batch normalisation.
"""

from collections.abc import Iterator
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Adam

from interfaces.batch import AttributeBatch
from lightning_modules.base import ManualModule, Terms
from networks.batch_norm import only_finite_statistics
from networks.ema import follow_, frozen_copy
from networks.fader import AutoEncoder, Classifier, LatentDiscriminator, PatchDiscriminator, mode_


class Fader(ManualModule):
    """Edits attributes by sliders. Defaults are those of the authors' release.

    Args:
        attributes: names, in the order of the columns of ``AttributeBatch.attributes`` and of the sliders.
        categories: of each attribute, at least 2; None where each is there or not.
        image_size: side of the training images, a power of 2.
        width: channels after the first convolution, the release's init_fm.
        max_width: most channels, the release's max_fm.
        layers: convolutions of stride 2 between image and code.
        skips: decoder layers after the first that also see the encoder's map of their size. The latent discriminator
            then reads the largest of these maps that is no skip, ``layers - skips`` convolutions from the image.
        hidden: features between the two last layers of latent discriminator and classifier.
        lat_dropout: of the latent discriminator.
        dropout: of the decoder's first three layers.
        lambda_ae: weight of the reconstruction.
        lambda_lat: of the encoder's play against the latent discriminator, the paper's lambda_E.
        lambda_ptc: of the patch discriminator's opinion of edited images; needs ptc_steps.
        lambda_clf: of the classifier's reading of edited images; needs clf_steps.
        ramp: iterations in which the last three grow from 0 to their values; 0 starts with these.
        lat_steps: steps of the latent discriminator an iteration.
        ptc_steps: of the patch discriminator.
        clf_steps: of the classifier.
        smooth: what the patch discriminator's labels are short of 1 and over 0, in [0, 0.5).
        lr: of all optimizers.
        betas: of all optimizers.
        clip: largest l2 norm of the gradient of a step.
        ema: decay of a running average of the auto-encoder, which serves outside training; 0 keeps none, as paper and
            release.

    Raises:
        ValueError: sizes that the networks cannot have, or a weight for a player that takes no steps.
    """

    def __init__(
        self,
        attributes: tuple[str, ...],
        categories: tuple[int, ...] | None = None,
        image_size: int = 256,
        width: int = 32,
        max_width: int = 512,
        layers: int = 6,
        skips: int = 0,
        hidden: int = 512,
        lat_dropout: float = 0.3,
        dropout: float = 0.0,
        lambda_ae: float = 1.0,
        lambda_lat: float = 1e-4,
        lambda_ptc: float = 0.0,
        lambda_clf: float = 0.0,
        ramp: int = 500_000,
        lat_steps: int = 1,
        ptc_steps: int = 0,
        clf_steps: int = 0,
        smooth: float = 0.2,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        clip: float = 5.0,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.attributes = tuple(attributes)
        self.categories = (2,) * len(self.attributes) if categories is None else tuple(categories)
        self.image_size, self.layers, self.skips = image_size, layers, skips
        self.lambda_ae, self.lambda_lat, self.lambda_ptc, self.lambda_clf = (
            lambda_ae,
            lambda_lat,
            lambda_ptc,
            lambda_clf,
        )
        self.ramp_iterations, self.smooth, self.ema = ramp, smooth, ema
        self.lat_steps, self.ptc_steps, self.clf_steps = lat_steps, ptc_steps, clf_steps
        self.lr, self.betas, self.clip = lr, tuple(betas), clip
        self.check_arguments()

        channels = sum(self.categories)
        sizes = {"width": width, "max_width": max_width}
        self.ae = AutoEncoder(channels, layers=layers, skips=skips, dropout=dropout, **sizes)
        self.lat_dis = self.ptc_dis = self.clf_dis = None
        if lat_steps > 0:
            self.lat_dis = LatentDiscriminator(
                channels, image_size, layers=layers, skips=skips, hidden=hidden, dropout=lat_dropout, **sizes
            )
        if ptc_steps > 0:
            self.ptc_dis = PatchDiscriminator(width)
        if clf_steps > 0:
            self.clf_dis = Classifier(channels, image_size, hidden=hidden, **sizes)
        self.averaged = frozen_copy(self.ae) if ema > 0 else None
        first = torch.tensor([0, *accumulate(self.categories)][:-1])
        self.register_buffer("first", first, persistent=False)  # channel of each attribute's first category
        self.register_buffer("counts", torch.tensor(self.categories), persistent=False)

    def training_step(self, batch: AttributeBatch, batch_idx: int) -> None:
        """The steps of each discriminator, then one of the auto-encoder, each on its own part of the batch."""
        parts = self.parts(batch)
        opts = self.optimizers()  # Lightning's gives one alone without a list
        *opts, opt_ae = opts if isinstance(opts, list) else [opts]
        players = [
            ("lat", self.lat_dis, self.lat_steps, self.latent_loss),
            ("ptc", self.ptc_dis, self.ptc_steps, self.patch_loss),
            ("clf", self.clf_dis, self.clf_steps, self.classifier_loss),
        ]
        mode_(self.ae, False)  # discriminators see codes and edits as they are outside training
        for opt, (name, net, steps, objective) in zip(opts, (p for p in players if p[2] > 0), strict=True):
            mode_(net, True)
            for _ in range(steps):
                with self.toggled_optimizer(opt), only_finite_statistics(net):
                    loss, terms = objective(*next(parts))
                    self.descend(opt, loss, clip=self.clip)
            mode_(net, False)
            self.log_terms(name, terms)
        mode_(self.ae, True)
        with self.toggled_optimizer(opt_ae), only_finite_statistics(self.ae):
            loss, terms = self.autoencoder_loss(*next(parts))
            self.descend(opt_ae, loss, clip=self.clip)
        self.log_terms("ae", terms)
        if self.averaged is not None:
            follow_(self.averaged, self.ae, self.ema, self.iteration)
        self.end_iteration()

    def parts(self, batch: AttributeBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """One (images, categories) for each step, in the order of the steps (ValueError where it cannot be cut)."""
        x, y = batch
        steps = self.lat_steps + self.ptc_steps + self.clf_steps + 1
        if len(x) % steps or len(x) < 2 * steps:
            raise ValueError(
                f"Fader cuts a training batch into {steps} equal parts of at least 2 images, one for each step of an "
                f"iteration, but it has {len(x)} images: make data.batch_size a multiple of {steps}."
            )
        if x.shape[-2:] != (self.image_size, self.image_size) or y.shape != (len(x), len(self.attributes)):
            raise ValueError(
                f"Fader has image_size {self.image_size} and {len(self.attributes)} attributes, but a training batch "
                f"has images of {x.shape[-2]} x {x.shape[-1]} and attributes {tuple(y.shape)}: change the data section."
            )
        return zip(x.chunk(steps), y.chunk(steps), strict=True)

    def latent_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """- log P_dis(y | E(x)) for (N, 3, H, W) images and (N, K) categories; beside it the share of right answers."""
        with torch.no_grad():
            code = self.ae.encode(x)[-1 - self.skips]
        logits = self.lat_dis(code)
        loss = self.attribute_loss(logits, y)
        return loss, {"loss": loss, "accuracy": self.accuracy(logits, y)}

    def patch_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """Real images are real to 1 - s, edited ones to s. They go apart, for each has statistics of its own."""
        with torch.no_grad():
            x_edited = self.ae.decode(self.ae.encode(x), self.planes(self.any_category(y)))
        real, edited = self.ptc_dis(x), self.ptc_dis(x_edited)
        loss = probability_loss(real, 1 - self.smooth) + probability_loss(edited, self.smooth)
        return loss, {"loss": loss, "real": real.mean(), "edited": edited.mean()}

    def classifier_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """The categories of real images."""
        logits = self.clf_dis(x)
        loss = self.attribute_loss(logits, y)
        return loss, {"loss": loss, "accuracy": self.accuracy(logits, y)}

    def autoencoder_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """The objective of E and D; terms of weight zero beyond the first are not computed."""
        maps, ramp = self.ae.encode(x), self.ramp()
        terms = {"recon": mse_loss(self.ae.decode(maps, self.planes(y)), x)}
        loss = self.lambda_ae * terms["recon"]
        if self.lambda_lat > 0:
            terms["lat"] = self.attribute_loss(self.lat_dis(maps[-1 - self.skips]), self.other_category(y))
            loss = loss + ramp * self.lambda_lat * terms["lat"]
        if self.lambda_ptc > 0 or self.lambda_clf > 0:
            y_edited = self.any_category(y)
            x_edited = self.ae.decode(maps, self.planes(y_edited))
        if self.lambda_ptc > 0:
            terms["ptc"] = probability_loss(self.ptc_dis(x_edited), 1 - self.smooth)
            loss = loss + ramp * self.lambda_ptc * terms["ptc"]
        if self.lambda_clf > 0:
            terms["clf"] = self.attribute_loss(self.clf_dis(x_edited), y_edited)
            loss = loss + ramp * self.lambda_clf * terms["clf"]
        return loss, terms

    def ramp(self) -> float:
        """min(t, S) / S after t iterations; 1 where S = 0."""
        return min(self.iteration, self.ramp_iterations) / self.ramp_iterations if self.ramp_iterations > 0 else 1.0

    def attribute_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of (N, channels) logits with (N, K) categories, mean over images, summed over attributes."""
        losses = [len(right) / len(y) * cross_entropy(own, right) for own, right in self.alike(logits, y)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def accuracy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Share of categories that have the largest logit, over images and attributes."""
        right = [(own.argmax(1) == wanted).sum() for own, wanted in self.alike(logits, y)]
        return torch.stack(right).sum() / y.numel()

    def alike(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (N k, n) and categories (N k,) of k neighbours among the attributes that have n categories each."""
        column = channel = 0
        for n, group in groupby(self.categories):
            k = len(list(group))
            yield logits[:, channel : channel + k * n].reshape(-1, n), y[:, column : column + k].flatten()
            column, channel = column + k, channel + k * n

    def planes(self, y: Tensor) -> Tensor:
        """(N, K) categories to (N, channels), 1 in the channel of each category and 0 in the others."""
        planes = self.ae.dec_layers[0][0].weight.new_zeros(len(y), sum(self.categories))
        return planes.scatter_(1, self.first + y, 1.0)

    def other_category(self, y: Tensor) -> Tensor:
        """(N, K) categories to others, uniformly drawn among those that are left: of two, the other one."""
        if max(self.categories) == 2:
            return 1 - y
        return (y + 1 + self.integers(len(y), self.counts - 1)) % self.counts

    def any_category(self, y: Tensor) -> Tensor:
        """(N, K) categories, drawn uniformly, among them those that were there."""
        return self.integers(len(y), self.counts)

    def integers(self, n: int, below: Tensor) -> Tensor:
        """(n, K) integers from 0 to ``below`` (K,), which is left out: the one door by which random categories come."""
        return torch.randint(2**31, (n, len(below)), device=below.device) % below

    def edit(self, x: Tensor, sliders: Tensor) -> Tensor:
        """Decode with sliders for attributes (AttributeEditor protocol).

        Args:
            x: (N, 3, H, W) in [-1, 1].
            sliders: (N, K); 0 is without the attribute and 1 with it, as alpha in the channels (1 - alpha, alpha).
                The release goes to 2 with Eyeglasses and Male, to 10 with attributes of few pixels.

        Raises:
            ValueError: an attribute has more than two categories, between which a slider cannot go.
        """
        if max(self.categories) > 2:
            many = [a for a, n in zip(self.attributes, self.categories, strict=True) if n > 2]
            raise ValueError(
                f"Fader cannot slide {', '.join(many)}, which has more than two categories: "
                "use reconstruct(x, attributes) with the category of each attribute."
            )
        return self.decode(x, torch.stack((1 - sliders, sliders), 2).flatten(1).to(x.dtype))

    def reconstruct(self, x: Tensor, attributes: Tensor) -> Tensor:
        """D(E(x), y) for (N, K) categories, (N, 3, H, W): the image again where they are its own."""
        return self.decode(x, self.planes(attributes))

    def decode(self, x: Tensor, planes: Tensor) -> Tensor:
        """D(E(x), y) of the networks that serve, for (N, channels) real numbers."""
        self.check_size(x)
        ae = self.averaged or self.ae
        return ae.decode(ae.encode(x), planes)

    def content_of(self, x: Tensor, source: int = 0) -> Tensor:
        """What the latent discriminator reads, (N, C, h, w), whatever the domain (ContentCoder protocol)."""
        self.check_size(x)
        return (self.averaged or self.ae).encode(x)[-1 - self.skips]

    @property
    def size_multiple(self) -> int:
        """What heights and widths must be multiples of (Sized protocol)."""
        return 2**self.layers

    @property
    def smallest_size(self) -> int:
        """Least height and width for ``edit`` (Sized protocol)."""
        return self.size_multiple

    def check_size(self, x: Tensor) -> None:
        """Refuse heights and widths that the decoder cannot give back (ValueError names the multiple)."""
        if any(side % self.size_multiple or side == 0 for side in x.shape[-2:]):
            raise ValueError(
                f"Fader needs images whose height and width are multiples of {self.size_multiple}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: change the size in the data section."
            )

    def check_arguments(self) -> None:
        """Refuse what the networks cannot have (ValueError)."""
        size, layers = self.image_size, self.image_size.bit_length() - 1
        steps = {"lat": self.lat_steps, "ptc": self.ptc_steps, "clf": self.clf_steps}
        idle = [player for player, n in steps.items() if n == 0 and getattr(self, f"lambda_{player}") != 0]
        wrong = {
            "attributes needs at least one name": not self.attributes,
            "categories needs a number from 2 on for each attribute": len(self.categories) != len(self.attributes)
            or any(n < 2 for n in self.categories),
            f"image_size {size} is no power of 2": size != 2**layers,
            f"layers {self.layers} is not from 1 to {layers}, as image_size {size} allows": not 1
            <= self.layers
            <= layers,
            f"skips {self.skips} is not from 0 to layers - 1": not 0 <= self.skips < self.layers,
            f"smooth {self.smooth} is not in [0, 0.5)": not 0 <= self.smooth < 0.5,
            f"ptc_steps needs an image_size of at least {PatchDiscriminator.smallest}": self.ptc_steps > 0
            and size < PatchDiscriminator.smallest,
            f"lambda_{'/'.join(idle)} needs {'/'.join(idle)}_steps > 0": bool(idle),
        }
        for sentence, is_so in wrong.items():
            if is_so:
                raise ValueError(f"Fader: {sentence}.")

    def configure_optimizers(self):
        """Adam for each discriminator there is, then for the auto-encoder; their rates stay as they are."""
        players = [net for net in (self.lat_dis, self.ptc_dis, self.clf_dis) if net is not None]
        return [Adam(net.parameters(), self.lr, self.betas, fused=True) for net in (*players, self.ae)], []


def probability_loss(p: Tensor, target: float) -> Tensor:
    """Cross-entropy of (N,) probabilities with one ``target`` in [0, 1], mean over images.

    ``torch.nn.functional`` has it too, but stops the program where a probability is not finite. Its logarithms are cut
    at -100, these at that of the smallest number.
    """
    smallest = torch.finfo(p.dtype).tiny
    yes, no = p.clamp(min=smallest).log(), (1 - p).clamp(min=smallest).log()
    return -(target * yes + (1 - target) * no).mean()
