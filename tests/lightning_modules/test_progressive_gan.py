"""Progressive GAN beyond its networks and what others that grow share: its objectives, growth and processes."""

import pytest
import pytorch_lightning as pl
import torch

from interfaces.growth import Grows
from interfaces.model import Decoder, Generator
from lightning_modules.progressive_gan import ProgressiveGAN
from networks.style import doubled, faded
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, SLOWLY, Batches, Growing, fit, progressive_gan, square, weights


def test_the_critics_loss_term_by_term() -> None:
    torch.manual_seed(0)
    model = progressive_gan(lambda_gp=3.0, gamma=2.0, lambda_drift=0.1, **SLOWLY).double()
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
    model = progressive_gan(**SLOWLY)
    seen = []
    model.critic_loss, inner = lambda x, phase: seen.append((x, phase)) or inner(x, phase), model.critic_loss
    fit(model, Growing(), steps=6)
    assert [phase.level for _, phase in seen] == [0, 0, 1, 1, 1, 1]
    for k, (x, phase) in enumerate(seen):
        assert torch.equal(x, faded(square(2, k, phase.resolution).image, phase.share))
        assert x.shape[-1] == phase.resolution


def test_moments_are_forgotten_where_a_resolution_begins_and_nowhere_else() -> None:
    model = progressive_gan(**SLOWLY)
    steps: list[list[float]] = []
    end = model.end_iteration

    def watch() -> None:
        states = [opt.state.values() for opt in model.trainer.optimizers]
        steps.append([max(float(state["step"]) for state in each) for each in states])
        end()

    model.end_iteration = watch  # type: ignore[method-assign]
    fit(model, Growing(), steps=6)
    assert steps == [[k, k] for k in (1, 2, 1, 2, 3, 4)]


def test_images_outside_training_have_the_last_resolution() -> None:
    torch.manual_seed(0)
    model = progressive_gan(resolution=16, widths=(5, 4, 3), **SLOWLY)
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
    model = progressive_gan(**SLOWLY)
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
    model = progressive_gan(**SLOWLY | {"batches": (8 // world,)})
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
