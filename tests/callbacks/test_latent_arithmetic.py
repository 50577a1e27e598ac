import pytest
import torch

from callbacks import latent_arithmetic as module
from callbacks.latent_arithmetic import LatentArithmetic
from interfaces.model import LatentSpec
from tests.callbacks.test_samples import GAIN, DrawnData, Eye, Maker, Styled, logged, painted, pictures
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp

RED_GREEN = (("red", "green"),)
KEY = "arithmetic/red_without_green"


class Signs(LatentSpec):
    """Every coordinate is -1 or 1, so that sums are exact."""

    def draw(self, n, rng=None):
        return super().draw(n, rng).sign()


class Exact(Maker):
    latent_spec = Signs(6)


def measured(folder, model, callback, **options):
    trainer = toy_trainer(folder, [callback], **options)
    trainer.validate(model, DrawnData(2), verbose=False)
    return logged(trainer)


def test_attributes_that_are_coordinates_add_and_subtract(tmp_path, monkeypatch):
    drawn = []
    draw = module.labelled_grid
    monkeypatch.setattr(module, "labelled_grid", lambda *args: drawn.append(args) or draw(*args))
    found = measured(tmp_path, Exact(), LatentArithmetic(Eye(), RED_GREEN, draws=200, trials=10))
    assert found[f"val/{KEY}"] == 1
    assert found[f"val/{KEY}_prior"] == pytest.approx(0.25, abs=0.1)
    ((columns, headings, labels),) = drawn
    assert headings == ["red\ngreen", "- no red\ngreen", "+ no red\nno green", "= red\nno green"]
    assert labels == ["1", "2", "3", "mean"]
    signs = torch.stack([column[:3].mean((2, 3))[:, :2].sign() for column in columns[:3]])
    assert torch.equal(signs, torch.tensor([[1.0, 1], [-1, 1], [-1, -1]])[:, None].expand(-1, 3, -1))
    assert (columns[3][:3] == 1).all()
    result = columns[3][3].mean((1, 2)) / GAIN
    assert result[0] == pytest.approx(-float(result[1]), rel=1e-5)  # 1 + 1 - 1 and 1 - 1 - 1, in one unit
    assert 0.5 < result[0] < 6**0.5
    assert list(pictures(tmp_path)) == ["arithmetic/red_without_green"]


def test_sums_of_normal_codes_are_as_long_as_draws_and_of_uniform_ones_within_bounds(tmp_path):
    seen = {}

    class Watching(Maker):
        def decode(self, z):
            seen["last"] = z
            return painted(z)

    class Uniform(Watching):
        latent_spec = LatentSpec(6, prior="uniform")

    for model in (Watching(), Uniform()):
        measured(tmp_path, model, LatentArithmetic(Eye(), RED_GREEN, draws=100, trials=6))
        sums = seen["last"][-4:]  # the last picture's means and result
        if model.latent_spec.prior == "normal":
            torch.testing.assert_close(sums.norm(dim=1), torch.full((len(sums),), 6**0.5))
        else:
            assert sums.abs().max() <= 1


def test_of_noisy_codes_and_in_w_most_results_are_right(tmp_path):
    for model in (Maker(), Styled()):
        found = measured(tmp_path, model, LatentArithmetic(Eye(), RED_GREEN, draws=400, trials=60))
        assert found[f"val/{KEY}"] > 0.6
        assert found[f"val/{KEY}_prior"] < 0.35


def test_an_equation_of_too_few_draws_is_left_out(tmp_path, capsys):
    class Green(Maker):
        def decode(self, z):
            return painted(z) + torch.tensor([0.0, 9.0, 0.0])[:, None, None]

    callback = LatentArithmetic(Eye(), (("red", "green"), ("red", "blue")), draws=100, trials=5)
    found = measured(tmp_path, Green(), callback)
    assert set(found) == {"val/arithmetic/red_without_blue", "val/arithmetic/red_without_blue_prior"}
    assert "leaves red_without_green out: 0 draws are such, not 3" in capsys.readouterr().out


def test_a_test_has_intervals(tmp_path):
    callback = LatentArithmetic(Eye(), RED_GREEN, draws=100, trials=20)
    toy_trainer(tmp_path, [callback]).test(Exact(), DrawnData(2), verbose=False)
    each, chance = callback.measurements[KEY], callback.measurements[f"{KEY}_prior"]
    assert (each.n, chance.n, each.value) == (20, 100, 1)
    assert each.interval.low < 1
    assert chance.interval.low < chance.value < chance.interval.high
    assert callback.protocol["arithmetic"] == "means of 3 among 100 draws of seed 0, 20 trials"


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(TypeError, match="LatentArithmetic needs a Decoder .* but Toy is neither"):
        measured(tmp_path, Toy(), LatentArithmetic(Eye(), RED_GREEN))
    with pytest.raises(ValueError, match="judge reads blue, green, red, not smile"):
        LatentArithmetic(Eye())
    with pytest.raises(ValueError, match="give two attributes"):
        LatentArithmetic(Eye(), (("red", "red"),))
    for wrong in ({"draws": 0}, {"examples": 0}, {"trials": 0}):
        with pytest.raises(ValueError, match="give 1 or more of each"):
            LatentArithmetic(Eye(), RED_GREEN, **wrong)


def _validate(rank, world, folder):
    found = []
    for model, trials in ((Maker(), 7), (Styled(), 1)):
        callback = LatentArithmetic(Eye(), RED_GREEN, draws=61, trials=trials)
        options = ddp_options(world) if world > 1 else {}
        found.append(measured(folder / str(trials), model, callback, **options))
    return found


@pytest.mark.ddp
def test_two_uneven_ranks_measure_and_show_what_one_does(tmp_path):
    alone = _validate(0, 1, tmp_path / "one")
    assert [len(values) for values in alone] == [2, 2]
    assert run_ddp(_validate, tmp_path / "two") == [alone, alone]
    for trials in ("7", "1"):
        assert pictures(tmp_path / "one" / trials) == pictures(tmp_path / "two" / trials)
