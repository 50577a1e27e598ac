"""Draws maps of codes from a PixelSNAIL, place by place, at about the cost of one full pass.

Nothing is computed twice. Of each causal convolution the rows above are convolved when a row begins, for the whole row,
and the places to the left are added one by one; it keeps as many rows as its kernel is high. Attention keeps the keys
and values of all places so far. The logits are those of the full pass up to rounding.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, elu, glu, linear, scaled_dot_product_attention

from networks.pixel_snail import CausalAttention, GatedResBlock, PixelBlock, PixelSNAILNetwork
from networks.pixel_snail_layers import CodeConv, WeightNormConv
from networks.prepared import weights_prepared_once

Progress = Callable[[int], None]


@torch.no_grad()
def sample(
    net: PixelSNAILNetwork,
    n: int,
    condition: Tensor | None = None,
    given: Tensor | None = None,
    temperature: float = 1.0,
    rng: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Maps of codes drawn from the prior, one place after the other.

    All chance is n H W numbers in [0, 1), drawn on the CPU before anything else: one seed gives the same codes on any
    device (but where a sum rounds to the other side of such a number), and a map does not depend on how many follow it.

    Args:
        net: in evaluation mode.
        n: maps.
        condition: (n, H / 2, W / 2) int64 of the level above, where the prior has one.
        given: (n, h, W) int64, first rows that are kept as they are.
        temperature: above 0; the logits are divided by it.
        rng: on the CPU; None is PyTorch's own.
        progress: called with the number of finished rows after each.

    Returns:
        (n, H, W) int64 in [0, K), on the device of the network.

    Raises:
        ValueError: the network is in training mode, ``temperature`` is not above 0, or a map has another shape or type,
            is missing, is not wanted, or has numbers of no code.
    """
    if net.training:
        raise ValueError("net is in training mode, in which dropout would spoil the codes: call eval() first.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}.")
    height, width = net.shape
    kept = _rows_given(net, n, given)
    device = net.background.device
    chance = torch.rand(n, height, width, generator=rng, dtype=torch.float64).to(device)
    cached = CachedPass(net, n, None if condition is None else condition.to(device))
    codes = []
    with weights_prepared_once():
        for i in range(height):
            for j in range(width):
                h = cached.features()
                if i < len(kept):
                    code = kept[i][:, j]
                else:
                    code = chosen(net.out(h).flatten(1), temperature, chance[:, i, j])
                cached.put(code)
                codes.append(code)
            if progress is not None:
                progress(i + 1)
    return torch.stack(codes, 1).view(n, height, width)


@torch.no_grad()
def cached_logits(net: PixelSNAILNetwork, codes: Tensor, condition: Tensor | None = None) -> Tensor:
    """What ``net(codes, condition)`` gives in evaluation mode, computed as ``sample`` does."""
    net.check("codes", codes, (len(codes), *net.shape))
    cached, logits = CachedPass(net, len(codes), condition), []
    with weights_prepared_once():
        for code in codes.flatten(1).unbind(1):
            logits.append(net.out(cached.features()).flatten(1))
            cached.put(code)
    return torch.stack(logits, 2).unflatten(2, net.shape)


def chosen(logits: Tensor, temperature: float, chance: Tensor) -> Tensor:
    """The code whose share of the probabilities, laid end to end, a number in [0, 1) falls into.

    Args:
        logits: (N, K).
        temperature: divides them.
        chance: (N,) float64.

    Returns:
        (N,) int64.
    """
    ends = (logits.double() / temperature).softmax(1).cumsum(1)
    # A share that is empty is passed over: its end is not above the number.
    return (ends <= chance[:, None] * ends[:, -1:]).sum(1).clamp(max=logits.shape[1] - 1)


