"""Every kind of file in, the same kind out where it can hold the result."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from pictures.files import Picture, destination, list_pictures, read, write

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (7, 11, 4), dtype=np.uint16)


def levels(picture: Picture, top: int = 255) -> np.ndarray:
    return ((picture.pixels + 1) * top / 2).round().permute(1, 2, 0).numpy().astype(int)


def deep_file(path: Path, pixels: np.ndarray) -> Path:
    """Written by another library than the one under test."""
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[2]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., order]))
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16", "LA", "PA", "RGBA"])
def test_every_mode_is_read_as_pillow_shows_it(mode: str, tmp_path: Path) -> None:
    ending = {"CMYK": "tif", "YCbCr": "tif", "PA": "png"}.get(mode, "png")
    image = Image.fromarray(COLOUR)
    if mode == "I;16":
        image = Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 257)
    elif mode == "PA":
        image = image.convert("P")
        image.info["transparency"] = int(np.asarray(image)[0, 0])
    else:
        image = image.convert(mode)
    image.save(tmp_path / f"x.{ending}")
    picture = read(tmp_path / f"x.{ending}")
    assert picture.pixels.shape == (3, 7, 11)
    assert picture.pixels.dtype == torch.float32
    assert picture.deep == (mode == "I;16")
    assert (picture.alpha is not None) == (mode in ("LA", "PA", "RGBA"))
    if mode == "I;16":
        expected = np.repeat(COLOUR[..., :1], 3, axis=2)
    else:
        with Image.open(tmp_path / f"x.{ending}") as again:
            opaque = again.convert("RGBA")
        opaque = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
        expected = np.asarray(opaque.convert("RGB"))
    assert np.abs(levels(picture) - expected).max() <= (0 if picture.alpha is None else 1)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_all_sixteen_bits_are_read_and_written(ending: str, channels: int, tmp_path: Path) -> None:
    deep = DEEP[..., :channels].copy()
    deep[..., 3:] = 65535  # opaque, so that colours are those of the file
    picture = read(deep_file(tmp_path / f"x.{ending}", deep))
    assert picture.deep
    assert np.array_equal(levels(picture, 65535), deep[..., :3])
    place = destination(tmp_path / f"y.{ending}", picture)
    assert place.name == "y.png"
    write(place, picture.pixels, picture)
    again = read(place)
    assert again.deep
    assert np.array_equal(levels(again, 65535), deep[..., :3])
    assert (again.alpha is None) == (channels == 3)


def test_a_deep_png_is_read_alike_by_another_library(tmp_path: Path) -> None:
    import cv2

    picture = read(deep_file(tmp_path / "x.png", DEEP))
    write(tmp_path / "y.png", torch.zeros(3, 7, 11), picture)
    found = cv2.imread(str(tmp_path / "y.png"), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 3], DEEP[..., 3])
    assert np.array_equal(np.unique(found[..., :3]), [32768])


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    smooth = np.linspace(0, 255, 7 * 11 * 3).reshape(7, 11, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"x.{ending}", exif=exif, quality=100)
    turned = ImageOps.exif_transpose(Image.open(tmp_path / f"x.{ending}"))
    picture = read(tmp_path / f"x.{ending}")
    assert picture.pixels.shape == ((3, 7, 11) if orientation < 5 else (3, 11, 7))
    assert np.array_equal(levels(picture), np.asarray(turned))
    write(tmp_path / f"y.{ending}", picture.pixels, picture)
    with Image.open(tmp_path / f"y.{ending}") as again:
        assert 0x112 not in again.getexif()  # or a viewer would turn it once more
        assert again.size == turned.size


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_a_rotated_tiff_is_not_scrambled(mode: str, tmp_path: Path) -> None:
    """Pillow 13 does so where it maps the file into memory."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / "x.tif", exif=exif)
    expected = Image.fromarray(COLOUR).convert(mode).transpose(Image.Transpose.ROTATE_270).convert("RGB")
    assert np.array_equal(levels(read(tmp_path / "x.tif")), np.asarray(expected))


def test_a_deep_picture_is_turned_too(tmp_path: Path) -> None:
    first = read(deep_file(tmp_path / "x.png", DEEP[..., :3]))
    exif = Image.Exif()
    exif[0x112] = 6
    data = (tmp_path / "x.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "t.png").write_bytes(data[:33] + chunk + data[33:])
    turned = read(tmp_path / "t.png")
    assert turned.deep
    assert torch.equal(turned.pixels, first.pixels.rot90(-1, (1, 2)))


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "tga", "jpg", "bmp", "ppm", "gif", "pgm"])
def test_alpha_is_kept(ending: str, tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (7, 11), dtype=np.uint8)
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "x.png")
    picture = read(tmp_path / "x.png")
    place = destination(tmp_path / f"y.{ending}", picture)
    assert place.suffix == (f".{ending}" if ending in ("png", "tif", "webp", "tga") else ".png")
    write(place, torch.zeros(3, 7, 11), picture)
    with Image.open(place) as again:
        assert again.mode == "RGBA"
        assert np.array_equal(np.asarray(again)[..., 3], alpha)


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOUR, np.zeros((7, 11), np.uint8)])).save(tmp_path / "x.png")
    assert torch.equal(read(tmp_path / "x.png").pixels, torch.ones(3, 7, 11))


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "png", "tif", "webp", "bmp", "ppm", "tga"])
def test_formats_are_kept(ending: str, tmp_path: Path) -> None:
    like = Picture(torch.zeros(3, 7, 11))
    place = destination(tmp_path / f"y.{ending}", like)
    assert place.name == f"y.{ending}"
    write(place, torch.full((3, 7, 11), 7.0), like)
    with Image.open(place) as image:
        assert image.format == Image.registered_extensions()[f".{ending.lower()}"]
        assert np.asarray(image).min() > 250


def test_the_profile_is_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for deep in (False, True):
        for ending in ["png"] if deep else ["png", "jpg", "tif", "webp"]:
            write(tmp_path / f"y.{ending}", torch.zeros(3, 7, 11), Picture(torch.zeros(3, 7, 11), None, deep, profile))
            assert read(tmp_path / f"y.{ending}").icc_profile == profile


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    Image.fromarray(np.tile(COLOUR, (20, 20, 1))).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:400])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / "float.tif")
    for name, reason in {"cut": "", "text": "cannot identify", "empty": "cannot identify", "float": "no fixed"}.items():
        (path,) = tmp_path.glob(f"{name}.*")
        with pytest.raises(ValueError, match=f"it cannot be read .*{reason}"):
            read(path)


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = Picture(torch.zeros(3, 7, 11))
    write(tmp_path / "y.png", torch.zeros(3, 7, 11), like)
    before = (tmp_path / "y.png").read_bytes()

    def half(self, file, **_):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "y.png", torch.ones(3, 7, 11), like)
    assert [p.name for p in tmp_path.iterdir()] == ["y.png"]
    assert (tmp_path / "y.png").read_bytes() == before


def test_listing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no picture or folder"):
        list_pictures(tmp_path / "x")
    with pytest.raises(ValueError, match="it is empty"):
        list_pictures(tmp_path)
    (tmp_path / "note.txt").touch()
    with pytest.raises(ValueError, match=r"among its 1 file\(s\), such as note.txt"):
        list_pictures(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "sub/a.jpg", ".hidden.png"):
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == ([tmp_path / "b.PNG", tmp_path / "sub" / "a.jpg"], [tmp_path / "note.txt"])
    assert list_pictures(tmp_path / "note.txt")[0] == [tmp_path / "note.txt"]
