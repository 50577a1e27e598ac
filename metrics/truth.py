"""Measures that only data with known truth allow: maps, factors, and what a code gives away.

Maps are class numbers per pixel. Factors are numbers in units of their range. A probe is a ridge regression, in closed
form and cross-validated: it says what is *linearly* readable from a code, is the same for everybody, and costs nothing.
"""

import torch
from torch import Tensor

PENALTIES = tuple(10.0**k for k in range(-3, 4))  # of the ridge, times the number of images
FOLDS = 5


def confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts of pixels by true (row) and predicted (column) class.

    Args:
        prediction: integers in [0, classes), any shape.
        truth: the same shape.
        classes: K.

    Returns:
        (K, K) int64.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"Two maps of one shape are needed, not {tuple(prediction.shape)} and {tuple(truth.shape)}.")
    pairs = truth.long().flatten() * classes + prediction.long().flatten()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class over all pixels together, averaged over the classes that occur.

    The "class IoU" of pix2pix and CycleGAN (Isola et al. 2017, Sec. 4.1).

    Args:
        counts: (K, K) from ``confusion``.

    Returns:
        Scalar float64 in [0, 1]; NaN without any pixel.
    """
    right = counts.diagonal().double()
    either = counts.sum(0) + counts.sum(1) - right
    return (right / either)[either > 0].mean()


def map_accuracy(counts: Tensor) -> Tensor:
    """Share of pixels in the right class ("per-pixel accuracy"): scalar float64."""
    return counts.diagonal().sum().double() / counts.sum()


def r2(prediction: Tensor, truth: Tensor) -> Tensor:
    """Coefficient of determination of each factor: 1 perfect, 0 no better than the mean, below 0 worse.

    Args:
        prediction: (N, F).
        truth: (N, F).

    Returns:
        (F,) float64; NaN for a factor that does not vary.
    """
    prediction, truth = prediction.double(), truth.double()
    return 1 - (prediction - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)


def probe_r2(codes: Tensor, factors: Tensor) -> Tensor:
    """How much of each factor a ridge regression reads from a code, on images it was not fitted to.

    Args:
        codes: (N, D); see ``pooled`` for maps.
        factors: (N, F).

    Returns:
        (F,) float64, at most 1; about 0, or a little below, where nothing can be read.

    Raises:
        ValueError: fewer than 20 images.
    """
    return r2(probe_readings(codes, factors), factors)


def probe_readings(codes: Tensor, factors: Tensor) -> Tensor:
    """What the probe of ``probe_r2`` reads of each image: (N, F) float64."""
    return _cross_validated(codes, factors.double(), torch.arange(len(codes)))


def probe_accuracy(codes: Tensor, labels: Tensor, scenes: Tensor | None = None) -> Tensor:
    """How often a ridge classifier tells the label from a code, on images it was not fitted to.

    Args:
        codes: (N, D).
        labels: (N,) integers.
        scenes: (N,) integers: images of one scene are fitted to together or not at all. Where each scene is seen
            under each label, a code that says nothing then gives chance exactly; images split at random give less,
            because the label of an image that is left out is the rarer one among those that are left.

    Returns:
        Scalar float64 in [0, 1]; the share of the commonest label is what no code at all gives.

    Raises:
        ValueError: fewer than 20 images.
    """
    return probe_hits(codes, labels, scenes).mean()


def probe_hits(codes: Tensor, labels: Tensor, scenes: Tensor | None = None) -> Tensor:
    """Whether the classifier of ``probe_accuracy`` is right, 0 or 1 for each image: (N,) float64."""
    targets = torch.nn.functional.one_hot(labels.long()).double()
    groups = torch.arange(len(codes)) if scenes is None else scenes
    return (_cross_validated(codes, targets, groups).argmax(1) == labels.to(codes.device)).double()


def pooled(code: Tensor, cells: int = 4) -> Tensor:
    """A map (N, C, h, w) to (N, C cells^2 + C): means over a grid of cells, and deviations over the whole map.

    Flat codes stay as they are, as do maps of one position. Deviations catch a style that instance normalisation would
    hide from means.
    """
    if code.ndim == 2 or code.shape[2:] == (1, 1):  # which have no deviation
        return code.flatten(1).double()
    means = torch.nn.functional.adaptive_avg_pool2d(code.double(), cells)
    return torch.cat((means.flatten(1), code.double().std((2, 3))), 1)


def places(code: Tensor) -> Tensor:
    """Four positions of a map (N, C, h, w), a quarter of its sides away from its corners: (4, N, C) float64.

    A probe of one position reads what a patch tells, as a convolutional discriminator of codes does; over a whole image
    the least hint adds up to certainty.
    """
    h, w = code.shape[2:]
    rows, columns = (h // 4, h - 1 - h // 4), (w // 4, w - 1 - w // 4)
    return torch.stack([code[:, :, i, j] for i in rows for j in columns]).double()


def _cross_validated(codes: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    """Predictions for each image by a ridge fitted to the other folds; the penalty is that of the best fit overall.

    Images of one group, numbered from 0 on, are in one fold.
    """
    n = len(codes)
    if n < 20 or codes.ndim != 2 or len(targets) != n:
        raise ValueError(
            f"A probe needs at least 20 codes (N, D) and as many targets, not {tuple(codes.shape)} and {len(targets)}."
        )
    fold_of_group = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(0)) % FOLDS
    fold = fold_of_group[groups].to(codes.device)
    codes, targets = codes.double(), targets.to(codes.device)
    predictions = targets.new_zeros(len(PENALTIES), *targets.shape)
    for k in range(FOLDS):
        seen = fold != k
        mean, spread = codes[seen].mean(0), codes[seen].std(0).clamp_min(1e-6)
        x, x_new = (codes[seen] - mean) / spread, (codes[~seen] - mean) / spread
        offset = targets[seen].mean(0)
        # In the space of images where there are fewer of them than of coordinates.
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        target = u.T @ (targets[seen] - offset)
        projected = x_new @ vh.T
        for p, penalty in enumerate(PENALTIES):
            weights = (s / (s.square() + penalty * len(x)))[:, None] * target
            predictions[p, ~seen] = projected @ weights + offset
    errors = (predictions - targets).square().mean((1, 2))
    return predictions[errors.argmin()]
