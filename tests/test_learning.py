"""Models learn, not merely run: a short training on embedded data brings translations nearer to the truth."""

import sys
from pathlib import Path

import pytest

import main as cli

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_unit_learns_day_and_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    args = "fit --config experiments/unit_streets.yaml --trainer.max_steps 150 --trainer.val_check_interval 150".split()
    args += ["--data.scenes", "150", "--data.val_scenes", "16", "--trainer.accelerator", "cpu"]
    scores = cli.main([*args, "--run_dir", str(tmp_path / "run")]).trainer.callback_metrics
    for direction in ("day2night", "night2day"):
        untranslated, ceiling = (float(scores[f"val/psnr/{direction}_{row}"]) for row in ("untranslated", "ceiling"))
        learned = float(scores[f"val/psnr/{direction}"])
        # About 9, 15 and 25 dB: a grey picture would reach 11 or 12.
        assert untranslated + 4.5 < learned < ceiling
