"""Style recovery on real streets: what is said of a thief of styles, of one who ignores them, and of two ranks."""

import pytest
import torch

from callbacks.evaluation_card import print_card
from callbacks.style_truth import StyleTruth
from datamodules.procedural.streets_style import STYLE
from datamodules.streets import Streets
from interfaces.model import LatentSpec
from metrics.truth import probe_r2
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

SCENES = 24


class Thief(Toy):
    """The style of an image is its number, and a translation is the very image of that number."""

    style_spec = LatentSpec(2, prior="uniform")

    def __init__(self, scenes=SCENES):
        super().__init__()
        data = Streets(size=64, scenes=2, val_scenes=scenes)
        data.setup("test")
        self.images = [torch.from_numpy(images.copy()) for images in data.images["test"][:2]]
        self.numbers = {hash(x.numpy().tobytes()): k for side in self.images for k, x in enumerate(side)}
        self.calls = []

    def style_of(self, x, domain):
        pixels = (x.add(1) * 127.5).round().byte()
        numbers = torch.tensor([self.numbers[hash(image.numpy().tobytes())] for image in pixels])
        return torch.stack((numbers / len(self.numbers), torch.full((len(x),), 2.0)), 1)

    def translate(self, x, source, target, style=None):
        of_reference = style[:, 1] == 2  # a uniform prior never draws a 2
        self.calls.append(int(of_reference.sum()))
        numbers = torch.where(of_reference, style[:, 0], style[:, 0].abs() / 2.001) * len(self.numbers)
        return self.images[target][numbers.round().long() % len(self.images[target])] / 127.5 - 1


def streets(**more):
    return Streets(size=64, scenes=2, batch_size=5, **({"val_scenes": SCENES} | more))


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_stolen_styles_reach_the_ceiling_and_random_ones_do_not(tmp_path, capsys):
    callback = StyleTruth()
    trainer = toy_trainer(tmp_path, [callback])
    trainer.test(Thief(), streets(), verbose=False)
    found = measured(trainer)
    for way, target in (("day2night", "night"), ("night2day", "day")):
        assert found[f"test/style_r2/{way}"] == found[f"test/style_r2/{way}_ceiling"] > 0.5
        assert found[f"test/style_r2/{way}_prior"] < 0.1
        for name in STYLE[target]:
            assert found[f"test/style_r2_{name}/{way}"] == found[f"test/style_r2_{name}/{way}_ceiling"]
    assert found["test/style_r2_exposure/day2night"] > 0.6
    each = callback.measurements["style_r2/day2night"]
    assert each.n == SCENES
    assert each.interval.low < each.value < each.interval.high
    plain = {"low": None, "high": None, "unit": "R2"}
    metrics = {key: plain | {"value": m.value, "n": m.n} for key, m in callback.measurements.items()}
    print_card({"model": "Thief", "checkpoint": None, "iteration": 0, "weights": "", "metrics": metrics})
    lines = [line for line in capsys.readouterr().out.splitlines() if "style_r2" in line]
    assert len(lines) == 2  # floor and ceiling stand on the line of their number, factors in the file only
    assert f"{metrics['style_r2/day2night_prior']['value']:.4g}" in lines[0]


def test_content_in_the_style_code_is_noticed(tmp_path):
    data = streets()
    data.setup("test")
    content = data.scene_facts("test").content

    class Leaky(Thief):
        style_spec = LatentSpec(content.shape[1])

        def style_of(self, x, domain):
            return content[(super().style_of(x, domain)[:, 0] * len(self.numbers)).round().long()]

        def translate(self, x, source, target, style=None):
            return x

    trainer = toy_trainer(tmp_path, [StyleTruth()])
    trainer.test(Leaky(), streets(), verbose=False)
    expected = float(probe_r2(content.double(), content).mean())
    assert measured(trainer)["test/leak_content/night"] == pytest.approx(expected)
    assert expected > 0.3

    trainer = toy_trainer(tmp_path, [StyleTruth()])
    trainer.test(Thief(), streets(), verbose=False)
    assert measured(trainer)["test/leak_content/night"] < 0.1  # the number of a scene says nothing
    assert "test/leak_content/night_pixels" in measured(trainer)


def test_who_ignores_the_style_stays_at_the_floor(tmp_path):
    class Deaf(Thief):
        def style_of(self, x, domain):
            return torch.zeros(len(x), 2)

        def translate(self, x, source, target, style=None):
            return self.images[target][: len(x)] / 127.5 - 1

    trainer = toy_trainer(tmp_path, [StyleTruth()])
    trainer.validate(Deaf(), Streets(size=64, scenes=2, val_scenes=SCENES, batch_size=SCENES), verbose=False)
    found = measured(trainer)
    assert found["val/style_r2/day2night"] == found["val/style_r2/day2night_prior"] < 0
    assert sorted(found) == sorted(
        f"val/style_r2/{way}{row}" for way in ("day2night", "night2day") for row in ("", "_prior", "_ceiling")
    )


def test_models_and_data_that_lack_something_are_refused(tmp_path):
    trainer = toy_trainer(tmp_path, [StyleTruth()])
    with pytest.raises(TypeError, match="StyleTruth needs a Stylist, but Toy has no style_of"):
        trainer.validate(Toy(), streets(), verbose=False)
    with pytest.raises(TypeError, match="StyleTruth needs data that know their scenes, which ToyData does not"):
        trainer.validate(Tinted(), ToyData(), verbose=False)

    class Drawn(Tinted):
        domains = ("labels", "sketch")

    with pytest.raises(ValueError, match="None of labels, sketch has style factors"):
        trainer.validate(Drawn(), streets(domains=Drawn.domains), verbose=False)


def _test(rank, world, folder):
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        trainer = toy_trainer(folder, [StyleTruth()], **(ddp_options(world) if world > 1 else {}))
        trainer.test(Tinted(), streets(val_scenes=23), verbose=False)
    return measured(trainer), [str(w.message) for w in caught if "sync_dist" in str(w.message)]


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_test, tmp_path)
    assert first == second
    assert first[0] == pytest.approx(_test(0, 1, tmp_path)[0], rel=1e-5, abs=1e-6)
    assert first[1] == []


def test_only_the_first_images_are_kept_and_measured(tmp_path):
    """22 of 24, in batches of 5: what is read is what is read where there are 22 only."""
    found = []
    for scenes, images in ((SCENES, 22), (22, 1000)):
        trainer = toy_trainer(tmp_path / str(scenes), [StyleTruth(images=images)])
        trainer.test(Thief(22), streets(val_scenes=scenes), verbose=False)
        found.append(measured(trainer))
    assert found[0] == found[1]


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"StyleTruth.images is 19: probes need 20"):
        StyleTruth(images=19)
