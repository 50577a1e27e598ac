"""Initialisations: the deviations that the papers give, biases zero, other parameters untouched."""

import math

import pytest
import torch
from torch import nn

from networks.blocks import LayerNorm
from networks.init import glorot_, he_uniform_, kaiming_, normal_


def net():
    return nn.Sequential(nn.Conv2d(32, 64, 5), LayerNorm(64), nn.Linear(300, 200), nn.Conv2d(8, 8, 1, bias=False))


def test_kaiming_has_variance_two_over_fan_in():
    torch.manual_seed(0)
    conv, _, linear, _ = layers = net()
    kaiming_(layers)
    assert math.isclose(conv.weight.std().item(), (2 / (32 * 25)) ** 0.5, rel_tol=0.02)
    assert math.isclose(linear.weight.std().item(), (2 / 300) ** 0.5, rel_tol=0.02)
    assert conv.bias.abs().max() == linear.bias.abs().max() == 0


def test_normal_has_the_given_deviation():
    torch.manual_seed(0)
    conv, _, linear, _ = layers = net()
    normal_(layers, 0.02)
    assert math.isclose(conv.weight.std().item(), 0.02, rel_tol=0.02)
    assert math.isclose(linear.weight.std().item(), 0.02, rel_tol=0.02)
    assert conv.bias.abs().max() == linear.bias.abs().max() == 0


def test_scales_of_normalisations_stay():
    layers = net()
    before = layers[1].gamma.clone()
    kaiming_(layers)
    normal_(layers)
    assert torch.equal(layers[1].gamma, before)
    assert 0 <= before.min() < before.max() <= 1


def test_glorots_and_hes_uniform_weights_have_their_variance():
    layer = nn.Linear(300, 200)
    bias = layer.bias.clone()
    he_uniform_(layer)
    assert layer.weight.var().item() == pytest.approx(2 / 300, rel=0.05)
    assert layer.weight.abs().max() <= (6 / 300) ** 0.5
    assert torch.equal(layer.bias, bias)
    glorot_(layer)
    assert layer.weight.var().item() == pytest.approx(2 / 500, rel=0.05)
    assert layer.bias.abs().max() == 0
