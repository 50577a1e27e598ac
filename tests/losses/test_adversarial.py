"""Adversarial objectives: values by hand, where they are least, and how scales and sizes enter."""

import math

import pytest
import torch

from losses import adversarial

DISCRIMINATORS = [adversarial.lsgan_discriminator, adversarial.log_discriminator]
GENERATORS = [adversarial.lsgan_generator, adversarial.log_generator]


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


@pytest.mark.parametrize("penalty", [adversarial.gradient_penalty, adversarial.pixel_gradient_penalty])
def test_gradients_of_penalties_reach_the_critic(penalty):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    first = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def loss(first):
        scores = torch.einsum("oc,nchw->nohw", first, x).tanh().sum((1, 2, 3))
        return penalty(adversarial.slope(scores, x))

    assert torch.autograd.gradcheck(loss, first)
