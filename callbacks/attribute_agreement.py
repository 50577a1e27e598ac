"""Whether an image that comes back of its code still has the attributes that it had."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from callbacks.attribute_swap import AttributeJudge
from callbacks.fid import as_saved
from callbacks.measured import Measurement, Measuring, Positions, log_alike, named
from callbacks.reconstruction import reconstructed
from callbacks.rows import CEILING, CHANCE
from callbacks.separability import attributes_for
from interfaces.batch import AttributeBatch
from interfaces.model import Decoder, Encoder, require
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap

ALL = "all"


@runtime_checkable
class EmbeddingJudge(AttributeJudge, Protocol):
    """An ``AttributeJudge`` that also tells faces from each other."""

    size: int

    def read_and_embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in [-1, 1] to what ``read`` gives and to embeddings (N, size)."""
        ...


class AttributeAgreement(Measuring):
    """Asks a judge whether it reads of a reconstruction, by an ``Encoder`` and ``Decoder``, what it reads of the image.

    An adversarial autoencoder asks for no pixel to come back (ALAE, Pidhorskyi et al. 2020): this is what should.

    * ``val/attribute_agreement/smile``: share of images of which both readings are the same; ``all``: of all readings.
    * ``val/attribute_truth/smile``, of those attributes that the data know: share of reconstructions of which the judge
      reads what is true; ``all``; ``_ceiling`` is read from the image itself, so that it says how often the judge errs.
    * ``val/embedding_distance/all``, of an ``EmbeddingJudge``: between the embeddings of an image and its
      reconstruction, each scaled to length 1; from 0 to 2.

    All have a row ``_chance``, of the reconstruction of the image before (of the first: of the last): what a model
    reaches that makes good images, but of nothing in particular. ``test/...`` in a test.

    Images are rounded to 8 bits first, as ``FID`` does. A reconstruction that is not finite agrees with nothing.

    Args:
        judge: reads the attributes, such as ``metrics.features.faces.Faces``.
        attributes: some of the judge's; None for all.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: the judge does not know an attribute.
    """

    def __init__(self, judge: AttributeJudge, attributes: tuple[str, ...] | None = None, every: int = 1) -> None:
        super().__init__(every)
        self.judge, self.attributes = judge, attributes_for(attributes, judge, self)
        self._columns = [judge.attributes.index(name) for name in self.attributes]
        self._true: dict[int, int] = {}  # column of the data, by place among our attributes

    @property
    def protocol(self) -> dict[str, str]:
        """Who judges what."""
        how = f"{', '.join(self.attributes)} of 8-bit images; chance is the reconstruction of the image before"
        return {"attribute agreement": how} | named("AttributeAgreement", self.judge.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model that gives no image back (TypeError)."""
        require(pl_module, Encoder, self)
        require(pl_module, Decoder, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is read yet; which attributes the data know."""
        known = list(getattr(getattr(trainer, "datamodule", None), "attributes", ()))
        self._true = {k: known.index(name) for k, name in enumerate(self.attributes) if name in known}
        width = self.judge.size if isinstance(self.judge, EmbeddingJudge) else 0
        self._widths = [len(self.attributes)] * 2 + [len(self._true)] + [width] * 2
        self._values = CollectedValues(sum(self._widths)).to(model.device)
        self._positions = Positions(trainer)

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Read a batch, and what comes back of it.

        Raises:
            TypeError: it has no images.
        """
        if not hasattr(batch, "image"):
            raise TypeError(f"AttributeAgreement needs batches with a field image, not {type(batch).__name__}.")
        if not isinstance(batch, AttributeBatch) and self._true:
            raise TypeError(f"AttributeAgreement needs the attributes of the data, not {type(batch).__name__}.")
        (before, image), (after, again) = (
            self._read(as_saved(x)) for x in (batch.image, reconstructed(trainer, model, batch.image))
        )
        true = batch.attributes[:, [*self._true.values()]] if self._true else before[:, :0]
        values = torch.cat([each.double().to(model.device) for each in (before, after, true, image, again)], 1)
        self._values.update(values, self._positions.next(len(values)))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log; in ``test`` with intervals."""
        before, after, true, image, again = self._values.compute().split(self._widths, 1)
        self._values.reset()
        found = _shares("attribute_agreement", self.attributes, before > 0, after)
        if self._true:
            names, places = [self.attributes[k] for k in self._true], [*self._true]
            found |= _shares("attribute_truth", names, true > 0, after[:, places])
            found |= _named("attribute_truth", names, _agree(true > 0, before[:, places]), CEILING)
        if image.shape[1]:
            found["embedding_distance/all"] = _apart(image, again)
            found["embedding_distance/all" + CHANCE] = _apart(image, again.roll(1, 0))
        measured = {key: _measurement(key, values, stage == "test") for key, values in found.items()}
        log_alike(model, stage, {key: each.value for key, each in measured.items()})
        if stage == "test":
            self.measurements = measured

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, attributes) logits and (N, D) embeddings; D is 0 of a judge without any."""
        if isinstance(self.judge, EmbeddingJudge):
            logits, embedding = self.judge.read_and_embed(x)
            return logits[:, self._columns], embedding
        return self.judge.read(x)[:, self._columns], x.new_zeros(len(x), 0)


def _shares(measure: str, names: Sequence[str], said: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """Of N images whether the judge's logits, (N, K), say what is said of them, bool; and those of another image."""
    by_chance = _agree(said, logits.roll(1, 0))
    return _named(measure, names, _agree(said, logits)) | _named(measure, names, by_chance, CHANCE)


def _named(measure: str, names: Sequence[str], right: Tensor, ending: str = "") -> dict[str, Tensor]:
    """(N,) of each column by its key, and of all together."""
    keys = [f"{measure}/{name}{ending}" for name in (*names, ALL)]
    return dict(zip(keys, [*right.T, right.mean(1)], strict=True))


def _agree(said: Tensor, logits: Tensor) -> Tensor:
    """(N, K) float64: 1 where they say the same, 0 where they do not or a logit is not finite."""
    return (((logits > 0) == said) & logits.isfinite()).double()


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Distance of the directions of (N, D) embeddings, (N,), as ``metrics.features.distance`` has it."""
    return (normalize(x, dim=1) - normalize(y, dim=1)).norm(dim=1)


def _measurement(key: str, values: Tensor, fully: bool) -> Measurement:
    """Mean of (N,), with an interval over images."""
    unit = "of 0..2" if key.startswith("embedding") else "share"
    return Measurement(
        float(values.mean()), bootstrap(values) if fully and len(values) > 1 else None, unit, len(values)
    )