class CachedPass:
    """One pass of a network in evaluation mode, place by place: ``features``, then ``put``, for each in turn.

    Args:
        net: whose weights do not change meanwhile.
        n: maps at once.
        condition: (n, H / 2, W / 2) int64 of the level above, where the prior has one.
    """

    def __init__(self, net: PixelSNAILNetwork, n: int, condition: Tensor | None = None) -> None:
        self.net, self.place = net, 0
        self.told = net.told(condition, n)
        blank = net.background.new_full((n, *net.shape), net.classes, dtype=torch.int64)
        self.above, self.left = net.before(blank, net.horizontal), net.before(blank, net.vertical)
        self.blocks = [CachedBlock(block, n, net.shape) for block in net.blocks if isinstance(block, PixelBlock)]

    def features(self) -> Tensor:
        """(n, width, 1, 1) of the next place, of which ``net.out`` makes the logits."""
        height, width = self.net.shape
        i, j = divmod(self.place, width)
        if j == 0:
            told = None
            if self.told is not None:
                k = i * self.told.shape[2] // height
                told = self.told[:, :, k : k + 1]
            for block in self.blocks:
                block.begin_row(told)
        x = self._first(i, j)
        coords = self.net.background[:, :, i : i + 1, j : j + 1]
        for block in self.blocks:
            x = block.step(x, coords, j)
        return x

    def put(self, code: Tensor) -> None:
        """Say the (n,) codes of that place."""
        i, j = divmod(self.place, self.net.shape[1])
        for conv, codes in ((self.net.horizontal, self.above), (self.net.vertical, self.left)):
            height, width = conv.weight_v.shape[2:]
            codes[:, i + height - 1, j + (width // 2 if conv is self.net.horizontal else width - 1)] = code
        self.place += 1

    def _first(self, i: int, j: int) -> Tensor:
        """``net.first`` of one place."""
        x = self.net.background.new_zeros(len(self.above), self.net.horizontal.weight_g.shape[0], 1, 1)
        if i > 0:
            x = x + self.net.horizontal(window(self.above, self.net.horizontal, i - 1, j))
        if j > 0:
            x = x + self.net.vertical(window(self.left, self.net.vertical, i, j - 1))
        return x


class CachedBlock:
    """A ``PixelBlock`` place by place.

    Args:
        block: whose weights do not change meanwhile.
        n: maps at once.
        shape: (H, W) of them.
    """

    def __init__(self, block: PixelBlock, n: int, shape: tuple[int, ...]) -> None:
        self.block = block
        self.resblocks = [
            CachedResBlock(each, n, shape[1]) for each in block.resblocks if isinstance(each, GatedResBlock)
        ]
        self.attend = CachedAttention(block.causal_attention, n, shape[0] * shape[1]) if block.attention else None

    def begin_row(self, told: Tensor | None) -> None:
        """Go to the next row, of which the level above says (n, cond_width, 1, w)."""
        for each in self.resblocks:
            each.begin_row(told)

    def step(self, x: Tensor, coords: Tensor, j: int) -> Tensor:
        """(n, width, 1, 1) of column ``j``, (1, 2, 1, 1) coordinates, to (n, width, 1, 1)."""
        h = x
        for each in self.resblocks:
            h = each.step(h, j)
        return self.block.join(x, h, coords, self.attend)


class CachedResBlock:
    """A causal ``GatedResBlock`` place by place.

    Args:
        block: whose weights do not change meanwhile.
        n: maps at once.
        width: of them.
    """

    def __init__(self, block: GatedResBlock, n: int, width: int) -> None:
        self.block, self.width = block, width
        self.conv1, self.conv2 = CachedConv(block.conv1, n, width), CachedConv(block.conv2, n, width)
        self.told: Tensor | None = None

    def begin_row(self, told: Tensor | None) -> None:
        """Go to the next row."""
        self.conv1.begin_row()
        self.conv2.begin_row()
        self.told = None if told is None else self.block.condition(told)

    def step(self, x: Tensor, j: int) -> Tensor:
        """(n, width, 1, 1) of column ``j`` to the same shape."""
        h = self.conv2(elu(self.conv1(elu(x), j)), j)
        if self.told is not None:
            k = j * self.told.shape[3] // self.width
            h = h + self.told[..., k : k + 1]
        return x + glu(h, 1)


class CachedConv:
    """A ``CausalConv`` place by place.

    Args:
        conv: one, whose weights do not change meanwhile.
        n: maps at once.
        width: of them.
    """

    def __init__(self, conv: WeightNormConv, n: int, width: int) -> None:
        weight = conv.weight()
        inputs, height, kernel = weight.shape[1:]
        self.reach, self.bias = kernel // 2, conv.bias
        self.of_rows, self.of_left = weight[:, :, :-1].contiguous(), weight[:, :, -1, : self.reach].flatten(1)
        self.rows = weight.new_zeros(n, inputs, height, width + 2 * self.reach)  # the last is the row at hand
        self.row = weight.new_zeros(0)

    def begin_row(self) -> None:
        """Go to the next row and convolve those above it."""
        self.rows = self.rows.roll(-1, 2)
        self.rows[:, :, -1] = 0
        self.row = conv2d(self.rows[:, :, :-1], self.of_rows, self.bias)

    def __call__(self, x: Tensor, j: int) -> Tensor:
        """What the convolution gives in column ``j``, (n, outputs, 1, 1), which does not need ``x``; keeps ``x``."""
        left = linear(self.rows[:, :, -1, j : j + self.reach].flatten(1), self.of_left)  # faster than conv2d
        self.rows[:, :, -1:, j + self.reach : j + self.reach + 1] = x
        return self.row[..., j : j + 1] + left[..., None, None]


class CachedAttention:
    """A ``CausalAttention`` place by place.

    Args:
        attention: whose weights do not change meanwhile.
        n: maps at once.
        places: of a map.
    """

    def __init__(self, attention: CausalAttention, n: int, places: int) -> None:
        self.attention, self.n, self.places, self.seen = attention, n, places, 0
        self.keys = self.values = attention.query.bias.new_zeros(0)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Maps (n, query_width, 1, 1) and (n, key_width, 1, 1) of the next place to (n, width, 1, 1)."""
        q, k, v = self.attention.heads(query, key)
        if self.seen == 0:
            self.keys, self.values = (x.new_zeros(*x.shape[:2], self.places, x.shape[3]) for x in (k, v))
            found = torch.zeros_like(v)
        else:
            found = scaled_dot_product_attention(q, self.keys[:, :, : self.seen], self.values[:, :, : self.seen])
        self.keys[:, :, self.seen], self.values[:, :, self.seen] = k[:, :, 0], v[:, :, 0]
        self.seen += 1
        return found.mT.reshape(self.n, -1, 1, 1)


def window(codes: Tensor, conv: CodeConv, i: int, j: int) -> Tensor:
    """The part of (N, H, W) that a convolution without padding needs for row ``i`` and column ``j`` of its output."""
    height, width = conv.weight_v.shape[2:]
    return codes[:, i : i + height, j : j + width]


def _rows_given(net: PixelSNAILNetwork, n: int, given: Tensor | None) -> list[Tensor]:
    """The rows (n, W) of ``given``, refused where they do not fit."""
    if given is None:
        return []
    rows = given.shape[1] if given.ndim == 3 else 0
    if rows > net.shape[0]:
        raise ValueError(f"given has {rows} rows, but a map has {net.shape[0]}: give the first of them.")
    net.check("given", given, (n, rows, net.shape[1]))
    return list(given.to(net.background.device).unbind(1))
