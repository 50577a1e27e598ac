import csv
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from callbacks import learning_order as module
from callbacks.learning_order import LearningOrder
from callbacks.learning_picture import PANELS, Moment, draw_order, learned_at
from callbacks.loggers import CSV
from interfaces.batch import FactorBatch
from interfaces.model import LatentSpec, Variational
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

SIZES = (4, 5, 1)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """A picture takes a second: those that are looked at are drawn by name."""
    monkeypatch.setattr(module, "draw_order", lambda names, moments: np.zeros((1, len(moments), 3), np.uint8))


class Data(pl.LightningDataModule):
    """A pixel for each factor, one of which has a single value."""

    factor_names, factor_sizes = ("shape", "place", "none"), SIZES

    def images(self, factors):
        return (np.asarray(factors) * 50).astype(np.uint8)[:, :, None, None]

    def train_dataloader(self):
        images = torch.zeros(8, 3, 1, 1)
        return DataLoader([FactorBatch(images, torch.zeros(8, 3, dtype=torch.int64))] * 4, batch_size=None)

    val_dataloader = train_dataloader


class Reading(Toy):
    """Its code are the first two pixels, the second only from iteration 3 on; ``noisy`` draws in training."""

    def training_step(self, batch, batch_idx):
        loss = self.scale**2 + self.draw()
        self.losses.append(loss.item())
        self.descend(self.optimizers(), loss)
        self.end_iteration()

    def encode(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.draw()
        z = x[:, :2, 0, 0] * torch.tensor([1.0, float(self.iteration >= 3)])
        return z.flip(1) if self.noisy else z


class Uncertain(Reading):
    """The same means, behind noise of variance e^logvar, and a target that grows by 2 nats an iteration."""

    latent_spec = LatentSpec(2)

    def __init__(self, logvar):
        super().__init__()
        self.logvar = logvar

    def posterior(self, x):
        mu = self.encode(x)
        return mu, torch.full_like(mu, self.logvar)

    def nll_of_each(self, z, x):
        return torch.zeros(len(x))

    def kl_target(self):
        return 2.0 * self.iteration


def fitted(folder, model, callback, steps=6, **options):
    options = {"max_steps": steps, "val_check_interval": 3, "num_sanity_val_steps": 0} | options
    trainer = toy_trainer(folder, [callback], **options)
    trainer.fit(model, Data())
    return trainer


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_learned_when_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "draw_order", draw_order)
    callback = LearningOrder(every_n_steps=1, points=400)
    fitted(tmp_path, Reading(), callback, logger=CSV(tmp_path))
    assert [moment.iteration for moment in callback.moments] == [0, 1, 2, 3, 4, 5, 6]
    for moment in callback.moments:
        assert moment.shares.shape == (2, 2), "the factor with one value cannot be told of"
        assert moment.shares[0, 0] == pytest.approx(1.0)
        assert moment.shares[0, 1] < 0.05  # chance: 3 x 4 / 800 nats of log 5
        assert moment.shares[1, 1] == pytest.approx(float(moment.iteration >= 3))
        assert moment.active.tolist() == [True, moment.iteration >= 3]
        assert np.isnan(moment.kl).all()
    assert learned_at(callback.moments).tolist() == [0, 3]

    logged = [row for row in rows_of(tmp_path / "metrics.csv") if row["learned/place"]]
    assert [row["step"] for row in logged] == ["0", "1", "2", "3", "4", "5"]  # of the batches that ran
    assert [float(row["learned/place"]) > 0.9 for row in logged] == [False, False, True, True, True, True]
    table = rows_of(tmp_path / "learning_order.csv")
    assert list(table[0]) == ["iteration", "coordinate", "active", "kl", "kl_target", "shape", "place"]
    assert [(row["iteration"], row["coordinate"]) for row in table[:3]] == [("0", "0"), ("0", "1"), ("1", "0")]
    assert len(table) == 7 * 2
    assert float(table[-1]["place"]) == pytest.approx(1.0)
    pictures = sorted(path.name for path in (tmp_path / "pictures" / "media" / "learning_order").iterdir())
    assert pictures == ["0000003.png", "0000006.png"]


def test_of_a_posterior_noise_counts_and_the_kl_is_that_of_the_sample(tmp_path):
    assert isinstance(Uncertain(0.0), Variational)
    sure, unsure = LearningOrder(every_n_steps=3, points=600), LearningOrder(every_n_steps=3, points=600)
    fitted(tmp_path / "a", Uncertain(-12.0), sure)
    fitted(tmp_path / "b", Uncertain(2.0), unsure)
    assert sure.moments[-1].best.min() > 0.95
    assert unsure.moments[-1].best.max() < 0.15  # the means tell all, but move by less than a tenth of the noise
    assert sure.moments[-1].active.tolist() == unsure.moments[-1].active.tolist() == [True, True]
    factors = np.random.RandomState(0).randint(4, size=600)
    second = ((factors * 50 / 127.5 - 1) ** 2).mean()
    assert unsure.moments[-1].kl[0] == pytest.approx(0.5 * (second + math.exp(2) - 1 - 2), rel=1e-5)
    assert [moment.target for moment in unsure.moments] == [0, 6, 12]
    assert "12" in {row["kl_target"] for row in rows_of(tmp_path / "b" / "learning_order.csv")}


def test_it_leaves_the_training_as_it_is(tmp_path):
    def losses(callbacks):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  the global state is meant
        model = Reading(noisy=True)
        trainer = toy_trainer(tmp_path, callbacks, val_check_interval=None, limit_val_batches=0, max_steps=5)
        trainer.fit(model, Data())
        assert model.training
        return model.losses

    import random

    random.seed(0)
    without = losses([])
    random.seed(0)
    assert losses([LearningOrder(every_n_steps=1, points=50)]) == without


