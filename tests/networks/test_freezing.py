import pytest
import torch
from torch import nn

from networks.freezing import frozen


def test_inputs_learn_and_weights_do_not() -> None:
    net, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(net):
        y = net(x)
    assert all(p.requires_grad for p in net.parameters()), "only what is computed inside is frozen"
    y.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_weights_learn_again_after_an_error() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(KeyError), frozen(net):
        raise KeyError
    assert all(p.requires_grad for p in net.parameters())


def test_weights_that_did_not_learn_before_do_not_learn_afterwards() -> None:
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    with frozen(net):
        assert not net.weight.requires_grad
    assert net.weight.requires_grad
    assert not net.bias.requires_grad
