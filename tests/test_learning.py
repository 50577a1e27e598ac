"""Models learn, not merely run: a short training on embedded data brings translations nearer to the truth."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main as cli

ROOT = Path(__file__).parent.parent


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """Train an experiment for some iterations; returns what its last validation measured."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def run(experiment: str, steps: int, *more: str) -> dict[str, float]:
        args = f"fit --config experiments/{experiment}.yaml --trainer.max_steps {steps}".split()
        args += ["--trainer.val_check_interval", str(steps), "--trainer.accelerator", "cpu"]
        args += ["--run_dir", str(tmp_path / "run"), *more]
        return {key: float(value) for key, value in cli.main(args).trainer.callback_metrics.items()}

    return run


FEW_SCENES = "--data.scenes 150 --data.val_scenes 16".split()


@pytest.mark.slow
def test_unit_learns_day_and_night(learn: Callable[..., dict[str, float]]) -> None:
    scores = learn("unit_streets", 150, *FEW_SCENES)
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
    scores = learn(experiment, steps, *FEW_SCENES)
    for direction in ("day2night", "night2day"):
        assert scores[f"val/domain/{direction}"] > 0.9
        assert scores[f"val/psnr/{direction}"] > scores[f"val/psnr/{direction}_untranslated"] + 4.5
        assert scores[f"val/semantic_iou/{direction}"] > 0.3  # the street is still there
        assert scores[f"val/diversity_scenes/{direction}"] > 0.05


@pytest.mark.slow
def test_ufdn_learns_three_domains_by_one_code(learn: Callable[..., dict[str, float]]) -> None:
    ramps = "--model.lambda_feat [0,0.2,50] --model.lambda_adv [0,1e-3,50] --model.lambda_clf [0,0.1,50]".split()
    scores = learn("ufdn_faces", 250, "--data.faces", "200", "--data.val_faces", "24", "--model.ema", "0.98", *ramps)
    for way in ("photo2sketch", "sketch2photo", "paint2sketch", "sketch2paint"):
        # About 9 dB untranslated.
        assert scores[f"val/psnr/{way}"] > scores[f"val/psnr/{way}_untranslated"] + 2.5


@pytest.mark.slow
def test_fader_learns_an_attribute_that_its_code_forgets(learn: Callable[..., dict[str, float]]) -> None:
    few = "--data.faces 400 --data.val_faces 32 --data.attributes [dark_hair] --model.attributes [dark_hair]".split()
    scores = learn("fader_faces", 300, *few, "--model.ramp", "100", "--model.lambda_lat", "0.02", "--model.ema", "0.98")
    assert scores["val/swap_accuracy/dark_hair_untranslated"] < 0.1
    assert scores["val/swap_accuracy/dark_hair"] > 0.6
    assert scores["val/reconstruction_psnr/images"] > 17


@pytest.mark.slow
def test_ufdn_classifies_digits_of_a_domain_without_labels(learn: Callable[..., dict[str, float]]) -> None:
    scores = learn("ufdn_digits", 300, "--data.source", "plain", "--data.target", "warped", "--model.ema", "0.98")
    assert scores["val/accuracy/plain"] > 0.8
    assert scores["val/accuracy/warped"] > 0.5  # guessing gives 0.1
