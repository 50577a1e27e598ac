import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import benchmarks.evidence.plan as module
from benchmarks.evidence.plan import ROOT, check_commands, code_hash, make_jobs, read_plan

LISTING = {
    "budgets": {"small": {"experiment": "unit_labels", "arguments": "--trainer.max_steps 4"}},
    "measures": [{"key": "psnr/day2labels", "title": "PSNR", "better": "higher"}],
    "paper": [{"title": "maps", "table": "Table 1"}],
    "rows": [
        {"name": "With sharing", "arguments": "--model.shared_blocks 1", "paper": [0.5]},
        {"name": "other", "paper": ["0.4 ± 0.1"], "budgets": {"small": {"experiment": "unit_streets"}}},
    ],
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTINGS", tmp_path / "listings")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    (tmp_path / "listings").mkdir()


def plan_of(listing: object, tmp_path: Path) -> module.Plan:
    (tmp_path / "listings" / "toy.yaml").write_text(listing if isinstance(listing, str) else yaml.safe_dump(listing))
    return read_plan("toy")


def changed(path: str, value: object) -> dict:
    """The listing with one value changed, or taken away (None): ``rows.0.name``."""
    listing = copy.deepcopy(LISTING)
    *parents, last = path.split(".")
    place = listing
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    last = int(last) if last.isdigit() else last
    if value is None:
        del place[last]
    else:
        place[last] = value
    return listing


PAPERS = sorted(path.stem for path in (ROOT / "experiments" / "_evidence").glob("*.yaml"))


@pytest.mark.parametrize("paper", PAPERS)
def test_every_listing_of_the_repository_begins_as_it_should(paper, monkeypatch):
    monkeypatch.setattr(module, "LISTINGS", ROOT / "experiments" / "_evidence")
    plan = read_plan(paper)
    assert {"small", "paper"} <= plan.budgets.keys()
    check_commands(make_jobs(plan, "small", 1)[:1])


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_of_the_listings_can_be_run(paper, monkeypatch):
    monkeypatch.setattr(module, "LISTINGS", ROOT / "experiments" / "_evidence")
    plan = read_plan(paper)
    for budget in plan.budgets:
        check_commands(make_jobs(plan, budget, 1))


def test_a_row_has_the_budgets_arguments_and_its_own(tmp_path):
    first, other, again, _ = make_jobs(plan_of(LISTING, tmp_path), "small", 2, ["--data.size", "32"])
    fit = first.stages["fit"]
    assert fit[1:5] == ["main.py", "fit", "--config", "experiments/unit_labels.yaml"]
    assert (
        fit[7:]
        == "--trainer.max_steps 4 --model.shared_blocks 1 --data.size 32 --data.seed 0 --seed_everything 0".split()
    )
    assert "--trainer.max_steps" not in other.stages["fit"], "its own budget replaces the plan's"
    assert "experiments/unit_streets.yaml" in other.stages["fit"]
    assert again.seed == 1
    assert again.stages["fit"][-4:] == "--data.seed 1 --seed_everything 1".split()
    assert again.folder == first.folder.parent / "seed1"
    assert first.folder.parent.name.startswith("with-sharing-")
    # The test sees the configuration as it ran: one that had to repeat arguments could forget some.
    test = " ".join(first.stages["test"])
    assert "seed0/config.yaml --config experiments/_evaluation/streets.yaml" in test


def test_training_goes_on_where_there_is_a_checkpoint(tmp_path):
    (job, *_) = make_jobs(plan_of(LISTING, tmp_path), "small", 1)
    assert "--ckpt_path" not in job.stages["fit"]
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "checkpoints" / "last.ckpt").touch()
    (job, *_) = make_jobs(plan_of(LISTING, tmp_path), "small", 1)
    assert job.stages["fit"][-2:] == ["--ckpt_path", "last"]
    assert job.missing() == ["fit", "test"]
    (job.folder / "fit.done").touch()
    assert job.missing() == ["test"]


def test_only_what_numbers_depend_on_makes_a_new_run(tmp_path):
    def folders(listing: dict, *extra: str) -> list[Path]:
        return [job.folder for job in make_jobs(plan_of(listing, tmp_path), "small", 1, extra)]

    before = folders(LISTING)
    assert folders(changed("measures.0.title", "dB")) == before
    assert folders(changed("rows.0.paper", [0.7])) == before
    after = folders(changed("rows.0.arguments", "--model.shared_blocks 2"))
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert not set(folders(LISTING, "--model.lr", "1e-3")) & set(before)


