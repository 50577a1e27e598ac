"""What codebooks are used for and how well images come back, on images whose codes and errors are known."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from callbacks.codebook import CodebookUse, colours, level_names, maps_picture, painted, perplexities, usage_picture
from callbacks.measured import Measures
from callbacks.reconstruction import Reconstruction
from datamodules.loaders import build_loader, each_domain_shard, placement, unpadded_shard
from interfaces.batch import EachDomainBatch, ImageBatch
from interfaces.model import LatentSpec, Quantiser
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

CODES = 5


def image(k):
    """An image of 8x8, of value -1, -0.5, 0, 0.5 or 1 in its upper half, and 0.3 less below, but not below -1."""
    x = torch.full((3, 8, 8), (k % CODES) / 2 - 1)
    x[:, 4:] -= 0.3
    return x.clamp(-1)


class Rounding(Toy):
    """Two levels: the top rounds the whole image to halves, 1x1; the bottom its 2x2 quarters. The bottom decides."""

    codes = CODES

    def indices_of(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        means = [x.mean((1, 2, 3))[:, None, None], x.mean(1).unflatten(1, (2, 4)).unflatten(3, (2, 4)).mean((2, 4))]
        return [((mean + 1) * 2).round().long().clamp(0, CODES - 1) for mean in means]

    def image_of(self, indices, levels=None):
        assert all(level.dtype == torch.int64 for level in indices)
        return self._upsampled(indices[1 if levels is None else levels[0]])

    @staticmethod
    def _upsampled(level):
        return interpolate(level[:, None].float() / 2 - 1, (8, 8)).expand(-1, 3, -1, -1)


class Images(Dataset):
    def __getitem__(self, k):
        return ImageBatch(image(k))


class Data(pl.LightningDataModule):
    def __init__(self, images=7):
        super().__init__()
        self.images = images

    def val_dataloader(self):
        return build_loader(Images(), unpadded_shard(self.images, *placement(self.trainer)), 2, 0, seed=0)

    test_dataloader = val_dataloader


class TwoDomains(pl.LightningDataModule):
    """Three images beside one, which the loader repeats."""

    evaluation_sizes = (3, 1)

    def val_dataloader(self):
        return build_loader(Uneven(), each_domain_shard((3, 1), 0, 1), 2, 0, seed=0)


class Uneven(Dataset):
    def __getitem__(self, rows):
        return EachDomainBatch(torch.stack([image(rows[0]), image(4)]))


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def truth(images):
    """Counts of both levels, and the MSE of each row."""
    x = torch.stack([image(k) for k in range(images)])
    with torch.no_grad():
        maps = Rounding().eval().indices_of(x)
        rows = {"all": Rounding._upsampled(maps[1]), "level_0": Rounding._upsampled(maps[0])}
    counts = torch.stack([torch.bincount(level.flatten(), minlength=CODES) for level in maps])
    return counts, {row: ((y - x) ** 2).mean((1, 2, 3)).double() for row, y in rows.items()}


def test_perplexity_is_that_of_known_frequencies():
    counts = torch.tensor([[4, 0, 0, 0], [1, 1, 1, 1], [2, 1, 1, 0]])
    expected = [1.0, 4.0, 2**1.5]
    assert perplexities(counts).tolist() == pytest.approx(expected)


def test_use_and_errors_are_those_of_all_images(tmp_path):
    assert isinstance(Rounding(), Quantiser)
    trainer = toy_trainer(tmp_path, [CodebookUse(), Reconstruction()])
    trainer.validate(Rounding(), Data(), verbose=False)
    found, (counts, errors) = measured(trainer), truth(7)
    for k in (0, 1):
        p = (counts[k] / counts[k].sum()).tolist()
        assert found[f"val/codebook/perplexity_{k}"] == pytest.approx(math.exp(-sum(q * math.log(q) for q in p if q)))
        assert found[f"val/codebook/used_{k}"] == sum(q > 0 for q in p)
    for row, each in errors.items():
        assert found[f"val/reconstruction_mse/{row}"] == pytest.approx(each.mean().item(), rel=1e-5)
        decibels = (10 * (4 / each).log10()).clamp(max=100)
        assert found[f"val/reconstruction_psnr/{row}"] == pytest.approx(decibels.mean().item(), rel=1e-5)
    assert found["val/reconstruction_mse/level_1"] == pytest.approx(found["val/reconstruction_mse/all"])
    assert found["val/reconstruction_mse/level_0"] > found["val/reconstruction_mse/all"]
    for name in ("codebook", "code_maps"):
        assert (tmp_path / "pictures" / "media" / name / "validate.png").stat().st_size > 0


def test_a_test_leaves_measurements_with_intervals(tmp_path):
    use, back = CodebookUse(), Reconstruction()
    assert isinstance(use, Measures)
    assert isinstance(back, Measures)
    toy_trainer(tmp_path, [use, back]).test(Rounding(), Data(), verbose=False)
    assert use.measurements["codebook/used_0"].n == 7
    mse = back.measurements["reconstruction_mse/all"]
    assert (mse.n, mse.unit) == (7, "of the -1..1 range, squared")
    assert mse.interval.low <= mse.value <= mse.interval.high
    assert (tmp_path / "pictures" / "media" / "code_maps" / "test.png").is_file()


def test_what_a_smaller_domain_repeats_counts_once(tmp_path):
    use = CodebookUse(images=4)
    trainer = toy_trainer(tmp_path, [use])
    trainer.validate(Rounding(), TwoDomains(), verbose=False)
    x = torch.stack([image(0), image(1), image(2), image(4)])
    with torch.no_grad():
        maps = Rounding().eval().indices_of(x)
    for k, level in enumerate(maps):
        expected = perplexities(torch.bincount(level.flatten(), minlength=CODES)[None]).item()
        assert measured(trainer)[f"val/codebook/perplexity_{k}"] == pytest.approx(expected)


def test_a_flat_code_is_measured_too(tmp_path):
    class Mean(Toy):
        latent_spec = LatentSpec(1)

        def encode(self, x):
            return x.mean((1, 2, 3))[:, None]

        def decode(self, z):
            return z[:, :, None, None].expand(-1, 3, 8, 8)

    trainer = toy_trainer(tmp_path, [Reconstruction()])
    trainer.validate(Mean(), Data(), verbose=False)
    found = measured(trainer)
    assert set(found) == {"val/reconstruction_mse/all", "val/reconstruction_psnr/all"}
    assert found["val/reconstruction_mse/all"] == pytest.approx(0.15**2 * 5 / 7, rel=1e-4)  # images 0 and 5 are plain


def test_a_model_without_codes_is_refused(tmp_path):
    for callback, match in ((CodebookUse(), "needs a Quantiser, but Toy has no codes"), (Reconstruction(), "neither")):
        with pytest.raises(TypeError, match=match):
            toy_trainer(tmp_path, [callback]).validate(Toy(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="at least one image"):
        CodebookUse(images=0)

    class Labels(Dataset):
        def __getitem__(self, k):
            return torch.zeros(3)

    class Imageless(Data):
        def val_dataloader(self):
            return build_loader(Labels(), range(2), 2, 0, seed=0)

    with pytest.raises(TypeError, match="CodebookUse needs batches with a field image"):
        toy_trainer(tmp_path, [CodebookUse()]).validate(Rounding(), Imageless(), verbose=False)


def test_entries_keep_their_colours_and_pixels_are_repeated():
    few, many = colours(8), colours(512)
    assert torch.equal(few, many[:8])
    assert torch.cdist(many, many).fill_diagonal_(9).min() > 0
    assert many.abs().max() <= 1
    level = torch.tensor([[[0, 1], [2, 3]]])
    shown = painted(level, few, (6, 4))
    assert shown.shape == (1, 3, 6, 4)
    assert torch.equal(shown[0, :, 2, 1], few[0])
    assert torch.equal(shown[0, :, 3, 1], few[2])
    assert torch.equal(shown[0, :, 0, 2], few[1])


def test_pictures_have_a_column_and_a_panel_a_level(tmp_path):
    assert (level_names(1), level_names(2), level_names(4)[1:3]) == (
        ["codes"],
        ["top", "bottom"],
        ["level 1", "level 2"],
    )
    one, two = (usage_picture(torch.tensor([[4, 0, 9]] * n), ["1x1"] * n) for n in (1, 2))
    assert two.shape[1] == 2 * one.shape[1]
    assert two.dtype == np.uint8
    trainer = toy_trainer(tmp_path)
    model = Rounding().eval()
    trainer.strategy.connect(model)
    picture = maps_picture(trainer, model, torch.stack([image(0), image(3)])[:, :1].expand(-1, 3, -1, -1))
    cell = -(-900 // (6 * 8)) * 8
    assert picture.shape[1] == 6 * (cell + 4)  # image, two maps, all, each alone


def _validate(rank, world, folder):
    callbacks = [CodebookUse(images=3), Reconstruction()]
    trainer = toy_trainer(folder, callbacks, **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Rounding(), Data(), verbose=False)
    return measured(trainer)


@pytest.mark.ddp
def test_two_ranks_measure_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path / "two")
    one = _validate(0, 1, tmp_path / "one")
    assert first == second == one
    pictures = [
        (tmp_path / n / "pictures" / "media" / "code_maps" / "validate.png").read_bytes() for n in ("one", "two")
    ]
    assert pictures[0] == pictures[1]
