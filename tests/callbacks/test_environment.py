import json
from pathlib import Path
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
import torchmetrics
import yaml

from callbacks import environment
from callbacks.environment import Environment
from tests.callbacks.toy import Toy, ToyData, toy_trainer

ROOT = Path(__file__).parents[2]


class Known(ToyData):
    fingerprint = "abc123"


def test_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    model = Toy()
    model.gen = torch.nn.Linear(3, 2)
    model.gen.bias.requires_grad_(False)
    toy_trainer(tmp_path / "run", [Environment()]).fit(model, Known())
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["from_iteration"] == 0
    assert (found["torch"], found["lightning"]) == (torch.__version__, pl.__version__)
    assert found["torchmetrics"] == torchmetrics.__version__
    assert (found["world_size"], found["precision"], found["seed"]) == (1, "32-true", 7)
    assert found["data"] == "abc123"
    assert found["parameters.gen"] == 8
    assert found["cpus"] >= 1
    assert found["cpu"]
    assert not any(isinstance(value, dict | list) for value in found.values())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["environment.json"]


def test_a_resumed_run_keeps_where_it_began(tmp_path):
    first = toy_trainer(tmp_path, [Environment()], max_steps=3)
    first.fit(Toy(), ToyData())
    first.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    before = json.loads((tmp_path / "environment.json").read_text())
    toy_trainer(tmp_path, [Environment()], max_steps=5).fit(
        Toy(), ToyData(), ckpt_path=tmp_path / "x.ckpt", weights_only=False
    )
    assert json.loads((tmp_path / "environment_before_0000003.json").read_text()) == before
    assert json.loads((tmp_path / "environment.json").read_text())["from_iteration"] == 3


def test_only_rank_0_writes(tmp_path):
    Environment().on_train_start(SimpleNamespace(is_global_zero=False, default_root_dir=str(tmp_path)), Toy())
    assert list(tmp_path.iterdir()) == []


def test_code_and_git(tmp_path, monkeypatch):
    commit = environment._git("rev-parse", "HEAD")
    assert commit is None or len(commit) == 40
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment._git("rev-parse", "HEAD") is None
    monkeypatch.setenv("PATH", "")
    assert environment._git("rev-parse", "HEAD") is None


def test_every_experiment_has_it():
    base = yaml.safe_load((ROOT / "experiments" / "_base" / "trainer.yaml").read_text())
    assert "callbacks.environment.Environment" in [c["class_path"] for c in base["trainer"]["callbacks"]]
