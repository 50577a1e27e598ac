import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import sweep as command
from benchmarks.evidence import finish
from benchmarks.evidence.plan import Job
from tests.benchmarks.test_evidence_page import card


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SWEEPS", tmp_path / "sweeps")


def fake_jobs(folder: Path, values: dict[float, tuple[float, ...]]) -> list[Job]:
    """Runs whose only command writes a card, or fails where there is no number."""
    jobs = []
    for seed in range(2):
        for at, scores in values.items():
            run = folder / f"{at:g}" / f"seed{seed}"
            run.mkdir(parents=True, exist_ok=True)
            text = json.dumps(card(scores[seed], 10 * at)) if scores else ""
            code = f"open({str(run / 'evaluation.json')!r}, 'w').write({text!r})" if text else "raise OSError('full')"
            jobs.append(Job(f"model.beta {at:g}", seed, run, {"test": [sys.executable, "-c", code]}))
    return jobs


def arguments(values: str, *more: str) -> list[str]:
    return ["beta_vae_sprites", "--of", "model.beta", "--values", values, "--seeds", "2", *more]


def test_runs_make_a_table_curves_and_numbers_and_are_kept(tmp_path, monkeypatch, capsys):
    scores = {1.0: (0.1, 0.3), 4.0: ()}
    monkeypatch.setattr(finish, "check_commands", lambda jobs: None)
    monkeypatch.setattr(command, "make_jobs", lambda *_: fake_jobs(tmp_path / "runs", scores))
    assert command.main(arguments("1,4")) == 1
    said = capsys.readouterr().out
    assert "4 of 4 runs to do" in said
    assert "2 of 4 runs failed" in said
    folder = tmp_path / "sweeps" / "beta_vae_sprites" / "model-beta"
    assert not (folder / "sweep.png").exists()

    scores[4.0] = (0.6, 0.8)
    assert command.main(arguments("1,4", "--measures", "acc/a2b")) == 0
    said = capsys.readouterr().out
    assert "2 of 4 runs to do" in said
    assert "| model.beta 4 | 0.700 ± 0.141 [0.600, 0.900] |" in said
    with (folder / "sweep.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["model.beta", "seed", "acc/a2b"]
    assert [[float(word) for word in line] for line in lines[1:]] == [
        [1, 0, 0.1],
        [1, 1, 0.3],
        [4, 0, 0.6],
        [4, 1, 0.8],
    ]
    assert np.asarray(Image.open(folder / "sweep.png")).std() > 0
    assert command.main(arguments("1,4", "--measures", "acc")) == 2
    assert "No card has acc; the nearest are: acc/a2b" in capsys.readouterr().err


def test_each_value_is_an_argument_of_a_training_and_its_test():
    plan = command.sweep("beta_vae_sprites", "model.beta", [0.5, 16], "disentanglement")
    jobs = command.make_jobs(plan, "model-beta", 2, ["--model.lr", "1e-3"], command.SWEEPS)
    assert [(job.row, job.seed) for job in jobs] == [
        ("model.beta 0.5", 0),
        ("model.beta 16", 0),
        ("model.beta 0.5", 1),
        ("model.beta 16", 1),
    ]
    words = " ".join(jobs[1].stages["fit"])
    assert "--config experiments/beta_vae_sprites.yaml" in words
    assert "--model.beta 16 --model.lr 1e-3 --data.seed 0 --seed_everything 0" in words
    assert "_evaluation/disentanglement.yaml" in " ".join(jobs[1].stages["test"])
    assert jobs[0].folder.is_relative_to(command.SWEEPS / "beta_vae_sprites" / "model-beta")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (arguments("1,two"), "VALUES are numbers separated by commas"),
        (arguments("1,1"), "each once"),
        (arguments(""), "one number or more"),
        (arguments("1", "--jobs", "0"), "1 or more"),
        (arguments("1", "--evaluation", "disentangle"), "Did you mean disentanglement?"),
        (["beta_vae_sprite", "--of", "model.beta", "--values", "1"], "Did you mean beta_vae_sprites?"),
        (["beta_vae_sprites", "--of", "model.betta", "--values", "1"], "Did you mean beta?"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(words, sentence, capsys):
    assert command.main(words) == 2
    assert sentence in capsys.readouterr().err
