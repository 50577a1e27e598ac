"""Inception scores: how sure a classifier is of each image, and how much its answers vary."""

import math

import torch
from torch import Tensor


def inception_score(logits: Tensor) -> Tensor:
    """exp of the mean of KL(p(y|x) || p(y)) (Salimans et al. 2016), with p(y) over all images.

    An exact function of the set. The published protocol, ``inception_score_splits``, is lower on as many images.

    Args:
        logits: (N, K) class scores before the softmax.

    Returns:
        Scalar float64 in [1, K].

    Raises:
        ValueError: not (N, K), or no image.
    """
    if logits.ndim != 2 or not len(logits):
        raise ValueError(
            f"An Inception score needs class scores (N, K) of at least one image, got {tuple(logits.shape)}."
        )
    return _information(logits).mean().exp()


def inception_score_splits(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ``inception_score`` over disjoint parts, the published protocol.

    Published with 50 000 images in 10 parts. They are shuffled by an own generator first, since the order of a
    data set is not random.

    Args:
        logits: (N, K) class scores before the softmax.
        splits: number of parts, equal in size to within one image.
        seed: of the shuffle.

    Returns:
        Mean and (population) standard deviation, scalars float64.

    Raises:
        ValueError: fewer images than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many images at least, not {len(logits)}.")
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    values = torch.stack([inception_score(part) for part in logits[order].tensor_split(splits)])
    return values.mean(), values.std(correction=0)


def conditional_inception_score(logits: Tensor) -> Tensor:
    """CIS (Huang et al. 2018, MUNIT, Sec. 5.2): as ``inception_score``, with p(y) over the outputs of one input.

    One output per input, or outputs that do not depend on the style, score 1. Published with 100 outputs for each
    of 100 inputs. The exponential is that of the authors' code; the formula of the paper has none, and values below 1
    in its table (as recalled, not checked against the PDF) are logarithms of this.

    Args:
        logits: (N, M, K) class scores before the softmax, of M outputs for each of N inputs.

    Returns:
        Scalar float64 in [1, K].

    Raises:
        ValueError: not (N, M, K), or no image.
    """
    if logits.ndim != 3 or not logits.shape[0] * logits.shape[1]:
        raise ValueError(f"CIS needs class scores (inputs, outputs, classes), got {tuple(logits.shape)}.")
    return _information(logits).mean().exp()


def _information(logits: Tensor) -> Tensor:
    """(..., M, K) to (..., M): KL of each image's classes from the mean of its M images, in nats."""
    log_p = logits.detach().double().log_softmax(-1)
    log_marginal = log_p.logsumexp(-2, keepdim=True) - math.log(log_p.shape[-2])
    return (log_p.exp() * (log_p - log_marginal)).sum(-1)
