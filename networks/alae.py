"""Networks of ALAE and StyleALAE (Pidhorskyi, Adjeroh, Doretto, CVPR 2020): F, G, E and D, in the release's numbers.

Learning rates are equalised the implicit way. Weights start at N(0, gain^2 / fan_in) and are used as they are; what
ProGAN multiplies at each use, gain / sqrt(fan_in), multiplies the optimizer's step instead. Each layer knows the rate
of its parameters (``rates``), and ``groups_by_rate`` sorts them for ``networks.lreq_adam``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, leaky_relu, linear

from networks.prepared import prepared
from networks.style import SQRT2, Blur, doubled, pixel_norm, shifted_sum, styled

Noise = Callable[[Tensor], Tensor]  # a tensor to a normal draw of its shape, type and place

LOWEST = 4  # height and width of the lowest resolution
PIXELS = 28  # height and width of what the MLPs see
MAPPING_RATE = 0.1  # of the layers of F and D
TO_RGB_GAIN = 0.03
GENERATOR_EPS, ENCODER_EPS = 1e-8, 1e-5  # added to the variance by the two instance normalisations


class Linear(nn.Linear):
    """W x + b with W ~ N(0, gain^2 / fan_in), in float32 under autocast too: codes and styles are few and decide much.

    Args:
        inputs: fan_in.
        outputs: numbers of the result.
        gain: He's sqrt(2) in front of a rectifier.
        rate: multiplies the steps of weights and biases beside what equalises them.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = SQRT2, rate: float = 1.0) -> None:
        self.deviation = gain / math.sqrt(inputs)
        super().__init__(inputs, outputs)
        self.rates = {"weight": self.deviation * rate, "bias": rate}

    def reset_parameters(self) -> None:
        """W ~ N(0, gain^2 / fan_in), b = 0."""
        nn.init.normal_(self.weight, 0.0, self.deviation)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(self.weight.dtype), self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """As ``Linear``, a convolution of stride 1 that keeps the size; fan_in is kernel^2 inputs.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: height and width, odd.
        gain: as there.
        bias: whether there is one; blocks have theirs, which comes after the noise or the blur.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = SQRT2, bias: bool = True) -> None:
        self.deviation = gain / math.sqrt(inputs * kernel**2)
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.rates = {"weight": self.deviation, "bias": 1.0}

    def reset_parameters(self) -> None:
        """W ~ N(0, gain^2 / fan_in), b = 0."""
        nn.init.normal_(self.weight, 0.0, self.deviation)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def enlarged(self, x: Tensor) -> Tensor:
        """Twice the size, then the convolution of a 3x3 kernel, in one.

        The release has this kernel of four shifted copies from 128 pixels on (``transform_kernel``), and two steps
        below; both are the same function, up to the rounding of sums.
        """
        kernel = prepared(self.weight, lambda weight: shifted_sum(weight).flip(2, 3).transpose(0, 1))
        return conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)

    def halved(self, x: Tensor) -> Tensor:
        """The convolution of a 3x3 kernel, then means of 2x2 pixels, in one; the same as there."""
        kernel = prepared(self.weight, lambda weight: shifted_sum(weight) / 4)
        return conv2d(x, kernel, self.bias, stride=2, padding=1)


def groups_by_rate(*nets: nn.Module) -> list[dict[str, object]]:
    """Groups for an optimizer, one a rate: ``params`` and ``rate``. Parameters that no layer knows of have rate 1."""
    groups: dict[float, list[nn.Parameter]] = {}
    for net in nets:
        for part in net.modules():
            for name, parameter in part.named_parameters(recurse=False):
                rates = part.rates if isinstance(part, Linear | Conv2d) else {}
                groups.setdefault(rates.get(name, 1.0), []).append(parameter)
    return [{"params": parameters, "rate": rate} for rate, parameters in groups.items()]


def checked_half_life(images: float) -> float:
    """Of ``follow_images_``, which is more than 0 (ValueError)."""
    if not images > 0:
        raise ValueError(f"half_life is {images} images: give more than 0.")
    return images


@torch.no_grad()
def follow_images_(average: nn.Module, module: nn.Module, images: int, half_life: float = 10_000.0) -> None:
    """Move an average towards the weights by an iteration of so many images.

    The release's average, 0.5^(images / half_life); ``networks.ema.follow_`` is quicker at the start.

    Args:
        average: from ``networks.ema.frozen_copy`` of ``module``.
        module: what is trained.
        images: of all processes.
        half_life: images after which half of a change is there.
    """
    mine: list[Tensor] = [*average.parameters()]
    theirs: list[Tensor] = [*module.parameters()]
    torch._foreach_lerp_(mine, theirs, 1 - 0.5 ** (images / half_life))


class MappingF(nn.Module):
    """F: z of unit size, then linear layers with LeakyReLU, the last too.

    Args:
        latent: numbers of z and of w.
        layers: how many.
    """

    def __init__(self, latent: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(latent, latent, rate=MAPPING_RATE) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, latent)."""
        w = pixel_norm(z)
        for layer in self.layers:
            w = leaky_relu(layer(w), 0.2)
        return w


