"""Our ALAE and StyleALAE against the release's order of computation, in float64."""

import copy
import random

import pytest
import torch

from benchmarks.released import alae as released
from benchmarks.released import stylegan as released_layers
from benchmarks.timing import bare
from interfaces.batch import ImageBatch
from lightning_modules.alae import ALAE
from lightning_modules.style_alae import StyleALAE
from tests.benchmarks.test_released_disvae import Draws
from tests.hashed import hashed
from tests.lightning_modules.cases import alae, grown, style_alae, weights


def perturbed(model: ALAE | StyleALAE) -> ALAE | StyleALAE:
    """In float64, with noise and biases that are not zero."""
    model = model.double()
    with torch.no_grad():
        for net in (model.f, model.g, model.e, model.d):
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model


def assert_both_train_alike(model: ALAE | StyleALAE, batches: list[ImageBatch]) -> None:
    """From the same weights, with the same draws: losses of all steps, then weights, average and the mean of w."""
    plain, before = copy.deepcopy(model), weights(model)
    step, opts = bare(model), released.optimizers(plain)
    for k, batch in enumerate(batches):
        batch = batch._replace(image=batch.image.double())
        draws, noise = Draws(), Draws()
        object.__setattr__(model, "noise_like", draws)
        model.iterations.fill_(k)
        plain.iterations.fill_(k)
        random.seed(k)
        ours = step(batch)[:3]  # the fourth hands to G what III says of its images
        random.seed(k)
        theirs = released.step(plain, opts, batch, noise)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-10, atol=0)
        assert draws.shapes == noise.shapes
    moved = set()
    for name, value in plain.state_dict().items():
        if name == "shown":  # what ours did last, for others to know
            continue
        mine = model.state_dict()[name]
        torch.testing.assert_close(mine, value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        if not torch.equal(value, before[name]):
            moved.add(name.rpartition(".")[0])
    assert moved >= {name.rpartition(".")[0] for name in before} - {""}


def test_the_mlps_compute_the_same_numbers() -> None:
    torch.manual_seed(0)
    model = perturbed(alae())
    assert_both_train_alike(model, [ImageBatch(hashed((4, 1, 28, 28), k)) for k in range(2)])


def test_the_mlps_of_the_last_configuration_compute_the_same_numbers() -> None:
    torch.manual_seed(0)
    slopes = {"encoder_slopes": (0.2, 0.2, 0.2), "generator_slopes": (0.2, 0.2)}
    model = perturbed(alae(image_size=32, unit_range=False, **slopes))
    assert_both_train_alike(model, [ImageBatch(hashed((4, 1, 32, 32), k)) for k in range(2)])


@pytest.mark.parametrize("fused", [128, 8])
def test_styles_compute_the_same_numbers_while_they_grow(monkeypatch: pytest.MonkeyPatch, fused: int) -> None:
    """4x4, a fade to 8x8, 8x8, a fade to 16x16, 16x16; layers of the lower ones stay behind."""
    monkeypatch.setattr(released_layers, "FUSED", fused)
    torch.manual_seed(0)
    model = perturbed(style_alae(lrs=(0.0015, 0.002)))
    assert_both_train_alike(model, [grown(4, k) for k in range(8)])
