"""DCGAN beyond its networks: the contract, its objective, and who learns from what."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import binary_cross_entropy

from interfaces.batch import ImageBatch
from interfaces.model import Decoder, Generator
from lightning_modules.dcgan import DCGAN
from losses.diversity import mode_seeking
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, Batches, dcgan, fit, small, weights

CASE = GENERATORS[0]


def test_it_keeps_the_contract(tmp_path) -> None:
    contract.test_max_steps_counts_batches(CASE)
    contract.test_each_player_moves_its_own_weights(CASE)
    contract.test_checkpoint_round_trip(CASE, tmp_path)
    contract.test_a_checkpoint_names_its_class(CASE, tmp_path)


def test_an_image_that_is_not_finite_leaves_out_the_step_of_d_and_no_statistics() -> None:
    torch.manual_seed(0)
    model = dcgan()
    before = weights(model)
    x = small(1, 0).image
    x[0, 0, 0, 0] = torch.nan
    data = Batches(CASE, 1, 1)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([ImageBatch(x)], batch_size=None)
    fit(model, data, steps=1)
    assert int(model.skipped) == 1
    assert all(torch.equal(before[f"discriminator.{n}"], p) for n, p in model.discriminator.named_parameters())
    assert not all(torch.equal(before[f"generator.{n}"], p) for n, p in model.generator.named_parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def step(model: DCGAN, x: torch.Tensor) -> list[tuple[torch.Tensor, dict[int, torch.Tensor]]]:
    """The loss and the gradients of each player in one iteration."""
    found = []
    descend = model.descend

    def watch(opt: Any, loss: torch.Tensor) -> None:
        descend(opt, loss)
        found.append((loss.detach(), {id(p): p.grad.clone() for p in model.parameters() if p.grad is not None}))
        for p in model.parameters():
            p.grad = None

    model.descend = watch  # type: ignore[method-assign]
    data = Batches(CASE, 1, 1)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([ImageBatch(x)], batch_size=None)  # type: ignore[assignment]
    fit(model, data, steps=1, precision="64-true")
    return found


@pytest.mark.parametrize("lambda_ms", [0.0, 0.7])
def test_both_losses_and_gradients_are_those_of_the_example(lambda_ms: float) -> None:
    """Cross-entropy of probabilities with ones and zeros; D judges the same fakes again after its step."""
    torch.manual_seed(0)
    model = dcgan(lambda_ms=lambda_ms).double()
    z = torch.randn(4, 5, dtype=torch.float64)
    model.noise_like = lambda x: z
    x = small(1, 0).image.double()
    old = weights(model)
    (of_d, grads_d), (of_g, grads_g) = step(model, x)

    other = dcgan(lambda_ms=lambda_ms).double()
    other.load_state_dict(old)
    d, g = other.discriminator, other.generator
    fake = g(z)
    ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    loss = binary_cross_entropy(d(x).sigmoid(), ones) + binary_cross_entropy(d(fake.detach()).sigmoid(), zeros)
    torch.testing.assert_close(of_d, loss.detach())
    for ours, grad in zip(
        model.discriminator.parameters(), torch.autograd.grad(loss, list(d.parameters())), strict=True
    ):
        torch.testing.assert_close(grads_d[id(ours)], grad)
    d.load_state_dict(model.discriminator.state_dict())
    loss = binary_cross_entropy(d(fake).sigmoid(), ones)
    if lambda_ms:
        loss = loss + lambda_ms * mode_seeking(fake[:2], fake[2:], z[:2], z[2:])
    torch.testing.assert_close(of_g, loss.detach())
    for ours, grad in zip(model.generator.parameters(), torch.autograd.grad(loss, list(g.parameters())), strict=True):
        torch.testing.assert_close(grads_g[id(ours)], grad)
    assert not set(grads_d) & set(grads_g)


def test_one_generation_serves_both_steps() -> None:
    model = dcgan(ema=0.0)
    calls = []
    model.generator.register_forward_hook(lambda *_: calls.append(1))
    fit(model, Batches(CASE, 2, 1), steps=2)
    assert len(calls) == 2


def test_samples_are_of_the_running_average_and_repeat() -> None:
    torch.manual_seed(0)
    model = dcgan()
    fit(model, Batches(CASE, 3, 1), steps=3)
    model.eval()
    assert isinstance(model, Decoder)
    assert isinstance(model, Generator)
    rng = torch.Generator()
    with torch.no_grad():
        x = model.sample(3, rng.manual_seed(1))
        z = model.latent_spec.draw(3, rng.manual_seed(1))
        assert x.shape == (3, 3, 16, 16)
        assert torch.equal(x, model.decode(z))
        assert torch.equal(x, model.averaged(z))
        assert not torch.allclose(x, model.generator(z), atol=1e-4)
        assert torch.equal(model.generator(z), dcgan_like(model, ema=0.0).decode(z))


def dcgan_like(model: DCGAN, **changes: Any) -> DCGAN:
    other = dcgan(**changes).eval()
    other.generator.load_state_dict(model.generator.state_dict())
    return other


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: DCGAN(image_size=48), "image_size is 48: give 8, 16"),
        (lambda: DCGAN(image_size=4), "image_size is 4"),
        (lambda: dcgan().check_batch(torch.zeros(2, 3, 16, 32)), "images of 16 x 16, not 16 x 32"),
        (lambda: dcgan(lambda_ms=1.0).check_batch(torch.zeros(3, 3, 16, 16)), "one has 3 images"),
    ],
)
def test_what_makes_no_sense_is_refused(build, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def train_on_a_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0 if world == 1 else rank)  # ranks must agree in spite of it
    model = dcgan(lambda_ms=0.5)
    total = torch.randn(8, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # Of two ranks each has one image of each pair.
    rows = [0, 1, 4, 5] if rank == 0 else [2, 3, 6, 7]
    model.noise_like = lambda x: total if world == 1 else total[rows]
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(model, Batches(CASE, 3, 2), steps=3, precision="64-true", **processes)
    return weights(model)


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batch() -> None:
    """Other codes on each; batch normalisation, which sees the images of both, and the pairs of mode seeking too."""
    first, second = run_ddp(train_on_a_rank)
    alone = train_on_a_rank(0, 1)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between ranks"
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
