import pytest
import torch

from callbacks.measured import Measures
from callbacks.reciprocity import Reciprocity
from interfaces.model import LatentSpec
from tests.callbacks.test_latent_traversal import GAINS, Autoencoder, PictureData
from tests.callbacks.test_samples import logged
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Halving(Autoencoder):
    """Reads half of what a code was, and of the last coordinate nothing but a constant."""

    def encode(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        return super().encode(x) * torch.tensor([0.5, 0.5, 0.0]) + torch.tensor([0.0, 0.0, 3.0])


class Mapped(Halving):
    """Codes are three times normal draws."""

    latent_spec = LatentSpec(3, prior="mapped", mapping=lambda z: 3 * z)


def expected(scale, codes=1000):
    w = scale * torch.randn(codes, 3, generator=torch.Generator().manual_seed(0)).double()
    again = w * torch.tensor([0.5, 0.5, 0.0]) + torch.tensor([0.0, 0.0, 3.0])
    error = (w - again).square().mean()
    return {"mse": error.item(), "relative": (error / w.var(0, correction=0).mean()).item()}


def measured(folder, model, **options):
    trainer = toy_trainer(folder, [Reciprocity()], **options)
    trainer.validate(model, PictureData(), verbose=False)
    return logged(trainer)


@pytest.mark.parametrize(("model", "scale"), [(Halving, 1), (Mapped, 3)])
def test_errors_are_those_of_the_codes_that_the_model_draws(model, scale, tmp_path):
    found = measured(tmp_path, model())
    assert found == pytest.approx({f"val/reciprocity/{k}": v for k, v in expected(scale).items()}, rel=1e-5)


def test_a_perfect_encoder_errs_by_nothing_and_one_that_says_the_mean_by_one_variance(tmp_path):
    class Constant(Autoencoder):
        def encode(self, x):
            return codes.mean(0).expand(len(x), -1)

    codes = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    assert measured(tmp_path, Autoencoder())["val/reciprocity/relative"] < 1e-10
    assert measured(tmp_path, Constant())["val/reciprocity/relative"] == pytest.approx(1, rel=1e-5)
    assert GAINS.min() > 0


def test_a_test_has_intervals_over_codes(tmp_path):
    callback = Reciprocity(codes=120)
    assert isinstance(callback, Measures)
    toy_trainer(tmp_path, [callback]).test(Mapped(), TestPictures(), verbose=False)
    for name, value in expected(3, 120).items():
        each = callback.measurements[f"reciprocity/{name}"]
        assert (each.value, each.n) == (pytest.approx(value, rel=1e-5), 120)
        assert each.interval.low < each.value < each.interval.high
    assert callback.protocol["reciprocity"].startswith("120 codes of seed 0")


class TestPictures(PictureData):
    __test__ = False
    test_dataloader = PictureData.val_dataloader


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match="codes is 1: give 2 or more"):
        Reciprocity(codes=1)
    with pytest.raises(TypeError, match="Reciprocity needs a.? Encoder, but Toy has no encode"):
        toy_trainer(tmp_path, [Reciprocity()]).validate(Toy(), ToyData(), verbose=False)


class Noisy(Autoencoder):
    """Draws for each batch; three batches of codes, of which two processes have two and one."""

    def decode(self, z):
        return super().decode(z + 0.1 * torch.randn_like(z))


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [Reciprocity(codes=130)], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Noisy(), PictureData(), verbose=False)
    return logged(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second == _validate(0, 1, tmp_path)
    assert first["val/reciprocity/mse"] > 0.005
