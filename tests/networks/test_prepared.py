import pytest
import torch

from networks import prepared as home
from networks.blocks import UpsampleConv
from networks.prepared import prepared, weights_changed, weights_prepared_once


@pytest.fixture
def calls():
    return []


@pytest.fixture
def double(calls):
    def prepare(weight):
        calls.append(weight)
        return 2 * weight

    return prepare


def test_weights_are_prepared_once_and_again_after_a_step(calls, double):
    weight = torch.nn.Parameter(torch.ones(2))
    opt = torch.optim.Adam([weight], lr=0.5, fused=True)
    with weights_prepared_once():
        loss = (prepared(weight, double) * prepared(weight, double)).sum()
        assert len(calls) == 1
        loss.backward()
        assert weight.grad.tolist() == [8.0, 8.0]  # (2 w)^2
        opt.step()
        weights_changed([weight])
        torch.testing.assert_close(prepared(weight, double), 2 * weight)
        assert len(calls) == 2
        with torch.no_grad():
            assert not prepared(weight, double).requires_grad
        assert prepared(weight, double).requires_grad
    prepared(weight, double)
    prepared(weight, double)
    assert len(calls) == 5


def test_other_weights_stay_prepared(calls, double):
    a, b = torch.ones(1), torch.ones(1)
    with weights_prepared_once():
        for weight in (a, b):
            prepared(weight, double)
        weights_changed([b])
        for weight in (a, b):
            prepared(weight, double)
    assert [id(weight) for weight in calls] == [id(a), id(b), id(b)]


def test_what_was_prepared_is_forgotten_at_the_end_and_after_an_error():
    conv = UpsampleConv(3, 2)
    with pytest.raises(RuntimeError, match="channels"), weights_prepared_once():
        conv(torch.randn(1, 4, 6, 6))
    assert home._prepared is None


def test_two_passes_through_one_preparation():
    """Gradients add up over uses, in one graph and in two."""
    torch.manual_seed(0)
    conv, x = UpsampleConv(3, 2).double(), torch.randn(2, 1, 3, 6, 6, dtype=torch.float64)
    sum(conv(each).square().sum() for each in x).backward()
    true = conv.weight.grad.clone()
    conv.zero_grad()
    with weights_prepared_once():
        for each in x:
            conv(each).square().sum().backward(retain_graph=True)
    torch.testing.assert_close(conv.weight.grad, true)
