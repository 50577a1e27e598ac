"""beta-TCVAE: Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., NeurIPS 2018).

The KL to the prior has three parts: what the code tells of an image's index, how far its coordinates are from
independent, and how far each is from the prior. Only the second is to count for more:

    L = E_q(z|x) [- log p(x|z)] + alpha MI + beta TC + dwKL        (Eq. 4, to be descended)

With alpha = 1, as in the paper's experiments, that is KL + (beta - 1) TC, where KL has a closed form and TC is
estimated from the batch by minibatch weighted sampling; its constant, which needs the size of the data, has no gradient
and is left out of the loss (Locatello et al. 2019, the default). With ``stratified`` all three are estimated by
minibatch stratified sampling, which needs ``data_size`` (disvae's objective, which lets dwKL grow over ``anneal``
iterations, but not its estimate, in which a weight counts once for each coordinate). On several processes the batch is
that of all.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import Terms
from lightning_modules.beta_vae import BetaVAE, drop_labels
from losses.total_correlation import decompose, stratified_sampling, total_correlation
from networks.precision import wide
from networks.processes import rows_of_all


class BetaTCVAE(BetaVAE):
    """A beta-VAE whose beta weighs the total correlation.

    Args:
        beta: weight of the total correlation. Paper: 6 for dSprites.
        data_size: images in the training data; then TC is logged with its constant. 0 logs it without, far below zero.
        stratified: minibatch stratified sampling for all three parts; needs ``data_size``.
        alpha: weight of MI, with ``stratified``.
        **others: of ``BetaVAE``; ``anneal`` is the ramp of dwKL and needs ``stratified``.

    Raises:
        ValueError: as ``BetaVAE``, or ``stratified`` without ``data_size``, or what only goes with it without it.
    """

    def __init__(
        self, beta: float = 6.0, data_size: int = 0, stratified: bool = False, alpha: float = 1.0, **others: Any
    ) -> None:
        drop_labels(others)
        super().__init__(beta=beta, **others)  # as it stands, so that the command line finds BetaVAE's arguments
        self.data_size, self.stratified, self.alpha = data_size, stratified, alpha
        if stratified and data_size < 1:
            raise ValueError("BetaTCVAE with model.stratified needs model.data_size, the number of training images.")
        if not stratified and (alpha != 1 or self.anneal > 0):
            raise ValueError("BetaTCVAE has model.alpha and model.anneal only with model.stratified: set it to true.")

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """alpha MI + beta TC + dwKL."""
        kl = self.kl(mu, logvar)
        with torch.autocast(z.device.type, enabled=False):  # sums of densities do not fit into 16 bits
            z, mu, logvar = (rows_of_all(wide(each)) for each in (z, mu, logvar))
            n, size = z.shape
            if self.stratified:
                parts = decompose(z, mu, logvar, stratified_sampling(n, self.data_size, z))
                loss = self.alpha * parts.mi + self.beta * parts.tc + self.ramp() * parts.dwkl
                return loss, {"kl": kl} | parts._asdict()
            tc = total_correlation(z, mu, logvar)
        constant = (size - 1) * math.log(n * self.data_size) if self.data_size > 0 else 0.0
        return kl + (self.beta - 1) * tc, {"kl": kl, "tc": tc + constant}
