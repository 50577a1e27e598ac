import math

import pytest
import torch

from metrics.path_length import lerp, path_lengths, slerp, trimmed_mean


def normal(n, rng):
    return torch.randn(n, 5, generator=rng)


def squared(x, y):
    return (x - y).square().sum((1, 2, 3))


def linear(w):
    """Codes to images by a fixed matrix, in float64 so that the small step is exact."""
    matrix = torch.randn(5, 12, generator=torch.Generator().manual_seed(9)).double()
    return (w.double() @ matrix).reshape(-1, 3, 2, 2)


def double(n, rng):
    return normal(n, rng).double()


def test_a_linear_generator_has_the_length_of_its_line_everywhere():
    values = path_lengths(linear, double, squared, lerp, samples=20)
    rng = torch.Generator().manual_seed(0)
    a, b = double(20, rng), double(20, rng)
    torch.testing.assert_close(values, squared(linear(a), linear(b)), rtol=1e-6, atol=0)


def test_its_expectation_is_twice_the_squared_norm_of_its_matrix():
    values = path_lengths(linear, double, squared, lerp, samples=4000, batch_size=1000)
    norm = linear(torch.eye(5)).square().sum().item()  # E |A(b - a)|^2 = 2 |A|^2 for normal codes
    assert values.mean().item() == pytest.approx(2 * norm, abs=4 * values.std().item() / math.sqrt(4000))


def test_steps_are_spread_over_the_whole_path():
    ends = iter([torch.zeros(4000, 1), torch.ones(4000, 1)])
    values = path_lengths(
        lambda w: (w.double() ** 2 / 2)[:, :, None, None],
        lambda n, rng: next(ends).double(),
        squared,
        lerp,
        samples=4000,
        batch_size=500,
    )
    # From 0 to 1 the speed of w^2 / 2 is t, and t^2 is 1/3 on average with a variance of 4/45.
    assert values.mean().item() == pytest.approx(1 / 3, abs=4 * (4 / 45 / 4000) ** 0.5)


def test_on_the_sphere_the_speed_is_the_angle():
    ends = iter([torch.eye(3)[[0, 0]].double(), torch.eye(3)[[1, 0]].double()])
    values = path_lengths(lambda z: z[:, :, None, None], lambda n, rng: next(ends), squared, slerp, samples=2)
    assert values.tolist() == pytest.approx([(math.pi / 2) ** 2, 0.0], rel=1e-6)


def test_slerp_keeps_directions_and_lengths():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    half = slerp(a, b, torch.tensor([[0.5]]))
    torch.testing.assert_close(half, torch.full((1, 2), 3 / math.sqrt(2)))
    for t, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(slerp(a, b, torch.tensor([[t]])), end, atol=1e-6, rtol=0)
    assert slerp(a, a, torch.tensor([[0.3]])).tolist() == a.tolist()


def test_neither_batch_size_nor_global_random_state_matters():
    first = path_lengths(linear, double, squared, slerp, samples=10, batch_size=3)
    torch.manual_seed(5)
    torch.testing.assert_close(first, path_lengths(linear, double, squared, slerp, samples=10, batch_size=10))
    assert not torch.allclose(first, path_lengths(linear, double, squared, slerp, samples=10, seed=1))


def test_float32_codes_cost_three_digits_at_most():
    exact = path_lengths(linear, double, squared, lerp, samples=50)
    torch.testing.assert_close(path_lengths(linear, normal, squared, lerp, samples=50), exact, rtol=1e-2, atol=0)


def test_the_outer_percent_on_either_side_is_left_out():
    values = torch.arange(1000.0)
    # The quantiles are 9.99 and 989.01; rounded outwards, 9 to 990 stay.
    assert trimmed_mean(values).item() == sum(range(9, 991)) / 982
    values[-1] = 1e9
    assert trimmed_mean(values).item() == sum(range(9, 991)) / 982
    assert trimmed_mean(torch.tensor([3.0])).item() == 3.0
