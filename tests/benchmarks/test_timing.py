"""What the benchmarks of steps measure of data."""

import re
import time

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks import papers_time
from benchmarks.timing import images_a_second, waiting
from interfaces.batch import ImageBatch
from lightning_modules.beta_vae import BetaVAE

CPU = torch.device("cpu")


class Slow(pl.LightningDataModule):
    """Batches of three images, 20 ms each; the first takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[ImageBatch] = []

    def prepare_data(self) -> None:
        self.first = 1.0

    def __getitem__(self, k: int) -> ImageBatch:
        time.sleep(self.first if k == 0 else 0.02)
        self.made.append(ImageBatch(torch.full((3, 1), float(k))))
        return self.made[-1]

    def __len__(self) -> int:
        return 12

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self, batch_size=None)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        return ImageBatch(-batch.image)


def test_waiting_is_what_the_loader_takes_beside_the_step():
    data, seen = Slow(), []

    def step(batch: ImageBatch) -> None:
        seen.append(batch)
        time.sleep(0.06)

    wait, share = waiting(data, step, 5, CPU)
    assert 20 <= wait < 200  # not the first, which takes a second
    assert 0.02 < share < 0.75  # 1/4 on a machine that does nothing else
    assert [type(batch) for batch in seen] == [ImageBatch] * 7
    assert [batch.image[0, 0].item() for batch in seen] == [-k for k in range(7)]


def test_images_a_second_are_those_of_the_loader():
    rate = images_a_second(Slow(), 5)
    assert 20 < rate <= 3 / 0.02  # with the first batch 16 or fewer


def test_sprites_are_measured_beside_the_experiments_networks(monkeypatch: pytest.MonkeyPatch):
    built = []

    def remember(**arguments):
        built.append(BetaVAE(**arguments))
        return built[-1]

    monkeypatch.setattr(papers_time, "BetaVAE", remember)
    wait, alone = papers_time.sprites_rows(CPU, 3)
    (model,) = built
    assert [layer.out_features for layer in model.encoder.layers] == [400, 400]
    assert (model.beta, model.lr) == (8, 1e-3)
    found = re.fullmatch(r"\| waiting for 64 sprites \| ([\d.]+) ms \| ([\d.]+)% \|", wait)
    assert found
    assert float(found[1]) > 0
    assert 0 <= float(found[2]) < 100
    assert re.fullmatch(r"\| the loader alone \| [\d,]+ images/s \| \|", alone)


def test_growing_models_are_timed_at_their_last_resolution_with_the_papers_widths():
    assert papers_time.narrowing(64, 256) == (512, 512, 512, 512, 256, 128, 64)
    for paper in papers_time.PAPERS:
        if paper.name in ("StyleALAE", "Progressive GAN", "StyleGAN"):
            model = paper.build(2, 32)
            phase = model.growth.at(model.iteration)
            assert (phase.resolution, phase.share) == (32, 1.0)
            assert not model.growth.grows_at(model.iteration)


def test_the_row_of_alae_compares_the_same_losses():
    (paper,) = [paper for paper in papers_time.PAPERS if paper.name == "ALAE"]
    papers_time.same_losses(paper._replace(images=4))
