import math
import warnings

import pytest
import torch
from torch.utils.data import Dataset

from callbacks.code_likelihood import CodeLikelihood
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import CodeBatch
from interfaces.model import CodePrior
from lightning_modules.pixel_snail import PixelSNAIL
from metrics.intervals import bootstrap
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Prior(Toy):
    """A code k costs k nats, and each of the level above that many times more."""

    def nll_of_codes(self, codes, condition=None):
        assert not self.training
        assert not torch.is_grad_enabled()
        above = 1 if condition is None else condition.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return (codes * above).float()


class Maps(Dataset):
    """Seven maps of 4x6 codes."""

    def __init__(self, conditional):
        rng = torch.Generator().manual_seed(0)
        self.codes = torch.randint(9, (7, 4, 6), generator=rng)
        self.above = torch.randint(9, (7, 2, 3), generator=rng) if conditional else None

    def __getitem__(self, k):
        return CodeBatch(self.codes[k], None if self.above is None else self.above[k])


def collate(rows):
    above = None if rows[0].condition is None else torch.stack([row.condition for row in rows])
    return CodeBatch(torch.stack([row.codes for row in rows]), above)


class Data(ToyData):
    def __init__(self, conditional=False):
        super().__init__()
        self.conditional = conditional

    def val_dataloader(self):
        shard = unpadded_shard(7, *placement(self.trainer))
        return build_loader(Maps(self.conditional), shard, 2, 0, 0, collate)

    test_dataloader = val_dataloader


def nats(conditional):
    """Of each map."""
    maps = Maps(conditional)
    above = 1 if maps.above is None else maps.above.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return (maps.codes * above).double().mean((1, 2))


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("conditional", [False, True])
def test_the_mean_over_all_codes_in_nats_and_bits(conditional, tmp_path):
    trainer = toy_trainer(tmp_path, [CodeLikelihood()])
    assert isinstance(Prior(), CodePrior)
    trainer.validate(Prior(), Data(conditional), verbose=False)
    mean = nats(conditional).mean().item()
    assert measured(trainer) == pytest.approx({"val/nll": mean, "val/bits_per_code": mean / math.log(2)})


def test_it_measures_the_prior_of_the_paper(tmp_path):
    torch.manual_seed(0)
    module = PixelSNAIL((4, 6), 9, 16, blocks=1, res_blocks=1, res_width=4, cond_blocks=1, cond_width=4)
    trainer = toy_trainer(tmp_path, [CodeLikelihood()])
    trainer.validate(module, Data(True), verbose=False)
    maps = Maps(True)
    with torch.no_grad():
        nll = module.eval().nll_of_codes(maps.codes, maps.above).mean().item()
    assert measured(trainer)["val/nll"] == pytest.approx(nll, rel=1e-5)
    assert nll == pytest.approx(math.log(9), abs=0.3)  # it knows nothing yet


def test_a_test_has_intervals_and_begins_at_nothing(tmp_path):
    callback = CodeLikelihood()
    trainer = toy_trainer(tmp_path, [callback])
    for _ in range(2):
        trainer.test(Prior(), Data(), verbose=False)
        nll, bits = (callback.measurements[key] for key in ("nll", "bits_per_code"))
        assert (nll.n, nll.unit, bits.unit) == (7, "nats per code", "bits per code")
        assert nll.value == pytest.approx(nats(False).mean().item())
        assert tuple(nll.interval) == pytest.approx(tuple(bootstrap(nats(False))))
        assert bits.interval.low == pytest.approx(nll.interval.low / math.log(2))


def test_what_it_cannot_measure_is_refused(tmp_path):
    with pytest.raises(TypeError, match="CodeLikelihood needs a CodePrior, but Toy has no nll_of_codes"):
        toy_trainer(tmp_path, [CodeLikelihood()]).validate(Toy(), Data(), verbose=False)
    with pytest.raises(TypeError, match="needs a CodeBatch, not PairedBatch"):
        toy_trainer(tmp_path, [CodeLikelihood()]).validate(Prior(), ToyData(), verbose=False)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [CodeLikelihood()], **(ddp_options(world) if world > 1 else {}))
    with warnings.catch_warnings(record=True) as said:
        trainer.validate(Prior(), Data(True), verbose=False)
    return measured(trainer), [str(each.message) for each in said if "sync_dist" in str(each.message)]


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    alone, _ = _validate(0, 1, tmp_path)
    assert first == second == (pytest.approx(alone), [])
