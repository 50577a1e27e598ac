"""What commands beside ``main.py`` need of a trained model: checkpoint, class, data and device; and how they work: a
progress bar, a folder that appears when all is written, an exit status.
"""

import importlib
import inspect
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from callbacks.progress import Bar
from importers.mapping import read as read_checkpoint
from lightning_modules.base import ManualModule


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is cuda where there is one.

    Raises:
        ValueError: this machine has none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    # torch answers with several kinds of errors: for an unknown name, a missing driver, a build without it
    except Exception as error:
        raise ValueError(f"--device {name}: this machine has no such device; --device cpu always works.") from error


def find_checkpoint(path: Path, option: str = "--ckpt") -> Path:
    """A file itself, ``last.ckpt`` of a run's folder, or that of the newest run in a folder of runs."""
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{option}: there is no {path}; give a checkpoint or the folder of a run.")
    found = sorted(path.glob("checkpoints/last.ckpt")) or sorted(path.glob("*/checkpoints/last.ckpt"))
    if not found:
        raise FileNotFoundError(f"{option}: no checkpoints/last.ckpt in {path} or the runs in it; give a checkpoint.")
    return found[-1]


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run in which a checkpoint lies, or None."""
    if checkpoint.absolute().parent.name != "checkpoints":
        return None
    return checkpoint.parent / ".." if checkpoint.parent == Path() else checkpoint.parent.parent


def load_model(path: Path) -> ManualModule:
    """The model of a checkpoint in eval mode, from nothing but that file.

    The file is read as plain data, and the class that it names must be one of ours: no code of the file's choice runs.

    Raises:
        OSError, ValueError: there is no such file, or it holds no model of this repository.
    """
    checkpoint = read_checkpoint(path)
    held = checkpoint if isinstance(checkpoint, dict) else {}
    state, arguments = held.get("state_dict"), held.get("hyper_parameters") or {}
    if not (is_named(state, Tensor) and is_named(arguments, object)):
        raise ValueError(f"{path} is no Lightning checkpoint; one of the authors' releases goes through `importers`.")
    if "_class_path" not in arguments:
        raise ValueError(f"{path} does not say which model it holds: save it again with `python main.py fit`.")
    paper = paper_named(arguments["_class_path"], path)
    arguments = {name: value for name, value in arguments.items() if not name.startswith("_")}
    if arguments.get("vgg_weights"):  # serves a loss only, and its file may not be on this machine
        arguments |= {"lambda_vgg": 0.0, "vgg_weights": None}
    known = inspect.signature(paper).parameters
    others = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    if not others and (unknown := sorted(arguments.keys() - known.keys())):
        raise ValueError(f"{path} is of another version: {paper.__name__} has no argument {', '.join(unknown)}.")
    try:
        model = paper(**arguments)
    except Exception as error:  # numbers of a stranger's choice can make it fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} describes a {paper.__name__} that cannot be built: {reason}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(f"{path} does not fit the {paper.__name__} that it describes: {first[0].strip()}") from error
    return model.eval().requires_grad_(False)


def is_named(held: Any, kind: type) -> TypeGuard[dict[str, Any]]:
    """Whether it is a dict of ``kind`` by name."""
    return isinstance(held, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in held.items())


def paper_named(class_path: Any, where: Path) -> type[ManualModule]:
    """The paper of a class path such as ``lightning_modules.unit.UNIT``; nothing else is ever imported."""
    refusal = f"{where} holds {class_path!r}, which is no paper of lightning_modules: it was not loaded."
    if not isinstance(class_path, str) or not re.fullmatch(r"lightning_modules\.[a-z0-9_]+\.[A-Za-z0-9_]+", class_path):
        raise ValueError(refusal)
    module_name, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError:
        found = None
    if not inspect.isclass(found) or not issubclass(found, ManualModule) or found.__module__ != module_name:
        raise ValueError(refusal)
    return found


def data_of(config: Path) -> Any:
    """The DataModule of a configuration, ready to be read.

    Raises:
        OSError, ValueError: there is none, or it cannot be built.
    """
    if not config.is_file():
        raise FileNotFoundError(f"There is no {config} to say which data to take: give --config experiments/EXP.yaml.")
    held = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(held, dict) or "data" not in held:
        raise ValueError(f"{config} has no data: give --config the experiment that the model was trained in.")
    builder = ArgumentParser(exit_on_error=False)
    builder.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        data = builder.instantiate_classes(builder.parse_object({"data": held["data"]})).data
    except ArgumentError as error:
        raise ValueError(f"data of {config} cannot be built: {' '.join(str(error).split())}") from error
    if hasattr(data, "specs"):  # photographs: training ones are cut as validation's, since no draw may be in a map
        data.specs["train"] = data.specs["test"]
    data.prepare_data()
    data.setup("fit")
    return data


def exit_status(command: Callable[[], None]) -> int:
    """0 of a command that leaves nothing behind if it fails; 2 if it, or the disk, refuses, 130 if interrupted."""
    try:
        command()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: nothing is left behind.")
        return 130
    return 0


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder, which takes the place of ``out`` and of all that is there if everything within succeeds."""
    new, old = (out.with_name(f".{out.name}.{os.getpid()}.{ending}") for ending in ("part", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if out.exists():
            os.replace(out, old)
        os.replace(new, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class Display:
    """How far it is: a live bar in a terminal, a line every ten seconds elsewhere.

    Args:
        total: how many there are.
        what: of what.
    """

    def __init__(self, total: int, what: str = "pictures") -> None:
        self._total, self._what, self._started, self._shown = total, what, time.monotonic(), time.monotonic()
        self._bar = Bar(total, 0) if sys.stdout.isatty() else None

    def show(self, done: int, path: Path | None) -> None:
        """``done`` are finished, ``path`` comes next."""
        now, name = time.monotonic(), "" if path is None else str(path)
        if self._bar:
            self._bar.show(done, f"{done / max(now - self._started, 1e-9):.3g} {self._what}/s" if done else "", name)
        elif now - self._shown >= 10:
            self._shown = now
            print(f"{done}/{self._total}  {name}", flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar:
            self._bar.close()
