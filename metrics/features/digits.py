"""Labels and features of digits from a small network trained in this repository; see ``digits.md``.

It needs no download: ``make features`` trains it. Numbers that stand on its features are called
after it (``fid_digits``) and say nothing about Inception.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from metrics.features.extractor import Features
from networks.digits import DigitNet, DigitReading

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SIDE = 28  # pixels of the images that the network was trained on


class Digits:
    """Reads grey digits of any size, white on black: a ``FeatureExtractor``.

    A plain object and not an ``nn.Module``, so that checkpoints do not hold it; it follows its input.

    Args:
        weights: a file that `make features` wrote; by default the repository's.

    Raises:
        FileNotFoundError: there is no such file.
    """

    name, size, classes = "digits", 64, 10

    def __init__(self, weights: str | Path | None = None) -> None:
        path = Path(weights or WEIGHTS)
        if not path.is_file():
            raise FileNotFoundError(f"There are no weights of the digits network at {path}: make features trains it.")
        self._net = DigitNet(self.classes, embedding=self.size)
        self._net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        self._net.eval().requires_grad_(False)
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        self.protocol = {
            "features": "digits, a network of this repository",
            "weights": f"{path.name} sha256 {checksum[:16]}",
            "resize": f"{SIDE}x{SIDE}, antialiased bilinear",
        }

    def __call__(self, x: Tensor) -> Features:
        """(N, 1, H, W) in [-1, 1] to embeddings (N, 64) and logits of labels (N, 10)."""
        seen = self.read(x)
        return Features(seen.embedding, seen.label_logits)

    def read(self, x: Tensor) -> DigitReading:
        """(N, 1, H, W) in [-1, 1] to everything that the network sees."""
        if x.ndim != 4 or x.shape[1] != 1:
            raise ValueError(f"The digits network reads grey images (N, 1, H, W), not {tuple(x.shape)}.")
        self._net.to(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if x.shape[2:] != (SIDE, SIDE):
                x = interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
            return self._net(x)
