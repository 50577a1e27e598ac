"""The VAE family beyond the contract: objectives against the specification's numbers, what each variant changes."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy

from interfaces.batch import ImageBatch
from interfaces.model import Decoder, Encoder, Generator, Variational
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.dip_vae import DIPVAE
from lightning_modules.factor_vae import FactorVAE
from losses.divergence import kl_normal_of_each
from losses.total_correlation import density_ratio, permutation_discriminator
from tests.hashed import hashed
from tests.lightning_modules.cases import dip_vae, small, vae, vae_with_capacity

SIZE = 737280  # images in dSprites


@pytest.fixture
def codes():
    """z, mu, logvar of the specification."""
    mu, logvar, eps = hashed((16, 10), 2001), hashed((16, 10), 2002) - 1, hashed((16, 10), 2003)
    return mu + (logvar / 2).exp() * eps, mu, logvar


def prior_loss(model, codes):
    return model.prior_loss(*codes)[0].item()


def test_priors_of_the_specification(codes):
    kl = 4.035418820198382
    assert prior_loss(BetaVAE(beta=1.0), codes) == pytest.approx(kl)
    assert prior_loss(BetaVAE(beta=4.0), codes) == pytest.approx(4 * kl)
    assert prior_loss(BetaTCVAE(beta=6.0), codes) == pytest.approx(kl + 5 * -22.681978756476536)
    assert prior_loss(DIPVAE(10.0, 100.0), codes) == pytest.approx(kl + 450.2157747291375)
    assert prior_loss(DIPVAE(10.0, 10.0, second=True), codes) == pytest.approx(kl + 13.87771394882921)
    mi, tc, dwkl = 2.698205040723174, 2.167218350273838, 1.08938481238414
    stratified = BetaTCVAE(6.0, SIZE, stratified=True, alpha=2.0, anneal=4)
    assert prior_loss(stratified, codes) == pytest.approx(2 * mi + 6 * tc + dwkl / 4)
    annealed = BetaVAE(gamma=1000.0, c_max=25.0, c_steps=100_000)
    annealed.iterations += 12344  # the next one is the 12345th
    assert prior_loss(annealed, codes) == pytest.approx(949.1688201983819)


def test_logged_terms_have_no_weight(codes):
    _, terms = BetaTCVAE(beta=6.0, data_size=SIZE).prior_loss(*codes)
    assert terms["tc"].item() == pytest.approx(123.86782690216747)  # with the constant of weighted sampling
    assert terms["kl"].item() == pytest.approx(4.035418820198382)
    _, terms = BetaTCVAE(6.0, SIZE, stratified=True).prior_loss(*codes)
    assert set(terms) == {"kl", "mi", "tc", "dwkl"}


def test_capacity_and_ramp():
    model = BetaVAE(gamma=1.0, c_max=25.0, c_steps=100, anneal=10)
    for t, capacity, ramp in ((1, 0.25, 0.1), (5, 1.25, 0.5), (50, 12.5, 1.0), (100, 25.0, 1.0), (200, 25.0, 1.0)):
        model.iterations.fill_(t - 1)
        assert model.capacity() == pytest.approx(capacity)
        assert model.ramp() == pytest.approx(ramp)
    assert BetaVAE().ramp() == 1
    assert model.kl_target() == 25
    assert BetaVAE().kl_target() is None


def test_the_objective_is_that_of_torchs_distributions():
    """Sums over pixels and coordinates, means over images."""
    model = vae(beta=3.0).double()
    eps = torch.randn(4, 3, dtype=torch.float64)
    model.noise_like = lambda x: eps
    x = (small(1, 0).image.double() + 1) / 2
    loss, terms = model.loss(x)
    mu, logvar = model.encoder(x)
    q = Normal(mu, (logvar / 2).exp())
    p = model.decoder(mu + q.stddev * eps).sigmoid()
    kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(1).mean()
    nll = binary_cross_entropy(p, x, reduction="none").sum((1, 2, 3)).mean()
    torch.testing.assert_close(loss, nll + 3 * kl)
    torch.testing.assert_close(terms["recon"], nll)
    torch.testing.assert_close(model.kl_per_dim().sum(), kl)
    assert model.kl_per_dim().shape == (3,)


def test_a_normal_likelihood_has_a_variance_of_its_own():
    model = vae(gaussian=True).double()
    x = (small(1, 0).image.double() + 1) / 2
    out = model.decoder(model.encoder(x)[0])
    mean, logvar = out[:, :3], out[:, 3:]
    exact = -Normal(mean, (logvar / 2).exp()).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(model.nll(out, x), exact)
    assert model.decode(torch.randn(2, 3, dtype=torch.float64)).abs().max() <= 1


def test_encode_decode_and_edit():
    model = vae().eval()
    assert isinstance(model, Encoder)
    assert isinstance(model, Decoder)
    assert isinstance(model, Variational)
    x = small(1, 0).image
    z = model.encode(x)
    torch.testing.assert_close(z, model.encoder((x + 1) / 2)[0])
    torch.testing.assert_close(model.edit(x, {}), model.decode(z))
    z[:, 1] = 2.5
    torch.testing.assert_close(model.edit(x, {1: 2.5}), model.decode(z))
    torch.testing.assert_close(model.predict_step(ImageBatch(x), 0), model.decode(model.encode(x)))


@pytest.mark.parametrize("build", [vae, vae_with_capacity, dip_vae])
def test_samples_are_what_draws_of_the_prior_decode_to(build):
    model = build().eval()
    assert isinstance(model, Generator)
    images = model.sample(5, torch.Generator().manual_seed(1))
    assert torch.equal(images, model.decode(torch.randn(5, 3, generator=torch.Generator().manual_seed(1))))
    assert images.shape == (5, 3, 16, 16)
    assert images.abs().max() <= 1


def test_a_shuffle_keeps_what_each_coordinate_holds_and_breaks_what_they_share():
    torch.manual_seed(0)
    z = torch.arange(100.0)[:, None].expand(100, 3)
    shuffled = FactorVAE(latent=3, dis_width=4).shuffled(z)
    assert torch.equal(shuffled.sort(0).values, z)
    assert (shuffled[:, 0] != shuffled[:, 1]).sum() > 80
    assert (shuffled[:, 0] != z[:, 0]).sum() > 80


def test_a_discriminator_that_knows_nothing_changes_nothing(codes):
    model = FactorVAE(factor_gamma=100.0).double()
    torch.nn.init.zeros_(model.discriminator.head.weight)
    torch.nn.init.zeros_(model.discriminator.head.bias)
    assert prior_loss(model, codes) == pytest.approx(4.035418820198382)
    with torch.no_grad():
        model.discriminator.head.bias[0] = 0.25
    assert prior_loss(model, codes) == pytest.approx(4.035418820198382 + 100 * 0.25)


def test_one_look_of_the_discriminator_serves_both_players(codes):
    """z learns what two looks would teach it, D is not moved by it, and D's own loss finds the same weights' slopes."""
    torch.manual_seed(0)
    model = FactorVAE(factor_gamma=7.0, dis_width=8, dis_layers=2).double()
    z, mu, logvar = (each.clone().requires_grad_() for each in codes)
    model.prior_loss(z, mu, logvar)[0].backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    again = z.detach().requires_grad_()
    logits = model.discriminator(again)
    (7 * (logits[:, 0] - logits[:, 1]).mean()).backward(inputs=[again])
    torch.testing.assert_close(z.grad, again.grad)
    torch.testing.assert_close(model.logits, logits)
    model.logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in model.discriminator.parameters())


def test_total_correlation_stays_in_float32_under_autocast(codes):
    with torch.autocast("cpu", torch.bfloat16):
        assert FactorVAE(dis_width=8).prior_loss(*(each.float() for each in codes))[1]["tc"].dtype == torch.float32
    codes = [each.float() for each in codes]
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = BetaTCVAE(beta=6.0).prior_loss(*(each.bfloat16() for each in codes))
    assert loss.dtype == terms["tc"].dtype == torch.float32
    rounded = [each.bfloat16().float() for each in codes]
    assert terms["tc"].item() == pytest.approx(BetaTCVAE().prior_loss(*rounded)[1]["tc"].item(), rel=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: vae(beta=4.0),
        vae_with_capacity,
        dip_vae,
        lambda: vae(DIPVAE),
        lambda: vae(BetaTCVAE, data_size=100),
        lambda: vae(BetaTCVAE, data_size=100, stratified=True),
    ],
    ids=["beta", "capacity", "dip ii", "dip i", "weighted", "stratified"],
)
def test_what_stands_beside_the_likelihood_is_of_float32_under_autocast(build):
    """What the encoder says is rounded once; KL, covariance and densities of it are not."""
    torch.manual_seed(0)
    model, x = build(), (small(4, 0).image + 1) / 2
    eps = torch.randn(16, 3)
    model.noise_like = lambda like: eps.to(like)
    with torch.autocast("cpu", torch.bfloat16):
        _, terms = model.loss(x)
        mu, logvar = model.encoder(x)
        z = model.draw(mu, logvar)
    assert mu.dtype == torch.bfloat16
    assert {term.dtype for term in terms.values()} == {torch.float32}
    _, exact = model.prior_loss(*(each.double() for each in (z, mu, logvar)))
    for name, term in exact.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=1e-5, abs=1e-5), name


def test_factor_vae_rounds_neither_kl_nor_what_its_discriminator_says_under_autocast(codes):
    torch.manual_seed(0)
    model = FactorVAE(dis_width=8, dis_layers=2)
    z, mu, logvar = (each.bfloat16() for each in codes)
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = model.prior_loss(z, mu, logvar)
        adversarial = permutation_discriminator(model.logits, model.discriminator(z.roll(1, 1)))
    assert model.logits.dtype == torch.bfloat16
    assert loss.dtype == adversarial.dtype == torch.float32
    assert terms["kl"].item() == pytest.approx(kl_normal_of_each(mu.double(), logvar.double()).sum().item(), rel=1e-6)
    assert terms["tc"].item() == pytest.approx(density_ratio(model.logits.double()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BetaVAE(convs=(8, 8)), "2 convs but 4 kernels"),
        (
            lambda: BetaVAE(image_shape=(1, 28, 28)),
            "4 convs takes images of 64 x 64, not 28 x 28: change model.image_shape",
        ),
        (lambda: BetaVAE(hidden=()), "one layer or more"),
        (lambda: BetaTCVAE(stratified=True), "needs model.data_size"),
        (lambda: BetaTCVAE(alpha=2.0), "only with model.stratified"),
        (lambda: FactorVAE().cut(torch.zeros(3, 1)), "an even number of images, not 3"),
    ],
)
def test_what_cannot_be_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_beta_trades_what_the_code_tells_for_the_picture():
    """A bar at one of 16 places, log 16 nats of them; a picture of none in particular costs 60 nats."""
    x = torch.zeros(16, 1, 16, 16)
    x[range(16), 0, :, range(16)] = 1.0
    found = {}
    for beta in (1.0, 8.0):
        torch.manual_seed(0)
        model = BetaVAE((1, 16, 16), 3, (), (), (64,), (64,), beta=beta)
        opt = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(300):
            loss, terms = model.loss(x)
            opt.zero_grad()
            torch.autograd.backward(loss)
            opt.step()
        found[beta] = terms["recon"].item(), terms["kl"].item()
    recon, kl = found[1.0]
    assert recon < 20
    assert kl > math.log(16)
    assert found[8.0][1] < kl - 1
    assert found[8.0][0] > recon + 1
