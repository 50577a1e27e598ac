"""Batch normalisation whose statistics are those of the whole batch, also where processes share it.

``torch.nn.SyncBatchNorm`` does so on CUDA only. Names in a state dict are those of ``torch.nn``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from networks.processes import mean_over_processes, processes


class _SharedBatchNorm(_BatchNorm):
    """As its ``torch.nn`` namesake, over the rows of all processes, which must hold as many each.

    Normalises by the biased variance and keeps the unbiased one, of as many elements as all processes have.

    Attributes:
        passes: a forward pass in training counts as so many of the same batch, for the running statistics.
    """

    passes = 1
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        self._check_input_dim(x)
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        self.num_batches_tracked += self.passes
        share = 1 - (1 - self.momentum) ** self.passes  # k steps of r <- (1 - m) r + m s towards the same s
        if processes() == 1:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, share, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            dims = [d for d in range(x.ndim) if d != 1]
            shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
            mean = mean_over_processes(wide.mean(dims))
            centred = wide - mean.view(shape)
            var = mean_over_processes(centred.square().mean(dims))
            n = processes() * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(var.detach() * (n / (n - 1)), share)
            scale = self.weight * (var + self.eps).rsqrt()
            return torch.addcmul(self.bias.view(shape), centred, scale.view(shape)).to(x.dtype)


class BatchNorm1d(_SharedBatchNorm, nn.BatchNorm1d):
    """Of (N, C) or (N, C, L)."""


class BatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    """Of (N, C, H, W)."""


@contextmanager
def counted(net: nn.Module, passes: int) -> Iterator[None]:
    """In here every forward pass of ``net`` counts as so many for its running statistics.

    Where an official code sends the same batch through a network again and again, one pass gives the same numbers.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _SharedBatchNorm)]
    for layer in layers:
        layer.passes = passes
    try:
        yield
    finally:
        for layer in layers:
            layer.passes = 1


@contextmanager
def only_finite_statistics(net: nn.Module) -> Iterator[None]:
    """Running statistics of ``net`` forget what was not finite in here: one bad batch would stay in them for ever."""
    layers = [layer for layer in net.modules() if isinstance(layer, _SharedBatchNorm)]
    statistics = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    before = [buffer.clone() for buffer in statistics]
    yield
    for now, then in zip(statistics, before, strict=True):
        now.copy_(torch.where(now.isfinite(), now, then))
