import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from callbacks.class_accuracy import ClassAccuracy
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import LabelledBatch
from interfaces.model import Classifier
from metrics.intervals import wilson
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Reader(Toy):
    """Reads the class off the first pixel."""

    def classify(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        return torch.nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float()


class Rows(Dataset):
    """Image k shows class k mod 3; its domain and label are those of the table."""

    table = [(0, 0), (1, 1), (0, 2), (1, 1), (0, 2), (1, -1), (0, 0)]  # rows 3 and 4 are read wrongly

    def __getitem__(self, k):
        domain, label = self.table[k]
        return LabelledBatch(torch.full((3, 4, 4), float(k % 3)), torch.tensor(domain), torch.tensor(label))


class Data(ToyData):
    def val_dataloader(self):
        shard = unpadded_shard(len(Rows.table), *placement(self.trainer))
        return build_loader(Rows(), shard, 2, 0, seed=0)

    test_dataloader = val_dataloader


EXPECTED = {"accuracy/day": 3 / 4, "accuracy/night": 1 / 2}  # night's third image has no label


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_right_answers_are_counted_by_domain(tmp_path):
    trainer = toy_trainer(tmp_path, [ClassAccuracy()])
    assert isinstance(Reader(), Classifier)
    trainer.validate(Reader(), Data(), verbose=False)
    assert measured(trainer) == {f"val/{key}": value for key, value in EXPECTED.items()}


def test_a_test_has_intervals_and_counts(tmp_path):
    callback = ClassAccuracy()
    toy_trainer(tmp_path, [callback]).test(Reader(), Data(), verbose=False)
    day, night = (callback.measurements[key] for key in EXPECTED)
    assert (day.n, night.n, day.unit) == (4, 2, "share")
    assert (day.interval, night.interval) == (wilson(3, 4), wilson(1, 2))


def test_each_evaluation_begins_at_nothing(tmp_path):
    callback = ClassAccuracy()
    trainer = toy_trainer(tmp_path, [callback])
    for _ in range(2):
        trainer.test(Reader(), Data(), verbose=False)
        assert callback.measurements["accuracy/day"].n == 4


def test_the_interval_is_where_the_score_test_ends():
    # Wilson's ends p solve |right/n - p| = z sqrt(p (1 - p) / n).
    for right, n in ((3, 4), (50, 500), (9579, 10000)):
        for p in wilson(right, n):
            assert abs(right / n - p) == pytest.approx(1.959964 * (p * (1 - p) / n) ** 0.5)
    assert wilson(0, 10).low == 0
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10).low == pytest.approx(1 - 0.2775, abs=1e-4)


def test_what_it_cannot_measure_is_refused(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="ClassAccuracy needs a Classifier, but Toy has no classify"):
        toy_trainer(tmp_path, [ClassAccuracy()]).validate(Toy(), Data(), verbose=False)
    with pytest.raises(TypeError, match="needs a LabelledBatch, not PairedBatch"):
        toy_trainer(tmp_path, [ClassAccuracy()]).validate(Reader(), ToyData(), verbose=False)
    nameless = pl.LightningDataModule()
    nameless.val_dataloader = Data().val_dataloader
    with pytest.raises(TypeError, match="needs a DataModule with domains"):
        toy_trainer(tmp_path, [ClassAccuracy()]).validate(Reader(), nameless, verbose=False)
    monkeypatch.setattr(Rows, "table", [(0, -1), (1, -1)])
    with pytest.raises(ValueError, match="saw no label in val"):
        toy_trainer(tmp_path, [ClassAccuracy()]).validate(Reader(), Data(), verbose=False)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [ClassAccuracy()], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Reader(), Data(), verbose=False)
    return measured(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_add_up_to_one(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second == {f"val/{key}": value for key, value in EXPECTED.items()}
