"""``extract_codes.py`` as people use it: a run, its codes, and batches of them."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import extract_codes
import main as cli
from datamodules.codes import CodeMaps
from datamodules.loaders import to_signed_unit
from datamodules.streets import StreetDomains
from lightning_modules.vq_vae2 import VQVAE2
from tests.lightning_modules.cases import CASES, Batches, fit, unit
from tests.test_main import make

ROOT = Path(__file__).parent.parent
DOMAINS = ("day", "night")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations on four scenes in each of two domains, mirrored half of the time."""
    folder = tmp_path_factory.mktemp("extract")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["main.py"])
        patch.setenv("WANDB_MODE", "disabled")
        args = "fit --config experiments/vq_vae2_streets.yaml --trainer.max_steps 2 --trainer.val_check_interval 2"
        args += " --trainer.accelerator cpu --model.width 4 --model.res_width 2 --model.dim 4 --model.codes 16"
        args += f" --data.domains [{','.join(DOMAINS)}] --data.scenes 4 --data.val_scenes 3 --data.size 32"
        args += f" --data.flip true --run_dir {folder / 'runs' / 'vq' / '20250101-000000'}"
        cli.main(args.split())
    return folder / "runs" / "vq" / "20250101-000000"


def extract(*args: object) -> int:
    return extract_codes.main([*map(str, args), "--device", "cpu"])


def test_codes_are_the_models_of_all_images_in_order(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "codes"
    assert extract("--ckpt", run, "--out", out, "--batch", 3) == 0
    assert f"Maps of 4x4 and 8x8 in 16 codes, 8 of train and 6 of val: {out}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]
    model = VQVAE2.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True).eval()
    data = StreetDomains(DOMAINS, 32, scenes=4, val_scenes=3)
    data.setup("fit")
    for part, arrays in (("train", data.images["train"]), ("val", data.images["val"][:2])):
        x = torch.cat([torch.from_numpy(np.array(array)) for array in arrays])
        with torch.no_grad():
            expected = model.indices_of(to_signed_unit(x))
        for level, maps in enumerate(expected):
            held = np.load(out / f"{part}_{level}.npy")
            assert held.dtype == np.int16
            assert np.array_equal(held, maps.numpy())


