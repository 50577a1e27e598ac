"""Our beta-VAE, beta-TCVAE and FactorVAE against disvae's order of computation, and where that is other mathematics."""

import copy

import pytest
import torch

from benchmarks.released import disvae as released
from benchmarks.timing import bare
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.factor_vae import FactorVAE
from tests.hashed import hashed
from tests.lightning_modules.cases import small, vae

SIZE = 737280  # images in dSprites


class Draws:
    """Each draw of an iteration is another, from number ``first`` on."""

    def __init__(self, first: int = 0) -> None:
        self.k = first
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(self.k)
        self.k += 1
        self.shapes.append(tuple(x.shape))
        return torch.randn(x.shape, generator=rng, dtype=torch.float64)


def build(kind: type[BetaVAE], **changes) -> BetaVAE:
    torch.manual_seed(0)
    return vae(kind, kernels=(4, 4), hidden=(8, 6), dec_hidden=(6, 8), glorot=False, **changes).double()


def factor() -> BetaVAE:
    return build(FactorVAE, halves=True, anneal=4, factor_gamma=6.4, dis_width=8, dis_layers=5, dis_lr=1e-3)


def train_both(model: BetaVAE, iterations: int, **options) -> BetaVAE:
    """Both from the same weights with the same draws; their losses are equal. Returns the released one."""
    plain = copy.deepcopy(model)
    opt = model.configure_optimizers()
    optimizers = opt[0] if isinstance(opt, tuple) else opt
    object.__setattr__(model, "optimizers", lambda: optimizers)
    step, opts = bare(model), released.optimizers(plain)
    thrown_away = int(isinstance(model, FactorVAE))  # the first draw of the release, for the whole batch
    for k in range(iterations):
        draws, noise = Draws(first=thrown_away), Draws()
        object.__setattr__(model, "noise_like", draws)
        batch = small(4, k)
        batch = batch._replace(image=batch.image.double())
        ours, theirs = step(batch), released.step(plain, opts, batch, noise, **options)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-11, atol=0)
        assert draws.shapes == noise.shapes[thrown_away:]
        model.iterations += 1
    return plain


def assert_equal_weights(model: BetaVAE, plain: BetaVAE, *parts: str) -> None:
    for (name, mine), value in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        if name.startswith(parts or ("",)):
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: build(BetaVAE, beta=4.0, anneal=5),
        lambda: build(BetaVAE, beta=1.0),
        lambda: build(BetaVAE, gamma=100.0, c_max=25.0, c_steps=10),
        lambda: build(BetaTCVAE, latent=1, data_size=50, stratified=True, alpha=2.0, anneal=3),
    ],
    ids=["ramp", "vae", "capacity", "tc of one coordinate"],
)
def test_the_released_order_gives_the_same_numbers(build_it):
    """Three iterations, each draw another, float64. Of one coordinate, a weight counts once in the release too."""
    model = build_it()
    before = copy.deepcopy(model.state_dict())
    assert_equal_weights(model, train_both(model, 3))
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_factor_vae_is_the_released_order_but_for_what_its_discriminator_teaches_the_encoder():
    model = factor()
    assert_equal_weights(model, train_both(model, 3, leaks=False))
    model = factor()
    start = copy.deepcopy(model)
    plain = train_both(model, 1)
    assert_equal_weights(model, plain, "decoder", "discriminator")
    with pytest.raises(AssertionError, match=r"encoder\.convs\.0\.weight"):
        assert_equal_weights(model, plain, "encoder")
    first = start.pixels(small(4, 0).image.double())[:8]
    z = released.sample(*start.encoder(first), Draws(first=1))
    leaks = torch.autograd.grad(released.leak(start.discriminator(z)), list(start.encoder.parameters()))
    for mine, theirs, leak in zip(model.encoder.parameters(), plain.encoder.parameters(), leaks, strict=True):
        torch.testing.assert_close(theirs.grad - mine.grad, leak, rtol=1e-8, atol=1e-11)
    assert max(leak.abs().max() for leak in leaks) > 1e-3


def test_estimates_of_the_specification():
    """The release's, in which log W counts for each of ten coordinates; dimension-wise KL has it right."""
    mu, logvar, eps = hashed((16, 10), 2001), hashed((16, 10), 2002) - 1, hashed((16, 10), 2003)
    z = mu + (logvar / 2).exp() * eps
    parts = released.decomposed(released.densities(z, mu, logvar, SIZE))
    assert [part.item() for part in parts] == pytest.approx([27.0706698000737, -22.20524640907669, 1.08938481238414])
    assert released.kl(mu, logvar).sum().item() == pytest.approx(4.035418820198382)
    model = BetaTCVAE(6.0, SIZE, stratified=True, alpha=2.0, anneal=4)
    loss = released.stratified_objective(model, *parts, gamma=3.0)
    assert loss.item() == pytest.approx(2 * 27.0706698000737 + 6 * -22.20524640907669 + 3 / 4 * 1.08938481238414)


def test_reconstructions_of_the_specification():
    p, x = (3 * hashed((4, 1, 64, 64), 1001)).sigmoid(), (hashed((4, 1, 64, 64), 1000) + 1) / 2
    numbers = {"bernoulli": 4136.632750869708, "gaussian": 191671.48421234955, "laplace": 4297.03459680997}
    for kind, number in numbers.items():
        assert released.reconstruction(p, x, kind).item() == pytest.approx(number, rel=1e-12)
    with pytest.raises(ValueError, match="rec_dist is 'cauchy'"):
        released.reconstruction(p, x, "cauchy")


def test_capacity():
    assert [released.capacity(2, 10, t, 4) for t in (1, 2, 4, 9)] == [4, 6, 10, 10]
    assert released.capacity(2, 10, 1, 0) == 10
