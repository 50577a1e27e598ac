"""Wide 3x3 convolutions with fewer multiplications, and weights that are transformed once an iteration."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE = 192  # measured: with 128 channels the transforms cost as much as they save

_prepared: dict[tuple[Any, ...], Tensor] | None = None


@contextmanager
def weights_prepared_once() -> Iterator[None]:
    """Within, what a layer makes of its weights before it can use them is made once and not at every use.

    Gradients of all uses are summed before they go back through the preparation, so that this too happens once. Who
    changes weights within calls ``weights_changed``, as ``ManualModule.descend`` does.
    """
    global _prepared
    outer, _prepared = _prepared, {}
    try:
        yield
    finally:
        _prepared = outer


def prepared(weight: Tensor, prepare: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    """``prepare(weight)`` in a type, remembered within ``weights_prepared_once``; one preparation a weight."""
    if _prepared is None:
        return prepare(weight).to(dtype)
    key = (id(weight), dtype, torch.is_grad_enabled() and weight.requires_grad)
    if key not in _prepared:
        _prepared[key] = prepare(weight).to(dtype)
    return _prepared[key]


def weights_changed(weights: Iterable[Tensor]) -> None:
    """Forget what was made of these weights; fused optimizers leave no other trace of a step."""
    if _prepared:
        changed = {id(weight) for weight in weights}
        for key in [key for key in _prepared if key[0] in changed]:
            del _prepared[key]


class WideConv(nn.Conv2d):
    """An unpadded 3x3 convolution of stride 1 that a CPU computes with 16 multiplications where there were 36.

    Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, CVPR 2016): each tile of 2x2 outputs is a product, element
    by element, of a transformed 4x4 window and a transformed kernel; summed over channels these are 16 matrix products.
    Rounding is about that of the plain form. It is used within ``weights_prepared_once`` only, since to transform the
    kernels at each use takes what is saved; elsewhere, on a GPU and for odd sizes this is the plain convolution.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output (N, C', H - 2, W - 2).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H - 2, W - 2)."""
        narrow = min(self.in_channels, self.out_channels) < WIDE
        if narrow or _prepared is None or x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        u = prepared(self.weight, _Kernels.apply, dtype)
        assert self.bias is not None
        return _Winograd.apply(x.to(dtype), u, self.bias.to(dtype))


_G = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_GG = torch.einsum("qc,pr->qprc", _G, _G).reshape(16, 9)  # columns before rows, as windows come


class _Kernels(torch.autograd.Function):
    """G w G^T, (C', C, 3, 3) to (16, C', C): a matrix product either way, in the layouts in which both are used."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return (_GG.to(weight.dtype) @ weight.flatten(2).flatten(0, 1).T).unflatten(1, weight.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor) -> Tensor:
        dw = (_GG.to(du.dtype).T @ du.flatten(1)).unflatten(1, du.shape[1:])
        return dw.permute(1, 2, 0).contiguous().unflatten(2, (3, 3))


class _Winograd(torch.autograd.Function):
    """Transforms are a few sums of neighbours along one axis after the other, channels innermost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, bias: Tensor) -> Tensor:
        windows = _windows(_windows(x.permute(0, 2, 3, 1).contiguous(), 1), 3)  # (4, 4, N, h, w, C)
        ctx.tiles = windows.shape[:-1]
        v = windows.flatten(2, 4).flatten(0, 1)
        ctx.save_for_backward(v, u)
        products = torch.bmm(v, u.mT)
        products[5] += bias  # of the 16 the one that each of a tile's four outputs contains once
        m = products.unflatten(1, ctx.tiles[2:]).unflatten(0, (4, 4))
        return _outputs(_outputs(m, 3), 1).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, u = ctx.saved_tensors
        dm = _outputs_adjoint(_outputs_adjoint(dy.permute(0, 2, 3, 1).contiguous(), 1), 3)
        dm = dm.flatten(2, 4).flatten(0, 1)
        du, dv = torch.bmm(dm.mT, v), torch.bmm(dm, u)
        dx = _windows_adjoint(_windows_adjoint(dv.unflatten(1, ctx.tiles[2:]).unflatten(0, (4, 4)), 3), 1)
        return dx.permute(0, 3, 1, 2).contiguous(), du, dm[5].sum(0)


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four places of all windows along an axis: windows are four long and two apart."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    n = even.shape[axis] - 1
    return even.narrow(axis, 0, n), odd.narrow(axis, 0, n), even.narrow(axis, 1, n), odd.narrow(axis, 1, n)


def _windows(x: Tensor, axis: int) -> Tensor:
    """B^T d along an axis: (..., 2 n + 2, ...) to (4, ..., n, ...)."""
    a, b, c, d = _neighbours(x, axis)
    v = x.new_empty(4, *a.shape)
    torch.sub(a, c, out=v[0])
    torch.add(b, c, out=v[1])
    torch.sub(c, b, out=v[2])
    torch.sub(b, d, out=v[3])
    return v


def _windows_adjoint(dv: Tensor, axis: int) -> Tensor:
    """B d along an axis: (4, ..., n, ...) to (..., 2 n + 2, ...)."""
    shape = list(dv.shape[1:])
    shape[axis] = 2 * shape[axis] + 2
    dx = dv.new_zeros(shape)
    a, b, c, d = _neighbours(dx, axis)
    a += dv[0]
    b += dv[1] - dv[2]
    b += dv[3]
    c += dv[1] + dv[2]
    c -= dv[0]
    d -= dv[3]
    return dx


def _outputs(m: Tensor, axis: int) -> Tensor:
    """A^T m along an axis: (4, ..., n, ...) to (..., 2 n, ...)."""
    shape = list(m.shape[1:])
    shape.insert(axis + 1, 2)
    y = m.new_empty(shape)
    even, odd = y.unbind(axis + 1)
    torch.add(m[0], m[1], out=even).add_(m[2])
    torch.sub(m[1], m[2], out=odd).sub_(m[3])
    return y.flatten(axis, axis + 1)


def _outputs_adjoint(dy: Tensor, axis: int) -> Tensor:
    """A d along an axis: (..., 2 n, ...) to (4, ..., n, ...)."""
    even, odd = dy.unflatten(axis, (-1, 2)).unbind(axis + 1)
    dm = dy.new_empty(4, *even.shape)
    dm[0] = even
    torch.add(even, odd, out=dm[1])
    torch.sub(even, odd, out=dm[2])
    torch.neg(odd, out=dm[3])
    return dm
