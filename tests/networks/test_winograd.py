import pytest
import torch
from torch.nn.functional import conv2d

from networks import winograd
from networks.blocks import ResBlock
from networks.winograd import WideConv, prepared, weights_changed, weights_prepared_once


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return WideConv(200, 192).double()


@pytest.mark.parametrize("shape", [(1, 200, 4, 4), (2, 200, 10, 14)])
def test_same_numbers_as_the_plain_convolution(conv, shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    plain = conv(x)
    with weights_prepared_once():
        y = conv(x)
    assert "Winograd" in type(y.grad_fn).__name__
    assert "Winograd" not in type(plain.grad_fn).__name__
    torch.testing.assert_close(y, plain, rtol=0, atol=1e-13)
    up, inputs = torch.randn_like(y), (x, conv.weight, conv.bias)
    ours, theirs = (torch.autograd.grad(z, inputs, up) for z in (y, plain))
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-12)


def test_a_whole_block_in_float32_is_as_exact_as_the_plain_one():
    torch.manual_seed(0)
    block = ResBlock(192)
    x = torch.randn(2, 192, 16, 16)
    true = block.double()(x.double())
    block.float()
    plain = block(x)
    with weights_prepared_once():
        y = block(x)
    error, plain_error = ((z - true).abs().max() for z in (y, plain))
    assert 0 < error < 5 * plain_error + 1e-6


@pytest.mark.parametrize("shape", [(1, 200, 5, 6), (1, 200, 6, 5)])
def test_odd_sizes_are_computed_plainly(conv, shape):
    x = torch.randn(shape, dtype=torch.float64)
    with weights_prepared_once():
        torch.testing.assert_close(conv(x), conv2d(x, conv.weight, conv.bias), rtol=0, atol=1e-13)


def test_narrow_layers_are_computed_plainly():
    conv = WideConv(8, 8)
    with weights_prepared_once():
        y = conv(torch.randn(1, 8, 6, 6))
    assert "Winograd" not in type(y.grad_fn).__name__


def test_in_bfloat16_it_rounds_little_more_than_the_plain_one():
    torch.manual_seed(0)
    conv = WideConv(192, 192)
    x = torch.randn(1, 192, 18, 18)
    true = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        plain = conv(x)
        with weights_prepared_once():
            y = conv(x)
    assert y.dtype == plain.dtype == torch.bfloat16
    error, plain_error = ((z.float() - true).norm() / true.norm() for z in (y, plain))
    assert error < 3 * plain_error


def test_weights_are_prepared_once_and_again_after_a_step():
    calls = []

    def double(weight):
        calls.append(weight)
        return 2 * weight

    weight = torch.nn.Parameter(torch.ones(2))
    opt = torch.optim.Adam([weight], lr=0.5, fused=True)
    with weights_prepared_once():
        loss = (prepared(weight, double, torch.float32) * prepared(weight, double, torch.float32)).sum()
        assert len(calls) == 1
        loss.backward()
        assert weight.grad.tolist() == [8.0, 8.0]  # (2 w)^2
        opt.step()
        weights_changed([weight])
        torch.testing.assert_close(prepared(weight, double, torch.float32), 2 * weight)
        assert len(calls) == 2
        with torch.no_grad():
            assert not prepared(weight, double, torch.float32).requires_grad
        assert prepared(weight, double, torch.float32).requires_grad
    prepared(weight, double, torch.float32)
    prepared(weight, double, torch.float32)
    assert len(calls) == 5
    assert winograd._prepared is None


def test_what_was_prepared_is_forgotten_at_the_end_and_after_an_error(conv):
    with pytest.raises(RuntimeError, match="size"), weights_prepared_once():
        conv(torch.randn(1, 200, 4, 4, dtype=torch.float64)[:, 1:].expand(2, 199, 4, 4))
    assert winograd._prepared is None


def test_two_passes_through_one_preparation(conv):
    """Sums of gradients, and a second backward of another graph, both within."""
    x = torch.randn(2, 1, 200, 4, 4, dtype=torch.float64)
    (sum(conv(each).square().sum() for each in x)).backward()
    true = conv.weight.grad.clone()
    conv.zero_grad()
    with weights_prepared_once():
        for each in x:
            conv(each).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, true)
