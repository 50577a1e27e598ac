"""PixelSNAIL (Chen et al. 2018) as the PyTorch release of VQ-VAE-2 has it: the prior of a map of codes.

Every code is told by those before it, row by row and left to right, and by a map of the level above where there is one.
Modules have the names of the release's, without the ``conv`` under which it keeps each convolution:

    here                            release
    horizontal.weight_v             horizontal.conv.conv.weight_v
    blocks.0.resblocks.0.conv1.bias blocks.0.resblocks.0.conv1.conv.conv.bias
    out.1.weight_g                  out.1.conv.weight_g

so a table of names drops these parts of a name (``networks.pixel_snail_layers``).

Same numbers, less work: attention is PyTorch's causal one, of queries that are moved on by one place, and what the
level above says to each block is convolved before it is made larger, at a quarter of the places.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, elu, glu, interpolate, pad, scaled_dot_product_attention

from networks.pixel_snail_layers import CausalConv, CodeConv, WeightNormConv, WeightNormLinear

HEADS = 8  # of the attention


class GatedResBlock(nn.Module):
    """x + GLU(conv2(ELU(conv1(ELU(x))))), with more to know beside x.

    Args:
        width: channels in and out.
        hidden: channels between the convolutions.
        kernel: of both, odd.
        causal: whether they see only what is before.
        aux_width: channels of a map of x's size that joins after the first convolution; 0 has none.
        cond_width: channels of a map of any size that joins before the gate; 0 has none.
        p: of the dropout between the convolutions.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        kernel: int = 1,
        causal: bool = False,
        aux_width: int = 0,
        cond_width: int = 0,
        p: float = 0.1,
    ) -> None:
        super().__init__()
        self.p = p

        def conv(i: int, o: int) -> WeightNormConv:
            return CausalConv(i, o, kernel) if causal else WeightNormConv(i, o, (kernel, kernel))

        self.conv1 = conv(width, hidden)
        if aux_width > 0:
            self.aux_conv = WeightNormConv(aux_width, hidden)
        self.conv2 = conv(hidden, 2 * width)
        if cond_width > 0:
            self.condition = WeightNormConv(cond_width, 2 * width, bias=False)

    def forward(self, x: Tensor, aux: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """(N, width, H, W) to the same shape; (N, aux_width, H, W) and (N, cond_width, h, w) beside it."""
        h = self.conv1(elu(x))
        if aux is not None:
            h = h + self.aux_conv(elu(aux))
        h = self.conv2(dropout(elu(h), self.p, self.training))
        if condition is not None:
            h = h + interpolate(self.condition(condition), x.shape[-2:])
        return x + glu(h, 1)


class CausalAttention(nn.Module):
    """Attention of every place to those before it; the first has none and gets zeros.

    Args:
        query_width: channels that are made queries.
        key_width: channels that are made keys and values.
        width: channels out, a multiple of 8 heads.
        p: of the dropout of the weights.
    """

    def __init__(self, query_width: int, key_width: int, width: int, p: float) -> None:
        super().__init__()
        self.p = p
        self.query = WeightNormLinear(query_width, width)
        self.key = WeightNormLinear(key_width, width)
        self.value = WeightNormLinear(key_width, width)

    def heads(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of (N, query_width, H, W) and (N, key_width, H, W) to queries, keys, values, (N, 8, H W, width / 8)."""
        q, k = query.flatten(2).mT, key.flatten(2).mT
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (self.query(q), self.key(k), self.value(k)))
        return q, k, v

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Maps of (N, query_width, H, W) and (N, key_width, H, W) to (N, width, H, W)."""
        q, k, v = self.heads(query, key)
        p = self.p if self.training else 0.0
        # Query n + 1 sees keys 0 .. n: the causal mask that fused kernels know.
        found = scaled_dot_product_attention(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], dropout_p=p, is_causal=True)
        return pad(found, (0, 0, 1, 0)).mT.reshape(len(query), -1, *query.shape[2:])


class PixelBlock(nn.Module):
    """Causal gated blocks, then attention or a convolution of one place.

    Args:
        width: channels in and out.
        kernel: of the causal blocks.
        res_blocks: causal blocks.
        res_width: channels inside them.
        attention: whether there is some.
        cond_width: of what the level above says; 0 is nothing.
        p: of all dropout.
    """

    def __init__(
        self, width: int, kernel: int, res_blocks: int, res_width: int, attention: bool, cond_width: int, p: float
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            GatedResBlock(width, res_width, kernel, causal=True, cond_width=cond_width, p=p) for _ in range(res_blocks)
        )
        self.attention = attention
        if attention:
            self.key_resblock = GatedResBlock(2 * width + 2, width, p=p)
            self.query_resblock = GatedResBlock(width + 2, width, p=p)
            self.causal_attention = CausalAttention(width + 2, 2 * width + 2, width // 2, p)
            self.out_resblock = GatedResBlock(width, width, aux_width=width // 2, p=p)
        else:
            self.out = WeightNormConv(width + 2, width)

    def forward(self, x: Tensor, background: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, width, H, W), coordinates (1, 2, H, W) and (N, cond_width, h, w) to (N, width, H, W)."""
        h = x
        for block in self.resblocks:
            h = block(h, condition=condition)
        return self.join(x, h, background, self.causal_attention if self.attention else None)

    def join(
        self, x: Tensor, h: Tensor, background: Tensor, attend: Callable[[Tensor, Tensor], Tensor] | None
    ) -> Tensor:
        """What comes after the causal blocks, ``h`` of ``x``; ``attend`` takes queries and keys as maps."""
        coords = background.expand(len(x), -1, -1, -1)
        if attend is None:
            return self.out(torch.cat((h, coords), 1))
        key = self.key_resblock(torch.cat((x, h, coords), 1))
        query = self.query_resblock(torch.cat((h, coords), 1))
        return self.out_resblock(h, attend(query, key))


class ConditionNet(nn.Module):
    """What a map of codes of the level above says, at its own size.

    Args:
        classes: K, of the codes.
        width: channels inside and out.
        kernel: odd.
        res_blocks: gated blocks after the first convolution.
        p: of the dropout.
    """

    def __init__(self, classes: int, width: int, kernel: int, res_blocks: int, p: float) -> None:
        super().__init__()
        self.reach, self.classes = kernel // 2, classes
        self.blocks = nn.ModuleList([CodeConv(classes, width, (kernel, kernel))])
        self.blocks.extend(GatedResBlock(width, width, kernel, p=p) for _ in range(res_blocks))

    def forward(self, codes: Tensor) -> Tensor:
        """(N, h, w) int64 to (N, width, h, w)."""
        h = pad(codes, (self.reach,) * 4, value=self.classes)
        for block in self.blocks:
            h = block(h)
        return h


class PixelSNAILNetwork(nn.Module):
    """Logits of every code given those before it. Official numbers are those of the top level of 256x256 images.

    Args:
        shape: (H, W) of the map.
        classes: K, of this map's codes and of those above; official 512.
        width: channels; official 256, a multiple of 16 with attention.
        kernel: of causal convolutions, odd and 3 or more; official 5.
        blocks: official 4.
        res_blocks: causal blocks in each; official 4.
        res_width: channels inside them and inside the output blocks; official 256.
        attention: official for the top, not for the bottom.
        dropout: in [0, 1); official 0.1.
        out_blocks: gated blocks before the logits; official 0.
        cond_blocks: gated blocks of the map above, which is half as high and wide; 0, as for the top, has no such map,
            official 3 for the bottom.
        cond_width: channels inside them; official 256.
        cond_kernel: odd; official 3.
        side_dropout: of output and condition blocks, in [0, 1); the release has 0.1 here, whatever ``dropout`` is.

    Raises:
        ValueError: an argument is out of its range.
    """

    background: Tensor

    def __init__(
        self,
        shape: tuple[int, int] = (32, 32),
        classes: int = 512,
        width: int = 256,
        kernel: int = 5,
        blocks: int = 4,
        res_blocks: int = 4,
        res_width: int = 256,
        attention: bool = True,
        dropout: float = 0.1,
        out_blocks: int = 0,
        cond_blocks: int = 0,
        cond_width: int = 256,
        cond_kernel: int = 3,
        side_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if kernel < 3 or kernel % 2 == 0 or cond_kernel < 1 or cond_kernel % 2 == 0:
            raise ValueError(f"kernel must be odd from 3 on and cond_kernel odd, not {kernel} and {cond_kernel}.")
        if attention and width % (2 * HEADS):
            raise ValueError(f"width must be a multiple of {2 * HEADS} with attention, not {width}.")
        if not (0 <= dropout < 1 and 0 <= side_dropout < 1):
            raise ValueError(f"dropout and side_dropout must be in [0, 1), not {dropout} and {side_dropout}.")
        if len(shape) != 2 or min(shape) < 1 or (cond_blocks > 0 and (shape[0] % 2 or shape[1] % 2)):
            raise ValueError(
                f"shape must be height and width of the map, with a map above it even, not {tuple(shape)}."
            )
        self.shape, self.classes, self.conditional = tuple(shape), classes, cond_blocks > 0
        self.register_buffer("background", coordinates(*shape))
        # Their names are the release's, though the first sees whole rows and the second a column more than it is wide.
        self.horizontal = CodeConv(classes, width, (kernel // 2, kernel))
        self.vertical = CodeConv(classes, width, ((kernel + 1) // 2, kernel // 2))
        told = cond_width if self.conditional else 0
        self.blocks = nn.ModuleList(
            PixelBlock(width, kernel, res_blocks, res_width, attention, told, dropout) for _ in range(blocks)
        )
        if self.conditional:
            self.cond_resnet = ConditionNet(classes, cond_width, cond_kernel, cond_blocks, side_dropout)
        last = [nn.ELU(), WeightNormConv(width, classes)]
        self.out = nn.Sequential(*(GatedResBlock(width, res_width, p=side_dropout) for _ in range(out_blocks)), *last)

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, H, W) int64 in [0, K), and (N, H / 2, W / 2) of the level above, to logits (N, K, H, W).

        Raises:
            ValueError: a map has another shape or type, is missing, is not wanted, or has numbers of no code.
        """
        self.check("codes", codes, (len(codes), *self.shape))
        told = self.told(condition, len(codes))
        x = self.first(codes)
        for block in self.blocks:
            x = block(x, self.background, told)
        return self.out(x)

    def first(self, codes: Tensor) -> Tensor:
        """(N, H, W) int64 to (N, width, H, W), of the rows above and of what stands left."""
        above = self.horizontal(self.before(codes, self.horizontal))
        left = self.vertical(self.before(codes, self.vertical))
        # Moved on, so that no place sees its own code; the first row and column get zeros, not the bias.
        return pad(above[:, :, :-1], (0, 0, 1, 0)) + pad(left[..., :-1], (1, 0))

    def before(self, codes: Tensor, conv: CodeConv) -> Tensor:
        """(N, H, W) int64 with places that have no code around, as many as the convolution reaches."""
        height, width = conv.weight_v.shape[2:]
        sides = (width // 2, width // 2) if conv is self.horizontal else (width - 1, 0)
        return pad(codes, (*sides, height - 1, 0), value=self.classes)

    def told(self, condition: Tensor | None, n: int) -> Tensor | None:
        """(n, H / 2, W / 2) int64 of the level above to (n, cond_width, H / 2, W / 2); None of a top level.

        Raises:
            ValueError: as ``forward``.
        """
        if (condition is not None) != self.conditional:
            need = "needs the map above: give condition" if self.conditional else "has no map above: give no condition"
            raise ValueError(f"A prior with{'' if self.conditional else 'out'} cond_blocks {need}.")
        if condition is None:
            return None
        self.check("condition", condition, (n, self.shape[0] // 2, self.shape[1] // 2))
        return self.cond_resnet(condition)

    def check(self, name: str, codes: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse what is no map of codes of such a shape (ValueError)."""
        if codes.dtype != torch.int64 or tuple(codes.shape) != shape:
            raise ValueError(f"{name} must be int64 {shape}, not {codes.dtype} {tuple(codes.shape)}.")
        # Elsewhere the question would wait for the device, which stops at such a number by itself.
        if codes.device.type == "cpu" and codes.numel() and not 0 <= codes.min() <= codes.max() < self.classes:
            raise ValueError(
                f"{name} must be in [0, {self.classes}), but go from {int(codes.min())} to {int(codes.max())}."
            )


def coordinates(height: int, width: int) -> Tensor:
    """(1, 2, H, W): (row - H / 2) / H and (column - W / 2) / W."""
    rows = (torch.arange(height) - height / 2) / height
    columns = (torch.arange(width) - width / 2) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
