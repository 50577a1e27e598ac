"""Adversarial objectives: values by hand, where they are least, and how scales and sizes enter."""

import math
from functools import partial

import pytest
import torch

from losses import adversarial

DISCRIMINATORS = [adversarial.lsgan_discriminator, adversarial.log_discriminator]
GENERATORS = [adversarial.lsgan_generator, adversarial.log_generator, adversarial.minimax_generator]


def scores(*values):
    return [torch.full((2, 1, 3, 3), value, dtype=torch.float64, requires_grad=True) for value in values]


def test_values_by_hand():
    assert adversarial.lsgan_discriminator(scores(3.0), scores(0.5)).item() == pytest.approx(4 + 0.25)
    assert adversarial.lsgan_generator(scores(0.5, 3.0)).item() == pytest.approx(0.25 + 4)
    assert adversarial.log_discriminator(scores(0.0), scores(0.0)).item() == pytest.approx(2 * math.log(2))
    p = 1 / (1 + math.exp(-0.7))
    assert adversarial.log_discriminator(scores(0.7), scores(0.7)).item() == pytest.approx(
        -math.log(p) - math.log(1 - p)
    )
    assert adversarial.log_generator(scores(0.7, 0.0)).item() == pytest.approx(-math.log(p) + math.log(2))


def test_log_losses_do_not_overflow():
    extreme = adversarial.log_discriminator(scores(-1e4), scores(1e4)), adversarial.log_generator(scores(-1e4))
    assert [loss.item() for loss in extreme] == [2e4, 1e4]


@pytest.mark.parametrize("loss", DISCRIMINATORS)
def test_discriminators_sum_over_scales_and_average_within(loss):
    one, other = loss(scores(0.3), scores(-0.2)), loss(scores(1.3), scores(0.4))
    torch.testing.assert_close(loss(scores(0.3, 1.3), scores(-0.2, 0.4)), one + other)
    bigger = [torch.full((1, 1, 9, 5), 0.3, dtype=torch.float64)], [torch.full((4, 1, 2, 2), -0.2, dtype=torch.float64)]
    torch.testing.assert_close(loss(*bigger), one.detach())


@pytest.mark.parametrize("loss", DISCRIMINATORS)
def test_discriminators_want_real_up_and_fake_down(loss):
    real, fake = scores(0.3), scores(0.3)
    loss(real, fake).backward()
    assert (real[0].grad < 0).all()
    assert (fake[0].grad > 0).all()


@pytest.mark.parametrize("loss", GENERATORS)
def test_generators_want_fake_up(loss):
    fake = scores(0.3)
    loss(fake).backward()
    assert (fake[0].grad < 0).all()


@pytest.mark.parametrize("loss", DISCRIMINATORS)
def test_unequal_numbers_of_scales_are_refused(loss):
    with pytest.raises(ValueError, match="longer|shorter"):
        loss(scores(0.0), scores(0.0, 0.0))


@pytest.mark.parametrize("loss", DISCRIMINATORS + GENERATORS)
def test_gradients(loss):
    maps = [torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    if loss in DISCRIMINATORS:
        assert torch.autograd.gradcheck(lambda *x: loss(x[:2], x[2:]), maps)
    else:
        assert torch.autograd.gradcheck(lambda *x: loss(x), maps)


def test_confusion_is_cross_entropy_with_a_half():
    logits = torch.randn(4, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    half = torch.full_like(logits, 0.5)
    expected = torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits), half)
    torch.testing.assert_close(adversarial.log_confusion(logits), expected)
    rest = torch.zeros(3, requires_grad=True)
    loss = adversarial.log_confusion(rest)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert rest.grad.abs().max() == 0


def test_wasserstein_values_by_hand():
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [-1.0], [2.0]])
    assert adversarial.wasserstein_critic(real, fake).item() == pytest.approx(0.5 - 2)
    assert adversarial.wasserstein_generator(fake).item() == pytest.approx(-0.5)


def test_a_slope_is_each_rows_own():
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    found = adversarial.slope((x.square().flatten(1).sum(1) / 2)[:, None], x)
    torch.testing.assert_close(found, x)
    assert found.requires_grad


def test_penalties_of_a_linear_critic_by_hand():
    """Slope 3 in one channel and 4 in the other at every one of 6 pixels: 5 a pixel, 5 sqrt(6) an image."""
    slopes = torch.stack((torch.full((2, 3), 3.0), torch.full((2, 3), 4.0))).expand(7, 2, 2, 3)
    assert adversarial.pixel_gradient_penalty(slopes).item() == pytest.approx(16)
    assert adversarial.gradient_penalty(slopes).item() == pytest.approx((5 * math.sqrt(6) - 1) ** 2)
    one = slopes.new_zeros(2, 2, 2, 3)
    one[0, 0, 0, 0] = 1
    assert adversarial.gradient_penalty(one).item() == pytest.approx(0.5)
    assert adversarial.pixel_gradient_penalty(one).item() == pytest.approx(11 / 12)


@pytest.mark.parametrize(
    "penalty",
    [
        adversarial.gradient_penalty,
        partial(adversarial.gradient_penalty, target=3.0),
        adversarial.pixel_gradient_penalty,
        adversarial.r1_penalty,
    ],
)
def test_gradients_of_penalties_reach_the_critic(penalty):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    first = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def loss(first):
        scores = torch.einsum("oc,nchw->nohw", first, x).tanh().sum((1, 2, 3))
        return penalty(adversarial.slope(scores, x))

    assert torch.autograd.gradcheck(loss, first)


