import numpy as np
import pytest
from PIL import Image

from datamodules import images
from datamodules.cache import cache_folder
from datamodules.images import list_images, load_rgb, verify_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


def photo(path, size=(12, 8), seed=0):
    """A noisy image, so that half of its file is not enough to decode it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_folder_is_listed_with_subfolders_sorted_and_without_other_files(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp", "._a.jpg"):
        photo(tmp_path / "x" / name)
    (tmp_path / "x" / "notes.txt").write_text("no image")
    assert [f.relative_to(tmp_path / "x").as_posix() for f in list_images(tmp_path / "x")] == [
        "a.JPG",
        "b.png",
        "sub/c.webp",
    ]


def test_list_file_keeps_its_order_and_is_relative_to_itself(tmp_path):
    photo(tmp_path / "data" / "b.png")
    photo(tmp_path / "data" / "a b.png")
    listing = tmp_path / "list.txt"
    listing.write_text(f"data/b.png\n\n{tmp_path / 'data' / 'a b.png'}\n")
    assert [f.name for f in list_images(listing)] == ["b.png", "a b.png"]
    listing.write_text("data/b.png\ndata/gone.png\n")
    with pytest.raises(FileNotFoundError, match=r"Line 2 of .*list.txt names .*gone.png"):
        list_images(listing)
    listing.write_text("\n")
    with pytest.raises(ValueError, match="lists no image"):
        list_images(listing)


def test_missing_empty_and_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or list file .*nowhere"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no image: it is empty"):
        list_images(tmp_path / "empty")
    (tmp_path / "empty" / "readme.md").write_text("hello")
    with pytest.raises(ValueError, match=r"no image among its 1 file\(s\), such as readme.md"):
        list_images(tmp_path / "empty")
    with pytest.raises(ValueError, match="is a file"):
        list_images(photo(tmp_path / "one.png"))


def test_grey_and_palette(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(load_rgb(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    palette = Image.fromarray(grey % 2).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    expected = np.where(grey[..., None] % 2, np.array([200, 100, 50]), np.array([10, 20, 30]))
    assert np.array_equal(load_rgb(tmp_path / "palette.png"), expected)


def test_transparency_lies_over_white(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    assert load_rgb(tmp_path / "alpha.png").tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert load_rgb(tmp_path / "palette.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, ending):
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{ending}")
    assert load_rgb(tmp_path / f"deep.{ending}")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 70000, dtype)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"wide.tif .*save it with 8 or 16 bits"):
        load_rgb(tmp_path / "wide.tif")


def test_exif_rotation_is_applied_and_counts_for_the_size(tmp_path):
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = load_rgb(tmp_path / "turned.png")
    assert np.array_equal(upright, np.rot90(pixels, -1))
    assert verify_images([tmp_path / "turned.png"], "test") == [(12, 8)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_a_rotated_plain_tiff_is_not_scrambled(mode, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.tif", exif=exif)
    assert np.array_equal(load_rgb(tmp_path / "turned.tif"), np.rot90(np.asarray(image.convert("RGB")), -1))


def test_every_unreadable_file_is_named_in_one_sentence(tmp_path):
    whole = photo(tmp_path / "whole.jpg", (64, 64)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "void.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"half.jpg .*truncated.*replace") as caught:
        verify_images(list_images(tmp_path), "test")
    assert "2 more" in str(caught.value)
    assert "text.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    for name in ("void.png", "text.jpg"):
        with pytest.raises(ValueError, match=f"Cannot read image .*{name}"):
            load_rgb(tmp_path / name)
    (tmp_path / "whole.jpg").unlink()
    with pytest.raises(ValueError, match=r"Cannot read image .*whole.jpg"):
        load_rgb(tmp_path / "whole.jpg")


def test_sound_files_are_decoded_once_and_changed_ones_again(tmp_path, monkeypatch):
    files = [photo(tmp_path / "x" / f"{i}.png", (10 + i, 8)) for i in range(3)]
    decoded = []
    monkeypatch.setattr(images, "load_rgb", lambda f: (decoded.append(f), load_rgb(f))[1])
    sizes = [(8, 10), (8, 11), (8, 12)]
    assert verify_images(files, "x") == sizes
    assert sorted(decoded) == files
    assert verify_images(files, "x") == sizes
    assert len(decoded) == 3
    photo(files[1], (20, 9))
    assert verify_images(files, "x") == [(8, 10), (9, 20), (8, 12)]
    assert decoded[3:] == [files[1]]


def test_a_bad_file_does_not_lose_what_was_checked(tmp_path, monkeypatch):
    good = photo(tmp_path / "x" / "a.png")
    bad = tmp_path / "x" / "b.png"
    bad.write_bytes(b"broken")
    for _ in range(2):  # the second time, too: a bad file is never remembered as sound
        with pytest.raises(ValueError, match=r"b\.png"):
            verify_images([good, bad], "x")
    decoded = []
    monkeypatch.setattr(images, "load_rgb", lambda f: (decoded.append(f), load_rgb(f))[1])
    verify_images([good], "x")
    assert decoded == []


def test_broken_or_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    file = photo(tmp_path / "x" / "a.png")
    verify_images([file], "x")
    (record,) = (cache_folder() / "verified").iterdir()
    record.write_text("{broken")
    assert verify_images([file], "x") == [(8, 12)]
    (tmp_path / "in_the_way").write_text("")
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "in_the_way"))
    assert verify_images([file], "x") == [(8, 12)]
