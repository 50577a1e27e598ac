"""``sample.py`` as people use it: codes of a model, a prior of each level, pictures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import extract_codes
import main as cli
import sample
import trained
from datamodules.codes import CodeMaps
from lightning_modules.pixel_snail import PixelSNAIL
from tests.lightning_modules.cases import fit
from tests.test_main import make

ROOT = Path(__file__).parent.parent
LEVELS = ("top", "bottom")


def prior_of(codes: Path, level: int, seed: int = 0) -> pl.Trainer:
    """Two steps of a prior of one level."""
    torch.manual_seed(seed)
    data = CodeMaps(str(codes), level, batch_size=4)
    size = {"width": 16, "kernel": 3, "blocks": 1, "res_blocks": 1, "res_width": 4, "cond_width": 4, "lr": 0.03}
    model = PixelSNAIL(data.shape, data.codes, attention=level == 0, cond_blocks=level, **size)
    return fit(model, data, steps=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16 codes and 4x4 and 8x8 maps, its codes, and a run of each prior."""
    folder = tmp_path_factory.mktemp("sample")
    vq = folder / "vq" / "20250101-000000"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["main.py"])
        patch.setenv("WANDB_MODE", "disabled")
        args = "fit --config experiments/vq_vae2_streets.yaml --trainer.max_steps 2 --trainer.limit_val_batches 0"
        args += " --trainer.accelerator cpu --model.width 4 --model.res_width 2 --model.dim 4 --model.codes 16"
        args += f" --data.domains [day,night] --data.scenes 4 --data.val_scenes 4 --data.size 32 --run_dir {vq}"
        cli.main(args.split())
    last = vq / "checkpoints" / "last.ckpt"
    held = torch.load(last, weights_only=True)
    for name, weight in held["state_dict"].items():  # after two steps all pictures are of one grey
        if name.startswith("nets.decoder") and weight.ndim == 4:
            weight *= 3
    torch.save(held, last)
    assert extract_codes.main(["--ckpt", str(vq), "--device", "cpu"]) == 0
    for level, name in enumerate(LEVELS):
        prior_of(vq, level).save_checkpoint(folder / name / "20250101-000000" / "checkpoints" / "last.ckpt")
    return folder


def drawn(runs: Path, *more: object, priors: tuple[object, ...] = LEVELS) -> int:
    args = ["--vq", runs / "vq", "--priors", *(runs / str(name) for name in priors), "--device", "cpu", *more]
    return sample.main([*map(str, args)])


def pixels(folder: Path) -> np.ndarray:
    """Of all samples, in order."""
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("sample_*.png"))])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".png"}


def test_one_seed_gives_the_same_pictures_however_they_are_drawn(runs: Path, tmp_path: Path, capsys) -> None:
    a, again, b, c, fewer = (tmp_path / name for name in "abcde")
    assert drawn(runs, "--n", 5, "--out", a) == 0
    assert f"5 sample(s) and grid.png: {a}" in capsys.readouterr().out
    assert drawn(runs, "--n", 5, "--out", again) == 0
    assert drawn(runs, "--n", 5, "--out", b, "--batch", 2, priors=LEVELS[::-1]) == 0
    assert drawn(runs, "--n", 5, "--out", c, "--seed", 1) == 0
    assert drawn(runs, "--n", 3, "--out", fewer) == 0
    assert sorted(files(a)) == ["grid.png", *(f"sample_{k:04d}.png" for k in range(5))]
    assert files(a) == files(again)
    assert abs(pixels(a) - pixels(b)).max() <= 1  # sums of another order round otherwise
    assert abs(pixels(a)[:3] - pixels(fewer)).max() <= 1
    assert abs(pixels(a) - pixels(c)).max() > 20
    about = json.loads((a / "samples.json").read_text())
    assert (about["n"], about["seed"], about["temperature"]) == (5, 0, [1.0])
    assert about["vq"]["sha256"] == CodeMaps(str(runs / "vq")).about.sha256


def test_pictures_are_what_the_model_decodes_of_drawn_codes(runs: Path, tmp_path: Path) -> None:
    assert drawn(runs, "--n", 4, "--out", tmp_path / "out", "--temperature", 0.8, 1.2, "--seed", 3) == 0
    vq, top, bottom = (
        trained.load_model(runs / name / "20250101-000000" / "checkpoints" / "last.ckpt") for name in ("vq", *LEVELS)
    )
    rngs = [sample.generator(3, level) for level in (0, 1)]
    maps = [top.sample(4, temperature=0.8, rng=rngs[0])]
    maps.append(bottom.sample(4, maps[0], temperature=1.2, rng=rngs[1]))
    assert maps[0].unique().numel() > 1
    expected = vq.image_of(maps).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for k, pixels in enumerate(expected):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"sample_{k:04d}.png")), pixels)


