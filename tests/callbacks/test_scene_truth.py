"""The repository's own reader on real streets: what it says of copies of the truth, of inputs, and of two ranks."""

import json

import pytest
import torch

from callbacks.evaluation_card import EvaluationCard
from callbacks.fid import FID
from callbacks.scene_truth import SceneTruth
from callbacks.translation_metrics import TranslationMetrics
from datamodules.streets import Streets
from metrics.better import better_end
from metrics.features.scenes import Scenes
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

SCENES = 24


class Oracle(Toy):
    """Gives the true counterpart of each image, looked up by the image itself."""

    def __init__(self, data):
        super().__init__()
        a, b = (torch.from_numpy(images.copy()) for images in data.images["test"][:2])
        self.known = {hash(x.numpy().tobytes()): y for x, y in [*zip(a, b, strict=True), *zip(b, a, strict=True)]}

    def translate(self, x, source, target, style=None):
        pixels = (x.add(1) * 127.5).round().byte()
        return torch.stack([self.known[hash(image.numpy().tobytes())] for image in pixels]) / 127.5 - 1

    def content_of(self, x, source):
        return x.mean((2, 3))


def streets():
    return Streets(size=64, scenes=2, val_scenes=SCENES, batch_size=5)


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def oracle():
    data = streets()
    data.setup("test")
    return Oracle(data)


def test_the_truth_reaches_its_ceiling_and_the_input_does_not(tmp_path):
    trainer = toy_trainer(tmp_path, [SceneTruth()])
    trainer.test(oracle(), streets(), verbose=False)
    found = measured(trainer)
    for way in ("day2night", "night2day"):
        for name in ("domain", "semantic_iou", "semantic_accuracy", "content_r2"):
            assert found[f"test/{name}/{way}"] == found[f"test/{name}/{way}_ceiling"], name
        assert found[f"test/domain/{way}"] > 0.9
        assert found[f"test/domain/{way}_untranslated"] < 0.1
        assert found[f"test/semantic_accuracy/{way}"] > 0.8
        assert found[f"test/semantic_iou/{way}"] > 0.4
        assert found[f"test/content_r2/{way}"] > 0.3
    assert found["test/leak_domain/content"] > 0.9  # the means of an image tell day from night
    assert found["test/leak_domain/pixels"] > 0.9
    assert 0.5 < found["test/leak_domain/pixels_local"] <= found["test/leak_domain/pixels"]
    assert "test/leak_domain/content_local" not in found, "a flat code has no positions"


def test_a_map_is_also_read_at_single_positions(tmp_path):
    class Mapped(Oracle):
        def content_of(self, x, source):
            return x

    data = streets()
    data.setup("test")
    trainer = toy_trainer(tmp_path, [SceneTruth()])
    trainer.test(Mapped(data), streets(), verbose=False)
    found = measured(trainer)
    assert found["test/leak_domain/content_local"] == found["test/leak_domain/pixels_local"]


def test_the_card_holds_every_number_with_what_is_needed_to_believe_it(tmp_path, capsys):
    callbacks = [TranslationMetrics(), SceneTruth(), FID(Scenes(), resamples=10), EvaluationCard()]
    toy_trainer(tmp_path, callbacks).test(oracle(), streets(), verbose=False)
    card = json.loads((tmp_path / "evaluation.json").read_text())
    psnr = card["metrics"]["psnr/day2night_untranslated"]
    assert psnr["low"] < psnr["value"] < psnr["high"] < 20
    assert psnr["n"] == SCENES
    assert card["metrics"]["psnr/day2night"]["value"] == 100  # identical images
    assert card["metrics"]["fid_scenes/day2night"]["value"] == pytest.approx(0, abs=1e-6)
    assert card["metrics"]["semantic_iou/day2night"]["low"] is not None
    assert card["protocol"]["data"] == f"streets version 2, day and night, 64x64, {SCENES} test scenes"
    assert "sha256" in card["protocol"]["scenes: weights"]
    assert len(card["protocol_hash"]) == 16
    assert "fid_scenes" in capsys.readouterr().out
    assert [name for name in card["metrics"] if not better_end(name.partition("/")[0])] == []
    again = json.loads((tmp_path / "evaluation.json").read_text())
    toy_trainer(tmp_path, [TranslationMetrics(), EvaluationCard()]).test(oracle(), streets(), verbose=False)
    assert json.loads((tmp_path / "evaluation.json").read_text())["protocol_hash"] != again["protocol_hash"]


def test_a_validation_after_a_test_is_held_against_its_own_scenes(tmp_path):
    callback, found = SceneTruth(), []
    for stage in ("validate", "test", "validate"):
        trainer = toy_trainer(tmp_path, [callback])
        getattr(trainer, stage)(Toy(), streets(), verbose=False)
        found.append(measured(trainer))
    assert found[0] == found[2]


def test_leaks_have_intervals_and_say_how_probes_were_fitted(tmp_path):
    callbacks = [SceneTruth(), EvaluationCard()]
    toy_trainer(tmp_path, callbacks).test(oracle(), streets(), verbose=False)
    card = json.loads((tmp_path / "evaluation.json").read_text())
    for key in ("leak_domain/content", "leak_style/day", "content_r2/day2night", "content_r2_horizon/day2night"):
        assert card["metrics"][key]["low"] <= card["metrics"][key]["value"] <= card["metrics"][key]["high"], key
    assert "folds of scenes" in card["protocol"]["SceneTruth: probe"]


def test_data_that_do_not_know_their_scenes_are_refused(tmp_path):
    with pytest.raises(TypeError, match="which ToyData does not"):
        toy_trainer(tmp_path, [SceneTruth()]).validate(Toy(), ToyData(), verbose=False)


def test_domains_that_the_reader_does_not_know_are_refused(tmp_path):
    class Elsewhere(Streets):
        def __init__(self):
            super().__init__(size=64, scenes=2, val_scenes=4)
            self.domains = ("day", "desert")

    class Model(Toy):
        domains = ("day", "desert")

    trainer = toy_trainer(tmp_path, [])
    trainer.datamodule = Elsewhere()
    with pytest.raises(ValueError, match="not desert"):
        SceneTruth().setup(trainer, Model(), "validate")


def _test(rank, world, folder):
    trainer = toy_trainer(folder, [SceneTruth()], **(ddp_options(world) if world > 1 else {}))
    trainer.test(oracle(), Streets(size=64, scenes=2, val_scenes=23, batch_size=4), verbose=False)
    return measured(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_test, tmp_path)
    assert first == second
    assert first == pytest.approx(_test(0, 1, tmp_path), rel=1e-5, abs=1e-6)
