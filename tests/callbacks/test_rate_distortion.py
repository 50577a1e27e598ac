import math

import pytest
import torch
from torch.utils.data import Dataset

from callbacks.measured import Measures
from callbacks.rate_distortion import RateDistortion, noise_of
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
from interfaces.model import Encoder, LatentSpec, Variational
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.factor_vae import FactorVAE
from metrics.intervals import bootstrap
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp
from tests.lightning_modules.cases import small, vae

IMAGES = 7


class Known(Toy):
    """One coordinate is the first pixel with variance 1 / e, one is the prior; pixels are normal around the first."""

    latent_spec = LatentSpec(2)

    def encode(self, x):
        return self.posterior(x)[0]

    def posterior(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        mu = torch.stack((x[:, 0, 0, 0], torch.zeros(len(x))), 1)
        return mu, torch.tensor([[-1.0, 0.0]]).expand_as(mu)

    def nll_of_each(self, z, x):
        mean = z[:, :1, None, None].expand_as(x)
        return -torch.distributions.Normal(mean, 1.0).log_prob(x).sum((1, 2, 3))


class Rows(Dataset):
    """Image k is k / 4 everywhere."""

    def __getitem__(self, k):
        return ImageBatch(torch.full((1, 2, 2), k / 4))


class Data(ToyData):
    def val_dataloader(self):
        shard = unpadded_shard(IMAGES, *placement(self.trainer))
        return build_loader(Rows(), shard, 2, 0, seed=0)

    test_dataloader = val_dataloader


def exact():
    """All of it by hand, in float64."""
    first = torch.arange(IMAGES, dtype=torch.float64) / 4
    kl = 0.5 * (first**2 + math.exp(-1) - 1 + 1)
    noise = torch.cat([torch.randn(1, 2, generator=torch.Generator().manual_seed(k)) for k in range(IMAGES)]).double()
    z = first + math.exp(-0.5) * noise[:, 0]
    nll = 4 * 0.5 * ((first - z) ** 2 + math.log(2 * math.pi))
    return kl, nll


def expected():
    kl, nll = (each.mean().item() for each in exact())
    return {"rate": kl, "distortion": nll, "elbo": -kl - nll, "kl/0": kl, "kl/1": 0.0}


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_both_parts_are_those_of_the_formulas(tmp_path):
    assert isinstance(Known(), Variational)
    assert isinstance(RateDistortion(), Measures)
    trainer = toy_trainer(tmp_path, [RateDistortion()])
    trainer.validate(Known(), Data(), verbose=False)
    assert measured(trainer) == pytest.approx({f"val/{key}": value for key, value in expected().items()}, abs=1e-6)


def test_a_test_has_intervals_over_images_and_each_begins_at_nothing(tmp_path):
    callback = RateDistortion()
    trainer = toy_trainer(tmp_path, [callback])
    for _ in range(2):
        trainer.test(Known(), Data(), verbose=False)
        found = callback.measurements
        assert {key: each.value for key, each in found.items()} == pytest.approx(expected(), abs=1e-6)
        assert {(each.unit, each.n) for each in found.values()} == {("nats", IMAGES)}
    assert found["rate"].interval == pytest.approx(bootstrap(exact()[0]), rel=1e-5)
    assert found["distortion"].interval == pytest.approx(bootstrap(exact()[1]), rel=1e-5)


def test_noise_is_a_function_of_the_number():
    model = Known()
    torch.testing.assert_close(noise_of(model, torch.tensor([5, 2])), noise_of(model, torch.tensor([2, 5])).flip(0))
    many = noise_of(model, torch.arange(2000))
    assert many.mean().abs() < 0.05
    assert many.std() == pytest.approx(1.0, abs=0.05)
    assert noise_of(model, torch.zeros(0, dtype=torch.int64)).shape == (0, 2)


@pytest.mark.parametrize("options", [{}, {"gaussian": True}])
@pytest.mark.parametrize("kind", [BetaVAE, FactorVAE])
def test_of_a_vae_it_is_the_objective_without_its_weight(kind, options):
    """The training's own terms for the same noise are means of what each image has."""
    model = vae(kind, **options, **({"dis_width": 4} if kind is FactorVAE else {})).double().eval()
    x = small(1, 0).image.double()
    eps = torch.randn(4, 3, dtype=torch.float64)
    model.noise_like = lambda _: eps
    _, terms = model.loss(model.pixels(x))
    mu, logvar = model.posterior(x)
    each = model.nll_of_each(mu + (logvar / 2).exp() * eps, x)
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), terms["recon"])
    torch.testing.assert_close(mu, model.encode(x))
    alone = torch.stack([model.nll(model.decoder(z[None]), model.pixels(y[None])) for z, y in zip(mu, x, strict=True)])
    torch.testing.assert_close(model.nll_of_each(mu, x), alone)


def test_a_fit_logs_it_of_a_vae_and_its_noise_is_not_touched(tmp_path):
    def losses(callbacks, folder):
        torch.manual_seed(0)
        model, kept = vae(), []

        def keep(player, terms):
            kept.append(terms["recon"].item())

        model.log_terms = keep
        batches = [small(1, seed) for seed in range(4)]
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        trainer = toy_trainer(folder, callbacks, num_sanity_val_steps=0)
        trainer.fit(model, loader, loader)
        return kept, measured(trainer)

    without, _ = losses([], tmp_path / "a")
    along, found = losses([RateDistortion()], tmp_path / "b")
    assert along == without
    assert found["val/elbo"] == pytest.approx(-found["val/rate"] - found["val/distortion"], rel=1e-6)
    assert found["val/rate"] == pytest.approx(sum(found[f"val/kl/{d}"] for d in range(3)), rel=1e-5)


def test_bfloat16_gives_nearly_the_same(tmp_path):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        loader = torch.utils.data.DataLoader([small(1, 0)], batch_size=None)
        trainer = toy_trainer(tmp_path, [RateDistortion()], precision=precision)
        trainer.validate(vae(), loader, verbose=False)
        found.append(measured(trainer))
    assert found[1] == pytest.approx(found[0], rel=0.02, abs=0.02)


def test_what_it_cannot_measure_is_refused(tmp_path):
    class Coder(Toy):
        def encode(self, x):
            return x

    assert isinstance(Coder(), Encoder)
    with pytest.raises(TypeError, match="needs a Variational, but Coder has no latent_spec, nll_of_each, posterior"):
        toy_trainer(tmp_path, [RateDistortion()]).validate(Coder(), Data(), verbose=False)
    with pytest.raises(TypeError, match="needs batches with a field image, not PairedBatch"):
        toy_trainer(tmp_path, [RateDistortion()]).validate(Known(), ToyData(), verbose=False)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [RateDistortion()], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Known(), Data(), verbose=False)
    return measured(trainer)


@pytest.mark.ddp
def test_two_ranks_of_unequal_shares_log_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second == _validate(0, 1, tmp_path)
