"""What commands that stand on many runs share: run what is missing, say what failed, answer with an exit status."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.evidence.plan import Job, check_commands
from benchmarks.evidence.progress import Bars, Lines, last_words
from benchmarks.evidence.runs import LOG, alone_in, places, run_jobs


def exit_status(command: Callable[[], int]) -> int:
    """That of a command; 2 if the call makes no sense, 130 on Ctrl-C."""
    try:
        return command()
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Call again to go on: what has finished is kept, trainings go on where they were.")
        return 130


def finish(
    jobs: Sequence[Job], folder: Path, number: int | None, jobs_now: Callable[[], Sequence[Job]], so: str = ""
) -> bool:
    """Run what is missing of the jobs and print what failed.

    Args:
        jobs: from ``plan.make_jobs``; their folders name code, configuration and arguments.
        folder: whose lock is held meanwhile.
        number: of jobs at once, for ``runs.places``.
        jobs_now: those that the present code and listing lead to.
        so: what follows of a failure, for the message.

    Returns:
        Whether all are finished.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM; trainings have saved themselves.
        ValueError: the command line does not accept a row's arguments, the code changes while rows run, or another
            call is at work in the folder.
    """
    missing = [job for job in jobs if job.missing()]
    with alone_in(folder) as lock:
        if not missing:
            return True
        print(f"{len(missing)} of {len(jobs)} runs to do; their arguments are checked first ...", flush=True)
        check_commands(missing)
        folders = [job.folder for job in jobs]
        with Bars() if sys.stdout.isatty() else contextlib.nullcontext(Lines()) as display:
            failed = run_jobs(
                jobs, places(number), display, lock, lambda: folders == [job.folder for job in jobs_now()]
            )
    for job in failed:
        log = job.folder / LOG
        print(f"{job.name} failed: {last_words(log)}\n  all of it: {os.path.relpath(log)}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed{so}; call again to go on.")
    return not failed
