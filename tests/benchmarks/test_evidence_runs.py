import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import benchmarks.evidence.progress as progress
from benchmarks.evidence.plan import ROOT, Job
from benchmarks.evidence.progress import Bars, Clock, Line, Lines, Status, last_words, status
from benchmarks.evidence.runs import alone_in, places, run_jobs

HERE = [{"OMP_NUM_THREADS": "1"}]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def job(tmp_path: Path, name: str, fit: str = "", test: str = "") -> Job:
    return Job(name, 0, tmp_path / name, {"fit": python(fit), "test": python(test)})


def counted(tmp_path: Path) -> str:
    """Code that notes each of its runs."""
    return f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"


def test_finished_stages_are_skipped_and_interrupted_ones_go_on(tmp_path):
    jobs = [job(tmp_path, name, counted(tmp_path), counted(tmp_path)) for name in ("one", "two")]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "fit.done").touch()
    assert run_jobs(jobs, HERE, Lines()) == []
    assert (tmp_path / "runs").read_text() == "xxx"
    assert [each.missing() for each in jobs] == [[], []]
    assert run_jobs(jobs, HERE, Lines()) == []
    assert (tmp_path / "runs").read_text() == "xxx"


def test_after_a_failure_the_others_finish_and_the_next_call_repeats_it_alone(tmp_path, capsys):
    bad = job(tmp_path, "bad", "raise ValueError('no such photographs')", counted(tmp_path))
    good = job(tmp_path, "good", counted(tmp_path), counted(tmp_path))
    assert run_jobs([bad, good], HERE, Lines()) == [bad]
    assert bad.missing() == ["fit", "test"]
    assert not good.missing()
    lines = [line[10:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "bad, seed 0: fit begins",
        "bad, seed 0: fit FAILED, ValueError: no such photographs (0 of 2 runs done)",
        "good, seed 0: fit begins",
        "good, seed 0: test begins",
        "good, seed 0: finished (1 of 2 runs done)",
    ]
    cured = bad._replace(stages={**bad.stages, "fit": python("")})
    assert run_jobs([cured, good], HERE, Lines()) == []
    assert (tmp_path / "runs").read_text() == "xxx"


def test_nothing_begins_after_the_code_has_changed(tmp_path, capsys):
    changed = tmp_path / "changed"
    first = job(tmp_path, "first", f"open({str(changed)!r}, 'w')", counted(tmp_path))
    second = job(tmp_path, "second", counted(tmp_path))
    with pytest.raises(ValueError, match="The code or the listing changed while rows ran; call again"):
        run_jobs([first, second], HERE, Lines(), unchanged=lambda: not changed.exists())
    assert first.missing() == ["test"]
    assert not (tmp_path / "runs").exists()


def test_jobs_run_side_by_side_each_in_its_place(tmp_path):
    # Each waits for the other: one after the other they would fail.
    meet = """
        import os, pathlib, time
        here = pathlib.Path({folder!r})
        (here / ('at' + os.environ['PLACE'])).touch()
        deadline = time.monotonic() + 20
        while len(list(here.glob('at*'))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    """
    jobs = [job(tmp_path, name, meet.format(folder=str(tmp_path))) for name in ("one", "two")]
    assert run_jobs(jobs, [{"PLACE": "0"}, {"PLACE": "1"}], Lines()) == []


CALLER = """
import signal, sys
from pathlib import Path
from benchmarks.evidence.plan import Job
from benchmarks.evidence.progress import Lines
from benchmarks.evidence.runs import alone_in, run_jobs
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
folder = Path(sys.argv[1])
training = '''
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def save(*_):
    (here / 'saved').touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(here / 'pid').write_text(str(os.getpid()))
(here / 'begun').touch()
time.sleep(60)
'''
place = folder / 'job'
job = Job('row', 0, place, {'fit': [sys.executable, '-c', training, str(place)]})
with alone_in(folder) as lock:
    try:
        run_jobs([job], [{}], Lines(), lock)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def caller(folder: Path) -> subprocess.Popen[str]:
    """A call whose only job trains for a minute unless it is stopped; returns when it has begun."""
    process = subprocess.Popen([sys.executable, "-c", CALLER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait(lambda: (folder / "job" / "begun").exists())
    return process


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_saves_itself(number, tmp_path):
    process = caller(tmp_path)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopping: trainings save themselves" in out
    assert (tmp_path / "job" / "saved").exists()
    assert not (tmp_path / "job" / "fit.done").exists()
    with alone_in(tmp_path):
        pass


def test_nobody_joins_a_training_that_outlives_its_caller(tmp_path):
    process = caller(tmp_path)
    with pytest.raises(ValueError, match="Another make evidence is at work"), alone_in(tmp_path):
        pass
    process.kill()
    process.communicate()
    with pytest.raises(ValueError, match="Another make evidence is at work"), alone_in(tmp_path):
        pass
    os.kill(int((tmp_path / "job" / "pid").read_text()), signal.SIGTERM)
    wait(lambda: (tmp_path / "job" / "saved").exists())


@pytest.mark.parametrize(
    ("gpus", "visible", "number", "expected"),
    [
        (0, None, None, [(None, "1")] * 4),
        (0, None, 2, [(None, "1")] * 2),
        (2, None, None, [("0", "2"), ("1", "2")]),
        (2, "5,7", None, [("5", "2"), ("7", "2")]),
        (1, None, 2, [("0", "2"), ("0", "2")]),
    ],
)
def test_a_core_or_a_gpu_for_each(gpus, visible, number, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = places(number)
    assert [(each.get("CUDA_VISIBLE_DEVICES"), each["OMP_NUM_THREADS"]) for each in found] == expected


def test_the_state_of_a_run_is_read_from_its_log(tmp_path):
    log = tmp_path / "log.txt"

    def after(*lines: str) -> Status:
        with log.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return status(log)

    assert after("=== fit: main.py fit", "Seed set to 0") == (0, 0, "starting")
    assert after("250/1000  5.5 it/s  0:02:00 left   d: a 0.5") == (250, 1000, "5.5 it/s  0:02:00 left   d: a 0.5")
    # A validation in the middle of a fit is no progress of the fit, and moves it not back either.
    assert after("validation 3/100", "500  validation   psnr: a2b 13.5").share == 0.25
    assert after("=== test: main.py test").share == 0
    assert after("test 5/20").share == 0.25


def test_the_last_words_are_the_error(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("=== fit\nerror: There is no folder photos.\n(CROSSFADE_TRACEBACK=1 shows where it was raised.)\n")
    assert last_words(log) == "error: There is no folder photos."
    log.write_text("=== fit\nKilled\n\n")
    assert last_words(log) == "Killed"


def test_the_clock_does_not_count_what_an_earlier_call_did(monkeypatch):
    now = iter([0.0, 60.0, 120.0, 180.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    clock = Clock(3)
    clock.look({"resumed": 0.5, "new": 0.0})
    assert clock.left() == ""
    clock.look({"resumed": 0.75, "new": 0.25})  # half a job in a minute, two are left
    assert clock.left() == ", 0:04:00 left"
    clock.ended("resumed", True)
    clock.look({"new": 0.5})  # a whole one in two, one and a half left
    assert clock.left() == ", 0:03:00 left"
    clock.ended("new", False)  # what failed teaches nothing: half a job in three minutes, one is left
    assert clock.left() == ", 0:06:00 left"


def test_a_terminal_has_a_line_for_each_run_and_one_for_all():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bars(console) as bars:
        one = Line("sharing, seed 0", "fit", Status(250, 1000, "5.5 it/s  0:02:00 left   d: a 0.5"))
        bars.show("1 of 9 runs done, 0:30:00 left", 0.1, [one, Line("both, seed 0", "test", Status(0, 0, "starting"))])
        bars.event("both [seed 1]: fit begins")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 9 runs done, 0:30:00 left" in text
    assert "fit 250/1000  5.5 it/s  0:02:00 left" in text
    assert "d: a" not in text, "terms have no room here"
    assert "test starting" in text
    assert "both [seed 1]: fit begins" in text


def test_lines_of_runs_that_have_ended_go_away(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    bars = Bars(Console(file=io.StringIO()))
    bars.show("", 0.0, [Line("one", "fit", Status(1, 2, "")), Line("two", "fit", Status(1, 2, ""))])
    bars.show("", 0.5, [Line("two", "fit", Status(2, 2, ""))])
    assert list(bars._tasks) == ["", "two"]
