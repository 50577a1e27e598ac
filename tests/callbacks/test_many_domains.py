"""Callbacks that were written for two domains, and those for more, on three domains whose numbers are known."""

import numpy as np
import pytest
import torch

from callbacks.cycle_accuracy import CycleAccuracy
from callbacks.domain_grid import DomainGrid
from callbacks.domain_interpolation import DomainInterpolation
from callbacks.domain_matrix import DomainMatrix, matrix
from callbacks.domain_probe import DomainProbe
from callbacks.fid import FID
from callbacks.translation_grid import TranslationGrid
from callbacks.translation_metrics import TranslationMetrics
from callbacks.ways import ring, ways
from tests.callbacks.test_fid import Means
from tests.callbacks.toy import ddp_options, toy_trainer
from tests.callbacks.toy_domains import SHIFTS, ShiftedData, Shifting
from tests.ddp import run_ddp

SIX = {"low2middle", "middle2high", "high2low", "low2high", "middle2low", "high2middle"}


def metrics_of(tmp_path, callbacks, model=None, data=None, **options):
    trainer = toy_trainer(tmp_path, callbacks, **options)
    trainer.validate(model or Shifting(), data or ShiftedData(24, batch=5), verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_ways_are_all_pairs_and_a_ring_leaves_and_reaches_each_domain_once():
    assert {way.name for way in ways(Shifting())} == SIX
    assert [way.name for way in ring(Shifting())] == ["low2middle", "middle2high", "high2low"]


def test_every_way_is_measured_against_its_own_truth(tmp_path):
    found = metrics_of(tmp_path, [TranslationMetrics()], Shifting(wrong=0.1))
    assert {key.split("/")[2] for key in found if key.startswith("val/l1/") and "_" not in key} == SIX
    for way in ways(Shifting()):
        gap = float((SHIFTS[way.target] - SHIFTS[way.source]).abs().mean())
        assert found[f"val/l1/{way.name}"] == pytest.approx(0.1 * gap / 2, rel=1e-4)  # of images in 0..1
        assert found[f"val/l1/{way.name}_untranslated"] == pytest.approx(gap / 2, rel=1e-4)
        assert found[f"val/l1/{way.name}_ceiling"] == pytest.approx(0.005, rel=1e-4)


def test_sets_of_every_way_are_compared_with_the_images_of_its_target(tmp_path):
    found = metrics_of(tmp_path, [FID(Means())], Shifting(wrong=0.5))
    perfect = metrics_of(tmp_path, [FID(Means())])
    prefix = next(key for key in found if "fid" in key).split("/")[1]
    assert {key.split("/")[2] for key in found if key.startswith(f"val/{prefix}/") and "_u" not in key} >= SIX
    assert all(perfect[f"val/{prefix}/{name}"] < 1e-3 < found[f"val/{prefix}/{name}"] for name in SIX)


def test_a_cycle_goes_through_every_other_domain(tmp_path):
    found = metrics_of(tmp_path, [CycleAccuracy()], Shifting(wrong=0.5))
    assert found["val/cycle_l1/low"] == pytest.approx(0, abs=1e-6)  # what was too much there is too much back
    assert found["val/identity_l1/high"] == pytest.approx(0, abs=1e-6)


def test_a_probe_reads_the_domain_from_pixels_and_not_from_a_code_without_it(tmp_path):
    found = metrics_of(tmp_path, [DomainProbe()], data=ShiftedData(40, batch=16))
    assert found["val/domain_probe/chance"] == pytest.approx(1 / 3)
    assert found["val/domain_probe/pixels"] > 0.95
    assert found["val/domain_probe/content"] < 0.5


def test_a_straight_path_is_smooth_and_monotonous(tmp_path):
    found = metrics_of(tmp_path, [DomainInterpolation(steps=4)])
    for way in ring(Shifting()):
        assert found[f"val/interpolation_smoothness/{way.name}"] == pytest.approx(1, abs=1e-4)
        assert found[f"val/interpolation_monotonicity/{way.name}"] == 1
    picture = tmp_path / "pictures" / "media" / "domain_interpolation"
    assert (picture / "validate.png").stat().st_size > 0
    assert (tmp_path / "pictures" / "media" / "domain_interpolation_video" / "validate.gif").stat().st_size > 0


def test_a_jump_is_seen(tmp_path):
    class Jumping(Shifting):
        def blend(self, x, source, mixture, style=None):
            return super().blend(x, source, torch.nn.functional.one_hot(mixture.argmax(1), 3).float())

    found = metrics_of(tmp_path, [DomainInterpolation(steps=4)], Jumping())
    assert found["val/interpolation_smoothness/low2middle"] == pytest.approx(1 / 4, abs=1e-4)


def test_pictures_are_drawn_for_paired_and_unpaired_domains(tmp_path):
    for paired in (True, False):
        folder = tmp_path / str(paired)
        metrics_of(folder, [DomainGrid(images=2)], data=ShiftedData(3, paired=paired))
        assert (folder / "pictures" / "media" / "domains" / "validate.png").stat().st_size > 0


def test_a_matrix_is_drawn_of_everything_measured_for_each_way(tmp_path):
    metrics_of(tmp_path, [TranslationMetrics(), CycleAccuracy(), DomainMatrix()], data=ShiftedData(3))
    drawn = {path.parent.name for path in (tmp_path / "pictures" / "media" / "matrix").rglob("*.png")}
    assert drawn == {"psnr", "ssim", "l1", "mse", "pixel_accuracy"}


def test_the_worse_cell_of_a_matrix_is_the_darker_one():
    values = np.array([[np.nan, 1.0], [5.0, np.nan]])
    higher, lower = matrix("psnr", ("a", "b"), values), matrix("fid", ("a", "b"), values)
    first, second = (slice(66, 70), slice(176, 180)), (slice(110, 114), slice(92, 96))
    assert higher[first].mean() < higher[second].mean()
    assert lower[first].mean() > lower[second].mean()


def test_a_grid_of_two_domains_points_to_the_one_of_many(tmp_path):
    with pytest.raises(ValueError, match="shows two domains, but the model has 3: DomainGrid shows more"):
        metrics_of(tmp_path, [TranslationGrid()])


def test_other_domains_than_the_datas_are_refused_with_both_numbers(tmp_path):
    class Two(Shifting):
        domains = ("low", "high")

    for callback in (TranslationMetrics(), DomainGrid(), DomainProbe(), DomainInterpolation(), DomainMatrix()):
        with pytest.raises(ValueError, match=r"model.domains is .* \(2\), but data.domains is .* \(3\)"):
            metrics_of(tmp_path, [callback], Two())


def measured_on_a_rank(rank, world, folder):
    callbacks = [TranslationMetrics(), CycleAccuracy(), FID(Means()), DomainProbe(), DomainInterpolation(inputs=9)]
    options = ddp_options(world) if world > 1 else {}
    return metrics_of(f"{folder}/{world}", callbacks, Shifting(wrong=0.1), ShiftedData(21, batch=4), **options)


@pytest.mark.ddp
def test_two_processes_measure_what_one_does(tmp_path):
    first, second = run_ddp(measured_on_a_rank, str(tmp_path))
    alone = measured_on_a_rank(0, 1, str(tmp_path))
    assert first.keys() == alone.keys()
    assert len(alone) > 60
    for key, value in alone.items():
        assert first[key] == second[key]
        assert first[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
