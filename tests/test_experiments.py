"""Every experiment is accepted by the command line and takes its first steps."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main as cli
from datamodules.codes import Description, place

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = {"--model.width": "4", "--model.dis_width": "4"}  # sizes of images and steps stay the experiment's own
NARROW = {  # arguments of models whose networks have other names
    "MultiDomainDRIT": "--model.width 4 --model.dis_width 4 --model.attribute_width 4 --model.content_dis_width 8",
    "Fader": "--model.width 4 --model.max_width 8 --model.hidden 8",
    "UFDN": "--model.widths [4,4,4] --model.code_channels 4 --model.dv_widths [4] --model.dx_widths [4] "
    "--model.dx_hidden 4",
    "VQVAE2": "--model.width 4 --model.res_width 2 --model.dim 4",
    "PixelSNAIL": "--model.width 16 --model.res_width 4 --model.cond_width 4",
    "BetaVAE": "--model.hidden [4] --model.dec_hidden [4]",
    "BetaTCVAE": "--model.hidden [4] --model.dec_hidden [4]",
    "ALAE": "--model.width 4 --model.latent 10 --model.mapping_layers 2",
    "FactorVAE": "--model.hidden [4] --model.dec_hidden [4] --model.dis_width 4",
    "DCGAN": "--model.width 4",
    "ProgressiveGAN": "--model.resolution 64 --model.widths [4,4,4,4,4] --model.latent 8 --model.batches [4]",
    "StyleGAN": "--model.resolution 64 --model.widths [4,4,4,4,4] --model.latent 8 --model.batches [4]",
    "StyleALAE": "--model.resolution 64 --model.width 4 --model.max_width 4 --model.latent 8 --model.batches [4]",
}
FEW = {  # arguments of data
    "Streets": "--data.scenes 4 --data.val_scenes 8",
    "StreetDomains": "--data.scenes 4 --data.val_scenes 8",
    "FaceDomains": "--data.faces 8 --data.val_faces 8",
    "FacePairs": "--data.faces 8 --data.val_faces 8",
    "FaceAttributes": "--data.faces 64 --data.val_faces 8",
    "GrowingFaces": "--data.faces 8 --data.val_faces 8",
    "Digits": "--data.copies 1",
    "FactorDataModule": "--data.val_images 8 --data.batch_size 8",
}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(cli, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def photographs(root: Path, folders: dict[str, int]) -> str:
    """Folders of so much noise, a little larger than the crop."""
    rng = np.random.default_rng(0)
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (270, 300, 3), np.uint8)).save(root / folder / f"{k}.jpg")
    return str(root)


def codes(folder: Path) -> str:
    """Maps of 128 random codes, whose model has gone."""
    rng, sides = np.random.default_rng(0), (8, 16)
    folder.mkdir()
    for part in ("train", "val"):
        for level, side in enumerate(sides):
            np.save(place(folder, part, level), rng.integers(0, 128, (8, side, side), np.int16))
    shapes = tuple((side, side) for side in sides)
    Description(128, shapes, {"train": 8, "val": 8}, "VQVAE2", "gone.ckpt", "", "noise").write(folder)
    return str(folder)


def little(data: str, folder: Path) -> list[str]:
    """Arguments that give a DataModule little to do, and what it needs on the disk."""
    if data in FEW:
        return FEW[data].split()
    root = ["--data.num_workers", "0", "--data.root"]
    if data == "CodeMaps":
        return [*root, codes(folder)]
    if data == "UnpairedImages":
        return [*root, photographs(folder, {"trainA": 3, "trainB": 4, "testA": 2, "testB": 2})]
    if data == "GrowingFolder":
        return [*root, photographs(folder, {".": 20}), "--data.size", "64", "--data.batch_size", "4"]
    if data == "DomainImages":
        return [*root, photographs(folder, {"oil": 5, "photo": 6, "pencil": 4}), "--data.batch_size", "2"]
    assert data == "AttributeImages"
    images = Path(photographs(folder, {"faces": 8})) / "faces"
    table = folder / "table.csv"
    table.write_text("image,Male\n" + "".join(f"{k}.jpg,{1 - 2 * (k % 2)}\n" for k in range(8)))
    # One in two is kept out, of the smallest batches that batch normalisation takes.
    return [*root, str(images), "--data.table", str(table), "--data.held_out", "0.5", "--data.batch_size", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_first_steps(name: str, tmp_path: Path) -> None:
    args = f"fit --config experiments/{name}.yaml --trainer.max_steps 2 --trainer.val_check_interval 2".split()
    args += "--trainer.limit_val_batches 2 --trainer.accelerator cpu --trainer.precision 32-true".split()
    args += ["--trainer.log_every_n_steps", "1"]
    experiment = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
    model, data = (experiment[part]["class_path"].rpartition(".")[2] for part in ("model", "data"))
    args += NARROW[model].split() if model in NARROW else [word for pair in SMALL.items() for word in pair]
    args += little(data, tmp_path / "photos")
    if name == "alae_mnist":  # of which there are no files here
        args += ["--data.source", "datamodules.factor_digits.SmallDigits"]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    command = cli.main(args)
    assert command.trainer.global_step == 2
    (run,) = (tmp_path / "runs" / name).iterdir()
    shown = {"translation": "translations", "domains": "domains"}.get(experiment["inherit"][-1])
    shown = "attributes" if model == "Fader" else shown
    assert shown is None or (run / "pictures" / "media" / shown / "0000002.png").is_file()
    assert (run / "metrics.csv").is_file()
    assert (run / "config.yaml").is_file()


def evaluate(name: str, *model: str) -> Path:
    """The card of an untrained model on 21 scenes."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    args = ["test", *model, "--config", f"experiments/_evaluation/{name}.yaml", "--trainer.accelerator", "cpu"]
    command = cli.main([*args, "--data.val_scenes", "21", "--data.scenes", "2"])
    return Path(command.trainer.default_root_dir) / "evaluation.json"


