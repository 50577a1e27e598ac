"""Layers with weights g v / |v|: as PyTorch's, with taps that are not there, and of codes that are looked up."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, one_hot, pad
from torch.nn.utils.parametrizations import weight_norm

from networks.pixel_snail_layers import CausalConv, CodeConv, WeightNormConv, WeightNormLinear


def as_plain(layer, plain: nn.Module) -> nn.Module:
    """PyTorch's own layer with the same numbers."""
    plain = weight_norm(plain.double())
    plain.load_state_dict({"weight_g": layer.weight_g, "weight_v": layer.weight_v, "bias": layer.bias})
    return plain


def test_weights_are_normalised_as_pytorch_does():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    conv, dense = WeightNormConv(3, 4, (3, 3)).double(), WeightNormLinear(3, 4).double()
    for layer, plain, y in (
        (conv, nn.Conv2d(3, 4, 3, padding=1), x),
        (dense, nn.Linear(3, 4), x.movedim(1, -1)),
    ):
        layer.weight_g.data.uniform_(0.5, 2)
        torch.testing.assert_close(layer(y), as_plain(layer, plain)(y))


def test_a_causal_convolution_is_one_whose_last_taps_are_zero():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    conv = CausalConv(3, 4, 5).double()
    conv.weight_g.data.uniform_(0.5, 2)
    found = conv(x)
    with torch.no_grad():
        conv.weight_v[:, :, -1, 2:] = 0  # as the release does before each use
    torch.testing.assert_close(found, as_plain(conv, nn.Conv2d(3, 4, 5))(pad(x, (2, 2, 4, 0))))


def test_a_fresh_layer_has_the_weights_of_pytorch_and_the_names_of_the_release():
    torch.manual_seed(0)
    conv = WeightNormConv(3, 4, (2, 5))
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, (2, 5))
    torch.testing.assert_close(conv.weight(), plain.weight)
    assert torch.equal(conv.bias, plain.bias)
    assert {name: tuple(p.shape) for name, p in conv.named_parameters()} == {
        "bias": (4,),
        "weight_g": (4, 1, 1, 1),
        "weight_v": (4, 3, 2, 5),
    }
    assert list(WeightNormConv(3, 4, bias=False).state_dict()) == ["weight_g", "weight_v"]
    assert WeightNormLinear(3, 4).weight_g.shape == (4, 1)
    # The norm of all taps is g's first value, of which a masked filter makes its own length.
    causal = CausalConv(3, 4, 3)
    torch.testing.assert_close(causal.weight_g, causal.weight_v.flatten(1).norm(dim=1).view(4, 1, 1, 1))
    torch.testing.assert_close(causal.weight().flatten(1).norm(dim=1), causal.weight_g.flatten())


def test_masked_taps_give_and_get_nothing_whatever_they_hold():
    torch.manual_seed(0)
    conv, x = CausalConv(3, 4, 5), torch.randn(1, 3, 6, 6)
    before = conv(x)
    with torch.no_grad():
        conv.weight_v[:, :, -1, 2:] = float("nan")
    after = conv(x)
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert conv.weight_v.grad.isfinite().all()
    assert not conv.weight_v.grad[:, :, -1, 2:].any()
    assert conv.weight_v.grad[:, :, -1, :2].all()
    assert conv.weight_v.grad[:, :, :-1].all()
    assert not conv.weight()[:, :, -1, 2:].any()


@pytest.mark.parametrize("kernel", [(2, 5), (3, 2), (1, 3), (2, 1), (3, 3), (1, 1)])
def test_looking_codes_up_is_convolving_them_one_hot(kernel):
    torch.manual_seed(0)
    conv = CodeConv(7, 4, kernel).double()
    conv.weight_g.data.uniform_(0.5, 2)
    codes = torch.randint(7, (2, 5, 6))
    up, left = kernel[0] - 1, kernel[1] - 1
    found = conv(pad(codes, (left, 0, up, 0), value=7))
    dense = pad(one_hot(codes, 7).permute(0, 3, 1, 2).double(), (left, 0, up, 0))
    wanted = conv2d(dense, conv.weight(), conv.bias)
    assert found.shape == (2, 4, 5, 6)
    torch.testing.assert_close(found, wanted)
    direction, mine = torch.randn_like(found), list(conv.parameters())
    for a, b in zip(
        torch.autograd.grad(found, mine, direction), torch.autograd.grad(wanted, mine, direction), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_number_of_no_code_is_not_looked_up_elsewhere():
    conv = CodeConv(7, 4, (1, 2))
    for stranger in (-1, 8):
        with pytest.raises(RuntimeError, match=r"(?i)index"):
            conv(torch.full((1, 2, 2), stranger))
