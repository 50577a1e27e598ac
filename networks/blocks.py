"""Layers that several papers use unchanged. A paper that needs one different copies it beside itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import conv2d, group_norm, interpolate, linear, pad, pixel_shuffle, unfold

from networks.prepared import prepared

Padding = Callable[[Tensor, int], Tensor]  # (N, C, H, W) and a margin to (N, C, H + 2 margin, W + 2 margin)
FEW_POSITIONS = 64  # measured: up to here ``FewPositionsConv`` is faster as a matrix product


def reflect(x: Tensor, margin: int) -> Tensor:
    """Pad height and width of (N, C, H, W) by reflection without repeating the border."""
    # Autocast on the CPU would widen the image to float32 here, for the convolution to narrow it again.
    with torch.autocast(x.device.type, enabled=False):
        return pad(x, (margin,) * 4, mode="reflect")


def zeros(x: Tensor, margin: int) -> Tensor:
    """Pad height and width of (N, C, H, W) with zeros."""
    return pad(x, (margin,) * 4)


def instance_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance for each image and channel; eps 1e-5, biased variance, no parameters.

    One group a channel is the same arithmetic as ``torch.nn.functional.instance_norm``, and on a CPU twice as fast.
    """
    return group_norm(x, x.shape[1])


class FewPositionsConv(nn.Conv2d):
    """An unpadded convolution that becomes one matrix product where its output has few positions.

    A discriminator's last layers have millions of weights and a handful of positions. On a CPU the backward pass of
    such a convolution takes two to ten times as long as reading its weights, which is all that a product needs.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output.
        kernel_size: height and width of the kernel.
        stride: along both axes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        k, stride = self.kernel_size[0], self.stride[0]
        h, w = (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1
        if x.shape[0] * h * w > FEW_POSITIONS:
            return super().forward(x)
        # No autocast: to round all those weights takes longer than to use each of them a few times.
        with torch.autocast(x.device.type, enabled=False):
            patches = unfold(x.to(self.weight.dtype), k, stride=stride).transpose(1, 2)
            return linear(patches, self.weight.flatten(1), self.bias).transpose(1, 2).unflatten(2, (h, w))


class FewChannelsConv(nn.Conv2d):
    """An unpadded convolution of stride 1 to few channels, such as the three of an image.

    A CPU computes 16 output channels at once: with three, most of its lanes idle. Four neighbouring pixels, 2 by 2,
    see one window that is wider by one; here they are the channels of one convolution of stride 2, whose weights are
    the original ones at four places of that window. Half the time, though a third more multiplications.

    Args:
        in_channels: of the input (N, C, H, W).
        out_channels: of the output; where its height or width is odd, this is the plain convolution.
        kernel_size: height and width of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        k, (height, width) = self.kernel_size[0], x.shape[2:]
        if (height - k + 1) % 2 or (width - k + 1) % 2:
            return super().forward(x)
        shifted = [pad(self.weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return pixel_shuffle(conv2d(x, torch.stack(shifted, 1).flatten(0, 1), bias, stride=2), 2)


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
            # Twice as fast as torch.std_mean, and the gradient of the norm of a constant map is 0 as well.
            centred = wide - wide.mean((1, 2, 3), keepdim=True)
            std = vector_norm(centred, dim=(1, 2, 3), keepdim=True) / (x[0].numel() - 1) ** 0.5
            scale = self.gamma.view(1, -1, 1, 1) / (std + self.eps)
            return torch.addcmul(self.beta.view(1, -1, 1, 1), centred, scale).to(x.dtype)


class ResBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), 3x3 convolutions (UNIT, MUNIT content paths, DRIT).

    Args:
        width: channels in and out.
        padding: of both convolutions.
    """

    def __init__(self, width: int, padding: Padding = reflect) -> None:
        super().__init__()
        self.padding = padding
        self.conv1 = nn.Conv2d(width, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        h = instance_norm(self.conv1(self.padding(x, 1))).relu_()
        return instance_norm(self.conv2(self.padding(h, 1))).add_(x)


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling by two, padding by two, 5x5 convolution; with reflection computed at the low resolution.

    Along one axis, with x repeated beyond its border and d[i] = x[i] - x[i-1], the even and the odd output pixels are

        even[i] = (w0 + w1) x[i-1] + (w2 + w3) x[i] + w4 x[i+1]
        odd[i]  = even[i] + w1 d[i] + w3 d[i+1]

    so in two dimensions a 3x3, a 3x2, a 2x3 and a 2x2 convolution give four pixels: 25 multiplications where
    upsampling first needs 100. Only the outermost rows and columns differ: see ``_mirror``.

    Args:
        in_channels: of the input (N, C, H, W); H and W at least 2.
        out_channels: of the output (N, C', 2H, 2W).
        pad_by: how to pad; anything but ``reflect`` is computed as it is written.
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int, pad_by: Padding = reflect) -> None:
        super().__init__(in_channels, out_channels, 5)
        self.pad_by = pad_by
        even = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.get_default_dtype())
        step = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.get_default_dtype())
        kernels = [torch.kron(rows, columns) for rows in (even, step) for columns in (even, step)]
        self.register_buffer("taps", torch.cat(kernels).T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', 2H, 2W)."""
        if self.pad_by is not reflect:
            return super().forward(self.pad_by(interpolate(x, scale_factor=2.0), 2))
        with torch.autocast(x.device.type, enabled=False):  # sums of weights are rounded once, by the convolutions
            kernels = prepared(self.weight, lambda weight: weight.flatten(2) @ self.taps)
            even, right, below, both = kernels.split((9, 6, 6, 4), -1)
            wide = pad(x, (1, 1, 1, 1), mode="replicate")
            across, down = wide.diff(dim=3), wide.diff(dim=2)
        y = conv2d(wide, even.unflatten(-1, (3, 3)), self.bias)
        step_right = conv2d(across, right.unflatten(-1, (3, 2)))
        step_below = conv2d(down, below.unflatten(-1, (2, 3)))
        step_both = conv2d(across.diff(dim=2), both.unflatten(-1, (2, 2)))
        y_right, y_below = y + step_right, y + step_below
        pixels = torch.stack((y, y_right, y_below, y_right + step_below + step_both), 2)
        return self._mirror(pixel_shuffle(pixels.flatten(1, 2), 2), x)

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
