"""A batch that was not finite: what is known of it, and the file that replays it."""

import math
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.media import run_folder, shown
from interfaces.batch import NamesImages

SHOWN = 8  # names per field in a message; the replay file holds all


class Moment(NamedTuple):
    """One training batch after its iteration."""

    iteration: int  # 0-based, the step of its row in metrics.csv
    batch: Any  # NamedTuple of tensors, by reference
    terms: dict[str, Tensor]  # what was logged, by key; may be empty where it can still be asked for
    skipped: Callable[[], int]  # optimizer steps left out until then


class Finding(NamedTuple):
    """What one rank knows of a batch."""

    rank: int
    names: dict[str, list[str]]  # of the images, by field
    terms: list[str]  # logged and not finite
    fields: dict[str, int]  # of the batch: how many values are not finite, where there are any


def read_later(counter: Tensor) -> Callable[[], int]:
    """Start to copy an integer to the host.

    Returns:
        A function that waits for the number, which is long since there if it is called a batch later. Elsewhere
        than on the CPU and on CUDA the number is read at once.
    """
    if counter.device.type != "cuda":
        return partial(int, int(counter))
    host = torch.empty((), dtype=counter.dtype, pin_memory=True)
    host.copy_(counter, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> int:
        arrived.synchronize()
        return int(host)

    return read


def logged_terms(trainer: pl.Trainer) -> dict[str, Tensor]:
    """``train/...`` of the current iteration by key, by reference."""
    return {key: value for key, value in trainer.callback_metrics.items() if key.startswith("train/")}


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    """The same as floats, read from the device at once."""
    if not terms:
        return {}
    values = torch.stack([term.detach().float() for term in terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))


def report(trainer: pl.Trainer, model: pl.LightningModule, moment: Moment, steps: int) -> str:
    """Write the replay files and say what happened; all ranks must call it together.

    Ranks whose batch or terms are not finite write a file, or all of them if only gradients are not finite:
    ``<run>/replay/<iteration>.pt``, with ``-rank1`` and so on where there are several processes.

    Args:
        trainer: of the run.
        model: whose state is saved.
        moment: the batch.
        steps: optimizer steps left out; 0 if only a logged term was not finite.

    Returns:
        The message, the same on all ranks.
    """
    data, rank = getattr(trainer, "datamodule", None), trainer.global_rank
    mine = Finding(
        rank,
        data.image_names(moment.iteration, rank) if isinstance(data, NamesImages) else {},
        [key for key, value in numbers(moment.terms).items() if not math.isfinite(value)],
        {name: n for name, x in moment.batch._asdict().items() if (n := int((~x.isfinite()).sum()))},
    )
    findings = gathered(trainer, mine)
    suspects = [f for f in findings if f.terms or f.fields] or findings
    folder = trainer.strategy.broadcast(run_folder(trainer)) / "replay"
    paths = {}
    for finding in suspects:
        suffix = f"-rank{finding.rank}" if trainer.world_size > 1 else ""
        paths[finding.rank] = folder / f"{moment.iteration}{suffix}.pt"
    if rank in paths:
        save(paths[rank], trainer, model, moment, mine)
    return message(moment.iteration, steps, suspects, paths, several=trainer.world_size > 1)


def message(iteration: int, steps: int, suspects: list[Finding], paths: dict[int, Path], several: bool) -> str:
    """Say what is not finite, in which images, and how to look at it again."""
    what = f"gradients are not finite, {steps} optimizer step(s) left out" if steps else "a logged term is not finite"
    lines = [f"Iteration {iteration}: {what}."]
    for finding in suspects:
        if several:
            lines.append(f"  rank {finding.rank}")
        for field, names in finding.names.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  images {field}    {', '.join(names[:SHOWN])}{more}")
        lines.append(f"  not finite  {', '.join(finding.terms) or 'no logged term'}")
        if finding.fields:
            counts = ", ".join(f"{field} ({n} values)" for field, n in finding.fields.items())
            lines.append(f"  batch       not finite itself: {counts}")
        lines.append(f"  look again  python -m benchmarks.replay {shlex.quote(shown(paths[finding.rank]))}")
    return "\n".join(lines)


def save(path: Path, trainer: pl.Trainer, model: pl.LightningModule, moment: Moment, finding: Finding) -> None:
    """Write what ``benchmarks.replay`` needs, as ``torch.load(weights_only=True)`` reads it.

    The weights are those of now: left-out steps changed nothing, but players that stepped before in the same
    iteration have moved, and on a GPU one more iteration has passed (``state_dict["iterations"]`` says which).
    Optimizers are not saved.
    """
    kind = type(model)
    content = {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "hyper_parameters": plain({k: v for k, v in model.hparams.items() if not str(k).startswith("_")}),
        "state_dict": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "batch_class": f"{type(moment.batch).__module__}.{type(moment.batch).__qualname__}",
        "batch": {name: x.detach().cpu().clone() for name, x in moment.batch._asdict().items()},
        "names": finding.names,
        "terms": finding.terms,
        "iteration": moment.iteration,
        "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """Containers, numbers and strings as they are, NumPy's numbers as Python's, all else as its text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else list(map(plain, value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    return value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else str(value)


def gathered(trainer: pl.Trainer, mine: Finding) -> list[Finding]:
    """The findings of all ranks, on all ranks."""
    if trainer.world_size == 1:
        return [mine]
    findings: list[Finding] = [mine] * trainer.world_size
    torch.distributed.all_gather_object(findings, mine)
    return findings
