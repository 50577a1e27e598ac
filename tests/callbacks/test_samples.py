"""Generators that are known, for this and for other tests; and the pictures of what they make."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import Dataset

from callbacks import samples, style_mixing
from callbacks.samples import Samples
from callbacks.style_mixing import layer_ranges
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
from interfaces.model import Decoder, Encoder, Generator, LatentSpec, StyledGenerator
from lightning_modules.base import ManualModule
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

GAIN = 0.2


def painted(codes):
    """(N, D) to (N, 3, 8, 8): the first three coordinates are the brightness of the channels."""
    return (GAIN * codes[:, :3])[:, :, None, None].expand(-1, -1, 8, 8)


class Maker(ManualModule):
    """A ``Decoder`` and ``Generator``."""

    latent_spec = LatentSpec(6)

    def decode(self, z):
        assert not self.training
        assert not torch.is_grad_enabled()
        return painted(z)

    def sample(self, n, rng=None):
        return self.decode(self.latent_spec.draw(n, rng))


class Coder(Maker):
    """Whose codes of real images are known."""

    def encode(self, x):
        return torch.nn.functional.pad(x.mean((2, 3)) / GAIN, (0, 3))


class Styled(Maker):
    """Every fourth of an image has the style of a layer; red is a product in z, and a coordinate in w."""

    latent, layers = 6, 4

    @property
    def w_mean(self):
        return torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    def map(self, z):
        return torch.cat((z[:, :1] * z[:, 3:4], z[:, 1:]), 1)

    def synthesize(self, w):
        assert not self.training
        styles = w if w.ndim == 3 else w[:, None].expand(-1, self.layers, -1)
        colours = (GAIN * styles[:, :, :3]).transpose(1, 2).repeat_interleave(2, 2)
        return colours[:, :, :, None].expand(-1, -1, -1, 8)

    def decode(self, z):
        return self.synthesize(self.map(z))


class Eye:
    """Reads attributes off channels, one of them under another name in another place."""

    attributes = ("blue", "green", "red")
    protocol = {"judge": "an eye"}

    def read(self, x):
        return x.mean((2, 3)).flip(1) * 10


class Drawn(Dataset):
    def __getitem__(self, k):
        z = torch.randn(1, 6, generator=torch.Generator().manual_seed(1000 + k))
        return ImageBatch(painted(z)[0])


class DrawnData(pl.LightningDataModule):
    """Images of other draws than any test's."""

    def __init__(self, images=11, batch=2):
        super().__init__()
        self.images, self.batch = images, batch

    def val_dataloader(self):
        return build_loader(Drawn(), unpadded_shard(self.images, *placement(self.trainer)), self.batch, 0, seed=0)

    test_dataloader = val_dataloader


