import numpy as np
import pytest

from datamodules.procedural import digit_variants
from datamodules.procedural.digit_variants import VARIANTS, coloured, inverted, plain, planes, warped

BAR = np.zeros((8, 8), np.uint8)
BAR[:, 3:5] = 16  # an upright stroke in the middle
EMPTY = np.zeros((8, 8), np.uint8)
LOOKS = [getattr(digit_variants, name) for name in VARIANTS]


def ink(image):
    return image[..., 0] / 255.0


def lean(image):
    """Columns by which the ink's centre moves to the right per row upwards."""
    ys, xs = np.mgrid[:32, :32]
    weight = ink(image)
    x, y = xs - np.average(xs, weights=weight), ys - np.average(ys, weights=weight)
    return -(weight * x * y).sum() / (weight * y * y).sum()


@pytest.mark.parametrize("look", LOOKS)
def test_equal_numbers_draw_equally_and_others_do_not(look):
    first = look(BAR, (0, 1, 2))
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    assert np.array_equal(first, look(BAR, (0, 1, 2)))
    assert not np.array_equal(first, look(BAR, (0, 2, 2)))


def test_plain_is_the_glyph_in_white_on_black():
    assert not plain(EMPTY, (0,)).any()
    for k in range(20):
        image = plain(BAR, (k,))
        assert np.array_equal(image, image[..., :1].repeat(3, 2))
        assert not image[[0, -1]].any()  # clear of the edges
        assert not image[:, [0, -1]].any()
        assert image.max() == 255
        assert 0.6 < ink(image).sum() / 22.0**2 * 4 < 1.6  # a quarter of the glyph's square of 22 pixels is ink
        ys, xs = np.nonzero(image[..., 0] > 127)
        assert np.abs([ys.mean() - 15.5, xs.mean() - 15.5]).max() < 3.5


def test_inverted_is_plain_from_255():
    assert np.array_equal(inverted(BAR, (4, 2)).astype(int) + plain(BAR, (4, 2)), np.full((32, 32, 3), 255))


def test_a_glyph_is_neither_mirrored_nor_turned():
    corner = np.zeros((8, 8), np.uint8)
    corner[1:3, 1:3] = 16  # above and left
    for k in range(20):
        ys, xs = np.nonzero(plain(corner, (k,))[..., 0] > 127)
        assert max(ys.mean(), xs.mean()) < 15.5


def test_warped_leans_either_way_and_is_thin_or_bold():
    upright = np.array([lean(plain(BAR, (k,))) for k in range(60)])
    slanted = np.array([lean(warped(BAR, (k,))) for k in range(60)])
    assert np.abs(upright).max() < 0.3
    assert np.median(np.abs(slanted)) > 0.25
    assert 15 < (slanted > 0).sum() < 45
    faint = (BAR * 0.7).astype(np.uint8)  # as strokes thinner than a cell are: there thickness tells
    amounts = [ink(warped(faint, (k,))).sum() for k in range(60)]
    assert np.percentile(amounts, 90) > 1.5 * np.percentile(amounts, 10)


def test_coloured_draws_the_glyph_mostly_lighter_than_its_paper():
    lighter = 0
    for k in range(60):
        grey = coloured(BAR, (k,)).mean(-1)
        stroke = plain(BAR, (k,))[..., 0] > 250  # the same numbers place the glyph alike
        around = np.zeros((32, 32), bool)
        around[10:22, 8:24] = True
        around &= plain(BAR, (k,))[..., 0] == 0
        lighter += grey[stroke].mean() > grey[around].mean()
    assert 36 < lighter < 59  # 48 +- 3.1 of 60


def test_coloured_has_colours_texture_and_strokes_at_the_sides_alone():
    pictures = np.stack([coloured(EMPTY, (k,)) for k in range(100)]).astype(float)
    middle = pictures[:, 8:24, 13:19]  # where no stroke comes
    assert np.median(middle.std((1, 2)).mean(-1)) > 12  # of 255; grain alone is 5
    assert np.median(np.ptp(pictures.mean((1, 2)), axis=1)) > 20  # channels differ
    edges = np.abs(np.diff(pictures.mean(-1), axis=2)).mean((0, 1))
    assert edges[:5].mean() > 1.5 * edges[12:19].mean() < edges[-5:].mean() * 1.5


def test_planes_show_every_glyph_in_a_draw_before_the_next_draw():
    glyphs = np.stack([EMPTY, BAR, 16 - BAR])
    which = np.array([2, 1])
    for name, look in zip(VARIANTS, LOOKS, strict=True):
        for index, (draw, glyph) in enumerate([(0, 2), (0, 1), (1, 2), (1, 1)]):
            image = planes(index, name, glyphs, which, world=7)
            assert np.array_equal(image, look(glyphs[glyph], (7, draw, glyph)).transpose(2, 0, 1))
            assert image.flags.c_contiguous
