import importlib.util
import io
import struct
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules import factor_files, factor_objects
from datamodules.factor_files import MPI3D, DSprites, Shapes3D
from datamodules.factor_grid import factors_of, index_of
from datamodules.factor_objects import Cars3D, SmallNORB
from datamodules.factors import FactorDataModule

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CROSSFADE_CACHE", str(folder))
    for remembered in (factor_files.sum_of, factor_objects._norb, factor_objects._car):
        remembered.cache_clear()
    return folder


def grid(sizes):
    return factors_of(range(int(np.prod(sizes))), sizes)


def shuffled(source):
    """All factors of a source in some order, with a repetition, and the images that it has of them."""
    factors = grid(source.sizes)[RNG.permutation(int(np.prod(source.sizes)))]
    factors = np.concatenate([factors, factors[:1]])
    images = source.images(factors)
    assert (images.dtype, images.shape) == (np.uint8, (len(factors), *source.image_shape))
    assert images.flags.writeable
    assert source.images(factors[:0]).shape == (0, *source.image_shape)
    return factors, images


def served(source, count):
    """Factors and images of some batches of training."""
    module = FactorDataModule(source, val_images=1, batch_size=4)
    module.setup("fit")
    batches = [batch for batch, _ in zip(module.train_dataloader(), range(count), strict=False)]
    return [torch.cat([getattr(batch, name) for batch in batches]).numpy() for name in ("factors", "image")]


# dSprites

SIZES = (3, 2, 3, 2, 2)


def dsprites(path, save=np.savez_compressed, images=None, classes=None):
    """Two images a byte wide and one not: 5 x 3 pixels, of which the last byte of a packed row is not full."""
    n = int(np.prod(SIZES))
    images = RNG.integers(0, 2, (n, 5, 3), np.uint8) if images is None else images
    if classes is None:
        classes = np.concatenate([np.zeros((n, 1), np.int64), grid(SIZES)], axis=1)
    save(path, metadata=np.array({"title": "a pickled object"}, object), imgs=images, latents_classes=classes)
    return images


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_dsprites(tmp_path, save, cache):
    path = tmp_path / "dsprites.npz"
    images = dsprites(path, save)
    source = DSprites(str(path))
    assert (source.sizes, source.image_shape) == (SIZES, (1, 5, 3))
    factors, read = shuffled(source)
    assert np.array_equal(read[:, 0], 255 * images[index_of(factors, source.names, SIZES)])
    packed = list(cache.glob("*.npy"))
    assert len(packed) == (save is np.savez_compressed)  # what lies uncompressed is read from where it lies
    if packed:
        assert np.load(packed[0]).shape == (72, 2)
        packed[0].unlink()  # open files stay
    factors, read = served(source, 3)
    assert np.array_equal(read[:, 0], 255 * images[index_of(factors, source.names, SIZES)])