def test_the_chance_of_a_level_is_its_own() -> None:
    first = {float(torch.rand((), generator=sample.generator(s, level))) for s in (0, 1, 2**40) for level in (0, 1)}
    assert len(first) == 6


def test_the_numbers_of_the_grid_are_those_of_the_files() -> None:
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 400, 400, 3), np.uint8)
    picture = sample.grid(pictures)  # two rows of three
    for k in range(5):
        row, column = divmod(k, 3)
        y = picture.shape[0] - (2 - row) * 404 + 200
        x = picture.shape[1] - (3 - column) * 404 + 200
        assert picture[y, x].tolist() == [k] * 3


def test_samples_are_kept_in_the_run_and_replaced(runs: Path, capsys) -> None:
    out = runs / "bottom" / "20250101-000000" / "samples"
    assert drawn(runs, "--n", 3) == 0
    assert drawn(runs, "--n", 2, "--fid") == 2
    assert "--n is 2: give 6 or more" in capsys.readouterr().err
    assert len(files(out)) == 4
    assert drawn(runs, "--n", 6, "--fid") == 0
    said = capsys.readouterr().out
    assert "of 6 samples against 8 validation images; of the reconstructions" in said
    about = json.loads((out / "samples.json").read_text())
    assert about["images"] == 8
    assert min(about["fid_scenes"], about["fid_scenes_reconstructions"]) > 0
    assert len(files(out)) == 7
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_an_interruption_leaves_what_was_there(runs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    assert drawn(runs, "--n", 2, "--out", out) == 0
    before = files(out)

    def show(self, done: int, path: Path | None) -> None:
        if done > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(sample.Display, "show", show)
    assert drawn(runs, "--n", 3, "--out", out) == 130
    assert "Interrupted: nothing is left behind" in capsys.readouterr().out
    assert files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_makes_no_sense_is_refused(runs: Path, tmp_path: Path, capsys) -> None:
    def refusal(*more: object, priors: tuple[object, ...] = LEVELS) -> str:
        assert drawn(runs, "--out", tmp_path / "out", *more, priors=priors) == 2
        return capsys.readouterr().err

    assert "--n is 0" in refusal("--n", 0)
    assert "--seed is -1" in refusal("--seed", -1)
    assert "--batch is 0" in refusal("--batch", 0)
    assert "--temperature is 0.0: give a number above 0" in refusal("--temperature", 0)
    assert "--temperature has 3 numbers for 2 levels" in refusal("--temperature", 1, 1, 1)
    assert "--priors: there is no" in refusal(priors=("top", "absent"))
    assert "of the levels 0, but" in refusal(priors=("top",))
    assert "of the levels 0, 0, but" in refusal(priors=("top", "top"))
    assert "VQVAE2, which draws no codes" in refusal(priors=("vq", "bottom"))
    assert "--vq: there is no" in refusal("--vq", tmp_path / "absent")
    assert "has no codebooks" in refusal("--vq", runs / "top")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sample_0000.png").touch()
    assert "holds other things than samples, such as sample_0000.png" in refusal()
    (tmp_path / "samples.json").touch()
    assert "samples.json is a file" in refusal("--out", tmp_path / "samples.json")


def test_priors_of_other_codes_are_refused(runs: Path, tmp_path: Path, capsys) -> None:
    last = runs / "vq" / "20250101-000000" / "checkpoints" / "last.ckpt"
    held = torch.load(last, weights_only=True)
    torch.save(held | {"epoch": 7}, tmp_path / "other.ckpt")
    assert drawn(runs, "--vq", tmp_path / "other.ckpt", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "last.ckpt knows the codes of another model" in said
    assert "give --vq the checkpoint that made them, or train the prior on codes of this one" in said
    prior = runs / "top" / "20250101-000000" / "checkpoints" / "last.ckpt"
    held = torch.load(prior, weights_only=True)
    del held["CodeMaps"]
    torch.save(held, tmp_path / "untold.ckpt")
    assert drawn(runs, "--out", tmp_path / "out", priors=(tmp_path / "untold.ckpt", "bottom")) == 2
    assert "does not say whose codes it knows" in capsys.readouterr().err
    assert drawn(runs, "--vq", last, "--out", tmp_path / "out", "--n", 1) == 0


def test_make_knows_the_command() -> None:
    assert "  make sample " in make("help").stdout
    said = make("-n", "sample", "N=4", "TEMPERATURE=0.9", "OUT=x", f"PY={sys.executable}").stdout
    runs = "--priors runs/vq_vae2_prior_streets runs/vq_vae2_bottom_prior_streets"
    assert f'sample.py --vq "runs/vq_vae2_streets" {runs} --n 4' in said
    assert '--temperature 0.9 --out "x"' in said
