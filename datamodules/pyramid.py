"""Images in every resolution that a growing model asks for: halved once, kept beside the images in the cache folder.

Nothing is resized while a model trains. The module loads no torch, since render workers import it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from datamodules.cache import rendered
from datamodules.images import load_rgb, verify_images

SMALLEST = 4  # pixels a side, where ProGAN, StyleGAN and ALAE begin
VERSION = 1  # of both functions, raised whenever a pixel changes; part of the cache keys


def pyramid(images: np.memmap, what: str, smallest: int = SMALLEST) -> dict[int, np.memmap]:
    """The images by their resolution, each the 2x2 means of the next larger one.

    Means are cut off to whole bytes, and taken of means that were: so does ALAE's release prepare its data. A level
    is 3/8 of a grey value darker than the one above it, on average.

    Args:
        images: (N, C, S, S) uint8, as ``cache.rendered`` gave them and whole: the name of their file stands for their
            pixels. S is ``smallest`` times a power of two.
        what: short description for messages and for the file names.
        smallest: resolution of the last level.

    Returns:
        Read-only (N, C, s, s) uint8 by s = S, S / 2, ..., ``smallest``.

    Raises:
        ValueError: the images are not square, or cannot be halved to ``smallest``.
        OSError: the cache folder cannot be written or is full.
    """
    count, channels, height, width = images.shape
    if height != width or not can_halve(height, smallest):
        raise ValueError(
            f"Images of {height}x{width} cannot be halved to {smallest}x{smallest}: give squares of {smallest} times a "
            "power of two."
        )
    name, levels, resolution = Path(str(images.filename)).name, {height: images}, height
    while resolution > smallest:
        above, resolution = levels[resolution], resolution // 2
        levels[resolution] = rendered(
            partial(_halved, images=above),
            count,
            (channels, resolution, resolution),
            key={"generator": "pyramid", "version": VERSION, "of": name},
            what=f"{what} halved to {resolution}x{resolution}",
            workers=1,  # to send the images to others would take longer than to halve them
        )
    return levels


def can_halve(size: int, smallest: int = SMALLEST) -> bool:
    """Whether ``size`` is ``smallest`` times a power of two, 1 included."""
    times, rest = divmod(size, smallest)
    return rest == 0 and times > 0 and times & (times - 1) == 0


def squares(files: Sequence[Path], size: int, what: str) -> np.memmap:
    """Photographs as squares, from the cache or new: the largest from the centre of each, in one size.

    What shrinks becomes the mean of areas, what grows is bilinear, as in ``transforms.default_eval``. All files are
    decoded before the first is converted, unless they are known to be sound: nobody waits for hours to learn of a
    broken one. A file that changes counts as another one.

    Args:
        files: as ``images.list_images`` gives them, one or more.
        size: height and width.
        what: short description for messages and for the file name.

    Returns:
        Read-only (N, 3, size, size) uint8.

    Raises:
        ValueError: names the first unreadable file, why, and how many more there are.
        OSError: the cache folder cannot be written or is full.
    """
    verify_images(files, what)
    stats = [(str(file.absolute()), file.stat()) for file in files]
    listing = "\n".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)
    return rendered(
        partial(_square, files=[file for file, _ in stats], size=size),
        len(files),
        (3, size, size),
        key={"generator": "squares", "version": VERSION, "files": hashlib.sha256(listing.encode()).hexdigest()},
        what=f"{what} {size}x{size}",
    )


def _halved(index: int, images: np.ndarray) -> np.ndarray:
    x = images[index].astype(np.uint16)
    x = x[:, ::2] + x[:, 1::2]
    return ((x[:, :, ::2] + x[:, :, 1::2]) // 4).astype(np.uint8)


def _square(index: int, files: Sequence[str], size: int) -> np.ndarray:
    image = load_rgb(files[index])
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # A crop before it is resized: all of what is left counts, and no side has to be rounded.
    cut = np.ascontiguousarray(image[top : top + side, left : left + side])
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(cut, (size, size), interpolation=how).transpose(2, 0, 1))