def test_a_fingerprint_tells_files_apart(tmp_path):
    prints = set()
    for name in ("one", "two"):
        dsprites(tmp_path / f"{name}.npz")
        prints.add(DSprites(str(tmp_path / f"{name}.npz")).fingerprint())
    assert len(prints) == 2
    assert all("imgs (72, 5, 3)" in each for each in prints)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((71, 5, 3), np.uint8)}, r"imgs is uint8 \(71, 5, 3\), where uint8 \(72, any, any\)"),
        ({"images": np.zeros((72, 5, 3))}, "imgs is float64"),
        ({"images": np.asfortranarray(np.zeros((72, 5, 3), np.uint8))}, "array imgs is of objects or has its first"),
        ({"images": np.full(72, None)}, "array imgs is of objects"),
        ({"classes": np.zeros((72, 5), np.int64)}, r"latents_classes is \(72, 5\), where dSprites has 6 columns"),
        ({"classes": np.zeros((72, 6), np.int64)}, r"the 72 rows of latents_classes are no grid of \(1, 1, 1, 1, 1\)"),
        (
            {"classes": np.column_stack([np.zeros(72, int), grid(SIZES[::-1])[:, ::-1]])},
            "are no grid of .* with the last factor fastest",
        ),
    ],
)
def test_another_dsprites_is_refused(tmp_path, changes, message):
    dsprites(tmp_path / "x.npz", **changes)
    with pytest.raises(ValueError, match=message):
        DSprites(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_gray_sprites_are_refused(tmp_path, save):
    dsprites(tmp_path / "x.npz", save, images=np.full((72, 5, 3), 255, np.uint8))
    with pytest.raises(ValueError, match="imgs goes up to 255, where dSprites has 0 and 1"):
        DSprites(str(tmp_path / "x.npz")).images(np.zeros((1, 5), int))


@pytest.mark.parametrize("kind", [DSprites, MPI3D, Shapes3D])
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=f"There is no file {tmp_path}/x.npz: correct the path"):
        kind(str(tmp_path / "x.npz"))


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"x.npz is no .npz file, or not whole"):
        DSprites(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", other=1, more=2)
    with pytest.raises(ValueError, match="x.npz has no array images; it holds other, more"):
        MPI3D(str(tmp_path / "x.npz"))


# MPI3D

FEW = (2, 1, 2, 1, 3, 2, 2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mpi3d(tmp_path, save, cache):
    images = RNG.integers(0, 256, (48, 4, 6, 3), np.uint8)
    save(tmp_path / "mpi.npz", images=images)
    source = MPI3D(str(tmp_path / "mpi.npz"), FEW)
    assert source.image_shape == (3, 4, 6)
    for factors, read in (shuffled(source), served(source, 3)):
        assert np.array_equal(read, images[index_of(factors, source.names, FEW)].transpose(0, 3, 1, 2))
    assert len(list(cache.glob("*.npy"))) == (save is np.savez_compressed)


def test_an_array_is_mapped_whatever_stands_before_it(tmp_path):
    """The place of an array is read off its own header, of which the directory's may be of another length."""
    images = RNG.integers(0, 256, (48, 2, 2, 3), np.uint8)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, images, version=(2, 0))
    with zipfile.ZipFile(tmp_path / "mpi.npz", "w") as archive:
        archive.writestr("notes.npy", b"x" * 77)
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(buffer.getvalue())
    source = MPI3D(str(tmp_path / "mpi.npz"), FEW)
    assert isinstance(source._rows, np.memmap)
    assert np.array_equal(source.images(grid(FEW)), images.transpose(0, 3, 1, 2))


def test_another_mpi3d_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((48, 4, 6, 3), np.uint8))
    message = r"images is uint8 \(48, 4, 6, 3\), where uint8 \(1036800, any, any, 3\) was expected"
    with pytest.raises(ValueError, match=message):
        MPI3D(str(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match=r"sizes is \(6, 8\): give one for each of object colour"):
        MPI3D(str(tmp_path / "x.npz"), (6, 8))


# 3D Shapes


@pytest.fixture
def write_hdf5(monkeypatch):
    """h5py's own writer where it is installed; else a stand-in for the few calls that are made of it, over .npz."""
    if importlib.util.find_spec("h5py"):
        import h5py

        def write(path, **arrays):
            with h5py.File(path, "w") as file:
                for name, array in arrays.items():
                    chunks = (min(2, len(array)), *array.shape[1:])
                    file.create_dataset(name, data=array, chunks=chunks, compression="gzip")

        return write

    class File(dict):
        def __init__(self, path, mode):
            assert mode == "r"
            try:
                super().__init__(np.load(path))
            except (ValueError, zipfile.BadZipFile) as error:
                raise OSError("file signature not found") from error

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.clear()

    def write(path, **arrays):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    return write


def labels_3d(sizes):
    """Values as published: hues and scales are fractions, orientations go from below zero."""
    low, high = np.array([0, 0, 0, 0.75, 0, -30.0]), np.array([0.9, 0.9, 0.9, 1.25, 3, 30.0])
    return low + grid(sizes) / (np.array(sizes) - 1) * (high - low)


def test_shapes_3d(tmp_path, write_hdf5):
    sizes = (2, 2, 2, 3, 2, 24)  # more than are read at a time
    images = RNG.integers(0, 256, (1152, 4, 6, 3), np.uint8)
    write_hdf5(tmp_path / "3dshapes.h5", images=images, labels=labels_3d(sizes))
    source = Shapes3D(str(tmp_path / "3dshapes.h5"))
    assert (source.sizes, source.image_shape) == (sizes, (3, 4, 6))
    for factors, read in (shuffled(source), served(source, 3)):
        assert np.array_equal(read, images[index_of(factors, source.names, sizes)].transpose(0, 3, 1, 2))
    assert source.fingerprint().startswith("3D Shapes ")


def test_another_shapes_3d_is_refused(tmp_path, write_hdf5):
    path, images = tmp_path / "x.h5", np.zeros((64, 4, 4, 3), np.uint8)
    labels = labels_3d((2,) * 6)
    for arrays, message in (
        ({"images": images}, "has no data set labels; it holds images"),
        ({"images": images[..., :1], "labels": labels}, r"images is uint8 \(64, 4, 4, 1\), where .* \(64, any, any, 3"),
        ({"images": images, "labels": labels[:, :5]}, r"labels is \(64, 5\), where 3D Shapes has 6 columns"),
        ({"images": images, "labels": labels[::-1]}, "the 64 rows of labels are no grid of"),
    ):
        write_hdf5(path, **arrays)
        with pytest.raises(ValueError, match=message):
            Shapes3D(str(path))
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"x.h5 is no HDF5 file, or not whole"):
        Shapes3D(str(path))


