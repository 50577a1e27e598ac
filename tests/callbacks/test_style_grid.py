import numpy as np
import pytest
import torch
from PIL import Image

import callbacks.style_grid as module
from callbacks.style_grid import StyleGrid
from interfaces.model import LatentSpec
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp


@pytest.fixture
def grids(monkeypatch):
    """Arguments of every grid that is drawn."""
    drawn, draw = [], module.labelled_grid

    def record(*args):
        drawn.append(args)
        return draw(*args)

    monkeypatch.setattr(module, "labelled_grid", record)
    return drawn


def sides(n):
    return [torch.stack([image(k, kind) for k in range(n)]) for kind in (0, 1)]


def test_columns_are_what_they_say(tmp_path, grids):
    toy_trainer(tmp_path, [StyleGrid(inputs=2, styles=3)]).validate(Tinted(), ToyData(), verbose=False)
    codes = LatentSpec(3).draw(3, torch.Generator().manual_seed(0))
    a, b = sides(3)
    for (columns, _, labels), x in zip(grids[::2], (a, b), strict=True):
        assert labels == ["0", "1"]
        assert torch.equal(columns[0], x[:2])
        for column, code in zip(columns[1:], codes, strict=True):
            assert torch.allclose(column, x[:2] * 0.5 + code[:, None, None])
    assert grids[0][1] == ["input\nday", "style 0\nnight", "style 1\nnight", "style 2\nnight"]
    for (columns, _, labels), x, other in zip(grids[1::2], (a, b), (b, a), strict=True):
        assert labels == ["reference", "0", "1"]
        assert (columns[0][0] == 1).all()
        assert torch.equal(columns[0][1:], x[:2])
        for column, reference in zip(columns[1:], other, strict=True):
            assert torch.equal(column[0], reference)
            assert torch.allclose(column[1:], x[:2] * 0.5 + reference.mean((1, 2))[:, None, None])
    assert grids[3][1] == ["input\nnight", "reference 0\nday", "reference 1\nday", "reference 2\nday"]


def test_pictures_of_both_kinds_in_both_directions_and_the_same_each_time(tmp_path):
    model = Tinted()
    model.draw = lambda: float(torch.rand(()))  # noise must not make two validations differ
    trainer = toy_trainer(tmp_path, [StyleGrid(inputs=2, styles=3)])
    trainer.fit(model, ToyData())
    for kind, rows in (("styles", 2), ("styles_by_reference", 3)):
        for way in ("day2night", "night2day"):
            first, second = sorted((tmp_path / "pictures" / "media" / kind / way).iterdir())
            assert [first.name, second.name] == ["0000002.png", "0000004.png"]
            assert first.read_bytes() == second.read_bytes()
            height, width, _ = np.asarray(Image.open(first)).shape
            side = 12 * 19  # four columns of 12 pixels are at least 900 wide
            assert width > 4 * (side + 4)
            assert rows * (side + 4) < height < (rows + 1) * (side + 4)


def test_without_style_reader_only_the_prior_is_shown(tmp_path):
    class Deaf(Tinted):
        style_of = property()

    toy_trainer(tmp_path, [StyleGrid()]).validate(Deaf(), ToyData(images=2), verbose=False)
    assert [path.name for path in (tmp_path / "pictures" / "media").iterdir()] == ["styles"]


def test_a_model_without_styles_is_refused_at_setup(tmp_path):
    with pytest.raises(ValueError, match=r"StyleGrid needs a model with styles, but Toy\.style_spec is None"):
        toy_trainer(tmp_path, [StyleGrid()]).validate(Toy(), ToyData(), verbose=False)


def test_a_grid_without_a_style_is_refused():
    with pytest.raises(ValueError, match="at least one of each"):
        StyleGrid(styles=0)


def _validate(rank, world, folder):
    toy_trainer(folder, [StyleGrid(2, 3)], **ddp_options(world)).validate(Tinted(), ToyData(batch=1), verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    toy_trainer(tmp_path / "one", [StyleGrid(2, 3)]).validate(Tinted(), ToyData(batch=1), verbose=False)
    run_ddp(_validate, tmp_path / "two")
    names = [f"{kind}/{way}" for kind in ("styles", "styles_by_reference") for way in ("day2night", "night2day")]
    for name in names:
        one, two = ((tmp_path / n / "pictures/media" / name / "validate.png").read_bytes() for n in ("one", "two"))
        assert one == two
