"""Runs the commands of many jobs side by side, keeps what is finished, and shows one progress for all of them."""

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from benchmarks.evidence.plan import ROOT, Job
from benchmarks.evidence.progress import HEAD, Clock, Display, Line, last_words, status

LOG = "log.txt"
GRACE = 60.0  # seconds in which an interrupted training may save itself


def places(number: int | None = None) -> list[dict[str, str]]:
    """What to set in the environment of each of the jobs that run at once.

    Args:
        number: of jobs; by default one for each GPU, or for each core where there is none. Several share a GPU if
            there are more jobs than GPUs.
    """
    import torch

    cores, count = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    if not count:
        return [{"OMP_NUM_THREADS": "1"}] * (number or cores)
    allowed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = allowed[:count] or [str(k) for k in range(count)]
    number = number or len(gpus)
    threads = str(max(1, cores // number))
    return [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} for k in range(number)]


class Running:
    """A job at work in one place."""

    def __init__(self, job: Job, place: dict[str, str], lock: IO[str] | None = None) -> None:
        self.job, self.place = job, place
        self._stages, self._lock = job.missing(), lock
        self.begin()

    @property
    def stage(self) -> str:
        """The command that runs now."""
        return self._stages[0]

    @property
    def log(self) -> Path:
        """All that the job's commands say."""
        return self.job.folder / LOG

    def line(self) -> Line:
        """For the display."""
        return Line(self.job.name, self.stage, status(self.log))

    def share(self, line: Line) -> float:
        """How much of the whole job is done, 0 to 1: stages count alike."""
        stages = len(self.job.stages)
        return (stages - len(self._stages) + line.status.share) / stages

    def poll(self) -> bool | None:
        """Whether the present stage has succeeded; None while it runs. Success is noted in the folder."""
        code = self._process.poll()
        if code == 0:
            (self.job.folder / f"{self.stage}.done").touch()
        return None if code is None else code == 0

    def next_stage(self) -> bool:
        """Turn to the next stage, which `begin` starts; False if there is none."""
        self._stages.pop(0)
        return bool(self._stages)

    def ask_to_stop(self) -> None:
        """A training saves itself and ends; what only measures has nothing to save."""
        if self.stage == "fit":
            self._process.terminate()
        else:
            self.kill()

    def wait(self, deadline: float) -> None:
        """Until it has ended, or until it is killed at the deadline."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """At once, with its loading processes."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def begin(self) -> None:
        """Start the present stage."""
        self.job.folder.mkdir(parents=True, exist_ok=True)
        command = self.job.stages[self.stage]
        with self.log.open("a") as log:
            print(f"{HEAD} {self.stage}: {shlex.join(command)}", file=log, flush=True)
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"WANDB_MODE": "disabled"} | self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process alone, which lets trainings save
                pass_fds=[] if self._lock is None else [self._lock.fileno()],
            )


def run_jobs(
    jobs: Sequence[Job],
    at: Sequence[dict[str, str]],
    display: Display,
    lock: IO[str] | None = None,
    unchanged: Callable[[], bool] = lambda: True,
) -> list[Job]:
    """Run what is missing of each job; what has finished is skipped, what was interrupted goes on.

    Args:
        jobs: in the order in which they start.
        at: places, from `places`; one job runs in each at a time.
        display: for progress.
        lock: held by the commands too, so that nobody joins those that outlive a killed caller.
        unchanged: asked before each command whether it would still do what the job's folder says.

    Returns:
        The jobs of which a command failed.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the commands have ended; trainings have saved themselves.
        ValueError: not unchanged; the same.
    """
    waiting = [job for job in jobs if job.missing()]
    finished, total = len(jobs) - len(waiting), len(jobs)
    if finished:
        display.event(f"{finished} of {total} runs are kept from before")
    free, clock, failed = list(at), Clock(len(waiting)), []
    running: list[Running] = []
    with interruptible(), stopping(running, display):
        while waiting or running:
            while waiting and free:
                refuse_other_code(unchanged)
                running.append(Running(waiting.pop(0), free.pop(0), lock))
                display.event(f"{running[-1].job.name}: {running[-1].stage} begins")
            time.sleep(0.1)
            for each in list(running):
                succeeded = each.poll()
                if succeeded is None:
                    continue
                if succeeded and each.next_stage():
                    refuse_other_code(unchanged)
                    each.begin()
                    display.event(f"{each.job.name}: {each.stage} begins")
                    continue
                running.remove(each)
                free.append(each.place)
                clock.ended(each.job.name, succeeded)
                finished += succeeded
                if not succeeded:
                    failed.append(each.job)
                words = "finished" if succeeded else f"{each.stage} FAILED, {last_words(each.log)}"
                display.event(f"{each.job.name}: {words} ({finished} of {total} runs done{clock.left()})")
            lines = [each.line() for each in running]
            shares = {each.job.name: each.share(line) for each, line in zip(running, lines, strict=True)}
            clock.look(shares)
            summary = f"{finished} of {total} runs done{clock.left()}"
            display.show(summary, (finished + sum(shares.values())) / total, lines)
    return failed


def refuse_other_code(unchanged: Callable[[], bool]) -> None:
    """Numbers of two versions of the code must not share a table."""
    if not unchanged():
        raise ValueError("The code or the listing changed while rows ran; call again, and what has changed runs anew.")


@contextmanager
def stopping(running: list[Running], display: Display) -> Iterator[None]:
    """End what runs when an exception passes: trainings save themselves first, if Ctrl-C does not come again."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the terminal may be gone
            display.event("Stopping: trainings save themselves (Ctrl-C ends them at once) ...")
        for each in running:
            each.ask_to_stop()
        deadline = time.monotonic() + GRACE
        for each in running:
            each.wait(deadline)
        raise
    finally:
        for each in running:
            each.kill()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, a scheduler's SIGTERM and a closed terminal are what Ctrl-C is."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone_in(folder: Path) -> Iterator[IO[str]]:
    """Hold a folder's lock, which the system frees when all who hold it have ended.

    Raises:
        ValueError: another call, or what it has left running, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another make evidence is at work in {folder}: wait for it, or end it.") from None
        yield lock