def test_the_hash_covers_code_yaml_and_weights(tmp_path, monkeypatch):
    root = tmp_path / "repository"
    for name in ("main.py", "metrics/a.py", "metrics/b.safetensors", "callbacks/c.py", "callbacks/report.html"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("before")
    for name in ("e.yaml", "other.yaml", "_base/trainer.yaml", "_evaluation/streets.yaml"):
        (root / "experiments" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "experiments" / name).write_text("before")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "EVALUATIONS", root / "experiments" / "_evaluation")

    def differs(name: str) -> bool:
        before = code_hash(module.Budget("e"))
        (root / name).write_text("after")
        return code_hash(module.Budget("e")) != before

    for name in ("main.py", "metrics/a.py", "metrics/b.safetensors", "callbacks/c.py"):
        assert differs(name), name
    for name in ("e.yaml", "_base/trainer.yaml", "_evaluation/streets.yaml"):
        assert differs(f"experiments/{name}"), name
    assert not differs("callbacks/report.html")
    assert not differs("experiments/other.yaml")


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("measures", None, r"toy\.yaml: measures is missing"),
        ("row", [], r"toy\.yaml: there is no key row\. Did you mean rows\?"),
        ("rows", {}, r"toy\.yaml: rows is a list"),
        ("rows", [], "no budget, no measure or no row"),
        ("rows.0.name", None, "a row: name is missing"),
        ("rows.0.argument", "x", r"there is no key argument\. Did you mean arguments\?"),
        ("rows.1.name", "with sharing", "two rows of one name"),
        ("rows.0.paper", 0.5, "row With sharing: paper is a list"),
        ("rows.0.paper", [1, 2], "row With sharing has 2 of the paper's values for 1 columns"),
        ("rows.1.budgets.small.experiment", "unit_street", r"unit_street\.yaml, which is not .* mean unit_streets\?"),
        ("axis", "beta", "row With sharing needs its place"),
        ("against", "distortion", "drawn against distortion, which is no measure"),
        ("against", "psnr/day2labels", "drawn against psnr/day2labels in the order of an axis: give one"),
        ("measures.0.better", "more", "better is higher, lower or '', not more"),
        ("measures.0", "psnr", "expected a mapping with key, title, better, not 'psnr'"),
        ("paper.0.measure", "ssim", "compared with ssim, which is no measure"),
        ("budgets", [], "budgets are a mapping"),
        ("budgets.small.experiment", "unit_label", r"unit_label\.yaml, which is not there\. Did .* mean unit_labels\?"),
        ("budgets.small.evaluation", "street", r"street\.yaml, which is not there\. Did you mean streets\?"),
    ],
)  # fmt: skip
def test_a_wrong_listing_is_answered_in_one_sentence(path, value, sentence, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
        plan_of(changed(path, value), tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_yaml(tmp_path):
    with pytest.raises(ValueError, match=r"toy\.yaml is no YAML"):
        plan_of("rows: [", tmp_path)
    with pytest.raises(ValueError, match=r"toy\.yaml: expected a mapping"):
        plan_of("", tmp_path)


def test_unknown_papers_and_budgets_name_those_that_there_are(tmp_path):
    plan = plan_of(LISTING, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no evidence PAPER=toi\. Did you mean toy\? There are: toy\."):
        read_plan("toi")
    with pytest.raises(ValueError, match="The evidence of toy has no BUDGET=huge; there are: small"):
        make_jobs(plan, "huge", 1)


def test_a_misspelt_argument_is_found_before_anything_is_trained(tmp_path):
    check_commands(make_jobs(plan_of(LISTING, tmp_path), "small", 2))
    wrong = plan_of(changed("rows.1.arguments", "--model.shared_block 1"), tmp_path)
    with pytest.raises(ValueError, match=r"Row other: .*Did you mean shared_blocks\?"):
        check_commands(make_jobs(wrong, "small", 1))
    assert not (tmp_path / "runs").exists()


def test_a_plan_is_plain_values(tmp_path):
    plan = plan_of(LISTING, tmp_path)
    assert (
        json.loads(json.dumps(dataclasses.asdict(plan)))["rows"][1]["budgets"]["small"]["experiment"] == "unit_streets"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nounit"], "There is no evidence PAPER=nounit. Did you mean unit? There are: "),
        (["unit", "--budget", "tiny"], "The evidence of unit has no BUDGET=tiny; there are: small, paper."),
        (["unit", "--seeds", "0"], "SEEDS and --jobs are 1 or more"),
    ],
)
def test_the_command_ends_in_one_sentence(words, sentence):
    command = [sys.executable, "-m", "benchmarks.evidence", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.count("\n") == 1
