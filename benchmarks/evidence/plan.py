"""What a paper's evidence consists of, as ``experiments/_evidence/<paper>.yaml`` lists it, and the runs that it needs.

Everything that can be wrong in a listing is said here, in one sentence, before anything is trained.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
LISTINGS, EVALUATIONS = ROOT / "experiments" / "_evidence", ROOT / "experiments" / "_evaluation"
RUNS = ROOT / "runs" / "evidence"
LAYERS = ("callbacks", "datamodules", "interfaces", "lightning_modules", "losses", "metrics", "networks")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What rows of one budget have in common."""

    experiment: str
    arguments: str = ""  # of the command line
    evaluation: str = "streets"  # the configuration that `test` adds


@dataclasses.dataclass(frozen=True)
class Measure:
    """A column of ours."""

    key: str  # of the evaluation card
    title: str
    better: str  # higher or lower; empty if neither is
    decimals: int = 3


@dataclasses.dataclass(frozen=True)
class Quoted:
    """A column of the paper's."""

    title: str
    table: str  # or figure, where the paper has it
    measure: str = ""  # key of the measure that it can be compared with; empty if only the order of rows can


@dataclasses.dataclass(frozen=True)
class Row:
    """A system that the paper compares."""

    name: str
    arguments: str = ""
    paper: tuple[Any, ...] = ()  # a value for each of the paper's columns
    budgets: dict[str, Budget] = dataclasses.field(default_factory=dict)  # its own, where it has others than the plan
    data: str = ""  # what it is measured on, in words for the page, where that has another name than the others' data
    at: float | None = None  # its place on the plan's axis
    series: str = ""  # the curve that it belongs to


@dataclasses.dataclass(frozen=True)
class Plan:
    """The evidence of a paper."""

    paper: str
    budgets: dict[str, Budget]
    measures: tuple[Measure, ...]
    quoted: tuple[Quoted, ...]
    rows: tuple[Row, ...]
    axis: str = ""  # what rows are drawn along, such as a weight; empty where they are no series
    against: str = ""  # key of the measure against which the picture also shows every score
    page: str = ""  # of docs/papers, where the evidence has another name than its page


class Job(NamedTuple):
    """One row with one seed: commands by stage, and the folder that keeps what they leave."""

    row: str
    seed: int
    folder: Path
    stages: dict[str, list[str]]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.row}, seed {self.seed}"

    def missing(self) -> list[str]:
        """Stages that have not finished yet."""
        return [stage for stage in self.stages if not (self.folder / f"{stage}.done").exists()]


def read_plan(paper: str) -> Plan:
    """The evidence that is listed for a paper.

    Raises:
        FileNotFoundError: there is no listing, or an experiment or evaluation that it names is not there.
        ValueError: a key is unknown or missing, or values do not fit together.
    """
    file = LISTINGS / f"{paper}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in LISTINGS.glob("*.yaml"))
        raise FileNotFoundError(
            f"There is no evidence PAPER={paper}.{nearest(paper, known)} There are: {listed(known)}."
        )
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is no YAML: {' '.join(str(error).split())}.") from error
    needed = ("budgets", "measures", "paper", "rows")
    parts = checked(found, file.name, needed, (*needed, "axis", "against", "page"))
    plan = Plan(
        paper,
        read_budgets(parts["budgets"], file.name),
        tuple(built(Measure, each, f"{file.name}, a measure") for each in as_list(parts["measures"], "measures", file)),
        tuple(built(Quoted, each, f"{file.name}, paper") for each in as_list(parts["paper"], "paper", file)),
        tuple(read_row(each, file.name) for each in as_list(parts["rows"], "rows", file)),
        parts.get("axis", ""),
        parts.get("against", ""),
        parts.get("page", ""),
    )
    check_plan(plan, file.name)
    return plan


def read_row(found: Any, where: str) -> Row:
    """One of ``rows``."""
    row = built(Row, found, f"{where}, a row")
    if not isinstance(row.paper, list):
        raise ValueError(f"{where}, row {row.name}: paper is a list with a value for each of the paper's columns.")
    place = f"{where}, row {row.name}"
    return dataclasses.replace(row, paper=tuple(row.paper), budgets=read_budgets(row.budgets, place))


