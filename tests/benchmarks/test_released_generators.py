"""Our DCGAN, Progressive GAN and StyleGAN against the plain order of computation, in float64."""

import copy
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.released import dcgan as released_dcgan
from benchmarks.released import progressive_gan as released_progressive_gan
from benchmarks.released import stylegan as released_stylegan
from benchmarks.timing import bare
from interfaces.batch import ImageBatch
from tests.benchmarks.test_released_disvae import Draws
from tests.lightning_modules.cases import dcgan, growing_to_8, progressive_gan, small, square, stylegan, weights


def assert_both_train_alike(model: Any, release: ModuleType, batches: list[ImageBatch]) -> None:
    """From the same weights, with the same draws: losses of both steps, then weights, statistics and averages."""
    model = model.double()
    with torch.no_grad():
        for net in (model.generator, model.discriminator):
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
    plain, before = copy.deepcopy(model), weights(model)
    optimizers, schedules = model.configure_optimizers()
    for opt in optimizers:
        opt.optimizer = opt  # what Lightning wraps
    object.__setattr__(model, "optimizers", lambda: optimizers)
    step, opts = bare(model), release.optimizers(plain)
    for k, batch in enumerate(batches):
        batch = batch._replace(image=batch.image.double())
        draws, noise = Draws(), Draws()
        object.__setattr__(model, "noise_like", draws)
        model.iterations.fill_(k)
        plain.iterations.fill_(k)
        ours, theirs = step(batch), release.step(plain, opts, batch, noise)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=1e-11)
        assert draws.shapes == noise.shapes
        for schedule in schedules:
            schedule.step()
    moved = set()
    for name, value in plain.state_dict().items():
        if name in ("iterations", "skipped", "shown", "w_mean"):  # which releases do not keep, or not in training
            continue
        mine = model.state_dict()[name]
        torch.testing.assert_close(mine, value, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
        if not torch.equal(value, before[name]):
            moved.add(name.rpartition(".")[0])
    assert moved >= {name.rpartition(".")[0] for name in before if name.startswith(("generator", "discriminator"))}


def test_dcgan_computes_the_same_numbers() -> None:
    torch.manual_seed(0)
    assert_both_train_alike(dcgan(ema=0.0), released_dcgan, [small(2, k) for k in range(2)])


@pytest.mark.parametrize("changes", [{}, {"gamma": 3.0, "group": 3}])
def test_progressive_gan_computes_the_same_numbers_while_it_grows(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    batches = [growing_to_8(2, k) for k in range(4)]
    assert_both_train_alike(progressive_gan(fade=20, **changes), released_progressive_gan, batches)


@pytest.mark.parametrize("fused", [128, 8])
@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_stylegan_computes_the_same_numbers_while_it_grows(
    monkeypatch: pytest.MonkeyPatch, fused: int, mixing: float
) -> None:
    monkeypatch.setattr(released_stylegan, "FUSED", fused)
    torch.manual_seed(0)
    model = stylegan(start=4, fade=8, stable=4, mixing=mixing)
    sides = [model.growth.at(k).resolution for k in range(6)]
    assert sides == [4, 8, 8, 8, 16, 16]
    assert_both_train_alike(model, released_stylegan, [square(2, k, side) for k, side in enumerate(sides)])
