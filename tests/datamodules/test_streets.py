import numpy as np
import pytest

from datamodules.procedural.raster import Camera, Canvas, Surface
from datamodules.procedural.streets import (
    CLASSES,
    CONTENT,
    CONTENT_RANGES,
    DOMAINS,
    PALETTE,
    STYLE,
    planes,
    street,
)
from datamodules.procedural.streets_content import draw_scene

WEATHERS = [domain for domain in DOMAINS if STYLE[domain]]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((a.astype(float) - b) ** 2)))


def mean_psnr(domain: str, other: str, draw: int) -> float:
    pairs = [(street(5, i, domain, 64, 64), street(5, i, other, 64, 64, draw)) for i in range(20)]
    return float(np.mean([psnr(a.image, b.image) for a, b in pairs]))


def test_names_agree():
    assert DOMAINS == ("day", "night", "rain", "snow", "fog", "dusk", "labels", "sketch")
    assert tuple(STYLE) == DOMAINS
    assert PALETTE.shape == (len(CLASSES), 3)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(CLASSES)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 40), (512, 512)])
def test_every_domain_at_every_size(domain, size):
    scene = street(1, 2, domain, *size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == scene.semantic.dtype == np.uint8
    assert scene.semantic.shape == size
    assert scene.content.shape == (len(CONTENT),)
    assert scene.style.shape == (len(STYLE[domain]),)
    assert scene.domain == DOMAINS.index(domain)
    assert scene.image.std() > 10  # there is something to see


@pytest.mark.parametrize("size", [(32, 512), (512, 32)])
def test_extreme_shapes_show_a_road_and_a_sky(size):
    seen = set(np.unique(street(0, 0, "day", *size).semantic).tolist())
    assert {CLASSES.index("sky"), CLASSES.index("building"), CLASSES.index("road")} <= seen


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_arguments_same_arrays(domain):
    first, again = (street(3, 7, domain, 64, 64, 1) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    turned = planes(3, seed=3, first=4, domain=domain, height=64, width=64, draw=1)
    assert np.array_equal(turned.transpose(1, 2, 0), first.image)


def test_content_depends_on_seed_and_index_only():
    first = street(3, 7, "day", 64, 64)
    for domain in DOMAINS:
        for size, draw in (((64, 64), 0), ((64, 64), 3), ((32, 96), 0), ((256, 256), 1)):
            other = street(3, 7, domain, *size, draw)
            assert np.array_equal(other.content, first.content)
            if size == (64, 64):
                assert np.array_equal(other.semantic, first.semantic)
    assert not np.array_equal(street(4, 7, "day", 64, 64).content, first.content)
    assert not np.array_equal(street(3, 8, "day", 64, 64).content, first.content)


@pytest.mark.parametrize("domain", WEATHERS)
def test_style_depends_on_domain_and_draw_not_on_size(domain):
    first = street(3, 7, domain, 64, 64)
    assert np.array_equal(street(3, 7, domain, 32, 128).style, first.style)
    other = street(3, 7, domain, 64, 64, 1)
    assert not np.array_equal(other.style, first.style)
    assert not np.array_equal(other.image, first.image)
    assert first.style.min() >= 0
    assert first.style.max() <= 1


@pytest.mark.parametrize("domain", ["labels", "sketch"])
def test_drawings_have_no_style(domain):
    assert np.array_equal(street(3, 7, domain, 64, 64, 5).image, street(3, 7, domain, 64, 64).image)


def test_labels_are_the_palette_of_the_semantic_map():
    for index in range(10):
        scene = street(0, index, "labels", 64, 64)
        assert np.array_equal(scene.image, PALETTE[scene.semantic])


def test_classes_are_visible_at_64():
    maps = [street(0, index, "labels", 64, 64) for index in range(40)]
    share = np.mean([np.bincount(m.semantic.ravel(), minlength=len(CLASSES)) > 0 for m in maps], axis=0)
    everywhere = ("sky", "building", "window", "road", "marking", "sidewalk")
    assert all(share[CLASSES.index(name)] == 1 for name in everywhere)
    # Whatever the content counts can be found in the map, unless something stands in front of it.
    for name, count in (("car", "n_cars"), ("tree", "n_trees"), ("person", "n_people"), ("lamp", "n_lamps")):
        counted = [m.content[CONTENT.index(count)] > 0 for m in maps]
        found = [(m.semantic == CLASSES.index(name)).sum() >= 4 for m in maps]
        assert not any(f and not c for f, c in zip(found, counted, strict=True))
        assert sum(found) >= 0.9 * sum(counted)


def test_content_stays_in_its_ranges_and_fills_them():
    vectors = np.stack([draw_scene(np.random.default_rng([1, 9, i])).vector() for i in range(400)])
    low, high = np.array(list(CONTENT_RANGES.values())).T
    assert (vectors >= low - 1e-4).all()
    assert (vectors <= high + 1e-4).all()
    for name in ("n_cars", "n_trees", "n_people", "n_lamps", "n_buildings", "sun_side"):
        column = vectors[:, CONTENT.index(name)]
        assert (column.min(), column.max()) == CONTENT_RANGES[name], name


@pytest.mark.parametrize("domain", ["day", "night"])
def test_two_styles_of_a_scene_are_23_to_26_db_apart(domain):
    assert 23.0 <= mean_psnr(domain, domain, draw=1) <= 26.0


@pytest.mark.parametrize("domain", ["rain", "snow", "fog", "dusk"])
def test_two_styles_in_other_weather_are_above_20_db(domain):
    assert 20.0 <= mean_psnr(domain, domain, draw=1) <= 29.0


def test_day_is_7_to_10_db_from_night():
    assert 7.0 <= mean_psnr("day", "night", draw=0) <= 10.0


def test_lit_windows_show_by_day():
    by_day: dict[bool, list[float]] = {True: [], False: []}
    for index in range(12):
        day, night = street(2, index, "day", 128, 128), street(2, index, "night", 128, 128)
        window = day.semantic == CLASSES.index("window")
        red, shine = day.image[..., 0].astype(float) - day.image[..., 2], night.image[..., 0] > 190
        for lit in (True, False):
            by_day[lit].extend(red[window & (shine == lit)])
    # Where a window shines at night there is a warm blind by day; elsewhere the pane is blue.
    assert np.percentile(by_day[True], 10) > np.percentile(by_day[False], 75)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="'dawn'; choose one of day, night, rain"):
        street(0, 0, "dawn", 64, 64)
    with pytest.raises(ValueError, match="16x64 cannot be rendered; each side must be 32 to 512"):
        street(0, 0, "day", 16, 64)
    with pytest.raises(ValueError, match="must be 32 to 512"):
        street(0, 0, "day", 64, 513)
    with pytest.raises(ValueError, match="0 or more, not -1, 0 and 0"):
        street(-1, 0, "day", 64, 64)


def test_canvas_recovers_points_of_a_wall_and_of_the_floor():
    camera = Camera(vanishing_x=0.4, horizon=0.5, x=0.5, height=2.0, focal=0.8)
    canvas = Canvas(camera, 64, 64)
    canvas.fill([(-50, 0, 1), (50, 0, 1), (50, 0, 300), (-50, 0, 300)], Surface((0.5, 0.5, 0.5), 1, camera.floor()))
    canvas.fill([(3, 0, 1), (3, 0, 20), (3, 9, 20), (3, 9, 1)], Surface((1.0, 0.0, 0.0), 2, camera.wall(3.0)))
    b, kinds = canvas.buffers(), canvas.semantic()
    inner = (b.colour[..., 0] == 1.0) & (b.colour[..., 1] == 0.0)
    np.testing.assert_allclose(b.x[inner], 3.0, atol=1e-3)
    floor = (kinds == 1) & (np.abs(b.colour[..., 1] - 0.5) < 0.01) & (b.z < 100)
    np.testing.assert_allclose(b.y[floor], 0.0, atol=1e-2)
    assert set(np.unique(kinds)) == {0, 1, 2}
    # A pixel that the edge crosses mixes both sides, by area.
    edge = (b.sky > 0.05) & (b.sky < 0.95)
    assert edge.any()
    np.testing.assert_allclose(b.sky[kinds == 0][~edge[kinds == 0]], 1.0, atol=0.05)