def test_a_resumed_run_goes_on_with_what_was_measured(tmp_path):
    whole, first, second = (LearningOrder(every_n_steps=2, points=200) for _ in range(3))
    fitted(tmp_path / "whole", Reading(), whole, steps=8)
    trainer = fitted(tmp_path / "broken", Reading(), first, steps=4)
    trainer.save_checkpoint(tmp_path / "at4.ckpt")
    trainer = toy_trainer(tmp_path / "broken", [second], max_steps=8, val_check_interval=3)
    trainer.fit(Reading(), Data(), ckpt_path=tmp_path / "at4.ckpt", weights_only=True)
    assert [moment.iteration for moment in second.moments] == [0, 2, 4, 6, 8]
    table = "learning_order.csv"
    assert (tmp_path / "broken" / table).read_text() == (tmp_path / "whole" / table).read_text()


def test_a_new_run_begins_anew(tmp_path):
    callback = LearningOrder(every_n_steps=2, points=50)
    for _ in range(2):
        fitted(tmp_path, Reading(), callback, steps=2)
        assert [moment.iteration for moment in callback.moments] == [0, 2]


@pytest.mark.parametrize(("steps", "expected"), [(9, [0, 3, 6, 9]), (10, [0, 3, 6, 9, 10]), (2, [0, 1, 2])])
def test_without_a_distance_it_is_a_part_of_the_run_and_the_end_is_measured(tmp_path, monkeypatch, steps, expected):
    monkeypatch.setattr(module, "MOMENTS", 3)
    callback = LearningOrder(points=50)
    fitted(tmp_path, Reading(), callback, steps=steps)
    assert [moment.iteration for moment in callback.moments] == expected


def moments_of(*best):
    """Moments of one coordinate that tells so much of one or more factors, every ten iterations."""
    ones = np.ones(1, bool), np.ones(1), float("nan")
    return [Moment(10 * k, np.atleast_2d(shares).astype(float), *ones) for k, shares in enumerate(best)]


def test_a_factor_is_learned_when_it_passes_half_of_its_end_for_good():
    assert learned_at(moments_of(0.0, 0.2, 0.3, 0.6)).tolist() == [20]
    assert learned_at(moments_of(0.0, 0.5, 0.2, 0.4, 0.6)).tolist() == [30], "what is lost again was not learned"
    assert learned_at(moments_of(0.6, 0.6)).tolist() == [0]
    assert learned_at(moments_of(0.0, 0.02, 0.05)).tolist() == [math.inf], "what chance gives is not learned"
    together = moments_of([0.0, 0.0, 0.3], [0.5, 0.1, 0.3], [0.6, 0.5, 0.01])
    assert learned_at(together).tolist() == [10, 20, math.inf]


def test_the_picture_is_brighter_where_more_is_told():
    names = ("late", "early")
    moments = [
        moment._replace(shares=np.array([[0.9 * (k > 5), 0.9 * (k > 1)]]), iteration=k)
        for k, moment in enumerate(moments_of(*[0.0] * 9))
    ]
    picture = draw_order(names, moments).astype(int)
    yellow = (picture[..., 0] > 240) & (picture[..., 1] > 220) & (picture[..., 2] < 60)
    left_end = [np.flatnonzero(row).min() for row in yellow if row.sum() > 200]
    assert left_end == sorted(left_end), "what is learned first stands first"
    assert left_end[-1] - left_end[0] > 200


@pytest.mark.parametrize(("kl", "active", "moments"), [(0.3, 0, 1), (0.3, 20, 2), (math.nan, 0, 2), (math.nan, 3, 1)])
def test_any_number_of_coordinates_and_a_single_moment_can_be_drawn(kl, active, moments):
    one = Moment(0, np.full((20, 2), 0.2), np.arange(20) < active, np.full(20, kl), 5.0)
    picture = draw_order(("a", "b"), [one._replace(iteration=7 * k) for k in range(moments)])
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 1200
    rows = -(-min(active, PANELS) // 4)
    inches = 0.8 + 0.36 * 2 + 2.6 * (not math.isnan(kl)) + 2.1 * rows + 0.9
    assert picture.shape[0] == pytest.approx(100 * inches, abs=2)
    assert picture.std() > 1


def test_what_it_cannot_follow_is_refused(tmp_path):
    with pytest.raises(TypeError, match="needs an? Encoder, but Toy has no encode"):
        fitted(tmp_path, Toy(), LearningOrder())
    with pytest.raises(TypeError, match="needs data with known factors"):
        toy_trainer(tmp_path, [LearningOrder()]).fit(Reading(), ToyData())
    with pytest.raises(ValueError, match=r"every_n_steps is null and trainer\.max_steps has no end"):
        fitted(tmp_path, Reading(), LearningOrder(), steps=-1)
    for wrong in ({"every_n_steps": 0}, {"points": 1}):
        with pytest.raises(ValueError, match="give 1 or more iterations"):
            LearningOrder(**wrong)
    toy_trainer(tmp_path, [LearningOrder()]).validate(Toy(), Data(), verbose=False)


def _fit(rank, world, folder):
    callback = LearningOrder(every_n_steps=2, points=100)
    fitted(folder, Reading(), callback, steps=4, **(ddp_options(world) if world > 1 else {}))
    return [(moment.iteration, moment.shares.tolist()) for moment in callback.moments]


@pytest.mark.ddp
def test_the_first_of_two_ranks_measures_what_one_does(tmp_path):
    first, second = run_ddp(_fit, tmp_path / "two")
    assert first == _fit(0, 1, tmp_path / "one")
    assert second == []
    table = "learning_order.csv"
    assert (tmp_path / "two" / table).read_text() == (tmp_path / "one" / table).read_text()
