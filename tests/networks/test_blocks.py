"""Every layer against its plain form: in float64, with gradients, at sizes that are odd or as small as allowed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import blocks
from networks.blocks import FewChannelsConv, FewPositionsConv, LayerNorm, ResBlock, UpsampleConv


def same(fast, plain, *tensors):
    """Values and all gradients agree; the weights of the outputs in the scalar are arbitrary."""
    y, expected = fast(), plain()
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    direction = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(5))
    for mine, theirs in zip(
        torch.autograd.grad(y, tensors, direction), torch.autograd.grad(expected, tensors, direction), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def image(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def test_instance_norm_is_torchs():
    x = image(2, 3, 4, 5)
    same(lambda: blocks.instance_norm(x), lambda: F.instance_norm(x), x)


def test_reflect_keeps_half_precision_under_autocast():
    x = torch.randn(1, 2, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert blocks.reflect(x.bfloat16(), 1).dtype == torch.bfloat16
    torch.testing.assert_close(blocks.reflect(x, 1), nn.ReflectionPad2d(1)(x))


def convolved(conv, x):
    return F.conv2d(x, conv.weight, conv.bias, conv.stride)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 3, 5, 7), (3, 3, 4, 9), (1, 3, 40, 42)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_few_positions_conv_is_the_convolution(shape, stride):
    conv, x = FewPositionsConv(3, 5, 4, stride).double(), image(*shape)
    same(lambda: conv(x), lambda: convolved(conv, x), x, conv.weight, conv.bias)


def test_few_positions_conv_can_be_differentiated_twice():
    conv, x = FewPositionsConv(2, 3, 3).double(), image(2, 2, 4, 5)

    def slope(y):
        return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]

    same(lambda: slope(conv(x)), lambda: slope(convolved(conv, x)), x, conv.weight)


def test_few_positions_conv_keeps_its_weights_in_float32_under_autocast():
    conv, x = FewPositionsConv(8, 4, 3), torch.randn(1, 8, 5, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    torch.testing.assert_close(y, convolved(conv, x.float()))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 10, 8), (2, 4, 7, 8), (2, 4, 9, 11)])
@pytest.mark.parametrize("kernel", [3, 4, 7])
def test_few_channels_conv_is_the_convolution(shape, kernel):
    conv, x = FewChannelsConv(4, 3, kernel).double(), image(*shape)
    same(lambda: conv(x), lambda: convolved(conv, x), x, conv.weight, conv.bias)


def naive_layer_norm(x, norm):
    """The definition, image by image."""
    out = []
    for one in x:
        y = (one - one.mean()) / (one.std(unbiased=True) + norm.eps)
        out.append(y * norm.gamma[:, None, None] + norm.beta[:, None, None])
    return torch.stack(out)


@pytest.mark.parametrize("scale", [1.0, 1e-4])  # eps, 1e-5, outside the root is a tenth of the small one
def test_layer_norm_is_its_definition(scale):
    norm = LayerNorm(3).double()
    nn.init.normal_(norm.beta)
    x = (scale * torch.randn(2, 3, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    direction = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mine = torch.autograd.grad(norm(x), (x, norm.gamma, norm.beta), direction)
    theirs = torch.autograd.grad(naive_layer_norm(x, norm), (x, norm.gamma, norm.beta), direction)
    torch.testing.assert_close(norm(x), naive_layer_norm(x, norm), rtol=0, atol=1e-11)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_layer_norm_of_a_constant_image_has_finite_gradients():
    norm = LayerNorm(2)
    x = torch.full((1, 2, 4, 4), 0.5, requires_grad=True)
    (norm(x) * torch.randn(1, 2, 4, 4)).sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(norm(x), torch.zeros(1, 2, 4, 4))


def test_layer_norm_measures_half_precision_in_float32():
    norm, x = LayerNorm(4), torch.randn(1, 4, 64, 64) + 8
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), naive_layer_norm(x.bfloat16().float(), norm), rtol=8e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (2, 4, 6, 2)])
def test_res_block_is_its_formula_and_leaves_its_input(shape):
    block, x = ResBlock(4).double(), image(*shape)
    before = x.detach().clone()

    def padded(h, conv):
        return conv(F.pad(h, (1, 1, 1, 1), mode="reflect"))

    def plain():
        h = F.instance_norm(padded(x, block.conv1)).relu()
        return x + F.instance_norm(padded(h, block.conv2))

    same(lambda: block(x), plain, x, block.conv1.weight, block.conv2.weight)
    assert torch.equal(x, before)


def upsample_first(conv, x):
    return F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (2,) * 4, mode="reflect"), conv.weight, conv.bias)


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (1, 2, 2, 5), (3, 2, 3, 2), (2, 2, 5, 7), (2, 2, 8, 8)])
def test_upsample_conv_is_upsampling_padding_and_convolution(shape):
    conv, x = UpsampleConv(2, 3).double(), image(*shape)
    same(lambda: conv(x), lambda: upsample_first(conv, x), x, conv.weight, conv.bias)


def test_upsample_conv_survives_being_copied_and_keeps_only_a_convolutions_state():
    conv, x = UpsampleConv(2, 3), torch.randn(1, 2, 3, 3)
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert conv.weight.shape == (3, 2, 5, 5)
    twin = copy.deepcopy(conv)
    nn.init.zeros_(twin.weight)
    torch.testing.assert_close(conv(x), upsample_first(conv, x), rtol=0, atol=1e-5)
    torch.testing.assert_close(twin(x), twin.bias.view(1, 3, 1, 1).expand(1, 3, 6, 6))


def test_upsample_conv_is_as_good_in_half_precision_as_the_plain_form():
    conv, x = UpsampleConv(64, 16), torch.randn(2, 64, 8, 8)
    exact = upsample_first(conv, x)
    with torch.autocast("cpu", torch.bfloat16):
        error, plain_error = ((f(x) - exact).square().mean().sqrt() for f in (conv, lambda x: upsample_first(conv, x)))
    assert error < 2 * plain_error
