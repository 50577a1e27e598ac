"""Scores against one argument, over seeds.

    python -m benchmarks.sweep beta_vae_sprites --of model.beta --values 1,2,4 [--seeds 3]

Every value is trained and measured on the test data once a seed, side by side as `benchmarks.evidence` does it:
finished runs are kept in ``runs/sweeps`` under a hash of all that they depend on, an interrupted call goes on, and of a
longer list of values only the new ones are run. Beside the runs stand ``sweep.png``, a curve for each score,
``plane.png``, rate and distortion of variational models, and ``sweep.csv``, a line for each run. Arguments that this
command does not know go to every training.
"""

import argparse
import csv
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.finish import exit_status, finish
from benchmarks.evidence.page import Cards, read_cards, table
from benchmarks.evidence.picture import draw
from benchmarks.evidence.plan import (
    EVALUATIONS,
    ROOT,
    Budget,
    Job,
    Measure,
    Plan,
    Row,
    listed,
    make_jobs,
    nearest,
    slug,
)
from benchmarks.information_plane import draw_plane, points_of_cards
from metrics.better import better_end

SWEEPS = ROOT / "runs" / "sweeps"


def main(args: list[str] | None = None) -> int:
    """Run what is missing, then draw; 1 if a run failed, 2 if the call makes no sense, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiment")
    parser.add_argument("--of", required=True, help="argument of the command line, such as model.beta")
    parser.add_argument("--values", required=True, help="numbers, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each value")
    parser.add_argument("--evaluation", default="disentanglement", help="of experiments/_evaluation")
    parser.add_argument("--measures", default="", help="keys of the card, separated by commas; by default every score")
    parser.add_argument("--jobs", type=int, help="runs side by side; by default one for each GPU, or core")
    given, extra = parser.parse_known_args(args)
    return exit_status(lambda: run(given, extra))


def run(given: argparse.Namespace, extra: list[str]) -> int:
    """All of it, see `main`."""
    if given.seeds < 1 or (given.jobs is not None and given.jobs < 1):
        raise ValueError(f"SEEDS and --jobs are 1 or more, not {given.seeds} and {given.jobs}.")
    plan, budget = sweep(given.experiment, given.of, numbers(given.values), given.evaluation), slug(given.of)
    folder = SWEEPS / plan.paper / budget

    def jobs_now() -> list[Job]:
        return make_jobs(plan, budget, given.seeds, extra, SWEEPS)

    jobs = jobs_now()
    if not finish(jobs, folder, given.jobs, jobs_now):
        return 1
    publish(plan, read_cards(plan, jobs), given.measures, folder)
    return 0


def sweep(experiment: str, of: str, values: Sequence[float], evaluation: str) -> Plan:
    """What is run: a row for each value, without measures yet, which finished runs name.

    Raises:
        FileNotFoundError: there is no such experiment or evaluation.
    """
    for folder, name in ((ROOT / "experiments", experiment), (EVALUATIONS, evaluation)):
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        if name not in known:
            raise FileNotFoundError(f"There is no {folder.name}/{name}.yaml.{nearest(name, known)}")
    rows = tuple(Row(f"{of} {x:g}", f"--{of} {x:g}", at=x) for x in values)
    return Plan(experiment, {slug(of): Budget(experiment, evaluation=evaluation)}, (), (), rows, axis=of)


def numbers(text: str) -> list[float]:
    """``1,2,4`` (ValueError for anything else, or for one value twice)."""
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"VALUES are numbers separated by commas, such as 1,2,4, not {text!r}.") from None
    if not values or len(set(values)) < len(values):
        raise ValueError(f"VALUES are one number or more, each once, not {text!r}.")
    return values


def publish(plan: Plan, cards: Cards, keys: str, folder: Path) -> None:
    """Print the table, write the picture and the numbers."""
    plan = Plan(plan.paper, plan.budgets, measures(cards, keys), (), plan.rows, plan.axis)
    print(table(plan, cards))
    draw(plan, cards, folder / "sweep.png")
    if points := points_of_cards(cards):
        draw_plane(points, folder / "plane.png")
    temporary = folder / f".sweep.csv.{os.getpid()}.tmp"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([plan.axis, "seed", *(measure.key for measure in plan.measures)])
        for row in plan.rows:
            for seed, card in enumerate(cards[row.name]):
                found = [card["metrics"].get(measure.key, {}).get("value", "") for measure in plan.measures]
                writer.writerow([f"{row.at:g}", seed, *found])
    os.replace(temporary, folder / "sweep.csv")
    print(f"Curves: {relative(folder / 'sweep.png')}; numbers: {relative(folder / 'sweep.csv')}.")


def measures(cards: Cards, keys: str) -> tuple[Measure, ...]:
    """Those that were asked for, or all that cards have and that do not stand for a model-free row (ValueError)."""
    known = list(dict.fromkeys(key for each in cards.values() for card in each for key in card["metrics"]))
    chosen = [key for key in keys.split(",") if key] or known
    for key in chosen:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.3)
            raise ValueError(f"No card has {key}; the nearest are: {listed(near)}.")
    return tuple(Measure(key, key, better_end(key.partition("/")[0])) for key in chosen)


def relative(path: Path) -> str:
    """A path for messages."""
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
