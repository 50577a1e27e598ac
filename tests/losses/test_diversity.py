"""Mode seeking: values and gradients by hand, symmetry, where batches are averaged, ranks as one batch."""

import pytest
import torch

from losses.diversity import mode_seeking, mode_seeking_ratio
from tests.ddp import run_ddp


def draws(n: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    shapes = (n, 3, 4, 5), (n, 3, 4, 5), (n, 8), (n, 8)
    return tuple(torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("offset", [0.5, 0.1, 1e-3])
def test_a_uniform_offset(offset):
    x, z = torch.zeros(1, 3, 4, 4), torch.zeros(1, 8)
    assert mode_seeking(x, x + offset, z, z + 0.84).item() == pytest.approx(1 / (offset / 0.84 + 1e-5))
    assert mode_seeking_ratio(x, x + offset, z, z + 0.84).item() == pytest.approx(-offset / 0.84)


def test_equal_images_give_one_over_eps_and_no_gradient():
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    z = torch.randn(2, 8)
    loss = mode_seeking(x, x.detach(), z, z + 1)
    loss.backward()
    assert loss.item() == pytest.approx(1e5)
    assert x.grad.abs().max() == 0


def test_gradient_by_hand():
    x_1, x_2, z_1, z_2 = draws()
    x_1, x_2 = x_1.requires_grad_(), x_2.requires_grad_()
    mode_seeking(x_1, x_2, z_1, z_2).backward()
    d_z = (z_2 - z_1).abs().mean()
    r = (x_2 - x_1).detach().abs().mean() / d_z
    expected = -(x_2 - x_1).detach().sign() / (x_1.numel() * d_z * (r + 1e-5) ** 2)
    torch.testing.assert_close(x_2.grad, expected)
    torch.testing.assert_close(x_1.grad, -expected)


@pytest.mark.parametrize("loss", [mode_seeking, mode_seeking_ratio])
def test_gradcheck_and_symmetry(loss):
    x_1, x_2, z_1, z_2 = draws()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, z_1, z_2), (x_1.requires_grad_(), x_2.requires_grad_()))
    torch.testing.assert_close(loss(x_1, x_2, z_1, z_2), loss(x_2, x_1, z_2, z_1))


def test_the_batch_is_averaged_before_the_ratio_is_taken():
    x_1, x_2, z_1, z_2 = draws()
    each = torch.stack([mode_seeking(*(t[n : n + 1] for t in (x_1, x_2, z_1, z_2))) for n in range(3)]).mean()
    whole = mode_seeking(x_1, x_2, z_1, z_2)
    assert abs(each - whole) > 1e-3
    torch.testing.assert_close(whole, 1 / ((x_2 - x_1).abs().mean() / (z_2 - z_1).abs().mean() + 1e-5))


def test_float32_under_autocast():
    x_1, x_2, z_1, z_2 = (t.float() for t in draws())
    with torch.autocast("cpu", torch.bfloat16):
        half = mode_seeking(x_1.bfloat16(), x_2.bfloat16(), z_1, z_2)
        wide = mode_seeking(x_1, x_2, z_1, z_2)
    assert half.dtype == wide.dtype == torch.float32
    torch.testing.assert_close(wide, mode_seeking(x_1, x_2, z_1, z_2), rtol=0, atol=0)
    torch.testing.assert_close(half, wide, rtol=1e-2, atol=0)


def on_a_rank(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.distributed.init_process_group("gloo")
    x_1, x_2, z_1, z_2 = (t[rank::world] for t in draws(4))
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = mode_seeking(scale * x_1, x_2, z_1, z_2)
    loss.backward()
    torch.distributed.destroy_process_group()
    return loss.detach(), scale.grad


@pytest.mark.ddp
def test_two_ranks_are_one_batch():
    x_1, x_2, z_1, z_2 = draws(4)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = mode_seeking(scale * x_1, x_2, z_1, z_2)
    loss.backward()
    (loss_0, grad_0), (loss_1, grad_1) = run_ddp(on_a_rank)
    torch.testing.assert_close(loss_0, loss.detach())
    torch.testing.assert_close(loss_1, loss.detach())
    torch.testing.assert_close((grad_0 + grad_1) / 2, scale.grad)  # as DDP averages them
