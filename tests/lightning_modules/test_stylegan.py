"""StyleGAN beyond its networks and what others that grow share: objectives, mixing, truncation, growth, processes."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import softplus

from interfaces.growth import Grows
from interfaces.model import Decoder, Generator, StyledGenerator
from lightning_modules.stylegan import StyleGAN
from networks.style import doubled, faded
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import GENERATORS, SLOWLY, Batches, Growing, fit, square, stylegan, weights

CASE = GENERATORS[2]


class Draws:
    """Noise by the number of the draw, each another."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.number += 1
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(self.number), dtype=torch.float64).to(x)


def test_both_losses_term_by_term() -> None:
    torch.manual_seed(0)
    model = stylegan(gamma=3.0, mixing=0.0, **SLOWLY).double()
    phase = model.phase(3)
    assert (phase.level, phase.resolution, phase.share) == (2, 16, pytest.approx(1 / 3))
    x = square(1, 0, 16).image.double()
    d, g = model.discriminator, model.generator

    def fakes() -> torch.Tensor:
        noise = Draws()
        noise(torch.zeros(1, 2))
        first, _ = noise(x.new_zeros(4, 6)), noise(x.new_zeros(4, 6))
        w = g.mapping(first)[:, None].expand(-1, 6, -1)
        return g.synthesis(w, 2, phase.share, noise)

    model.noise_like = Draws()
    loss, terms, scores = model.discriminator_loss(x, phase)
    real_images = x.clone().requires_grad_()
    real, generated = d(real_images, 2, phase.share), d(fakes().detach(), 2, phase.share)
    (slopes,) = torch.autograd.grad(real.sum(), real_images, retain_graph=True)
    torch.testing.assert_close(terms["adv"], softplus(-real).mean() + softplus(generated).mean())
    torch.testing.assert_close(terms["r1"], slopes.square().sum((1, 2, 3)).mean() / 2)
    torch.testing.assert_close(loss, terms["adv"] + 3 * terms["r1"])
    torch.testing.assert_close(scores["fake"], generated.mean())
    assert all(p is None for p in torch.autograd.grad(loss, list(g.parameters()), allow_unused=True))

    model.noise_like = Draws()
    loss, _, w = model.generator_loss(x, phase)
    torch.testing.assert_close(loss, softplus(-d(fakes(), 2, phase.share)).mean())
    assert w.shape == (4, 6)
    assert not w.requires_grad


def test_styles_of_two_codes_meet_between_levels() -> None:
    torch.manual_seed(0)
    model = stylegan(mixing=1.0)
    x, phase = square(1, 0, 16).image, model.phase(2)
    model.noise_like = lambda like: torch.zeros_like(like) if like.shape == (1, 2) else torch.randn_like(like)
    styles, w = model.styles(x, phase)  # luck of 1/2: the first code has one level of two
    assert styles.shape == (4, 6, 6)
    for layer in (0, 1, 2, 3):
        assert torch.equal(styles[:, layer], w)
    assert torch.equal(styles[:, 4], styles[:, 5])
    assert not torch.isclose(styles[:, 4], w).any(1).all()
    model.mixing = 0.0
    styles, w = model.styles(x, phase)
    assert torch.equal(styles, w[:, None].expand(-1, 6, -1))


def test_real_images_fade_in_as_generated_ones() -> None:
    model = stylegan(**SLOWLY)
    seen = []
    model.discriminator_loss, inner = (
        lambda x, phase: seen.append((x, phase)) or inner(x, phase),
        model.discriminator_loss,
    )
    fit(model, Growing(), steps=6)
    assert [phase.level for _, phase in seen] == [1, 1, 2, 2, 2, 2]
    for k, (x, phase) in enumerate(seen):
        assert torch.equal(x, faded(square(2, k, phase.resolution).image, phase.share))


def test_moments_and_rates_change_where_a_resolution_begins() -> None:
    model = stylegan(**SLOWLY)
    steps: list[tuple[float, float]] = []
    end = model.end_iteration

    def watch() -> None:
        for opt in model.trainer.optimizers:
            state = max(float(state["step"]) for state in opt.state.values())
            steps.append((state, opt.param_groups[0]["lr"]))
        end()

    model.end_iteration = watch  # type: ignore[method-assign]
    fit(model, Growing(), steps=6)
    expected = [(1, 1e-2), (2, 1e-2), (1, 2e-2), (2, 2e-2), (3, 2e-2), (4, 2e-2)]
    assert steps == [(k, pytest.approx(lr)) for k, lr in expected for _ in range(2)]


