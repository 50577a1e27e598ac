"""Renders a procedural data set once and keeps it on disk as a memory-mapped array.

The folder is ``$CROSSFADE_CACHE``, else ``$XDG_CACHE_HOME/crossfade``, else ``~/.cache/crossfade``. Any file in it may
be deleted at any time: what is missing is rendered again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from rich.console import Console
from rich.progress import track

Render = Callable[[int], np.ndarray]

_FEW = 200  # below this many images, starting worker processes takes longer than the rendering
_WORK = "from datamodules.cache import _work; _work()"


def cache_folder() -> Path:
    """The folder of all cached renders; it need not exist yet."""
    if os.environ.get("CROSSFADE_CACHE"):
        return Path(os.environ["CROSSFADE_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crossfade"


def rendered(
    render: Render,
    count: int,
    shape: tuple[int, ...],
    key: Mapping[str, str | int | float],
    what: str,
    workers: int | None = None,
) -> np.memmap:
    """The array of ``render(0)`` to ``render(count - 1)``, from the cache if it is there.

    Several processes may ask for the same array at once: one renders, the others wait for it. A process that is killed
    leaves nothing behind that a later one would read.

    Args:
        render: gives image i. Its module must not be ``__main__`` and should import quickly (no torch), as every
            worker imports it anew; `functools.partial` of a function is fine.
        count: number of images, >= 1.
        shape: of one image.
        key: all that the pixels depend on: the generator's name, its version and settings.
        what: short description for messages and for the file name, such as ``"streets day 64x64"``.
        workers: processes that render; by default one per available core.

    Returns:
        Read-only (count, *shape) uint8.

    Raises:
        ValueError: if ``count`` < 1, or ``render`` gives another shape or type, or cannot be sent to workers.
        OSError: if the folder cannot be written or is full.
        RuntimeError: if a worker fails.
    """
    if count < 1:
        raise ValueError(f"There is nothing to render: {what} has a count of {count}; it must be at least 1.")
    path = cache_folder() / _name(count, shape, key, what)
    array = _opened(path, count, shape)
    if array is not None:
        return array
    with _locked(path, what):
        array = _opened(path, count, shape)  # another process may have finished while this one waited
        if array is None:
            _check(render(0), shape, what)
            _store(path, _images(render, count, shape, what, workers), count, shape, what)
            array = _opened(path, count, shape)
    if array is None:
        raise OSError(f"{path} cannot be read back; set CROSSFADE_CACHE to a folder on a sound disk.")
    return array


def _name(count: int, shape: tuple[int, ...], key: Mapping[str, str | int | float], what: str) -> str:
    text = json.dumps([sorted(key.items()), count, shape])
    readable = re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy"


def _opened(path: Path, count: int, shape: tuple[int, ...]) -> np.memmap | None:
    """The stored array, or None if it is missing, cut short or not what was asked for."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(array, np.memmap) or array.shape != (count, *shape) or array.dtype != np.uint8:
        return None
    return array if path.stat().st_size == array.offset + array.nbytes else None


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of one cache file; the system frees it when the process ends, however it ends.

    The lock file stays, empty: if it were removed, a process that still waits for it would hold another file's lock.
    """
    with _storing(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_suffix(".lock"), "w")  # noqa: SIM115 (closed below)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process that renders {what} ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        file.close()


@contextmanager
def _storing(folder: Path, what: str) -> Iterator[None]:
    """Turn any failure to write into one sentence that names the folder and the cure."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"Cannot store {what} in {folder} ({error.strerror or error}): "
            "free or unlock that folder, or set CROSSFADE_CACHE to another one."
        ) from error


def _store(path: Path, images: Iterator[bytes], count: int, shape: tuple[int, ...], what: str) -> None:
    """Write a temporary file and rename it, so that the final name only ever holds a whole array.

    Plain writes rather than a memory map: on a full disk they raise, where a memory map ends the process.
    """
    for stale in path.parent.glob(f"{path.stem}.*.part"):  # left by killed processes, as this one has the lock
        stale.unlink(missing_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    try:
        with _storing(path.parent, what):
            with open(part, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.writelines(images)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _images(render: Render, count: int, shape: tuple[int, ...], what: str, workers: int | None) -> Iterator[bytes]:
    """The bytes of all images in order, with a progress bar, or one line where there is no terminal."""
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if count < _FEW or workers == 1:
        images: Iterator[bytes] = (_check(render(i), shape, what) for i in range(count))
    else:
        images = _in_parallel(render, count, shape, what, workers)
    console, title = Console(stderr=True), f"Rendering {what}, once"
    if console.is_terminal:
        return iter(track(images, title, total=count, console=console))
    if count >= _FEW:
        print(f"{title}: {count} images into {cache_folder()}", file=sys.stderr, flush=True)
    return images


def _in_parallel(render: Render, count: int, shape: tuple[int, ...], what: str, workers: int) -> Iterator[bytes]:
    """Images from worker processes, each of which renders every ``workers``-th one into its pipe.

    Not `multiprocessing`: its fresh processes import the main script again, and with it torch, and they outlive a
    killed parent. These end with their pipe.
    """
    if getattr(getattr(render, "func", render), "__module__", None) == "__main__":
        raise ValueError(f"The function that renders {what} must be in a module that workers can import, not __main__.")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    command, pipe = [sys.executable, "-c", _WORK], subprocess.PIPE
    running: list[subprocess.Popen[bytes]] = []
    try:
        for first in range(workers):
            running.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment))
            stdin = _pipe(running[-1].stdin)
            pickle.dump((render, range(first, count, workers), shape, what), stdin)
            stdin.close()
        size = int(np.prod(shape))
        for i in range(count):
            image = _pipe(running[i % workers].stdout).read(size)
            if len(image) != size:
                raise RuntimeError(f"A process that rendered {what} ended at image {i}; its message is above.")
            yield image
    finally:
        for process in running:
            process.kill()
            process.wait()
            _pipe(process.stdout).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all are opened with PIPE
    return stream


def _work() -> None:
    """The whole life of a worker process: read the task, write the images, end when nobody reads them."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the parent, which ends this process
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    cv2.setNumThreads(0)
    render, indices, shape, what = pickle.load(sys.stdin.buffer)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that a print in `render` cannot get among the pixels
    for i in indices:
        output.write(_check(render(i), shape, what))
        output.flush()


def _check(image: np.ndarray, shape: tuple[int, ...], what: str) -> bytes:
    """The bytes of an image of the promised shape and type."""
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"An image of {what} is {image.shape} {image.dtype}; it was announced as {shape} uint8.")
    return image.tobytes()
