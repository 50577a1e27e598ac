"""Networks of variational auto-encoders: encoders to mean and logarithm of the variance, decoders to logits.

Pixels are in [0, 1]. A decoder gives what comes before the sigmoid: of a Bernoulli likelihood the logit of every pixel.
Each pair is one module with ``encoder``, ``decoder``, ``latent`` (coordinates of the code) and ``image_shape``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FullyConnectedEncoder(nn.Module):
    """Flattened pixels, hidden layers with ReLU, one linear layer each for mean and logarithm of the variance.

    Args:
        pixels: numbers in an image.
        hidden: units of the hidden layers.
        latent: coordinates of the code.
    """

    def __init__(self, pixels: int, hidden: Sequence[int], latent: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip((pixels, *hidden), hidden, strict=False))
        self.mu, self.logvar = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, latent) each."""
        h = x.flatten(1)
        for layer in self.layers:
            h = layer(h).relu()
        return self.mu(h), self.logvar(h)


class FullyConnectedDecoder(nn.Module):
    """Hidden layers with one nonlinearity each, and logits of all pixels.

    Args:
        latent: coordinates of the code.
        hidden: units of the hidden layers.
        image_shape: (C, H, W).
        nonlinearity: ``nn.ReLU()`` or ``nn.Tanh()``.
    """

    def __init__(self, latent: int, hidden: Sequence[int], image_shape: Sequence[int], nonlinearity: nn.Module) -> None:
        super().__init__()
        self.image_shape, self.nonlinearity = tuple(image_shape), nonlinearity
        sizes = (latent, *hidden, math.prod(image_shape))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to logits (N, C, H, W)."""
        *hidden, head = self.layers
        for layer in hidden:
            z = self.nonlinearity(layer(z))
        return head(z).unflatten(1, self.image_shape)


class ConvolutionalEncoder(nn.Module):
    """Four convolutions of stride 2 on 64x64 pixels, one hidden linear layer (Locatello et al. 2019, Table 1).

    Args:
        channels: of the images.
        latent: coordinates of the code.
        kernels: of the convolutions. The study's code has 4, 4, 2, 2; Burgess et al. and the study's text 4 throughout.
    """

    def __init__(self, channels: int, latent: int, kernels: Sequence[int] = (4, 4, 2, 2)) -> None:
        super().__init__()
        ends = (channels, 32, 32, 64, 64)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, 2, k // 2 - 1) for i, o, k in zip(ends, ends[1:], kernels, strict=False)
        )
        self.fc = nn.Linear(64 * 4 * 4, 256)
        self.mu, self.logvar = nn.Linear(256, latent), nn.Linear(256, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 64, 64) to (N, latent) each."""
        for conv in self.convs:
            x = conv(x).relu()
        h = self.fc(x.flatten(1)).relu()
        return self.mu(h), self.logvar(h)


class ConvolutionalDecoder(nn.Module):
    """Two linear layers and four transposed convolutions to 64x64 pixels (Locatello et al. 2019, Table 1).

    Args:
        latent: coordinates of the code.
        channels: of the images.
    """

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(latent, 256), nn.Linear(256, 64 * 4 * 4)
        ends = (64, 64, 32, 32, channels)
        self.convs = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in zip(ends, ends[1:], strict=False))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to logits (N, C, 64, 64)."""
        h = self.fc2(self.fc1(z).relu()).relu().unflatten(1, (64, 4, 4))
        *convs, head = self.convs
        for conv in convs:
            h = conv(h).relu()
        return head(h)


class BurgessEncoder(nn.Module):
    """Convolutions of stride 2 down to 4x4, two hidden linear layers; one layer gives mean and variance in turns.

    Args:
        image_shape: (C, 32, 32) or (C, 64, 64).
        latent: coordinates of the code.
        width: channels of the convolutions.
        hidden: units of the linear layers.
    """

    def __init__(self, image_shape: Sequence[int], latent: int, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        inputs = [image_shape[0]] + [width] * (halvings(image_shape) - 1)
        self.convs = nn.ModuleList(nn.Conv2d(i, width, 4, 2, 1) for i in inputs)
        self.fc1, self.fc2 = nn.Linear(width * 16, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, latent) each: outputs 0, 2, ... and 1, 3, ... of the last layer."""
        for conv in self.convs:
            x = conv(x).relu()
        mu, logvar = self.head(self.fc2(self.fc1(x.flatten(1)).relu()).relu()).unflatten(1, (-1, 2)).unbind(2)
        return mu, logvar


