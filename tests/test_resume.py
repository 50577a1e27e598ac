"""A run that is killed in mid-epoch goes on as if nothing had happened, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.learning_order import FILE
from datamodules.codes import Description, place

ROOT = Path(__file__).parent.parent
RUN = (
    "--trainer.max_steps 24 --trainer.val_check_interval 5 --trainer.log_every_n_steps 1 --trainer.accelerator cpu"
).split()
SMALL = "--data.size 32 --data.flip true".split()
STREETS = [*SMALL, *"--data.scenes 14 --data.val_scenes 2 --data.batch_size 2".split()]
# A third of a batch for each player.
FACES = [*SMALL, *"--data.faces 42 --data.val_faces 2 --data.batch_size 6".split()]
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
SPRITES = (
    "--data datamodules.factors.FactorDataModule --data.source datamodules.procedural.sprites.Sprites "
    "--data.val_images 8 --data.batch_size 8"
).split()
CODE = "--model.latent 4 --model.convs [] --model.kernels [] --model.hidden [64] --model.dec_hidden [64]".split()
# A fade from iteration 4 to 19, on both sides of the interruption; the next resolution begins in iteration 22.
GROWING = (
    "--data datamodules.growing.GrowingFaces --data.size 32 --data.faces 28 --data.val_faces 2 --data.flip true "
    "--model.resolution 32 --model.latent 8 --model.batches [4] --model.first 16 --model.fade 60 --model.stable 12"
).split()
RESTART = 1.0  # in vectors an iteration; the coarse level has fewer of them than entries
# Without an experiment's callbacks. Capacity C(t), which the table of learning orders holds, and the ramp of gamma are
# on their way all the time; codebooks follow by running averages, and draw entries anew.
BARE = {
    "progressive_gan": [
        *"--model lightning_modules.progressive_gan.ProgressiveGAN --model.widths [8,4,4,4]".split(),
        *GROWING,
    ],
    "style_alae": [
        *"--model lightning_modules.style_alae.StyleALAE --model.width 4 --model.max_width 8".split(),
        *"--model.mapping_layers 2".split(),
        *GROWING,
    ],
    "beta_vae_capacity": [
        *"--model lightning_modules.beta_vae.BetaVAE --model.gamma 10 --model.c_max 25 --model.c_steps 60".split(),
        *CODE,
        *SPRITES,
        *"--trainer.callbacks+=callbacks.learning_order.LearningOrder".split(),
        *"--trainer.callbacks.every_n_steps 1 --trainer.callbacks.points 500".split(),
    ],
    "factor_vae": [
        *"--model lightning_modules.factor_vae.FactorVAE --model.halves true --model.anneal 60".split(),
        *"--model.dis_width 64 --model.dis_layers 3 --model.dis_lr 1e-3".split(),
        *CODE,
        *SPRITES,
    ],
    "vq_vae2": [
        *"--model lightning_modules.vq_vae2.VQVAE2 --model.width 8 --model.res_blocks 1 --model.res_width 4".split(),
        *f"--model.dim 4 --model.codes 128 --model.decay 0.9 --model.restart_below {RESTART} --model.cycle 40".split(),
        *"--data datamodules.streets.StreetDomains --data.domains [day,night,rain]".split(),
        *STREETS,
    ],
    "pixel_snail": [
        *"--model lightning_modules.pixel_snail.PixelSNAIL --model.shape [8,8] --model.classes 7".split(),
        *"--model.width 32 --model.kernel 3 --model.blocks 2 --model.res_blocks 2 --model.res_width 16".split(),
        *"--model.dropout 0.3 --model.side_dropout 0.2 --model.out_blocks 1".split(),
        *"--model.cond_blocks 1 --model.cond_width 8".split(),
        *"--data datamodules.codes.CodeMaps --data.level 1 --data.batch_size 2".split(),
    ],
}


def maps_of_codes(folder: Path) -> list[str]:
    """14 maps of two levels, written to ``folder``; the arguments that read them."""
    about = Description(7, ((4, 4), (8, 8)), {"train": 14, "val": 2}, "VQVAE2", "none.ckpt", "0" * 64, "noise")
    folder.mkdir(exist_ok=True)
    for part in about.counts:
        for level in range(2):
            maps = np.random.default_rng(level).integers(7, size=about.shape(part, level), dtype=about.dtype)
            np.save(place(folder, part, level), maps)
    about.write(folder)
    return ["--data.root", str(folder)]


def start(experiment: str, run_dir: Path, *extra: str) -> subprocess.Popen[str]:
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    config = experiment if experiment in TINY else "_base/trainer"
    command = [sys.executable, "main.py", "fit", "--config", f"experiments/{config}.yaml"]
    command += ["--config", str(run_dir.parent / "often.yaml"), *(TINY | BARE)[experiment], *RUN]
    if experiment == "pixel_snail":
        command += maps_of_codes(run_dir.parent / "codes")
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


def last_step(run_dir: Path) -> int:
    return int(losses(run_dir)[-1].split(",")[0])


def weights(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [*TINY, *BARE])
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
    # What iteration 9 logged is written after the checkpoint of iteration 10: not before a later row is it there.
    while not (broken / "checkpoints" / "last.ckpt").exists() or len(losses(broken)) < 14 or last_step(broken) < 10:
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
    if experiment == "beta_vae_capacity":
        order = (whole / FILE).read_text()
        assert order == (broken / FILE).read_text()
        assert {row["iteration"]: float(row["kl_target"]) for row in csv.DictReader(order.splitlines())} == {
            str(t): pytest.approx(25 * (t + 1) / 60, rel=1e-5) for t in range(25)
        }
    if experiment == "vq_vae2":
        sizes = [value for name, value in first["state_dict"].items() if name.endswith("cluster_size")]
        assert all((size > RESTART).any() for size in sizes)
        assert any((size == RESTART).any() for size in sizes), "entries are drawn anew to the end"
