"""Networks of variational auto-encoders: an encoder to mean and logarithm of the variance, a decoder to logits.

Pixels are in [0, 1]. The decoder gives what comes before the sigmoid, for a Bernoulli likelihood a logit of each pixel.
Both have convolutions of stride 2 between the image and 4x4, then linear layers; without convolutions only the latter.

    lecture              convs (),                hidden (400,), decoder (400,)
    Higgins et al. 2017  convs (),                hidden (1200, 1200), decoder (1200, 1200, 1200) with tanh
    Burgess et al. 2018  convs (32, 32, 32, 32),  hidden (256, 256), decoder (256, 256)
    Locatello et al. 2019, code  convs (32, 32, 64, 64), kernels (4, 4, 2, 2), hidden (256,), decoder (256,)
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu


class Encoder(nn.Module):
    """Image to the mean and the logarithm of the variance of its code; ReLU after every layer but the last.

    Args:
        image_shape: (C, H, W); with n convolutions H and W are 4 2^n.
        latent: coordinates of the code.
        convs: channels after each convolution.
        kernels: of the convolutions, 4 with padding 1 or 2 without.
        hidden: units of the linear layers, at least one.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent: int,
        convs: Sequence[int],
        kernels: Sequence[int],
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        ends = pairwise((image_shape[0], *convs))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, 2, k // 2 - 1) for (i, o), k in zip(ends, kernels, strict=True))
        size = convs[-1] * 4 * 4 if convs else math.prod(image_shape)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((size, *hidden)))
        self.mu, self.logvar = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, latent) each."""
        h = self.features(x)
        return self.mu(h), self.logvar(h)

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to what the last hidden layer says of it, (N, hidden)."""
        for conv in self.convs:
            x = conv(x).relu()
        h = x.flatten(1)
        for layer in self.layers:
            h = layer(h).relu()
        return h


class Decoder(nn.Module):
    """Code to logits of pixels, the mirror of the encoder with kernels of 4.

    Args:
        latent: coordinates of the code.
        image_shape: (C, H, W); of a normal likelihood with two channels a colour.
        convs: the encoder's.
        hidden: units of the linear layers, from the code on.
        tanh: after the linear layers, not ReLU.
    """

    def __init__(
        self, latent: int, image_shape: Sequence[int], convs: Sequence[int], hidden: Sequence[int], tanh: bool = False
    ) -> None:
        super().__init__()
        self.nonlinearity = torch.tanh if tanh else torch.relu
        self.map_shape = (convs[-1], 4, 4) if convs else tuple(image_shape)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((latent, *hidden, math.prod(self.map_shape))))
        ends = pairwise((*convs[::-1], image_shape[0])) if convs else ()
        self.convs = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in ends)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, C, H, W)."""
        for layer in self.layers[:-1]:
            z = self.nonlinearity(layer(z))
        h = self.layers[-1](z).unflatten(1, self.map_shape)
        for conv in self.convs:
            h = conv(h.relu())
        return h


class PermutationDiscriminator(nn.Module):
    """Tells codes from codes whose coordinates were shuffled each for itself (Kim and Mnih 2018, Appendix B).

    Args:
        latent: coordinates of the code.
        width: units of a hidden layer.
        layers: hidden layers, with LeakyReLU of slope 0.2; paper and Locatello et al. 6, disvae 5.
    """

    def __init__(self, latent: int, width: int = 1000, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((latent, *[width] * layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to logits (N, 2): of the code as it is, of one with shuffled coordinates."""
        for layer in self.layers:
            z = leaky_relu(layer(z), 0.2)
        return self.head(z)
