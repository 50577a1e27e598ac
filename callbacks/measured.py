"""What callbacks measured, in the form in which an evaluation card keeps it; and which images a batch holds."""

import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.probes import Probes
from callbacks.ways import Way, translate
from interfaces.model import seed_of
from metrics.intervals import Interval


class Measurement(NamedTuple):
    """One number with what is needed to believe it."""

    value: float
    interval: Interval | None  # 95 %, over images
    unit: str
    n: int  # images, or inputs, behind it


@runtime_checkable
class Measures(Protocol):
    """A callback that leaves measurements after ``test``."""

    @property
    def measurements(self) -> dict[str, Measurement]:
        """By key without the stage, such as ``fid_scenes/day2night``."""
        ...

    @property
    def protocol(self) -> dict[str, str]:
        """What one must know to repeat them, beside the data and the model."""
        ...


class Measuring(pl.Callback):
    """The hooks of a callback that measures evaluation images; it begins, adds each batch and finishes.

    Args:
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure. The sanity
            check never does.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"{type(self).__name__}.every is {every}: give a number of validations, 1 or more.")
        self.every = every
        self.measurements: dict[str, Measurement] = {}
        self._validations = 0  # of the fit, the current one included
        self._running = False

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Start with nothing; ``stage`` is ``val`` or ``test``."""
        raise NotImplementedError

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Take a batch of this rank."""
        raise NotImplementedError

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Bring the ranks together and log."""
        raise NotImplementedError

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, if it is this validation's turn."""
        if trainer.sanity_checking:
            return
        self._validations += trainer.state.fn == "fit"
        self._running = trainer.state.fn != "fit" or self._validations % self.every == 0
        if self._running:
            self.begin(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._running = True
        self.begin(trainer, pl_module, "test")

    def on_validation_batch_start(self, *_: Any) -> None:
        """What was made of the batch before is not needed any more."""
        _made.clear()

    def on_test_batch_start(self, *_: Any) -> None:
        """What was made of the batch before is not needed any more."""
        _made.clear()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add a batch."""
        if self._running:
            self.add(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add a batch."""
        self.add(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish what was begun."""
        _made.clear()
        if self._running:
            self._running = False
            self.finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish."""
        _made.clear()
        self._running = False
        self.finish(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """How many validations the fit has had."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run measures when an uninterrupted one would."""
        self._validations = state_dict["validations"]


def named(name: str, protocol: Mapping[str, str]) -> dict[str, str]:
    """Entries of a protocol under the name of what they are of, so that those of several stand beside each other."""
    return {f"{name}: {key}": value for key, value in protocol.items()}


def log_alike(model: pl.LightningModule, stage: str, values: Mapping[str, Tensor | float]) -> None:
    """Log numbers that are the same on all ranks already, without Lightning's advice to average them.

    Args:
        model: that is measured.
        stage: ``val`` or ``test``.
        values: by key without the stage.
    """
    measures = "|".join(sorted({re.escape(key.partition("/")[0]) for key in values}))
    warnings.filterwarnings("ignore", message=rf".*'{stage}/({measures})['/].*sync_dist=True")
    logged = {f"{stage}/{key}": torch.as_tensor(value, device=model.device) for key, value in values.items()}
    model.log_dict(logged, rank_zero_only=False, sync_dist=False)


class Positions:
    """Numbers of the images that go by, where rank r evaluates every world-th image from r on, in order."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._rank, self._world, self._seen = trainer.global_rank, trainer.world_size, 0

    def next(self, n: int) -> Tensor:
        """(n,) int64, the numbers of the next ``n`` images of this rank."""
        first = self._seen
        self._seen += n
        return self._rank + self._world * torch.arange(first, self._seen)


def distinct(trainer: pl.Trainer, domain: int) -> float:
    """How many different evaluation images a domain has: a smaller one starts again while the larger goes on."""
    sizes = getattr(getattr(trainer, "datamodule", None), "evaluation_sizes", None)
    return float("inf") if sizes is None else sizes[domain]


def distinct_share(trainer: pl.Trainer, probes: Probes, domains: int) -> tuple[Tensor, ...]:
    """What ``probes`` kept on this rank of the domains in turn, each without images that it repeats.

    Args:
        trainer: of the run.
        probes: of a column for each domain and, where the truth is known, all of them again.
        domains: how many there are.

    Returns:
        (N, C, H, W) each, of which N may differ; row k is image k * world + rank. () where this rank has none.
    """
    return tuple(
        column[Positions(trainer).next(len(column)) < distinct(trainer, k % domains)]
        for k, column in enumerate(probes.share())
    )


STYLES = "one of the prior for each image, drawn with seed 0 and the image's number"  # as ``styles_for`` does

_made: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}  # of the batch at hand: the input and what was made of it


def translated(trainer: pl.Trainer, model: Any, x: Tensor, way: Way, positions: Tensor) -> Tensor:
    """A side of the batch at hand in another domain, where all ``Measuring`` callbacks share one translation.

    Args:
        trainer: of the run.
        model: a ``Translator``.
        x: (N, C, H, W), the batch's own pixels and no copy or part of them: that is how they are known again.
        way: from its domain to another.
        positions: (N,) the numbers of the images, which choose their styles; see ``styles_for``.

    Returns:
        (N, C, H, W) float32 on the device of the model; to be left as it is, others read it too.
    """
    return made_once(x, way, lambda: translate(trainer, model, x, way.source, way.target, styles_for(model, positions)))


def made_once(x: Tensor, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """What a model makes of a side of the batch at hand, which all ``Measuring`` callbacks share.

    Args:
        x: (N, C, H, W), the batch's own pixels and no copy or part of them: that is how they are known again.
        what: tells it from whatever else is made of the same pixels.
        make: called where it is not there yet.

    Returns:
        What ``make`` gave; to be left as it is, others read it too.
    """
    key = (x.data_ptr(), x.shape, x.stride(), what)  # a batch of many domains has new views each time it is asked
    if key not in _made:
        # The input is kept with it, so that no other tensor can come to have its place.
        _made[key] = x, make()
    return _made[key][1]


def styles_for(model: Any, positions: Tensor, seed: int = 0) -> Tensor | None:
    """One style of the prior for each image, a function of its number alone; None where the model takes none.

    Returns:
        (N, size) float32 on the CPU.
    """
    if model.style_spec is None:
        return None
    draws = [
        model.style_spec.draw(1, torch.Generator().manual_seed(seed_of(seed, int(position)))) for position in positions
    ]
    return torch.cat(draws) if draws else torch.zeros(0, model.style_spec.size)
