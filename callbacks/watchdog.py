"""Watches over a run: stops it when numbers are no longer finite, and warns of sickness that losses hide."""

import json
import math
from collections import deque
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

from callbacks.health import DeadLatents, Saturation, Streak, relative_spread
from callbacks.incident import Moment, logged_terms, numbers, read_later, report
from callbacks.media import run_folder
from callbacks.probes import Probes, in_parts
from callbacks.translation_grid import translate
from interfaces.batch import PairedBatch, UnpairedBatch
from interfaces.model import Translator

WARNINGS = "warnings.jsonl"


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
    * ``collapse``: in two validations in a row the translations of the first validation images differ from each other
      less than a twentieth as much as real images of that domain do.
    * ``style_collapse``: the same for one image under several styles, and a hundredth; where a model takes a style.
    * ``dead_latents``: ``kl_per_dim()`` of the model, if it has one, gives (D,) nats of its last batch, and most
      stay at zero (``health.DeadLatents``).

    Args:
        every: iterations between two readings of the terms; reading waits for the device.
        tolerate: optimizer steps that may be left out, and readings of terms that may be not finite, before the run
            is stopped; the first is warned of.
        images: how many validation images are translated for ``collapse``.
    """

    def __init__(self, every: int = 10, tolerate: int = 0, images: int = 8) -> None:
        if every < 1 or tolerate < 0 or images < 2:
            raise ValueError(f"Watchdog needs every >= 1, tolerate >= 0, images >= 2, not {every, tolerate, images}.")
        self.every, self.tolerate, self.images = every, tolerate, images
        self._waiting: deque[Moment] = deque()
        self._lag = self._skipped = self._faults = self._iteration = 0
        self._saturation, self._dead = Saturation(), DeadLatents()
        self._alike: dict[str, Streak] = {}
        self._probes = Probes(images)
        self._warned: set[str] = set()

    # Not finite

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Steps that were left out before, in the run that this one resumes, do not count."""
        self._skipped, self._faults = int(pl_module.skipped), 0
        self._lag = 1 if pl_module.device.type == "cuda" else 0
        self._waiting.clear()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the number of the iteration, which the module counts up before the batch ends."""
        self._iteration = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Judge the batch before this one; this one too where reading does not wait or is due.

        Raises:
            SystemExit: with the message on rank 0 and with code 1, on all ranks.
        """
        due = self._is_due(self._iteration)
        terms = logged_terms(trainer) if due or self._lag else {}
        self._waiting.append(Moment(self._iteration, batch, terms, read_later(pl_module.skipped)))
        while len(self._waiting) > (0 if due else self._lag):
            self._judge(trainer, pl_module, self._waiting.popleft())

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Judge what waits."""
        while self._waiting:
            self._judge(trainer, pl_module, self._waiting.popleft())

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Let go of the batches."""
        self._waiting.clear()

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

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Keep this rank's share of the first images, in the first validation only."""
        if _may_translate(trainer, pl_module) and isinstance(batch, UnpairedBatch | PairedBatch):
            self._probes.add(trainer, batch.a, batch.b)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Translate them on rank 0 and compare the results with each other; all ranks bring theirs together."""
        if not _may_translate(trainer, pl_module):
            return
        probes = self._probes.gather(trainer)
        if not trainer.is_global_zero or not probes or len(probes[0]) < 2:
            return
        a, b = probes
        for source, x, truth in ((0, a, b), (1, b, a)):
            way = f"{pl_module.domains[source]} to {pl_module.domains[1 - source]}"
            y = in_parts(partial(translate, trainer, pl_module, source=source, target=1 - source), x).cpu()
            if self._alike.setdefault(way, Streak(0.05, 2)).feed(relative_spread(y, truth)):
                text = f"Translations from {way} are nearly one and the same image, whatever the input."
                self._warn(trainer, trainer.global_step, "collapse", text)
            if pl_module.style_spec is not None and self._styles_alike(trainer, pl_module, source, x[:1], truth):
                text = f"Translations from {way} are nearly the same under all styles."
                self._warn(trainer, trainer.global_step, "style_collapse", text)

    def _styles_alike(self, trainer: pl.Trainer, model: Any, source: int, x: Any, truth: Any) -> bool:
        styles = model.style_spec.draw(8, torch.Generator().manual_seed(0))
        y = translate(trainer, model, x.expand(8, -1, -1, -1), source, 1 - source, styles)
        return self._alike.setdefault(f"styles {source}", Streak(0.01, 2)).feed(relative_spread(y.cpu(), truth))

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
        """What was warned of, and what the discriminator's terms began with."""
        return {"warned": sorted(self._warned), "starts": self._saturation.starts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run neither repeats itself nor takes a saturated discriminator for a fresh one."""
        self._warned, self._saturation.starts = set(state_dict["warned"]), dict(state_dict["starts"])


def _may_translate(trainer: pl.Trainer, model: Any) -> bool:
    """During ``fit``, models of two domains are looked at."""
    watching = trainer.state.fn == "fit" and not trainer.sanity_checking
    return watching and isinstance(model, Translator) and len(model.domains) == 2
