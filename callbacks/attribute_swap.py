"""Whether an edit changes the attribute that it should, and leaves the others and the rest of the image alone."""

from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.measured import Measurement, Measuring, Positions, log_alike
from callbacks.probes import infer
from callbacks.rows import CEILING, UNTRANSLATED
from interfaces.batch import AttributeBatch, KnowsEdits
from interfaces.model import AttributeEditor, check_names, require
from metrics.collected import CollectedValues
from metrics.intervals import bootstrap
from metrics.paired import psnr


@runtime_checkable
class AttributeJudge(Protocol):
    """A network that reads attributes from images, and is not the model's."""

    attributes: tuple[str, ...]

    @property
    def protocol(self) -> dict[str, str]:
        """What one must know of it."""
        ...

    def read(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to a logit for each of ``attributes``: positive where an image has it."""
        ...


class AttributeSwap(Measuring):
    """Gives each image, one at a time, every attribute that it has not, and takes those that it has.

    * ``swap_accuracy/smile``: share of edited images that the judge reads as having, or not having, the attribute as
      the edit wanted. ``_untranslated`` is read from the input, so that it says how often the judge errs; ``_ceiling``,
      where the data know the truth of an edit (``KnowsEdits``), from the true one.
    * ``swap_leakage/smile``: share of readings of the judge's *other* attributes that differ between the edited image
      and the input; ``_ceiling`` between the true edit and the input, which need not be 0 where one attribute covers
      another.
    * ``swap_psnr/smile``: edited images against the true ones; ``_untranslated``: the inputs against them.
    * ``reconstruction_psnr/images``: the image with the attributes that it has, against itself.

    Keys begin with ``val/`` or ``test/``.

    Args:
        judge: reads the attributes of the data, and more.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(self, judge: AttributeJudge, every: int = 1) -> None:
        super().__init__(every)
        self.judge = judge
        self._rows: dict[str, CollectedValues] = {}
        self._true: list[Any] = []  # arrays of true edits of the stage at hand
        self._known: dict[str, list[Any]] = {}

    @property
    def protocol(self) -> dict[str, str]:
        """Who judges."""
        return {f"AttributeSwap: {key}": value for key, value in self.judge.protocol.items()}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a model that does not edit, and attributes that the judge does not know.

        Raises:
            TypeError: ``pl_module`` is not an ``AttributeEditor``.
            ValueError: it has other attributes than the data, or one that the judge cannot read.
        """
        require(pl_module, AttributeEditor, self)
        check_names(pl_module, getattr(trainer, "datamodule", None))
        unknown = [name for name in pl_module.attributes if name not in self.judge.attributes]
        if unknown:
            known = ", ".join(self.judge.attributes)
            raise ValueError(f"AttributeSwap's judge reads {known}, not {unknown[0]}: remove it or the attribute.")

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """No rows; the true edits of the stage, once."""
        self._rows, self._positions = {}, Positions(trainer)
        data = getattr(trainer, "datamodule", None)
        if stage not in self._known:
            name = "test" if stage == "test" else "validate"
            places = range(len(model.attributes))
            self._known[stage] = [data.edited(name, k) for k in places] if isinstance(data, KnowsEdits) else []
        self._true = self._known[stage]

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Edit a batch.

        Raises:
            TypeError: it has no attributes.
        """
        if not isinstance(batch, AttributeBatch):
            raise TypeError(f"AttributeSwap needs an AttributeBatch, not {type(batch).__name__}.")
        x, has = batch.image.float(), batch.attributes.to(batch.image)
        positions = self._positions.next(len(x))
        before = self.judge.read(x) > 0
        same = infer(trainer, model.edit, x, has)
        self._keep("reconstruction_psnr/images", psnr(same, x)[:, None], positions)
        for k, name in enumerate(model.attributes):
            wanted = has.clone()
            wanted[:, k] = 1 - wanted[:, k]
            edited = {"": infer(trainer, model.edit, x, wanted), UNTRANSLATED: x}
            if self._true:
                pixels = torch.stack([torch.from_numpy(self._true[k][int(i)].copy()) for i in positions])
                edited[CEILING] = (pixels.float() / 127.5 - 1).to(x)
            column = self.judge.attributes.index(name)
            others = [j for j in range(len(self.judge.attributes)) if j != column]
            for row, y in edited.items():
                after = self.judge.read(y) > 0
                right = (after[:, column] == (wanted[:, k] > 0.5)).double()
                self._keep(f"swap_accuracy/{name}{row}", right[:, None], positions)
                if row != UNTRANSLATED:
                    moved = (after[:, others] != before[:, others]).double().mean(1, keepdim=True)
                    self._keep(f"swap_leakage/{name}{row}", moved, positions)
                if row != CEILING and self._true:
                    self._keep(f"swap_psnr/{name}{row}", psnr(y, edited[CEILING])[:, None], positions)

    def _keep(self, row: str, values: Tensor, positions: Tensor) -> None:
        if row not in self._rows:
            self._rows[row] = CollectedValues(values.shape[1]).to(values.device)
        self._rows[row].update(values, positions)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log the means; in ``test`` with intervals."""
        found: dict[str, Measurement] = {}
        for row, metric in self._rows.items():
            values = metric.compute()[:, 0]
            interval = bootstrap(values) if stage == "test" and len(values) > 1 else None
            unit = "dB" if "psnr" in row else "share"
            found[row] = Measurement(float(values.mean()), interval, unit, len(values))
        self._rows = {}
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found
