import torch
from torch import nn

from networks.ema import follow_, frozen_copy


def test_the_average_is_that_of_the_formula():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average, expected = frozen_copy(module), 0.0
    for k, value in enumerate((1.0, 2.0, 4.0)):
        nn.init.constant_(module.weight, value)
        follow_(average, module, 0.2, k)
        decay = min(0.2, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.weight, torch.tensor([[expected]]))
    assert not average.weight.requires_grad
    assert module.weight.item() == 4.0


def test_running_statistics_are_averaged_and_counters_copied():
    module = nn.BatchNorm1d(2)
    average, before = frozen_copy(module), module.running_var.clone()
    module(torch.randn(8, 2))
    follow_(average, module, 0.999, 0)
    torch.testing.assert_close(average.running_var, 0.1 * before + 0.9 * module.running_var)
    assert average.num_batches_tracked == 1


def test_what_is_shared_stays_shared():
    one = nn.Linear(2, 2)
    copy = frozen_copy(nn.ModuleList([nn.Sequential(one), nn.Sequential(one)]))
    assert copy[0][0] is copy[1][0]
    assert copy[0][0] is not one
