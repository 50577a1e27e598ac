"""Models learn, not merely run: a short training on embedded data brings translations nearer to the truth."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main as cli

ROOT = Path(__file__).parent.parent


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """Train an experiment for some iterations on few scenes; returns what its last validation measured."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def run(experiment: str, steps: int, *more: str) -> dict[str, float]:
        args = f"fit --config experiments/{experiment}.yaml --trainer.max_steps {steps}".split()
        args += ["--trainer.val_check_interval", str(steps), "--trainer.accelerator", "cpu"]
        args += ["--data.scenes", "150", "--data.val_scenes", "16", "--run_dir", str(tmp_path / "run"), *more]
        return {key: float(value) for key, value in cli.main(args).trainer.callback_metrics.items()}

    return run


@pytest.mark.slow
def test_unit_learns_day_and_night(learn: Callable[..., dict[str, float]]) -> None:
    scores = learn("unit_streets", 150)
    for direction in ("day2night", "night2day"):
        untranslated, ceiling = (scores[f"val/psnr/{direction}_{row}"] for row in ("untranslated", "ceiling"))
        learned = scores[f"val/psnr/{direction}"]
        # About 9, 15 and 25 dB: a grey picture would reach 11 or 12.
        assert untranslated + 4.5 < learned < ceiling


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "steps"), [("munit_streets", 150), ("dritpp_streets", 300)])
def test_models_with_styles_learn_the_other_domain_and_to_vary(
    experiment: str, steps: int, learn: Callable[..., dict[str, float]]
) -> None:
    scores = learn(experiment, steps)
    for direction in ("day2night", "night2day"):
        assert scores[f"val/domain/{direction}"] > 0.9
        assert scores[f"val/psnr/{direction}"] > scores[f"val/psnr/{direction}_untranslated"] + 4.5
        assert scores[f"val/semantic_iou/{direction}"] > 0.3  # the street is still there
        assert scores[f"val/diversity_scenes/{direction}"] > 0.05
