"""Published images with known factors, from files that the user has; sources of ``factors.FactorDataModule``.

Nothing is fetched. What a format lets lie where it is is read from there; the rest is converted once into the cache
folder.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache import rendered
from datamodules.factor_grid import factors_of, index_of


class DSprites:
    """The published dSprites, ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz``: factors as ``Sprites``.

    Args:
        path: of the file, with arrays ``imgs``, (N, H, W) uint8 of 0 and 1, and ``latents_classes``, (N, 6), of which
            the first column, the colour, never varies. Published N is 737,280. Where the images are compressed, as
            published, they are unpacked once into the cache, eight pixels a byte: 0.4 GB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, lacks an array, or its images are not in the order of the grid.
    """

    names = ("shape", "scale", "orientation", "position x", "position y")

    def __init__(self, path: str) -> None:
        self.path = _existing(path)
        self._member = _Member(self.path, "imgs")
        classes = _Member(self.path, "latents_classes").whole()
        if classes.ndim != 2 or classes.shape[1] != 6:
            raise ValueError(f"{path}: latents_classes is {classes.shape}, where dSprites has 6 columns.")
        self.sizes = _grid_of(self.path, "latents_classes", classes[:, 1:])
        _check(self.path, "imgs", self._member, (len(classes), None, None))
        self.image_shape = (1, *self._member.shape[1:])

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 1, H, W) uint8, 0 or 255, the image of each row of factors."""
        rows = self._rows[index_of(factors, self.names, self.sizes)]
        if rows.ndim == 2:  # packed
            rows = np.unpackbits(rows, axis=1, count=int(np.prod(self.image_shape))).reshape(-1, *self.image_shape[1:])
        elif rows.size and rows.max() > 1:
            raise ValueError(f"{self.path}: imgs goes up to {rows.max()}, where dSprites has 0 and 1.")
        return (rows * np.uint8(255))[:, None]

    def fingerprint(self) -> str:
        """The file by the sum of its pixels' bytes."""
        return f"dSprites {self._member.fingerprint()}"

    @cached_property
    def _rows(self) -> np.ndarray:
        mapped = self._member.mapped()
        if mapped is not None:
            return mapped
        packed = -(-int(np.prod(self.image_shape)) // 8)
        return self._member.unpacked(partial(_packed, self.path), (packed,), "dSprites unpacked")


class Shapes3D:
    """The published 3D Shapes, ``3dshapes.h5``: 480,000 images of 64x64.

    Args:
        path: of the file, with data sets ``images``, (N, H, W, 3) uint8, and ``labels``, (N, 6). The images, which lie
            compressed in blocks of many, are unpacked once into the cache: 5.9 GB.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: without h5py.
        ValueError: it is no such file, lacks a data set, or its images are not in the order of the grid.
    """

    names = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")

    def __init__(self, path: str) -> None:
        self.path = _existing(path)
        with _hdf5(self.path) as file:
            for name in ("images", "labels"):
                if name not in file:
                    raise ValueError(f"{path} has no data set {name}; it holds {', '.join(file) or 'none'}.")
            labels = file["labels"][:]
            if labels.ndim != 2 or labels.shape[1] != 6:
                raise ValueError(f"{path}: labels is {labels.shape}, where 3D Shapes has 6 columns.")
            self.sizes = _grid_of(self.path, "labels", labels)
            _check(self.path, "images", file["images"], (len(labels), None, None, 3))
            height, width = file["images"].shape[1:3]
        self.image_shape = (3, height, width)

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) uint8, the image of each row of factors."""
        return np.asarray(self._rows[index_of(factors, self.names, self.sizes)])

    def fingerprint(self) -> str:
        """The file by the sum of its bytes."""
        return f"3D Shapes {sum_of(self.path)}"

    @cached_property
    def _rows(self) -> np.ndarray:
        what, block, first = "3D Shapes unpacked", np.empty(0), 0
        with _hdf5(self.path) as file:

            def row(index: int) -> np.ndarray:
                nonlocal block, first
                if not first <= index < first + len(block):
                    first = index
                    block = file["images"][first : first + 1024].transpose(0, 3, 1, 2)
                return block[index - first]

            key = {"file": what, "sum": sum_of(self.path)}
            count = int(np.prod(self.sizes))
            return rendered(row, count, self.image_shape, key, what, workers=1)  # an open file is no other process's


class MPI3D:
    """A published file of MPI3D, such as ``mpi3d_toy.npz`` or ``mpi3d_real.npz``: 1,036,800 images of 64x64.

    Args:
        path: of the file, with an array ``images``, (N, H, W, 3) uint8. Where it is compressed, it is unpacked once
            into the cache, 12.7 GB; published files are not.
        sizes: of the factors; of ``mpi3d_real_complex.npz``, (4, 4, 2, 3, 3, 40, 40).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, lacks the array, or does not have as many images as the sizes say.
    """

    names = (
        "object colour",
        "object shape",
        "object size",
        "camera height",
        "background colour",
        "horizontal axis",
        "vertical axis",
    )

    def __init__(self, path: str, sizes: tuple[int, ...] = (6, 6, 2, 3, 3, 40, 40)) -> None:
        self.path, self.sizes = _existing(path), tuple(sizes)
        if len(self.sizes) != len(self.names):
            raise ValueError(f"sizes is {self.sizes}: give one for each of {', '.join(self.names)}.")
        self._member = _Member(self.path, "images")
        _check(self.path, "images", self._member, (int(np.prod(self.sizes)), None, None, 3))
        self.image_shape = (3, *self._member.shape[1:3])

    def images(self, factors: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) uint8, the image of each row of factors."""
        return _planes(self._rows[index_of(factors, self.names, self.sizes)])

    def fingerprint(self) -> str:
        """The file by the sum of its pixels' bytes."""
        return f"MPI3D {self._member.fingerprint()}"

    @cached_property
    def _rows(self) -> np.ndarray:
        mapped = self._member.mapped()
        if mapped is not None:
            return mapped
        return self._member.unpacked(np.asarray, self._member.shape[1:], "MPI3D unpacked")


