"""Progress over the whole training, with the loss terms: a live bar in a terminal, plain lines in a log file."""

import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.rows import CEILING, FLOORS


class Progress(pl.callbacks.ProgressBar):
    """Shows iteration, speed, time left and the loss terms.

    Terms are read from the device only when they are shown: twice a second at most in a terminal, every
    ``every_seconds`` in a log file. For that it takes ``train/...`` from what the module logs; logging with
    ``prog_bar=True`` is not needed, and would make Lightning read every term in every iteration. Mean scores of
    discriminators, ``train/score/...``, are left to the curves: with them a line would not fit a terminal.

    Args:
        every_seconds: between two lines where the output is no terminal.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        self._every, self._enabled = every_seconds, True
        self._display: Bar | None = None
        self._rate = self._shown_at = self._away = 0.0
        self._shown_iteration = 0

    def disable(self) -> None:
        """Show nothing, as on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            print(*args, **kwargs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks and, in a terminal, the bar."""
        self._shown_at = self._started_at = time.monotonic()
        self._shown_iteration = self._started_iteration = trainer.global_step
        self._rate = self._away = 0.0
        if self._enabled and sys.stdout.isatty():
            self._display = Bar(total_iterations(trainer), trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Show the state if it is time to."""
        total = total_iterations(trainer)
        if self._due() or (self._enabled and trainer.global_step == total):
            values = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
            terms = format_terms({k: v for k, v in values.items() if not k.startswith("train/score/")})
            self._measure(trainer.global_step)
            left = self._time_left(trainer.global_step, total)
            if self._display:
                self._display.show(trainer.global_step, f"{self._rate:.3g} it/s  {left}", terms)
            else:
                goal = f"/{total}" if total else ""
                print(f"{trainer.global_step}{goal}  {self._rate:.3g} it/s  {left}   {terms}", flush=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the training speed."""
        self._left_at = time.monotonic()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show how far the validation is, if it is time to."""
        if not trainer.sanity_checking:
            self._show_evaluation("validation", batch_idx + 1, trainer.num_val_batches)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show how far the test is, if it is time to."""
        self._show_evaluation("test", batch_idx + 1, trainer.num_test_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what was measured and, in a training, start the clock of its speed again."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit":
            self._away += time.monotonic() - self._left_at
            self._print_measured(trainer, "val/", f"{trainer.global_step}  validation")
        else:
            self._print_measured(trainer, "val/", "validation")
        if self._display:
            self._display.end_note()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what was measured."""
        self._print_measured(trainer, "test/", "test")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the last state on the screen."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before the traceback is printed."""
        self._close()

    def _print_measured(self, trainer: pl.Trainer, prefix: str, title: str) -> None:
        values = {k: v for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        values = {k: v for k, v in values.items() if not k.endswith((*FLOORS, CEILING))}
        if self._enabled and values:
            print(f"{title}   {format_terms(values)}", flush=True)

    def _due(self) -> bool:
        period = 0.5 if self._display else self._every
        return self._enabled and time.monotonic() - self._shown_at >= period

    def _measure(self, iteration: int) -> None:
        now = time.monotonic()
        done, seconds = iteration - self._shown_iteration, now - self._shown_at - self._away
        if done > 0 and seconds > 0:
            rate = done / seconds
            self._rate = 0.7 * self._rate + 0.3 * rate if self._rate else rate
        self._shown_at, self._shown_iteration, self._away = now, iteration, 0.0

    def _time_left(self, iteration: int, total: int | None) -> str:
        """By wall clock since the start, so that validations are in it."""
        done = iteration - self._started_iteration
        if not total or done <= 0:
            return ""
        seconds = int((time.monotonic() - self._started_at) / done * (total - iteration))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _show_evaluation(self, name: str, done: int, totals: Any) -> None:
        total = sum(totals) if isinstance(totals, list) else totals
        if self._display:
            self._display.note(f"{name} {done}/{total}")
        elif self._due():
            self._shown_at = time.monotonic()
            print(f"{name} {done}/{total}", flush=True)

    def _close(self) -> None:
        if self._display:
            self._display.close()
            self._display = None


class Bar:
    """Two live lines at the bottom of a terminal: a bar, and below it the terms.

    Args:
        total: iterations, or None where training has no end.
        done: iterations at the start.
    """

    def __init__(self, total: int | None, done: int) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(MofNCompleteColumn(), BarColumn(40), TextColumn("{task.description}"))
        self._task = self._bar.add_task("", total=total, completed=done)
        self._live = Live(self._bar, auto_refresh=False)
        self._terms, self._noted_at = "", 0.0
        self._live.start()

    def show(self, done: int, speed: str, terms: str) -> None:
        """Draw both lines."""
        self._bar.update(self._task, completed=done, description=speed)
        self._terms = terms
        self.end_note()

    def note(self, text: str) -> None:
        """Draw ``text`` in place of the terms, at most twice a second."""
        if time.monotonic() - self._noted_at >= 0.5:
            self._noted_at = time.monotonic()
            self._draw(text)

    def end_note(self) -> None:
        """Draw the terms again."""
        self._draw(self._terms)

    def close(self) -> None:
        """Leave the lines as they are and give the terminal back."""
        self._live.stop()

    def _draw(self, below: str) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(self._bar, Text(below)), refresh=True)


def total_iterations(trainer: pl.Trainer) -> int | None:
    """Iterations until training ends, or None if nothing ends it."""
    if trainer.max_steps and trainer.max_steps > 0:
        return trainer.max_steps
    if trainer.max_epochs and trainer.max_epochs > 0 and trainer.num_training_batches != float("inf"):
        return trainer.max_epochs * int(trainer.num_training_batches)
    return None


def format_terms(values: dict[str, Tensor]) -> str:
    """Write ``{"train/d/a": ..., "train/g/kl": ...}`` as ``d: a 0.254   g: kl 1.20``, three digits each.

    Of more than ``MANY`` rows of one measure, as 30 ways between six domains are, come the mean and both ends. All
    values are read from the device at once.

    Args:
        values: scalars by key; the part before the first slash is dropped.
    """
    if not values:
        return ""
    numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
    groups: dict[str, dict[str, float]] = {}
    for key, number in zip(values, numbers, strict=True):
        group, _, name = key.split("/", 1)[1].rpartition("/")
        groups.setdefault(group, {})[name] = number
    return "   ".join((f"{group}: " if group else "") + _terms(terms) for group, terms in groups.items())


MANY = 12  # rows of a measure that are shown one by one


def _terms(terms: dict[str, float]) -> str:
    if len(terms) <= MANY or not all(math.isfinite(number) for number in terms.values()):
        return " ".join(f"{name} {three_digits(number)}" for name, number in terms.items())
    low, high = min(terms, key=terms.__getitem__), max(terms, key=terms.__getitem__)
    mean = three_digits(sum(terms.values()) / len(terms))
    return f"mean {mean} ({low} {three_digits(terms[low])} to {high} {three_digits(terms[high])})"


def three_digits(value: float) -> str:
    """Three significant digits without an exponent where that is short: 0.0123, 1.50, 1234."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.3g}"