def read_budgets(found: Any, where: str) -> dict[str, Budget]:
    """``budgets`` by name."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}: budgets are a mapping from a name, such as small, to an experiment.")
    return {name: built(Budget, each, f"{where}, budget {name}") for name, each in found.items()}


def check_plan(plan: Plan, where: str) -> None:
    """Refuse what does not fit together (see `read_plan`)."""
    if not (plan.budgets and plan.measures and plan.rows):
        raise ValueError(f"{where} lists no budget, no measure or no row: it needs one or more of each.")
    names = [row.name for row in plan.rows]
    if len({slug(name) for name in names}) < len(names):
        raise ValueError(f"{where} has two rows of one name: {listed(names)}.")
    keys = [measure.key for measure in plan.measures]
    for measure in plan.measures:
        if measure.better not in ("higher", "lower", ""):
            raise ValueError(f"{where}, measure {measure.key}: better is higher, lower or '', not {measure.better}.")
    for column in plan.quoted:
        if column.measure and column.measure not in keys:
            raise ValueError(
                f"{where}: the paper's {column.title} is compared with {column.measure}, which is no measure."
            )
    if plan.axis and (without := [row.name for row in plan.rows if not isinstance(row.at, int | float)]):
        raise ValueError(f"{where} has the axis {plan.axis}, so row {without[0]} needs its place there, at.")
    if plan.against and plan.against not in keys:
        raise ValueError(f"{where}: scores are drawn against {plan.against}, which is no measure.")
    if plan.against and not plan.axis:
        raise ValueError(f"{where}: scores are drawn against {plan.against} in the order of an axis: give one.")
    for row in plan.rows:
        if len(row.paper) != len(plan.quoted):
            raise ValueError(
                f"{where}, row {row.name} has {len(row.paper)} of the paper's values for {len(plan.quoted)} columns."
            )
    for budget in [*plan.budgets.values(), *(each for row in plan.rows for each in row.budgets.values())]:
        for folder, name in ((ROOT / "experiments", budget.experiment), (EVALUATIONS, budget.evaluation)):
            known = sorted(path.stem for path in folder.glob("*.yaml"))
            if name not in known:
                raise FileNotFoundError(
                    f"{where} needs {folder.name}/{name}.yaml, which is not there.{nearest(name, known)}"
                )


def make_jobs(plan: Plan, budget: str, seeds: int, extra: Sequence[str] = (), root: Path | None = None) -> list[Job]:
    """The runs of a budget, seed by seed, so that whole tables come first if a call is interrupted.

    Args:
        plan: from `read_plan`.
        budget: one of the plan's.
        seeds: runs of each row, from seed 0 on.
        extra: arguments for every row, after the listing's.
        root: folder that keeps the runs; by default that of all evidence.

    Raises:
        ValueError: the budget is unknown.
    """
    if budget not in plan.budgets:
        raise ValueError(f"The evidence of {plan.paper} has no BUDGET={budget}; there are: {listed(plan.budgets)}.")
    chosen = {row.name: row.budgets.get(budget, plan.budgets[budget]) for row in plan.rows}
    hashes = {each: code_hash(each) for each in set(chosen.values())}
    jobs = []
    for seed in range(seeds):
        for row in plan.rows:
            own = chosen[row.name]
            words = [*shlex.split(own.arguments), *shlex.split(row.arguments), *extra]
            digest = hashlib.sha256(json.dumps([hashes[own], words]).encode()).hexdigest()[:8]
            folder = (root or RUNS) / plan.paper / budget / f"{slug(row.name)}-{digest}" / f"seed{seed}"
            jobs.append(Job(row.name, seed, folder, commands(own, words, seed, folder)))
    return jobs


def commands(budget: Budget, words: list[str], seed: int, folder: Path) -> dict[str, list[str]]:
    """``fit``, from the last checkpoint on if there is one, and then ``test`` with all that was configured for it."""
    main, place = [sys.executable, "main.py"], os.path.relpath(folder, ROOT)
    fit = ["--config", f"experiments/{budget.experiment}.yaml", "--run_dir", place, *words]
    fit += ["--data.seed", str(seed), "--seed_everything", str(seed)]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        fit += ["--ckpt_path", "last"]
    evaluation = os.path.relpath(EVALUATIONS / f"{budget.evaluation}.yaml", ROOT)
    test = ["--config", f"{place}/config.yaml", "--config", evaluation, "--run_dir", place, "--ckpt_path", "last"]
    return {"fit": [*main, "fit", *fit], "test": [*main, "test", *test]}


def check_commands(jobs: Sequence[Job]) -> None:
    """Let the command line read each row's arguments, so that a misspelt one is answered before an hour has passed.

    Raises:
        ValueError: the words of the command line about the first row that it does not accept.
    """
    import main

    for row, job in {job.row: job for job in jobs}.items():
        said, words = io.StringIO(), job.stages["fit"][2:]
        words = words[: words.index("--ckpt_path")] if "--ckpt_path" in words else words
        try:
            with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                main.main([*words, "--print_config"])
        except SystemExit as stop:
            if stop.code:
                text = said.getvalue() if isinstance(stop.code, int) else str(stop.code)
                sentence = " ".join(text.partition("error:")[2].split()) or " ".join(text.split())
                raise ValueError(f"Row {row}: {sentence}") from stop


def code_hash(budget: Budget) -> str:
    """Changes with whatever a row's numbers depend on beside its arguments: all code of a run, its YAML, torch."""
    files = [ROOT / "main.py", ROOT / "experiments" / f"{budget.experiment}.yaml"]
    files += [*(ROOT / "experiments" / "_base").glob("*.yaml"), EVALUATIONS / f"{budget.evaluation}.yaml"]
    for layer in LAYERS:
        files += [path for path in (ROOT / layer).rglob("*") if path.suffix in (".py", ".safetensors")]
    digest = hashlib.sha256(version("torch").encode())
    for path in sorted(files):
        digest.update(os.path.relpath(path, ROOT).encode() + path.read_bytes())
    return digest.hexdigest()


def built(kind: type[Any], found: Any, where: str) -> Any:
    """A dataclass from a mapping, whose keys must be its fields."""
    fields = dataclasses.fields(kind)
    needed = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    return kind(**checked(found, where, needed, [field.name for field in fields]))


def checked(found: Any, where: str, needed: Sequence[str], known: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping that has the needed keys and no unknown ones (ValueError otherwise)."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected a mapping with {listed(needed)}, not {found!r}.")
    known = known or needed
    for key in found:
        if key not in known:
            raise ValueError(f"{where}: there is no key {key}.{nearest(str(key), known)} There are: {listed(known)}.")
    for key in needed:
        if found.get(key) is None:
            raise ValueError(f"{where}: {key} is missing.")
    return found


def as_list(found: Any, key: str, file: Path) -> list[Any]:
    """A list (ValueError otherwise)."""
    if not isinstance(found, list):
        raise ValueError(f"{file.name}: {key} is a list.")
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """' Did you mean ...?' or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def listed(names: Any) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names))


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