def test_without_h5py_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.h5").touch()
    with pytest.raises(ImportError, match="x.h5 is read by h5py: pip install h5py"):
        Shapes3D(str(tmp_path / "x.h5"))


# smallNORB

CODES = {"u1": 0x1E3D4C55, "<i4": 0x1E3D4C54}


def norb_file(path, array, kind):
    sizes = (*array.shape, 1, 1)[: max(3, array.ndim)]
    head = struct.pack(f"<{2 + len(sizes)}I", CODES[kind], array.ndim, *sizes)
    path.write_bytes(head + array.astype(kind).tobytes())


def norb(folder, side=12):
    """2 categories, 4 instances, 2 elevations, 3 azimuths of even numbers, 2 lightings: half of them each for testing.

    Returns the left images by factors.
    """
    instances = {"training": (1, 2), "testing": (0, 3)}
    left = {}
    for part, those in instances.items():
        rows = [(c, i, e, 2 * a, light) for c, i, e, a, light in grid((2, 4, 2, 3, 2)).tolist() if i in those]
        rows = RNG.permutation(np.array(rows))
        pairs = RNG.integers(0, 256, (len(rows), 2, side, side), np.uint8)
        left.update({tuple(row): pair[0] for row, pair in zip(rows.tolist(), pairs, strict=True)})
        name = f"smallnorb-5x{'46789' if part == 'training' else '01235'}x9x18x6x2x96x96-{part}"
        norb_file(folder / f"{name}-dat.mat", pairs, "u1")
        norb_file(folder / f"{name}-cat.mat", rows[:, 0], "<i4")
        norb_file(folder / f"{name}-info.mat", rows[:, 1:], "<i4")
    return left


def test_small_norb(tmp_path):
    left = norb(tmp_path)
    source = SmallNORB(str(tmp_path), size=6)
    assert (source.sizes, source.image_shape) == ((2, 4, 2, 3, 2), (1, 6, 6))
    for factors, read in (shuffled(source), served(source, 3)):
        for (c, i, e, a, light), image in zip(factors.tolist(), read, strict=True):
            means = left[c, i, e, 2 * a, light].reshape(6, 2, 6, 2).mean((1, 3))
            assert np.abs(image[0] - means).max() <= 0.5
    same = SmallNORB(str(tmp_path), size=12)
    assert np.array_equal(same.images(np.array([[1, 3, 0, 2, 1]]))[0, 0], left[1, 3, 0, 4, 1])
    assert same.fingerprint() != source.fingerprint()


