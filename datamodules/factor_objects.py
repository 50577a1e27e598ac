"""Published photographs of objects with known factors, smallNORB and Cars3D, from files that the user has.

Sources of ``factors.FactorDataModule``, as those of ``factor_files``. Nothing is fetched; images are converted once
into the cache folder.
"""

import struct
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.cache import rendered
from datamodules.factor_files import codes_of, sum_of
from datamodules.factor_grid import checked, index_of


class SmallNORB:
    """The published smallNORB: 48,600 images of 50 toys, the left one of each stereo pair.

    Factors are category, instance, elevation, azimuth and lighting. An instance is one of ten toys of its category:
    instance 3 of one category has nothing to do with instance 3 of another, and studies leave this factor out.

    Args:
        folder: with the six files ``smallnorb-*-training-*.mat`` and ``smallnorb-*-testing-*.mat`` of dat, cat and
            info, unpacked. They are converted once into the cache.
        size: height and width to which images are brought by the mean of areas; published: 96.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: one is not of this format, or the images are no whole grid.
    """

    names = ("category", "instance", "elevation", "azimuth", "lighting")

    def __init__(self, folder: str, size: int = 64) -> None:
        self.size, self.image_shape = size, (1, size, size)
        parts = [[_norb_file(Path(folder), part, kind) for kind in _NORB] for part in ("training", "testing")]
        for dat, cat, info in parts:
            shapes = [_norb(path).shape for path in (dat, cat, info)]
            n, side = shapes[0][0], shapes[0][-1]
            if shapes != [(n, 2, side, side), (n,), (n, 4)]:
                raise ValueError(
                    f"{dat}, cat and info are {shapes}, where smallNORB has (N, 2, 96, 96), (N,) and (N, 4)."
                )
        self._dats = tuple(dat for dat, _, _ in parts)
        values = np.concatenate([np.column_stack((_norb(cat), _norb(info))) for _, cat, info in parts])
        codes, self.sizes = codes_of(values)
        place = index_of(codes, self.names, self.sizes)
        self._order = np.argsort(place)
        if not np.array_equal(place[self._order], np.arange(np.prod(self.sizes))):
            raise ValueError(
                f"{folder} has {len(place)} images of smallNORB for {int(np.prod(self.sizes))} combinations of its "
                "factors: each must be there once."
            )

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 1, size, size) uint8, the image of each row of factors."""
        return np.asarray(self._rows[index_of(factors, self.names, self.sizes)])

    def fingerprint(self) -> str:
        """The files by the sums of their bytes."""
        return f"smallNORB {' '.join(map(sum_of, self._dats))}, {zlib.crc32(self._order.tobytes()):08x}, {self.size}"

    @cached_property
    def _rows(self) -> np.ndarray:
        return rendered(
            partial(_norb_image, dats=self._dats, order=self._order, size=self.size),
            len(self._order),
            self.image_shape,
            key={"file": self.fingerprint()},
            what=f"smallNORB {self.size}x{self.size}",
        )


class Cars3D:
    """The published Cars3D: 183 cars under 4 elevations and 24 azimuths, 17,568 images of 128x128.

    Args:
        folder: with one ``.mat`` file a car, of which ``im`` is (H, W, 3, azimuths, elevations) uint8. Cars are in the
            order of the files' names. They are converted once into the cache.
        size: height and width to which images are brought by the mean of areas; published: 128.

    Raises:
        FileNotFoundError: there is no folder, or no such file in it.
        ValueError: a file is not of this format, or of another shape than the first.
    """

    names = ("elevation", "azimuth", "object")

    def __init__(self, folder: str, size: int = 64) -> None:
        self.size, self.image_shape = size, (3, size, size)
        self._files = tuple(sorted(Path(folder).expanduser().glob("*.mat")))
        if not self._files:
            raise FileNotFoundError(f"There is no .mat file in {folder}: give the folder of Cars3D's files, one a car.")
        height, width, _, azimuths, elevations = self._shape = _car(self._files[0]).shape
        if height != width:
            raise ValueError(f"{self._files[0]}: images are {width}x{height}, where those of Cars3D are square.")
        self.sizes = (elevations, azimuths, len(self._files))

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 3, size, size) uint8, the image of each row of factors."""
        elevation, azimuth, car = checked(factors, self.names, self.sizes).T
        return np.asarray(self._rows[(car * self.sizes[1] + azimuth) * self.sizes[0] + elevation])

    def fingerprint(self) -> str:
        """The files by the sums of their bytes."""
        sums = zlib.crc32(" ".join(map(sum_of, self._files)).encode())
        return f"Cars3D {len(self._files)} files, {sums:08x}, {self.size}"

    @cached_property
    def _rows(self) -> np.ndarray:
        """(cars * azimuths * elevations, 3, size, size): car by car, so that a file is opened once."""
        return rendered(
            partial(_car_image, files=self._files, shape=self._shape, size=self.size),
            int(np.prod(self.sizes)),
            self.image_shape,
            key={"file": self.fingerprint()},
            what=f"Cars3D {self.size}x{self.size}",
        )


