import os

import pytest

from callbacks.curves import Curves
from callbacks.loggers import CSV
from callbacks.preempt import Preempt
from callbacks.run_report import RunReport, newest_checkpoint
from callbacks.translation_grid import TranslationGrid
from callbacks.translation_metrics import TranslationMetrics
from tests.callbacks.test_preempt import Signalled
from tests.callbacks.toy import Toy, ToyData, toy_trainer


def fit(folder, model):
    callbacks = [TranslationGrid(images=1), Curves(), Preempt(), RunReport()]
    toy_trainer(folder, callbacks, CSV(folder)).fit(model, ToyData(images=2))


def test_a_finished_run_says_where_everything_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "runs" / "x", Toy())
    out = capsys.readouterr().out
    assert "Finished after iteration 4." in out
    for path in ("runs/x/pictures\n", "runs/x/pictures/curves.png\n", "runs/x/metrics.csv\n"):
        assert f" {path}" in out
        assert os.path.exists(path.strip())
    assert "checkpoint" not in out


@pytest.mark.parametrize(("stage", "word"), [("validate", "Validated."), ("test", "Tested.")])
def test_an_evaluation_says_where_its_numbers_are(tmp_path, capsys, stage, word):
    callbacks = [TranslationMetrics(), RunReport()]
    getattr(toy_trainer(tmp_path, callbacks, CSV(tmp_path)), stage)(Toy(), ToyData(), verbose=False)
    out = capsys.readouterr().out
    assert word in out
    assert str(tmp_path / f"metrics_{stage}.csv") in out


def test_a_preempted_run_says_it_too(tmp_path, capsys):
    import signal

    with pytest.raises(SystemExit):
        fit(tmp_path, Signalled(signal.SIGTERM))
    out = capsys.readouterr().out
    assert "Interrupted after iteration 3." in out
    assert str(tmp_path / "checkpoints" / "last.ckpt") in out


def test_an_error_keeps_the_last_word(tmp_path, capsys):
    class Broken(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, Broken())
    assert "after iteration" not in capsys.readouterr().out


def test_the_checkpoint_to_name(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for age, name in enumerate(("new.ckpt", "old.ckpt")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert newest_checkpoint(tmp_path).name == "new.ckpt"
    (tmp_path / "last.ckpt").touch()
    os.utime(tmp_path / "last.ckpt", (1, 1))
    assert newest_checkpoint(tmp_path).name == "last.ckpt"
