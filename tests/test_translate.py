"""``translate.py`` as people use it."""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import importers.unit
import main as cli
import translate
from interfaces.model import Stylist
from lightning_modules.base import ManualModule
from lightning_modules.munit import MUNIT
from tests.lightning_modules.cases import CASES, Batches, Case, fit, munit, munit_with_cycle, unit
from tests.lightning_modules.test_contract import TRANSLATORS
from tests.test_main import make

ROOT = Path(__file__).parent.parent
SIZES = [(1, 1), (3, 50), (17, 23), (31, 33), (64, 64), (100, 37)]


def checkpoint_of(module: ManualModule, path: Path, case: Case) -> Path:
    fit(module, Batches(case, 1, 2), 1).save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def unit_ckpt(folder: Path) -> Path:
    torch.manual_seed(0)
    return checkpoint_of(unit(), folder / "unit.ckpt", CASES[0])


@pytest.fixture(scope="module")
def munit_ckpt(folder: Path) -> Path:
    torch.manual_seed(0)
    module = munit_with_cycle()
    with torch.no_grad():  # AdaIN of an untrained model hardly hears the style
        for decoder in module.averaged[2]:
            decoder.mlp.last.weight.mul_(30)
    return checkpoint_of(module, folder / "munit.ckpt", CASES[0])


