"""Progressive GAN beyond its networks: the contract, its objectives, growth, resuming and processes."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from interfaces.growth import Grows
from interfaces.model import Decoder, Generator
from lightning_modules.progressive_gan import ProgressiveGAN
from networks.style import doubled, faded
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, Batches, Growing, fit, progressive_gan, square, weights

CASE = GENERATORS[1]
# Two iterations at 4x4, then three in which 8x8 fades in (shares 0, 1/3, 2/3), then 8x8.
SLOW: dict[str, Any] = {"batches": (8,), "first": 16, "fade": 24, "stable": 16}


def test_it_keeps_the_contract(tmp_path) -> None:
    contract.test_max_steps_counts_batches(CASE)
    contract.test_each_player_moves_its_own_weights(CASE)
    contract.test_checkpoint_round_trip(CASE, tmp_path)
    contract.test_a_checkpoint_names_its_class(CASE, tmp_path)


def test_an_image_that_is_not_finite_leaves_out_the_step_of_d() -> None:
    torch.manual_seed(0)
    model = progressive_gan()
    before = weights(model)
    batch = CASE.batch(1, 0)
    batch.image[0, 0, 0, 0] = torch.nan
    data = Batches(CASE, 1, 1)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([batch], batch_size=None)
    fit(model, data, steps=1)
    assert int(model.skipped) == 1
    assert all(torch.equal(before[f"discriminator.{n}"], p) for n, p in model.discriminator.named_parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_critics_loss_term_by_term() -> None:
    torch.manual_seed(0)
    model = progressive_gan(lambda_gp=3.0, gamma=2.0, lambda_drift=0.1, **SLOW).double()
    phase = model.growth.at(3)
    assert (phase.level, phase.share) == (1, pytest.approx(1 / 3))
    x = square(1, 0, 8).image.double()
    z, luck = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    draws = iter((z, luck))
    model.noise_like = lambda like: next(draws)
    loss, terms, scores = model.critic_loss(x, phase)

    d, g = model.discriminator, model.generator
    fake = g(z, 1, phase.share).detach()
    share = torch.distributions.Normal(0, 1).cdf(luck)[:, :, None, None]
    between = (share * x + (1 - share) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(d(between, 1, phase.share).sum(), between)
    norm = slopes.square().sum((1, 2, 3)).sqrt()
    real, generated = d(x, 1, phase.share), d(fake, 1, phase.share)
    torch.testing.assert_close(terms["gp"], ((norm - 2).square() / 4).mean())
    torch.testing.assert_close(terms["drift"], real.square().mean())
    expected = generated.mean() - real.mean() + 3 * terms["gp"] + 0.1 * terms["drift"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scores["real"], real.mean())
    learning = [*torch.autograd.grad(loss, list(g.parameters()), allow_unused=True)]
    assert all(gradient is None for gradient in learning)


def test_generators_loss() -> None:
    torch.manual_seed(0)
    model = progressive_gan()
    z = torch.randn(4, 6)
    model.noise_like = lambda like: z
    phase = model.growth.at(2)
    loss, _ = model.generator_loss(square(1, 0, 8).image, phase)
    torch.testing.assert_close(loss, -model.discriminator(model.generator(z, 1), 1).mean())


def test_real_images_fade_in_as_generated_ones() -> None:
    model = progressive_gan(**SLOW)
    seen = []
    model.critic_loss, inner = lambda x, phase: seen.append((x, phase)) or inner(x, phase), model.critic_loss
    fit(model, Growing(), steps=6)
    assert [phase.level for _, phase in seen] == [0, 0, 1, 1, 1, 1]
    for k, (x, phase) in enumerate(seen):
        assert torch.equal(x, faded(square(2, k, phase.resolution).image, phase.share))
        assert x.shape[-1] == phase.resolution


def test_moments_are_forgotten_where_a_resolution_begins_and_nowhere_else() -> None:
    model = progressive_gan(**SLOW)
    steps: list[list[float]] = []
    end = model.end_iteration

    def watch() -> None:
        states = [opt.state.values() for opt in model.trainer.optimizers]
        steps.append([max(float(state["step"]) for state in each) for each in states])
        end()

    model.end_iteration = watch  # type: ignore[method-assign]
    fit(model, Growing(), steps=6)
    assert steps == [[k, k] for k in (1, 2, 1, 2, 3, 4)]


def test_a_run_goes_on_in_the_middle_of_a_fade_bit_by_bit(tmp_path) -> None:
    pl.seed_everything(3)
    whole = progressive_gan(**SLOW)
    begin = weights(whole)
    fit(whole, Growing(), steps=6)
    half = progressive_gan(**SLOW)
    half.load_state_dict(begin)
    trainer = fit(half, Growing(), steps=4)
    assert half.shown.tolist() == [1, pytest.approx(1 / 3)]
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    rest = progressive_gan(**SLOW)
    go_on(rest, 6, tmp_path / "x.ckpt")
    assert int(rest.iterations) == 6
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name
    one, two = whole.trainer.optimizers, rest.trainer.optimizers
    for ours, theirs in zip(one, two, strict=True):
        for a, b in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)

    other = progressive_gan(**SLOW | {"batches": (4,)})
    with pytest.raises(
        ValueError, match=r"level 1 and a share of 0.33, which by its growth and 1 processes would be 0"
    ):
        go_on(other, 6, tmp_path / "x.ckpt")


def go_on(model: ProgressiveGAN, steps: int, checkpoint: Any) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, max_epochs=-1, max_steps=steps,
    )  # fmt: skip
    trainer.fit(model, Growing(), ckpt_path=checkpoint, weights_only=True)


def test_images_outside_training_have_the_last_resolution() -> None:
    torch.manual_seed(0)
    model = progressive_gan(resolution=16, widths=(5, 4, 3), **SLOW)
    assert isinstance(model, Decoder)
    assert isinstance(model, Generator)
    assert isinstance(model, Grows)
    rng = torch.Generator()
    z = model.latent_spec.draw(3, rng.manual_seed(1))
    with torch.no_grad():
        x = model.sample(3, rng.manual_seed(1))
        assert torch.equal(x, doubled(doubled(model.averaged(z, 0))).clamp(-1, 1))
    fit(model, Growing(), steps=4)
    with torch.no_grad():
        x = model.sample(3, rng.manual_seed(1))
        assert torch.equal(x, doubled(model.averaged(z, 1, float(model.shown[1]))).clamp(-1, 1))
        assert not torch.allclose(model.averaged(z, 1), model.generator(z, 1), atol=1e-4)
        model.shown[0], model.shown[1] = 2, 1
        assert torch.equal(model.decode(z), model.averaged(z, 2).clamp(-1, 1))
    assert progressive_gan(half_life=0.0).averaged is None


def test_the_average_halves_after_so_many_images() -> None:
    model = progressive_gan(**SLOW)
    decays = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.progressive_gan.follow_", lambda a, m, decay, k: decays.append((decay, k)))
        fit(model, Growing(), steps=2)
    assert decays == [(pytest.approx(0.5 ** (8 / 50)), 0), (pytest.approx(0.5 ** (8 / 50)), 1)]


def test_penalties_are_in_float32_under_autocast() -> None:
    """The slope of D at images that both precisions see alike."""
    torch.manual_seed(0)
    model = progressive_gan()
    x, phase = square(1, 0, 8).image, model.growth.at(2)
    z, luck = torch.randn(4, 6), torch.randn(4, 1)
    found = []
    for enabled in (False, True):
        draws = iter((z, luck))
        model.noise_like = lambda like, draws=draws: next(draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, terms, _ = model.critic_loss(x, phase)
        found.append(terms["gp"].item())
        assert terms["gp"].dtype == torch.float32
    assert found[0] == pytest.approx(found[1], rel=0.02)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ProgressiveGAN(resolution=48), "resolution is 48: give a power of 2 up to 1024"),
        (lambda: ProgressiveGAN(resolution=16, widths=(8, 4)), "has 2 widths.*power of 2 up to 8"),
        (lambda: progressive_gan(first=0), "1 or more of the first"),
        (
            lambda: fit(progressive_gan(), Batches(GENERATORS[2], 1, 1), steps=1),
            "iteration 0 on images of 4 x 4, not 8 x 8",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def train_on_a_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0 if world == 1 else rank)  # ranks must agree in spite of it
    model = progressive_gan(**SLOW | {"batches": (8 // world,)})
    drawn = 0

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        whole = torch.randn(8, *x.shape[1:], generator=torch.Generator().manual_seed(drawn), dtype=torch.float64)
        return whole[rank::world]

    model.noise_like = noise_like
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(model, Growing(), steps=6, precision="64-true", **processes)
    return weights(model)


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batch() -> None:
    """Through two levels and the fade between, each with images and codes of its own.

    Groups of two fit: of the images of one process, in turn those of two, one group is on one process.
    """
    first, second = run_ddp(train_on_a_rank)
    alone = train_on_a_rank(0, 1)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between ranks"
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
