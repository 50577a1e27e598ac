"""The command line as people type it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

import main as cli

ROOT = Path(__file__).parent.parent
EXPERIMENT = "experiments/unit_streets.yaml"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["main.py"])


def refusal(*args: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", EXPERIMENT, *args])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("--trainer.max_step", "trainer.max_steps"),
        ("--seed_everythin", "seed_everything"),
        ("--model.lambda_cycl", "lambda_cycle"),
        ("--data.scene", "scenes"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest(typo: str, meant: str, capsys) -> None:
    assert f"Did you mean {meant}?" in refusal(typo, "3", capsys=capsys)


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [("trainer", "max_step", "max_steps"), ("model", "lambda_cycl", "lambda_cycle"), ("data", "scene", "scenes")],
)
def test_a_misspelt_key_in_a_file(section: str, key: str, meant: str, tmp_path, capsys) -> None:
    inner = {key: 3} if section == "trainer" else {"init_args": {key: 3}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({section: inner}))
    message = refusal("--config", str(tmp_path / "x.yaml"), capsys=capsys)
    assert "Did you mean" in message
    assert meant in message


def test_a_missing_value_names_the_option_that_gives_it(capsys) -> None:
    message = refusal("--config", "experiments/dcgan_folder_64.yaml", capsys=capsys)
    said = message[message.index("error:") :].strip()
    assert said == "error: datamodules.growing.GrowingFolder has no value for root: give --data.root."


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(SystemExit, match=r"No experiment experiments/unit_street\.yaml\. Did you mean unit_streets\?"):
        cli.main(["fit", "--config", "experiments/unit_street.yaml"])


def test_bases_come_first_and_may_not_inherit(tmp_path) -> None:
    args = cli.with_bases(["fit", "--config", EXPERIMENT, "--trainer.max_steps", "3"])
    bases = ["experiments/_base/trainer.yaml", "experiments/_base/translation.yaml"]
    assert args == [
        "fit",
        "--config",
        bases[0],
        "--config",
        bases[1],
        "--config",
        EXPERIMENT,
        "--trainer.max_steps",
        "3",
    ]
    (tmp_path / "_base").mkdir()
    (tmp_path / "_base" / "one.yaml").write_text("inherit: [two]")
    (tmp_path / "x.yaml").write_text("inherit: [one]")
    with pytest.raises(SystemExit, match="may not inherit"):
        cli.with_bases(["--config", str(tmp_path / "x.yaml")])
    (tmp_path / "x.yaml").write_text("inherit: [three]")
    with pytest.raises(SystemExit, match=r"inherits three, but there is no .*three\.yaml"):
        cli.with_bases(["--config", str(tmp_path / "x.yaml")])


def test_print_config_shows_what_would_run(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", EXPERIMENT, "--model.lr", "0.125", "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["lr"] == 0.125
    assert config["trainer"]["num_sanity_val_steps"] == 0  # from a base
    callbacks = [c["class_path"].rpartition(".")[2] for c in config["trainer"]["callbacks"]]
    assert {"Progress", "TranslationGrid", "TranslationMetrics"} <= set(callbacks)  # base, base and experiment


def test_what_is_named_twice_with_the_same_arguments_counts_once() -> None:
    first = Namespace(class_path="callbacks.fid.FID", init_args=Namespace(every=1))
    again = Namespace(class_path="callbacks.fid.FID", init_args=Namespace(every=1))
    other = Namespace(class_path="callbacks.fid.FID", init_args=Namespace(every=1, resamples=2))
    assert cli.without_repeats([first, other, again]) == [first, other]
    rarely = Namespace(class_path="callbacks.fid.FID", init_args=Namespace(every=4))
    (kept,) = cli.without_repeats([rarely, first, again])
    assert kept is rarely
    assert kept.init_args.every == 4
    plain, few = (
        Namespace(class_path="x.Disentanglement", init_args=Namespace(every=n, counts=counts))
        for n, counts in ((2, None), (1, Namespace(votes=3)))
    )
    (kept,) = cli.without_repeats([plain, few])
    assert (kept.init_args.every, kept.init_args.counts) == (2, Namespace(votes=3))
    assert cli.without_repeats(None) is None


def test_what_a_training_measures_rarely_and_an_evaluation_lists_again_is_built_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cli.Command, "_run_subcommand", lambda self, subcommand: None)
    cycle = [{"class_path": "callbacks.cycle_accuracy.CycleAccuracy", "init_args": {"every": 4}}]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": cycle}}))
    configs = (EXPERIMENT, str(tmp_path / "x.yaml"), "experiments/_evaluation/streets.yaml")
    args = [word for config in configs for word in ("--config", config)]
    command = cli.main(["test", *args, "--run_dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"])
    kinds = [type(callback).__name__ for callback in command.trainer.callbacks]
    assert [kinds.count(kind) for kind in ("CycleAccuracy", "SceneTruth", "FID", "EvaluationCard")] == [1] * 4
    assert command.trainer.callbacks[kinds.index("CycleAccuracy")].every == 4


def test_last_without_a_run_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cli, "RUNS", tmp_path)
    with pytest.raises(SystemExit, match="no run in .*unit_streets has checkpoints/last.ckpt"):
        cli.main(["fit", "--config", EXPERIMENT, "--ckpt_path", "last"])


def test_best_is_found_as_last_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cli, "RUNS", tmp_path)
    with pytest.raises(SystemExit, match="no run in .* has checkpoints/best.ckpt; .*BestCheckpoint keeps one"):
        cli.main(["test", "--config", EXPERIMENT, "--ckpt_path", "best"])
    for time, names in (("1", ("best", "last")), ("2", ("last",))):
        (tmp_path / "unit_streets" / time / "checkpoints").mkdir(parents=True)
        for name in names:
            (tmp_path / "unit_streets" / time / "checkpoints" / f"{name}.ckpt").touch()
    assert cli.newest_run("unit_streets", "best").name == "1"
    assert cli.newest_run("unit_streets", "last").name == "2"
    with pytest.raises(SystemExit, match=r"there is no .*2/checkpoints/best\.ckpt"):
        cli.checkpoint_of(tmp_path / "unit_streets" / "2", "best")


def make(*args: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves may run under make, whose flags its children would take over.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *args], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_make_lists_experiments_and_targets() -> None:
    unknown = make("train", "EXP=unit_street")
    assert unknown.returncode != 0
    assert "There is no experiment unit_street. There are:\n  " in unknown.stdout
    assert "  unit_streets\n" in unknown.stdout
    help_text = make("help").stdout
    targets = "help setup train validate test-ckpt predict translate codes sample parity evidence sweep rotation"
    for target in (targets + " test test-all lint format type bench clean").split():
        assert f"  make {target} " in help_text, target


def test_setup_does_nothing_when_up_to_date() -> None:
    assert make("setup").stdout.strip() in {"", "make: Nothing to be done for 'setup'."}


def test_compromised_releases_cannot_be_installed() -> None:
    from packaging.requirements import Requirement

    text = (ROOT / "setup.cfg").read_text()
    (line,) = [x.strip() for x in text.splitlines() if x.strip().startswith("pytorch-lightning")]
    allowed = Requirement(line).specifier
    assert "2.6.6" in allowed
    assert not any(version in allowed for version in ("2.6.2", "2.6.3", "2.7.0"))
    pins = dict(x.split("==") for x in (ROOT / "constraints.txt").read_text().split() if "==" in x)
    assert pins["pytorch-lightning"] == "2.6.6"
    assert pins["albumentations"].startswith("2.0.")


def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "main.py", *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_what_a_user_can_mend_ends_in_one_sentence(tmp_path: Path) -> None:
    args = ["fit", "--config", "experiments/unit_folder_256.yaml", "--data.root", str(tmp_path / "none")]
    done = run(*args, "--run_dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: There is no folder {tmp_path}/none/trainA" in done.stderr


def test_what_a_constructor_says_is_not_buried_in_the_parsers_words() -> None:
    done = run("fit", "--config", "experiments/ufdn_faces.yaml", "--data.domains", "[photo,oil]")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "\nerror: There is no face domain 'oil'; choose one of photo, sketch, paint.\n" in done.stderr


def test_a_bug_keeps_its_traceback() -> None:
    def ours() -> None:
        raise ValueError("a sentence")

    for cause, expected in ((ours, True), (lambda: int("x"), False), (lambda: torch.zeros(2) @ torch.zeros(3), False)):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            cause()
        assert cli.said_by_us(caught.value) == expected
        assert cli.sentence_of(caught.value) == ("a sentence" if expected else None)
