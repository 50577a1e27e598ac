"""Gradients that are sums of numbers which cancel almost wholly, of which float32 cannot tell the fourth digit.

The gradient of a bias is a sum over images and places. Where the sum of absolute values is K times as large as the sum,
rounding each number once to float32 moves the sum by up to K 2^-24 of itself, in any correct implementation, and two of
them by twice that from each other. Such a gradient is not excused but shown: with K, from the float64 run, and only up
to what this one rounding does to both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.parity.rules import Line, Run

aten = torch.ops.aten
ROUNDING = 2.0**-24  # of a number, once, to float32
CANCELS = 1000  # sums of fewer times their own size keep three digits more than any limit asks for


class Sums(TorchDispatchMode):
    """Notes sums over images and places that cancel, as a backward pass makes them of biases."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, float]] = []  # a sum of several channels, and its K

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket == aten.convolution_backward and out[2] is not None:
            self._note(out[2], args[0].abs().sum((0, *range(2, args[0].ndim))))
        if func is aten.sum.dim_IntList and args[0].ndim > 1 and args[1]:
            self._note(out, args[0].abs().sum(args[1]))
        return out

    def _note(self, total: Tensor, absolute: Tensor) -> None:
        k = float(absolute.norm() / total.norm())
        if CANCELS < k < float("inf"):
            self.found.append((total.detach().flatten().clone(), k))

    def of(self, gradient: Tensor) -> float:
        """K of the sum that this gradient is, from the same run; 0 where no noted one is."""
        flat = gradient.flatten()
        return max((k for total, k in self.found if torch.equal(total, flat)), default=0.0)

    def shown(self, lines: list[Line], double: Run) -> list[Line]:
        """The lines, those of first gradients that cancel with what rounding does as their limit; these are printed.

        Args:
            lines: of the float32 run.
            double: the watched float64 run.
        """
        return [line if line.ok else self._shown(line, double.gradients) for line in lines]

    def _shown(self, line: Line, gradients: dict[str, Tensor]) -> Line:
        name = line.name.removeprefix("first gradient ")
        k = self.of(gradients[name]) if name != line.name and name in gradients else 0.0
        limit = 2 * k * ROUNDING
        if not line.difference <= limit:
            return line
        print(f"sum  float32: {line.name} is {line.difference:.3g} off, its limit {line.limit:.3g};")
        print(f"sum  float32: its numbers are {k:.0f} times as large as their sum; rounding each once moves two sums")
        print(f"sum  float32: by up to {limit:.3g} from each other, which takes the limit's place for this one.")
        return Line(line.name, line.difference, limit)
