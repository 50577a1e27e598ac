"""Layers of PixelSNAIL (Chen et al. 2018) with weights g v / |v| (Salimans and Kingma 2016).

They are our own because PyTorch's parametrisation would keep g and v as ``parametrizations.weight.original0`` and
``1``; so they are ``weight_g`` and ``weight_v``, as in checkpoints of the release. Filters never see their masked taps,
so that nothing is set to zero again, and one-hot codes are looked up and not convolved: on a CPU, of 512 classes to 256
channels, forward and backward took a twentieth of the time.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding_bag, linear, pad

from networks.prepared import prepared


class WeightNormConv(nn.Module):
    """Convolution at stride 1 with weights g v / |v|, the norm over all but the outputs; keeps height and width.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: height and width, odd.
        bias: whether it has one.
        masked: so many taps at the end of the kernel, row by row, are not there, whatever v holds: neither in the
            convolution nor in the norm. (The release sets them to zero in v before each use, and its v may hold
            anything there.)
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), bias: bool = True, masked: int = 0
    ) -> None:
        super().__init__()
        self.masked = masked
        plain = nn.Conv2d(inputs, outputs, kernel, bias=bias)  # for PyTorch's initial weights
        self.bias = plain.bias
        # The norm of all taps, as in the release: the first filters are a little longer than v without those masked.
        self.weight_g = nn.Parameter(plain.weight.detach().square().sum((1, 2, 3), keepdim=True).sqrt())
        self.weight_v = plain.weight

    def weight(self) -> Tensor:
        """(outputs, inputs, height, width) as used."""
        return prepared(self.weight_v, self._normalised)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        height, width = self.weight_v.shape[2:]
        return conv2d(x, self.weight(), self.bias, padding=(height // 2, width // 2))

    def _normalised(self, v: Tensor) -> Tensor:
        taps = v.flatten(2)
        there = taps[..., : taps.shape[2] - self.masked]
        return pad(normalised(self.weight_g.flatten(1)[..., None], there), (0, self.masked)).view_as(v)


class CausalConv(WeightNormConv):
    """Convolution of the rows above and of what stands left in the same row, not of the place itself.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: height and width, odd; the height reaches upwards only.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, (kernel, kernel), masked=kernel - kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        height, width = self.weight_v.shape[2:]
        return conv2d(pad(x, (width // 2, width // 2, height - 1, 0)), self.weight(), self.bias)


class CodeConv(WeightNormConv):
    """Convolution of one-hot codes by lookup, without padding of its own.

    Args:
        classes: K, of the codes.
        outputs: channels out.
        kernel: height and width.
    """

    def __init__(self, classes: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__(classes, outputs, kernel)
        self.classes = classes

    def forward(self, codes: Tensor) -> Tensor:
        """(N, H, W) int64 in [0, K], where K is a place without a code, to (N, outputs, H - height + 1, ...)."""
        height, width = self.weight_v.shape[2:]
        taps = height * width
        windows = codes.unfold(1, height, 1).unfold(2, width, 1).flatten(3)
        rows = windows * taps + torch.arange(taps, device=codes.device)
        table = prepared(self.weight_v, self._table)
        found = embedding_bag(rows.reshape(-1, taps), table, mode="sum").view(*rows.shape[:3], -1)
        assert self.bias is not None
        return (found + self.bias).permute(0, 3, 1, 2).contiguous()

    def _table(self, v: Tensor) -> Tensor:
        """((K + 1) taps, outputs): row ``code * taps + tap``; no code is zero at every tap."""
        rows = self._normalised(v).permute(1, 2, 3, 0).flatten(0, 2)
        return pad(rows, (0, 0, 0, v.shape[2] * v.shape[3]))


class WeightNormLinear(nn.Module):
    """Linear layer with weights g v / |v|, the norm over the inputs.

    Args:
        inputs: features in.
        outputs: features out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        plain = nn.Linear(inputs, outputs)
        self.bias = plain.bias
        self.weight_g = nn.Parameter(plain.weight.detach().square().sum(1, keepdim=True).sqrt())
        self.weight_v = plain.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return linear(x, prepared(self.weight_v, lambda v: normalised(self.weight_g, v)), self.bias)


def normalised(g: Tensor, v: Tensor) -> Tensor:
    """g v / |v|, the norm over all but the first axis; ``g`` has 1 along the others."""
    return v * (g / torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True))
