import pytest
import torch

import callbacks.interpolation as module
from callbacks.interpolation import Interpolation
from interfaces.model import LatentSpec
from metrics.path_length import slerp
from tests.callbacks.test_latent_traversal import GAINS, Autoencoder, Painter, PictureData, colours
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


def pictures(folder):
    return sorted(path.relative_to(folder / "pictures/media").as_posix() for path in folder.rglob("*.png"))


def sides(n):
    return [torch.stack([image(k, kind) for k in range(n)]) for kind in (0, 1)]


def test_latent_codes_begin_and_end_at_their_images(tmp_path, grids):
    toy_trainer(tmp_path, [Interpolation(2, steps=3)]).validate(Autoencoder(), PictureData(), verbose=False)
    ((columns, headings, labels),) = grids
    assert headings == ["input", "0", "0.5", "1", "input"]
    assert labels == ["0 to 1", "1 to 2"]
    means = torch.stack([image(k, 0).mean((1, 2)) for k in range(3)])
    torch.testing.assert_close(colours(columns[1]), means[:2])
    torch.testing.assert_close(colours(columns[3]), means[1:])
    a, b, middle = (c / GAINS for c in (means[:2], means[1:], colours(columns[2])))
    torch.testing.assert_close(middle.norm(dim=1), (a.norm(dim=1) + b.norm(dim=1)) / 2)  # not straight
    assert torch.equal(columns[-1], torch.stack([image(1, 0), image(2, 0)]))
    assert pictures(tmp_path) == ["interpolation/validate.png"]


def test_a_decoder_alone_goes_between_fixed_draws(tmp_path, grids):
    toy_trainer(tmp_path, [Interpolation(2, steps=2)]).validate(Painter(), PictureData(), verbose=False)
    ((columns, headings, _),) = grids
    assert headings == ["0", "1"]
    codes = LatentSpec(3).draw(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(colours(columns[0]), codes[:2] * GAINS)
    torch.testing.assert_close(colours(columns[1]), codes[1:] * GAINS)


def test_styles_of_the_prior_and_of_references(tmp_path, grids):
    toy_trainer(tmp_path, [Interpolation(2, steps=3)]).validate(Tinted(), ToyData(), verbose=False)
    a, b = sides(3)
    drawn = LatentSpec(3).draw(3, torch.Generator().manual_seed(0))
    for (columns, headings, labels), x in zip(grids[::2], (a, b), strict=True):
        assert headings == ["input", "0", "0.5", "1"]
        assert labels == ["0 to 1", "1 to 2"]
        assert torch.equal(columns[0], x[:2])
        middle = slerp(drawn[:2], drawn[1:], torch.full((2, 1), 0.5))
        for column, styles in zip(columns[1:], (drawn[:2], middle, drawn[1:]), strict=True):
            torch.testing.assert_close(column, x[:2] * 0.5 + styles[:, :, None, None])
    for (columns, headings, _), x, other in zip(grids[1::2], (a, b), (b, a), strict=True):
        assert headings == ["input", "reference", "0", "0.5", "1", "reference"]
        assert torch.equal(columns[0], x[:2])
        assert torch.equal(columns[1], other[:2])
        assert torch.equal(columns[-1], other[1:])
        tints = other.mean((2, 3))[:, :, None, None]
        torch.testing.assert_close(columns[2], x[:2] * 0.5 + tints[:2])
        torch.testing.assert_close(columns[4], x[:2] * 0.5 + tints[1:])
    keys = [f"style_interpolation{kind}/{way}" for kind in ("", "_by_reference") for way in ("day2night", "night2day")]
    assert pictures(tmp_path) == [f"{key}/validate.png" for key in sorted(keys)]


def test_one_image_has_styles_of_the_prior_only(tmp_path, grids):
    toy_trainer(tmp_path, [Interpolation(2, steps=3)]).validate(Tinted(), ToyData(images=1), verbose=False)
    assert [len(columns[0]) for columns, _, _ in grids] == [1, 1]
    assert all("by_reference" not in name for name in pictures(tmp_path))


def test_two_validations_show_the_same_images(tmp_path, grids):
    toy_trainer(tmp_path, [Interpolation(2, steps=2)]).fit(Tinted(), ToyData())
    assert len(grids) == 8
    for before, after in zip(grids[:4], grids[4:], strict=True):
        assert torch.equal(before[0][0], after[0][0])


def test_a_model_without_any_code_is_refused_at_setup(tmp_path):
    with pytest.raises(TypeError, match=r"but Toy has no latent_spec, decode, style_spec: remove"):
        toy_trainer(tmp_path, [Interpolation()]).validate(Toy(), ToyData(), verbose=False)


def test_batches_without_images_are_refused(tmp_path):
    with pytest.raises(TypeError, match="batches with a field image, not PairedBatch"):
        toy_trainer(tmp_path, [Interpolation()]).validate(Autoencoder(), ToyData(), verbose=False)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"steps": 1}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="1 row and 2 steps at least"):
        Interpolation(**wrong)


def _validate(rank, world, folder):
    for name, model, data in (("latent", Autoencoder(), PictureData()), ("style", Tinted(), ToyData(batch=1))):
        options = ddp_options(world) if world > 1 else {}
        toy_trainer(folder / name, [Interpolation(3, steps=3)], **options).validate(model, data, verbose=False)


@pytest.mark.ddp
def test_two_ranks_show_what_one_shows(tmp_path):
    _validate(0, 1, tmp_path / "one")
    run_ddp(_validate, tmp_path / "two")
    one, two = (sorted((tmp_path / n).rglob("*.png")) for n in ("one", "two"))
    assert len(one) == 5
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
