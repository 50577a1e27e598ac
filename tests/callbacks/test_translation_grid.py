import random

import numpy as np
import pytest
import torch
from PIL import Image

import callbacks.translation_grid as module
from callbacks.translation_grid import TranslationGrid
from callbacks.translation_metrics import TranslationMetrics
from tests.callbacks.toy import Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp


@pytest.fixture
def grids(monkeypatch):
    """Arguments of every grid that is drawn."""
    drawn, draw = [], module.labelled_grid

    def record(columns, headings, *args, **kwargs):
        drawn.append((columns, headings))
        return draw(columns, headings, *args, **kwargs)

    monkeypatch.setattr(module, "labelled_grid", record)
    return drawn


def test_columns_are_what_they_say(tmp_path, grids):
    model = Toy()
    toy_trainer(tmp_path, [TranslationGrid(images=5)]).validate(model, ToyData(), verbose=False)
    (day, headings), (night, _) = grids
    a, b = (torch.stack([image(k, kind) for k in range(5)]) for kind in (0, 1))
    assert [h.split("\n")[0] for h in headings] == ["input", "reconstruction", "translation", "cycle", "truth"]
    for shown, expected in zip(day, (a, a, -0.5 * a, 0.25 * a, b), strict=True):
        assert torch.allclose(shown, expected)
    for shown, expected in zip(night, (b, b, -0.5 * b, 0.25 * b, a), strict=True):
        assert torch.allclose(shown, expected)
    assert headings[2] == "translation\nnight"


def test_unpaired_data_show_no_truth(tmp_path, grids):
    toy_trainer(tmp_path, [TranslationGrid(images=2)]).validate(Toy(), ToyData(paired=False), verbose=False)
    assert [len(columns) for columns, _ in grids] == [4, 4]


def test_one_picture_per_validation_of_the_same_images(tmp_path, grids):
    toy_trainer(tmp_path, [TranslationGrid(images=3)]).fit(Toy(), ToyData())
    files = sorted((tmp_path / "pictures" / "media" / "translations").iterdir())
    assert [file.name for file in files] == ["0000002.png", "0000004.png"]  # none from the sanity check
    first, second = grids[0][0], grids[2][0]
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[2], second[2])  # the model has moved on
    assert np.asarray(Image.open(files[0])).shape[1] >= 900


def test_fewer_images_than_asked_for(tmp_path, grids):
    toy_trainer(tmp_path, [TranslationGrid(images=8)]).validate(Toy(), ToyData(images=3), verbose=False)
    assert len(grids[0][0][0]) == 3


def _losses(tmp_path, callbacks):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  the global state is meant
    random.seed(1)
    model = Toy(noisy=True)
    toy_trainer(tmp_path, callbacks).fit(model, ToyData())
    return model.losses


def test_validation_leaves_the_random_states_alone(tmp_path):
    alone = _losses(tmp_path, [])
    assert len(set(alone)) == len(alone) == 4
    assert _losses(tmp_path, [TranslationGrid(), TranslationMetrics()]) == alone


def test_a_model_that_cannot_translate_is_refused_at_setup(tmp_path):
    class Mute(Toy):
        translate = property()

    with pytest.raises(TypeError, match="TranslationGrid needs a Translator, but Mute has no translate"):
        toy_trainer(tmp_path, [TranslationGrid()]).validate(Mute(), ToyData(), verbose=False)


def _probes(rank, world, folder, images, batch):
    callback = TranslationGrid(images=5)
    trainer = toy_trainer(folder, [callback], **ddp_options(world))
    trainer.validate(Toy(), ToyData(images, batch), verbose=False)
    return [column.tolist() for column in callback._probes.gather(trainer)]


@pytest.mark.ddp
@pytest.mark.parametrize(("images", "batch"), [(7, 2), (3, 1)])
def test_two_ranks_show_the_images_of_one(tmp_path, images, batch):
    callback = TranslationGrid(images=5)
    trainer = toy_trainer(tmp_path / "one", [callback])
    trainer.validate(Toy(), ToyData(images, batch), verbose=False)
    first, second = run_ddp(_probes, tmp_path / "two", images, batch)
    assert first == second == [column.tolist() for column in callback._probes.gather(trainer)]
    one, two = ((tmp_path / n / "pictures/media/translations/validate.png").read_bytes() for n in ("one", "two"))
    assert one == two
