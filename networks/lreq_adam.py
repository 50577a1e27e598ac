"""The optimizer of ALAE's release, Adam without a first moment and with a rate for each layer, as a fused Adam."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam


class LREQAdam(Adam):
    """v = b2 v + (1 - b2) g^2, then p = p - rate lr sqrt(1 - b2^t) g / (sqrt(v) + eps); epsilon is not rescaled.

    That is PyTorch's Adam with betas (0, b2) and an epsilon of eps / sqrt(1 - b2^t), which is set before each step. A
    parameter that has moved before and has no gradient now counts as having a gradient of zero, as where ``zero_grad``
    filled with zeros: t advances and v decays. t is a number of the group, saved with it, so that no step asks the
    device; it also counts steps that were left out because a gradient was not finite, and a parameter that gets its
    first gradient later than others of its group has their epsilon. Both change an update by parts of ``eps`` only.

    Args:
        groups: ``params`` and ``rate``, as from ``networks.alae.groups_by_rate``.
        lr: of all groups, before ``rate``.
        beta2: b2.
        eps: added to sqrt(v).
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 0.002, beta2: float = 0.99, eps: float = 1e-8
    ) -> None:
        super().__init__([{"rate": 1.0, "t": 0} | group for group in groups], lr, (0.0, beta2), eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; what ``closure`` does, it does first."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        idle = self.idle()
        for p in idle:
            p.grad = torch.zeros_like(p)
        given = [(group["lr"], group["eps"]) for group in self.param_groups]
        for group, (lr, eps) in zip(self.param_groups, given, strict=True):
            group["t"] += 1
            group["lr"], group["eps"] = lr * group["rate"], eps / math.sqrt(1 - group["betas"][1] ** group["t"])
        try:
            super().step()
        finally:
            for group, (lr, eps) in zip(self.param_groups, given, strict=True):
                group["lr"], group["eps"] = lr, eps
            for p in idle:
                p.grad = None
        return result

    def idle(self) -> list[Tensor]:
        """Parameters that have moved before and have no gradient now."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is None and p in self.state]

    def forget(self) -> None:
        """Begin anew, as where a model grows."""
        self.state.clear()
        for group in self.param_groups:
            group["t"] = 0
