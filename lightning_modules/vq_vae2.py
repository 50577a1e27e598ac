"""VQ-VAE-2, stage one: Generating Diverse High-Fidelity Images with VQ-VAE-2 (Razavi et al., NeurIPS 2019).

An image becomes maps of codes, a coarse one and finer ones that know the coarser; codes are entries of codebooks, and a
decoder makes the image of all of them:

    L = |D(e) - x|^2 + beta sum_levels |sg[e] - E(x)|^2       (Eq. 2 without its second term, which averages replace)

e are the entries nearest to what the encoders say, E(x); sg lets no gradient pass, and what D's gradient says of e goes
to E(x). Entries are running averages of the vectors that they were nearest to (Eq. 4). Both squares are means over all
numbers, as in the PyTorch release, whose networks, numbers and initialisation these are (``networks.vq_vae2``,
``networks.codebook``); the first 1300 iterations of its codebooks use hardly any entry, and ``restart_below`` cures it.

Departs from the release: it takes no decay (its argument is not handed on), here ``decay`` does what it says; more than
two levels are ours, as ``networks.vq_vae2`` says. Stage two is
``lightning_modules.pixel_snail``.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from interfaces.batch import ImageBatch
from lightning_modules.base import ManualModule
from networks.codebook import usage
from networks.vq_vae2 import VQVAE2Networks, only


class VQVAE2(ManualModule):
    """Images as maps of codes. Defaults are those of the release for 256x256.

    Args:
        channels: of the images.
        width: of the features.
        res_blocks: residual blocks of each network.
        res_width: channels inside them; paper 64.
        dim: numbers of a code.
        codes: entries of each codebook.
        levels: maps of codes.
        stride: of the finest map.
        decay: of the running averages.
        restart_below: an entry that is nearest to fewer vectors an iteration begins anew at one; release 0, never.
        beta: weight of the commitment.
        lr: of Adam.
        betas: of Adam.
        cycle: iterations of the release's ``--sched cycle``, in which the rate rises from lr / 25 to ``lr`` and falls
            to 4e-6 lr, over and over; 0, its default, keeps the rate.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        res_blocks: int = 2,
        res_width: int = 32,
        dim: int = 64,
        codes: int = 512,
        levels: int = 2,
        stride: int = 4,
        decay: float = 0.99,
        restart_below: float = 0.0,
        beta: float = 0.25,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        cycle: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.codes, self.beta, self.lr, self.betas, self.cycle = codes, beta, lr, tuple(betas), cycle
        self.nets = VQVAE2Networks(
            channels,
            width,
            res_blocks,
            res_width,
            dim,
            codes,
            levels,
            stride,
            decay=decay,
            restart_below=restart_below,
        )

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step; the codebooks have followed before it."""
        x, opt = batch.image, self.optimizers()
        found = self.nets.encode(x)
        terms = {
            "recon": mse_loss(self.nets.decode([level.codes for level in found]), x),
            "commit": torch.stack([level.commitment for level in found]).sum(),
        }
        self.descend(opt, terms["recon"] + self.beta * terms["commit"])
        self.log_terms("vq", terms)
        with torch.no_grad():
            perplexities = [usage(level.indices, self.codes).perplexity for level in found]
        self.log_terms("codebook", {f"perplexity_{k}": value for k, value in enumerate(perplexities)})
        self.end_iteration()

    def indices_of(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) in [-1, 1] to the entries' numbers, (N, h, w) int64 of each level, the top first."""
        return [level.indices for level in self.nets.encode(x)]

    def image_of(self, indices: list[Tensor], levels: tuple[int, ...] | None = None) -> Tensor:
        """Such numbers to (N, C, H, W) in [-1, 1]: what all levels say, or what some say alone; the top is level 0."""
        codes = self.nets.lookup(indices)
        return self.nets.decode(codes if levels is None else only(codes, levels)).clamp(-1, 1)

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstruct."""
        return self.image_of(self.indices_of(batch.image))

    def rate(self, finished: int) -> float:
        """Share of ``lr`` in the iteration after ``finished`` ones: 5 % of a cycle go up, the rest is a cosine."""
        if self.cycle == 0:
            return 1.0
        up = int(0.05 * self.cycle)
        step = finished % self.cycle + 1
        if step <= up:
            return 1 / 25 + (1 - 1 / 25) * step / up
        last = 1 / 25 / 1e4
        return last + (1 - last) / 2 * (math.cos(math.pi * (step - up) / (self.cycle - up)) + 1)

    def configure_optimizers(self):
        """Adam; its rate is constant, or goes in cycles."""
        opt = Adam(self.nets.parameters(), self.lr, self.betas, fused=True)
        return [opt], [LambdaLR(opt, self.rate)] if self.cycle > 0 else []
