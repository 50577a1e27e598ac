"""Adversarial objectives on raw scores; one function a formula.

Discriminators of several scales give a list of score maps. Every loss here *sums* over the scales, as the
official UNIT and MUNIT do, and averages over batch and positions within each scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus


def lsgan_discriminator(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Least squares with targets 1 and 0 (Mao et al. 2017, Eq. 9, without its factors 1/2).

    Args:
        real_logits: per scale (N, 1, H, W), scores of real images.
        fake_logits: per scale, scores of generated images.

    Returns:
        Scalar >= 0, summed over scales.
    """
    return torch.stack(
        [(r - 1).square().mean() + f.square().mean() for r, f in zip_scales(real_logits, fake_logits)]
    ).sum()


def lsgan_generator(fake_logits: Sequence[Tensor]) -> Tensor:
    """Least squares towards 1 (Mao et al. 2017, Eq. 9, without the factor 1/2), summed over scales."""
    return torch.stack([(f - 1).square().mean() for f in fake_logits]).sum()


def log_discriminator(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """-log D(real) - log(1 - D(fake)) with D the sigmoid of the scores (Goodfellow et al. 2014, Eq. 1).

    Args:
        real_logits: per scale (N, 1, H, W), scores of real images before the sigmoid.
        fake_logits: per scale, scores of generated images.

    Returns:
        Scalar >= 0 in nats, summed over scales.
    """
    return torch.stack(
        [softplus(-r).mean() + softplus(f).mean() for r, f in zip_scales(real_logits, fake_logits)]
    ).sum()


def log_generator(fake_logits: Sequence[Tensor]) -> Tensor:
    """-log D(fake), the non-saturating generator loss (Goodfellow et al. 2014, section 3), summed over scales."""
    return torch.stack([softplus(-f).mean() for f in fake_logits]).sum()


def minimax_generator(fake_logits: Sequence[Tensor]) -> Tensor:
    """log(1 - D(fake)), what G minimises in the two-player game itself (Goodfellow et al. 2014, Eq. 1).

    Its gradient vanishes where D is sure that images are generated; that of ``log_generator`` does not.

    Args:
        fake_logits: per scale (N, 1, H, W), scores of generated images before the sigmoid.

    Returns:
        Scalar <= 0 in nats, summed over scales.
    """
    return -torch.stack([softplus(f).mean() for f in fake_logits]).sum()


def log_confusion(logits: Tensor) -> Tensor:
    """Cross-entropy of the sigmoid of the scores with 1/2 (DRIT's encoders against their content discriminator).

    Args:
        logits: (N, ...) scores.

    Returns:
        Scalar >= ln 2 in nats, averaged over batch and positions; least, without a gradient, where the scores are 0.
    """
    return (softplus(logits) - logits / 2).mean()


def wasserstein_critic(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E[D(fake)] - E[D(real)], for a critic with a gradient penalty (Gulrajani et al. 2017, first terms of Eq. 3).

    Args:
        real_scores: (N, ...), of real images, any real numbers.
        fake_scores: (M, ...), of generated images.

    Returns:
        Scalar, any real number: minus the critic's estimate of the distance between the two.
    """
    return fake_scores.mean() - real_scores.mean()


def wasserstein_generator(fake_scores: Tensor) -> Tensor:
    """-E[D(fake)], averaged over batch and positions."""
    return -fake_scores.mean()


def drift(real_scores: Tensor) -> Tensor:
    """E[D(real)^2], which keeps a critic's scores near 0 (ProGAN, Karras et al. 2018, appendix A.1).

    Args:
        real_scores: (N, ...), of real images.

    Returns:
        Scalar >= 0, averaged over batch and positions.
    """
    return real_scores.square().mean()


def slope(scores: Tensor, x: Tensor) -> Tensor:
    """Gradient of each row's score at its image, with a graph, so that a penalty on it can be descended.

    Args:
        scores: (N, ...) of a critic without layers that mix images; with such (``networks.style.with_deviation``) a row
            gets the gradient of the sum of all scores, as in the papers that have them.
        x: (N, ...) images of which these are the scores, requiring gradients.

    Returns:
        The shape of ``x``.
    """
    return torch.autograd.grad(scores.sum(), x, create_graph=True)[0]


def gradient_penalty(slopes: Tensor, target: float = 1.0) -> Tensor:
    """(|slope| - 1)^2 with the norm of a whole image, averaged over images (WGAN-GP, Gulrajani et al. 2017, Eq. 3).

    Args:
        slopes: (N, ...) from ``slope``, of points between real and generated images.
        target: gamma > 0 of (|slope| - gamma)^2 / gamma^2 (ProGAN, Karras et al. 2018, appendix A.1).

    Returns:
        Scalar >= 0. Where a slope is exactly 0 it has no gradient.
    """
    return (torch.linalg.vector_norm(slopes.flatten(1), dim=1) / target - 1).square().mean()


def pixel_gradient_penalty(slopes: Tensor) -> Tensor:
    """As ``gradient_penalty``, with the norm over the channels of each pixel by itself (UFDN, official code).

    It asks for a slope of 1 at every pixel, so for one of sqrt(H W) over the image.

    Args:
        slopes: (N, C, H, W) from ``slope``.

    Returns:
        Scalar >= 0, averaged over images and pixels.
    """
    return (torch.linalg.vector_norm(slopes, dim=1) - 1).square().mean()


def r1_penalty(slopes: Tensor) -> Tensor:
    """|slope|^2 / 2 of a whole image, averaged over images (Mescheder et al. 2018, Eq. 9, without gamma).

    Args:
        slopes: (N, ...) from ``slope``, of real images.

    Returns:
        Scalar >= 0: summed over pixels, averaged over the batch.
    """
    return slopes.square().flatten(1).sum(1).mean() / 2


def zip_scales(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair the scales of two score lists; unequal lengths are a mistake of the caller (ValueError)."""
    return list(zip(real_logits, fake_logits, strict=True))
