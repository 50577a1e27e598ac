import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import Dataset

import callbacks.latent_traversal as module
from callbacks.latent_traversal import LatentTraversal, by_movement, moved_along
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp

GAINS = torch.tensor([0.1, 0.3, 0.2])


class Painter(ManualModule):
    """Coordinate d is the brightness of channel d, seen through a gain."""

    latent_spec = LatentSpec(3, names=("red", "green", "blue"))

    def decode(self, z):
        assert not self.training
        return (z * GAINS)[:, :, None, None].expand(-1, -1, 12, 12)


class Autoencoder(Painter):
    def encode(self, x):
        return x.mean((2, 3)) / GAINS

    def kl_per_dim(self):
        return torch.tensor([0.25, 1.5, 0.0])


class Pictures(Dataset):
    def __getitem__(self, k):
        return ImageBatch(image(k, 0))


class PictureData(pl.LightningDataModule):
    def val_dataloader(self):
        return build_loader(Pictures(), unpadded_shard(5, *placement(self.trainer)), 1, 0, seed=0)


@pytest.fixture
def grids(monkeypatch):
    """Arguments of every grid that is drawn."""
    drawn, draw = [], module.labelled_grid

    def record(columns, headings, labels, *options):
        drawn.append((columns, headings, labels))
        return draw(columns, headings, labels, *options)

    monkeypatch.setattr(module, "labelled_grid", record)
    return drawn


def colours(column):
    """The one colour of each image, (N, 3)."""
    assert torch.equal(column, column[:, :, :1, :1].expand_as(column))
    return column[:, :, 0, 0]


def test_traversals_around_encodings(tmp_path, grids):
    trainer = toy_trainer(tmp_path, [LatentTraversal(images=2, steps=5, dims=2)])
    trainer.validate(Autoencoder(), PictureData(), verbose=False)
    for k, (columns, headings, labels) in enumerate(grids[:2]):
        assert headings == ["input", "-3", "-1.5", "+0", "+1.5", "+3"]
        assert labels == (["green  KL 1.50", "red  KL 0.25"] if k == 0 else None)  # the most informed first
        assert torch.equal(columns[0][0], image(k, 0))
        assert (columns[0][1] == 1).all()
        still = image(k, 0).mean((1, 2))
        for column, offset in zip(columns[1:], (-3, -1.5, 0, 1.5, 3), strict=True):
            expected = still + offset * GAINS * torch.eye(3)[[1, 0]]
            torch.testing.assert_close(colours(column), expected)


def test_the_video_goes_to_one_end_to_the_other_and_back(tmp_path, grids):
    trainer = toy_trainer(tmp_path, [LatentTraversal(images=2, steps=5, dims=1)])
    trainer.validate(Autoencoder(), PictureData(), verbose=False)
    frames = grids[2:]
    assert [headings for _, headings, _ in frames] == [[at] * 2 for at in "-3 -1.5 +0 +1.5 +3 +1.5 +0 -1.5".split()]
    for columns, headings, labels in frames:
        assert labels == ["green  KL 1.50"]
        for k, column in enumerate(columns):
            expected = image(k, 0).mean((1, 2)) + float(headings[0]) * GAINS * torch.eye(3)[[1]]
            torch.testing.assert_close(colours(column), expected)
    with Image.open(tmp_path / "pictures/media/traversal_video/validate.gif") as video:
        assert (video.n_frames, video.info["loop"]) == (8, 0)


def test_a_decoder_alone_is_traversed_around_fixed_draws(tmp_path, grids):
    trainer = toy_trainer(tmp_path, [LatentTraversal(images=2, steps=3)])
    trainer.validate(Painter(), PictureData(), verbose=False)
    codes = LatentSpec(3).draw(2, torch.Generator().manual_seed(0))
    for code, (columns, headings, _) in zip(codes, grids[:2], strict=True):
        assert headings == ["-3", "+0", "+3"]
        torch.testing.assert_close(colours(columns[1]), (code * GAINS).expand(3, 3))
    assert grids[0][2] == ["green", "blue", "red"]


def test_styles_are_traversed_around_the_mean_of_the_prior(tmp_path, grids):
    trainer = toy_trainer(tmp_path, [LatentTraversal(steps=3)])
    trainer.validate(Tinted(), ToyData(), verbose=False)
    pictures = [grid for grid in grids if "input" in grid[1]]
    for (columns, headings, labels), kind in zip(pictures, (0, 1), strict=True):
        assert headings == ["input", "-3", "+0", "+3"]
        assert labels == ["0", "1", "2"]
        assert torch.equal(columns[0][0], image(0, kind))
        torch.testing.assert_close(columns[2], (image(0, kind) * 0.5).expand(3, -1, -1, -1))
        expected = image(0, kind) * 0.5 + 3 * torch.eye(3)[:, :, None, None]
        torch.testing.assert_close(columns[3], expected)
    assert (tmp_path / "pictures/media/style_traversal/night2day/validate.png").exists()


def test_a_uniform_prior_is_not_left():
    spec = LatentSpec(2, prior="uniform", span=3.0)
    codes = moved_along(spec, torch.tensor([0.5, -0.25]), 0, torch.tensor([-3.0, 0.0, 0.3, 3.0]))
    torch.testing.assert_close(codes[:, 0], torch.tensor([0.5 - 3**0.5, 0.5, 0.5 + 0.3 / 3**0.5, 1.0]).clamp(-1, 1))
    assert (codes[:, 1] == -0.25).all()


def test_a_movement_that_comes_back_counts():
    spec = LatentSpec(3, span=2.0)

    def render(z):  # coordinate 1 is even: both ends look alike and neither like the middle
        return torch.stack([0.1 * z[:, 0], z[:, 1] ** 2, 0 * z[:, 2]], dim=1)[:, :, None, None]

    assert by_movement(render, spec, torch.zeros(2, 3)) == [1, 0, 2]


def test_a_model_without_any_code_is_refused_at_setup(tmp_path):
    with pytest.raises(TypeError, match=r"needs a Decoder .* or a Translator with a style_spec, but Toy is neither"):
        toy_trainer(tmp_path, [LatentTraversal()]).validate(Toy(), ToyData(), verbose=False)


def test_batches_without_images_are_refused(tmp_path):
    with pytest.raises(TypeError, match="batches with a field image, not PairedBatch"):
        toy_trainer(tmp_path, [LatentTraversal()]).validate(Autoencoder(), ToyData(), verbose=False)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"steps": 4}, {"dims": 0}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="an odd number of steps from 3 on"):
        LatentTraversal(**wrong)


def _validate(rank, world, folder):
    options = ddp_options(world) if world > 1 else {}
    toy_trainer(folder, [LatentTraversal(steps=3)], **options).validate(Autoencoder(), PictureData(), verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    _validate(0, 1, tmp_path / "one")
    run_ddp(_validate, tmp_path / "two")
    one, two = ((tmp_path / n / "pictures/media/traversal/validate.png").read_bytes() for n in ("one", "two"))
    assert one == two
