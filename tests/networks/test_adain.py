"""AdaIN against its formula, and the order of what it takes."""

import torch
from torch.nn.functional import instance_norm

from networks.adain import adain


def test_it_is_the_formula_with_all_gradients():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    style = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

    def plain():
        mean = x.mean((2, 3), keepdim=True)
        var = x.var((2, 3), correction=0, keepdim=True)
        return style[:, 4:, None, None] * (x - mean) / (var + 1e-5).sqrt() + style[:, :4, None, None]

    torch.testing.assert_close(adain(x, style), plain(), rtol=0, atol=1e-12)
    direction = torch.randn(x.shape, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad(y, (x, style), direction) for y in (adain(x, style), plain()))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_the_output_has_the_moments_that_were_asked_for_in_each_image():
    torch.manual_seed(0)
    x = 3 + 5 * torch.randn(2, 3, 16, 16)
    bias, weight = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[0.5, 1, 2], [-1, 3, 0]])
    y = adain(x, torch.cat((bias, weight), 1))
    torch.testing.assert_close(y.mean((2, 3)), bias, rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std((2, 3), correction=0), weight.abs(), rtol=1e-4, atol=1e-5)


def test_bias_zero_and_weight_one_are_instance_normalisation_in_any_memory_format():
    x = torch.randn(2, 3, 4, 5)
    neutral = torch.cat((torch.zeros(2, 3), torch.ones(2, 3)), 1)
    for y in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(adain(y, neutral), instance_norm(x), rtol=0, atol=1e-5)


def test_half_precision():
    x, style = torch.randn(2, 3, 8, 8), torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = adain(x.bfloat16(), style.bfloat16())
    torch.testing.assert_close(y.float(), adain(x, style), rtol=0.05, atol=0.1)