@pytest.mark.slow
def test_a_model_without_styles_is_evaluated_on_streets_and_refused_by_what_needs_styles() -> None:
    unit = ["--config", "experiments/unit_streets.yaml", *[word for pair in SMALL.items() for word in pair]]
    metrics = json.loads(evaluate("streets", *unit).read_text())["metrics"]
    measures = {name.partition("/")[0] for name in metrics}
    assert {"psnr", "cycle_l1", "identity_psnr", "semantic_iou", "fid_scenes", "leak_domain"} <= measures
    with pytest.raises((SystemExit, TypeError), match="StyleTruth needs a Stylist, but UNIT has no style_of"):
        evaluate("styled_streets", *unit)


@pytest.mark.slow
def test_a_model_with_styles_is_evaluated_on_streets() -> None:
    small = ["--model.width", "4", "--model.dis_width", "4", "--model.blocks", "1"]
    card = evaluate("styled_streets", "--config", "experiments/munit_streets.yaml", *small)
    measures = {name.partition("/")[0] for name in json.loads(card.read_text())["metrics"]}
    assert {"style_r2", "leak_content", "diversity_scenes_reference", "path_length_scenes_squared"} <= measures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "name", "measures"),
    [
        ("ufdn_faces", "faces", {"psnr", "mse", "fid_faces", "cycle_l1", "domain_probe", "interpolation_smoothness"}),
        ("fader_faces", "face_attributes", {"swap_accuracy", "swap_leakage", "swap_psnr", "reconstruction_psnr"}),
        ("ufdn_digits", "digits", {"accuracy"}),
        ("vq_vae2_streets", "reconstruction", {"reconstruction_mse", "reconstruction_psnr", "codebook"}),
        (
            "alae_digits",
            "labelled_codes",
            {"fid_digits", "reconstruction_mse", "reciprocity", "knn_accuracy", "svm_accuracy"},
        ),
        (
            "beta_vae_faces",
            "growing_faces",
            {"attribute_agreement", "attribute_truth", "sharpness_ratio", "fid_faces", "reconstruction_mse"}
            | {"path_length_faces_squared", "separability", "direction_keeps"},
        ),
        ("dritpp_weather", "weather", {"fid_scenes", "diversity_scenes", "domain_probe", "semantic_iou", "cycle_l1"}),
    ],
)
def test_models_of_many_domains_and_of_attributes_are_evaluated(experiment: str, name: str, measures: set[str]) -> None:
    """The cards of untrained models."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    configs = f"--config experiments/{experiment}.yaml --config experiments/_evaluation/{name}.yaml".split()
    few = ["--data.val_scenes", "22"] if name in ("weather", "reconstruction") else ["--data.val_faces", "22"]
    few = {"digits": [], "labelled_codes": ["--data.val_images", "22"]}.get(name, few)
    command = cli.main(["test", *configs, "--trainer.accelerator", "cpu", *few])
    card = json.loads((Path(command.trainer.default_root_dir) / "evaluation.json").read_text())
    assert {key.partition("/")[0] for key in card["metrics"]} >= measures


EXPERIMENT_OF = {
    "faces": "ufdn_faces",
    "face_attributes": "fader_faces",
    "digits": "ufdn_digits",
    "labelled_codes": "alae_digits",
    "reconstruction": "vq_vae2_streets",
    "growing_faces": "beta_vae_faces",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiments" / "_evaluation").glob("*.yaml")))
def test_every_evaluation_is_accepted_by_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = f"experiments/{EXPERIMENT_OF.get(name, 'unit_streets')}.yaml"
    args = ["test", "--config", experiment, "--config", f"experiments/_evaluation/{name}.yaml"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*args, "--print_config"])
    assert not stop.value.code
    assert "callbacks.evaluation_card.EvaluationCard" in capsys.readouterr().out
