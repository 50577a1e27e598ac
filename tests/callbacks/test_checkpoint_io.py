import pytest
import pytorch_lightning as pl
import torch

from callbacks.checkpoint_io import AtomicIO, BestCheckpoint, LastCheckpoint
from callbacks.loggers import CSV
from callbacks.report_data import read_curves
from callbacks.run_report import RunReport
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp


def test_a_checkpoint_is_read_back(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicIO().save_checkpoint({"x": torch.arange(3)}, path)
    assert AtomicIO().load_checkpoint(path)["x"].tolist() == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicIO().save_checkpoint({"x": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicIO().save_checkpoint({"x": torch.zeros(1000), "y": lambda: None}, path)
    assert AtomicIO().load_checkpoint(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicIO().save_checkpoint({"x": 1}, path)
    seen, save = [], torch.save

    def save_and_look(checkpoint, file):
        save(checkpoint, file)
        seen.append(torch.load(path))

    monkeypatch.setattr(torch, "save", save_and_look)
    AtomicIO().save_checkpoint({"x": 2}, path)
    assert seen == [{"x": 1}]


class Scripted(pl.Callback):
    """Logs, in the k-th validation, the k-th value; other ranks would decide otherwise."""

    def __init__(self, key, values):
        self.key, self.values = key, values

    def on_validation_epoch_end(self, trainer, pl_module):
        value = self.values[trainer.global_step // 2 - 1] * (-1) ** trainer.global_rank
        pl_module.log_dict({self.key: torch.tensor(value)}, rank_zero_only=False, sync_dist=False)


def fit(folder, values, key="val/psnr/x", resume=None, steps=None, **options):
    best = BestCheckpoint([key])
    callbacks = [Scripted(key, values), LastCheckpoint(folder / "checkpoints"), best, RunReport()]
    options = {"num_sanity_val_steps": 0, "plugins": [AtomicIO()], "enable_checkpointing": True} | options
    trainer = toy_trainer(folder, callbacks, max_steps=steps or 2 * len(values), **options)
    trainer.fit(Toy(), ToyData(), ckpt_path=folder / "checkpoints" / f"{resume}.ckpt" if resume else None)
    return best


def kept(folder):
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("key", "values", "iteration"),
    [
        ("val/psnr/x", [1.0, 3.0, 2.0], 4),
        ("val/fid_scenes/x", [3.0, 1.0, 2.0], 4),
        ("val/psnr/x", [1.0, 1.0, 1.0], 2),  # no better is no reason to write
        ("val/psnr/x", [float("nan"), 1.0, float("inf")], 4),
    ],
)
def test_the_best_is_kept_and_said(tmp_path, capsys, key, values, iteration):
    best = fit(tmp_path, values, key)
    assert kept(tmp_path) == best.iteration == iteration
    said = f"best.ckpt ({key}: {values[iteration // 2 - 1]:.4g} at iteration {iteration})"
    assert said in capsys.readouterr().out


def test_a_resumed_run_remembers_the_best(tmp_path):
    fit(tmp_path, [1.0, 3.0])
    assert fit(tmp_path, [1.0, 3.0, 2.0], resume="last").value == 3
    assert kept(tmp_path) == 4
    assert fit(tmp_path, [1.0, 3.0, 2.0, 4.0], resume="last").value == 4
    assert kept(tmp_path) == 8


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_curves_go_on_where_a_checkpoint_was_saved(tmp_path, name):
    fit(tmp_path, [1.0, 3.0, 2.0], logger=CSV(tmp_path))
    fit(tmp_path, [1.0, 3.0, 2.0, 0.0, 0.0], resume=name, logger=CSV(tmp_path))
    curves = read_curves(tmp_path / "metrics.csv", [])
    assert list(curves["train/g/recon"]) == list(range(1, 11))
    assert list(curves["val/psnr/x"]) == [2, 4, 6, 8, 10]


def test_what_lies_beyond_the_point_of_resumption_is_forgotten(tmp_path):
    fit(tmp_path, [1.0, 2.0], steps=3)  # the last checkpoint is of iteration 3, before the second validation
    best = tmp_path / "checkpoints" / "best.ckpt"
    later = torch.load(best, weights_only=True)
    later["callbacks"]["BestCheckpoint"] |= {"value": 9.0, "iteration": 4}
    torch.save(later, best)
    assert fit(tmp_path, [1.0, 2.0], resume="last").value == 2
    assert kept(tmp_path) == 4


def test_a_new_run_in_an_old_folder_begins_with_nothing(tmp_path):
    fit(tmp_path, [5.0])
    assert fit(tmp_path, [1.0, 2.0]).value == 2


def test_a_key_that_nobody_logs_is_said_once(tmp_path, capsys):
    callbacks = [Scripted("val/psnr/x", [1.0, 2.0]), BestCheckpoint(["val/psnr/y"])]
    toy_trainer(tmp_path, callbacks, num_sanity_val_steps=0, enable_checkpointing=True).fit(Toy(), ToyData())
    out = capsys.readouterr().out
    assert out.count("BestCheckpoint.monitor names val/psnr/y, but validation logs val/psnr/x") == 1


@pytest.mark.parametrize("monitor", [[], ["psnr"], ["val/odd/x"], ["val/psnr/x", "val/ssim/x"]])
def test_keys_without_a_common_better_end_are_refused(monitor):
    with pytest.raises(ValueError, match="keys of one measure"):
        BestCheckpoint(monitor)


def _fit(rank, world, folder):
    best = fit(folder, [1.0, 3.0, 2.0], **ddp_options(world))
    return best.value, best.iteration


@pytest.mark.ddp
def test_two_ranks_keep_the_best_of_the_first(tmp_path):
    assert run_ddp(_fit, tmp_path) == [(3.0, 4), (3.0, 4)]
    assert kept(tmp_path) == 4
