"""Any size and aspect for networks that take multiples of some number, and that fit into memory up to some size.

A picture is reflected at its borders up to the next legal size, and the result cut back. One that is too large is cut
into overlapping tiles whose results are blended. For a network that looks r pixels far and does nothing else, tiles
give exactly what the whole picture would, as long as the overlap is at least 4 r: the outer quarter of each overlap,
where a tile lacks surroundings, is not used. A network with instance normalisation, as in most translators, looks at
all of what it is given: its tiles differ from the whole, in tone above all. How much neighbours disagree is measured.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Result(NamedTuple):
    """What became of a picture."""

    pixels: Tensor  # (N, C, H, W), of the size of the picture
    tiles: int
    disagreement: float  # mean absolute difference between neighbouring tiles where both are used; 0 for one tile


class Window(NamedTuple):
    """Where a picture lies in its padded version."""

    rows: slice
    columns: slice


def at_any_size(net: Callable[[Tensor], Tensor], x: Tensor, multiple: int, smallest: int, tile: int) -> Result:
    """Apply ``net`` to a picture of any size.

    Args:
        net: (1, C, h, w) to (N, C', h, w), for h and w that are multiples of ``multiple`` and at least ``smallest``.
        x: (1, C, H, W).
        multiple: of heights and widths.
        smallest: height and width.
        tile: what has more than ``tile`` squared pixels is cut into tiles of about this side; at least
            ``least_tile(multiple, smallest)``.
    """
    padded, window = pad(x, multiple, smallest)
    height, width = padded.shape[-2:]
    if height * width <= tile**2:
        y, tiles, disagreement = net(padded), 1, 0.0
    else:
        y, tiles, disagreement = in_tiles(net, padded, tile // multiple * multiple, multiple)
    return Result(y[..., window.rows, window.columns], tiles, disagreement)


def least_tile(multiple: int, smallest: int) -> int:
    """Side of the smallest tile that is legal and has a legal overlap, a quarter of it."""
    return max(4 * multiple, -(-smallest // multiple) * multiple)


def pad(x: Tensor, multiple: int, smallest: int) -> tuple[Tensor, Window]:
    """Reflect a picture at its borders, as often as it takes, up to the next legal size."""
    windows = []
    for dim in (-2, -1):
        side = x.shape[dim]
        legal = -(-max(side, smallest) // multiple) * multiple
        before = (legal - side) // 2
        if legal > side:
            x = x.index_select(dim, reflected(side, before, legal).to(x.device))
        windows.append(slice(before, before + side))
    return x, Window(*windows)


def reflected(side: int, before: int, length: int) -> Tensor:
    """Indices into ``side`` pixels that go to and fro, from ``before`` pixels in front of the first on."""
    period = max(2 * (side - 1), 1)
    steps = torch.arange(-before, length - before) % period
    return torch.minimum(steps, period - steps) if side > 1 else torch.zeros_like(steps)


def in_tiles(net: Callable[[Tensor], Tensor], x: Tensor, tile: int, multiple: int) -> Result:
    """Apply ``net`` to overlapping tiles of a picture of legal size and blend what it gives.

    Args:
        net: as in ``at_any_size``.
        x: (1, C, H, W), sides that are multiples of ``multiple``.
        tile: side of the tiles, a multiple of ``multiple``, at least four times that.
        multiple: of heights and widths. Tiles start at multiples of it, so that strides fall on the same pixels.
    """
    overlap = tile // 4 // multiple * multiple
    height, width = x.shape[-2:]
    tops, lefts = starts(height, tile, overlap, multiple), starts(width, tile, overlap, multiple)
    blended, weight = None, torch.zeros(height, width)
    differences: list[Tensor] = []
    for top in tops:
        for left in lefts:
            here = (..., slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
            y = net(x[here]).float().cpu()
            blended = y.new_zeros(*y.shape[:2], height, width) if blended is None else blended
            w = fade(top, y.shape[-2], height, overlap)[:, None] * fade(left, y.shape[-1], width, overlap)
            both = (weight[here] > 0) & (w > 0)
            if both.any():
                differences.append((y - blended[here] / weight[here]).abs().mean((0, 1))[both])
            blended[here] += w * y
            weight[here] += w
    assert blended is not None
    disagreement = float(torch.cat(differences).mean()) if differences else 0.0
    return Result(blended / weight, len(tops) * len(lefts), disagreement)


def starts(side: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """First pixels of tiles that cover ``side`` evenly, multiples of ``multiple``; ``overlap`` is the least."""
    if side <= tile:
        return [0]
    steps = -(-(side - tile) // (tile - overlap))
    return [(side - tile) * k // steps // multiple * multiple for k in range(steps + 1)]


def fade(start: int, length: int, side: int, overlap: int) -> Tensor:
    """Weights of a tile along one axis, (length,): 1, but falling to 0 towards its neighbours.

    They are 0 in the outer quarter of an overlap, and rise smoothly over its middle half.
    """
    weights = torch.ones(length)
    distance = (torch.arange(length) + 0.5 - overlap / 4) / (overlap / 2)
    rise = distance.clamp(0, 1)
    rise = rise * rise * (3 - 2 * rise)
    if start > 0:
        weights = weights * rise
    if start + length < side:
        weights = weights * rise.flip(0)
    return weights
