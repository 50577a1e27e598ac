"""What measuring callbacks share: one translation of each image of a batch, and nothing that outlives it."""

import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import measured
from callbacks.fid import FID
from callbacks.measured import Measuring, styles_for, translated
from callbacks.scene_truth import SceneTruth
from callbacks.translation_metrics import TranslationMetrics
from callbacks.ways import ways
from datamodules.streets import Streets
from interfaces.model import LatentSpec
from metrics.features.scenes import Scenes
from metrics.paired import paired_values
from tests.callbacks.test_fid import Means
from tests.callbacks.toy import Tinted, Toy, ToyData, image, toy_trainer


class Counted(Toy):
    """Notes each forward: direction and number of images."""

    def __init__(self):
        super().__init__()
        self.forwards = []

    def translate(self, x, source, target, style=None):
        self.forwards.append((source, target, len(x)))
        return super().translate(x, source, target, style)


def test_all_measures_of_a_batch_share_one_translation_of_each_side(tmp_path):
    model = Counted()
    callbacks = [TranslationMetrics(), SceneTruth(), FID(Scenes(), resamples=0)]
    data = Streets(size=64, scenes=2, val_scenes=22, batch_size=11)
    toy_trainer(tmp_path, callbacks).test(model, data, verbose=False)
    assert model.forwards == [(0, 1, 11), (1, 0, 11)] * 2


def test_sharing_changes_no_number(tmp_path):
    alone = {}
    for make in (TranslationMetrics, lambda: FID(Means())):
        trainer = toy_trainer(tmp_path, [make()])
        trainer.validate(Toy(), ToyData(12, batch=5), verbose=False)
        alone |= trainer.callback_metrics
    trainer = toy_trainer(tmp_path, [TranslationMetrics(), FID(Means())])
    trainer.validate(Toy(), ToyData(12, batch=5), verbose=False)
    assert trainer.callback_metrics == alone


def test_each_validation_of_a_fit_translates_anew(tmp_path):
    class Keeps(ToyData):
        """Serves the very same tensors in every validation."""

        def val_dataloader(self):
            self.kept = getattr(self, "kept", None) or list(super().val_dataloader())
            return DataLoader(self.kept, batch_size=None)

    model = Counted()
    toy_trainer(tmp_path, [TranslationMetrics()], num_sanity_val_steps=0).fit(model, Keeps(4, batch=2))
    assert model.forwards == [(0, 1, 2), (1, 0, 2)] * 4  # two batches in each of two validations


def test_nothing_outlives_the_evaluation(tmp_path):
    toy_trainer(tmp_path, [TranslationMetrics()]).validate(Toy(), ToyData(), verbose=False)
    assert measured._made == {}


def test_accuracy_is_of_the_styled_translations_that_everything_else_measures(tmp_path):
    seen = []

    class Watching(Measuring):
        def begin(self, trainer, model, stage):
            self.positions = measured.Positions(trainer)

        def add(self, trainer, model, batch):
            seen.append(translated(trainer, model, batch.a, ways(model)[0], self.positions.next(len(batch.a))))

        def finish(self, trainer, model, stage):
            pass

    trainer = toy_trainer(tmp_path, [Watching(), TranslationMetrics()])
    trainer.validate(Tinted(), ToyData(5), verbose=False)
    a, b = (torch.stack([image(k, kind) for k in range(5)]) for kind in (0, 1))
    expected = a * 0.5 + styles_for(Tinted(), torch.arange(5))[:, :, None, None]
    torch.testing.assert_close(torch.cat(seen), expected)
    psnr = paired_values(expected, b).mean(0)[0]
    assert float(trainer.callback_metrics["val/psnr/day2night"]) == pytest.approx(float(psnr), rel=1e-6)


def test_a_seed_draws_other_styles_and_seed_0_those_of_the_numbers():
    first, again, other = (styles_for(Tinted(), torch.arange(5), seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    spec = LatentSpec(first.shape[1])
    assert torch.equal(first[3:], torch.cat([spec.draw(1, torch.Generator().manual_seed(k)) for k in (3, 4)]))
