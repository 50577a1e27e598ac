"""VQ-VAE-2, stage two: PixelSNAIL (Chen et al., ICML 2018) as prior of one level's codes (Razavi et al., NeurIPS 2019).

The codes c of an image that stage one found have, place by place in the order of reading, the probability

    log p(c | above) = sum_n log p(c_n | c_m of all m < n, above)

of which the mean over places is ascended: cross-entropy in nats per code. Each level has a prior and a run of its own;
above is the map of codes of the level above, of which the top has none. Networks, numbers and initialisation are those
of the PyTorch release (``networks.pixel_snail``). Defaults are its top level for images of 256x256; its bottom level is
``shape: [64, 64]``, ``attention: false``, ``cond_blocks: 3``. The release trains 420 epochs in batches of 32.

Departs from the release: it samples by a full pass of the rows so far for each code, here by one pass in all, to the
same probabilities; one-cycle learning rates and mixed precision by apex are left out. Paper and not release: priors of
some 20 layers, conditioned on the class.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from interfaces.batch import CodeBatch
from lightning_modules.base import ManualModule, Terms
from networks.pixel_snail import PixelSNAILNetwork
from networks.pixel_snail_sampling import sample


class PixelSNAIL(ManualModule):
    """The prior of a map of codes.

    Args:
        shape: (H, W) of the map.
        classes: entries of the codebooks, of this level and of the one above.
        width: of the features.
        kernel: of causal convolutions, odd.
        blocks: each of causal residual blocks and attention or a 1x1 convolution.
        res_blocks: causal residual blocks in each.
        res_width: channels inside them.
        attention: whether there is some.
        dropout: in causal blocks and attention.
        out_blocks: residual blocks before the logits.
        cond_blocks: residual blocks that read the codes of the level above, half as high and wide; 0: there is none.
        cond_width: channels inside them.
        cond_kernel: of their convolutions, odd.
        side_dropout: in output and condition blocks; the release has 0.1 there, whatever ``dropout`` is.
        lr: of Adam.
        betas: of Adam.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (32, 32),
        classes: int = 512,
        width: int = 256,
        kernel: int = 5,
        blocks: int = 4,
        res_blocks: int = 4,
        res_width: int = 256,
        attention: bool = True,
        dropout: float = 0.1,
        out_blocks: int = 0,
        cond_blocks: int = 0,
        cond_width: int = 256,
        cond_kernel: int = 3,
        side_dropout: float = 0.1,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.betas = lr, tuple(betas)
        self.net = PixelSNAILNetwork(
            tuple(shape),
            classes,
            width,
            kernel,
            blocks,
            res_blocks,
            res_width,
            attention,
            dropout,
            out_blocks,
            cond_blocks,
            cond_width,
            cond_kernel,
            side_dropout,
        )

    def setup(self, stage: str) -> None:
        """Refuse data whose maps are others than the model's.

        Raises:
            ValueError: they differ in size, in the number of codes, or in having a level above.
        """
        data = getattr(self.trainer, "datamodule", None)
        ours = {"shape": self.net.shape, "classes": self.net.classes, "a level above": self.net.conditional}
        if not all(hasattr(data, name) for name in ("shape", "codes", "condition_shape")):
            return
        theirs = {"shape": data.shape, "classes": data.codes, "a level above": data.condition_shape is not None}
        for what, mine in ours.items():
            if mine != theirs[what]:
                raise ValueError(
                    f"PixelSNAIL has {what}: {mine}, but the codes in {data.folder} have {theirs[what]}: "
                    "change model.shape and classes, or data.level; cond_blocks above 0 read the level above."
                )

    def training_step(self, batch: CodeBatch, batch_idx: int) -> None:
        """One step."""
        loss, terms = self.loss(batch)
        self.descend(self.optimizers(), loss)
        self.log_terms("prior", terms)
        self.end_iteration()

    def loss(self, batch: CodeBatch) -> tuple[Tensor, Terms]:
        """Nats per code; with it the share of codes that were the likeliest."""
        logits = self.net(batch.codes, batch.condition)
        nll = cross_entropy(logits, batch.codes)
        accuracy = (logits.detach().argmax(1) == batch.codes).to(nll.dtype).mean()
        return nll, {"nll": nll, "accuracy": accuracy}

    def nll_of_codes(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """- log p in nats of each code.

        Args:
            codes: (N, H, W) int64.
            condition: (N, H / 2, W / 2) int64 of the level above, where the prior has one.

        Returns:
            (N, H, W).
        """
        return cross_entropy(self.net(codes, condition), codes, reduction="none")

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        given: Tensor | None = None,
        temperature: float = 1.0,
        rng: torch.Generator | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw maps of codes, in evaluation mode.

        Args:
            n: maps.
            condition: (n, H / 2, W / 2) int64 of the level above, where the prior has one.
            given: (n, h, W) int64, first rows that are kept as they are.
            temperature: above 0; the logits are divided by it.
            rng: on the CPU, so that one seed gives the same codes on any device; None is PyTorch's own.
            progress: called with the number of finished rows after each.

        Returns:
            (n, H, W) int64.
        """
        return sample(self.net, n, condition, given, temperature, rng, progress)

    def configure_optimizers(self):
        """Adam at a constant rate."""
        return Adam(self.net.parameters(), self.lr, self.betas, fused=True)
