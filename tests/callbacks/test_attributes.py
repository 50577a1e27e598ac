"""Swaps and sliders on images whose attributes are the brightness of their channels."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from callbacks.attribute_grid import AttributeGrid
from callbacks.attribute_swap import AttributeJudge, AttributeSwap
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import AttributeBatch, KnowsEdits
from lightning_modules.base import ManualModule
from tests.callbacks.toy import ddp_options, toy_trainer
from tests.ddp import run_ddp

LEVEL = 0.4  # of a channel whose attribute is there; -0.4 otherwise


def has(k):
    return torch.tensor([k % 2, k // 2 % 2])


def image(attributes, k):
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(k)) * 0.2 - 0.1
    noise[:2] += (2 * attributes.float()[:, None, None] - 1) * LEVEL
    return (noise * 127.5 + 127.5).round() / 127.5 - 1  # as if rendered in bytes


class Tinted(pl.LightningDataModule):
    attributes = ("red", "green")

    def __init__(self, images=10):
        super().__init__()
        self.images = images

    def __getitem__(self, k):
        return AttributeBatch(image(has(k), k), has(k))

    def val_dataloader(self):
        return build_loader(self, unpadded_shard(self.images, *placement(self.trainer)), 3, 0, 0)

    test_dataloader = val_dataloader

    def edited(self, stage, attribute):
        swapped = [has(k).where(torch.arange(2) != attribute, 1 - has(k)) for k in range(self.images)]
        images = torch.stack([image(attributes, k) for k, attributes in enumerate(swapped)])
        return ((images + 1) * 127.5).round().byte().numpy()


class Editor(ManualModule):
    """Moves each channel to its slider; ``spill`` moves the other channel too."""

    attributes = ("red", "green")

    def __init__(self, spill=0.0):
        super().__init__()
        self.spill, self.scale = spill, torch.nn.Parameter(torch.ones(()))

    def edit(self, x, sliders):
        level = x[:, :2].mean((2, 3), keepdim=True)
        wanted = (2 * sliders[:, :, None, None] - 1) * LEVEL
        moved = wanted - torch.where(level > 0, LEVEL, -LEVEL)
        return torch.cat((x[:, :2] + moved + self.spill * moved.flip(1), x[:, 2:]), 1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01, fused=True)


class Eye:
    """Reads attributes off channels, one of them under another name in another place."""

    attributes = ("blue", "green", "red")
    protocol = {"judge": "an eye"}

    def read(self, x):
        return x.mean((2, 3)).flip(1)


def metrics_of(folder, model, data=None, **options):
    trainer = toy_trainer(folder, [AttributeSwap(Eye()), AttributeGrid(images=3, steps=3)], **options)
    trainer.validate(model, data or Tinted(), verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_a_perfect_edit_has_the_numbers_of_the_truth(tmp_path):
    assert isinstance(Eye(), AttributeJudge)
    assert isinstance(Tinted(), KnowsEdits)
    found = metrics_of(tmp_path, Editor())
    for name in ("red", "green"):
        assert found[f"val/swap_accuracy/{name}"] == found[f"val/swap_accuracy/{name}_ceiling"] == 1
        assert found[f"val/swap_accuracy/{name}_untranslated"] == 0
        assert found[f"val/swap_leakage/{name}"] == found[f"val/swap_leakage/{name}_ceiling"] == 0
        assert found[f"val/swap_psnr/{name}"] > 50
        assert found[f"val/swap_psnr/{name}_untranslated"] < 15
    assert found["val/reconstruction_psnr/images"] > 50


def test_an_edit_that_moves_other_attributes_leaks(tmp_path):
    found = metrics_of(tmp_path, Editor(spill=2.0))
    assert found["val/swap_accuracy/red"] == 1
    # Half of the images have the other attribute where the spill takes it, and the third one never moves.
    assert found["val/swap_leakage/red"] == pytest.approx(0.25, abs=0.06)


def test_an_edit_that_does_nothing_is_seen(tmp_path):
    class Idle(Editor):
        def edit(self, x, sliders):
            return x

    found = metrics_of(tmp_path, Idle())
    assert found["val/swap_accuracy/green"] == 0
    assert found["val/swap_psnr/green"] == pytest.approx(found["val/swap_psnr/green_untranslated"])


def test_without_true_edits_their_rows_are_missing(tmp_path):
    class Folder(Tinted):
        edited = property()  # no such member

    found = metrics_of(tmp_path, Editor(), Folder())
    assert found["val/swap_accuracy/red"] == 1
    assert not [key for key in found if "ceiling" in key or "swap_psnr" in key]


def test_pictures_and_videos_of_every_attribute_are_drawn(tmp_path):
    metrics_of(tmp_path, Editor())
    media = tmp_path / "pictures" / "media"
    drawn = sorted(str(path.relative_to(media).parent) for path in media.rglob("*.*"))
    assert drawn == ["attributes", "sliders/green", "sliders/red", "sliders_video/green", "sliders_video/red"]


def test_what_the_judge_does_not_know_is_refused(tmp_path):
    class Other(Editor):
        attributes = ("red", "smile")

    class OtherData(Tinted):
        attributes = ("red", "smile")

    with pytest.raises(ValueError, match="reads blue, green, red, not smile"):
        metrics_of(tmp_path, Other(), OtherData())
    with pytest.raises(ValueError, match=r"model.attributes is .* but data.attributes"):
        metrics_of(tmp_path, Other())


def measured_on_a_rank(rank, world, folder):
    return metrics_of(f"{folder}/{world}", Editor(spill=2.0), **(ddp_options(world) if world > 1 else {}))


@pytest.mark.ddp
def test_two_processes_measure_what_one_does(tmp_path):
    first, second = run_ddp(measured_on_a_rank, str(tmp_path))
    alone = measured_on_a_rank(0, 1, str(tmp_path))
    assert first == second
    assert first.keys() == alone.keys()
    assert all(np.isclose(first[key], value, rtol=1e-5) for key, value in alone.items())
