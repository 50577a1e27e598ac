"""What a run ran on: the file that a number needs beside it when it is quoted."""

import json
import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.media import run_folder

FILE = "environment.json"


class Environment(pl.Callback):
    """Writes ``<run>/environment.json``, one flat mapping, when training starts; rank 0 alone.

    A resumed run may go on elsewhere: its first file is then kept as ``environment_before_<iteration>.json``.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write; in ``on_fit_start`` a resumed run would not know its iteration yet."""
        if not trainer.is_global_zero:
            return
        file = run_folder(trainer) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and trainer.global_step > 0:
            os.replace(file, file.with_name(f"environment_before_{trainer.global_step:07d}.json"))
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(environment(trainer, pl_module), indent=1) + "\n")
        os.replace(temporary, file)


def environment(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Code, versions, machine, and what is trained on what.

    Args:
        trainer: of the run; a datamodule may offer ``fingerprint``, a string or a function of nothing that makes one.
        module: its children are listed with their numbers of parameters, frozen ones included.

    Returns:
        Plain values by name; ``commit`` and ``dirty`` are None where the code is in no git repository.
    """
    import torchmetrics

    status = _git("status", "--porcelain", "--untracked-files=no")
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "from_iteration": trainer.global_step,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "torchmetrics": torchmetrics.__version__,
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "none",
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None,
    }
    fingerprint = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
    if fingerprint is not None:
        found["data"] = str(fingerprint() if callable(fingerprint) else fingerprint)
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    return found | {f"parameters.{name}": size for name, size in sizes.items()}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or no repository: the code was copied
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
