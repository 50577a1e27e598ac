"""Drawn maps of codes beside those of images, with a prior and a decoder that are known."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from callbacks import code_samples
from callbacks.code_samples import CodeSamples, spoken
from callbacks.codebook import colours
from datamodules.codes import CodeMaps, Description, place, sum_of
from interfaces.batch import CodeData
from interfaces.model import CodeSampler
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp

SHAPES, CODES = ((2, 2), (4, 4)), 9


class Prior(Toy):
    """Draws codes that are alike; below a level above, those of that level."""

    drawn: list[tuple]

    def nll_of_codes(self, codes, condition=None):
        return codes.float()

    def sample(self, n, condition=None, given=None, temperature=1.0, rng=None, progress=None):
        assert not self.training
        assert not torch.is_grad_enabled()
        chance = torch.rand(n, 2, 2, generator=rng)
        self.drawn = [*getattr(self, "drawn", []), (n, condition, temperature, chance)]
        progress(1)
        if condition is None:
            return (chance * CODES).long()
        return condition.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def training_step(self, batch, batch_idx):
        loss = self.scale * batch.codes.float().mean() + torch.rand(())
        self.losses.append(loss.item())
        self.descend(self.optimizers(), loss)
        self.end_iteration()


class Decoder(torch.nn.Module):
    """Red is the top's code and green the bottom's; blue says how many levels spoke."""

    codes = CODES

    def indices_of(self, x):
        raise AssertionError("nobody has an image here")

    def image_of(self, indices, levels=None):
        assert all(level.dtype == torch.int64 for level in indices)
        each = [interpolate(level[:, None].float() / CODES, (8, 8)) for level in indices]
        each = [level if k in levels else level * 0 - 1 for k, level in enumerate(each)]
        return torch.cat((*each, torch.full_like(each[0], len(levels) / 2)), 1)


@pytest.fixture
def folder(tmp_path):
    """Six maps of each level, of which the last code is the number of the image."""
    (tmp_path / "made.ckpt").write_bytes(b"weights")
    codes = tmp_path / "codes"
    codes.mkdir()
    for part in ("train", "val"):
        for level, shape in enumerate(SHAPES):
            array = np.full((6, *shape), level + 1, np.int16)
            array[:, -1, -1] = np.arange(6)
            np.save(place(codes, part, level), array)
    made = tmp_path / "made.ckpt"
    Description(CODES, SHAPES, {"train": 6, "val": 6}, "Toy", "../made.ckpt", sum_of(made), "toys").write(codes)
    return tmp_path


def validated(folder, level, callback, model=None, **options):
    model = model or Prior()
    trainer = toy_trainer(folder / "run", [callback], **options)
    trainer.validate(model, CodeMaps(str(folder / "codes"), level, batch_size=4), verbose=False)
    return model


def cells(folder, rows, columns, name="validate"):
    """The middle pixels of the upper left and lower right quarters of each cell: (rows, columns, 2, 3)."""
    picture = np.asarray(Image.open(folder / "run" / "pictures" / "media" / "code_samples" / f"{name}.png"))
    wide = picture.shape[1] // columns
    found = np.zeros((rows, columns, 2, 3), np.int64)
    for r in range(rows):
        for c in range(columns):
            side, y, x = wide - 4, picture.shape[0] - (rows - r) * wide, c * wide
            for k, share in enumerate((0.1, 0.9)):
                found[r, c, k] = picture[y + int(side * share), x + int(side * share)]
    return found


def shade(value):
    return round((value + 1) * 127.5)


def test_they_conform(folder):
    assert isinstance(Prior(), CodeSampler)
    assert isinstance(CodeMaps(str(folder / "codes")), CodeData)


def test_a_top_is_shown_alone_beside_that_of_images(folder):
    asked = []
    callback = CodeSamples(lambda path: asked.append(path) or Decoder(), images=3, temperature=0.5, seed=4)
    model = validated(folder, 0, callback)
    assert [path.resolve() for path in asked] == [folder / "made.ckpt"]
    ((n, condition, temperature, chance),) = model.drawn
    assert (n, condition, temperature) == (3, None, 0.5)
    assert torch.equal(chance, torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(4)))
    drawn, found = (chance * CODES).long(), cells(folder, 3, 4)
    wheel = ((colours(CODES) + 1) * 127.5).round().long()
    for row in range(3):
        for k, place_ in ((0, (0, 0)), (1, (1, 1))):
            for column, code in ((0, (1, row)[k]), (2, int(drawn[row][place_]))):
                assert found[row, column, k].tolist() == wheel[code].tolist()
                assert found[row, column + 1, k].tolist() == [shade(code / CODES), shade(-1), shade(0.5)]


def test_a_bottom_is_drawn_below_the_top_of_each_image(folder):
    model = validated(folder, 1, CodeSamples(lambda path: Decoder(), images=6))
    ((n, condition, _, _),) = model.drawn
    assert n == 6
    assert condition[:, 1, 1].tolist() == list(range(6))
    found = cells(folder, 6, 5)
    wheel = ((colours(CODES) + 1) * 127.5).round().long()
    for row in range(6):
        assert found[row, 0, 1].tolist() == wheel[row].tolist()
        assert found[row, 1, 0].tolist() == wheel[2].tolist()
        assert found[row, 2, 0].tolist() == [shade(1 / CODES), shade(2 / CODES), shade(1)]
        assert found[row, 3, 0].tolist() == wheel[1].tolist()
        assert found[row, 4, 0].tolist() == [shade(1 / CODES), shade(1 / CODES), shade(1)]


@pytest.mark.parametrize("loss", ["gone", "changed", "unasked"])
def test_without_the_model_there_are_colours_and_a_reason(folder, capsys, loss):
    if loss == "gone":
        (folder / "made.ckpt").unlink()
    if loss == "changed":
        (folder / "made.ckpt").write_bytes(b"others")
    validated(folder, 0, CodeSamples(None if loss == "unasked" else lambda path: Decoder(), images=2))
    said = capsys.readouterr().out
    assert ("CodeSamples shows colours and no pictures" in said) == (loss != "unasked")
    assert ("not there any more" in said) == (loss == "gone")
    assert ("has changed since" in said) == (loss == "changed")
    drawn = (torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(0)) * CODES).long()
    wheel = ((colours(CODES) + 1) * 127.5).round().long()
    assert cells(folder, 2, 2)[:, 1, 0].tolist() == wheel[drawn[:, 0, 0]].tolist()


def losses_with(folder, *callbacks):
    torch.manual_seed(0)
    model = Prior()
    shutil.rmtree(folder / "run", ignore_errors=True)
    toy_trainer(folder / "run", callbacks).fit(model, CodeMaps(str(folder / "codes"), 0, batch_size=4))
    return model


def test_training_hears_nothing_of_it_and_every_validation_draws_the_same(folder):
    alone, watched = losses_with(folder), losses_with(folder, CodeSamples(lambda path: Decoder(), images=2))
    assert len(set(alone.losses)) == 4
    assert alone.losses == watched.losses
    first, second = watched.drawn
    assert torch.equal(first[3], second[3])
    names = sorted(path.name for path in (folder / "run" / "pictures" / "media" / "code_samples").iterdir())
    assert names == ["0000002.png", "0000004.png"]
    assert len(losses_with(folder, CodeSamples(images=2, every=2)).drawn) == 1


def draw_on_a_rank(rank, world, folder):
    model = validated(folder, 1, CodeSamples(lambda path: Decoder(), images=5), **ddp_options(world))
    return len(getattr(model, "drawn", [])), cells(folder, 5, 5) if rank == 0 else None


@pytest.mark.ddp
def test_two_processes_draw_the_same_and_one_of_them_draws(folder):
    (here, found), (there, _) = run_ddp(draw_on_a_rank, folder)
    assert (here, there) == (1, 0)
    shutil.rmtree(folder / "run")
    validated(folder, 1, CodeSamples(lambda path: Decoder(), images=5))
    assert np.array_equal(found, cells(folder, 5, 5))


def test_others_are_refused(folder):
    with pytest.raises(TypeError, match="CodeSamples needs a CodeSampler, but Toy has no nll_of_codes, sample"):
        validated(folder, 0, CodeSamples(), Toy())
    with pytest.raises(TypeError, match="CodeSamples needs a Quantiser, but Toy has no codes, image_of, indices_of"):
        validated(folder, 0, CodeSamples(lambda path: Toy()))
    with pytest.raises(TypeError, match="CodeSamples needs a CodeData, but NoneType has no codes"):
        toy_trainer(folder / "run", [CodeSamples()]).validate(Prior(), [], verbose=False)
    for wrong in ({"images": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="CodeSamples has"):
            CodeSamples(**wrong)


def test_it_says_how_far_it_is_where_it_takes_long(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(code_samples.time, "monotonic", lambda: now[0])
    say = spoken()
    for rows, time in ((1, 3.0), (2, 11.0), (3, 12.0), (4, 22.0)):
        now[0] = time
        say(rows)
    assert capsys.readouterr().out == "code samples: 2 rows\ncode samples: 4 rows\n"
