import pytest
import torch

from callbacks.cycle_accuracy import CycleAccuracy
from callbacks.fid import FID
from metrics.paired import IDENTICAL_PSNR, l1, psnr
from tests.callbacks.test_fid import Means, Styled
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def images(n, kind):
    return torch.stack([image(k, kind) for k in range(n)])


def expected(stage, domain, kind, y, x):
    values = {"l1": float(l1(y, x).mean()), "psnr": float(psnr(y, x).mean())}
    return {f"{stage}/{kind}_{name}/{domain}": value for name, value in values.items()}


def test_a_scale_of_minus_a_half_comes_back_as_a_quarter(tmp_path):
    trainer = toy_trainer(tmp_path, [CycleAccuracy()])
    trainer.validate(Toy(), ToyData(paired=False), verbose=False)
    values = {}
    for kind, domain in enumerate(("day", "night")):
        x = images(7, kind)
        values |= expected("val", domain, "cycle", x / 4, x) | expected("val", domain, "identity", x, x)
    assert measured(trainer) == pytest.approx(values, rel=1e-5)
    assert measured(trainer)["val/identity_psnr/day"] == IDENTICAL_PSNR


class Dyer(Tinted):
    """Removes the mean of the channels and adds the style: exactly back only in the style of the input."""

    def translate(self, x, source, target, style=None):
        return x - x.mean((2, 3), keepdim=True) + style[:, :, None, None]


def test_a_stylist_comes_back_in_the_style_of_the_input(tmp_path):
    trainer = toy_trainer(tmp_path, [CycleAccuracy()])
    trainer.validate(Dyer(), ToyData(paired=False), verbose=False)
    found = measured(trainer)
    for domain in ("day", "night"):
        assert found[f"val/cycle_l1/{domain}"] == pytest.approx(0, abs=1e-6)
        assert found[f"val/identity_l1/{domain}"] == pytest.approx(0, abs=1e-6)


def test_who_takes_styles_but_reads_none_comes_back_in_the_mean_of_the_prior(tmp_path):
    trainer = toy_trainer(tmp_path, [CycleAccuracy()])
    trainer.validate(Styled(), ToyData(paired=False), verbose=False)
    assert measured(trainer)["val/identity_l1/day"] == 0


def test_a_test_counts_each_image_once_and_has_intervals(tmp_path):
    class Unequal(ToyData):
        evaluation_sizes = (12, 8)

    forwards = []

    class Counted(Toy):
        def translate(self, x, source, target, style=None):
            forwards.append((source, target))
            return super().translate(x, source, target, style)

    callback = CycleAccuracy()
    trainer = toy_trainer(tmp_path, [callback, FID(Means(), resamples=0)])
    trainer.test(Counted(), Unequal(12, batch=12, paired=False), verbose=False)
    day, night = (callback.measurements[f"cycle_l1/{domain}"] for domain in ("day", "night"))
    assert (day.n, night.n) == (12, 8)
    assert day.interval.low < day.value < day.interval.high
    x = images(8, 1)
    assert night.value == pytest.approx(float(l1(x / 4, x).mean()))
    assert forwards == [(0, 1), (1, 0), (0, 0), (1, 0), (0, 1), (1, 1)]  # FID looks at the same translations


def test_a_model_that_does_not_translate_is_refused_at_setup(tmp_path):
    class Deaf(Toy):
        translate = property()

    with pytest.raises(TypeError, match="CycleAccuracy needs a Translator, but Deaf has no translate"):
        toy_trainer(tmp_path, [CycleAccuracy()]).validate(Deaf(), ToyData(), verbose=False)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [CycleAccuracy()], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Tinted(), ToyData(5, batch=2), verbose=False)
    return measured(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second
    assert first == pytest.approx(_validate(0, 1, tmp_path), rel=1e-6)