def logged(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def pictures(folder):
    media = folder / "pictures" / "media"
    return {path.parent.relative_to(media).as_posix(): path.read_bytes() for path in sorted(media.rglob("*.png"))}


@pytest.fixture
def grids(monkeypatch):
    """Columns, headings and labels of every grid that is drawn."""
    drawn = []
    for module in (samples, style_mixing):

        def record(columns, headings, labels=None, draw=module.labelled_grid):
            drawn.append((columns, headings, labels))
            return draw(columns, headings, labels)

        monkeypatch.setattr(module, "labelled_grid", record)
    return drawn


def colours(images):
    """Of each fourth, (N, 4, 3)."""
    return images[:, :, ::2, 0].transpose(1, 2)


def seeded(n, seed):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def test_the_toys_conform():
    assert isinstance(Coder(), Encoder)
    assert isinstance(Maker(), Decoder)
    assert isinstance(Maker(), Generator)
    assert not isinstance(Maker(), StyledGenerator)
    assert isinstance(Styled(), StyledGenerator)


def test_row_r_of_the_grid_is_drawn_with_seed_r(tmp_path, grids):
    toy_trainer(tmp_path, [Samples(3, 4)]).validate(Maker(), DrawnData(), verbose=False)
    ((columns, headings, _),) = grids
    assert len(columns) == len(headings) == 4
    for row in range(3):
        expected = painted(seeded(4, row))
        torch.testing.assert_close(torch.stack([column[row] for column in columns]), expected)
    assert list(pictures(tmp_path)) == ["samples"]


def test_truncation_goes_to_the_mean_and_beyond(tmp_path, grids):
    psis = (1.0, 0.5, 0.0, -1.0)
    toy_trainer(tmp_path, [Samples(1, 1, psis, draws=3)]).validate(Styled(), DrawnData(), verbose=False)
    _, (columns, headings, _), _ = grids
    assert headings == ["psi 1", "psi 0.5", "psi 0", "psi -1"]
    model = Styled()
    w, mean = model.map(seeded(3, 0)), model.w_mean
    for column, psi in zip(columns, psis, strict=True):
        torch.testing.assert_close(colours(column)[:, 2], GAIN * (psi * w + (1 - psi) * mean)[:, :3])
    assert list(pictures(tmp_path)) == ["samples", "style_mixing", "truncation"]


def test_mixed_images_have_some_layers_of_their_source(tmp_path, grids):
    toy_trainer(tmp_path, [Samples(1, 1, draws=2, sources=(2, 0, 1))]).validate(Styled(), DrawnData(), verbose=False)
    columns, headings, labels = grids[2]
    assert headings == ["source", "destination 0", "destination 1"]
    assert labels == ["", "coarse 0-0", "coarse 0-0", "fine 2-3"]
    w = GAIN * Styled().map(seeded(5, 0))[:, :3]
    assert (columns[0][0] == 1).all()
    torch.testing.assert_close(colours(columns[0][1:]), w[2:, None].expand(-1, 4, -1))
    for k, column in enumerate(columns[1:]):
        expected = w[k].expand(4, 4, -1).clone()  # (rows, layers, channels)
        expected[1, :1], expected[2, :1], expected[3, 2:] = w[2], w[3], w[4]
        torch.testing.assert_close(colours(column), expected)


@pytest.mark.parametrize(
    ("layers", "ends"), [(18, [4, 8, 18]), (10, [2, 4, 10]), (8, [2, 4, 8]), (3, [1, 2, 3]), (2, [1, 2]), (1, [1])]
)
def test_ranges_of_layers_are_the_papers_and_cover_all(layers, ends):
    ranges = layer_ranges(layers)
    assert [places.stop for places in ranges.values()] == ends
    assert [k for places in ranges.values() for k in places] == list(range(layers))


def test_every_second_validation(tmp_path):
    class Trained(Maker, Toy):
        pass

    class Data(ToyData, DrawnData):
        def __init__(self):
            ToyData.__init__(self)

    toy_trainer(tmp_path, [Samples(1, 2, every=2)], max_steps=8).fit(Trained(), Data())
    names = [path.name for path in sorted((tmp_path / "pictures/media/samples").iterdir())]
    assert names == ["0000004.png", "0000008.png"]


def test_others_are_refused(tmp_path):
    class Codes(Maker):
        def nll_of_codes(self, codes, condition=None):
            return codes

    with pytest.raises(TypeError, match="Samples needs a Generator, but Toy has no sample"):
        toy_trainer(tmp_path, [Samples()]).validate(Toy(), DrawnData(), verbose=False)
    with pytest.raises(TypeError, match="Codes draws codes: use callbacks.code_samples.CodeSamples"):
        toy_trainer(tmp_path, [Samples()]).validate(Codes(), DrawnData(), verbose=False)
    for wrong in ({"rows": 0}, {"psis": ()}, {"sources": (0, 0, 0)}, {"sources": (1, -1, 1)}):
        with pytest.raises(ValueError, match="a picture needs at least one of each"):
            Samples(**wrong)


def _validate(rank, world, folder):
    options = ddp_options(world) if world > 1 else {}
    toy_trainer(folder, [Samples(2, 2)], **options).validate(Styled(), DrawnData(), verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    _validate(0, 1, tmp_path / "one")
    run_ddp(_validate, tmp_path / "two")
    one = pictures(tmp_path / "one")
    assert len(one) == 3
    assert one == pictures(tmp_path / "two")
    with Image.open(tmp_path / "one/pictures/media/samples/validate.png") as picture:
        assert np.asarray(picture).std() > 10
