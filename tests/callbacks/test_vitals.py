import csv
import time

import pytest
import torch
from pytorch_lightning.profilers import SimpleProfiler

from callbacks.loggers import CSV
from callbacks.vitals import Vitals, learning_rates, owned_by
from tests.callbacks.toy import Toy, ToyData, toy_trainer
from tests.lightning_modules.cases import CASES, Batches, unit


def logged(folder, module, data, every=2, steps=4, **options):
    options = {"limit_val_batches": 0, "max_steps": steps} | options
    toy_trainer(folder, [Vitals(every)], logger=CSV(folder), **options).fit(module, data)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row.get("health/images_per_second")]


def test_every_network_and_optimizer_has_its_numbers(tmp_path):
    torch.manual_seed(0)
    rows = logged(tmp_path, unit(lr=1e-3, lr_step=3), Batches(CASES[0], 4, 1))
    assert [row["step"] for row in rows] == ["1", "3"]
    for network in ("encoders", "decoders", "discriminators"):
        assert float(rows[0][f"health/grad_norm/{network}"]) > 0
    for player in ("encoders+decoders", "discriminators"):
        assert float(rows[0][f"health/learning_rate/{player}"]) == pytest.approx(1e-3)
        assert float(rows[1][f"health/learning_rate/{player}"]) == pytest.approx(5e-4)
    assert 0 <= float(rows[1]["health/data_wait"]) < 1


def test_the_norm_is_that_of_the_gradient_before_clipping(tmp_path):
    class Clipped(Toy):
        def training_step(self, batch, batch_idx):
            self.descend(self.optimizers(), 3 * self.scale, clip=0.1)
            self.end_iteration()

    rows = logged(tmp_path, Clipped(), ToyData())
    assert [float(row["health/grad_norm/scale"]) for row in rows] == [3.0, 3.0]


class Slow(ToyData):
    """Loading takes 60 ms a batch; a step takes next to nothing, but for what else the machine does."""

    def train_dataloader(self):
        batches = list(super().train_dataloader())

        class Late(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, k):
                time.sleep(0.06)
                return batches[k]

        return torch.utils.data.DataLoader(Late(), batch_size=None)


class SlowToy(Toy):
    def validation_step(self, batch, batch_idx):
        time.sleep(0.3)


def test_waiting_is_told_from_work_and_validation_from_both(tmp_path):
    rows = logged(tmp_path, SlowToy(), Slow(), every=4, steps=8, limit_val_batches=4)
    assert float(rows[0]["health/data_wait"]) > 0.5
    # Two images a batch in some 60 ms, or more; with its validation of 1200 ms a period could have but 6.
    assert 6 < float(rows[1]["health/images_per_second"]) < 34


def test_a_profiler_of_the_user_stays(tmp_path):
    profiler = SimpleProfiler()
    rows = logged(tmp_path, Toy(), ToyData(), profiler=profiler)
    assert "health/data_wait" not in rows[0]
    assert any("train_dataloader_next" in name for name in profiler.recorded_durations)


class Coded(Toy):
    """Dimension k of its code carries k nats in the last batch; before the second one nothing is known."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def kl_per_dim(self):
        return torch.arange(float(self.size)) if self.trainer.global_step > 1 else None


@pytest.mark.parametrize("size", [3, 70])
def test_the_kl_of_each_dimension_is_a_curve(tmp_path, size):
    rows = logged(tmp_path, Coded(size), ToyData(), every=1, steps=2)
    assert [key for key in rows[0] if key.startswith("kl/")] == [f"kl/{k}" for k in range(min(size, 64))]
    assert rows[0]["kl/0"] == ""
    assert all(float(rows[1][f"kl/{k}"]) == k for k in range(min(size, 64)))


def test_groups_and_networks():
    model = torch.nn.ModuleDict({"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 2)})
    groups = [{"params": model["g"].weight, "lr": 1.0}, {"params": model["g"].bias, "lr": 0.5}]
    optimizers = [torch.optim.SGD(groups), torch.optim.SGD(model["d"].parameters(), 0.1)]
    assert {name: len(ps) for name, ps in owned_by(model, optimizers[0]).items()} == {"g": 2}
    assert learning_rates(model, optimizers) == {
        "health/learning_rate/g": 1.0,
        "health/learning_rate/g.1": 0.5,
        "health/learning_rate/d": 0.1,
    }


def test_every_must_be_positive():
    with pytest.raises(ValueError, match=r"Vitals\.every is 0"):
        Vitals(0)