class BurgessDecoder(nn.Module):
    """The mirror of the encoder.

    Args:
        latent: coordinates of the code.
        image_shape: (C, 32, 32) or (C, 64, 64).
        width: channels of the transposed convolutions.
        hidden: units of the linear layers.
    """

    def __init__(self, latent: int, image_shape: Sequence[int], width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.width = width
        self.fc1, self.fc2 = nn.Linear(latent, hidden), nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, width * 16)
        outputs = [width] * (halvings(image_shape) - 1) + [image_shape[0]]
        self.convs = nn.ModuleList(nn.ConvTranspose2d(width, o, 4, 2, 1) for o in outputs)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to logits (N, C, H, W)."""
        for layer in (self.fc1, self.fc2, self.fc3):
            z = layer(z).relu()
        h = z.unflatten(1, (self.width, 4, 4))
        *convs, head = self.convs
        for conv in convs:
            h = conv(h).relu()
        return head(h)


class PermutationDiscriminator(nn.Module):
    """Tells codes from codes whose coordinates were shuffled each for itself (Kim and Mnih 2018, Appendix B).

    Args:
        latent: coordinates of the code.
        width: units of a hidden layer.
        layers: hidden layers, with LeakyReLU of slope 0.2; paper and Locatello et al. 6, disvae 5.
    """

    def __init__(self, latent: int, width: int = 1000, layers: int = 6) -> None:
        super().__init__()
        sizes = (latent, *[width] * layers)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        self.head = nn.Linear(width, 2)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to logits (N, 2): of the code as it is, of one with shuffled coordinates."""
        for layer in self.layers:
            z = nn.functional.leaky_relu(layer(z), 0.2)
        return self.head(z)


class Lecture(nn.Module):
    """Fully connected, one hidden layer: 784 numbers to 20 in the lecture.

    Args:
        image_shape: (C, H, W).
        latent: coordinates of the code.
        hidden: units of the hidden layer; the lecture does not say.
    """

    def __init__(self, image_shape: Sequence[int] = (1, 28, 28), latent: int = 20, hidden: int = 400) -> None:
        super().__init__()
        self.image_shape, self.latent = tuple(image_shape), latent
        self.encoder = FullyConnectedEncoder(math.prod(image_shape), (hidden,), latent)
        self.decoder = FullyConnectedDecoder(latent, (hidden,), image_shape, nn.ReLU())


class FullyConnected(nn.Module):
    """Higgins et al. 2017 on dSprites: encoder of 1200 and 1200 units, decoder of three times 1200 with tanh.

    Args:
        image_shape: (C, H, W).
        latent: coordinates of the code.
        hidden: units of a hidden layer.
    """

    def __init__(self, image_shape: Sequence[int] = (1, 64, 64), latent: int = 10, hidden: int = 1200) -> None:
        super().__init__()
        self.image_shape, self.latent = tuple(image_shape), latent
        self.encoder = FullyConnectedEncoder(math.prod(image_shape), (hidden,) * 2, latent)
        self.decoder = FullyConnectedDecoder(latent, (hidden,) * 3, image_shape, nn.Tanh())
        glorot_(self)


class Convolutional(nn.Module):
    """Locatello et al. 2019, all models: 64x64 pixels.

    Args:
        channels: of the images.
        latent: coordinates of the code.
        kernels: of the encoder's convolutions; (4, 4, 4, 4) is what the papers write.
    """

    def __init__(self, channels: int = 1, latent: int = 10, kernels: Sequence[int] = (4, 4, 2, 2)) -> None:
        super().__init__()
        self.image_shape, self.latent = (channels, 64, 64), latent
        self.encoder = ConvolutionalEncoder(channels, latent, kernels)
        self.decoder = ConvolutionalDecoder(latent, channels)
        glorot_(self)


class Burgess(nn.Module):
    """Burgess et al. 2018, as disvae has it: He initialisation of every weight, uniform.

    Args:
        image_shape: (C, 32, 32) or (C, 64, 64).
        latent: coordinates of the code.
        width: channels of the convolutions.
        hidden: units of the linear layers.

    Raises:
        ValueError: another size.
    """

    def __init__(
        self, image_shape: Sequence[int] = (1, 64, 64), latent: int = 10, width: int = 32, hidden: int = 256
    ) -> None:
        super().__init__()
        if tuple(image_shape[1:]) not in ((32, 32), (64, 64)):
            raise ValueError(
                f"Burgess takes images of 32 x 32 or 64 x 64, not {tuple(image_shape[1:])}: change data.size."
            )
        self.image_shape, self.latent = tuple(image_shape), latent
        self.encoder = BurgessEncoder(image_shape, latent, width, hidden)
        self.decoder = BurgessDecoder(latent, image_shape, width, hidden)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")


def halvings(image_shape: Sequence[int]) -> int:
    """Convolutions of stride 2 from this size to 4x4."""
    return int(image_shape[-1]).bit_length() - 3


@torch.no_grad()
def glorot_(net: nn.Module) -> None:
    """Glorot and Bengio's uniform weights and zero biases, TensorFlow's defaults."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
