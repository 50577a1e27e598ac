"""What the benchmarks of steps measure of data."""

import time

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks import papers, papers_time
from benchmarks.timing import images_a_second, waiting
from interfaces.batch import ImageBatch

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


def test_papers_are_chosen_by_name():
    names = [paper.name for paper in papers_time.chosen(None, False)]
    assert names == [paper.name for paper in papers.PAPERS]
    assert all("," not in name for name in names)
    assert [paper.name for paper in papers_time.chosen("DCGAN, UFDN", False)] == ["UFDN", "DCGAN"]
    with pytest.raises(SystemExit, match=r"--papers has UFDN, but there are: ALAE; StyleALAE; "):
        papers_time.chosen("UFDN", True)


def test_growing_models_are_timed_at_their_last_resolution_with_the_papers_widths():
    assert papers.narrowing(64, 256) == (512, 512, 512, 512, 256, 128, 64)
    for paper in papers.PAPERS:
        if paper.name in ("StyleALAE", "Progressive GAN", "StyleGAN"):
            model = paper.build(2, 32)
            phase = model.growth.at(model.iteration)
            assert (phase.resolution, phase.share) == (32, 1.0)
            assert not model.growth.grows_at(model.iteration)


def test_the_row_of_alae_compares_the_same_losses():
    (paper,) = [paper for paper in papers.PAPERS if paper.name == "ALAE"]
    papers_time.same_losses(paper._replace(images=4))
