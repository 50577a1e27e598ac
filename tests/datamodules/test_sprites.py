import numpy as np
import pytest

from datamodules.factor_grid import index_of
from datamodules.procedural import sprites
from datamodules.procedural.sprites import ANGLES, NAMES, SCALES, SHAPES, SIZE, SIZES, Sprites

SPRITES = Sprites()
RNG = np.random.default_rng(0)
SQUARE, ELLIPSE, HEART = range(3)


def image(*factors):
    """(64, 64) of 0 and 1."""
    return SPRITES.images(np.array([factors]))[0, 0] // 255


def moments(picture):
    """Centre of mass, (x to the right, y up), and second moments about it, in pixels."""
    rows, columns = np.nonzero(picture)
    x, y = columns - columns.mean(), -(rows - rows.mean())
    return (columns.mean(), -rows.mean()), np.array(
        [[(x * x).mean(), (x * y).mean()], [(x * y).mean(), (y * y).mean()]]
    )


# The grid


def test_the_grid_is_that_of_dsprites():
    assert NAMES == ("shape", "scale", "orientation", "position x", "position y")
    assert (np.prod(SIZES), SIZES) == (737_280, (3, 6, 40, 32, 32))
    assert (SCALES[0], SCALES[-1], ANGLES[0], ANGLES[-1]) == (0.5, 1.0, 0.0, 2 * np.pi)
    # The dot product with the bases, by hand: the rows of one column follow each other.
    assert index_of(np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]), NAMES, SIZES).tolist() == [
        1,
        32,
        1024,
    ]
    assert index_of(np.array([[2, 5, 39, 31, 31], [1, 2, 3, 4, 5]]), NAMES, SIZES).tolist() == [
        737_279,
        1 * 245_760 + 2 * 40_960 + 3 * 1024 + 4 * 32 + 5,
    ]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([[0, 6, 0, 0, 0]], "scale is 6 in row 0 of factors: give 0 to 5"),
        ([[0, 0, 0, 0, 0], [0, 0, 0, -1, 0]], "position x is -1 in row 1 of factors: give 0 to 31"),
        ([[0, 0, 0, 0]], r"factors are int64 \(1, 4\): give whole numbers, one row an image, columns shape, scale"),
        ([0, 0, 0, 0, 0], r"factors are int64 \(5,\)"),
        ([[0.0, 0.0, 0.0, 0.0, 0.0]], "factors are float64"),
    ],
)
def test_what_is_no_image_is_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        SPRITES.images(np.array(factors))


# The pictures


def test_an_image_is_its_formula_laid_out_in_the_picture():
    """Against shapes that are drawn on all of the picture and moved in it, sample by sample, without masks."""
    fine = sprites._FINE
    line = (np.arange(SIZE * fine) + 0.5) / fine
    factors = np.stack([RNG.integers(size, size=12) for size in SIZES], 1)
    factors[:, 0] = np.arange(12) % 3
    for row, picture in zip(factors, SPRITES.images(factors), strict=True):
        shape, scale, orientation, px, py = row.tolist()
        right = line[None, :] - (16.5 + px + sprites._PIVOT[0])
        up = (16.5 + py - sprites._PIVOT[1]) - line[:, None]
        turned = (right + 1j * up) * np.exp(-1j * ANGLES[orientation]) / SCALES[scale]
        inside = sprites._INSIDE[SHAPES[shape]](turned.real, turned.imag)
        share = inside.reshape(SIZE, fine, SIZE, fine).mean((1, 3))
        wrong = (picture[0] > 0) != (share >= 0.5)
        assert (np.abs(share - 0.5)[wrong] < 1.5 / fine**2).all()  # a sample upon the edge may fall on either side
        assert wrong.sum() <= 2


def test_images_are_bytes_of_black_and_white():
    images = SPRITES.images(np.array([[0, 0, 0, 0, 0], [2, 5, 39, 31, 31]]))
    assert (images.shape, images.dtype) == ((2, 1, 64, 64), np.uint8)
    assert set(np.unique(images).tolist()) == {0, 255}
    assert SPRITES.images(np.empty((0, 5), int)).shape == (0, 1, 64, 64)
    images[:] = 7  # the caller's own
    assert image(0, 0, 0, 0, 0).max() == 1


@pytest.mark.parametrize("scale", range(6))
def test_areas_are_those_of_the_formulas(scale):
    heart = 3.66197 * 10.5**2  # of the sextic, by numerical integration
    for shape, area in ((SQUARE, 22.0**2), (ELLIPSE, np.pi * 14 * 9), (HEART, heart)):
        drawn = np.mean([image(shape, scale, k, 16, 16).sum() for k in range(0, 39, 3)])
        assert drawn == pytest.approx(area * SCALES[scale] ** 2, rel=0.01)


def test_positions_are_pixels_to_the_right_and_down_and_cut_nothing():
    for shape in range(3):
        for orientation in (0, 5, 22):
            first = image(shape, 5, orientation, 0, 0)
            for x, y in ((31, 0), (0, 31), (31, 31), (7, 20)):
                moved = image(shape, 5, orientation, x, y)
                assert np.array_equal(moved, np.roll(first, (y, x), (0, 1)))  # what is cut or wraps would differ
                assert not moved[[0, -1]].any()
                assert not moved[:, [0, -1]].any()
    (x, y), _ = moments(image(ELLIPSE, 5, 0, 16, 16))
    assert (x, y) == (pytest.approx(32.0 + 0.3, abs=0.1), pytest.approx(-(32.0 - 0.2), abs=0.1))


def test_the_ellipse_turns_anticlockwise_by_the_angle():
    for k in (0, 3, 9, 15):
        _, spread = moments(image(ELLIPSE, 5, k, 10, 20))
        # The second moments of an ellipse with half axes a, b are a^2 / 4 and b^2 / 4, turned.
        turn = np.array([[np.cos(ANGLES[k]), -np.sin(ANGLES[k])], [np.sin(ANGLES[k]), np.cos(ANGLES[k])]])
        assert spread == pytest.approx(turn @ np.diag([49.0, 20.25]) @ turn.T, abs=1.0)


def test_the_heart_stands_on_its_point_and_turns_about_its_centre_of_mass():
    upright = image(HEART, 5, 0, 16, 16)
    rows = np.flatnonzero(upright.any(1))
    assert upright[rows[0]].sum() > upright[rows[-1]].sum()  # two lobes above, a point below
    centres = [moments(image(HEART, 5, k, 16, 16))[0] for k in range(39)]
    assert np.ptp(centres, axis=0).max() < 0.25
    assert np.mean(centres, 0) == pytest.approx([32.3, -31.8], abs=0.05)


def test_no_two_masks_are_equal_but_the_first_and_the_last_orientation():
    masks = sprites.masks()
    assert np.array_equal(masks[:, :, 0], masks[:, :, 39])
    assert len({mask.tobytes() for mask in masks[:, :, :39].reshape(3 * 6 * 39, -1)}) == 3 * 6 * 39
    with pytest.raises(ValueError, match="read-only"):
        masks[0, 0, 0, 0, 0] = 1
