"""DIP-VAE: Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et al., ICLR 2018).

The aggregate posterior is to have the covariance of the prior, the identity:

    L = E_q(z|x) [- log p(x|z)] + KL(q(z|x) || N(0, I)) + lambda_od sum_{i != j} S_ij^2 + lambda_d sum_i (S_ii - 1)^2

(Eq. 6 and 7, to be descended). DIP-VAE-I takes the covariance of the means for S, DIP-VAE-II the covariance of z, which
is that and the mean of the variances on the diagonal. S is of a batch, with divisor N, so that the size of a batch is
part of the objective; on several processes it is the batch of all. Locatello et al. 2019 have lambda_d = 10 lambda_od
for I and lambda_od for II, with lambda_od from 1 to 50.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import Terms
from lightning_modules.beta_vae import BetaVAE, drop_labels
from losses.total_correlation import covariance, dip
from networks.processes import rows_of_all


class DIPVAE(BetaVAE):
    """A VAE whose codes are uncorrelated.

    Args:
        lambda_od: weight of covariances.
        lambda_d: weight of variances' distances from 1.
        second: DIP-VAE-II, not I.
        beta: weight of the KL.
        **others: of ``BetaVAE``.
    """

    def __init__(
        self,
        lambda_od: float = 10.0,
        lambda_d: float = 100.0,
        second: bool = False,
        beta: float = 1.0,
        **others: Any,
    ) -> None:
        drop_labels(others)
        super().__init__(beta=beta, **others)  # as it stands, so that the command line finds BetaVAE's arguments
        self.lambda_od, self.lambda_d, self.second = lambda_od, lambda_d, second

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """KL and the distance of the covariance from the identity."""
        prior, terms = super().prior_loss(z, mu, logvar)
        cov = covariance(rows_of_all(mu))
        if self.second:
            cov = cov + torch.diag(rows_of_all(logvar).exp().mean(0))
        distance = dip(cov, self.lambda_od, self.lambda_d)
        return prior + distance, terms | {"dip": distance}
