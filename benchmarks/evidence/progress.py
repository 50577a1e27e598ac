"""How far rows of evidence are, read from their logs, and where it is shown: a terminal or a log file."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HEAD = "==="  # begins the line of a log with which a stage begins
_COUNT = re.compile(r"(test )?(\d+)/(\d+)\b\s*(.*)")  # lines of callbacks.progress


class Status(NamedTuple):
    """How far a stage is."""

    done: int
    total: int  # 0 as long as it has not said anything
    words: str

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 0.0


class Line(NamedTuple):
    """What the display shows of a running job."""

    name: str
    stage: str
    status: Status


class Display(Protocol):
    """Where progress is shown: a terminal, or a log file."""

    def event(self, text: str) -> None:
        """Something that is worth a line of its own."""
        ...

    def show(self, summary: str, share: float, running: Sequence[Line]) -> None:
        """The present state."""
        ...


class Clock:
    """Guesses the time left from what has been done since it was started.

    Args:
        jobs: number of those that have to be done.
    """

    def __init__(self, jobs: int) -> None:
        self._began, self._jobs = time.monotonic(), jobs
        self._first: dict[str, float] = {}  # share of each job when it was first seen: done in an earlier call
        self._done: dict[str, float] = {}

    def look(self, shares: Mapping[str, float]) -> None:
        """Take the shares, 0 to 1, of what is running, by name."""
        for name, share in shares.items():
            self._first.setdefault(name, share)
            self._done[name] = share

    def ended(self, name: str, succeeded: bool) -> None:
        """A job needs no more time; one that failed says nothing about the others."""
        if succeeded:
            self._done[name] = 1.0
        else:
            self._done.pop(name, None)
            self._jobs -= 1

    def left(self) -> str:
        """', 0:12:00 left', or nothing as long as nothing is known."""
        gained = sum(share - self._first.get(name, 0.0) for name, share in self._done.items())
        remaining = self._jobs - sum(self._done.values())
        if gained < 0.01 or remaining <= 0:
            return ""
        seconds = int((time.monotonic() - self._began) / gained * remaining)
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def status(log: Path) -> Status:
    """The last count in a job's log since its present stage began."""
    for line in reversed(tail(log)):
        if line.startswith(HEAD):
            break
        if found := _COUNT.match(line):
            return Status(int(found[2]), int(found[3]), found[4])
    return Status(0, 0, "starting")


def last_words(log: Path) -> str:
    """The last line that says something about an error, else the last line."""
    lines = [line for line in tail(log) if line]
    return next((line for line in reversed(lines) if re.search(r"\b\w*error\b", line, re.I)), lines[-1])


def tail(log: Path) -> list[str]:
    """The last lines of a file, without reading all of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_000))
        return file.read().decode(errors="replace").splitlines()


class Lines:
    """One line for each event, where the output is no terminal."""

    def event(self, text: str) -> None:
        """Print it."""
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    def show(self, summary: str, share: float, running: Sequence[Line]) -> None:
        """Nothing: the events say it."""


class Bars:
    """Live in a terminal: how much is done, and below it a bar for each running job; events go above."""

    def __init__(self, console: Any = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[words]}")
        self._bars = Progress(*columns, console=console, auto_refresh=False)
        self._tasks: dict[str, Any] = {"": self._bars.add_task("all rows", total=1.0, words="")}
        self._shown_at = 0.0

    def event(self, text: str) -> None:
        """Print it above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def show(self, summary: str, share: float, running: Sequence[Line]) -> None:
        """Draw, twice a second at most."""
        if time.monotonic() - self._shown_at < 0.5:
            return
        self._shown_at = time.monotonic()
        self._bars.update(self._tasks[""], completed=share, words=summary)
        for name in self._tasks.keys() - {"", *(line.name for line in running)}:
            self._bars.remove_task(self._tasks.pop(name))
        for line in running:
            if line.name not in self._tasks:
                self._tasks[line.name] = self._bars.add_task(line.name, total=1.0, words="")
            done, total, words = line.status
            count = f"{line.stage} {done}/{total}  {words.partition('   ')[0]}" if total else f"{line.stage} {words}"
            self._bars.update(self._tasks[line.name], completed=line.status.share, words=count)
        self._bars.refresh()

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()
