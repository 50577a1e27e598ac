"""Attributes, factors and features of faces from a small network trained in this repository; see ``faces.md``.

It needs no download: ``make features`` trains it. It judges edits for ``callbacks.attribute_swap``, and numbers that
stand on its features are called after it (``fid_faces``) and say nothing about Inception.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from metrics.features.extractor import Features
from networks.scenes import SceneNet

WEIGHTS = Path(__file__).with_name("faces.safetensors")
DOMAINS = ("photo", "sketch", "paint")
ATTRIBUTES = ("smile", "glasses", "beard", "long_hair", "dark_hair", "bangs", "old", "hat")
FACTORS, STYLE, CLASSES = 30, 4, 10  # numbers of factors and of semantic classes; tests hold them to the faces
SIDE = 64  # pixels of the images that the network was trained on


class FaceReading(NamedTuple):
    """What the network sees in N faces."""

    embedding: Tensor  # (N, 128) >= 0
    domain_logits: Tensor  # (N, 3)
    attribute_logits: Tensor  # (N, 8), positive where a face has the attribute
    factors: Tensor  # (N, 30), each in units of its range: 0 lowest, 1 highest
    style: Tensor  # (N, 3, 4), the factors as they would be if the image were of that domain, 0 to 1
    semantic_logits: Tensor  # (N, 10, 64, 64)


class Faces:
    """Reads faces of any size: a ``FeatureExtractor`` and the ``AttributeJudge`` of ``callbacks.attribute_swap``.

    A plain object and not an ``nn.Module``, so that checkpoints do not hold it; it follows its input.

    Args:
        weights: a file that `make features` wrote; by default the repository's.

    Raises:
        FileNotFoundError: there is no such file.
    """

    name, size, classes = "faces", 128, len(DOMAINS)
    attributes: tuple[str, ...] = ATTRIBUTES

    def __init__(self, weights: str | Path | None = None) -> None:
        path = Path(weights or WEIGHTS)
        if not path.is_file():
            raise FileNotFoundError(f"There are no weights of the faces network at {path}: make features trains it.")
        self._net = SceneNet(len(DOMAINS), len(ATTRIBUTES) + FACTORS, STYLE, CLASSES, self.size)
        self._net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        self._net.eval().requires_grad_(False)
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        self.protocol = {
            "features": "faces, a network of this repository",
            "weights": f"{path.name} sha256 {checksum[:16]}",
            "resize": f"{SIDE}x{SIDE}, antialiased bilinear",
        }

    def __call__(self, x: Tensor) -> Features:
        """(N, 3, H, W) in [-1, 1] to embeddings (N, 128) and domain logits (N, 3)."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            embedding = self._embedding(x)
            return Features(embedding, self._net.domain(embedding))

    def read(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to (N, 8) logits of ``attributes``: positive where a face has it."""
        return self.read_and_embed(x)[0]

    def read_and_embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in [-1, 1] to what ``read`` gives and to embeddings (N, 128)."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            embedding = self._embedding(x)
            return self._net.content(embedding)[:, : len(ATTRIBUTES)], embedding

    def read_all(self, x: Tensor) -> FaceReading:
        """(N, 3, H, W) in [-1, 1] to everything that the network sees."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            seen = self._net(self._prepared(x))
            attributes, factors = seen.content.split((len(ATTRIBUTES), FACTORS), 1)
            return FaceReading(
                seen.embedding, seen.domain_logits, attributes, factors, seen.style, seen.semantic_logits
            )

    def _embedding(self, x: Tensor) -> Tensor:
        return self._net.embedding(self._net.levels(self._prepared(x)))

    def _prepared(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"The faces network reads colour images (N, 3, H, W), not {tuple(x.shape)}.")
        self._net.to(x.device)
        x = x.float()
        if x.shape[2:] == (SIDE, SIDE):
            return x
        return interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