def test_images_outside_training_have_the_last_resolution_and_repeat() -> None:
    torch.manual_seed(0)
    model = stylegan(**SLOWLY).eval()
    assert isinstance(model, Decoder)
    assert isinstance(model, Generator)
    assert isinstance(model, StyledGenerator)
    assert isinstance(model, Grows)
    for weight in (noise.weight for noise in model.averaged.synthesis.noises):
        weight.data.normal_()
    rng = torch.Generator()
    with torch.no_grad():
        z = model.latent_spec.draw(3, rng.manual_seed(1))
        x = model.sample(3, rng.manual_seed(1))
        assert x.shape == (3, 3, 16, 16)
        assert torch.equal(x, doubled(x[:, :, ::2, ::2]))  # 8x8 at first
        assert torch.equal(x, model.decode(z))
        model.shown[0] = 2
        x = model.decode(z)
        assert not torch.equal(x, doubled(x[:, :, ::2, ::2]))
        torch.testing.assert_close(x[1:2], model.decode(z[1:2]))
        torch.testing.assert_close(x, model.synthesize(model.map(z)))
        assert not torch.allclose(x, model.synthesize(model.map(z), torch.randn_like), atol=1e-3)
        w = model.map(z)[:, None].repeat(1, 6, 1)
        torch.testing.assert_close(x, model.synthesize(w))
        w[:, 4:] = w[[1, 2, 0], 4:]
        assert not torch.allclose(x, model.synthesize(w), atol=1e-3)
    assert stylegan(half_life=0.0).averaged is None


def test_truncation_goes_towards_the_mean_of_w() -> None:
    torch.manual_seed(0)
    model = stylegan(**SLOWLY).eval()
    model.w_mean.normal_()
    z = torch.randn(2, 6)
    with torch.no_grad():
        whole = model.decode(z)
        model.psi = 0.0
        torch.testing.assert_close(model.decode(z), model.synthesize(model.w_mean.expand(2, -1)))
        assert not torch.allclose(model.decode(z), whole, atol=1e-2)
        model.cutoff = 0
        torch.testing.assert_close(model.decode(z), whole)


def test_the_mean_of_w_is_followed() -> None:
    torch.manual_seed(0)
    model = stylegan()
    seen = []
    inner = model.follow_mean
    model.follow_mean = lambda w: seen.append(w) or inner(w)  # type: ignore[method-assign]
    fit(model, Batches(CASE, 3, 1), steps=3)
    mean = torch.zeros(6)
    for k, w in enumerate(seen):
        mean = torch.lerp(mean, w.mean(0), 9 / (10 + k))
    torch.testing.assert_close(model.w_mean, mean)


def test_r1_is_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    model = stylegan()
    x, phase = square(1, 0, 16).image, model.phase(2)
    found = []
    for enabled in (False, True):
        model.noise_like = Draws()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, terms, _ = model.discriminator_loss(x, phase)
        found.append(terms["r1"].item())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: StyleGAN(resolution=48), "from 8 to 48 pixels"),
        (lambda: StyleGAN(resolution=4), "the last not smaller"),
        (lambda: StyleGAN(start=2), "from 2 to 1024"),
        (lambda: StyleGAN(resolution=32, widths=(8, 4)), "has 2 widths.*needs 4"),
        (lambda: stylegan(lrs=()), "a learning rate > 0"),
        (lambda: fit(stylegan(), Batches(GENERATORS[1], 1, 1), steps=1), "iteration 0 on images of 8 x 8, not 4 x 4"),
    ],
)
def test_what_makes_no_sense_is_refused(build, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def train_on_a_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0 if world == 1 else rank)  # ranks must agree in spite of it
    model = stylegan(**SLOWLY | {"batches": (8 // world,)})
    draws = Draws()

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        if x.shape == (1, 2):  # where to mix, once a batch
            return draws(x)
        return draws(x.new_empty(8, *x.shape[1:]))[rank::world]

    model.noise_like = noise_like
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(model, Growing(), steps=6, precision="64-true", **processes)
    return weights(model)


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batch() -> None:
    """Through two levels and the fade between, each with images, codes and noise of its own; groups of two fit."""
    first, second = run_ddp(train_on_a_rank)
    alone = train_on_a_rank(0, 1)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between ranks"
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
