import math

import pytest
import torch

from callbacks import attribute_directions as module
from callbacks.attribute_directions import AttributeDirections
from callbacks.separability import Separability
from tests.callbacks.test_samples import (
    GAIN,
    Coder,
    Drawn,
    DrawnData,
    Eye,
    Maker,
    Styled,
    logged,
    painted,
    pictures,
)
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

FEW = {"draws": 400, "edits": 40}


def measured(folder, model, callback, images=9, **options):
    trainer = toy_trainer(folder, [callback], **options)
    trainer.validate(model, DrawnData(images), verbose=False)
    return logged(trainer)


def by_chance():
    """How often the sign of a normal coordinate, one of six, changes by a step of random direction that is as long as
    that to two deviations on the other side."""
    rng = torch.Generator().manual_seed(0)
    z, step = (torch.randn(20_000, 6, generator=rng) for _ in range(2))
    there = z[:, 0] + (2 + z[:, 0].abs()) * step[:, 0] / step.norm(dim=1)
    return float((there.sign() != z[:, 0].sign()).double().mean())


@pytest.mark.parametrize("model", [Maker(), Styled()])
def test_attributes_that_are_coordinates_flip_and_leave_the_others_alone(tmp_path, model):
    found = measured(tmp_path, model, AttributeDirections(Eye(), **FEW))
    for name in Eye.attributes:
        assert found[f"val/direction_gives/{name}"] == found[f"val/direction_takes/{name}"] == 1
        assert found[f"val/direction_keeps/{name}"] > 0.95
    chance = [found[f"val/direction_{m}/{name}_random"] for m in ("gives", "takes") for name in Eye.attributes]
    assert max(chance) < 0.7
    if type(model) is Maker:
        assert sum(chance) / 6 == pytest.approx(by_chance(), abs=0.1)
    assert len(found) == 18
    assert list(pictures(tmp_path)) == ["direction_effects", "directions"]


def test_the_judges_other_attributes_are_read_too(tmp_path):
    class Entangled(Maker):
        """Green goes where red goes."""

        def decode(self, z):
            return painted(torch.stack((z[:, 0], z[:, 0], z[:, 2]), 1))

    callback = AttributeDirections(Eye(), ("red",), **FEW)
    found = measured(tmp_path, Entangled(), callback)
    assert len(found) == 6
    assert found["val/direction_keeps/red"] == pytest.approx(0.5, abs=0.03)  # of green and blue, blue stays


def test_an_encoder_has_its_real_images_edited(tmp_path, monkeypatch):
    drawn = []
    draw = module.labelled_grid
    monkeypatch.setattr(module, "labelled_grid", lambda *args: drawn.append(args) or draw(*args))
    callback = AttributeDirections(Eye(), ("red", "blue"), draws=400, edits=7, strength=4.0, steps=3)
    toy_trainer(tmp_path, [callback]).test(Coder(), DrawnData(9), verbose=False)
    red = torch.stack([Drawn()[k].image for k in range(7)])[:, 0].mean((1, 2)) > 0
    taken, given = (callback.measurements[f"direction_{measure}/red"] for measure in ("takes", "gives"))
    assert (taken.n, given.n) == (int(red.sum()), 7 - int(red.sum()))
    assert taken.value == given.value == 1
    ((columns, headings, labels),) = drawn
    assert headings == ["input", "code", "-6", "+0", "+6"]
    assert labels == ["red", "blue"]
    still = Drawn()[0].image
    for column in columns[:2]:
        torch.testing.assert_close(column[0], still)
        assert (column[1] == 1).all()
    left, middle, right = (column[0, 0].mean() for column in columns[2:])  # red, along its direction
    assert left == pytest.approx(-6 * GAIN, rel=0.1)
    assert abs(middle) < 0.05
    assert right == pytest.approx(6 * GAIN, rel=0.1)
    torch.testing.assert_close(columns[4][1, 0].mean(), still[0].mean(), atol=0.1, rtol=0)  # red, along blue's


def test_an_attribute_that_no_image_has_is_not_known(tmp_path):
    class Red(Maker):
        def decode(self, z):
            return painted(z) + torch.tensor([0.0, 9.0, 0.0])[:, None, None]

    found = measured(tmp_path, Red(), AttributeDirections(Eye(), **FEW))
    assert math.isnan(found["val/direction_takes/green"])
    assert math.isnan(found["val/direction_keeps/green"])
    assert found["val/direction_takes/red"] == 1


def test_the_protocol_stands_beside_that_of_others():
    callback = AttributeDirections(Eye(), draws=50, edits=5)
    assert callback.protocol["directions"].endswith("50 draws of seed 0, 5 edits to 2 deviations")
    assert not callback.protocol.keys() & Separability(Eye()).protocol.keys()


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(TypeError, match="AttributeDirections needs a Decoder .* but Toy is neither"):
        measured(tmp_path, Toy(), AttributeDirections(Eye()))
    with pytest.raises(TypeError, match="batches with a field image, not PairedBatch"):
        toy_trainer(tmp_path, [AttributeDirections(Eye())]).validate(Coder(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="not smile: give some of these"):
        AttributeDirections(Eye(), ("smile",))
    for wrong in ({"draws": 0}, {"edits": 0}, {"steps": 1}, {"strength": 0.0}):
        with pytest.raises(ValueError, match="AttributeDirections has"):
            AttributeDirections(Eye(), **wrong)


def _validate(rank, world, folder):
    found = []
    for model, edits in ((Coder(), 5), (Coder(), 1), (Styled(), 3)):
        callback = AttributeDirections(Eye(), draws=61, edits=edits)
        options = ddp_options(world) if world > 1 else {}
        each = measured(folder / type(model).__name__, model, callback, **options)
        found.append({key: str(value) for key, value in each.items()})  # NaN is equal to NaN
    return found


@pytest.mark.ddp
def test_two_uneven_ranks_measure_and_show_what_one_does(tmp_path):
    alone = _validate(0, 1, tmp_path / "one")
    assert [len(values) for values in alone] == [18, 18, 18]
    assert run_ddp(_validate, tmp_path / "two") == [alone, alone]
    for name in ("Coder", "Styled"):
        assert pictures(tmp_path / "one" / name) == pictures(tmp_path / "two" / name)
