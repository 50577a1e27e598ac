"""Re-run the table of a paper's page: ``python -m benchmarks.evidence unit [--seeds 3] [--argument ...]``.

``experiments/_evidence/<paper>.yaml`` lists the rows. Each row is trained once a seed and measured on the test data.
Rows run side by side, one core each. A finished one is kept in ``runs/evidence/<paper>/<hash of the code>`` and
skipped, so that an interrupted call goes on and numbers of other code are never mixed in. Then the table between the
two markers of ``docs/papers/<paper>.md`` is rewritten.
"""

import argparse
import csv
import datetime
import hashlib
import os
import platform
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"


def main(args: list[str] | None = None) -> int:
    """Train and measure what is missing, then rewrite the table; 1 if a row failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("paper")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="rows side by side")
    parser.add_argument("--no-write", action="store_true", help="print the table and leave the page as it is")
    given = parser.parse_args(args)
    listing = ROOT / "experiments" / "_evidence" / f"{given.paper}.yaml"
    if not listing.is_file():
        known = ", ".join(sorted(path.stem for path in listing.parent.glob("*.yaml")))
        sys.exit(
            f"No evidence is listed for {given.paper}: there is no {listing.relative_to(ROOT)}; there are: {known}."
        )
    plan = yaml.safe_load(listing.read_text())
    folder = Path("runs") / "evidence" / given.paper / code_hash()
    jobs = [(row, seed, folder / f"{slug(row['name'])}-{seed}") for row in plan["rows"] for seed in range(given.seeds)]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(lambda job: measure(plan, *job), jobs))
    failed = [run for (_, _, run), result in zip(jobs, results, strict=True) if result is None]
    if failed:
        print(f"{len(failed)} rows failed; their words are in {failed[0]}/log.txt; call again to go on.", flush=True)
        return 1
    scores: dict[str, list[dict[str, float]]] = {row["name"]: [] for row in plan["rows"]}
    for (row, _, _), result in zip(jobs, results, strict=True):
        scores[row["name"]].append(result or {})
    text = table(plan, scores, given.seeds)
    print(text)
    if not given.no_write:
        page = ROOT / "docs" / "papers" / f"{given.paper}.md"
        page.write_text(between_markers(page.read_text(), text))
        print(f"Written to {page.relative_to(ROOT)}.")
    return 0


def measure(plan: dict[str, Any], row: dict[str, Any], seed: int, run: Path) -> dict[str, float] | None:
    """Metrics of one row and seed on the test data, from disk or newly trained; None if a command failed."""
    done = run / "metrics_test.csv"
    if not done.is_file():
        run.mkdir(parents=True, exist_ok=True)
        say(f"{run}: training")
        config = ["--config", f"experiments/{plan['experiment']}.yaml", "--run_dir", str(run)]
        own = [*shlex.split(row["arguments"]), "--data.seed", str(seed), "--seed_everything", str(seed)]
        resume = ["--ckpt_path", "last"] if (run / "checkpoints" / "last.ckpt").is_file() else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        for command in (["fit", *config, *own, *resume], ["test", *config, "--ckpt_path", "last"]):
            with (run / "log.txt").open("a") as log:
                code = subprocess.run(
                    [sys.executable, "main.py", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
                )
            if code.returncode:
                return None
    with done.open() as file:
        last = list(csv.DictReader(file))[-1]
    result = {
        key.removeprefix("test/"): float(value) for key, value in last.items() if key.startswith("test/") and value
    }
    say(f"{run}: {plan['measure']} {result[plan['measure']]:.3f}")
    return result


def code_hash() -> str:
    """Eight digits that change with whatever the numbers depend on: papers, networks, losses, data, measures, YAML."""
    digest = hashlib.sha256()
    for layer in ("datamodules", "experiments", "lightning_modules", "losses", "metrics", "networks"):
        for path in sorted((ROOT / layer).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def say(line: str) -> None:
    """Print a whole line at once: rows run side by side."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(plan: dict[str, Any], scores: dict[str, list[dict[str, float]]], seeds: int) -> str:
    """The Markdown table: mean and standard deviation over seeds, the paper's number, how it was measured."""
    lines = [f"| | ours: {plan['measure'].replace('2', ' to ')} | the paper: {plan['paper']} |", "|---|---|---|"]
    for row in plan["rows"]:
        values = [result[plan["measure"]] for result in scores[row["name"]]]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        lines.append(f"| {row['name']} | {statistics.mean(values):.3f}{spread} | {row['paper']} |")
    for name in plan["references"]:
        lines.append(f"| {name.split('/')[-1].replace('_', ', ')} | {next(iter(scores.values()))[0][name]:.3f} | |")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    how = f"{seeds} seeds, {datetime.date.today()}, commit {commit.strip() or 'unknown'}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"{how}, {processor()}."])


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "an unnamed processor"
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def between_markers(page: str, text: str) -> str:
    """The page with what stands between the two markers replaced (ValueError if they are not there)."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"The page has no place for the table: add a line {BEGIN} and a line {END}.")
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + text + "\n" + page[page.index(END) :]


def slug(name: str) -> str:
    """A name as part of a path."""
    return name.replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
