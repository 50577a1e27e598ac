"""What a run folder says, read without Lightning and without complaint: broken parts become sentences."""

import csv
import json
import math
import pickle
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.rows import CEILING, FLOORS
from metrics.better import better_end

Curve = dict[int, float]  # value by finished iterations
KINDS = "train/", "val/", "learned/", "kl/", "health/"  # beginnings of keys that are curves, in the order of the page
REFERENCES = *FLOORS, CEILING  # ends of keys that stand beside another key


class Run(NamedTuple):
    """What a run folder holds, as far as it could be read."""

    folder: Path
    curves: dict[str, Curve]  # by key
    config: str
    settings: dict[str, Any]  # the config, parsed
    pictures: dict[str, list[Path]]  # by key, oldest first
    warnings: list[dict[str, Any]]  # iteration, kind, message
    evaluation: dict[str, Any]
    environment: dict[str, Any]
    problems: list[str]  # sentences


class Score(NamedTuple):
    """One ``val/`` key: where it is, where it was best, and between which references."""

    measure: str
    row: str
    better: str  # "higher", "lower" or "" where it is not known
    latest: float
    best: tuple[int, float] | None  # iteration, value
    floor: float | None
    ceiling: float | None


def is_run(folder: Path) -> bool:
    """Whether a run has left anything in this folder."""
    files = (folder / "config.yaml").is_file() or (folder / "metrics.csv").is_file()
    return files or (folder / "pictures").is_dir()


def newest_run(runs: Path) -> Path | None:
    """The run folder ``runs/<experiment>/<time>`` in which numbers or a configuration were written last."""

    def written(folder: Path) -> float:
        files = [path for name in ("metrics.csv", "config.yaml") if (path := folder / name).exists()]
        return max(path.stat().st_mtime for path in files or [folder])

    return max(filter(is_run, runs.glob("*/*")), key=written, default=None)


def read_run(folder: Path) -> Run:
    """Read all parts of a run folder; what cannot be read is named in ``problems``."""
    problems: list[str] = []
    config = _text(folder / "config.yaml", problems)
    try:
        settings = yaml.safe_load(config)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
        settings = None
    if config and not isinstance(settings, dict):
        problems.append("config.yaml is not a YAML mapping; it is shown as it is.")
    return Run(
        folder,
        read_curves(folder / "metrics.csv", problems),
        config,
        settings if isinstance(settings, dict) else {},
        picture_series(folder / "pictures"),
        _read_warnings(folder / "warnings.jsonl", problems),
        _read_mapping(folder / "evaluation.json", problems) or _read_mapping(folder / "evaluation_best.json", problems),
        _read_mapping(folder / "environment.json", problems),
        problems,
    )


def read_curves(file: Path, problems: list[str]) -> dict[str, Curve]:
    """Curves of a metrics.csv, keys as in ``KINDS``; empty cells are left out, NaN and infinity are kept.

    The file counts the batch that was running; a curve counts finished iterations, as pictures do.
    """
    text = _text(file, problems)
    lines = text[: text.rfind("\n") + 1].replace("\0", "").splitlines()  # a last line that a kill cut short would lie
    curves: dict[str, Curve] = {}
    unread = 0
    for row in csv.DictReader(lines):
        try:
            iteration = int(row["step"]) + 1
        except (KeyError, TypeError, ValueError):
            unread += 1
            continue
        for key, cell in row.items():
            if not cell or not str(key).startswith(KINDS):
                continue
            try:
                curves.setdefault(key, {})[iteration] = float(cell)
            except ValueError:
                unread += 1
    if unread:
        problems.append(f"metrics.csv holds {counted(unread, 'row')} or cells that are not numbers; they are left out.")
    return {key: dict(sorted(curve.items())) for key, curve in curves.items() if curve}


