from itertools import combinations

import pytest
import torch

from metrics.diversity import diversity_of_all_pairs, diversity_of_random_pairs


def l1(x, y):
    return (x - y).abs().mean((1, 2, 3))


def constants(rows):
    """Outputs of constant colour, one row per input."""
    return torch.tensor(rows)[:, :, None, None, None].expand(-1, -1, 3, 4, 4)


def test_disjoint_pairs_by_hand():
    outputs = constants([[0.0, 0.5, -1.0, 1.0], [0.25, 0.25, 0.0, 0.5]])
    values = diversity_of_random_pairs(outputs, l1, pairs=2)
    assert values.dtype == torch.float64
    assert values.tolist() == [(0.5 + 2.0) / 2, (0.0 + 0.5) / 2]


def test_all_pairs_by_hand():
    outputs = constants([[0.0, 0.5, -1.0], [0.25, 0.25, 0.25]])
    assert diversity_of_all_pairs(outputs, l1, count=3).tolist() == [(0.5 + 1.0 + 1.5) / 3, 0.0]


def test_published_numbers_of_outputs_are_the_defaults():
    outputs = torch.rand(2, 38, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    asked = []

    def counting(x, y):
        asked.append(len(x))
        return l1(x, y)

    assert diversity_of_random_pairs(outputs, counting).shape == (2,)
    assert (sum(asked), max(asked)) == (2 * 19, 16)
    asked.clear()
    values = diversity_of_all_pairs(outputs[:, :10], counting)
    assert (sum(asked), max(asked)) == (2 * 45, 16)
    for n in range(2):
        expected = [(outputs[n, i] - outputs[n, j]).abs().mean() for i, j in combinations(range(10), 2)]
        assert values[n].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)


def test_inputs_in_parts_give_the_same_values():
    outputs = torch.rand(3, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    parts = torch.cat([diversity_of_all_pairs(part, l1, 4) for part in outputs.split(2)])
    assert torch.equal(parts, diversity_of_all_pairs(outputs, l1, 4))


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (
            diversity_of_random_pairs,
            (2, 10, 3, 4, 4),
            r"Expected 38 outputs per input, \(N, 38, C, H, W\), got \(2, 10",
        ),
        (diversity_of_all_pairs, (20, 3, 4, 4), r"Expected 10 outputs per input, .* got \(20, 3, 4, 4\)"),
    ],
)
def test_another_number_of_outputs_is_refused(function, shape, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape), l1)
