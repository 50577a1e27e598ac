"""Sizes, and tiles that agree with the whole."""

import pytest
import torch
from torch import Tensor, nn

from pictures.tiles import at_any_size, fade, in_tiles, least_tile, pad, reflected, starts


class Blur(nn.Module):
    """Looks ``radius`` pixels far, in two layers with a stride and a nonlinearity between; reflects at borders."""

    radius = 4 + 1 + 4  # 5x5 taps at half the resolution see 4 pixels, rounding to even ones costs one

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.down = torch.rand(4, 3, 2, 2, generator=rng)
        self.mix = torch.rand(12, 4, 5, 5, generator=rng) / 50
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        self.seen.append(tuple(x.shape[-2:]))
        code = torch.tanh(nn.functional.conv2d(x, self.down, stride=2))
        code = nn.functional.conv2d(nn.functional.pad(code, (2, 2, 2, 2), mode="reflect"), self.mix)
        return nn.functional.pixel_shuffle(code, 2)


def picture(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (16, 16), (17, 31), (64, 18), (100, 7)])
@pytest.mark.parametrize(("multiple", "smallest"), [(1, 1), (4, 8), (4, 16), (16, 16), (6, 10)])
def test_padding_is_legal_and_comes_off(size: tuple[int, int], multiple: int, smallest: int) -> None:
    x = picture(*size)
    padded, window = pad(x, multiple, smallest)
    assert torch.equal(padded[..., window.rows, window.columns], x)
    for side, legal in zip(size, padded.shape[-2:], strict=True):
        assert legal % multiple == 0
        assert legal >= smallest
        assert legal - side < max(multiple, smallest + multiple - side)
    assert torch.equal(at_any_size(lambda y: y * 2, x, multiple, smallest, 1000).pixels, x * 2)


def test_padding_reflects() -> None:
    assert reflected(4, 3, 12).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    x = picture(9, 13)
    padded, _ = pad(x, 16, 16)
    assert torch.equal(padded, nn.functional.pad(x, (1, 2, 3, 4), mode="reflect"))


@pytest.mark.parametrize("side", [40, 64, 66, 100, 158, 230])
@pytest.mark.parametrize(("tile", "multiple"), [(40, 2), (48, 4), (64, 16), (40, 1)])
def test_tiles_cover_and_overlap(side: int, tile: int, multiple: int) -> None:
    side = side // multiple * multiple
    overlap = tile // 4 // multiple * multiple
    first = starts(side, tile, overlap, multiple)
    assert first[0] == 0
    assert first[-1] == max(side - tile, 0)
    assert all(start % multiple == 0 for start in first)
    assert all(0 < b - a <= tile - overlap for a, b in zip(first, first[1:], strict=False))
    weight = torch.zeros(side)
    for start in first:
        length = min(tile, side)
        weight[start : start + length] += fade(start, length, side, overlap)
    assert weight.min() > 0.4


@pytest.mark.parametrize("size", [(200, 150), (151, 303), (60, 400), (401, 59)])
def test_tiles_are_the_whole_where_the_overlap_is_four_radii(size: tuple[int, int]) -> None:
    net, x = Blur(), picture(*size)
    whole = at_any_size(net, x, 2, 6, 1000)
    tile = 16 * Blur.radius  # the overlap is a quarter of it
    tiled = at_any_size(net, x, 2, 6, tile)
    assert (whole.tiles, whole.disagreement) == (1, 0)
    assert tiled.tiles > 1
    assert all(max(seen) <= tile for seen in net.seen[1:])
    assert tiled.pixels.shape == x.shape
    torch.testing.assert_close(tiled.pixels, whole.pixels, rtol=0, atol=2e-6)


def test_a_smaller_overlap_would_show() -> None:
    """The test above can fail: with tiles of half that side, borders are seen."""
    net, x = Blur(), picture(200, 150)
    whole = at_any_size(net, x, 2, 6, 1000).pixels
    assert (at_any_size(net, x, 2, 6, 3 * Blur.radius).pixels - whole).abs().max() > 1e-3


def test_instance_normalisation_disagrees_and_that_is_measured() -> None:
    x = picture(128, 128)
    x[..., 64:] += 1.0

    def net(y: Tensor) -> Tensor:
        return y - y.mean((2, 3), keepdim=True)

    tiled = in_tiles(net, x, 64, 4)
    assert tiled.disagreement > 0.05
    constant = in_tiles(lambda y: y + y.shape[-1], x, 64, 4)
    assert constant.disagreement < 1e-6


def test_seams_are_smooth() -> None:
    """Two tiles of different tone blend without a step."""
    tones = iter([0.0, 1.0])
    y = in_tiles(lambda x: torch.full_like(x, next(tones)), torch.zeros(1, 3, 64, 112), 64, 4).pixels
    assert y.min() == 0
    assert y.max() == 1
    assert y.diff(dim=-1).abs().max() < 0.25  # sixteen pixels overlap, of which eight blend


def test_several_results_of_one_picture() -> None:
    x = picture(100, 130)
    styles = torch.arange(3.0).view(3, 1, 1, 1)
    result = at_any_size(lambda y: y.expand(3, -1, -1, -1) + styles, x, 4, 8, 64)
    torch.testing.assert_close(result.pixels, x + styles)


def test_the_least_tile_works() -> None:
    for multiple, smallest in ((1, 1), (4, 16), (4, 18), (16, 16)):
        tile = least_tile(multiple, smallest)
        x = picture(5 * tile + 1, 3 * tile - 1)
        torch.testing.assert_close(at_any_size(lambda y: y, x, multiple, smallest, tile).pixels, x)
