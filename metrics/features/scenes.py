"""Features of street scenes from a small network trained in this repository; ``scenes.md`` says how well it reads.

They need no download: ``make features`` trains it. Numbers that stand on them are called after them
(``fid_scenes``) and say nothing about Inception.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from metrics.features.extractor import Features
from networks.scenes import SceneNet, SceneReading

WEIGHTS = Path(__file__).with_name("scenes.safetensors")
DOMAINS = ("day", "night", "rain", "snow", "fog", "dusk", "labels", "sketch")
CONTENT, STYLE, CLASSES = 19, 7, 11  # numbers of factors and of semantic classes; tests hold them to the streets
SIDE = 64  # pixels of the images that the network was trained on


class Scenes:
    """Reads street scenes of any size; a ``FeatureExtractor`` that also tells what it sees.

    A plain object and not an ``nn.Module``, so that checkpoints do not hold it; it follows its input.

    Args:
        weights: a file that `make features` wrote; by default the repository's.

    Raises:
        FileNotFoundError: there is no such file.
    """

    name, size, classes = "scenes", 128, len(DOMAINS)

    def __init__(self, weights: str | Path | None = None) -> None:
        path = Path(weights or WEIGHTS)
        if not path.is_file():
            raise FileNotFoundError(f"There are no weights of the scenes network at {path}: make features trains it.")
        self._net = SceneNet(len(DOMAINS), CONTENT, STYLE, CLASSES, self.size)
        self._net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        self._net.eval().requires_grad_(False)
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        self.protocol = {
            "features": "scenes, a network of this repository",
            "weights": f"{path.name} sha256 {checksum[:16]}",
            "resize": f"{SIDE}x{SIDE}, antialiased bilinear",
        }

    def __call__(self, x: Tensor) -> Features:
        """(N, 3, H, W) in [-1, 1] to embeddings (N, 128) and domain logits (N, 8)."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            embedding = self._net.embedding(self._net.levels(self._prepared(x)))
            return Features(embedding, self._net.domain(embedding))

    def read(self, x: Tensor) -> SceneReading:
        """(N, 3, H, W) in [-1, 1] to everything that the network sees; see ``networks.scenes.SceneReading``."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self._net(self._prepared(x))

    def _prepared(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"The scenes network reads colour images (N, 3, H, W), not {tuple(x.shape)}.")
        self._net.to(x.device)
        x = x.float()
        if x.shape[2:] == (SIDE, SIDE):
            return x
        return interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
