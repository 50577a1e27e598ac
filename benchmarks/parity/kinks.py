"""Activations that float32 puts on the other side of a kink than float64 does.

A ReLU whose input is 1e-8 in float64 is a coin toss in float32: it passes its whole gradient or none. That moves
every tensor upstream of it by 1e-4 to 1e-2 in a correct implementation. Such a case is not excused but shown:
the float32 run is repeated with exactly these inputs on float64's side, and all limits must hold then.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
KINKED = {aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten.abs, aten.clamp_min, aten.threshold}
CLOSE = 1e-4  # of the largest input of the same call; what is further away is an error and no rounding
ROUNDING = 1e-5  # of the same; where the two runs are further apart they have already come to go different ways


class Near(NamedTuple):
    """Inputs of one call of a kinked function that lie close to its kink at zero."""

    shape: torch.Size
    places: tuple[Tensor, ...]
    values: Tensor


class Watch(TorchDispatchMode):
    """Notes, in the order of calls, which inputs of kinked functions lie close to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Near] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in KINKED and args[0].ndim > 1:
            x = args[0].detach()
            places = torch.nonzero(x.abs() < CLOSE * x.abs().max(), as_tuple=True)
            self.calls.append(Near(x.shape, places, x[places].double()))
        return func(*args, **(kwargs or {}))


class Same(TorchDispatchMode):
    """Puts inputs close to a kink on the side where a watched run had them; ``flips`` says which these were."""

    def __init__(self, watched: list[Near]) -> None:
        super().__init__()
        self.watched, self.call = watched, 0
        self.flips: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in KINKED and args[0].ndim > 1 and self.call < len(self.watched):
            self._correct(func.overloadpacket.__name__, args[0], self.watched[self.call])
            self.call += 1
        return func(*args, **(kwargs or {}))

    def _correct(self, name: str, x: Tensor, near: Near) -> None:
        if x.shape != near.shape:
            return
        found = x.detach()[near.places].double()
        for k in torch.nonzero((found > 0) != (near.values > 0)).flatten().tolist():
            place = tuple(int(index[k]) for index in near.places)
            if abs(found[k] - near.values[k]) < ROUNDING * x.detach().abs().max():
                x.data[place] = near.values[k].to(x.dtype)  # .data: autograd need not know of a change by rounding
                self.flips.append(
                    f"input {list(place)} of {name} call {self.call + 1}, shape {list(x.shape)}: "
                    f"{near.values[k]:.2e} in float64, {found[k]:.2e} in float32"
                )
