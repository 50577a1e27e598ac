import math

import numpy as np
import pytest
import torch

from metrics.paired import IDENTICAL_PSNR, l1, mse, paired_values, pixel_accuracy, psnr, ssim


def images(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def gaussian_ssim(x, y):
    """Brute force for one channel: explicit windows over reflected borders, in the 0..255 range of the paper."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    x, y = (np.pad((v + 1) * 127.5, 5, mode="reflect") for v in (x, y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(values)


def test_psnr_of_a_constant_difference_is_known():
    x = torch.zeros(2, 3, 8, 8)
    y = torch.stack([x[0] + 0.2, x[1] + 1.0])
    # A difference d of a range of 2 is 20 log10(2 / d) decibel.
    assert psnr(x, y).tolist() == pytest.approx([20.0, 20 * math.log10(2)], abs=1e-5)


def test_identical_images_reach_the_ends_of_every_scale():
    x = images(2)
    assert psnr(x, x).tolist() == [IDENTICAL_PSNR] * 2
    assert ssim(x, x).tolist() == pytest.approx([1.0] * 2, abs=1e-6)
    assert l1(x, x).tolist() == [0.0] * 2
    assert pixel_accuracy(x, x).tolist() == [1.0] * 2


def test_l1_of_black_and_white_is_one():
    assert l1(-torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)).item() == 1.0


def test_ssim_equals_brute_force_per_image():
    x, y = images(2, 13), (images(2, 13) + 0.3 * images(2, 13, seed=1)).clamp(-1, 1)
    for n in range(2):
        expected = np.mean([gaussian_ssim(x[n, c].double().numpy(), y[n, c].double().numpy()) for c in range(3)])
        assert ssim(x, y)[n].item() == pytest.approx(expected, abs=1e-6)


def test_pixel_accuracy_needs_every_channel_within_the_tolerance():
    truth = torch.full((1, 3, 2, 2), 100.0)
    guess = truth.clone()
    guess[0, 0, 0, 0] += 16  # right: exactly the tolerance
    guess[0, 1, 0, 1] -= 17  # wrong in one channel
    guess[0, :, 1, 0] += 200  # wrong in all
    scaled = [v.div(127.5).sub(1) for v in (guess, truth)]
    assert pixel_accuracy(*scaled).item() == 0.5
    assert pixel_accuracy(*scaled, tolerance=17).item() == 0.75


def test_autocast_changes_nothing():
    x, y = images(2), images(2, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(x, y), psnr(x, y)
    assert torch.equal(torch.stack(inside), torch.stack((ssim(x, y), psnr(x, y))))
    assert ssim(x, y).dtype == torch.float64


@pytest.mark.parametrize("function", [psnr, ssim, l1, pixel_accuracy])
def test_shapes_that_differ_are_refused(function):
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 16, 16\) and \(1, 3, 16, 16\)"):
        function(images(2), images(1))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 6x6 pixels, not 5x5"):
        ssim(images(1, 5), images(1, 5))


def test_all_measures_of_each_image():
    x, y = images(7), images(7, seed=1)
    values = paired_values(x, y)
    for column, function in zip(values.T, (psnr, ssim, l1, mse, pixel_accuracy), strict=True):
        torch.testing.assert_close(column, function(x, y), rtol=1e-12, atol=0)
    parts = [paired_values(x[part], y[part]) for part in (slice(0, 3), slice(3, 3), slice(3, 7))]
    torch.testing.assert_close(torch.cat(parts), values, rtol=1e-12, atol=0)


def test_mse_is_what_psnr_is_the_logarithm_of():
    x, y = images(3), images(3, seed=1)
    torch.testing.assert_close(-10 * mse(x, y).log10(), psnr(x, y))
    assert mse(torch.ones(1, 3, 6, 6), -torch.ones(1, 3, 6, 6)).item() == 1
