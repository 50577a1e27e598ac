import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from callbacks import disentanglement as module
from callbacks.disentanglement import Counts, Disentanglement
from callbacks.heat_map import heat_map
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import FactorBatch, FactorData
from interfaces.model import Encoder
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

SIZES = (4, 5, 3)
FEW = Counts(200, 100, 400, 300, 150)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", FEW)
    monkeypatch.setattr(module, "QUICK", FEW)


class Rows(Dataset):
    def __getitem__(self, k):
        factors = np.array(np.unravel_index(k, SIZES))
        return FactorBatch(torch.from_numpy(Data().images(factors[None])[0]), torch.from_numpy(factors))


class Data(pl.LightningDataModule):
    """A pixel for each factor."""

    factor_names, factor_sizes = ("shape", "scale", "place"), SIZES

    def images(self, factors):
        return (np.asarray(factors) * 50).astype(np.uint8)[:, :, None, None]

    def val_dataloader(self):
        return build_loader(Rows(), unpadded_shard(8, *placement(self.trainer)), 4, 0, seed=0)

    test_dataloader = val_dataloader


class Reading(Toy):
    """Its code are the pixels, turned by an angle in the plane of the first two."""

    def __init__(self, angle=0.0):
        super().__init__()
        self.angle, self.seen = angle, 0

    def encode(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen += len(x)
        z = x[:, :, 0, 0]
        turn = torch.eye(3)
        turn[:2, :2] = torch.tensor(
            [[math.cos(self.angle), -math.sin(self.angle)], [math.sin(self.angle), math.cos(self.angle)]]
        )
        return z @ turn

    def kl_per_dim(self):
        return torch.tensor([1.0, 3.0, 2.0])


def scores(folder, model, stage="validate", **arguments):
    trainer = toy_trainer(folder, [Disentanglement(**arguments)])
    getattr(trainer, stage)(model, Data(), verbose=False)
    prefix = {"validate": "val", "test": "test"}[stage]
    return {key.removeprefix(f"{prefix}/"): value.item() for key, value in trainer.callback_metrics.items()}


def test_a_perfect_code_has_all_scores_and_a_turned_one_has_not(tmp_path):
    assert isinstance(Reading(), Encoder)
    assert isinstance(Data(), FactorData)
    found = scores(tmp_path, Reading())
    for name in ("beta_vae", "factor_vae", "mig", "modularity", "explicitness", "irs", "dci", "completeness"):
        assert found[f"disentanglement/{name}"] > 0.95, name
    assert found["disentanglement/informativeness"] > 0.99
    assert found["dependence/total_correlation"] < 0.05
    assert found["active_units"] == 3
    turned = scores(tmp_path, Reading(math.pi / 4))
    for name in ("mig", "dci", "completeness", "sap", "modularity"):
        assert turned[f"disentanglement/{name}"] < found[f"disentanglement/{name}"] - 0.1, name
    assert (tmp_path / "pictures" / "media" / "information" / "validate.png").stat().st_size > 0


def test_coordinates_that_hardly_move_are_not_active(tmp_path):
    class Faint(Reading):
        """The first coordinate has a variance of 0.005, the last of 0.02."""

        def encode(self, x):
            z = super().encode(x)
            return (z - z.mean(0)) / z.std(0) * torch.tensor([0.005, 1.0, 0.02]).sqrt()

    assert scores(tmp_path, Faint())["active_units"] == 2


def test_a_grid_is_encoded_once_outside_a_fit(tmp_path, monkeypatch):
    model = Reading()
    scores(tmp_path, model)
    assert model.seen == 4 * 5 * 3
    monkeypatch.setattr(module, "_GRID", 10)
    again = Reading()
    assert scores(tmp_path, again)["disentanglement/mig"] > 0.95
    assert again.seen > 60


def test_a_test_leaves_measurements_and_the_protocol(tmp_path):
    callback = Disentanglement()
    toy_trainer(tmp_path, [callback]).test(Reading(), Data(), verbose=False)
    assert callback.measurements["disentanglement/mig"].value > 0.95
    assert callback.measurements["dependence/information"].unit == "nats"
    assert "votes=200" in callback.protocol["disentanglement"]


def test_what_is_left_out_is_drawn_and_does_not_count(tmp_path):
    class Blind(Reading):
        """Sees nothing of the first factor."""

        def encode(self, x):
            return super().encode(x)[:, 1:]

        def kl_per_dim(self):
            return torch.tensor([1.0, 2.0])

    assert scores(tmp_path, Blind())["disentanglement/completeness"] < 0.9
    found = scores(tmp_path, Blind(), leave_out=("shape",))
    assert found["disentanglement/mig"] > 0.95
    assert found["disentanglement/completeness"] > 0.95


def test_what_it_cannot_measure_is_refused(tmp_path):
    with pytest.raises(TypeError, match="needs an? Encoder, but Toy has no encode"):
        scores(tmp_path, Toy())
    with pytest.raises(TypeError, match="needs data with known factors"):
        toy_trainer(tmp_path, [Disentanglement()]).validate(Reading(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="leave_out has colour: give some of"):
        scores(tmp_path, Reading(), leave_out=("colour",))
    with pytest.raises(ValueError, match="needs two factors or more"):
        scores(tmp_path, Reading(), leave_out=("shape", "place"))


def test_a_darker_cell_tells_more():
    values = np.array([[0.1, 0.9], [np.nan, 0.5]])
    picture = heat_map("title", ("z0", "z1"), ("a", "b"), values, values)
    first, second = (slice(66, 70), slice(95, 100)), (slice(66, 70), slice(180, 184))
    assert picture[first].mean() > picture[second].mean()


def _validate(rank, world, folder):
    module.PUBLISHED = FEW
    trainer = toy_trainer(folder, [Disentanglement()], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Reading(0.3), Data(), verbose=False)
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


@pytest.mark.ddp
def test_two_ranks_log_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second == pytest.approx(_validate(0, 1, tmp_path))
