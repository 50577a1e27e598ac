"""LPIPS (Zhang et al. 2018): perceptual distance of two images, from weights on this machine only."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS  # the public class downloads its backbone on construction

from metrics.features.weights import Published, find


class Backbone(NamedTuple):
    """A classifier of torchvision, and the smallest image that its layers can take."""

    weights: Published
    pixels: int


URL = "https://download.pytorch.org/models"
BACKBONES = {
    "alex": Backbone(Published("alexnet-owt-7be5be79.pth", "7be5be79", URL), 31),
    "vgg": Backbone(Published("vgg16-397923af.pth", "397923af", URL), 16),
}


class LPIPS:
    """Distance between images, one value per pair; 0 for equal images.

    The linear heads (version 0.1) come with torchmetrics. A plain object and not an ``nn.Module``, so that
    checkpoints do not hold it; it follows its input from device to device.

    Args:
        net: ``alex`` as papers on diversity have it, ``vgg`` as path length has it.
        weights: the backbone's weights file; by default that of torchvision in the cache of ``torch.hub``.
        sha256: first digits that the file's checksum must have; by default the published ones.

    Raises:
        FileNotFoundError: there is no such file; nothing is ever downloaded.
        ValueError: the file has another checksum or does not hold that backbone.
    """

    def __init__(
        self, net: Literal["alex", "vgg"] = "alex", weights: str | Path | None = None, sha256: str | None = None
    ) -> None:
        backbone = BACKBONES[net]
        found = find(backbone.weights, "LPIPS", weights, sha256)
        with torch.random.fork_rng(devices=[]):  # the layers are initialised at random before they are loaded
            self._net = _LPIPS(net=net, pnet_rand=True)
        self._load(found.path)
        self._pixels = backbone.pixels
        self.name = f"lpips-{net}"
        self.protocol = {"backbone": str(found), "heads": "LPIPS 0.1 of torchmetrics"}

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of ``x[i]`` and ``y[i]``, without gradients, in float32 under autocast too.

        Args:
            x: (N, 3, H, W) in [-1, 1].
            y: the same shape.

        Returns:
            (N,) float64 >= 0.

        Raises:
            ValueError: the shapes differ, are not (N, 3, H, W), or an image is too small for the network.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape != y.shape or min(x.shape[2:]) < self._pixels:
            raise ValueError(
                f"{self.name} needs two (N, 3, H, W) of one shape and at least {self._pixels}x{self._pixels} pixels, "
                f"got {tuple(x.shape)} and {tuple(y.shape)}."
            )
        self._net.to(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self._net(x.float(), y.float()).double().reshape(-1)

    def _load(self, path: Path) -> None:
        """Torchvision's ``features.N.weight`` is ``sliceM.N.weight`` in torchmetrics."""
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        names = {name: f"features.{name.split('.', 1)[1]}" for name in self._net.net.state_dict()}
        missing = sorted(set(names.values()) - set(tensors))
        if missing:
            raise ValueError(f"{path} lacks {missing[0]}: it does not hold the backbone that LPIPS was asked for.")
        self._net.net.load_state_dict({name: tensors[theirs] for name, theirs in names.items()})
