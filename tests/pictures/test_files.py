"""Every kind of file in, the same kind out where it can hold the result."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from pictures.files import Picture, destination, list_pictures, over_white, read, write

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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path: Path, pixels: np.ndarray, *chunks: bytes) -> Path:
    """Of (H, W, 1 to 4) uint16, by the letter of the specification: cv2 writes neither grey with alpha nor tRNS."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
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
            rgba = np.asarray(again.convert("RGBA"))
        expected = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
    assert np.array_equal(levels(picture), expected)


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
    orientation = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "t.png").write_bytes(data[:33] + orientation + data[33:])
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


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOUR, np.zeros((7, 11), np.uint8)])).save(tmp_path / "x.png")
    assert torch.equal(read(tmp_path / "x.png").pixels, torch.ones(3, 7, 11))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "deep"])
def test_a_model_that_does_nothing_gives_back_what_was_half_transparent(kind: str, tmp_path: Path) -> None:
    alpha = RNG.integers(1, 256, (7, 11), dtype=np.uint8)
    rgba = np.dstack([COLOUR, alpha])
    if kind == "deep":
        deep_png(tmp_path / "x.png", DEEP.clip(1))
        expected = DEEP.clip(1)
    else:
        image = Image.fromarray(rgba).convert("LA") if kind == "LA" else Image.fromarray(rgba)
        image = image.quantize(16) if kind == "P" else image
        image.save(tmp_path / "x.png")
        expected = np.asarray(Image.open(tmp_path / "x.png").convert("RGBA"))
    picture = read(tmp_path / "x.png")
    write(tmp_path / "y.png", picture.pixels, picture)
    again = read(tmp_path / "y.png")
    assert again.alpha is not None
    top = 65535 if kind == "deep" else 255
    assert np.array_equal((again.alpha * top).round().numpy(), expected[..., 3])
    assert np.array_equal(levels(again, top), np.where(expected[..., 3:] > 0, expected[..., :3], top))


def test_a_reference_is_seen_over_white() -> None:
    red = torch.tensor([200, 0, 0]).view(3, 1, 1) / 127.5 - 1
    seen = (over_white(Picture(red, torch.full((1, 1), 64 / 255))) + 1) * 127.5
    assert seen.flatten().round().tolist() == [241, 191, 191]
    assert over_white(Picture(red)) is red


@pytest.mark.parametrize("channels", [1, 3])
def test_a_deep_png_may_name_a_transparent_colour(channels: int, tmp_path: Path) -> None:
    deep = DEEP[..., :channels].copy()
    deep[2, 3] = deep[0, 0] ^ 1  # another colour, of the same upper bytes
    key = chunk(b"tRNS", deep[0, 0].astype(">u2").tobytes())
    picture = read(deep_png(tmp_path / "x.png", deep, key))
    assert picture.deep
    assert picture.alpha is not None
    assert (picture.alpha == 0).nonzero().tolist() == [[0, 0]]
    expected = np.broadcast_to(deep, (7, 11, 3)).copy()
    expected[0, 0] = 65535
    assert np.array_equal(levels(picture, 65535), expected)


def test_deep_grey_with_alpha(tmp_path: Path) -> None:
    profile = chunk(b"iCCP", b"grey\0\0" + zlib.compress(b"of grey, not of the coloured result"))
    picture = read(deep_png(tmp_path / "x.png", DEEP[..., :2], profile))
    assert picture.icc_profile is None
    write(tmp_path / "y.png", picture.pixels, picture)
    again = read(tmp_path / "y.png")
    assert again.deep
    assert again.alpha is not None
    assert np.array_equal((again.alpha * 65535).round().numpy(), DEEP[..., 1])
    assert np.array_equal(levels(again, 65535), np.repeat(DEEP[..., :1], 3, axis=2))


def test_a_picture_may_have_more_pixels_than_pillow_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert np.array_equal(levels(read(tmp_path / "x.png")), COLOUR)
    assert Image.MAX_IMAGE_PIXELS == 30


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


def test_links_to_nothing_are_listed_as_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "note.txt").symlink_to(tmp_path / "nothing")
    assert list_pictures(tmp_path) == ([tmp_path / "gone.png", tmp_path / "loop.png"], [tmp_path / "note.txt"])
    with pytest.raises(ValueError, match="it cannot be read .*No such file"):
        read(tmp_path / "gone.png")
