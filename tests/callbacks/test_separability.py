import pytest
import torch

from callbacks.separability import Separability
from tests.callbacks.test_samples import DrawnData, Eye, Maker, Styled, logged
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp

DRAWS = 300


def measured(folder, model, callback, **options):
    trainer = toy_trainer(folder, [callback], **options)
    trainer.validate(model, DrawnData(2), verbose=False)
    return logged(trainer)


def test_what_is_a_product_in_z_and_a_coordinate_in_w_is_separable_in_w_alone(tmp_path):
    found = measured(tmp_path, Styled(), Separability(Eye(), draws=DRAWS))
    assert found["val/separability/w"] == pytest.approx(1, abs=0.1)
    assert found["val/separability_red/w"] == pytest.approx(1, abs=0.05)
    assert found["val/separability_red/z"] == pytest.approx(2, abs=0.15)
    assert found["val/separability_green/z"] == pytest.approx(1, abs=0.05)
    for space in ("z", "w"):
        product = torch.tensor([found[f"val/separability_{name}/{space}"] for name in Eye.attributes]).prod()
        assert found[f"val/separability/{space}"] == pytest.approx(float(product), rel=1e-5)
    by_chance = [found[f"val/separability_{name}/{space}_prior"] for name in Eye.attributes for space in ("z", "w")]
    assert by_chance == pytest.approx([2] * 6, abs=0.05)
    assert found["val/separability/z_prior"] == pytest.approx(8, abs=0.2)
    assert len(found) == 16


def test_a_decoder_has_one_space_and_a_judge_by_chance_finds_nothing(tmp_path):
    class Blind(Eye):
        """Another word for every image, which has nothing to do with it."""

        def read(self, x):
            seeds = (x.double().mean((1, 2, 3)) * 1e9).long().abs() % 2**31
            return torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])

    found = measured(tmp_path, Maker(), Separability(Eye(), ("red", "green"), draws=DRAWS))
    keys = [f"val/separability{name}/latent" for name in ("", "_red", "_green")]
    assert set(found) == {key + row for key in keys for row in ("", "_prior")}
    assert found["val/separability/latent"] == pytest.approx(1, abs=0.1)
    blind = measured(tmp_path, Maker(), Separability(Blind(), ("red", "green"), draws=DRAWS))
    assert blind["val/separability/latent"] == pytest.approx(4, abs=0.2)


def test_a_test_has_intervals(tmp_path):
    callback = Separability(Eye(), draws=100)
    toy_trainer(tmp_path, [callback]).test(Styled(), DrawnData(2), verbose=False)
    each = callback.measurements["separability_red/z"]
    assert each.n == 100
    assert 1 < each.interval.low < each.interval.high <= 2
    assert callback.protocol["Separability: judge"] == "an eye"
    assert callback.protocol["separability"].startswith("100 draws of seed 0, blue, green, red;")


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"Separability needs a Decoder .* or a StyledGenerator .*, but Toy is neither"):
        measured(tmp_path, Toy(), Separability(Eye()))
    with pytest.raises(ValueError, match="judge reads blue, green, red, not smile"):
        Separability(Eye(), ("red", "smile"))
    with pytest.raises(ValueError, match="none is chosen"):
        Separability(Eye(), ())
    with pytest.raises(ValueError, match="give 8 or more"):
        Separability(Eye(), draws=7)


def options_of(world):
    return ddp_options(world) if world > 1 else {}


def _validate(rank, world, folder):
    return [
        measured(folder, model, Separability(Eye(), draws=63), **options_of(world)) for model in (Styled(), Maker())
    ]


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    alone = _validate(0, 1, tmp_path)
    assert [len(values) for values in alone] == [16, 8]
    assert run_ddp(_validate, tmp_path) == [alone, alone]
