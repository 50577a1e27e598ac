"""Every experiment is accepted by the command line and takes its first steps."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main as cli

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = {"--model.width": "4", "--model.dis_width": "4"}  # sizes of images and steps stay the experiment's own


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(cli, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def photographs(root: Path) -> Path:
    """Two domains of noise, a little larger than the crop and of unequal numbers."""
    rng = np.random.default_rng(0)
    for folder, count in (("trainA", 3), ("trainB", 4), ("testA", 2), ("testB", 2)):
        (root / folder).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (270, 300, 3), np.uint8)).save(root / folder / f"{k}.jpg")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_first_steps(name: str, tmp_path: Path) -> None:
    args = f"fit --config experiments/{name}.yaml --trainer.max_steps 2 --trainer.val_check_interval 2".split()
    args += "--trainer.limit_val_batches 2 --trainer.accelerator cpu --trainer.precision 32-true".split()
    args += ["--trainer.log_every_n_steps", "1"]
    args += [word for pair in SMALL.items() for word in pair]
    if "folder" in name:
        args += ["--data.root", str(photographs(tmp_path / "photos")), "--data.num_workers", "0"]
    else:
        args += ["--data.scenes", "4", "--data.val_scenes", "2"]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    command = cli.main(args)
    assert command.trainer.global_step == 2
    (run,) = (tmp_path / "runs" / name).iterdir()
    assert (run / "pictures" / "media" / "translations" / "0000002.png").is_file()
    assert (run / "metrics.csv").is_file()
    assert (run / "config.yaml").is_file()