def in_floats(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=6e-7)


@pytest.mark.parametrize(
    ("discriminator", "generator", "of_d", "of_g", "gradient"),
    [
        ("log_discriminator", "minimax_generator", 1.231427, -0.511332, [-0.311230, -0.023713]),
        ("log_discriminator", "log_generator", 1.231427, 1.761332, [-0.188770, -0.476287]),
        ("lsgan_discriminator", "lsgan_generator", 7.125, 8.125, [-0.5, -4.0]),
        ("wasserstein_critic", "wasserstein_generator", -1.75, 1.25, [-0.5, -0.5]),
    ],
)
def test_both_players_and_what_moves_the_fakes(discriminator, generator, of_d, of_g, gradient):
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0], requires_grad=True)
    d, g = getattr(adversarial, discriminator), getattr(adversarial, generator)
    scales = (lambda x: x) if discriminator == "wasserstein_critic" else (lambda x: [x])
    in_floats(d(scales(real), scales(fake)), of_d)
    loss = g(scales(fake))
    in_floats(loss, of_g)
    in_floats(torch.autograd.grad(loss, fake)[0], gradient)


def test_the_game_itself_teaches_little_where_the_discriminator_is_sure():
    fake = torch.tensor([-5.0], requires_grad=True)
    (little,) = torch.autograd.grad(adversarial.minimax_generator([fake]), fake)
    (much,) = torch.autograd.grad(adversarial.log_generator([fake]), fake)
    in_floats(little, [-0.0066929])
    in_floats(much, [-0.9933071])


def test_the_best_discriminator_and_what_the_game_is_then_worth():
    """p = (1/2, 1/4, 1/4, 0) against q uniform: D = p / (p + q), V = 2 JSD(p, q) - log 4 (Goodfellow et al. 2014)."""
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        loss = adversarial.log_discriminator([logits[[0, 0, 1, 2]]], [logits])
        logits = (logits - 8 * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    best = torch.tensor([2 / 3, 1 / 2, 1 / 2, 0], dtype=torch.float64)
    torch.testing.assert_close(logits.sigmoid(), best, rtol=0, atol=1e-3)
    assert -loss.item() == pytest.approx(2 * 0.1078808 - math.log(4), abs=1e-3)


def dirac(generator, critic, gamma=0.0, steps=500):
    """Distance from the equilibrium of the Dirac-GAN: reality is 0, G makes theta, D scores psi x; both start at 1."""
    theta, psi = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    for _ in range(steps):
        real = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        scores = psi * real
        loss = critic(scores, (psi * theta).view(1))
        if gamma:
            loss = loss + gamma * adversarial.r1_penalty(adversarial.slope(scores, real)[:, None])
        psi = (psi - 0.1 * torch.autograd.grad(loss, psi)[0]).detach().requires_grad_()
        loss = generator((psi * theta).view(1))
        theta = (theta - 0.1 * torch.autograd.grad(loss, theta)[0]).detach().requires_grad_()
    return math.hypot(theta.item(), psi.item())


def test_who_finds_the_equilibrium_of_the_dirac_gan():
    """Mescheder et al. 2018, section 3: without a penalty the players circle, with R1 they arrive."""

    def log_d(real, fake):
        return adversarial.log_discriminator([real], [fake])

    def log_g(fake):
        return adversarial.log_generator([fake])

    def minimax(fake):
        return adversarial.minimax_generator([fake])

    critic, generator = adversarial.wasserstein_critic, adversarial.wasserstein_generator
    assert dirac(minimax, log_d) == pytest.approx(1.40, abs=0.05)
    assert dirac(generator, critic) == pytest.approx(1.41, abs=0.05)
    assert dirac(log_g, log_d) == pytest.approx(0.39, abs=0.05)  # on its way, slowly
    assert dirac(log_g, log_d, gamma=1.0) < 1e-4
    assert dirac(generator, critic, gamma=1.0) < 1e-4


def test_a_linear_critic_has_the_same_penalties_everywhere():
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    slopes = adversarial.slope(x @ torch.tensor([3.0, 4.0], dtype=torch.float64), x)
    assert adversarial.gradient_penalty(slopes).item() == pytest.approx(16)
    assert adversarial.gradient_penalty(slopes, target=10.0).item() == pytest.approx(0.25)
    assert 10 * adversarial.r1_penalty(slopes).item() == pytest.approx(125)


def test_r1_sums_over_an_image_and_averages_over_images():
    slopes = torch.full((4, 3, 2, 2), 2.0)
    assert adversarial.r1_penalty(slopes).item() == pytest.approx(4 * 12 / 2)
    slopes[1:] = 0
    assert adversarial.r1_penalty(slopes).item() == pytest.approx(4 * 12 / 2 / 4)


def test_drift_pulls_scores_towards_zero():
    real = torch.tensor([[3.0], [-1.0]], requires_grad=True)
    loss = adversarial.drift(real)
    assert loss.item() == pytest.approx(5)
    torch.testing.assert_close(torch.autograd.grad(loss, real)[0], real.detach())


@pytest.mark.parametrize("penalty", [adversarial.gradient_penalty, adversarial.r1_penalty])
def test_a_flat_critic_has_a_finite_penalty_and_gradient(penalty):
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = penalty(adversarial.slope(x @ weight, x))
    assert loss.isfinite()
    assert torch.equal(torch.autograd.grad(loss, weight)[0], torch.zeros_like(weight))
