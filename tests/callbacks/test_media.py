import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.media import beside, labelled_grid, save_picture, to_uint8
from tests.callbacks.toy import toy_trainer


def flat(value, n=1, size=8, channels=3):
    return torch.full((n, channels, size, size), float(value))


def test_grey_levels_are_exact_and_cut_off_outside():
    levels = torch.arange(256.0).div(127.5).sub(1)
    assert to_uint8(levels.reshape(1, 1, 16, 16)).reshape(256, 3)[:, 1].tolist() == list(range(256))
    assert to_uint8(flat(-3)).max() == 0
    assert to_uint8(flat(3)).min() == 255


def test_grid_holds_each_image_in_its_place():
    columns = [torch.cat([flat(-1), flat(0)]), torch.cat([flat(0.5), flat(1)])]
    picture = labelled_grid(columns, ["left", "right"], ["0", "1"], least_width=100)
    side = 8 * 7  # 2 columns of 8 pixels need a factor of 7 to be 100 wide
    top = picture.shape[0] - 2 * (side + 4)
    left = picture.shape[1] - 2 * (side + 4)
    for row, column, level in ((0, 0, 0), (1, 0, 128), (0, 1, 191), (1, 1, 255)):
        y, x = top + row * (side + 4), left + column * (side + 4)
        assert (picture[y : y + side, x : x + side] == level).all()
        assert (picture[y : y + side, x + side : x + side + 4] == 255).all()
    assert (picture[:top, left : left + side] < 255).any(), "no heading"
    assert (picture[top:, :left] < 255).any(), "no row label"


def test_small_images_fill_the_width_and_large_ones_are_kept():
    assert labelled_grid([flat(0)], ["x"], least_width=900).shape[1] >= 900
    assert labelled_grid([flat(0, size=1000)], ["x"], least_width=900).shape[1] == 1004


def test_a_heading_never_runs_into_the_next_column():
    # Blank second heading: any ink above the second column came from the first.
    picture = labelled_grid([flat(1), flat(1)], ["a very long heading " * 5, ""], least_width=100)
    side = 8 * 7
    assert (picture[:, :side] < 255).any()
    assert (picture[:, side + 4 :] == 255).all()


def test_grid_refuses_columns_of_different_shapes():
    with pytest.raises(ValueError, match="one shape and a heading for each"):
        labelled_grid([flat(0), flat(0, n=2)], ["a", "b"])


def test_beside_puts_white_between():
    picture = beside(np.zeros((2, 3, 3), np.uint8), np.ones((2, 4, 3), np.uint8), gap=5)
    assert picture[0, :, 0].tolist() == [0] * 3 + [255] * 5 + [1] * 4


def test_saved_picture_is_read_back_and_no_temporary_file_stays(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_picture(toy_trainer(tmp_path), "media/translations", image)
    file = tmp_path / "pictures" / "media" / "translations" / "0000000.png"
    assert (np.asarray(Image.open(file)) == image).all()
    assert list(file.parent.iterdir()) == [file]


def test_a_float_picture_is_refused(tmp_path):
    with pytest.raises(TypeError, match="uint8"):
        save_picture(toy_trainer(tmp_path), "media/x", np.zeros((5, 7, 3), np.float32))
