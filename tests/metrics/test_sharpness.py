import math

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from metrics.sharpness import GREY, sharpness, sharpness_ratio


def grey(values):
    """(H, W) in [0, 1] to one colour image in [-1, 1]."""
    return (2 * torch.as_tensor(values, dtype=torch.float64) - 1).expand(1, 3, -1, -1)


def test_even_images_and_slopes_have_no_edges():
    slope = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert sharpness(grey(torch.full((5, 7), 0.3))).item() == pytest.approx(0, abs=1e-20)
    assert sharpness(grey(slope.expand(6, -1))).item() == pytest.approx(0, abs=1e-20)
    assert sharpness(grey((slope[:, None] + slope) / 2)).item() == pytest.approx(0, abs=1e-20)


def test_a_board_of_black_and_white_by_hand():
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    assert sharpness(grey(board)).item() == pytest.approx(16)  # 4 and -4, as often
    assert sharpness(grey(board / 2 + 0.1)).item() == pytest.approx(4)


def test_a_single_dot_by_hand():
    dot = torch.zeros(12, 10)
    dot[5, 4] = 0.5
    assert sharpness(grey(dot)).item() == pytest.approx(20 * 0.25 / (10 * 8))  # -4 once, 1 four times, mean 0


def test_a_wave_is_its_own_laplacian():
    n, period = 48, 6
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * torch.arange(n + 2, dtype=torch.float64) / period)
    factor = 2 * math.cos(2 * math.pi / period) - 2
    found = sharpness(grey(wave.expand(20, -1))).item()
    assert found == pytest.approx((0.4 * factor) ** 2 / 2)  # whole periods stay when the border is left out


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colours_weigh_as_in_grey(channel):
    board = ((torch.arange(6)[:, None] + torch.arange(6)) % 2).double()
    image = -torch.ones(1, 3, 6, 6, dtype=torch.float64)
    image[:, channel] = 2 * board - 1
    assert sharpness(image).item() == pytest.approx(16 * GREY[channel] ** 2)


def test_grey_images_are_what_their_three_channels_are_and_each_stands_alone():
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = sharpness(x)
    assert found.shape == (4,)
    assert found.dtype == torch.float64
    torch.testing.assert_close(sharpness(x.expand(-1, 3, -1, -1)), found)
    torch.testing.assert_close(torch.cat([sharpness(each) for each in x.split(1)]), found)
    torch.testing.assert_close(sharpness(x.flip(3).transpose(2, 3)), found)


def test_the_ratio_falls_with_blur_and_is_1_of_the_same_images():
    real = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ratios = [
        float(sharpness_ratio(sharpness(gaussian_blur(real, 9, sigma)), sharpness(real))) for sigma in (0.01, 0.5, 1.0)
    ]
    assert ratios[0] == pytest.approx(1, abs=1e-6)
    assert 1 > ratios[1] > 3 * ratios[2] > 0
    assert math.isnan(sharpness_ratio(torch.ones(2), torch.zeros(3)))
    assert float(sharpness_ratio(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 4.0, 4.0]))) == 0.5


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (1, 3, 2, 8), (3, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"Sharpness is of images \(N, C, H, W\) of 1 or 3 channels"):
        sharpness(torch.zeros(shape))
