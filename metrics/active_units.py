"""Which coordinates of a code carry something: by how far their means move, and by their divergence from the prior."""

import numpy as np
from torch import Tensor

from metrics.factor_codes import checked_codes


def active_units(codes: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Coordinates whose posterior mean differs between images: Var_x(E[z_d|x]) > 0.01 (Burda et al. 2016).

    The threshold is for a prior of variance 1, of which a hundredth is left to a coordinate that carries nothing.

    Args:
        codes: (N, D) means of the posteriors of N images, N at least 2.
        threshold: variance above which a coordinate is active; the paper's by default.

    Returns:
        (D,) bool; its sum is the number that is reported.

    Raises:
        ValueError: codes that are not finite (N, D), or a single one.
    """
    codes = checked_codes(codes)
    if len(codes) < 2:
        raise ValueError("codes must be those of 2 images or more: one has no variance.")
    return codes.var(0, ddof=1, dtype=np.float64) > threshold


def kl_from_prior(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each coordinate of each image (Kingma and Welling 2014, Appendix B).

    Args:
        mu: (N, D) means.
        logvar: (N, D) logarithms of the variances.

    Returns:
        (N, D) nats >= 0.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
