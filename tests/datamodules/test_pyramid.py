import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import pyramid as module
from datamodules.cache import cache_folder, rendered
from datamodules.pyramid import can_halve, pyramid, squares


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


def noise(index, size, seed=0):
    return np.random.default_rng((seed, index)).integers(0, 256, (3, size, size), np.uint8)


def stored(size=16, count=3, seed=0):
    return rendered(partial(noise, size=size, seed=seed), count, (3, size, size), {"seed": seed}, f"noise {size}")


def halved(images):
    """Written out, in Python's own integers."""
    count, channels, size, _ = images.shape
    out = np.empty((count, channels, size // 2, size // 2), np.uint8)
    for place in np.ndindex(out.shape):
        n, c, y, x = place
        out[place] = sum(int(images[n, c, 2 * y + j, 2 * x + i]) for j in (0, 1) for i in (0, 1)) // 4
    return out


def test_each_level_is_the_mean_of_the_one_above():
    images = stored()
    levels = pyramid(images, "noise")
    assert list(levels) == [16, 8, 4]
    assert levels[16] is images
    for above, below in ((16, 8), (8, 4)):
        assert levels[below].dtype == np.uint8
        assert np.array_equal(levels[below], halved(levels[above]))


def test_means_are_cut_off_at_every_level():
    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 0, :2] = 255, 254  # of 255, 254, 254, 254
    image[0, 1, :2] = 254
    image[0, 0, 4] = 3  # three of four in the same pixel of 4x4 are cut off to 0, and the fourth is 1
    image[0, 0, 6] = 3
    image[0, 2, 4] = 3
    image[0, 2, 6] = 7
    levels = pyramid(rendered(lambda _: image, 1, image.shape, {}, "hand"), "hand")
    assert levels[8][0, 0, 0, :4].tolist() == [254, 0, 0, 0]
    assert levels[8][0, 0, 1, :4].tolist() == [0, 0, 0, 1]
    assert levels[4][0, 0, 0, :2].tolist() == [63, 0]  # the mean of all sixteen pixels at once would be 1


def test_levels_are_made_once_and_lie_beside_the_images(monkeypatch):
    images = stored()
    first = {resolution: np.array(level) for resolution, level in pyramid(images, "noise").items()}

    def refuse(*_, **__):
        raise AssertionError("halved again")

    monkeypatch.setattr(module, "_halved", refuse)
    for resolution, level in pyramid(stored(), "noise").items():
        assert isinstance(level, np.memmap)
        assert np.array_equal(level, first[resolution])
        assert Path(level.filename).parent == Path(images.filename).parent == cache_folder()
        with pytest.raises(ValueError, match="read-only"):
            level[0] = 0
    assert len(list(cache_folder().glob("noise*halved-to*.npy"))) == 2


def test_other_images_have_other_levels():
    one, two = pyramid(stored(), "noise"), pyramid(stored(seed=1), "noise")
    assert np.array_equal(two[4], halved(two[8]))
    assert not np.array_equal(one[4], two[4])


def test_a_pyramid_ends_where_it_is_told_to():
    assert list(pyramid(stored(), "noise", smallest=8)) == [16, 8]
    assert list(pyramid(stored(), "noise", smallest=16)) == [16]
    assert list(pyramid(stored(12), "noise", smallest=3)) == [12, 6, 3]


@pytest.mark.parametrize("size", [2, 12])
def test_what_cannot_be_halved_is_refused(size):
    with pytest.raises(ValueError, match=f"{size}x{size} cannot be halved to 4x4: give squares of 4 times a power"):
        pyramid(stored(size), "noise")
    assert [s for s in range(70) if can_halve(s)] == [4, 8, 16, 32, 64]


def test_flat_images_are_refused():
    flat = rendered(lambda _: np.zeros((3, 8, 16), np.uint8), 1, (3, 8, 16), {}, "flat")
    with pytest.raises(ValueError, match="8x16 cannot be halved"):
        pyramid(flat, "flat")


def photo(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_photographs_become_squares_from_their_centres(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (8, 13, 3), np.uint8)
    wide = wide // 16 * 16  # so that no mean of four is a half, which might be rounded either way
    small = np.full((2, 2, 3), (10, 20, 30), np.uint8)
    files = [photo(tmp_path / "wide.png", wide), photo(tmp_path / "tall.png", wide.transpose(1, 0, 2))]
    files.append(photo(tmp_path / "small.png", small))
    found = squares(files, 4, "photographs")
    assert (found.shape, found.dtype) == ((3, 3, 4, 4), np.uint8)
    cut = wide[:, 2:10].astype(int)
    means = sum(cut[j::2, i::2] for j in (0, 1) for i in (0, 1)) // 4
    assert np.array_equal(found[0], means.transpose(2, 0, 1))
    assert np.array_equal(found[1], means.transpose(2, 1, 0))
    assert (found[2] == np.array([10, 20, 30], np.uint8)[:, None, None]).all()


def test_photographs_are_converted_once_and_again_when_they_change(tmp_path, monkeypatch):
    file = photo(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert squares([file], 4, "x").max() == 0
    read = []
    load_rgb = module.load_rgb
    monkeypatch.setattr(module, "load_rgb", lambda path: (read.append(path), load_rgb(path))[1])
    squares([file], 4, "x")
    assert read == []
    photo(file, np.full((4, 4, 3), 9, np.uint8))
    os.utime(file, ns=(1, 1))  # a clock may be too coarse to tell two writes apart
    assert squares([file], 4, "x").max() == 9
    assert set(read) == {str(file)}


def test_a_broken_photograph_is_named_before_any_is_converted(tmp_path):
    good = photo(tmp_path / "good.png", np.zeros((4, 4, 3), np.uint8))
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"Cannot read image .*bad\.png .*: replace the file or remove it"):
        squares([good, bad], 4, "photographs")
    assert not list(cache_folder().glob("*.npy"))


def test_workers_start_without_torch():
    code = (
        "import sys; import datamodules.pyramid; assert not {'torch', 'pytorch_lightning', 'albumentations'} & "
        "set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