class _Member:
    """One array of an ``.npz`` file, of which rows can be read without the others.

    Args:
        path: of the file.
        name: of the array.

    Raises:
        ValueError: it is no such file, or has no such array in the usual order.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with zipfile.ZipFile(path) as archive:
                held = [each.removesuffix(".npy") for each in archive.namelist()]
                if name not in held:
                    raise ValueError(f"{path} has no array {name}; it holds {', '.join(held) or 'none'}.")
                self._info = archive.getinfo(f"{name}.npy")
            with self._opened() as stream:
                self.shape, fortran, self.dtype = _npy_header(stream)
                self._start = stream.tell()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no .npz file, or not whole ({error}): fetch it again.") from error
        if fortran or self.dtype.hasobject:
            raise ValueError(f"{path}: array {name} is of objects or has its first index fastest; save it anew.")

    def whole(self) -> np.ndarray:
        """All of the array, in memory."""
        with self._opened() as stream:
            stream.seek(self._start)
            return np.frombuffer(stream.read(), self.dtype).reshape(self.shape)

    def mapped(self) -> np.memmap | None:
        """The array where it lies in the file, read-only; None where it is compressed."""
        if self._info.compress_type != zipfile.ZIP_STORED:
            return None
        with open(self.path, "rb") as file:
            file.seek(self._info.header_offset)
            name, extra = struct.unpack("<26x2H", file.read(30))  # a local header, whose last two numbers are lengths
        offset = self._info.header_offset + 30 + name + extra + self._start
        return np.memmap(self.path, self.dtype, "r", offset, self.shape)

    def unpacked(self, convert: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], what: str) -> np.memmap:
        """All rows, each converted to uint8 of a shape, from the cache or new; read once, from first to last."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with self._opened() as stream:

            def row(index: int) -> np.ndarray:
                stream.seek(self._start + index * size)
                return convert(np.frombuffer(stream.read(size), self.dtype).reshape(self.shape[1:]))

            key = {"file": what, "array": self.fingerprint()}
            return rendered(row, self.shape[0], shape, key, what, workers=1)

    def fingerprint(self) -> str:
        """Shape of the array and the sum that the file has of its bytes."""
        return f"{self.name} {self.shape} {self._info.CRC:08x}"

    def _opened(self) -> Any:
        return zipfile.ZipFile(self.path).open(self._info)


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index is the fastest, and type; the stream then is at the first value."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _packed(path: Path, image: np.ndarray) -> np.ndarray:
    """(ceil(H W / 8),) uint8, an image of 0 and 1 with eight pixels a byte."""
    if image.max() > 1:
        raise ValueError(f"{path}: imgs goes up to {image.max()}, where dSprites has 0 and 1.")
    return np.packbits(image)


def _planes(rows: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, C, H, W), in memory of its own."""
    return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"There is no file {path}: correct the path, or fetch the data set.")
    return found


def _check(path: Path, name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    """Refuse an array of images of another shape or type; None stands for any number."""
    fits = len(array.shape) == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or array.dtype != np.uint8:
        wanted = ", ".join("any" if each is None else str(each) for each in shape)
        raise ValueError(f"{path}: {name} is {array.dtype} {tuple(array.shape)}, where uint8 ({wanted}) was expected.")


def codes_of(values: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """(N, K) int64, the place of each value among those of its column, and how many each column has."""
    columns = [np.unique(column, return_inverse=True) for column in values.T]
    return np.column_stack([place for _, place in columns]).astype(np.int64), tuple(len(each) for each, _ in columns)


def _grid_of(path: Path, name: str, values: np.ndarray) -> tuple[int, ...]:
    """Sizes of the factors whose grid the rows of ``values`` run through, the last one fastest."""
    codes, sizes = codes_of(values)
    if len(codes) != np.prod(sizes) or not np.array_equal(codes, factors_of(range(len(codes)), sizes)):
        raise ValueError(
            f"{path}: the {len(codes)} rows of {name} are no grid of {sizes} values with the last factor fastest: "
            "fetch the published file."
        )
    return sizes


def _hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is read by h5py: pip install h5py.") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or not whole ({error}): fetch it again.") from error


@cache
def sum_of(path: Path) -> str:
    """CRC-32 of a file's bytes."""
    total = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            total = zlib.crc32(part, total)
    return f"{total:08x}"