def test_another_small_norb_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no \*training-dat.mat in .*: give the folder of smallNORB"):
        SmallNORB(str(tmp_path))
    norb(tmp_path)
    dat, cat = (next(tmp_path.glob(f"*testing-{kind}.mat")) for kind in ("dat", "cat"))
    sound = dat.read_bytes(), cat.read_bytes()
    for path, content, message in (
        (dat, sound[0][:-1], "has .* bytes, which do not make"),
        (dat, b"\x1f\x8b" + sound[0], "is no matrix of NORB's format: unpack the published file by gunzip"),
        (dat, b"", "is no matrix of NORB's format"),
        (cat, struct.pack("<5I", CODES["<i4"], 1, 48, 1, 1) + bytes(4 * 48), "has 96 images of smallNORB for 96 comb"),
        (cat, struct.pack("<5I", CODES["<i4"], 1, 2, 1, 1) + bytes(8), r"smallNORB has \(N, 2, 96, 96\), \(N,\) and"),
    ):
        dat.write_bytes(sound[0])
        cat.write_bytes(sound[1])
        path.write_bytes(content)
        factor_objects._norb.cache_clear()
        with pytest.raises(ValueError, match=message):
            SmallNORB(str(tmp_path))


# Cars3D


def test_cars_3d(tmp_path):
    cars = RNG.integers(0, 256, (3, 8, 8, 3, 5, 2), np.uint8)  # 5 azimuths, 2 elevations
    for k in (2, 0, 1):
        savemat(tmp_path / f"car_{k:03}_mesh.mat", {"im": cars[k]}, do_compression=True)
    source = Cars3D(str(tmp_path), size=8)
    assert (source.sizes, source.image_shape) == ((2, 5, 3), (3, 8, 8))
    for factors, read in (shuffled(source), served(source, 3)):
        for (elevation, azimuth, car), image in zip(factors.tolist(), read, strict=True):
            assert np.array_equal(image, cars[car, ..., azimuth, elevation].transpose(2, 0, 1))
    half = Cars3D(str(tmp_path), size=4).images(np.array([[1, 2, 0]]))[0]
    means = cars[0, ..., 2, 1].reshape(4, 2, 4, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(half - means).max() <= 0.5


def test_another_cars_3d_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .mat file in .*: give the folder of Cars3D's files"):
        Cars3D(str(tmp_path))
    for content, message in (
        ({"other": np.zeros(3)}, "has no im, where a file of Cars3D has uint8"),
        ({"im": np.zeros((8, 8, 3, 5, 2))}, "has im of float64"),
        ({"im": np.zeros((8, 6, 3, 5, 2), np.uint8)}, "images are 6x8, where those of Cars3D are square"),
    ):
        savemat(tmp_path / "car_000.mat", content)
        factor_objects._car.cache_clear()
        with pytest.raises(ValueError, match=message):
            Cars3D(str(tmp_path))
    (tmp_path / "car_000.mat").write_bytes(b"MATLAB 5.0 cut short")
    factor_objects._car.cache_clear()
    with pytest.raises(ValueError, match="Cannot read .*car_000.mat"):
        Cars3D(str(tmp_path))
    for k, azimuths in enumerate((5, 4)):
        savemat(tmp_path / f"car_{k:03}.mat", {"im": np.zeros((8, 8, 3, azimuths, 2), np.uint8)})
    factor_objects._car.cache_clear()
    with pytest.raises(ValueError, match=r"car_001.mat is \(8, 8, 3, 4, 2\), but .*car_000.mat is \(8, 8, 3, 5, 2\)"):
        Cars3D(str(tmp_path), size=8).images(np.zeros((1, 3), int))
