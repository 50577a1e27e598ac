"""The networks of DCGAN: strided convolutions, batch normalisation, no linear and no pooling layers.

Layers have the places that they have in PyTorch's example, whose state dicts these are. Height and width are doubled,
or halved, by kernels of 4 with stride 2 and padding 1; next to the code a kernel of 4 covers the whole 4x4 map.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from networks.batch_norm import BatchNorm2d
from networks.init import normal_convolutions_


class Generator(nn.Module):
    """G, code to image: ReLU and batch normalisation after every layer but the last, which ends in tanh.

    Args:
        latent: coordinates of the code.
        widths: channels at 4x4, 8x8 and so on up to half the image's height; n widths make images of 4 2^n.
        channels: of the image.
    """

    def __init__(self, latent: int, widths: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], 4, 1, 0, bias=False)]
        for i, o in zip(widths, (*widths[1:], channels), strict=True):
            layers += [BatchNorm2d(i), nn.ReLU(inplace=True), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        self.main = nn.Sequential(*layers, nn.Tanh())
        initialise_(self)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, channels, H, W) in (-1, 1)."""
        return self.main(z[:, :, None, None])


class Discriminator(nn.Module):
    """D, image to a score before the sigmoid: batch normalisation after every layer but the first and the last.

    Real and generated images go through it apart: in one batch its statistics would tell which are which.

    Args:
        widths: channels at half the image's height and so on down to 4x4.
        channels: of the image.
        slope: of the leaky ReLU below zero.
    """

    def __init__(self, widths: Sequence[int], channels: int = 3, slope: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(slope, True)]
        for i, o in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), BatchNorm2d(o), nn.LeakyReLU(slope, True)]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False))
        initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N,)."""
        return self.main(x).flatten()


def initialise_(net: nn.Module) -> None:
    """Convolutions from N(0, 0.02^2), weights of batch normalisation from N(1, 0.02^2) (PyTorch's example)."""
    normal_convolutions_(net, 0.02)
    for layer in net.modules():
        if isinstance(layer, BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
