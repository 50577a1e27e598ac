"""The picture of what comes back, of an autoencoder that is known."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from callbacks import reconstruction_grid
from callbacks.reconstruction_grid import ReconstructionGrid
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Means(ManualModule):
    """Every image comes back as the mean of its channels."""

    latent_spec = LatentSpec(3)

    def encode(self, x):
        assert not self.training
        return x.mean((2, 3))

    def decode(self, z):
        assert not torch.is_grad_enabled()
        return z[:, :, None, None].expand(-1, -1, 16, 16)


class Photos(Dataset):
    def __getitem__(self, k):
        return ImageBatch(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(k)) * 2 - 1)


class PhotoData(pl.LightningDataModule):
    def val_dataloader(self):
        return build_loader(Photos(), unpadded_shard(5, *placement(self.trainer)), 2, 0, seed=0)


@pytest.mark.parametrize(("largest", "factor"), [(256, 1), (8, 2), (5, 4)])
def test_an_image_stands_above_what_comes_back(tmp_path, monkeypatch, largest, factor):
    drawn = []

    def record(columns, headings, labels, draw=reconstruction_grid.labelled_grid):
        drawn.append((torch.stack(columns, 1), headings, labels))
        return draw(columns, headings, labels)

    monkeypatch.setattr(reconstruction_grid, "labelled_grid", record)
    toy_trainer(tmp_path, [ReconstructionGrid(4, largest)]).validate(Means(), PhotoData(), verbose=False)
    (((x, back), headings, labels),) = drawn
    assert (headings, labels) == ([""] * 4, ["image", "reconstruction"])
    images = torch.stack([Photos()[k].image for k in range(4)])
    torch.testing.assert_close(x, avg_pool2d(images, factor))
    torch.testing.assert_close(back, images.mean((2, 3), keepdim=True).expand_as(x))
    assert (tmp_path / "pictures/media/reconstructions/validate.png").is_file()


def test_others_are_refused(tmp_path):
    with pytest.raises(TypeError, match="needs an Encoder, but Toy has no encode"):
        toy_trainer(tmp_path, [ReconstructionGrid()]).validate(Toy(), PhotoData(), verbose=False)
    for wrong in ({"images": 0}, {"largest": 0}):
        with pytest.raises(ValueError, match="give 1 or more of each"):
            ReconstructionGrid(**wrong)


def _validate(rank, world, folder):
    options = ddp_options(world) if world > 1 else {}
    toy_trainer(folder, [ReconstructionGrid(4)], **options).validate(Means(), PhotoData(), verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    _validate(0, 1, tmp_path / "one")
    run_ddp(_validate, tmp_path / "two")
    one, two = (tmp_path / name / "pictures/media/reconstructions/validate.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
