"""The whole command, with rows that do nothing and with rows that train."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.evidence.__main__ as command
import benchmarks.evidence.finish as finish
import benchmarks.evidence.page as page
import benchmarks.evidence.plan as plan
from benchmarks.evidence.plan import Job
from tests.benchmarks.test_evidence_page import card

LISTING = """
budgets:
  small:
    experiment: unit_labels
    evaluation: tiny
    arguments: >-
      --model.width 4 --model.blocks 1 --model.shared_blocks 1 --model.dis_width 4 --model.dis_layers 2
      --model.dis_scales 1 --data.size 32 --data.scenes 8 --data.val_scenes 4 --trainer.max_steps 3
      --trainer.val_check_interval 2 --trainer.log_every_n_steps 1 --trainer.accelerator cpu
measures:
  - {key: pixel_accuracy/day2labels, title: pixels within 16, better: higher}
  - {key: fid_scenes/labels2day, title: FID on scenes, better: lower, decimals: 2}
paper:
  - {title: maps, table: Figure 2d}
rows:
  - {name: with sharing, paper: [0.6]}
  - {name: without, arguments: --model.shared_blocks 0, paper: [0.5]}
"""
EVALUATION = """
trainer:
  callbacks+:
    - class_path: callbacks.fid.FID
      init_args:
        resamples: 3
        features: {class_path: metrics.features.scenes.Scenes}
    - class_path: callbacks.evaluation_card.EvaluationCard
data:
  init_args: {val_scenes: 8, batch_size: 4}
"""
PAGE = f"# Toy\n\n{page.BEGIN}\nold\n{page.END}\n\nrest\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (plan, "LISTINGS", tmp_path / "listings"),
        (plan, "EVALUATIONS", tmp_path / "evaluations"),
        (plan, "RUNS", tmp_path / "runs"),
        (command, "RUNS", tmp_path / "runs"),
        (page, "PAGES", tmp_path / "papers"),
        (command, "PICTURES", tmp_path / "pictures"),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    for name, text in (("listings/toy.yaml", LISTING), ("evaluations/tiny.yaml", EVALUATION), ("papers/toy.md", PAGE)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)


def fake_jobs(tmp_path: Path, failing: bool) -> list[Job]:
    """Rows whose only command writes a card; the second one may fail instead."""
    jobs = []
    for row, accuracy in (("with sharing", 0.5), ("without", 0.25)):
        folder = tmp_path / "runs" / row
        folder.mkdir(parents=True, exist_ok=True)
        one = card(0.0)
        one["metrics"] = {
            "pixel_accuracy/day2labels": {"value": accuracy, "low": 0.2, "high": 0.6, "unit": "share", "n": 8},
            "fid_scenes/labels2day": {"value": 3.0, "low": None, "high": None, "unit": "", "n": 8},
        }
        code = f"open({str(folder / 'evaluation.json')!r}, 'w').write({json.dumps(one)!r})"
        if failing and row == "without":
            code = "raise MemoryError('no room')"
        jobs.append(Job(row, 0, folder, {"test": [sys.executable, "-c", code]}))
    return jobs


def test_a_failed_row_leaves_the_page_and_a_second_call_completes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(finish, "check_commands", lambda jobs: None)
    monkeypatch.setattr(command, "make_jobs", lambda *_: fake_jobs(tmp_path, failing=True))
    assert command.main(["toy", "--seeds", "1"]) == 1
    said = capsys.readouterr().out
    assert "without, seed 0 failed: MemoryError: no room" in said
    assert "runs/without/log.txt" in said
    assert "1 of 2 runs failed, so the page stays as it is" in said
    assert (tmp_path / "papers" / "toy.md").read_text() == PAGE
    assert not (tmp_path / "pictures").exists()

    monkeypatch.setattr(command, "make_jobs", lambda *_: fake_jobs(tmp_path, failing=False))
    assert command.main(["toy", "--seeds", "1", "--no-write"]) == 0
    assert "1 of 2 runs are kept from before" in capsys.readouterr().out
    assert (tmp_path / "papers" / "toy.md").read_text() == PAGE
    assert command.main(["toy", "--seeds", "1"]) == 0
    text = (tmp_path / "papers" / "toy.md").read_text()
    assert text.startswith(f"# Toy\n\n{page.BEGIN}\n| | pixels within 16 ↑ |")
    assert text.endswith(f"\n{page.END}\n\nrest\n")
    assert "| with sharing | 0.500 [0.200, 0.600] | 3.00 | 0.6 |" in text
    assert "`make evidence PAPER=toy SEEDS=1 BUDGET=small`" in text
    assert np.asarray(Image.open(tmp_path / "pictures" / "toy_evidence.png")).std() > 0


def test_bad_input_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "papers" / "toy.md").write_text("no markers")
    assert command.main(["toy"]) == 2
    assert "toy.md has no place for the evidence" in capsys.readouterr().err
    (tmp_path / "papers" / "toy.md").write_text(PAGE)
    assert command.main(["toy", "--model.widht", "8"]) == 2
    assert "Did you mean width?" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("log.txt"))


def test_an_interrupted_call_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(finish, "check_commands", interrupted)
    assert command.main(["toy"]) == 130
    assert "Call again to go on" in capsys.readouterr().out


@pytest.mark.slow
def test_two_rows_train_side_by_side_and_their_cards_make_the_page(tmp_path, capsys):
    assert command.main(["toy", "--seeds", "1", "--jobs", "2"]) == 0
    said = [line[10:] for line in capsys.readouterr().out.splitlines()]
    assert said.index("without, seed 0: fit begins") < said.index("with sharing, seed 0: test begins")
    logs = sorted((tmp_path / "runs").rglob("log.txt"))
    assert len(logs) == 2
    for log in logs:
        assert "\n3/3  " in log.read_text(), "the display reads lines of this form"
        assert "\ntest 1/2\n" in log.read_text()
        found = json.loads((log.parent / "evaluation.json").read_text())
        assert found["iteration"] == 3
        assert "8 test scenes" in found["protocol"]["data"]
        with (log.parent / "metrics_test.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert (
            f"{found['metrics']['fid_scenes/labels2day']['value']:.2f}"
            == f"{float(row['test/fid_scenes/labels2day']):.2f}"
        )
    text = (tmp_path / "papers" / "toy.md").read_text()
    assert "| *ceiling* | 1.000 |" in text
    assert text.endswith(f"8 test images.\n{page.END}\n\nrest\n")

    assert command.main(["toy", "--seeds", "1", "--jobs", "2"]) == 0
    assert "begins" not in capsys.readouterr().out
    assert (tmp_path / "papers" / "toy.md").read_text() == text