def picture(path: Path, size: tuple[int, int] = (20, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n, size in enumerate(SIZES):
        picture(tmp_path / "photos" / ("sub" if n % 2 else "") / f"{n}.png", size, n)
    return tmp_path / "photos"


def run(ckpt: Path, source: Path, out: Path, *args: str) -> int:
    return translate.main(["--ckpt", str(ckpt), "--in", str(source), "--out", str(out), "--device", "cpu", *args])


def refusal(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    assert run(*args) == 2
    return capsys.readouterr().err


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@TRANSLATORS
def test_names_and_sizes_are_kept_by_every_translator(case: Case, photos: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    ckpt = checkpoint_of(case.build(), tmp_path / "x.ckpt", case)
    here, there = case.build().domains[:2]
    way = "--from", here, "--to", there
    assert run(ckpt, photos, tmp_path / "out", *way) == 0
    for path in photos.rglob("*.png"):
        place = tmp_path / "out" / path.relative_to(photos)
        assert Image.open(place).size == Image.open(path).size
    assert len(list((tmp_path / "out").rglob("*.*"))) == len(SIZES)
    assert f"6 translation(s) from {here} to {there}" in capsys.readouterr().out
    if isinstance(case.build(), Stylist):
        assert run(ckpt, photos, tmp_path / "out", *way, "--style-from", str(photos)) == 0


def test_the_result_is_the_models(unit_ckpt: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", (32, 36))
    assert run(unit_ckpt, path, tmp_path / "out", "--from", "night") == 0
    x = torch.from_numpy(pixels(path)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        y = translate.load_translator(unit_ckpt).translate(x, 1, 0)[0]
    assert np.abs(pixels(tmp_path / "out" / "x.png") - ((y + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.51


def test_the_running_average_serves(munit_ckpt: Path) -> None:
    model = translate.load_translator(munit_ckpt)
    assert model.averaged is not None
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    before = model.translate(x, 0, 1)
    for p in model.decoders.parameters():
        p.zero_()
    assert torch.equal(model.translate(x, 0, 1), before)
    assert not model.training


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_files_of_all_kinds(mode: str, unit_ckpt: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (15, 22, 3), dtype=np.uint8))
    image = (
        Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    )
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), exif=exif)
    assert run(unit_ckpt, tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), tmp_path / "out", "--to", "night") == 0
    (place,) = (tmp_path / "out").iterdir()
    result = Image.open(place)
    assert result.size == (15, 22)
    assert result.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    assert ("16" in str(result.tile)) == (mode == "I;16")
    if mode == "RGBA":
        assert np.array_equal(
            np.asarray(result)[..., 3], np.asarray(image.transpose(Image.Transpose.ROTATE_270))[..., 3]
        )


def test_a_broken_file_stops_no_other(photos: Path, unit_ckpt: Path, tmp_path: Path, capsys) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "note.txt").touch()
    assert run(unit_ckpt, photos, tmp_path / "out", "--to", "night") == 1
    told = capsys.readouterr()
    assert f"1 of 7 picture(s) failed:\n  {photos / 'broken.jpg'}: it cannot be read (cannot identify" in told.err
    assert "6 translation(s)" in told.out
    assert "Passed over 1 file(s) that are no pictures" in told.out


def test_a_link_to_nothing_is_a_broken_file(photos: Path, unit_ckpt: Path, tmp_path: Path, capsys) -> None:
    for name, target in (("gone.png", "nothing"), ("loop.png", "loop.png")):
        (photos / name).symlink_to(photos / target)
    assert run(unit_ckpt, photos, tmp_path / "out", "--to", "night") == 1
    told = capsys.readouterr()
    assert "2 of 8 picture(s) failed" in told.err
    assert f"{photos / 'gone.png'}: it cannot be read ([Errno 2] No such file" in told.err
    assert "6 translation(s)" in told.out


def test_drawn_styles(munit_ckpt: Path, photos: Path, tmp_path: Path) -> None:
    def outcome(name: str, *args: str) -> list[np.ndarray]:
        assert run(munit_ckpt, photos, tmp_path / name, "--to", "night", "--styles", "3", *args) == 0
        assert len(list((tmp_path / name).rglob("*.png"))) == 3 * len(SIZES)
        return [pixels(tmp_path / name / f"4_{n}.png") for n in range(3)]

    first = outcome("a")
    assert not np.array_equal(first[0], first[1])
    for one, two in zip(first, outcome("b"), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(first[0], outcome("c", "--seed", "1")[0])
    own = outcome("d", "--each")
    assert not np.array_equal(first[0], own[0])
    assert not np.array_equal(own[0], outcome("f", "--each", "--seed", "1")[0])
    # With a limit below two pictures, styles are computed one by one, and nothing else changes.
    assert max(np.abs(a - b).max() for a, b in zip(first, outcome("e", "--tile", "64"), strict=True)) <= 1


def test_styles_are_the_same_for_all_pictures_unless_each_has_its_own(munit_ckpt: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png", seed=0)
    assert run(munit_ckpt, tmp_path / "in", tmp_path / "same", "--to", "night", "--styles", "2") == 0
    assert run(munit_ckpt, tmp_path / "in", tmp_path / "own", "--to", "night", "--styles", "2", "--each") == 0
    assert np.array_equal(pixels(tmp_path / "same" / "a_1.png"), pixels(tmp_path / "same" / "b_1.png"))
    assert not np.array_equal(pixels(tmp_path / "own" / "a_1.png"), pixels(tmp_path / "own" / "b_1.png"))


def test_styles_of_references(munit_ckpt: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "x.png", (32, 32))
    references = [picture(tmp_path / "refs" / f"{n}.png", (40, 21), n + 5) for n in (1, 2)]
    assert run(munit_ckpt, source, tmp_path / "one", "--to", "night", "--style-from", str(references[0])) == 0
    assert run(munit_ckpt, source, tmp_path / "two", "--to", "night", "--style-from", str(tmp_path / "refs")) == 0
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["x_1.png", "x_2.png"]
    assert np.abs(pixels(tmp_path / "one" / "x.png") - pixels(tmp_path / "two" / "x_1.png")).max() <= 1
    model = translate.load_translator(munit_ckpt)
    x, ref = (torch.from_numpy(pixels(p)).permute(2, 0, 1)[None] / 127.5 - 1 for p in (source, references[0]))
    y = model.translate(x, 0, 1, model.style_of(translate.pad(ref, 4, 16)[0], 1))[0]
    assert np.abs(pixels(tmp_path / "one" / "x.png") - ((y + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.51


def test_a_broken_reference_stops_no_other(munit_ckpt: Path, tmp_path: Path, capsys) -> None:
    source, refs = picture(tmp_path / "x.png"), tmp_path / "refs"
    picture(refs / "good.png")
    (refs / "broken.png").write_bytes(b"no picture")
    assert run(munit_ckpt, source, tmp_path / "out", "--to", "night", "--style-from", str(refs)) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x_good.png"]
    told = capsys.readouterr().err
    assert f"1 of the references of --style-from failed:\n  {refs / 'broken.png'}: it cannot be read" in told
    assert "picture(s) failed" not in told
    (refs / "good.png").unlink()
    args = ("--to", "night", "--style-from", str(refs))
    assert "none of 1 reference(s) serves" in refusal(capsys, munit_ckpt, source, tmp_path / "new", *args)


def test_a_reference_may_be_narrow(munit_ckpt: Path, tmp_path: Path) -> None:
    source, narrow = picture(tmp_path / "x.png"), picture(tmp_path / "narrow.png", (3, 5000))
    args = ("--to", "night", "--style-from", str(narrow), "--tile", "16")
    assert run(munit_ckpt, source, tmp_path / "out", *args) == 0
    assert translate.within(torch.zeros(1, 3, 3, 5000), 16, 16).shape[-2:] == (3, 653)
    assert translate.within(torch.zeros(1, 3, 40, 90), 30, 16).shape[-2:] == (20, 45)
    assert translate.within(torch.zeros(1, 3, 20, 500), 30, 16).shape[-2:] == (16, 150)


def test_tiles_are_told(unit_ckpt: Path, tmp_path: Path, capsys) -> None:
    source = picture(tmp_path / "x.jpg", (150, 90))
    assert run(unit_ckpt, source, tmp_path / "out", "--to", "night", "--tile", "64") == 0
    assert Image.open(tmp_path / "out" / "x.jpg").size == (90, 150)
    assert "1 of them were made in tiles, which differ by" in capsys.readouterr().out


def test_requests_that_make_no_sense(unit_ckpt: Path, munit_ckpt: Path, photos: Path, tmp_path: Path, capsys) -> None:
    def said(*args: Any) -> str:
        return refusal(capsys, *args[:3], *map(str, args[3:]))

    out, night = tmp_path / "out", ("--to", "night")
    assert "UNIT makes one translation of a picture" in said(unit_ckpt, photos, out, *night, "--styles", "2")
    assert "UNIT makes one translation of a picture" in said(unit_ckpt, photos, out, *night, "--style-from", photos)
    assert "draw at least one" in said(munit_ckpt, photos, out, *night, "--styles", "0")
    assert "--each goes with --styles" in said(munit_ckpt, photos, out, *night, "--each")
    assert "--to is nigth, but this model knows day, night" in said(unit_ckpt, photos, out, "--to", "nigth")
    assert "--to is missing; this model knows day, night" in said(unit_ckpt, photos, out)
    assert "the smallest tile of this model is 16" in said(unit_ckpt, photos, out, *night, "--tile", "8")
    assert "is where the pictures are" in said(unit_ckpt, photos, photos, *night)
    assert "is where the pictures are" in said(unit_ckpt, photos, photos / "new", *night)
    assert "is where the pictures are" in said(unit_ckpt, photos / "0.png", photos, *night)
    assert "is a file: give a folder" in said(unit_ckpt, photos, unit_ckpt, *night)
    assert "There is no picture or folder" in said(unit_ckpt, tmp_path / "none", out, *night)
    assert "there is no" in said(tmp_path / "none.ckpt", photos, out, *night)
    assert "no checkpoints/last.ckpt" in said(photos, photos, out, *night)
    assert "has no such device" in said(unit_ckpt, photos, out, *night, "--device", "cuda:77")
    (tmp_path / "ref.png").touch()
    assert "ref.png: it cannot be read" in said(munit_ckpt, photos, out, *night, "--style-from", tmp_path / "ref.png")
    assert not out.exists()
    assert "Not a directory" in said(unit_ckpt, photos, unit_ckpt / "out", *night)


def test_a_converted_picture_leaves_a_png_its_name(unit_ckpt: Path, tmp_path: Path, capsys) -> None:
    for seed, name in enumerate(["x.gif", "x.png", "y.gif"]):
        picture(tmp_path / "in" / name, seed=seed)
    out = tmp_path / "out"
    assert run(unit_ckpt, tmp_path / "in", out, "--to", "night") == 0
    assert sorted(p.name for p in out.iterdir()) == ["x.gif.png", "x.png", "y.png"]
    assert f"1 of them kept the old ending before .png, such as {out / 'x.gif.png'}" in capsys.readouterr().out
    assert run(unit_ckpt, tmp_path / "in" / "x.png", tmp_path / "alone", "--to", "night") == 0
    assert np.array_equal(pixels(out / "x.png"), pixels(tmp_path / "alone" / "x.png"))


def test_no_result_replaces_another_picture(unit_ckpt: Path, tmp_path: Path, capsys) -> None:
    for name in ("x.gif", "x.png", "x.gif.png"):
        picture(tmp_path / "in" / name)
    assert run(unit_ckpt, tmp_path / "in", tmp_path / "out", "--to", "night") == 1
    assert "1 of 3 picture(s) failed:\n" in (told := capsys.readouterr().err)
    assert f"{tmp_path / 'in' / 'x.gif'}: {tmp_path / 'out' / 'x.gif.png'} would replace another picture" in told
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.gif.png", "x.png"]


def test_styles_leave_pngs_their_names_too(munit_ckpt: Path, tmp_path: Path) -> None:
    for name in ("x.gif", "x.png"):
        picture(tmp_path / "in" / name)
    for each in ([], ["--each"]):
        out = tmp_path / f"out{len(each)}"
        assert run(munit_ckpt, tmp_path / "in", out, "--to", "night", "--styles", "2", *each) == 0
        assert sorted(p.name for p in out.iterdir()) == ["x_0.gif.png", "x_0.png", "x_1.gif.png", "x_1.png"]


def changed(ckpt: Path, place: Path, **hyper_parameters: Any) -> Path:
    held = torch.load(ckpt, weights_only=True)
    held["hyper_parameters"] |= hyper_parameters
    torch.save(held, place)
    return place


NOT_OURS = [
    "os.system", "builtins.eval", "torch.nn.Linear", "lightning_modules.base.os.system", "lightning_modules.base.None",
    "lightning_modules.base.Tensor", "lightning_modules.base.Optimizer", "lightning_modules.munit.UNIT",
    "lightning_modules.none.X", "lightning_modules..unit.UNIT", "lightning_modules.unit.ManualModule",
    "os.lightning_modules.unit.UNIT", 3, None,
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_OURS)
def test_no_class_but_ours_is_built(
    name: Any, unit_ckpt: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr("os.system", called.append)
    ckpt = changed(unit_ckpt, tmp_path / "x.ckpt", _class_path=name, _instantiator="os.system", command="true")
    assert "which is no paper of lightning_modules" in refusal(capsys, ckpt, photos, tmp_path / "out", "--to", "night")
    assert not called


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_files_that_are_not_ours(unit_ckpt: Path, munit_ckpt: Path, photos: Path, tmp_path: Path, capsys) -> None:
    def said(content: Any) -> str:
        torch.save(content, tmp_path / "x.ckpt")
        told = refusal(capsys, tmp_path / "x.ckpt", photos, tmp_path / "out", "--to", "night")
        assert told.count("\n") == 1
        return told

    held = torch.load(unit_ckpt, weights_only=True)
    assert "is no file of plain tensors" in said(held | {"bomb": Bomb()})
    assert "is no Lightning checkpoint" in said({"a": {}, "b": {}})
    assert "is no Lightning checkpoint" in said([1, 2])
    assert "does not say which model it holds" in said({"state_dict": held["state_dict"]})
    for name, broken in [("hyper_parameters", b) for b in ([1], {1: 2})] + [
        ("state_dict", b) for b in ([1], {1: torch.ones(1)}, {"a": "text"})
    ]:
        assert "is no Lightning checkpoint" in said(held | {name: broken})
    arguments = held["hyper_parameters"]
    assert "UNIT has no argument lambda_new" in said(held | {"hyper_parameters": arguments | {"lambda_new": 1}})
    assert "does not fit the UNIT that it describes" in said(held | {"hyper_parameters": arguments | {"width": 8}})
    assert "a UNIT that cannot be built" in said(held | {"hyper_parameters": arguments | {"width": "wide"}})
    of_base = {"_class_path": "lightning_modules.base.ManualModule"}
    bare = {"state_dict": ManualModule().state_dict(), "hyper_parameters": of_base}
    assert "ManualModule, which does not translate" in said(held | bare)
    (tmp_path / "x.ckpt").write_bytes(b"text")
    assert "cannot be read as a PyTorch file" in refusal(
        capsys, tmp_path / "x.ckpt", photos, tmp_path / "out", "--to", "night"
    )


def test_the_weights_of_a_loss_are_not_needed(unit_ckpt: Path, tmp_path: Path) -> None:
    ckpt = changed(unit_ckpt, tmp_path / "x.ckpt", lambda_vgg=1.0, vgg_weights=str(tmp_path / "gone.pth"))
    assert translate.load_translator(ckpt).vgg is None


def test_an_imported_checkpoint_is_enough(unit_ckpt: Path, photos: Path, tmp_path: Path) -> None:
    importers.unit.save(unit_ckpt, tmp_path / "official")
    importers.unit.load(tmp_path / "official", tmp_path / "back.ckpt")
    assert run(unit_ckpt, photos / "0.png", tmp_path / "one", "--to", "night") == 0
    assert run(tmp_path / "back.ckpt", photos / "0.png", tmp_path / "two", "--to", "b") == 0
    assert np.array_equal(pixels(tmp_path / "one" / "0.png"), pixels(tmp_path / "two" / "0.png"))


def test_domains() -> None:
    class Three:
        domains = ("day", "night", "snow")

    assert translate.domains_of(Three(), "snow", "day") == (2, 0)
    with pytest.raises(ValueError, match="--from is missing; this model knows day, night, snow"):
        translate.domains_of(Three(), None, "day")
    two = munit()
    assert translate.domains_of(two, None, "night") == (0, 1)
    assert translate.domains_of(two, None, "day") == (1, 0)
    assert translate.domains_of(two, "day", None) == (0, 1)
    assert translate.domains_of(two, "night", None) == (1, 0)
    assert translate.domains_of(two, "night", "night") == (1, 1)


def test_what_stops_in_the_middle_leaves_whole_files(
    unit_ckpt: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    calls = iter(range(99))
    read = translate.files.read

    def interrupted(path: Path):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(translate.files, "read", interrupted)
    assert run(unit_ckpt, photos, tmp_path / "out", "--to", "night") == 130
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) == 2
    assert "Interrupted" in capsys.readouterr().out


def test_what_does_not_fit_into_memory_is_one_failure(
    munit_ckpt: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    translated = MUNIT.translate

    def small(self, x, *args):
        if x.shape[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nmore")
        return translated(self, x, *args)

    monkeypatch.setattr(MUNIT, "translate", small)
    assert run(munit_ckpt, photos, tmp_path / "out", "--to", "night") == 1
    assert "4.png: it does not fit into memory: give a smaller --tile\n" in capsys.readouterr().err


def test_a_run_of_main_is_enough(tmp_path: Path, photos: Path, monkeypatch, capsys) -> None:
    """Trained for two iterations by the command line; found by its folder and by that of its experiment."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "RUNS", tmp_path / "runs")
    tiny = "--model.width 4 --model.dis_width 4 --model.mlp_width 8 --data.scenes 4 --data.val_scenes 4"
    brief = "--trainer.max_steps 2 --trainer.val_check_interval 2 --trainer.limit_val_batches 0 --trainer.logger false"
    cli.main(["fit", "--config", "experiments/munit_streets.yaml", *tiny.split(), *brief.split()])
    (experiment,) = (tmp_path / "runs").iterdir()
    (only,) = experiment.iterdir()
    for ckpt in (experiment, only, only / "checkpoints" / "last.ckpt"):
        assert run(ckpt, photos / "0.png", tmp_path / "out", "--to", "night") == 0
    capsys.readouterr()


def test_make_translate_passes_everything_on() -> None:
    wishes = ["IN=my photos", "OUT=the out", "FROM=day", "TO=night", "STYLES=4", "TILE=512", "DEVICE=cpu"]
    shown = make("-n", "translate", "CKPT=x y.ckpt", *wishes)
    command = shlex.split(shown.stdout.replace("\\\n", " ")[shown.stdout.index("translate.py") :])
    options = translate.parser().parse_args(command[1:])
    assert (options.ckpt, options.source, options.out) == (Path("x y.ckpt"), Path("my photos"), Path("the out"))
    assert (options.from_, options.to, options.styles, options.style_from) == ("day", "night", 4, None)
    assert (options.tile, options.device) == (512, "cpu")
