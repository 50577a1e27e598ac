"""The picture of what comes back, at each resolution of a model that grows, of autoencoders that are known."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from callbacks import reconstruction_grid
from callbacks.reconstruction_grid import ReconstructionGrid, resized
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
from interfaces.growth import Growth
from interfaces.model import GrowingAutoencoder, LatentSpec
from lightning_modules.base import ManualModule
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Doubler(ManualModule):
    """Has reached 8 x 8 of 16 x 16; what comes back of level k is times (k + 2) / 4."""

    growth = Growth((4, 8, 16))
    latent_spec = LatentSpec(3)
    reached = (1, 0.5)

    def encode(self, x):
        return x.mean((2, 3))

    def decode(self, z):
        return z[:, :, None, None].expand(-1, -1, 16, 16)

    def reconstruct_at(self, x, level):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert x.shape[-1] == self.growth.resolutions[level]
        return x * (level + 2) / 4


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


@pytest.fixture
def grid(monkeypatch):
    """Columns, headings and labels of every grid that is drawn."""
    drawn = []

    def record(columns, headings, labels, draw=reconstruction_grid.labelled_grid):
        drawn.append((torch.stack(columns, 1), headings, labels))
        return draw(columns, headings, labels)

    monkeypatch.setattr(reconstruction_grid, "labelled_grid", record)
    return drawn


@pytest.mark.parametrize("largest", [256, 4])
def test_a_row_of_each_resolution_and_one_of_what_comes_back(tmp_path, grid, largest):
    assert isinstance(Doubler(), GrowingAutoencoder)
    callback = ReconstructionGrid(3, largest)
    toy_trainer(tmp_path, [callback]).validate(Doubler(), PhotoData(), verbose=False)
    ((rows, headings, labels),) = grid
    assert headings == [""] * 3
    assert labels == ["4x4", "reconstruction", "8x8", "reconstruction"]
    x = torch.stack([Photos()[k].image for k in range(3)])
    small, large = avg_pool2d(x, 4), avg_pool2d(x, 2)
    small, large = (small.repeat_interleave(2, 2).repeat_interleave(2, 3), large) if largest > 4 else (small, small)
    for row, expected in zip(rows, (small, small / 2, large, large * 3 / 4), strict=True):
        torch.testing.assert_close(row, expected)
    assert (tmp_path / "pictures/media/reconstructions/validate.png").is_file()


@pytest.mark.parametrize("largest", [256, 8])
def test_a_model_that_does_not_grow_has_two_rows(tmp_path, grid, largest):
    assert not isinstance(Means(), GrowingAutoencoder)
    toy_trainer(tmp_path, [ReconstructionGrid(4, largest)]).validate(Means(), PhotoData(), verbose=False)
    (((x, back), _, labels),) = grid
    assert labels == ["image", "reconstruction"]
    images = torch.stack([Photos()[k].image for k in range(4)])
    torch.testing.assert_close(x, images if largest > 8 else avg_pool2d(images, 2))
    torch.testing.assert_close(back, images.mean((2, 3), keepdim=True).expand_as(x))


def test_sizes_are_made_alike():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(resized(x, 8), x)
    torch.testing.assert_close(resized(x, 2), avg_pool2d(x, 4))
    assert resized(x, 5).shape == (2, 3, 4, 4)
    assert torch.equal(resized(x, 16)[:, :, 1::2, ::2], x)


def test_others_are_refused(tmp_path):
    with pytest.raises(TypeError, match="needs a Encoder, but Toy has no encode"):
        toy_trainer(tmp_path, [ReconstructionGrid()]).validate(Toy(), PhotoData(), verbose=False)
    for wrong in ({"images": 0}, {"largest": 0}, {"largest": 12}):
        with pytest.raises(ValueError, match="give 1 image or more, and a power of 2"):
            ReconstructionGrid(**wrong)


def _validate(rank, world, folder):
    options = ddp_options(world) if world > 1 else {}
    toy_trainer(folder, [ReconstructionGrid(4)], **options).validate(Doubler(), PhotoData(), verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    _validate(0, 1, tmp_path / "one")
    run_ddp(_validate, tmp_path / "two")
    one, two = (tmp_path / name / "pictures/media/reconstructions/validate.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
