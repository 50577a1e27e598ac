"""What was measured of each image of an evaluation, in one place and one order, whatever the batches and ranks.

For metrics that are not sums over images, and for intervals, which need every image's own value.
"""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from metrics.features.extractor import Features


class CollectedFeatures(Metric):
    """Features with the global number of their image; the same tensors on 1 and N processes.

    Kernel distance, precision and recall or an Inception score are plain functions of what ``compute`` gives.
    Memory: 4 (D + K) bytes per image, 12 kB for Inception, on every rank once gathered.

    Args:
        size: D, the width of the embedding.
        classes: K, the number of class scores.
    """

    full_state_update = False
    is_differentiable = False

    embedding: list[Tensor]
    logits: list[Tensor]
    index: list[Tensor]

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.size, self.classes = size, classes
        for name in ("embedding", "logits", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.reset()

    def update(self, features: Features, index: Tensor) -> None:
        """Add one batch.

        Args:
            features: of N images; N may be 0.
            index: (N,) integers, the number of each image in the whole evaluation.

        Raises:
            ValueError: the shapes are not those promised.
        """
        shapes = [tuple(v.shape) for v in (*features, index)]
        n = index.numel()
        if shapes != [(n, self.size), (n, self.classes), (n,)]:
            raise ValueError(f"Expected (N, {self.size}), (N, {self.classes}) and an index (N,), got {shapes}.")
        self.embedding.append(features.embedding.detach().to(self.device, torch.float32))
        self.logits.append(features.logits.detach().to(self.device, torch.float32))
        self.index.append(index.to(self.device, torch.int64))

    def compute(self) -> Features:
        """Features of all images of all ranks, in the order of their index.

        Raises:
            ValueError: an image was given twice.
        """
        order = _in_order(self.index)
        return Features(dim_zero_cat(self.embedding)[order], dim_zero_cat(self.logits)[order])

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        # A rank without images must still gather blocks of the right shape and type, or the others wait for ever.
        self.embedding.append(torch.zeros(0, self.size, device=self.device))
        self.logits.append(torch.zeros(0, self.classes, device=self.device))
        self.index.append(torch.zeros(0, dtype=torch.int64, device=self.device))


class CollectedValues(Metric):
    """Some numbers of each image with the global number of the image; the same tensor on 1 and N processes.

    Args:
        size: V, how many numbers.
    """

    full_state_update = False
    is_differentiable = False

    values: list[Tensor]
    index: list[Tensor]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        for name in ("values", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.reset()

    def update(self, values: Tensor, index: Tensor) -> None:
        """Add one batch.

        Args:
            values: (N, V); N may be 0.
            index: (N,) integers, the number of each image in the whole evaluation.

        Raises:
            ValueError: the shapes are not those promised.
        """
        if values.shape != (index.numel(), self.size) or index.ndim != 1:
            raise ValueError(
                f"Expected (N, {self.size}) and an index (N,), got {tuple(values.shape)}, {tuple(index.shape)}."
            )
        self.values.append(values.detach().to(self.device, torch.float64))
        self.index.append(index.to(self.device, torch.int64))

    def compute(self) -> Tensor:
        """(all images of all ranks, V) float64 in the order of their index.

        Raises:
            ValueError: an image was given twice.
        """
        return dim_zero_cat(self.values)[_in_order(self.index)]

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.values.append(torch.zeros(0, self.size, dtype=torch.float64, device=self.device))
        self.index.append(torch.zeros(0, dtype=torch.int64, device=self.device))


def _in_order(index: list[Tensor]) -> Tensor:
    """Positions of the images in the order of their numbers."""
    numbers, order = dim_zero_cat(index).sort()
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    if len(twice):
        raise ValueError(
            f"Image {int(twice[0])} was evaluated more than once ({len(twice)} repetitions in all): "
            "shard the evaluation without padding and reset the metric between evaluations."
        )
    return order
