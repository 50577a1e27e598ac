"""A translator with one weight and paired images that are known by their index."""

import random
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import Dataset

from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import PairedBatch, UnpairedBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule


class Toy(ManualModule):
    """Night is day times -0.5 to begin with; ``noisy`` makes everything draw from the global random states."""

    domains = ("day", "night")
    style_spec = None

    def __init__(self, noisy=False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(-0.5))
        self.noisy = noisy
        self.losses = []

    def on_train_batch_start(self, batch, batch_idx):
        if not self.noisy:  # a noisy one goes on from the state that validation left
            super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch, batch_idx):
        loss = (batch.a * self.scale - batch.b).pow(2).mean() + self.draw()
        self.losses.append(loss.item())
        self.descend(self.optimizers(), loss)
        self.log_terms("g", {"recon": loss, "kl": 10 * loss})
        self.log_terms("d", {"a": loss + 1})
        self.end_iteration()

    def translate(self, x, source, target, style=None):
        assert not self.training
        assert not torch.is_grad_enabled()
        return (x if source == target else x * self.scale) + self.draw()

    def draw(self):
        if not self.noisy:
            return 0.0
        return float(torch.rand(())) + random.random() + np.random.rand()  # noqa: NPY002  the global state is meant

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01, fused=True)


class Tinted(Toy):
    """Halves the image and adds the style to its channels; the style of an image is the mean of its channels."""

    style_spec = LatentSpec(3)

    def translate(self, x, source, target, style=None):
        return super().translate(x * 0.5, source, source) + style[:, :, None, None]

    def style_of(self, x, domain):
        assert not self.training
        return x.mean((2, 3)) + self.draw()


class Images(Dataset):
    def __init__(self, paired):
        self.paired = paired

    def __getitem__(self, k):
        a, b, a2, b2 = (image(k, kind) for kind in range(4))
        return PairedBatch(a, b, a2, b2) if self.paired else UnpairedBatch(a, b)


def image(k, kind):
    return torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(10 * k + kind)) * 2 - 1


class ToyData(pl.LightningDataModule):
    domains = ("day", "night")

    def __init__(self, images=7, batch=2, paired=True):
        super().__init__()
        self.images, self.batch, self.paired = images, batch, paired

    @property
    def true_pairs(self):
        return self.paired

    def train_dataloader(self):
        return build_loader(Images(False), list(range(8)), 2, 0, seed=0)

    def val_dataloader(self):
        shard = unpadded_shard(self.images, *placement(self.trainer))
        return build_loader(Images(self.paired), shard, self.batch, 0, seed=0)

    test_dataloader = val_dataloader


def toy_trainer(folder: Path, callbacks=(), logger=False, **options):
    defaults = {
        "max_steps": 4,
        "max_epochs": -1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), logger=logger, **(defaults | options))


def ddp_options(world):
    from datetime import timedelta

    from pytorch_lightning.strategies import DDPStrategy

    strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo", timeout=timedelta(seconds=60))
    return {"strategy": strategy, "devices": world, "accelerator": "cpu"}
