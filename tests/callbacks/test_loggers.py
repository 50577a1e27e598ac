import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.loggers import CSV, WandB, _read
from callbacks.media import save_picture, save_video
from callbacks.translation_grid import TranslationGrid
from tests.callbacks.toy import Toy, ToyData, toy_trainer
from tests.wandb_file import end_wandb, history, records

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def csv_logger(folder, stage="fit"):
    logger = CSV(folder)
    logger.log_graph(SimpleNamespace(trainer=SimpleNamespace(state=SimpleNamespace(fn=SimpleNamespace(value=stage)))))
    return logger


def steps(folder):
    return [int(row["step"]) for row in _read(folder / "metrics.csv")]


def test_columns_grow_and_each_row_is_on_the_disk_at_once(tmp_path):
    logger = csv_logger(tmp_path)
    logger.log_metrics({"train/g/kl": 0.5}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/g/kl\n1,0.5\n"
    logger.log_metrics({"val/psnr/a2b": 20.0, "epoch": 0}, step=1)
    assert _read(tmp_path / "metrics.csv") == [
        {"step": "1", "train/g/kl": "0.5", "val/psnr/a2b": "", "epoch": ""},
        {"step": "1", "train/g/kl": "", "val/psnr/a2b": "20", "epoch": "0"},
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.csv"]


def test_a_resumed_fit_replaces_what_the_killed_one_wrote_after_its_checkpoint(tmp_path):
    killed = csv_logger(tmp_path)
    for step in range(6):
        killed.log_metrics({"x": float(step)}, step)
    resumed = csv_logger(tmp_path)
    resumed.log_metrics({"x": 40.0, "y": 1.0}, 4)
    assert [(row["step"], row["x"]) for row in _read(tmp_path / "metrics.csv")] == [
        ("0", "0"), ("1", "1"), ("2", "2"), ("3", "3"), ("4", "40"),
    ]  # fmt: skip


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path):
    csv_logger(tmp_path).log_metrics({"x": 1.0}, 1)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,3")
    csv_logger(tmp_path).log_metrics({"x": 5.0}, 7)
    assert (tmp_path / "metrics.csv").read_text() == "step,x\n1,1\n7,5\n"


def test_an_evaluation_has_its_own_file_and_drops_nothing(tmp_path):
    csv_logger(tmp_path).log_metrics({"x": 1.0}, 5)
    for value in (2.0, 3.0):
        csv_logger(tmp_path, "test").log_metrics({"test/x": value}, 0)
    assert steps(tmp_path) == [5]
    assert [row["test/x"] for row in _read(tmp_path / "metrics_test.csv")] == ["2", "3"]


@pytest.mark.parametrize("saved", [3, 4])  # within an epoch, and at its end
def test_killed_and_resumed_training_has_each_step_once(tmp_path, saved):
    def fit(max_steps, ckpt=None):
        saves = ModelCheckpoint(tmp_path, every_n_train_steps=saved, save_top_k=-1, filename="{step}")
        trainer = toy_trainer(tmp_path, [saves], CSV(tmp_path), max_steps=max_steps, enable_checkpointing=True)
        trainer.fit(Toy(), ToyData(), ckpt_path=ckpt)

    fit(6)
    first = {row["step"]: row for row in _read(tmp_path / "metrics.csv")}
    fit(9, tmp_path / f"step={saved}.ckpt")
    assert steps(tmp_path) == list(range(9))
    for row in _read(tmp_path / "metrics.csv")[:saved]:
        assert row == first[row["step"]]


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """Nobody is logged in, and no terminal answers a question."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def refuse(*_):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr("getpass.getpass", refuse)
    yield
    end_wandb()


def wandb_file(folder):
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return file


def test_without_a_key_a_run_is_offline_and_complete(tmp_path, nobody):
    logger = WandB(tmp_path / "run")
    model = Toy()
    toy_trainer(tmp_path / "run", [TranslationGrid(images=2)], logger).fit(model, ToyData())
    assert logger.where().startswith("wandb sync ")
    end_wandb()
    file = wandb_file(tmp_path / "run")
    rows = history(file)
    axis = [row["trainer/global_step"] for row in rows]
    assert axis == sorted(axis)
    terms = [(row["trainer/global_step"], row["train/g/kl"]) for row in rows if "train/g/kl" in row]
    assert terms == [(step, pytest.approx(10 * model.losses[step])) for step in range(4)]
    pictures = [row for row in rows if "media/translations/filenames" in row]
    assert [row["trainer/global_step"] for row in pictures] == [1, 3]
    shown = file.parent / "files" / pictures[1]["media/translations/filenames"][0]
    kept = tmp_path / "run/pictures/media/translations/0000004.png"
    assert shown.suffix == ".jpg"
    difference = np.asarray(Image.open(shown)).astype(float) - np.asarray(Image.open(kept))
    assert np.abs(difference).mean() < 10  # coloured noise, the worst that JPEG can get


def test_a_picture_keeps_its_grey_levels(tmp_path, nobody):
    logger = WandB(tmp_path)
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    save_picture(toy_trainer(tmp_path, logger=logger), "media/x", image)
    end_wandb()
    file = wandb_file(tmp_path)
    name = history(file)[0]["media/x/filenames"][0]
    difference = np.asarray(Image.open(file.parent / "files" / name)).astype(float) - image
    assert np.abs(difference).max() <= 3


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_pictures_beyond_the_budget_are_on_the_disk_only_also_after_a_resume(tmp_path, nobody, capsys):
    def part(numbers, media_mb):
        trainer = toy_trainer(tmp_path, logger=WandB(tmp_path, media_mb=media_mb))
        for number in numbers:
            save_picture(trainer, f"media/{number}", noise(number))
        end_wandb()

    def in_wandb():
        rows = [row for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb") for row in history(file)]
        return sorted(key.split("/")[1] for row in rows for key in row if key.endswith("/filenames"))

    size = 0.0045  # MB of one of them, and a little more
    part(range(2), 3 * size)
    assert in_wandb() == ["0", "1"]
    assert "further ones" not in capsys.readouterr().out
    part(range(2, 6), 3 * size)
    assert in_wandb() == ["0", "1", "2"]
    assert capsys.readouterr().out.count("further ones are on the disk only") == 1
    assert len(list(tmp_path.glob("pictures/media/*/*.png"))) == 6
    sent = [file.stat().st_size for file in tmp_path.glob("wandb/*run-*/files/media/images/**/*.jpg")]
    assert sum(sent) <= 3 * size * 1e6


def test_a_video_is_sent_as_it_is_and_counts(tmp_path, nobody, capsys):
    trainer = toy_trainer(tmp_path, logger=WandB(tmp_path, media_mb=0.03))
    for key in ("media/first", "media/second"):
        save_video(trainer, key, [noise(seed) for seed in range(4)])
    end_wandb()
    (row,) = history(wandb_file(tmp_path))
    assert len(row["media/first/videos"]) == 1
    assert not any(key.startswith("media/second") for key in row)
    (sent,) = tmp_path.glob("wandb/*run-*/files/media/videos/**/*.gif")
    assert sent.read_bytes() == (tmp_path / "pictures/media/first/0000000.gif").read_bytes()
    assert (tmp_path / "pictures/media/second/0000000.gif").exists()
    assert "further ones are on the disk only" in capsys.readouterr().out


def test_the_id_is_kept_over_a_resume_and_off_the_random_state(tmp_path, nobody):
    ids = []
    for _ in range(2):
        torch.manual_seed(0)
        logger = WandB(tmp_path)
        logger.log_metrics({"x": 1.0}, 0)
        ids.append(logger.experiment.id)
        end_wandb()
        assert torch.initial_seed() == 0
        assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
    assert ids[0] == ids[1] == (tmp_path / "wandb_id.txt").read_text()
    runs = [[r.run.run_id for r in records(f) if r.WhichOneof("record_type") == "run"][0]
            for f in tmp_path.glob("wandb/offline-run-*/*.wandb")]  # fmt: skip
    assert runs == [ids[0]] * len(runs)


def test_the_summary_keeps_the_best_and_the_last(tmp_path, nobody):
    logger = WandB(tmp_path)
    for step, value in enumerate((20.0, 25.0, 22.0)):
        logger.log_metrics({"val/psnr/a2b": value, "val/fid/a2b": value, "train/g/kl": value}, step)
    end_wandb()
    defined = {
        r.metric.name: r.metric for r in records(wandb_file(tmp_path)) if r.WhichOneof("record_type") == "metric"
    }
    assert (defined["val/psnr/a2b"].summary.max, defined["val/psnr/a2b"].summary.last) == (True, True)
    assert (defined["val/fid/a2b"].summary.min, defined["val/fid/a2b"].summary.max) == (True, False)
    assert defined["val/psnr/a2b"].step_metric == "trainer/global_step"
    assert "train/g/kl" not in defined


def test_no_run_is_made_before_something_is_logged(tmp_path, nobody):
    assert WandB(tmp_path).where() is None
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys; from callbacks.loggers import WandB
logger = WandB(sys.argv[1], init_timeout=2); logger.log_metrics({"x": 1.0}, 0); print("WHERE", logger.where())
"""


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "W&B does not answer"),
        ({"WANDB_API_KEY": "short"}, "W&B cannot use the key it found"),
        ({"WANDB_MODE": "online"}, ""),
        ({"WANDB_MODE": "disabled"}, "WHERE None"),
    ],
)
def test_trouble_ends_offline_soon_and_without_a_question(tmp_path, variables, sentence):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": ROOT} | variables
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sentence in done.stdout
    if variables.get("WANDB_MODE") != "disabled":
        assert "WHERE wandb sync run/wandb/offline-run-" in done.stdout
    assert time.monotonic() - begin < 60
