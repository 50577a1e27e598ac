"""Re-run the evidence of a paper's page: ``python -m benchmarks.evidence unit [--seeds 3] [--budget small]``.

``experiments/_evidence/<paper>.yaml`` lists rows and measures. Each row is trained and measured on the test data once a
seed; as many run side by side as there are GPUs, or cores. Finished runs are kept in ``runs/evidence`` under a hash of
all that they depend on: they are skipped when called again, an interrupted call goes on, and numbers of other code are
never mixed in. When all are there, the part of ``docs/papers/<paper>.md`` between its two markers is rewritten, however
the numbers are. Arguments that this command does not know go to every row's training.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks.evidence.finish import exit_status, finish
from benchmarks.evidence.page import PICTURES, Cards, evidence, page_of, read_cards, write_page
from benchmarks.evidence.picture import draw
from benchmarks.evidence.plan import RUNS, Plan, make_jobs, read_plan
from benchmarks.information_plane import draw_plane, points_of_cards


def main(args: list[str] | None = None) -> int:
    """Run what is missing, then rewrite the page; 1 if a run failed, 2 if the call makes no sense, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__, allow_abbrev=False)
    parser.add_argument("paper")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--budget", default="small", help="one of the listing's: small, or the paper's own")
    parser.add_argument("--jobs", type=int, help="runs side by side; by default one for each GPU, or core")
    parser.add_argument("--no-write", action="store_true", help="print the table and leave the page as it is")
    given, extra = parser.parse_known_args(args)
    return exit_status(lambda: run(given, extra))


def run(given: argparse.Namespace, extra: list[str]) -> int:
    """All of it, see `main`."""
    if given.seeds < 1 or (given.jobs is not None and given.jobs < 1):
        raise ValueError(f"SEEDS and --jobs are 1 or more, not {given.seeds} and {given.jobs}.")
    plan = read_plan(given.paper)
    page = page_of(plan)
    jobs = make_jobs(plan, given.budget, given.seeds, extra)
    finished = finish(
        jobs,
        RUNS / given.paper / given.budget,
        given.jobs,
        lambda: make_jobs(read_plan(given.paper), given.budget, given.seeds, extra),
        so=", so the page stays as it is",
    )
    if not finished:
        return 1
    command = f"make evidence PAPER={plan.paper} SEEDS={given.seeds} BUDGET={given.budget}"
    command += f' ARGS="{shlex.join(extra)}"' if extra else ""
    publish(plan, read_cards(plan, jobs), command, None if given.no_write else page)
    return 0


def publish(plan: Plan, cards: Cards, command: str, page: Path | None) -> None:
    """Print the evidence and, if there is a page, write it there, with the pictures beside it."""
    picture, plane = PICTURES / f"{plan.paper}_evidence.png", PICTURES / f"{plan.paper}_plane.png"
    points = points_of_cards(cards)
    text = evidence(plan, cards, command, f"../pictures/{picture.name}", f"../pictures/{plane.name}" if points else "")
    print(text)
    if page is not None:
        draw(plan, cards, picture)
        if points:
            draw_plane(points, plane)
        write_page(page, plan, text)
        print(f"Written to {os.path.relpath(page)} and {os.path.relpath(picture)}.")


if __name__ == "__main__":
    sys.exit(main())