def picture_series(folder: Path) -> dict[str, list[Path]]:
    """Files ``<key>/<iteration>.png`` by key, by iteration; after them what ``validate`` and ``test`` have drawn."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png"), key=lambda p: (not p.stem.isdigit(), p.stem.zfill(12))):
        if path.parent != folder and (path.stem.isdigit() or path.stem in ("validate", "test")):
            found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    return dict(sorted(found.items()))


def _read_warnings(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    found, unread = [], 0
    for line in _text(file, problems).splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
            texts = {name: str(entry.get(name, "")) for name in ("kind", "message")}
            found.append({"iteration": int(entry["iteration"])} | texts)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            unread += bool(line.strip())
    if unread:
        problems.append(f"warnings.jsonl holds {counted(unread, 'line')} that cannot be read as warnings.")
    return sorted(found, key=lambda entry: entry["iteration"])


def _read_mapping(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(_text(file, problems)) if file.exists() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        problems.append(f"{file.name} is not a JSON object; it is left out.")
        return {}
    return found


def _text(file: Path, problems: list[str]) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        problems.append(f"There is no {file.name}.")
    except OSError as error:
        problems.append(f"{file.name} cannot be read: {error.strerror}.")
    return ""


def scores(curves: dict[str, Curve]) -> list[Score]:
    """The headline: one for every ``val/`` key but the references, which stand beside the key they belong to."""
    found: dict[str, list[Score]] = {}
    for key, curve in curves.items():
        base = next((key.removesuffix(s) for s in REFERENCES if key.endswith(s)), None)
        if not key.startswith("val/") or base in curves:
            continue
        measure, _, row = key.removeprefix("val/").partition("/")
        better = better_end(measure)
        finite = {step: value for step, value in curve.items() if math.isfinite(value)}
        best = None
        if finite and better:
            at = (max if better == "higher" else min)(finite, key=lambda step: finite[step])
            best = at, finite[at]
        last = {suffix: _last(curves.get(key + suffix, {})) for suffix in REFERENCES}
        floor = next((last[suffix] for suffix in FLOORS if last[suffix] is not None), None)
        score = Score(measure, row, better, list(curve.values())[-1], best, floor, last[CEILING])
        found.setdefault(measure, []).append(score)
    return [score for each in found.values() for score in each]


def _last(curve: Curve) -> float | None:
    return next((value for value in reversed(curve.values()) if math.isfinite(value)), None)


def state(run: Run) -> tuple[bool, str]:
    """Whether the run is finished, and how far it is in words."""
    trainer = run.settings.get("trainer")
    numbers = trainer if isinstance(trainer, dict) else {}
    most = numbers["max_steps"] if isinstance(numbers.get("max_steps"), int) else 0
    every = numbers["log_every_n_steps"] if isinstance(numbers.get("log_every_n_steps"), int) else 1
    drawn = [int(path.stem) for files in run.pictures.values() for path in files if path.stem.isdigit()]
    last = max([*(max(curve) for curve in run.curves.values()), *drawn], default=0)
    if last < most < last + every:  # the last iterations may have logged nothing
        last = max(last, _checkpoint_iteration(run.folder / "checkpoints" / "last.ckpt"))
    if 0 < most <= last:
        return True, f"Finished at iteration {last:,}"
    files = [path for name in ("metrics.csv", "config.yaml") if (path := run.folder / name).exists()]
    written = datetime.fromtimestamp(max(path.stat().st_mtime for path in files or [run.folder]))
    of = f" of {most:,}" if most > 0 else ""
    return False, f"Last seen at iteration {last:,}{of}, {written:%Y-%m-%d %H:%M}"


def _checkpoint_iteration(path: Path) -> int:
    if not path.is_file():
        return 0
    import torch

    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError):
        return 0  # the page then says what the other files say


def health(run: Run) -> tuple[bool, str]:
    """Whether nothing is amiss, and one line that says so."""
    values = [(key, value) for key, curve in run.curves.items() for value in curve.values()]
    broken = Counter(key for key, value in values if not math.isfinite(value))
    kinds = Counter(entry["kind"] or "other" for entry in run.warnings)
    parts = []
    if broken:
        keys = ", ".join(list(broken)[:3]) + (", ..." if len(broken) > 3 else "")
        parts.append(f"not finite: {broken.total():,} of {len(values):,} logged values ({keys})")
    elif values:
        parts.append(f"all {len(values):,} logged values are finite")
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    parts.append(f"{counted(len(run.warnings), 'warning')} ({listed})" if kinds else "no warnings recorded")
    judged = [(score.latest, score.best[1]) for score in scores(run.curves) if score.best]
    if judged:
        now = sum(latest == best for latest, best in judged)
        parts.append(f"the latest validation is the best yet in {now} of {counted(len(judged), 'measure')}")
    line = "; ".join(parts)
    return not (broken or kinds or run.problems), line[:1].upper() + line[1:] + "."


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
