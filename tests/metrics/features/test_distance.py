import pytest
import torch

from metrics.features.distance import EmbeddingDistance
from metrics.features.extractor import Features


class Means:
    """Sees the mean of each channel."""

    name, size, classes, protocol = "means", 3, 0, {"weights": "none"}

    def __call__(self, x: torch.Tensor) -> Features:
        return Features(x.mean((2, 3)), x.new_zeros(len(x), 0))


def flat(*colours):
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 4, 4)


def test_distance_of_known_directions():
    x = flat((0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.0, 0.0))
    y = flat((0.1, 0.0, 0.0), (0.0, 0.9, 0.0), (-0.2, 0.0, 0.0), (0.0, 0.0, 0.0))
    distance = EmbeddingDistance(Means())
    assert distance.name == "means"
    values = distance(x, y)
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.tensor([0.0, 2**0.5, 2.0, 0.0], dtype=torch.float64))
    squared = EmbeddingDistance(Means(), squared=True)
    assert squared.name == "means_squared"
    assert squared.protocol == distance.protocol == {"weights": "none"}
    torch.testing.assert_close(squared(x, y), values.square())


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="means compares images of one shape"):
        EmbeddingDistance(Means())(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
