import pytest
import torch

from metrics.directions import LEAST, Directions, attribute_directions, edited, moved, sliders_of

RNG = torch.Generator().manual_seed(0)
CODES = torch.randn(500, 5, generator=RNG) * torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0]) + 3


def directions_of(*vectors, mean=0.0):
    rows = torch.tensor(vectors, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return Directions(rows, torch.full((rows.shape[1],), mean, dtype=torch.float64), torch.ones(len(rows)))


def test_directions_of_coordinates_are_the_axes_towards_those_that_have_the_attribute():
    has = torch.stack((CODES[:, 1] > 3, CODES[:, 2] < 3), 1)
    found = attribute_directions(CODES, has)
    assert found.vectors.norm(dim=1).tolist() == pytest.approx([1, 1])
    assert found.vectors[0, 1] > 0.99
    assert found.vectors[1, 2] < -0.99
    assert found.spreads.tolist() == pytest.approx([2, 0.5], rel=0.1)
    assert found.known.all()
    torch.testing.assert_close(found.mean, CODES.double().mean(0))


def test_the_normal_of_a_slanting_plane():
    normal = torch.tensor([3.0, 0.0, 0.0, 4.0, 0.0]) / 5
    found = attribute_directions(CODES, ((CODES - 3) @ normal > 0.2)[:, None])
    assert found.vectors[0] @ normal.double() > 0.99


def test_what_too_few_have_has_no_direction():
    has = torch.zeros(500, 3, dtype=torch.bool)
    has[: LEAST - 1, 0] = True
    has[LEAST - 1 :, 1] = True
    has[:LEAST, 2] = True
    found = attribute_directions(CODES, has)
    assert found.known.tolist() == [False, False, True]
    assert not found.vectors[:2].any()
    assert torch.equal(moved(CODES, 0, torch.ones(500), found), CODES.double())
    constant = attribute_directions(torch.ones(20, 2), torch.arange(20)[:, None] > 9)
    assert constant.known.tolist() == [False]


def test_its_own_sliders_give_a_code_back_and_others_are_where_it_goes():
    directions = directions_of([1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0], mean=3.0)
    torch.testing.assert_close(edited(CODES, sliders_of(CODES, directions), directions), CODES.double())
    values = torch.linspace(-4, 4, 500, dtype=torch.float64)
    there = moved(CODES, 1, values, directions)
    torch.testing.assert_close(there[:, 1], values + 3)
    assert torch.equal(there[:, [0, 2, 3, 4]], CODES[:, [0, 2, 3, 4]].double())


def test_products_are_taken_before_anything_is_subtracted():
    """As ALAE's edit, spelt out for two directions that are not orthogonal."""
    directions = directions_of([1.0, 1.0, 0, 0, 0], [1.0, 0, 1.0, 0, 0], mean=3.0)
    d1, d2 = directions.vectors
    u = CODES[0].double() - 3
    v1, v2 = u @ d1, u @ d2
    sliders = torch.tensor([[0.7, -2.0]])
    expected = u - v1 * d1 - v2 * d2 + 0.7 * d1 - 2 * d2 + 3
    torch.testing.assert_close(edited(CODES[:1], sliders, directions)[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved(CODES[:1], 0, torch.tensor([5.0]), directions)[0], u + (5 - v1) * d1 + 3)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"codes \(N, D\) and attributes \(N, K\)"):
        attribute_directions(CODES, torch.zeros(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="diverged"):
        attribute_directions(CODES * torch.nan, torch.zeros(500, 1, dtype=torch.bool))
