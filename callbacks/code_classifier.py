"""Measures what the code of an image knows of its label: the numbers of BiGAN and ALAE on MNIST."""

from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import sklearn
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, log_alike
from callbacks.probes import in_order, infer
from interfaces.batch import LabelledData
from interfaces.model import Encoder, FeatureEncoder, require
from metrics.code_classifiers import nearest_neighbour, support_vectors
from metrics.intervals import wilson

CLASSIFIERS = {"knn_accuracy": nearest_neighbour, "svm_accuracy": support_vectors}
HIDDEN = "_hidden"  # end of the keys of long features


class Seen(NamedTuple):
    """What is kept of images."""

    hidden: np.ndarray  # (N, F) float32; F is 0 where the model does not show it
    code: np.ndarray  # (N, size) float32
    factors: np.ndarray  # (N, K) int64


class CodeClassifier(Measuring):
    """Logs how often classifiers that know the codes of all training images read an evaluation image's label right.

    * ``val/knn_accuracy/digit``: the label of the nearest code, for a factor of the data that is called ``digit``.
    * ``val/svm_accuracy/digit``: linear support vector machines with C = 0.02 (``metrics.code_classifiers``).
    * the same with ``_hidden``, of a ``FeatureEncoder``: of the activations before the code, the papers' long features.

    ``test/...`` in a test. Every training image is encoded once, as it is, and the first process fits. Codes are taken
    as they are: a coordinate of a larger scale counts for more.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._rows: list[Seen] = []  # of this rank's evaluation images

    @property
    def protocol(self) -> dict[str, str]:
        """Who classifies, and how an interval is made."""
        how = "1 nearest neighbour by l2; linear SVM, C = 0.02, at most 5000 iterations; all training images, unscaled"
        return {"classifiers of codes": f"{how}; Wilson's score, 95 %; scikit-learn {sklearn.__version__}"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a code, and data whose training images are no list.

        Raises:
            TypeError: ``pl_module`` is no ``Encoder``, or the data are no ``LabelledData``.
            ValueError: the data are drawn from a grid.
        """
        require(pl_module, Encoder, self)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, LabelledData):
            raise TypeError(
                f"{type(self).__name__} needs data with a labelled_dataloader, such as datamodules.factors with a "
                f"source of labelled images, not {type(data).__name__}: remove the callback from this experiment."
            )
        if stage != "predict":
            data.labelled_dataloader()  # a grid says so here, and not after hours of training

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing is seen."""
        self._rows = []

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Encode a batch."""
        self._rows += seen(trainer, model, batch.image, batch.factors)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Encode the training images, bring the ranks together, fit on the first, tell the others, log."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        known: list[Seen] = []
        for batch in data.labelled_dataloader():
            known += seen(trainer, model, batch.image.float() / 127.5 - 1, batch.factors)
        train, asked = stacked(in_order(trainer, known)), stacked(in_order(trainer, self._rows))
        self._rows = []
        found: list[Any] = [None]
        if trainer.is_global_zero:
            found = [measured(train, asked, data.factor_names, stage == "test")]
        if trainer.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        log_alike(model, stage, {key: each.value for key, each in found[0].items()})
        if stage == "test":
            self.measurements = found[0]


def seen(trainer: pl.Trainer, model: Any, x: Tensor, factors: Tensor) -> list[Seen]:
    """One row an image of (N, C, H, W) in [-1, 1], by one look at it."""
    widths: list[int] = []  # of the code

    def look(x: Tensor) -> Tensor:
        hidden, code = model.features_of(x) if isinstance(model, FeatureEncoder) else (None, model.encode(x))
        widths.append(code.shape[1])
        return code if hidden is None else torch.cat((hidden.to(code), code), 1)

    both = infer(trainer, look, x).cpu().numpy()
    hidden, code = np.split(both, [both.shape[1] - widths[0]], 1)
    return list(map(Seen, hidden, code, factors.cpu().numpy()))


def stacked(rows: list[Seen]) -> Seen:
    """All rows as one."""
    return Seen(*(np.stack(column) for column in zip(*rows, strict=True)))


def measured(train: Seen, asked: Seen, names: tuple[str, ...], fully: bool) -> dict[str, Measurement]:
    """Shares of right answers by key; with ``fully`` with intervals."""
    found: dict[str, Measurement] = {}
    n = len(asked.code)
    for k, name in enumerate(names):
        for row, known, others in ((name, train.code, asked.code), (name + HIDDEN, train.hidden, asked.hidden)):
            if not known.shape[1]:
                continue
            for key, classifier in CLASSIFIERS.items():
                right = int((classifier(known, train.factors[:, k], others) == asked.factors[:, k]).sum())
                found[f"{key}/{row}"] = Measurement(right / n, wilson(right, n) if fully else None, "share", n)
    return found
