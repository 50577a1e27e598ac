"""The latent regressor: the contract, its three objectives, and that two processes are one."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import mse_loss, softplus

from interfaces.batch import ImageBatch
from interfaces.model import Decoder, FeatureEncoder, Generator
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, Batches, digits, fit, latent_regressor, weights
from tests.lightning_modules.test_alae import steps_of

CASE = next(case for case in GENERATORS if case.name == "latent_regressor")


def test_it_keeps_the_contract(tmp_path) -> None:
    contract.test_max_steps_counts_batches(CASE)
    contract.test_each_player_moves_its_own_weights(CASE)
    contract.test_checkpoint_round_trip(CASE, tmp_path)
    contract.test_a_checkpoint_names_its_class(CASE, tmp_path)


def test_images_that_are_not_finite_stop_d_alone() -> None:
    torch.manual_seed(0)
    model, poisoned = latent_regressor(), digits(2, 0)
    before = weights(model)
    poisoned.image[..., 0, 0] = float("nan")
    data = Batches(CASE, 1, 2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([poisoned], batch_size=None)  # type: ignore[method-assign]
    fit(model, data, steps=1)
    after = weights(model)
    assert int(model.skipped) == 1  # of three steps
    moved = {name[0] for name in ("d.layers.0.weight", "g.layers.0.weight", "e.layers.0.weight")
             if not torch.equal(before[name], after[name])}  # fmt: skip
    assert moved == {"g", "e"}
    assert all(value.isfinite().all() for value in after.values())


def test_the_objectives() -> None:
    torch.manual_seed(0)
    model, batch = latent_regressor().double(), ImageBatch(digits(3, 0).image.double())
    draws = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    kept = list(draws)
    model.noise_like = lambda x: kept.pop(0)  # type: ignore[method-assign]
    one, two, three = steps_of(model, batch)
    g, e, d = model.g, model.e, model.d
    x = ((batch.image + 1) / 2).requires_grad_()
    real = d(x)
    (slope,) = torch.autograd.grad(real.sum(), x)
    r1 = slope.square().sum((1, 2, 3)).mean()
    assert one[0] == pytest.approx((softplus(d(g(draws[0]))).mean() + softplus(-real).mean() + 5 * r1).item())
    assert two[0] == pytest.approx(softplus(-d(g(draws[1]))).mean().item())
    assert three[0] == pytest.approx(mse_loss(e(g(draws[1])), draws[1]).item())
    assert [{name[0] for name in step[1]} for step in (one, two, three)] == [{"d"}, {"g"}, {"e"}]
    assert kept == []  # E sees the images of G's step


def test_codes_and_samples_are_of_the_average() -> None:
    torch.manual_seed(0)
    model = latent_regressor(lr=0.02)
    fit(model, Batches(CASE, 5, 4), steps=5)
    model.eval()
    for protocol in (FeatureEncoder, Decoder, Generator):
        assert isinstance(model, protocol)
    x = digits(3, 1).image
    with torch.no_grad():
        hidden, code = model.features_of(x)
        assert (hidden.shape, code.shape) == ((3, 8), (3, 4))
        assert torch.equal(code, model.encode(x))
        assert torch.equal(code, model.averaged["e"]((x + 1) / 2))
        assert not torch.allclose(code, model.e((x + 1) / 2), atol=1e-3)
        z = model.latent_spec.draw(5, torch.Generator().manual_seed(2))
        drawn = model.sample(5, torch.Generator().manual_seed(2))
        assert torch.equal(drawn, model.decode(z))
    assert drawn.shape == (5, 1, 28, 28)
    assert drawn.abs().max() <= 1
    assert model.predict_step(ImageBatch(x), 0).shape == x.shape


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"LatentRegressor takes grey images of 28 x 28, not \(3, 28, 28\)"):
        latent_regressor().check_batch(ImageBatch(torch.zeros(2, 3, 28, 28)))


def trained(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Three iterations in float64, with the same noise for all images."""
    torch.manual_seed(rank)
    model = latent_regressor()
    draws: list[int] = []

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        draws.append(0)
        rng = torch.Generator().manual_seed(len(draws))
        return torch.randn(x.shape[1:], generator=rng).to(x).expand_as(x)

    model.noise_like = noise_like  # type: ignore[method-assign]
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(model, Batches(CASE, 3, 2), steps=3, precision="64-true", **processes)
    return weights(model)


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batch() -> None:
    (first, second), alone = run_ddp(trained), trained(0, 1)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
