"""Distance between a translation and its true counterpart, image by image.

Only data that knows the truth (``PairedBatch``) can be measured this way. All functions take
(N, C, H, W) in [-1, 1] and return one float64 value per image, computed in float32 at least: half precision or TF32
convolutions would show in the third digit of SSIM, which subtracts nearly equal numbers.
"""

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

IDENTICAL_PSNR = 100.0  # dB; stands for the infinite PSNR of equal images, so that means stay finite


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(2^2 / mean squared error).

    Args:
        x: (N, C, H, W) in [-1, 1].
        y: the same shape.

    Returns:
        (N,) float64 in dB, at most ``IDENTICAL_PSNR``.

    Raises:
        ValueError: the shapes differ or are not (N, C, H, W).
    """
    x, y = _exact(x, y)
    each = peak_signal_noise_ratio(x, y, data_range=2.0, dim=(1, 2, 3), reduction="none")
    return each.clamp(max=IDENTICAL_PSNR)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5, mean over channels.

    Computed on intensities from 0 up, as published: the luminance term compares means, so it would come out
    otherwise on images centred at 0. Borders are reflected, so every pixel counts; the authors' code drops the
    outermost five instead.

    Args:
        x: (N, C, H, W) in [-1, 1], H and W at least 6.
        y: the same shape.

    Returns:
        (N,) float64 in [-1, 1]; 1 for equal images.

    Raises:
        ValueError: the shapes differ, are not (N, C, H, W), or an image is smaller than the window allows.
    """
    x, y = _exact(x, y)
    if x.device.type == "cpu":  # no TF32 there: float32 is right to six digits, and twenty times as fast
        x, y = x.float(), y.float()
    if min(x.shape[2:]) < 6:
        raise ValueError(f"SSIM needs images of at least 6x6 pixels, not {x.shape[2]}x{x.shape[3]}.")
    with torch.autocast(x.device.type, enabled=False):
        each = structural_similarity_index_measure(x + 1, y + 1, sigma=1.5, data_range=2.0, reduction="none")
    assert isinstance(each, Tensor)
    return each.reshape(-1).double()


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference, in units of the 0..1 range: black against white is 1, not 2.

    Args:
        x: (N, C, H, W) in [-1, 1].
        y: the same shape.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: the shapes differ or are not (N, C, H, W).
    """
    x, y = _exact(x, y)
    return (x - y).abs().mean((1, 2, 3)) / 2


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference, in units of the 0..1 range: black against white is 1.

    Args:
        x: (N, C, H, W) in [-1, 1].
        y: the same shape.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: the shapes differ or are not (N, C, H, W).
    """
    x, y = _exact(x, y)
    return (x - y).square().mean((1, 2, 3)) / 4


def pixel_accuracy(x: Tensor, y: Tensor, tolerance: float = 16) -> Tensor:
    """Share of pixels of which every channel is within ``tolerance`` of the truth.

    The count of the maps experiment of UNIT (Liu et al. 2017) as recalled, not checked against the PDF.

    Args:
        x: (N, C, H, W) in [-1, 1].
        y: the same shape.
        tolerance: greatest difference that still counts as right, in grey levels of 0..255.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: the shapes differ or are not (N, C, H, W).
    """
    x, y = _exact(x, y)
    # float32 images of 8-bit values miss their grey level by about 1e-5: without slack, exactly 16 would be a toss-up.
    right = ((x - y).abs() * 127.5 <= tolerance + 1e-3).all(dim=1)
    return right.double().mean((1, 2))


def _exact(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 4 or x.shape != y.shape:
        raise ValueError(f"Expected two (N, C, H, W) of one shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    return x.detach().double(), y.detach().double()


def paired_values(prediction: Tensor, truth: Tensor) -> Tensor:
    """The measures named in ``MEASURES`` of each image: (N, 5) float64; N may be 0."""
    if not len(prediction):
        return prediction.new_zeros(0, len(MEASURES), dtype=torch.float64)
    return torch.stack([measure(prediction, truth) for measure in MEASURES.values()], dim=1)


MEASURES = {"psnr": psnr, "ssim": ssim, "l1": l1, "mse": mse, "pixel_accuracy": pixel_accuracy}
UNITS = {"psnr": "dB", "ssim": "", "l1": "of the 0..1 range", "mse": "of the 0..1 range", "pixel_accuracy": "share"}
