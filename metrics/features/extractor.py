"""The seam between the networks that look at images and the metrics that compare what they saw."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Features(NamedTuple):
    """What a network saw in N images.

    Args:
        embedding: (N, D) float32.
        logits: (N, K) float32, class scores before any softmax.
    """

    embedding: Tensor
    logits: Tensor


@runtime_checkable
class FeatureExtractor(Protocol):
    """A fixed network. Without gradients, in float32 under autocast too, on the device of its input."""

    @property
    def name(self) -> str:
        """Suffix of the logged keys, such as ``inception``: numbers of two extractors are not comparable."""
        ...

    @property
    def size(self) -> int:
        """D, the width of the embedding."""
        ...

    @property
    def classes(self) -> int:
        """K, the number of class scores. A process without any image knows the shapes from here."""
        ...

    @property
    def protocol(self) -> dict[str, str]:
        """What one must know to believe a number: checksum of the weights, resize, layer."""
        ...

    def __call__(self, x: Tensor) -> Features:
        """(N, 3, H, W) in [-1, 1] to the features of each image."""
        ...
