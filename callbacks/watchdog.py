"""Watches over a run: stops it when numbers are no longer finite, and warns of sickness that losses hide."""

import json
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn

from callbacks.health import DeadLatents, Saturation, Streak, relative_spread
from callbacks.incident import Moment, logged_terms, numbers, read_later, report
from callbacks.media import run_folder
from callbacks.probes import in_parts
from callbacks.ways import Way, ring, translate
from interfaces.batch import DomainBatch, UnpairedBatch
from interfaces.model import Translator

WARNINGS = "warnings.jsonl"
ALIKE = 0.05  # share of the real spread


class Watchdog(pl.Callback):
    """Stops at numbers that are not finite; warns of a saturated discriminator, of outputs that are all alike, of
    latent dimensions that carry nothing.

    **Not finite.** The module leaves out steps whose gradients are not finite and counts them in ``skipped``. On the
    CPU that number is read after every batch; on a GPU its copy is read one batch later, so that nothing waits.
    Logged terms are looked at every ``every`` iterations and in the first three. The message names the images
    (``NamesImages``), the terms and the command that replays the batch; all ranks end together, with code 1.

    **Symptoms** are warned of once each in a run: a printed line, a line of ``<run>/warnings.jsonl`` and, where the
    run is online, a W&B alert.

    * ``saturation``: a term ``train/d/*`` stays below a twentieth of its first values, and the generator's
      ``train/g/adv*`` have not fallen (``health.Saturation``).
    * ``collapse``: in two looks in a row the translations of the last training images differ from each other less than
      a twentieth as much as real images of that domain do.
    * ``style_collapse``: the same for one image under eight styles of the prior; where a model takes a style.
    * ``dead_latents``: ``kl_per_dim()`` of the model, if it has one, gives (D,) nats of its last batch, and most
      stay at zero (``health.DeadLatents``).

    A look is every ``look`` iterations, on rank 0, by the weights as they are trained: a running average would hide a
    collapse for some hundred iterations more. It changes nothing in training. A collapse is seen within twice ``look``.
    The lowest spread under styles of healthy runs, as a share of the real one, read every 50 iterations: 0.10 in tiny
    MUNIT with ``calm_start``, 0.34 without; 0.20 in the shipped ``munit_streets``, in iteration 50; 0.39 in tiny DRIT;
    0.19 in checkpoints of DRIT and DRIT++ on streets.

    Args:
        every: iterations between two readings of the terms; reading waits for the device.
        tolerate: optimizer steps that may be left out, and readings of terms that may be not finite, before the run
            is stopped; the first is warned of.
        images: how many of the last training images of each domain are translated to the next domain in a look; no
            look has fewer.
        look: iterations between two looks, each of which translates ``images`` images of each domain to the next and,
            where a model takes a style, eight more.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, every: int = 10, tolerate: int = 0, images: int = 8, look: int = 100) -> None:
        if every < 1 or tolerate < 0 or images < 2 or look < 1:
            raise ValueError(
                "Watchdog needs every >= 1, tolerate >= 0, images >= 2, look >= 1, "
                f"not {every}, {tolerate}, {images}, {look}."
            )
        self.every, self.tolerate, self.images, self.look = every, tolerate, images, look
        self._waiting: deque[Moment] = deque()
        self._lag = self._skipped = self._faults = self._iteration = 0
        self._saturation, self._dead = Saturation(), DeadLatents()
        self._alike: dict[str, Streak] = {}  # by kind of look and domain
        self._recent: list[Recent] = []  # images of each domain; none where a model is not looked at
        self._warned: set[str] = set()

    # Not finite

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Steps that were left out before, in the run that this one resumes, do not count."""
        self._skipped, self._faults = int(pl_module.skipped), 0
        self._lag = 1 if pl_module.device.type == "cuda" else 0
        self._let_go()
        # Other ranks have nothing to add: all hold the same weights.
        if trainer.is_global_zero and isinstance(pl_module, Translator):
            self._recent = [Recent(self.images) for _ in pl_module.domains]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the number of the iteration, which the module counts up before the batch ends."""
        self._iteration = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Judge the batch before this one, this one too where reading does not wait or is due; look where that is due.

        Raises:
            SystemExit: with the message on rank 0 and with code 1, on all ranks.
        """
        due = self._is_due(self._iteration)
        terms = logged_terms(trainer) if due or self._lag else {}
        self._waiting.append(Moment(self._iteration, batch, terms, read_later(pl_module.skipped)))
        while len(self._waiting) > (0 if due else self._lag):
            self._judge(trainer, pl_module, self._waiting.popleft())
        if self._recent and isinstance(batch, UnpairedBatch | DomainBatch):
            self._keep_images(batch)
            if (self._iteration + 1) % self.look == 0 and all(recent.full for recent in self._recent):
                self._watch_images(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Judge what waits."""
        while self._waiting:
            self._judge(trainer, pl_module, self._waiting.popleft())
        self._let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Let go of the batches."""
        self._let_go()

    def _let_go(self) -> None:
        self._waiting.clear()
        for recent in self._recent:
            recent.clear()

    def _is_due(self, iteration: int) -> bool:
        """Also at the very beginning, for what an untrained discriminator has."""
        return iteration < 3 or (iteration + 1) % self.every == 0

    def _judge(self, trainer: pl.Trainer, model: Any, moment: Moment) -> None:
        """All ranks judge alike: gradients are averaged before steps are left out; terms are not, so they are asked."""
        steps = moment.skipped() - self._skipped
        self._skipped += steps
        terms, bad = {}, steps > 0
        if self._is_due(moment.iteration):
            terms = numbers(moment.terms)
            finite = all(map(math.isfinite, terms.values()))
            bad |= trainer.strategy.reduce_boolean_decision(not finite, all=False)
        if bad:
            self._fault(trainer, model, moment._replace(terms=moment.terms or logged_terms(trainer)), steps)
        elif terms and trainer.is_global_zero:
            self._watch_saturation(trainer, moment.iteration, terms)
            self._watch_latents(trainer, moment.iteration, model)

    def _fault(self, trainer: pl.Trainer, model: Any, moment: Moment, steps: int) -> None:
        """Stop, or warn the first time while it is tolerated."""
        self._faults += max(steps, 1)
        stop = self._faults > self.tolerate
        if not stop and "not_finite" in self._warned:
            return
        text = report(trainer, model, moment, steps)
        if not stop:
            self._warn(trainer, moment.iteration, "not_finite", text)
            return
        text += f"\nStopped; Watchdog.tolerate is {self.tolerate}, a larger number accepts more such steps."
        self._keep(trainer, moment.iteration, "stopped", text)
        self._waiting.clear()
        trainer.strategy.barrier()  # before the first process that ends takes the others with it
        raise SystemExit(text if trainer.is_global_zero else 1)

    # Symptoms

    def _watch_saturation(self, trainer: pl.Trainer, iteration: int, terms: dict[str, float]) -> None:
        short = {key.removeprefix("train/"): value for key, value in terms.items()}
        discriminator = {key: value for key, value in short.items() if key.startswith("d/")}
        adversarial = {key: value for key, value in short.items() if key.startswith("g/adv")}
        saturated = self._saturation.feed(discriminator, adversarial)
        if saturated:
            text = (
                f"{' and '.join(saturated)} stayed at next to nothing: the discriminator tells real from generated "
                "without fail, and the generator learns nothing from it. A slower or narrower discriminator may help."
            )
            self._warn(trainer, iteration, "saturation", text)

    def _watch_latents(self, trainer: pl.Trainer, iteration: int, model: Any) -> None:
        kl_per_dim = getattr(model, "kl_per_dim", None)
        kl = kl_per_dim() if callable(kl_per_dim) else None
        if kl is None:
            return
        dead = self._dead.feed(kl.detach().flatten().tolist())
        if dead:
            named = ", ".join(map(str, dead[:10])) + (", ..." if len(dead) > 10 else "")
            text = f"{len(dead)} of {kl.numel()} latent dimensions carry nothing ({named}): the weight of the KL may be"
            self._warn(trainer, iteration, "dead_latents", text + " too high, or grow too fast.")

    def _keep_images(self, batch: UnpairedBatch | DomainBatch) -> None:
        if isinstance(batch, UnpairedBatch):
            each: list[Tensor] = [*batch]
        elif -(self._iteration + 1) % self.look >= self.images:
            return  # taking out each domain's rows waits for the device, and the next look is not near
        else:
            each = [batch.image[batch.domain == k] for k in range(len(self._recent))]
        for recent, images in zip(self._recent, each, strict=True):
            recent.add(images)

    def _watch_images(self, trainer: pl.Trainer, model: Any) -> None:
        each = [recent.images() for recent in self._recent]
        with inspected(model):
            for way in ring(model):
                self._watch_way(trainer, model, way, each[way.source], each[way.target])

    def _watch_way(self, trainer: pl.Trainer, model: Any, way: Way, x: Tensor, truth: Tensor) -> None:
        """Translate images and compare the results with each other."""
        names = f"{model.domains[way.source]} to {model.domains[way.target]}"
        y = in_parts(partial(translate, trainer, model, source=way.source, target=way.target), x)
        if self._streak(f"images {way.source}").feed(relative_spread(y, truth)):
            text = f"Translations from {names} are nearly one and the same image, whatever the input."
            self._warn(trainer, trainer.global_step, "collapse", text)
        if model.style_spec is None:
            return
        styles = model.style_spec.draw(8, torch.Generator().manual_seed(0))
        y = translate(trainer, model, x[:1].expand(8, -1, -1, -1), way.source, way.target, styles)
        if self._streak(f"styles {way.source}").feed(relative_spread(y, truth)):
            text = f"Translations from {names} are nearly the same under all styles."
            self._warn(trainer, trainer.global_step, "style_collapse", text)

    def _streak(self, name: str) -> Streak:
        return self._alike.setdefault(name, Streak(ALIKE, 2))

    # Words

    def _warn(self, trainer: pl.Trainer, iteration: int, kind: str, text: str) -> None:
        """Once a run and kind, on rank 0 visibly."""
        if kind in self._warned:
            return
        self._warned.add(kind)
        if trainer.is_global_zero:
            print(f"WARNING (iteration {iteration}): {text}", flush=True)
        self._keep(trainer, iteration, kind, text)

    def _keep(self, trainer: pl.Trainer, iteration: int, kind: str, text: str) -> None:
        """In the file and, where W&B is online, as its alert."""
        if not trainer.is_global_zero:
            return
        path = run_folder(trainer) / WARNINGS
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"iteration": iteration, "kind": kind, "message": text}) + "\n")
        for run in (logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)):
            if not (run.offline or run.disabled):
                run.alert(title=f"{kind} in iteration {iteration}", text=text)

    def state_dict(self) -> dict[str, Any]:
        """What was warned of and how far every detector has counted, in plain values."""
        alike = {name: streak.count for name, streak in self._alike.items()}
        counted = self._saturation.state_dict() | self._dead.state_dict()
        return {"warned": sorted(self._warned), "alike": alike} | counted

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run neither repeats itself nor counts from the start; older checkpoints lack most of the counts."""
        self._warned = set(state_dict["warned"])
        for name, count in state_dict.get("alike", {}).items():
            self._streak(name).count = count
        self._saturation.load_state_dict(state_dict)
        self._dead.load_state_dict(state_dict)


class Recent:
    """The last images of a domain, newest first: references to batches, where they are.

    Args:
        size: how many images.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: list[Tensor] = []

    def add(self, batch: Tensor) -> None:
        """Take the (N, C, H, W) images of a batch; those of another size before them are let go, and all too old."""
        same = [part for part in self._parts if part.shape[1:] == batch.shape[1:]]
        self._parts, room = [], self._size
        for part in (batch, *same):
            if room > 0:
                self._parts.append(part[:room])
                room -= len(part)

    def clear(self) -> None:
        """Let go of all."""
        self._parts = []

    @property
    def full(self) -> bool:
        """Whether there are ``size`` images."""
        return sum(map(len, self._parts)) == self._size

    def images(self) -> Tensor:
        """(n, C, H, W), n at most ``size``."""
        return torch.cat(self._parts)


@contextmanager
def inspected(model: nn.Module) -> Iterator[None]:
    """Within, a model in training is one in evaluation, and uses the very weights that are trained.

    Modes are put back one by one: a part may be in evaluation all the time. A running average (``averaged``) is out of
    sight meanwhile.
    """
    modes = [(module, module.training) for module in model.modules()]
    average = getattr(model, "averaged", None)
    model.eval()
    if average is not None:
        model.averaged = None  # type: ignore[assignment]  # a submodule may be None
    try:
        yield
    finally:
        if average is not None:
            model.averaged = average
        for module, training in modes:
            module.training = training
