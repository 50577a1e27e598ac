"""Two processes started by the command line leave what one would: one folder, one W&B run, every image counted once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = (
    "--config experiments/unit_streets.yaml --trainer.accelerator cpu --trainer.max_steps 4 "
    "--trainer.val_check_interval 2 --model.width 4 --model.blocks 1 --model.shared_blocks 1 --model.dis_width 4 "
    "--model.dis_layers 2 --model.dis_scales 1 --data.size 32 --data.scenes 9 --data.val_scenes 7"
).split()


def run(tmp_path: Path, name: str, *args: str) -> Path:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "CROSSFADE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / name
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *args[:1], *TINY, "--run_dir", str(folder), *args[1:]],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_leave_one_run(tmp_path: Path) -> None:
    processes = ["--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true"]
    two = run(tmp_path, "two", "fit", *processes)
    assert sorted(p.name for p in tmp_path.glob("two*")) == ["two"]
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1
    pictures = sorted(p.name for p in (two / "pictures" / "media" / "translations").iterdir())
    assert pictures == ["0000002.png", "0000004.png"]
    with (two / "metrics.csv").open() as file:
        measured = [row for row in csv.DictReader(file) if row["val/psnr/day2night"]][-1]

    # Seven validation images on two processes: padded, one would count twice and the mean would differ.
    again = run(tmp_path, "again", "validate", "--ckpt_path", str(two / "checkpoints" / "last.ckpt"))
    with (again / "metrics_validate.csv").open() as file:
        alone = list(csv.DictReader(file))[-1]
    keys = [key for key in alone if key.startswith("val/")]
    assert len(keys) == 90
    expected = {key: pytest.approx(float(alone[key]), rel=1e-4) for key in keys}  # KID cancels
    assert {key: float(measured[key]) for key in keys} == expected
