"""Layers that several papers use unchanged. A paper that needs one different copies it beside itself."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, pad, pixel_shuffle


def reflect(x: Tensor, margin: int) -> Tensor:
    """Pad height and width of (N, C, H, W) by reflection without repeating the border."""
    return pad(x, (margin,) * 4, mode="reflect")


def instance_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance for each image and channel; eps 1e-5, biased variance, no parameters.

    One group a channel is the same arithmetic as ``torch.nn.functional.instance_norm``, and on a CPU twice as fast.
    """
    return group_norm(x, x.shape[1])


class LayerNorm(nn.Module):
    """Layer normalisation of the official UNIT and MUNIT decoders: y = gamma (x - mean) / (std + eps) + beta.

    Mean and *unbiased* deviation of each image over channels and positions, eps outside the root: not
    ``nn.LayerNorm``. Statistics stay in float32 under autocast. gamma starts as U(0, 1), beta as 0.

    Args:
        channels: of the input (N, C, H, W).
        eps: added to the deviation.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            std, mean = torch.std_mean(wide, (1, 2, 3), keepdim=True)
            # One scale and one shift a channel: the image is read once here instead of four times.
            scale = self.gamma.view(1, -1, 1, 1) / (std + self.eps)
            return torch.addcmul(self.beta.view(1, -1, 1, 1) - mean * scale, wide, scale)


class ResBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), 3x3 convolutions, reflection padding (UNIT, MUNIT content paths).

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        h = instance_norm(self.conv1(reflect(x, 1))).relu_()
        return x + instance_norm(self.conv2(reflect(h, 1)))


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling by two, reflection padding by two, 5x5 convolution, computed at the low resolution.

    Of the 25 taps of one output pixel only 9 see different input pixels, so each of the four output phases is a
    3x3 convolution of the input whose weights are sums of the 5x5 ones: 36 multiplications where upsampling
    first needs 100. Along an axis, even pixels weigh (x[i-1], x[i], x[i+1]) by (w0+w1, w2+w3, w4) and odd ones by
    (w0, w1+w2, w3+w4). Only the outermost rows and columns differ: see ``_mirror``.

    Args:
        in_channels: of the input (N, C, H, W); H and W at least 2.
        out_channels: of the output (N, C', 2H, 2W).
    """

    phases: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5)
        even = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]  # three low-resolution taps by five taps
        odd = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
        axis = torch.tensor([even, odd], dtype=torch.get_default_dtype())
        both = torch.einsum("ptk,qsl->klpqts", axis, axis)
        self.register_buffer("phases", both.reshape(25, 36), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', 2H, 2W)."""
        o, i = self.weight.shape[:2]
        with torch.autocast(x.device.type, enabled=False):  # sums of weights are rounded once, by the convolution
            weight = (self.weight.flatten(2) @ self.phases).view(o, i, 4, 9).transpose(1, 2).reshape(4 * o, i, 3, 3)
        y = conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), weight, self.bias.repeat_interleave(4))
        return self._mirror(pixel_shuffle(y, 2), x)

    def _mirror(self, y: Tensor, x: Tensor) -> Tensor:
        """Turn the replicated border into the reflected one.

        Upsampled and reflected, the pixels before the first are x[0], x[1]; replication has x[0], x[0]. Only the
        outermost output rows see the second of them, through their outermost tap: they lack w0 * (x[1] - x[0])
        above and w4 * (x[-2] - x[-1]) below. Rows are mended with their true columns, then columns with
        replicated rows, so that each corner is mended once.
        """
        w = self.weight
        top, bottom = x[:, :, 1] - x[:, :, 0], x[:, :, -2] - x[:, :, -1]
        rows = pad(torch.cat((top, bottom)).repeat_interleave(2, -1), (2, 2), mode="reflect")
        left, right = x[:, :, :, 1] - x[:, :, :, 0], x[:, :, :, -2] - x[:, :, :, -1]
        columns = pad(torch.cat((left, right)).repeat_interleave(2, -1), (2, 2), mode="replicate")
        top, bottom = _strips(rows, torch.stack((w[:, :, 0], w[:, :, 4])))
        left, right = _strips(columns, torch.stack((w[:, :, :, 0], w[:, :, :, 4])))
        y[:, :, 0] += top
        y[:, :, -1] += bottom
        y[:, :, :, 0] += left
        y[:, :, :, -1] += right
        return y


def _strips(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve two sides at once: (2 N, C, L) with (2, C', C, 5) to (2, N, C', L - 4), one matrix product a side."""
    n = x.shape[0] // 2
    patches = x.unfold(-1, 5, 1).unflatten(0, (2, n)).permute(0, 2, 4, 1, 3)  # (2, C, 5, N, L - 4)
    y = torch.bmm(weight.flatten(2), patches.flatten(3).flatten(1, 2))
    return y.unflatten(2, (n, -1)).transpose(1, 2)
