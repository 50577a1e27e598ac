"""Photos from disk: find them, check every one before training starts, read them as RGB.

A file that decodes today is remembered by path, size and time of change, so only the first start
over a folder pays for decoding it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datamodules.cache import cache_folder

BAR_FROM = 200  # files; decoding fewer takes no longer than reading about it
Size = tuple[int, int]  # height, width


def list_images(source: str | Path) -> list[Path]:
    """The images of a folder (with its subfolders, sorted) or of a list file (in its order).

    In a folder, files whose ending Pillow cannot open and hidden files are passed over. A list file
    ends in ``.txt`` and has one path per line, relative to itself; empty lines are skipped.

    Raises:
        FileNotFoundError: ``source`` or a file of the list does not exist.
        ValueError: there is no image.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        return _walk(source)
    if source.is_file() and source.suffix == ".txt":
        return _read_list(source)
    if source.is_file():
        raise ValueError(f"{source} is a file: give a folder of images or a .txt file with one path per line.")
    raise FileNotFoundError(f"There is no folder or list file {source}: correct the path or create it.")


def _walk(folder: Path) -> list[Path]:
    Image.init()
    readable = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    # Files that begin with a dot include the "._photo.jpg" that macOS leaves beside every photo.
    files = [f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")]
    images = [f for f in files if f.suffix.lower() in readable]
    if not images:
        others = f" among its {len(files)} file(s), such as {min(files).name}" if files else ": it is empty"
        raise ValueError(f"{folder} holds no image{others}; put the images there or correct the path.")
    return sorted(images, key=lambda f: f.relative_to(folder).as_posix())


def _read_list(listing: Path) -> list[Path]:
    lines = enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1)
    files = [(number, listing.parent / line.strip()) for number, line in lines if line.strip()]
    if not files:
        raise ValueError(f"{listing} lists no image: write one path per line, relative to the list file.")
    for number, file in files:
        if not file.is_file():
            raise FileNotFoundError(f"Line {number} of {listing} names {file}, which does not exist.")
    return [file for _, file in files]


def load_rgb(path: str | Path) -> np.ndarray:
    """Read any image that Pillow opens, upright as its EXIF tag says.

    Grey becomes three equal channels; transparency is laid over white; 16-bit grey is scaled by
    1/257 and rounded (Pillow alone would clip it at 255); of an animation comes the first frame.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the file cannot be read or decoded to its end.
    """
    try:
        # As an open file: by path, Pillow 13 maps a plain TIFF into memory and scrambles it where it is rotated.
        with open(path, "rb") as file, Image.open(file) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
    # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ValueError(
            f"Cannot read image {path} ({error or type(error).__name__}): replace the file or remove it."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating point pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("its pixels are beyond 16 bits; save it with 8 or 16 bits")
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def verify_images(files: Sequence[Path], what: str) -> list[Size]:
    """Decode every file that is not known to be sound, in threads.

    Args:
        files: as ``list_images`` gives them.
        what: name of the set, for the progress bar.

    Returns:
        Height and width of each image, as ``load_rgb`` would give it.

    Raises:
        ValueError: names the first unreadable file, why, and how many more there are.
    """
    known = _Verified(files)
    pending = [file for file in files if file not in known]
    bad: list[tuple[Path, str]] = []
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for file, result in zip(pending, _progress(pool.map(_decode, pending), len(pending), what), strict=True):
                if isinstance(result, str):
                    bad.append((file, result))
                else:
                    known.add(file, result)
    finally:  # an interrupted first start keeps what it has checked
        known.save()
    if bad:
        more = f" The same goes for {len(bad) - 1} more: {_names(bad[1:])}." if len(bad) > 1 else ""
        raise ValueError(bad[0][1] + more)
    return [known.size(file) for file in files]


def _names(bad: Sequence[tuple[Path, str]], limit: int = 5) -> str:
    return ", ".join(str(file) for file, _ in bad[:limit]) + (", ..." if len(bad) > limit else "")


def _decode(file: Path) -> Size | str:
    """Height and width, or the sentence that says what is wrong."""
    try:
        height, width, _ = load_rgb(file).shape
    except ValueError as error:
        return str(error)
    return height, width


def _progress(results: Iterable[Size | str], total: int, what: str) -> Iterable[Size | str]:
    if total <= BAR_FROM:
        return results
    from rich.progress import track

    return track(results, description=f"Checking {total} images of {what}", total=total)


class _Verified:
    """What is known of some files, kept in one small JSON file per common folder in the cache folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stamps = {file: self._stamp(file) for file in files}
        home = os.path.commonpath([file.absolute().parent for file in files])
        self._path = cache_folder() / "verified" / f"{hashlib.sha256(home.encode()).hexdigest()[:16]}.json"
        self._changed = False
        try:  # path -> [bytes, time of change in ns, height, width]
            self._records: dict[str, list[int]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._records = {}

    @staticmethod
    def _stamp(file: Path) -> list[int]:
        stat = file.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def __contains__(self, file: Path) -> bool:
        return self._records.get(str(file.absolute()), [])[:2] == self._stamps[file]

    def size(self, file: Path) -> Size:
        height, width = self._records[str(file.absolute())][2:]
        return height, width

    def add(self, file: Path, size: Size) -> None:
        self._records[str(file.absolute())] = [*self._stamps[file], *size]
        self._changed = True

    def save(self) -> None:
        """Write what was added; a cache that cannot be written only costs time at the next start."""
        if not self._changed:
            return
        part = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._records), encoding="utf-8")
            os.replace(part, self._path)
        except OSError:
            # The folder itself may be what cannot be written, so removing the part may fail as well.
            with contextlib.suppress(OSError):
                part.unlink()
