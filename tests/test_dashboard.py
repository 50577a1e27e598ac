"""What a reviewer finds in W&B after training, resuming and evaluating: read back from the offline files."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import main as cli
from callbacks.report import panels
from callbacks.report_data import read_curves
from callbacks.vitals import Vitals
from tests.wandb_file import end_wandb, history, records

ROOT = Path(__file__).parent.parent
TINY = (
    "--trainer.accelerator cpu --trainer.val_check_interval 2 --trainer.log_every_n_steps 1 --model.width 4 "
    "--model.blocks 1 --model.shared_blocks 1 --model.dis_width 4 --model.dis_layers 2 --model.dis_scales 1 "
    "--data.size 32 --data.scenes 8 --data.val_scenes 24 --data.batch_size 4"
).split()


def command(folder: Path, name: str, *args: str) -> None:
    cli.main([name, "--config", "experiments/unit_streets.yaml", *args, *TINY, "--run_dir", str(folder)])
    end_wandb()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for four iterations, resumed for two more, evaluated at its end and at its best."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "runs" / "unit_streets" / "now"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("CROSSFADE_CACHE", str(home / "cache"))
        patch.setattr(sys, "argv", ["main.py"])
        patch.setattr(Vitals, "every", property(lambda self: 2, lambda self, every: None), raising=False)  # a short run
        patch.chdir(ROOT)
        command(folder, "fit", "--trainer.max_steps", "4")
        command(folder, "fit", "--trainer.max_steps", "6", "--ckpt_path", "last")
        for kept in ("last", "best"):
            command(folder, "test", "--config", "experiments/_evaluation/streets.yaml", "--ckpt_path", kept)
    return folder


def found(folder: Path, kind: str) -> list:
    """All records of a kind, of all W&B folders of a run from first to last."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [getattr(r, kind) for file in files for r in records(file) if r.WhichOneof("record_type") == kind]


def test_a_run_says_what_it_is_and_stays_one(run: Path) -> None:
    heads = [record for record in found(run, "run") if record.display_name]
    assert {head.run_id for head in heads} == {(run / "wandb_id.txt").read_text()}
    assert len({head.run_id for head in heads}) == 1
    assert sorted({head.job_type for head in heads}) == ["fit", "test"]
    for head in heads:
        assert (head.display_name, head.run_group) == ("unit_streets/now", "unit_streets")
        assert list(head.tags) == ["UNIT", "Streets"]


def test_its_configuration_is_there(run: Path) -> None:
    head = found(run, "run")[0]
    settings = {item.key: json.loads(item.value_json) for item in head.config.update}
    settings |= {i.key: json.loads(i.value_json) for record in found(run, "config") for i in record.update}
    assert settings["width"] == 4


def test_scores_of_the_discriminators_are_curves_of_their_own(run: Path) -> None:
    rows = [row for file in run.glob("wandb/offline-run-*/run-*.wandb") for row in history(file)]
    for name in ("real_a", "fake_a", "real_b", "fake_b"):
        steps = [row["trainer/global_step"] for row in rows if f"train/score/{name}" in row]
        assert sorted(steps) == list(range(6))
    page = panels(read_curves(run / "metrics.csv", []))
    (panel,) = [panel for panel in page if panel["title"] == "train/score"]
    assert {curve["name"] for curve in panel["curves"]} == {"real_a", "fake_a", "real_b", "fake_b"}


VITALS = (
    "images_per_second",
    "data_wait",
    *(f"grad_norm/{network}" for network in ("encoders", "decoders", "discriminators")),
    *(f"learning_rate/{networks}" for networks in ("encoders+decoders", "discriminators")),
)


@pytest.mark.parametrize("name", VITALS)
def test_the_pulse_of_the_run_is_in_its_curves(run: Path, name: str) -> None:
    rows = [row for file in run.glob("wandb/offline-run-*/run-*.wandb") for row in history(file)]
    found = {row["trainer/global_step"]: row[f"health/{name}"] for row in rows if f"health/{name}" in row}
    assert sorted(found) == [1, 3, 5]
    assert all(0 <= value < 1 if name == "data_wait" else value > 0 for value in found.values())
    titles = {panel["title"] for panel in panels(read_curves(run / "metrics.csv", []))}
    assert f"health/{name.partition('/')[0]}" in titles


@pytest.mark.parametrize("kept", ["last", "best"])
def test_an_evaluation_is_a_table_of_its_card(run: Path, kept: str) -> None:
    name = {"last": "evaluation", "best": "evaluation_best"}[kept]
    card = json.loads((run / f"{name}.json").read_text())
    assert Path(card["checkpoint"]) == run / "checkpoints" / f"{kept}.ckpt"
    assert card["weights"] == "running average"
    rows = [(file, row) for file in run.glob("wandb/offline-run-*/run-*.wandb") for row in history(file)]
    ((file, row),) = [(file, row) for file, row in rows if f"{name}/path" in row]
    assert row["trainer/global_step"] == card["iteration"]
    table = json.loads((file.parent / "files" / row[f"{name}/path"]).read_text())
    assert table["columns"] == ["measure", "row", "value", "low", "high", "unit", "n", "floor", "ceiling"]
    found = {(line[0], line[1]): dict(zip(table["columns"], line, strict=True)) for line in table["data"]}
    metrics = card["metrics"]
    assert set(found) == {tuple(key.split("/")) for key in metrics if not key.endswith(("_untranslated", "_ceiling"))}
    psnr, written = found["psnr", "day2night"], metrics["psnr/day2night"]
    assert all(psnr[key] == pytest.approx(written[key]) for key in ("value", "low", "high", "n"))
    assert psnr["unit"] == "dB"
    assert psnr["floor"] == pytest.approx(metrics["psnr/day2night_untranslated"]["value"])
    assert psnr["ceiling"] == pytest.approx(metrics["psnr/day2night_ceiling"]["value"])
    assert found["leak_domain", "content"]["floor"] is None


def test_what_a_test_measures_stands_at_the_iteration_of_its_checkpoint(run: Path) -> None:
    rows = [row for file in run.glob("wandb/offline-run-*/run-*.wandb") for row in history(file)]
    steps = [row["trainer/global_step"] for row in rows if "test/psnr/day2night" in row]
    cards = [json.loads((run / name).read_text()) for name in ("evaluation.json", "evaluation_best.json")]
    assert sorted(steps) == sorted(card["iteration"] for card in cards)


def test_the_best_checkpoint_is_that_of_the_best_validation(run: Path) -> None:
    curves = read_curves(run / "metrics.csv", [])
    steps = curves["val/psnr/day2night"]
    mean = {step: steps[step] + curves["val/psnr/night2day"][step] for step in steps}
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["global_step"] == max(mean, key=lambda step: mean[step])
