"""The card of an evaluation: every number with its interval, and everything that one needs to believe or repeat it."""

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.checkpoint_io import best_checkpoint
from callbacks.environment import environment
from callbacks.measured import STYLES, Measurement, Measures
from callbacks.media import run_folder, show_table, shown
from callbacks.rows import CEILING, FLOORS

FILE = "evaluation.json"
COLUMNS = ("measure", "row", "value", "low", "high", "unit", "n", "floor", "ceiling")


class EvaluationCard(pl.Callback):
    """Writes ``<run>/evaluation.json`` after ``test`` and shows it as a table, printed and in W&B (``evaluation``).

    The card of the run's ``best.ckpt`` is ``evaluation_best`` in both places, so that it stands beside that of the
    last. Name the callback after what measures.

    The card's ``protocol`` holds what two evaluations must share to be compared: data, features and their weights,
    how sets are compared. Its hash stands beside it; ``python -m metrics.compare`` refuses cards of different ones.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse callbacks that contradict each other, before they measure anything.

        Raises:
            ValueError: two protocols have different values under one key.
        """
        if stage == "test":
            joint_protocol(trainer.callbacks)  # type: ignore[attr-defined]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect what the other callbacks measured; all ranks hold the same, the first writes."""
        if not trainer.is_global_zero:
            return
        card = evaluation_card(trainer, pl_module)
        path = run_folder(trainer) / card_file(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(card, indent=1) + "\n")
        os.replace(temporary, path)
        print_card(card)
        show_table(trainer, path.stem, COLUMNS, card_rows(card), step=card["iteration"])
        print(f"Evaluation card: {shown(path)} (protocol {card['protocol_hash']})", flush=True)


def evaluation_card(trainer: Any, model: pl.LightningModule) -> dict[str, Any]:
    """Everything as plain values.

    Args:
        trainer: after ``test``; its datamodule may offer ``fingerprint(stage)``.
        model: that was measured.

    Raises:
        ValueError: two protocols have different values under one key.
    """
    measured: dict[str, Measurement] = {}
    for callback in trainer.callbacks:
        if isinstance(callback, Measures):
            measured |= callback.measurements
    protocol, data = joint_protocol(trainer.callbacks), trainer.datamodule
    protocol["data"] = data.fingerprint("test") if hasattr(data, "fingerprint") else type(data).__name__
    protocol["intervals"] = "95 %, bootstrap over images, seed 0"
    protocol["styles"] = STYLES  # also of a model without any, whose card compares with that of one with styles
    text = json.dumps(protocol, sort_keys=True)
    checkpoint = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": type(model).__name__,
        "checkpoint": None if checkpoint is None else shown(checkpoint),
        "iteration": int(getattr(model, "iterations", torch.tensor(-1))),
        "weights": "as trained" if getattr(model, "averaged", None) is None else "running average",
        "protocol": protocol,
        "protocol_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "metrics": {
            name: {
                "value": each.value,
                "low": None if each.interval is None else each.interval.low,
                "high": None if each.interval is None else each.interval.high,
                "unit": each.unit,
                "n": each.n,
            }
            for name, each in measured.items()
        },
        "environment": environment(trainer, model),
    }


def joint_protocol(callbacks: Iterable[pl.Callback]) -> dict[str, str]:
    """What all callbacks that measure say about how they do.

    Raises:
        ValueError: two of them have different values under one key, so that one would be lost.
    """
    protocol: dict[str, str] = {}
    owners: dict[str, str] = {}
    for callback in callbacks:
        if isinstance(callback, Measures):
            for key, value in callback.protocol.items():
                owner = owners.setdefault(key, callback.state_key)
                if protocol.setdefault(key, value) != value:
                    raise ValueError(
                        f"{owner} and {callback.state_key} have different protocols of '{key}', which one card cannot "
                        f"hold: {protocol[key]} | {value}. Evaluate them one after the other."
                    )
    return protocol


def card_file(trainer: Any) -> str:
    """The name of the card of what is measured."""
    best = trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute() == best_checkpoint(trainer).absolute()
    return "evaluation_best.json" if best else FILE


def card_rows(card: dict[str, Any]) -> list[tuple[Any, ...]]:
    """One row of ``COLUMNS`` for each measure of the model; references stand beside what they belong to."""
    metrics, rows = card["metrics"], []
    for name, each in metrics.items():
        if not name.endswith((*FLOORS, CEILING)):
            measure, _, row = name.partition("/")
            ends = [suffix for suffix in FLOORS if name + suffix in metrics]
            below = metrics[name + ends[0]] if ends else {}
            floor, ceiling = below.get("value"), metrics.get(name + CEILING, {}).get("value")
            known = (each["value"], each["low"], each["high"], each["unit"], each["n"])
            rows.append((measure, row, *known, floor, ceiling))
    return rows


def print_card(card: dict[str, Any]) -> None:
    """Print each measure on one line, between its floor and its ceiling; factors one by one are in the file only."""
    from rich.console import Console
    from rich.table import Table

    columns = ("measure", "", "floor", "value", "95 %", "ceiling", "n")
    name = "no checkpoint" if card["checkpoint"] is None else Path(card["checkpoint"]).name
    table = Table(title=f"{card['model']}, {name}, iteration {card['iteration']}, weights {card['weights']}")
    for column in columns:
        table.add_column(column, justify="right" if column in columns[2:] else "left", no_wrap=True)
    for measure, row, value, low, high, _, n, floor, ceiling in card_rows(card):
        if not measure.startswith(("content_r2_", "style_r2_")):
            interval = "" if low is None else f"{number(low)} .. {number(high)}"
            table.add_row(measure, row, number(floor), number(value), interval, number(ceiling), str(n))
    Console(width=120).print(table)


def number(value: float | None) -> str:
    """Four digits, or nothing."""
    return "" if value is None else f"{value:.4g}"
