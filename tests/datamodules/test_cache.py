import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from datamodules.cache import cache_folder, rendered

SHAPE = (4, 5, 3)
KEY = {"generator": "test", "version": 1}


def picture(index: int, log: str = "", pause: float = 0.0) -> np.ndarray:
    if log:
        with open(log, "a") as file:
            file.write(f"{index}\n")
    time.sleep(pause)
    return np.full(SHAPE, index % 251, np.uint8)


def broken(index: int) -> np.ndarray:
    if index == 7:
        raise ArithmeticError("image 7 cannot be drawn")
    return picture(index)


def expected(count: int) -> np.ndarray:
    return np.stack([picture(i) for i in range(count)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.glob(f"*.{ending}"))


def start(count: int, log: Path, pause: float) -> subprocess.Popen:
    code = (
        "from functools import partial; from datamodules.cache import rendered;"
        "from tests.datamodules.test_cache import KEY, SHAPE, picture;"
        f"a = rendered(partial(picture, log={str(log)!r}, pause={pause}), {count}, SHAPE, KEY, 'pictures', workers=2);"
        f"assert (a[:, 0, 0, 0] == [i % 251 for i in range({count})]).all()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_renders_once_and_is_read_only(folder, tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        array = rendered(partial(picture, log=str(log)), 10, SHAPE, KEY, "Small pictures 4x5")
        assert isinstance(array, np.memmap)
        assert np.array_equal(array, expected(10))
    assert len(log.read_text().split()) == 11  # ten, and the first one once more as a check
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    assert files(folder, "npy")[0].name.startswith("small-pictures-4x5-")
    assert not files(folder, "part")


def test_workers_give_the_same_in_order(folder, capfd):
    assert np.array_equal(rendered(picture, 301, SHAPE, KEY, "pictures", workers=3), expected(301))
    assert "Rendering pictures, once: 301 images" in capfd.readouterr().err


def test_workers_start_without_torch(folder):
    code = (
        "import sys; from datamodules.cache import rendered; import datamodules.procedural.streets;"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_another_key_count_or_shape_is_another_file(folder):
    rendered(picture, 3, SHAPE, KEY, "pictures")
    rendered(picture, 4, SHAPE, KEY, "pictures")
    rendered(picture, 3, SHAPE, {**KEY, "version": 2}, "pictures")
    rendered(lambda i: picture(i)[:2], 3, (2, 5, 3), KEY, "pictures")
    assert len(files(folder, "npy")) == 4


@pytest.mark.parametrize("damage", [b"", b"no array at all", None, "longer"])
def test_a_damaged_file_is_rendered_again(folder, damage):
    rendered(picture, 5, SHAPE, KEY, "pictures")
    (path,) = files(folder, "npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if damage is None else whole + b"x" if damage == "longer" else damage)
    assert np.array_equal(rendered(picture, 5, SHAPE, KEY, "pictures"), expected(5))
    assert path.read_bytes() == whole


def test_a_killed_render_leaves_no_file_and_blocks_nobody(folder, tmp_path):
    process = start(400, tmp_path / "log", pause=0.02)
    until(lambda: files(folder, "part") and (tmp_path / "log").exists())
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not files(folder, "npy")
    assert files(folder, "part")
    assert np.array_equal(rendered(picture, 400, SHAPE, KEY, "pictures", workers=2), expected(400))
    assert not files(folder, "part")
    # The orphaned workers ended with their pipe: nothing is logged any more.
    until(lambda: _quiet(tmp_path / "log"))


def _quiet(log: Path) -> bool:
    before = log.stat().st_size
    time.sleep(0.2)
    return log.stat().st_size == before


def test_of_two_processes_one_renders(folder, tmp_path):
    log = tmp_path / "log"
    both = [start(250, log, pause=0.004) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(log.read_text().split()) == 251
    assert len(files(folder, "npy")) == 1


def test_a_failing_render_is_reported_and_stores_nothing(folder, capfd):
    with pytest.raises(RuntimeError, match="rendered pictures ended at image 7"):
        rendered(broken, 300, SHAPE, KEY, "pictures", workers=2)
    assert "image 7 cannot be drawn" in capfd.readouterr().err
    with pytest.raises(ArithmeticError, match="image 7"):
        rendered(broken, 10, SHAPE, KEY, "pictures")
    assert not files(folder, "npy")
    assert not files(folder, "part")


def test_a_wrong_image_is_refused(folder):
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) uint8; it was announced as \(4, 5, 1\)"):
        rendered(picture, 5, (4, 5, 1), KEY, "pictures")
    with pytest.raises(ValueError, match="at least 1"):
        rendered(picture, 0, SHAPE, KEY, "pictures")


def test_an_unusable_folder_is_named_with_the_cure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match=r"Cannot store pictures in .*below.* set CROSSFADE_CACHE"):
        rendered(picture, 5, SHAPE, KEY, "pictures")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_with_the_cure(folder, monkeypatch):
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda file, *a, **k: real("/dev/full" if str(file).endswith(".part") else file, *a, **k)
    )
    with pytest.raises(OSError, match=r"Cannot store pictures in .*No space left.*set CROSSFADE_CACHE"):
        rendered(picture, 5, SHAPE, KEY, "pictures")


def test_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("CROSSFADE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/crossfade")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "crossfade"