_NORB = ("dat", "cat", "info")
# The first number of a file says of what type its values are.
_NORB_TYPES: dict[int, np.dtype[Any]] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}


def _norb_file(folder: Path, part: str, kind: str) -> Path:
    found = sorted(folder.expanduser().glob(f"*{part}-{kind}.mat"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"There {'are' if found else 'is'} {len(found) or 'no'} *{part}-{kind}.mat in {folder}: give the folder of "
            "smallNORB's six files, unpacked by gunzip."
        )
    return found[0]


@lru_cache(maxsize=8)
def _norb(path: Path) -> np.ndarray:
    """A matrix of NORB's own format where it lies: type, number of dimensions, at least three sizes, values."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        magic, dimensions = struct.unpack("<2I", head) if len(head) == 8 else (0, 0)
        if magic not in _NORB_TYPES or not 1 <= dimensions <= 4:
            raise ValueError(f"{path} is no matrix of NORB's format: unpack the published file by gunzip.")
        stored = max(3, dimensions)
        shape = struct.unpack(f"<{stored}I", file.read(4 * stored).ljust(4 * stored, b"\0"))[:dimensions]
        offset = file.tell()
    if size != offset + _NORB_TYPES[magic].itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} has {size} bytes, which do not make {shape}: fetch it again.")
    return np.memmap(path, _NORB_TYPES[magic], "r", offset, shape)


def _norb_image(index: int, dats: Sequence[Path], order: np.ndarray, size: int) -> np.ndarray:
    """(1, size, size) uint8, the left picture of the pair at a place of the grid."""
    first, row = _norb(dats[0]), int(order[index])
    left = first[row, 0] if row < len(first) else _norb(dats[1])[row - len(first), 0]
    return _resized(left, size)[None]


@lru_cache(maxsize=1)
def _car(path: Path) -> np.ndarray:
    """(H, W, 3, azimuths, elevations) uint8."""
    from scipy.io import loadmat

    try:
        image = loadmat(path, variable_names=["im"]).get("im")
    except Exception as error:  # of many kinds, by where a file is broken
        raise ValueError(f"Cannot read {path} ({error}): fetch it again or remove it.") from error
    if image is None or image.dtype != np.uint8 or image.ndim != 5 or image.shape[2] != 3:
        what = "no im" if image is None else f"im of {image.dtype} {image.shape}"
        raise ValueError(f"{path} has {what}, where a file of Cars3D has uint8 (128, 128, 3, 24, 4).")
    return image


def _car_image(index: int, files: Sequence[Path], shape: tuple[int, ...], size: int) -> np.ndarray:
    """(3, size, size) uint8: elevations of an azimuth, azimuths of a car, cars."""
    row, elevation = divmod(index, shape[4])
    number, azimuth = divmod(row, shape[3])
    car = _car(files[number])
    if car.shape != shape:
        raise ValueError(f"{files[number]} is {car.shape}, but {files[0]} is {shape}: fetch it again or remove it.")
    return np.ascontiguousarray(_resized(car[..., azimuth, elevation], size).transpose(2, 0, 1))


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=cv2.INTER_AREA)
