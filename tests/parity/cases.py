"""Recorded cases: runs of them, changes to their files, and what the runner says."""

import functools
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from benchmarks.parity import __main__ as parity
from benchmarks.parity.rules import Case, Line, Run


@functools.cache
def once(run: Callable[[Case, torch.dtype], Run], case: Path, dtype: torch.dtype) -> Run:
    """The run of an untouched case, for all tests."""
    return run(Case(case), dtype)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file, packed or not."""
    packed = path.with_name(path.name + ".xz")
    content = json.loads(path.read_text() if path.is_file() else lzma.decompress(packed.read_bytes()))
    change(content)
    packed.unlink(missing_ok=True)
    path.write_text(json.dumps(content))


def configure(*keys: Any, value: Any) -> Callable[[Path], None]:
    """A change of ``config.json``, at the place to which the keys lead."""

    def change(config: Any) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return lambda folder: edit(folder / "config.json", change)


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change a packed ``.safetensors``, named without ``.xz``."""
    tensors = safetensors.torch.load(lzma.decompress(path.with_name(path.name + ".xz").read_bytes()))
    change(tensors)
    pack(path, tensors)


def pack(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write such a file."""
    path.with_name(path.name + ".xz").write_bytes(lzma.compress(safetensors.torch.save(tensors), preset=0))


def float64_failures(paper: ModuleType, folder: Path) -> list[Line]:
    """What does not agree in float64 when the case is run."""
    case = Case(folder)
    return [line for line in parity.float64_lines(case, paper, paper.run(case, torch.float64)) if not line.ok]


def agreement(case: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of a case that must agree."""
    status = parity.main([str(case)])
    printed = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in printed.splitlines() if not line.startswith("ok"))
    return printed


def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line about a case that cannot be run."""
    status = parity.main([str(folder)])
    printed = capsys.readouterr().out
    assert status == 2, printed
    assert len(printed.splitlines()) == 1, printed
    return printed
