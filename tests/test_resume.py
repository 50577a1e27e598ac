"""A run that is killed in mid-epoch goes on as if nothing had happened, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
RUN = (
    "--data.size 32 --data.flip true --trainer.max_steps 24 --trainer.val_check_interval 5 "
    "--trainer.log_every_n_steps 1 --trainer.accelerator cpu"
).split()
STREETS = "--data.scenes 14 --data.val_scenes 2 --data.batch_size 2".split()
FACES = "--data.faces 42 --data.val_faces 2 --data.batch_size 6".split()  # a third of a batch for each player
THREE = "--data.domains [day,night,rain] --model.domains [day,night,rain]".split()
NARROW = (
    "--model.width 4 --model.blocks 1 --model.dis_width 4 --model.dis_layers 2 --model.dis_scales 1 --model.ema 0.9"
).split()
# Rates that change, and a content discriminator that most iterations train alone, on both sides of the interruption.
TINY = {
    "unit_streets": [*STREETS, *NARROW, *"--model.shared_blocks 1 --model.lr_step 5".split()],
    "munit_streets": [*STREETS, *NARROW, *"--model.mlp_width 8 --model.lr_step 5".split()],
    "dritpp_streets": [
        *STREETS,
        *NARROW,
        *"--model.attribute_width 4 --model.content_dis_width 4 --model.d_iter 3".split(),
        *"--model.decay_from 5 --model.decay_to 24".split(),
    ],
    "dritpp_weather": [
        *STREETS,
        *THREE,
        *"--model.width 4 --model.blocks 1 --model.downsamplings 1 --model.dis_width 4 --model.dis_layers 3".split(),
        *"--model.attribute_width 4 --model.content_dis_width 4 --model.d_iter 3".split(),
        *"--model.decay_from 5 --model.decay_to 24 --model.ema 0.9".split(),
    ],
    "ufdn_streets": [
        *STREETS,
        *THREE,
        *"--model.image_size 32 --model.widths [4,4] --model.code_channels 4 --model.dv_widths [4]".split(),
        *"--model.dx_widths [4] --model.dx_hidden 4 --model.bn_compat true --model.ema 0.9".split(),
        *"--model.lambda_feat [0,1,15] --model.lambda_clf [0,1,15]".split(),
    ],
    "fader_faces": [
        *FACES,
        *"--model.image_size 32 --model.width 4 --model.max_width 8 --model.layers 3 --model.hidden 8".split(),
        *"--model.ramp 15 --model.ema 0.9".split(),
    ],
}


def start(experiment: str, run_dir: Path, *extra: str) -> subprocess.Popen[str]:
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "main.py", "fit", "--config", f"experiments/{experiment}.yaml"]
    command += [*TINY[experiment], *RUN, "--config", str(run_dir.parent / "often.yaml")]
    return subprocess.Popen(
        [*command, "--run_dir", str(run_dir), *extra],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def losses(run_dir: Path) -> list[str]:
    return [line for line in (run_dir / "metrics.csv").read_text().splitlines() if line]


def weights(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", TINY)
def test_kill_and_resume_is_bit_identical(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    # An epoch has 7 batches: iteration 10, from which the second run goes on, is in the middle of one.
    (tmp_path / "often.yaml").write_text(
        "trainer:\n  callbacks+:\n"
        "  - class_path: callbacks.checkpoint_io.LastCheckpoint\n"
        "    init_args: {dirpath: null, every_n_train_steps: 10}\n"
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(experiment, whole))

    process = start(experiment, broken)
    deadline = time.monotonic() + 240
    while not (broken / "checkpoints" / "last.ckpt").exists() or len(losses(broken)) < 14:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(broken)) < len(losses(whole))
    assert 10 <= int(weights(broken)["global_step"]) < 24

    finish(start(experiment, broken, "--ckpt_path", "last"))
    assert losses(broken) == losses(whole)
    first, second = weights(whole), weights(broken)
    assert int(first["state_dict"]["iterations"]) == 24
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    for one, two in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        for key, state in one["state"].items():
            assert all(torch.equal(value, two["state"][key][name]) for name, value in state.items())
