"""Three domains of which each is a tint, and a model that translates perfectly."""

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import AlignedBatch, EachDomainBatch
from lightning_modules.base import ManualModule

SHIFTS = torch.tensor([[-0.4, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.1, 0.3]])  # of each channel


class Shifting(ManualModule):
    """Adds the difference of the shifts of two domains, of ``wrong`` times too much."""

    domains = ("low", "middle", "high")
    style_spec = None

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong, self.scale = wrong, torch.nn.Parameter(torch.ones(()))

    def blend(self, x, source, mixture, style=None):
        shift = (mixture @ SHIFTS - SHIFTS[source]) * (1 + self.wrong)
        return x + shift[:, :, None, None]

    def translate(self, x, source, target, style=None):
        return self.blend(x, source, torch.eye(3)[target].expand(len(x), -1))

    def content_of(self, x, source):
        return (x - SHIFTS[source][:, None, None]).mean((2, 3))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01, fused=True)


def scene(k):
    """Within [-0.5, 0.5], so that no shift leaves the range."""
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(k)) - 0.5


class Scenes(Dataset):
    def __init__(self, paired):
        self.paired = paired

    def __getitem__(self, k):
        images = scene(k)[None] + SHIFTS[:, :, None, None]
        return AlignedBatch(images, images + 0.01) if self.paired else EachDomainBatch(images)


class ShiftedData(pl.LightningDataModule):
    domains = ("low", "middle", "high")

    def __init__(self, images=7, batch=2, paired=True):
        super().__init__()
        self.images, self.batch, self.paired = images, batch, paired

    @property
    def true_pairs(self):
        return self.paired

    def val_dataloader(self):
        return build_loader(
            Scenes(self.paired), unpadded_shard(self.images, *placement(self.trainer)), self.batch, 0, 0
        )

    test_dataloader = val_dataloader
