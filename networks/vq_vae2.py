"""Networks of VQ-VAE-2 (Razavi, van den Oord and Vinyals 2019): an image as maps of codes, coarse to fine.

Levels are numbered from the top, the coarsest, 0. Two levels are the PyTorch release's:

    here            release             what
    encoders.1      enc_b               image to the bottom's features
    encoders.0      enc_t               those to the top's, half as high and wide
    projections.l   quantize_conv_t, _b features to the vectors that are rounded
    codebooks.l     quantize_t, _b
    conditioners.0  dec_t               the top's codes to what the bottom's are given beside the features
    upsamples.0     upsample_t          the top's codes at the bottom's size
    decoder         dec                 all codes to the image

Inside each the names are the release's. The release has no third level; how the paper's (images of 1024, codes of 32,
64 and 128) is wired here is our choice: what "the top's codes" are of two levels, of more are all codes so far, those
of a level behind those above it upsampled, (l + 1) D channels. Conditioner and upsampling of that level both take
these. So a level knows all above it, and the decoder sees all of them.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from networks.codebook import Codebook, Quantised


class ResBlock(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x)))).

    Args:
        width: channels in and out.
        res_width: channels between the convolutions.
    """

    def __init__(self, width: int, res_width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.ReLU(),  # not in place: x is added again
            nn.Conv2d(width, res_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(res_width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        return self.conv(x) + x


class Encoder(nn.Module):
    """Convolutions of stride 2 with ReLU, one of 3x3, residual blocks, ReLU.

    Args:
        channels: of the input.
        width: channels of the output; after the first convolution half of it.
        res_blocks: how many.
        res_width: channels inside the residual blocks.
        stride: of all together, 2, 4, 8 and so on. The release has 2 and 4.
    """

    def __init__(self, channels: int, width: int, res_blocks: int, res_width: int, stride: int) -> None:
        super().__init__()
        widths = widths_of(channels, width, stride)
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 4, 2, 1), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(widths[-1], width, 3, padding=1), *(ResBlock(width, res_width) for _ in range(res_blocks))]
        self.blocks = nn.Sequential(*layers, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, width, H / stride, W / stride)."""
        return self.blocks(x)


class Decoder(nn.Module):
    """The mirror of the encoder, transposed convolutions of stride 2; nothing after the last.

    Args:
        in_channels: of the input.
        channels: of the output.
        width, res_blocks, res_width, stride: of the encoder.
    """

    def __init__(
        self, in_channels: int, channels: int, width: int, res_blocks: int, res_width: int, stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        layers += [ResBlock(width, res_width) for _ in range(res_blocks)]
        widths = [width, *widths_of(channels, width, stride)[-2::-1]]
        for i, o in pairwise(widths):
            layers += [nn.ReLU(inplace=True), nn.ConvTranspose2d(i, o, 4, 2, 1)]
        self.blocks = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, stride H, stride W)."""
        return self.blocks(h)


class VQVAE2Networks(nn.Module):
    """Encoders, codebooks and decoder of all levels.

    Args:
        channels: of the image.
        width: channels of the features; official 128.
        res_blocks: residual blocks of each network; official 2.
        res_width: channels inside them; official 32, paper 64.
        dim: D, numbers of a code; official 64.
        codes: K, entries of each level's codebook; official 512.
        levels: official 2; paper 2 for images of 256 pixels, 3 for 1024.
        stride: of the bottom's codes, a power of 2; official 4, paper 4 for images of 256 pixels, 8 for 1024.
        decay, eps, restart_below: of the codebooks. (The release lets nobody change its decay.)

    Attributes:
        multiple: height and width of images are multiples of it.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        res_blocks: int = 2,
        res_width: int = 32,
        dim: int = 64,
        codes: int = 512,
        levels: int = 2,
        stride: int = 4,
        decay: float = 0.99,
        eps: float = 1e-5,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be 1 or more, not {levels}.")
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of 2 from 2 on, not {stride}.")
        if width < 2:
            raise ValueError(f"width must be 2 or more, not {width}: half of it is what the first convolution gives.")
        self.multiple = stride * 2 ** (levels - 1)
        size = (width, res_blocks, res_width)
        bottom, above = levels - 1, range(levels - 1)
        self.encoders = nn.ModuleList(
            Encoder(channels if k == bottom else width, *size, stride if k == bottom else 2) for k in range(levels)
        )
        self.projections = nn.ModuleList(nn.Conv2d(width if k == 0 else dim + width, dim, 1) for k in range(levels))
        self.codebooks = nn.ModuleList(Codebook(dim, codes, decay, eps, restart_below) for _ in range(levels))
        self.conditioners = nn.ModuleList(Decoder((k + 1) * dim, dim, *size, 2) for k in above)
        self.upsamples = nn.ModuleList(nn.ConvTranspose2d((k + 1) * dim, (k + 1) * dim, 4, 2, 1) for k in above)
        self.decoder = Decoder(levels * dim, channels, *size, stride)

    def encode(self, x: Tensor) -> list[Quantised]:
        """Codes, commitment and indices of each level, the top first.

        In training mode the codebooks follow what they round, once a call: also where gradients of several are summed.

        Args:
            x: (N, C, H, W) in [-1, 1], H and W multiples of ``multiple``.

        Returns:
            Of level l of L maps of (H, W) / (stride 2^(L - 1 - l)).

        Raises:
            ValueError: H or W is no such multiple.
        """
        if x.ndim != 4 or x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(
                f"x must be (N, C, H, W) with H and W multiples of {self.multiple}, not {tuple(x.shape)}: "
                "resize, crop or pad it, or take fewer levels or a smaller stride."
            )
        features: list[Tensor] = []
        for encoder in reversed(self.encoders):
            x = encoder(x)
            features.insert(0, x)
        found: list[Quantised] = []
        for k, (h, projection) in enumerate(zip(features, self.projections, strict=True)):
            if k > 0:
                h = torch.cat((self.conditioners[k - 1](self._stack([q.codes for q in found])), h), 1)
            found.append(self._codebook(k).quantise(projection(h)))
        return found

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """The image of the codes of all levels.

        Args:
            codes: (N, D, h, w) of the top, (N, D, 2 h, 2 w) of the next, and so on.

        Returns:
            (N, C, H, W), not limited to [-1, 1].

        Raises:
            ValueError: there are more or fewer maps than levels, or their sizes do not double.
        """
        if len(codes) != len(self.codebooks):
            raise ValueError(
                f"codes must be a map of each of {len(self.codebooks)} levels, the top first, not {len(codes)}."
            )
        height, width = codes[0].shape[-2:]
        wanted = [(height * 2**k, width * 2**k) for k in range(len(codes))]
        sizes = [tuple(of_level.shape[-2:]) for of_level in codes]
        if sizes != wanted:
            raise ValueError(f"codes must double in height and width from level to level, {wanted}, not {sizes}.")
        return self.decoder(self._stack(codes))

    def lookup(self, indices: Sequence[Tensor]) -> list[Tensor]:
        """The codes (N, D, h, w) of each level whose indices are (N, h, w), the top first.

        Raises:
            ValueError: there are more or fewer maps than levels, or an index is that of no code.
        """
        if len(indices) != len(self.codebooks):
            raise ValueError(
                f"indices must be a map of each of {len(self.codebooks)} levels, the top first, not {len(indices)}."
            )
        return [self._codebook(k).lookup(of_level) for k, of_level in enumerate(indices)]

    def decode_indices(self, indices: Sequence[Tensor]) -> Tensor:
        """The image (N, C, H, W) of the indices of all levels, (N, h, w) of the top first."""
        return self.decode(self.lookup(indices))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to its reconstruction, the same shape, and the commitment, scalar, summed over levels."""
        found = self.encode(x)
        return self.decode([q.codes for q in found]), torch.stack([q.commitment for q in found]).sum()

    def _codebook(self, level: int) -> Codebook:
        codebook = self.codebooks[level]
        assert isinstance(codebook, Codebook)
        return codebook

    def _stack(self, codes: Sequence[Tensor]) -> Tensor:
        """The codes of the first l + 1 levels as one map of the last one's size, (N, (l + 1) D, h, w)."""
        stack, *below = codes
        for upsample, of_level in zip(self.upsamples, below, strict=False):
            stack = torch.cat((upsample(stack), of_level), 1)
        return stack


def only(codes: Sequence[Tensor], levels: Collection[int]) -> list[Tensor]:
    """The codes of some levels, zeros for those of the others: what these levels alone say of an image.

    Args:
        codes: (N, D, h, w) of each level, the top first.
        levels: which to keep, the top being 0.

    Raises:
        ValueError: there is no such level.
    """
    strangers = sorted(set(levels) - set(range(len(codes))))
    if strangers:
        raise ValueError(f"levels must be from 0, the top, to {len(codes) - 1}, the bottom, not {strangers[0]}.")
    return [of_level if k in levels else torch.zeros_like(of_level) for k, of_level in enumerate(codes)]


def widths_of(channels: int, width: int, stride: int) -> list[int]:
    """Channels before and after each convolution of stride 2 of an encoder: half the width, then the width."""
    return [channels, width // 2, *[width] * (stride.bit_length() - 2)]
