"""Layers that progressive and style-based generators and their discriminators share.

Karras et al., *Progressive Growing of GANs*, ICLR 2018; Karras, Laine, Aila, *A Style-Based Generator Architecture for
GANs*, CVPR 2019; Pidhorskyi et al., *Adversarial Latent Autoencoders*, CVPR 2020.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, group_norm, interpolate, leaky_relu, linear, pad

from networks.precision import wide
from networks.prepared import prepared

SQRT2 = math.sqrt(2.0)


class EqualizedLinear(nn.Linear):
    """y = gain / sqrt(fan_in) W x + b with W ~ N(0, 1), so that Adam moves all layers alike (ProGAN, section 4.1).

    Args:
        inputs: fan_in.
        outputs: numbers of y.
        gain: He's sqrt(2) in front of a rectifier, 1 in front of nothing.
        rate: multiplies what the optimizer does to the layer; StyleGAN's mapping has 0.01. Weights start 1 / rate
            larger, so that the layer starts as it would without.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = SQRT2, rate: float = 1.0) -> None:
        self.scale, self.rate = gain / math.sqrt(inputs) * rate, rate
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """W ~ N(0, 1 / rate^2), b = 0."""
        nn.init.normal_(self.weight, 0.0, 1 / self.rate)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return linear(x, self.scaled(), self.bias * self.rate)

    def scaled(self) -> Tensor:
        """The weights in use."""
        return prepared(self.weight, lambda weight: weight * self.scale)


class EqualizedConv2d(nn.Conv2d):
    """As ``EqualizedLinear``, a convolution of stride 1 that keeps the size of odd kernels; fan_in is kernel^2 inputs.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: height and width.
        gain: as there.
        padding: zeros at each border; by default as many as keep the size.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = SQRT2, padding: int | None = None) -> None:
        self.scale = gain / math.sqrt(inputs * kernel**2)
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 if padding is None else padding)

    def reset_parameters(self) -> None:
        """W ~ N(0, 1), b = 0."""
        nn.init.normal_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return conv2d(x, self.scaled(), self.bias, padding=self.padding)

    def enlarged(self, x: Tensor) -> Tensor:
        """The same of an image of twice the size: ``forward(doubled(x))`` with 16 instead of 36 products."""
        kernel = prepared(self.weight, lambda weight: shifted_sum(weight * self.scale).flip(2, 3).transpose(0, 1))
        return conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)

    def halved(self, x: Tensor) -> Tensor:
        """The same, and then half the size: ``avg_pool2d(forward(x), 2)`` with 16 instead of 36 products."""
        kernel = prepared(self.weight, lambda weight: shifted_sum(weight * self.scale) / 4)
        return conv2d(x, kernel, self.bias, stride=2, padding=1)

    def scaled(self) -> Tensor:
        """The weights in use."""
        return prepared(self.weight, lambda weight: weight * self.scale)


def shifted_sum(kernel: Tensor) -> Tensor:
    """(..., 3, 3) to (..., 4, 4): four copies, each a pixel further, summed; the kernel and a 2x2 box in one."""
    wide = pad(kernel, (1, 1, 1, 1))
    return wide[..., 1:, 1:] + wide[..., 1:, :-1] + wide[..., :-1, 1:] + wide[..., :-1, :-1]


def doubled(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2 H, 2 W), every pixel four times."""
    return interpolate(x, scale_factor=2, mode="nearest")


class Blur(nn.Module):
    """[1, 2, 1] x [1, 2, 1] / 16 over each channel, zeros around the image, in its own type under autocast too.

    A convolution, since pooling twice takes ten times as long on a CPU; what it is by way back, ``_SymmetricFilter``
    says. Checkpoints do not hold the filter.

    Args:
        channels: of the image.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (line[:, None] * line).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            return _SymmetricFilter.apply(x, self.kernel.to(x.dtype))


class _SymmetricFilter(torch.autograd.Function):
    """Each channel by a fixed 3x3 kernel that is the same upside down and mirrored: its gradient is the filter again.

    torch's own second gradient of a convolution, which R1 takes, makes gradients of the kernel too, a channel at a
    time, although nobody asked: a tenth of an iteration of StyleGAN at 64 pixels on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        return conv2d(x, kernel, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SymmetricFilter.apply(gradient, *ctx.saved_tensors), None


def faded(x: Tensor, share: float) -> Tensor:
    """A real image of which only a ``share`` of the details of its own resolution is there, while that fades in."""
    return x if share >= 1 else torch.lerp(doubled(avg_pool2d(x, 2)), x, share)


def pixel_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean over dimension 1 of x^2 + 1e-8): features of each pixel, or a code, of unit size (ProGAN, 4.2)."""
    y = wide(x)
    return (y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-8)).to(x.dtype)


def styled(x: Tensor, style: Tensor, eps: float) -> Tensor:
    """Instance normalisation, then another affine map for each image, its weights counted from 1 (StyleGAN, Eq. 1).

    Args:
        x: (N, C, H, W).
        style: (N, 2 C), weights less 1 of all channels and then their biases.
        eps: added to the biased variance.

    Returns:
        (N, C, H, W).
    """
    n, c = x.shape[:2]
    weight, bias = wide(style).chunk(2, dim=1)
    rows = wide(x).reshape(1, n * c, *x.shape[2:])
    return group_norm(rows, n * c, 1 + weight.flatten(), bias.flatten(), eps).reshape(x.shape).to(x.dtype)


def with_deviation(x: Tensor, group: int = 4) -> Tensor:
    """A channel more: how much the features of a few images differ (minibatch deviation, ProGAN, section 3).

    The deviation over each group's images, sqrt(var + 1e-8) with the biased variance, is averaged over all features and
    pixels. Image i is in group i mod (N / group), as in the official code. On several processes groups are of one
    process's images.

    Args:
        x: (N, C, H, W).
        group: images of a group; all where N is no multiple of it.

    Returns:
        (N, C + 1, H, W).
    """
    n, c, h, w = x.shape
    members = group if n % group == 0 else n
    y = wide(x).view(members, n // members, c, h, w)
    deviation = (y.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)
    return torch.cat((x, deviation.repeat(members).view(n, 1, 1, 1).expand(n, 1, h, w)), 1)


class Verdict(nn.Module):
    """What ends a discriminator at 4x4: the minibatch deviation, a convolution, a dense layer and a score.

    Args:
        width: channels.
        group: images of which the deviation is taken.
        gain: of the score's layer; ProGAN 1, rosinality's StyleGAN sqrt(2).
    """

    def __init__(self, width: int, group: int, gain: float) -> None:
        super().__init__()
        self.group = group
        self.last = EqualizedConv2d(width + 1, width, 3)
        self.dense = EqualizedConv2d(width, width, 4, padding=0)
        self.score = EqualizedLinear(width, 1, gain)

    def forward(self, h: Tensor) -> Tensor:
        """(N, width, 4, 4) to (N,)."""
        h = leaky_relu(self.last(with_deviation(h, self.group)), 0.2)
        return self.score(leaky_relu(self.dense(h), 0.2).flatten(1)).flatten()
