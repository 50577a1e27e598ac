import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, instance_norm

from networks.style import (
    Blur,
    EqualizedConv2d,
    EqualizedLinear,
    doubled,
    faded,
    pixel_norm,
    shifted_sum,
    styled,
    with_deviation,
)


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_an_equalised_layer_starts_as_he_would_and_moves_by_its_rate(rate):
    layer = EqualizedLinear(400, 300, rate=rate)
    x = torch.randn(1000, 400)
    y = layer(x)
    assert float(y.std()) == pytest.approx(2**0.5, rel=0.02)
    assert float(layer.weight.std()) == pytest.approx(1 / rate, rel=0.02)
    with torch.no_grad():
        layer.bias += 1
        layer.weight += 1
    expected = y + rate + rate * (2 / 400) ** 0.5 * x.sum(1, keepdim=True)
    torch.testing.assert_close(layer(x), expected)


def test_fan_in_of_a_convolution_counts_its_kernel():
    layer = EqualizedConv2d(8, 5, 3, gain=1.0)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(layer(x), conv2d(x, layer.weight / 72**0.5, layer.bias, padding=1))
    assert float(layer.weight.std()) == pytest.approx(1, rel=0.1)
    assert not layer.bias.any()


def test_a_convolution_of_a_doubled_image_in_one():
    layer = EqualizedConv2d(3, 4, 3)
    layer.bias.data.normal_()
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(layer.enlarged(x), layer(doubled(x)), rtol=1e-12, atol=1e-12)


def test_a_convolution_and_half_the_size_in_one():
    layer = EqualizedConv2d(3, 4, 3)
    layer.bias.data.normal_()
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(layer.halved(x), avg_pool2d(layer(x), 2), rtol=1e-12, atol=1e-12)


def test_a_shifted_sum_is_the_kernel_and_a_box():
    kernel = torch.randn(3, 3)
    expected = torch.zeros(4, 4)
    for down in (0, 1):
        for right in (0, 1):
            expected[down : down + 3, right : right + 3] += kernel
    torch.testing.assert_close(shifted_sum(kernel), expected)


def test_the_blur_is_a_depthwise_convolution_and_can_be_differentiated_twice():
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = (torch.outer(line, line) / 16).expand(3, 1, 3, 3)
    torch.testing.assert_close(Blur(3)(x), conv2d(x, kernel, padding=1, groups=3))
    assert torch.autograd.gradgradcheck(lambda x: Blur(3)(x).square(), x)


def test_checkpoints_do_not_hold_the_filter():
    assert not Blur(2).state_dict()


def test_the_blur_keeps_its_type_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert Blur(2)(torch.ones(1, 2, 4, 4, dtype=torch.float32)).dtype == torch.float32


def test_pixel_norm_makes_every_pixel_of_unit_size():
    x = 7 * torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(pixel_norm(x).square().mean(1), torch.ones(2, 3, 3), rtol=1e-6, atol=0)
    assert pixel_norm(torch.zeros(1, 4)).isfinite().all()


def test_a_style_scales_from_one_and_shifts():
    x, style = torch.randn(3, 4, 5, 5), torch.randn(3, 8)
    weight, bias = (part[..., None, None] for part in style.chunk(2, 1))
    torch.testing.assert_close(styled(x, style, 1e-8), instance_norm(x, eps=1e-8) * (1 + weight) + bias)
    torch.testing.assert_close(styled(x, torch.zeros(3, 8), 1e-8), instance_norm(x, eps=1e-8))


@pytest.mark.parametrize(("n", "members"), [(8, 4), (4, 4), (6, 6), (1, 1)])
def test_the_deviation_of_each_group(n, members):
    x = torch.randn(n, 3, 2, 2)
    y = with_deviation(x)
    torch.testing.assert_close(y[:, :3], x)
    for i in range(n):
        mates = [j for j in range(n) if j % (n // members) == i % (n // members)]
        assert len(mates) == members
        expected = (x[mates].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[i, 3], expected.expand(2, 2))


def test_equal_images_deviate_by_nothing_and_have_a_gradient():
    x = torch.ones(4, 2, 2, 2, requires_grad=True)
    y = with_deviation(x)
    assert float(y[:, 2].max()) == pytest.approx(1e-4)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_details_of_a_real_image_fade_in():
    x = torch.randn(2, 3, 4, 6)
    assert faded(x, 1.0) is x
    coarse = faded(x, 0.0)
    assert torch.equal(coarse, doubled(avg_pool2d(x, 2)))
    torch.testing.assert_close(faded(x, 0.3), 0.7 * coarse + 0.3 * x)


@pytest.mark.parametrize("call", [pixel_norm, with_deviation, lambda x: styled(x, x[:, :, 0, 0].repeat(1, 2), 1e-8)])
def test_statistics_are_in_float32_whatever_the_input(call):
    """Images that hardly differ: in half precision their variance would be nothing but rounding."""
    x = (1 + torch.randn(4, 16, 4, 4) / 50).bfloat16()
    y = call(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, call(x.float()).bfloat16())
