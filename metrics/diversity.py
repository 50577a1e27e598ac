"""How different the outputs of one input are from each other, by the two published protocols.

A ``distance`` takes two (N, C, H, W) in [-1, 1] and returns one value per pair, (N,); both papers use
LPIPS with AlexNet (``metrics/features/lpips.py``). The published number is the mean over inputs; one value
per input is returned, for ``metrics.intervals.bootstrap``.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def diversity_of_random_pairs(outputs: Tensor, distance: Distance, pairs: int = 19) -> Tensor:
    """Mean distance over disjoint pairs of outputs (MUNIT, Huang et al. 2018, Sec. 5.2).

    Published with 19 pairs for each of 100 inputs. Outputs are of independent random styles, so that
    neighbours are random pairs.

    Args:
        outputs: (N, 2 pairs, C, H, W) in [-1, 1], the outputs of each of N inputs.
        distance: see above.
        pairs: number of pairs per input.

    Returns:
        (N,) float64, one per input, in units of ``distance``.

    Raises:
        ValueError: ``outputs`` has another shape.
    """
    _require(outputs, 2 * pairs)
    return _mean(outputs, distance, [(2 * i, 2 * i + 1) for i in range(pairs)])


def diversity_of_all_pairs(outputs: Tensor, distance: Distance, count: int = 10) -> Tensor:
    """Mean distance over all pairs of outputs (StarGAN v2, Choi et al. 2020, App. C).

    Published with 10 outputs, 45 pairs, for each test image.

    Args:
        outputs: (N, count, C, H, W) in [-1, 1], the outputs of each of N inputs.
        distance: see above.
        count: number of outputs per input, at least 2.

    Returns:
        (N,) float64, one per input, in units of ``distance``.

    Raises:
        ValueError: ``outputs`` has another shape.
    """
    _require(outputs, count)
    return _mean(outputs, distance, list(combinations(range(count), 2)))


def _require(outputs: Tensor, count: int) -> None:
    if outputs.ndim != 5 or outputs.shape[1] != count or count < 2:
        raise ValueError(
            f"Expected {max(count, 2)} outputs per input, (N, {max(count, 2)}, C, H, W), got {tuple(outputs.shape)}."
        )


def _mean(outputs: Tensor, distance: Distance, pairs: Sequence[tuple[int, int]]) -> Tensor:
    # By input, so that its value cannot depend on the others; sixteen pairs at a time, so that memory is bounded.
    first, second = (torch.tensor(side).split(16) for side in zip(*pairs, strict=True))
    values = [[distance(y[i], y[j]).detach().double() for i, j in zip(first, second, strict=True)] for y in outputs]
    return torch.stack([torch.cat(value).mean() for value in values])