def test_the_description_says_whose_they_are(run: Path, tmp_path: Path) -> None:
    assert extract("--ckpt", run.parent, "--out", tmp_path / "codes") == 0
    about = json.loads((tmp_path / "codes" / "codes.json").read_text())
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert about["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (tmp_path / "codes" / about["checkpoint"]).samefile(checkpoint)
    assert (about["codes"], about["shapes"]) == (16, [[4, 4], [8, 8]])
    assert "day and night, 32x32, 4 of train" in about["data"]


def test_the_run_keeps_them_and_the_prior_finds_them(run: Path) -> None:
    assert extract("--ckpt", run.parent) == 0
    module = CodeMaps(str(run.parent), level=1, batch_size=4)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert (batch.codes.shape, batch.condition.shape) == ((4, 8, 8), (4, 4, 4))
    (run / "codes" / "train_0.npy").write_bytes(b"")
    assert extract("--ckpt", run) == 0  # new codes replace old ones
    module = CodeMaps(str(run), level=0)
    module.setup("fit")
    assert sorted(path.name for path in run.glob(".*")) == []


def test_the_codebook_does_not_move(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert extract("--ckpt", run, "--out", tmp_path / name, "--batch", {"a": 1, "b": 64}[name]) == 0
    for file in ("train_0.npy", "train_1.npy", "val_0.npy", "val_1.npy"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_photographs_are_cut_as_in_validation(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, count in {"trainA": 3, "trainB": 2, "testA": 2, "testB": 2}.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (40, 52, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / folder / f"{k}.png")
    arguments = {"root": str(tmp_path / "photos"), "size": 32, "num_workers": 0}
    data = {"class_path": "datamodules.unpaired.UnpairedImages", "init_args": arguments}
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump({"data": data}))
    for out in ("one", "two"):
        assert extract("--ckpt", run, "--config", tmp_path / "photos.yaml", "--out", tmp_path / out) == 0
    assert np.load(tmp_path / "one" / "train_1.npy").shape == (5, 8, 8)
    assert np.load(tmp_path / "one" / "val_0.npy").shape == (4, 4, 4)
    assert (tmp_path / "one" / "train_1.npy").read_bytes() == (tmp_path / "two" / "train_1.npy").read_bytes()
    # Training images that are also validation's get the same codes: no crop or mirroring is drawn.
    both = {**arguments, "train_a": str(tmp_path / "photos" / "testA"), "train_b": str(tmp_path / "photos" / "testB")}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"data": data | {"init_args": both}}))
    assert extract("--ckpt", run, "--config", tmp_path / "both.yaml", "--out", tmp_path / "both") == 0
    train, val = (np.load(tmp_path / "both" / f"{part}_1.npy") for part in ("train", "val"))
    assert np.array_equal(train, val)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interruption_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch, capsys, error) -> None:
    out = tmp_path / "codes"
    assert extract("--ckpt", run, "--out", out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shown = extract_codes.Display.show

    def show(self, done: int, path: Path | None) -> None:
        shown(self, done, path)
        if done > 4:
            raise error

    monkeypatch.setattr(extract_codes.Display, "show", show)
    assert extract("--ckpt", run, "--out", out, "--batch", 2) == (130 if error is KeyboardInterrupt else 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]
    printed = capsys.readouterr()
    assert "Interrupted: nothing is left behind" in printed.out or "No space left" in printed.err


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert extract(*args) == 2
    return capsys.readouterr().err


def test_what_makes_no_sense_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    assert "there is no absent" in refusal(capsys, "--ckpt", "absent")
    assert "--batch is 0" in refusal(capsys, "--ckpt", run, "--out", tmp_path / "out", "--batch", 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    said = refusal(capsys, "--ckpt", run, "--out", tmp_path / "full")
    assert "full holds other things than codes, such as thesis.tex" in said
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    assert "lies in no run" in refusal(capsys, "--ckpt", alone)
    out = "--out", tmp_path / "out"
    assert "There is no" in refusal(capsys, "--ckpt", alone, "--config", tmp_path / "no.yaml", *out)
    (tmp_path / "bare.yaml").write_text("model: {}\n")
    assert "has no data" in refusal(capsys, "--ckpt", alone, "--config", tmp_path / "bare.yaml", *out)
    (tmp_path / "wrong.yaml").write_text("data: {class_path: datamodules.streets.StreetDomains, init_args: {sise: 3}}")
    assert "cannot be built" in refusal(capsys, "--ckpt", alone, "--config", tmp_path / "wrong.yaml", *out)
    source = "{class_path: datamodules.procedural.sprites.Sprites}"
    (tmp_path / "grid.yaml").write_text(
        f"data: {{class_path: datamodules.factors.FactorDataModule, init_args: {{source: {source}}}}}"
    )
    assert "no lists of training" in refusal(capsys, "--ckpt", alone, "--config", tmp_path / "grid.yaml", *out)
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    fit(unit(), Batches(CASES[0], 1, 2), 1).save_checkpoint(tmp_path / "unit.ckpt")
    args = "--config", run / "config.yaml", "--out", tmp_path / "out"
    assert "UNIT, which has no codebooks" in refusal(capsys, "--ckpt", tmp_path / "unit.ckpt", *args)
    held = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    held["hyper_parameters"]["codes"] = 17
    torch.save(held, tmp_path / "other.ckpt")
    assert "does not fit the VQVAE2" in refusal(capsys, "--ckpt", tmp_path / "other.ckpt", *args)


def test_make_knows_the_command() -> None:
    assert "  make codes " in make("help").stdout
    said = make("-n", "codes", "EXP=vq_vae2_streets", "OUT=x", f"PY={sys.executable}").stdout
    assert 'extract_codes.py --ckpt "runs/vq_vae2_streets" --out "x"' in said
    assert os.access(ROOT / "extract_codes.py", os.R_OK)
