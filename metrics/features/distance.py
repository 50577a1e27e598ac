"""Distances between images that have a name, for metrics that compare the outputs of one model with each other."""

from typing import Any, Protocol

import torch
from torch import Tensor

from metrics.features.extractor import FeatureExtractor


class NamedDistance(Protocol):
    """Such as ``LPIPS`` and ``EmbeddingDistance``: without gradients, on the device of its input."""

    @property
    def name(self) -> str:
        """Part of the logged keys: numbers of two distances are not comparable."""
        ...

    @property
    def protocol(self) -> dict[str, str]:
        """What one must know to believe a number, such as the checksum of the weights."""
        ...

    # The Tensor that it returns is declared Any, since jsonargparse takes what returns a class for a factory of it.
    def __call__(self, x: Tensor, y: Tensor) -> Any:
        """Two (N, C, H, W) in [-1, 1] to one distance per pair, (N,)."""
        ...


class EmbeddingDistance:
    """Euclidean distance of two images' embeddings, each scaled to length 1: from 0 to 2.

    For measuring diversity without LPIPS' weights, by an extractor at hand; its numbers compare with its own only.

    Args:
        extractor: sees the images; its name is that of the distance.
        squared: gives the square, from 0 to 4, as LPIPS is squared: what path length needs. The name ends in
            ``_squared`` then.
    """

    def __init__(self, extractor: FeatureExtractor, squared: bool = False) -> None:
        self.name = f"{extractor.name}_squared" if squared else extractor.name
        self.protocol = extractor.protocol
        self.squared = squared
        self._extractor = extractor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of ``x[i]`` and ``y[i]``.

        Args:
            x: (N, 3, H, W) in [-1, 1].
            y: the same shape.

        Returns:
            (N,) float64 in [0, 2], or in [0, 4] where it is squared.

        Raises:
            ValueError: the shapes differ.
        """
        if x.shape != y.shape:
            raise ValueError(f"{self.name} compares images of one shape, not {tuple(x.shape)} and {tuple(y.shape)}.")
        a, b = (torch.nn.functional.normalize(self._extractor(side).embedding.double(), dim=1) for side in (x, y))
        apart = (a - b).norm(dim=1)
        return apart.square() if self.squared else apart
