"""What Progressive GAN and StyleGAN have in common: the contract, and that a run that was cut in a fade goes on."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.base import ManualModule
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, SLOWLY, Batches, Case, Growing, fit, weights

both = pytest.mark.parametrize("case", GENERATORS[1:3], ids=lambda case: case.name)


@both
def test_it_keeps_the_contract(case: Case, tmp_path: Path) -> None:
    contract.test_max_steps_counts_batches(case)
    contract.test_each_player_moves_its_own_weights(case)
    contract.test_checkpoint_round_trip(case, tmp_path)
    contract.test_a_checkpoint_names_its_class(case, tmp_path)


@both
def test_an_image_that_is_not_finite_leaves_out_the_step_of_d(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    before = weights(model)
    batch = case.batch(1, 0)
    batch.image[0, 0, 0, 0] = torch.nan
    data = Batches(case, 1, 1)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([batch], batch_size=None)
    fit(model, data, steps=1)
    assert int(model.skipped) == 1
    assert all(torch.equal(before[f"discriminator.{n}"], p) for n, p in model.discriminator.named_parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


@both
def test_a_run_goes_on_in_the_middle_of_a_fade_bit_by_bit(case: Case, tmp_path: Path) -> None:
    pl.seed_everything(3)
    whole = case.build(**SLOWLY)
    begin = weights(whole)
    fit(whole, Growing(), steps=6)
    half = case.build(**SLOWLY)
    half.load_state_dict(begin)
    fit(half, Growing(), steps=4).save_checkpoint(tmp_path / "x.ckpt")
    level, share = int(half.shown[0]), float(half.shown[1])
    assert (4 * 2**level, share) == (half.growth.resolutions[1], pytest.approx(1 / 3))
    rest = case.build(**SLOWLY)
    go_on(rest, 6, tmp_path / "x.ckpt")
    assert int(rest.iterations) == 6
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name
    for ours, theirs in zip(whole.trainer.optimizers, rest.trainer.optimizers, strict=True):
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        for a, b in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)

    with pytest.raises(
        ValueError,
        match=rf"level {level} and a share of 0.33, which by its growth and 1 processes would be {level - 1}",
    ):
        go_on(case.build(**SLOWLY | {"batches": (4,)}), 6, tmp_path / "x.ckpt")


def go_on(model: ManualModule, steps: int, checkpoint: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, max_epochs=-1, max_steps=steps,
    )  # fmt: skip
    trainer.fit(model, Growing(), ckpt_path=checkpoint, weights_only=True)