class MappingD(nn.Module):
    """D: three linear layers with nothing between them, of whose outputs one is the logit and the rest is never read.

    Args:
        latent: numbers of w.
        outputs: of the last layer; StyleALAE 2 latent, the MLP latent.
        logit: number of the one output; StyleALAE latent, the MLP 0.
    """

    def __init__(self, latent: int, outputs: int, logit: int) -> None:
        super().__init__()
        self.logit = logit
        sizes = (latent, latent, outputs)
        self.layers = nn.ModuleList(Linear(latent, size, rate=MAPPING_RATE) for size in sizes)

    def forward(self, w: Tensor) -> Tensor:
        """(N, latent) to (N,) logits."""
        for layer in self.layers:
            w = layer(w)
        return w[:, self.logit]


class MLPEncoder(nn.Module):
    """E of 28x28 pixels: three linear layers, each with a LeakyReLU.

    Args:
        latent: numbers of w.
        width: units of both hidden layers.
        slopes: of the three LeakyReLUs.
    """

    def __init__(self, latent: int, width: int, slopes: tuple[float, ...]) -> None:
        super().__init__()
        self.slopes = slopes
        sizes = (PIXELS**2, width, width)
        self.layers = nn.ModuleList(Linear(i, o) for i, o in zip(sizes, (width, width, latent), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W), resized to 28x28 by nearest pixels, to (N, latent)."""
        return self.features(x)[1]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and before it (N, width), what comes out of the second LeakyReLU."""
        h = hidden = resized(x, PIXELS).flatten(1)
        for layer, slope in zip(self.layers, self.slopes, strict=True):
            hidden, h = h, leaky_relu(layer(h), slope)
        return hidden, h


class MLPGenerator(nn.Module):
    """G of 28x28 pixels: three linear layers, LeakyReLUs after the first two.

    Args:
        latent: numbers of w.
        width: units of both hidden layers.
        slopes: of the two LeakyReLUs.
        size: height and width of the images, made of 28x28 by nearest pixels.
    """

    def __init__(self, latent: int, width: int, slopes: tuple[float, ...], size: int) -> None:
        super().__init__()
        self.slopes, self.size = slopes, size
        sizes = (latent, width, width)
        self.layers = nn.ModuleList(Linear(i, o) for i, o in zip(sizes, (width, width, PIXELS**2), strict=True))

    def forward(self, w: Tensor) -> Tensor:
        """(N, latent) to (N, 1, size, size), any real numbers."""
        *hidden, last = self.layers
        for layer, slope in zip(hidden, self.slopes, strict=True):
            w = leaky_relu(layer(w), slope)
        return resized(last(w).view(-1, 1, PIXELS, PIXELS), self.size)


def resized(x: Tensor, size: int) -> Tensor:
    """(N, C, H, W) to (N, C, size, size) by nearest pixels."""
    return x if x.shape[-2:] == (size, size) else interpolate(x, size=(size, size), mode="nearest")


class Generator(nn.Module):
    """G of StyleALAE: a learnt constant of 4x4, and a block a resolution that styles and noise shape.

    Args:
        channels: of the images.
        levels: resolutions, from 4x4 on.
        latent: numbers of a style code.
        width: channels at the highest resolution; each lower one has twice as many.
        max_width: but never more than this.
    """

    def __init__(self, channels: int, levels: int, latent: int, width: int, max_width: int) -> None:
        super().__init__()
        widths = [min(max_width, width * 2 ** (levels - 1 - k)) for k in range(levels)]
        self.const = nn.Parameter(torch.ones(1, widths[0], LOWEST, LOWEST))
        self.blocks = nn.ModuleList(GeneratorBlock(k, widths[max(k - 1, 0)], widths[k], latent) for k in range(levels))
        self.to_rgb = nn.ModuleList(Conv2d(each, channels, 1, TO_RGB_GAIN) for each in widths)

    def forward(self, styles: Tensor, level: int, blend: float = 1.0, noise: Noise | None = None) -> Tensor:
        """Images of one resolution.

        Args:
            styles: (N, 2 (level + 1) or more, latent), two codes a block.
            level: number of the resolution, 0 for 4x4.
            blend: share of this resolution; the rest is the image of the one below, enlarged.
            noise: what the blocks add; None for the release's ``noise=False``, which is not "no noise": see ``bump``.

        Returns:
            (N, channels, 4 2^level, 4 2^level), any real numbers.
        """
        x = self.const
        for k in range(level + 1):
            lower, x = x, self.blocks[k](x, styles[:, 2 * k : 2 * k + 2], noise)
        image = self.to_rgb[level](x)
        if blend == 1 or level == 0:
            return image
        return torch.lerp(doubled(self.to_rgb[level - 1](lower)), image, blend)


class GeneratorBlock(nn.Module):
    """Twice noise, bias, LeakyReLU, normalisation and style, in this order; before the first the size is doubled.

    Args:
        number: of the block; 0 has a constant to begin with and no first convolution.
        inputs: channels.
        outputs: channels.
        latent: numbers of a style code.
    """

    def __init__(self, number: int, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.width = math.sqrt(number + 1)  # of the bump
        self.conv_1 = Conv2d(inputs, outputs, 3, bias=False) if number > 0 else None
        self.blur = Blur(outputs)
        self.conv_2 = Conv2d(outputs, outputs, 3, bias=False)
        self.noise_weight_1, self.bias_1 = (nn.Parameter(torch.zeros(1, outputs, 1, 1)) for _ in range(2))
        self.noise_weight_2, self.bias_2 = (nn.Parameter(torch.zeros(1, outputs, 1, 1)) for _ in range(2))
        self.style_1, self.style_2 = (Linear(latent, 2 * outputs, gain=1.0) for _ in range(2))

    def forward(self, x: Tensor, styles: Tensor, noise: Noise | None) -> Tensor:
        """(N, inputs, H, W), or (1, inputs, 4, 4) in block 0, and (N, 2, latent) to (N, outputs, 2 H, 2 W).

        The constant becomes a batch only with its first style, so that its first noise is one draw for all images.
        """
        if self.conv_1 is not None:
            x = self.blur(self.conv_1.enlarged(x))
        x = self.activated(x, self.noise_weight_1, self.bias_1, noise)
        x = styled(x.expand(len(styles), -1, -1, -1), self.style_1(styles[:, 0]), GENERATOR_EPS)
        x = self.activated(self.conv_2(x), self.noise_weight_2, self.bias_2, noise)
        return styled(x, self.style_2(styles[:, 1]), GENERATOR_EPS)

    def activated(self, x: Tensor, weight: Tensor, bias: Tensor, noise: Noise | None) -> Tensor:
        """LeakyReLU of x + noise + bias; one noise map for all channels, of weights (1, outputs, 1, 1)."""
        x = x.to(weight.dtype)
        added = bump(x, self.width) if noise is None else weight * noise(x[:, :1])
        return leaky_relu(x + added + bias, 0.2)


def bump(x: Tensor, width: float) -> Tensor:
    """0.8 width exp(-x^2 / (2 width^2)) / sqrt(2 pi): what the release adds where it was asked for no noise."""
    return 0.8 * width / math.sqrt(2 * math.pi) * torch.exp(-x.square() / (2 * width**2))


class Encoder(nn.Module):
    """E of StyleALAE, also the trunk of the discriminator: w is a sum over blocks of what their channels look like.

    Args:
        channels: of the images.
        levels: resolutions, from 4x4 on.
        latent: numbers of w.
        width: channels at the highest resolution; each lower one has twice as many.
        max_width: but never more than this.
        deviation_eps: added to the variance of a channel before the root that the styles see. Release 0: then an image
            of which a channel is constant has a gradient that is not finite; 1e-12 heals it.
    """

    def __init__(
        self, channels: int, levels: int, latent: int, width: int, max_width: int, deviation_eps: float = 0.0
    ) -> None:
        super().__init__()
        self.deviation_eps = deviation_eps
        widths = [min(max_width, width * 2**k) for k in range(levels + 1)]
        self.from_rgb = nn.ModuleList(Conv2d(channels, each, 1) for each in widths[:-1])
        self.blocks = nn.ModuleList(
            EncoderBlock(*pair, latent, deviation_eps) for pair in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor, level: int, blend: float = 1.0) -> Tensor:
        """Codes of images of one resolution; the block of the highest resolution is number 0, as in the release.

        Args:
            x: (N, channels, 4 2^level, 4 2^level).
            level: number of the resolution, 0 for 4x4.
            blend: share of what the first block says and passes on; the rest comes from the image of half the size.

        Returns:
            (N, latent).
        """
        first = len(self.blocks) - 1 - level
        h, w = self.blocks[first](self.features(x, first))
        if blend != 1 and level > 0:
            h, w = torch.lerp(self.features(avg_pool2d(x, 2), first + 1), h, blend), w * blend
        for block in self.blocks[first + 1 :]:
            h, said = block(h)
            w = w + said
        return w

    def features(self, x: Tensor, number: int) -> Tensor:
        """What block ``number`` takes of an image; the release has two LeakyReLUs of slope 0.2 here, in a row."""
        rgb = self.from_rgb[number]
        return leaky_relu(rgb(x).to(rgb.weight.dtype), 0.2**2)


class EncoderBlock(nn.Module):
    """Two convolutions; after each, mean and deviation of the channels speak for w and then are taken out.

    Args:
        inputs: channels.
        outputs: channels.
        latent: numbers of w.
        deviation_eps: as in ``Encoder``.
    """

    def __init__(self, inputs: int, outputs: int, latent: int, deviation_eps: float) -> None:
        super().__init__()
        self.deviation_eps = deviation_eps
        self.conv_1, self.conv_2 = Conv2d(inputs, inputs, 3, bias=False), Conv2d(inputs, outputs, 3, bias=False)
        self.blur = Blur(inputs)
        self.bias_1, self.bias_2 = (nn.Parameter(torch.zeros(1, each, 1, 1)) for each in (inputs, outputs))
        self.style_1, self.style_2 = Linear(2 * inputs, latent), Linear(2 * outputs, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, H, W) to (N, outputs, H / 2, W / 2) and what the block says of w, (N, latent)."""
        h = leaky_relu(self.conv_1(x) + self.bias_1, 0.2)
        first, h = self.normalised(h)
        h = leaky_relu(self.conv_2.halved(self.blur(h)) + self.bias_2, 0.2)
        second, h = self.normalised(h)
        return h, self.style_1(first) + self.style_2(second)

    def normalised(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the channels, (N, 2 C), and (N, C, H, W) without them: one look at h serves both."""
        mean = h.mean((2, 3), keepdim=True)
        centred = h - mean
        variance = centred.square().mean((2, 3), keepdim=True)
        look = torch.cat((mean, (variance + self.deviation_eps).sqrt()), 1).flatten(1)
        return look, centred * torch.rsqrt(variance + ENCODER_EPS)
