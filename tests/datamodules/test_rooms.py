import colorsys

import numpy as np
import pytest
import torch

from datamodules.cache import cache_folder
from datamodules.factor_files import Shapes3D
from datamodules.factor_grid import index_of
from datamodules.factors import FactorDataModule
from datamodules.procedural import rooms
from datamodules.procedural import rooms_cast as rc
from datamodules.procedural.rooms import HUES, NAMES, SIZES, Rooms, shares
from datamodules.procedural.rooms_cast import ANGLES, BODY, FLOOR, SCALES, SHAPES, WALL, WHITE

ROOMS = Rooms()
CUBE, CYLINDER, SPHERE = range(3)


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    """The views of this module are cast by this code, whatever lies in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        shares.cache_clear()
        yield
        shares.cache_clear()


def rng():
    return np.random.default_rng(0)


def some(n):
    return rng().integers(SIZES, size=(n, 6))


def distance(shape, points):
    """(N,) from points (3, N) to the surface of a shape at scale 1, negative inside, by geometry's own formulas."""
    x, y, z = points
    if shape == "cube":
        over = np.abs([x, y - rc._CUBE, z]) - rc._CUBE
    elif shape == "cylinder":
        radius, height = rc._CYLINDER
        over = np.array([np.hypot(x, z) - radius, np.abs(y - height / 2) - height / 2])
    else:
        radius, height = rc._CAPSULE if shape == "capsule" else (rc._SPHERE, 2 * rc._SPHERE)
        return np.sqrt(x * x + (y - np.clip(y, radius, height - radius)) ** 2 + z * z) - radius
    return np.linalg.norm(np.maximum(over, 0.0), axis=0) + np.minimum(over.max(0), 0.0)


# The grid


def test_the_grid_is_that_of_3d_shapes():
    assert Shapes3D.names == NAMES
    assert (np.prod(SIZES), SIZES) == (480_000, (10, 10, 10, 8, 4, 15))
    assert np.rad2deg(ANGLES[[0, 7, 14]]) == pytest.approx([-30.0, 0.0, 30.0])
    assert (SCALES[0], SCALES[-1], SHAPES) == (0.75, 1.25, ("cube", "cylinder", "sphere", "capsule"))
    assert index_of(np.array([[1, 2, 3, 4, 2, 6]]), NAMES, SIZES) == [
        ((((1 * 10 + 2) * 10 + 3) * 8 + 4) * 4 + 2) * 15 + 6
    ]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([[0, 0, 0, 0, 4, 0]], "shape is 4 in row 0 of factors: give 0 to 3"),
        ([[0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0]], "object hue is -1 in row 1 of factors: give 0 to 9"),
        ([[0, 0, 0, 0, 0]], r"factors are int64 \(1, 5\): give whole numbers, one row an image, columns floor hue"),
        ([[0.0] * 6], "factors are float64"),
    ],
)
def test_what_is_no_image_is_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        ROOMS.images(np.array(factors))


def test_images_are_colour_pictures_of_bytes_and_the_callers_own():
    factors = some(5)
    images = ROOMS.images(factors)
    assert (images.shape, images.dtype) == ((5, 3, 64, 64), np.uint8)
    assert images.shape[1:] == ROOMS.image_shape
    assert ROOMS.images(np.empty((0, 6), int)).shape == (0, 3, 64, 64)
    again = images.copy()
    images[:] = 7
    assert np.array_equal(ROOMS.images(factors[::-1]), again[::-1])  # an image depends on its own row alone


def test_hues_go_round_the_circle_from_red_at_full_saturation():
    assert np.array([colorsys.hsv_to_rgb(k / 10, 1.0, 1.0) for k in range(10)]) == pytest.approx(HUES / 5.0)
    with pytest.raises(ValueError, match="read-only"):
        HUES[0] = 0


def test_an_image_is_the_sum_of_its_surfaces_in_their_colours():
    factors = some(40)
    for row, picture in zip(factors, ROOMS.images(factors), strict=True):
        parts = rc.cast(int(index_of(row[None, 3:], NAMES[3:], SIZES[3:])[0])) / 255.0
        colours = [colorsys.hsv_to_rgb(hue / 10, 1.0, 1.0) for hue in row[:3]] + [(1.0, 1.0, 1.0)]
        exact = sum(part * 255.0 * np.array(rgb)[:, None, None] for part, rgb in zip(parts, colours, strict=True))
        assert np.abs(picture - exact).max() <= 0.4 + 1e-6  # fifths, rounded to the nearest byte


# No two images are equal


def test_no_two_of_480000_images_are_equal():
    """Where one surface alone fills a pixel, the brightest channel is its share and that of white, whatever the hue.

    So two views that differ there give two images, in any hues; and of one view, such a pixel of each surface without
    white tells the ten hues apart.
    """
    seen = shares().astype(np.int16)
    alone = (seen[:, : BODY + 1] > 0).sum(1) == 1
    brightest = np.where(alone, seen.sum(1), -1)
    fewest = 4096
    for i in range(479):
        one, others = brightest[i], brightest[i + 1 :]
        fewest = min(fewest, ((one != others) & (one >= 0) & (others >= 0)).sum(1).min())
    assert fewest >= 100

    told = alone & (seen[:, WHITE] == 0)
    for part in (FLOOR, WALL, BODY):
        share = np.where(told, seen[:, part], 0).max(1)
        assert share.min() > 100
        for each in np.unique(share):
            assert len(np.unique(np.rint(each * HUES / 5.0), axis=0)) == 10


def test_no_byte_overflows_and_nothing_is_black():
    total = shares().sum(1, dtype=int)
    assert total.max() <= 255
    assert total.min() > 255 * (rc._AMBIENT - rc._FROM_ABOVE) ** (1 / rc._GAMMA) - 2


# The cache


def test_views_are_cast_once_and_kept(monkeypatch):
    for index in (0, 77, 222, 479):
        assert np.array_equal(shares()[index].reshape(4, 64, 64), rc.cast(index))
    with pytest.raises(ValueError, match="read-only"):
        shares()[0, 0, 0] = 1
    files = sorted(cache_folder().glob("views-of-rooms-64x64-*.npy"))
    assert len(files) == 1
    first = shares()
    monkeypatch.setattr(rooms, "cast", None)  # calling it would raise
    shares.cache_clear()
    assert np.array_equal(shares(), first)
    monkeypatch.setattr(rooms, "VERSION", rooms.VERSION + 1)
    shares.cache_clear()
    with pytest.raises(TypeError, match="not callable"):  # other pixels are another file
        shares()
    assert ROOMS.fingerprint() == f"rooms version {rooms.VERSION}"
    monkeypatch.undo()
    shares.cache_clear()


def test_a_datamodule_serves_them():
    data = FactorDataModule(ROOMS, val_images=10, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    image, factors = next(iter(data.train_dataloader()))
    assert torch.equal(image, torch.from_numpy(ROOMS.images(factors.numpy())))
    assert (image.shape, len(factors.unique(dim=0))) == ((4, 3, 64, 64), 4)
    assert data.fingerprint("test") == "rooms version 1, 10 of test"


# The rays


def random_rays(n):
    draw = rng()
    origin = draw.uniform(-5.0, 5.0, (3, n)) + np.array([[0.0], [5.0], [0.0]])
    aim = draw.uniform(-1.3, 1.3, (3, n)) + np.array([[0.0], [1.1], [0.0]])
    ray = (aim - origin) * draw.choice([-1.0, 0.3, 2.0], n)  # some look away; a length is no matter
    ray[:, :6] = ray[:, 6:12] = np.repeat(np.eye(3), 2, axis=1) * np.array([1.0, -1.0] * 3)  # along the axes
    origin[:, :12] = np.array([[0.2], [0.9], [0.1]]) - 4.0 * ray[:, :12]
    origin[:, 6:12] += np.roll(np.abs(ray[:, 6:12]), 1, axis=0) * 3.0  # past it
    return origin, ray


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ray_enters_where_walking_along_it_first_comes_inside(shape):
    origin, ray = random_rays(3000)
    outside = distance(shape, origin) > 0.0
    origin, ray = origin[:, outside], ray[:, outside]
    found = rc.body(shape, 1.0).enter(origin, ray)
    # Sphere tracing: no step is longer than the distance to the surface, so that none can be stepped over.
    t, length = np.zeros(len(found)), np.linalg.norm(ray, axis=0)
    for _ in range(400):
        t += np.maximum(distance(shape, origin + t * ray), 0.0) / length
    reached = distance(shape, origin + t * ray) < 1e-6
    assert 200 < reached.sum() < len(found) - 200
    touching = np.isfinite(found) != reached
    assert touching.sum() <= 3  # rays along the surface: steps get ever smaller
    both = reached & ~touching
    assert both[:6].all()
    assert not reached[6:12].any()
    assert np.abs(found - t)[both] * length[both] == pytest.approx(0.0, abs=1e-3)
    assert np.abs(distance(shape, origin[:, both] + found[both] * ray[:, both])).max() < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_gradients_of_the_distance(shape):
    solid = rc.body(shape, 1.0)
    origin, ray = random_rays(3000)
    found = solid.enter(origin, ray)
    hit = np.isfinite(found) & (distance(shape, origin) > 0.0)
    point = origin[:, hit] + found[hit] * ray[:, hit]
    step = 1e-5
    axes = step * np.eye(3)[:, :, None]
    slope = np.stack([distance(shape, point + a) - distance(shape, point - a) for a in axes]) / (2 * step)
    smooth = np.abs(np.linalg.norm(slope, axis=0) - 1.0) < 1e-3  # not on an edge
    assert smooth.mean() > 0.99
    assert solid.normal(point)[:, smooth] == pytest.approx(slope[:, smooth], abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_is_a_length(shape):
    """A body that is s times as large, from s times as far away, is entered at the same t."""
    origin, ray = random_rays(500)
    found = rc.body(shape, 1.0).enter(origin, ray)
    assert rc.body(shape, 0.8).enter(0.8 * origin, 0.8 * ray) == pytest.approx(found)


def test_the_sphere_covers_the_ellipse_that_perspective_makes_of_it():
    for scale in (0.75, 1.25):
        radius, centre = rc._SPHERE * scale, np.array([0.0, rc._SPHERE * scale, 0.0])
        for angle in ANGLES[[0, 7, 11]]:
            eye, rays = rc.camera(angle)
            to_centre = centre - eye[:, 0]
            forward = np.array([0.0, rc._AIM, 0.0]) - eye[:, 0]
            cosine = to_centre @ forward / np.linalg.norm(to_centre) / np.linalg.norm(forward)
            sine2 = radius**2 / (to_centre @ to_centre)  # of the cone's half angle
            # Axes of the section of a cone by the plane at distance 1.
            area = np.pi * sine2 * np.sqrt(1 - sine2) * cosine / (cosine**2 - sine2) ** 1.5
            covered = np.isfinite(rc.body("sphere", scale).enter(eye, rays)).mean() * (2 * rc._HALF_WIDTH) ** 2
            assert covered == pytest.approx(area, rel=0.005)


def test_the_camera_goes_round_and_looks_at_the_axis():
    for angle in ANGLES:
        eye, rays = rc.camera(angle)
        assert eye[:, 0] == pytest.approx([rc._DISTANCE * np.sin(angle), rc._EYE, rc._DISTANCE * np.cos(angle)])
        middle = rays.mean(1)
        assert eye[:, 0] + middle * np.hypot(rc._DISTANCE, rc._EYE - rc._AIM) == pytest.approx([0.0, rc._AIM, 0.0])
        corners = rays.reshape(3, 256, 256)[:, [0, 0, -1, -1], [0, -1, 0, -1]] - middle[:, None]
        edge = rc._HALF_WIDTH * 255 / 256
        assert corners[1, 0] == corners[1, 1] > 0.0 > corners[1, 2]  # upper rows first
        across = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        assert across @ corners == pytest.approx([-edge, edge, -edge, edge])  # left columns first


# The pictures


def traced(row, column, radius, angle):
    """(4,) shares of a pixel with a sphere of some radius on the floor, sample by sample in plain vectors."""
    eye, rays = rc.camera(angle)
    pixels = np.arange(256 * 256).reshape(256, 256)[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
    lamps = rc._lamp()[:, pixels].T
    centre, eye = np.array([0.0, radius, 0.0]), eye[:, 0]
    # The room's planes by points and inward normals: floor, left, right, back.
    planes = [
        (FLOOR, (0, 0, 0), (0, 1, 0)),
        (WALL, rc._LOW[:, 0], (1, 0, 0)),
        (WALL, rc._HIGH[:, 0], (-1, 0, 0)),
        (WALL, rc._LOW[:, 0], (0, 0, 1)),
    ]
    total = np.zeros(4)
    for ray, lamp in zip(rays[:, pixels].T, lamps, strict=True):
        ray = ray / np.linalg.norm(ray)
        along = (centre - eye) @ ray
        missed = np.linalg.norm(eye + along * ray - centre)
        if missed < radius:
            part, point = BODY, eye + (along - np.sqrt(radius**2 - missed**2)) * ray
            normal = (point - centre) / radius
        else:
            ahead = [
                ((np.array(at) - eye) @ n / (ray @ n), part, np.array(n, float))
                for part, at, n in planes
                if ray @ n < 0
            ]
            t, part, normal = min(ahead, key=lambda each: each[0])
            point = eye + t * ray
        towards = lamp - point
        far = np.linalg.norm(towards)
        light = towards / far
        nearest = point + np.clip((centre - point) @ light, 0.0, far) * light
        lit = part == BODY or np.linalg.norm(nearest - centre) > radius
        lambert = max(normal @ light, 0.0) * lit
        energy = rc._AMBIENT + rc._FROM_ABOVE * normal[1] + rc._DIRECT * lambert * (rc._REACH / far) ** 2
        gloss = 0.0
        if part == BODY and lambert > 0:
            half = (light - ray) / np.linalg.norm(light - ray)
            gloss = rc._GLOSS * max(normal @ half, 0.0) ** rc._SHARPNESS
        total[part] += energy ** (1 / rc._GAMMA) * (1 - gloss)
        total[WHITE] += gloss
    return total / 16


@pytest.mark.parametrize(("scale", "angle"), [(0.75, -0.4), (1.25, 0.1), (1.0, 0.5)])
def test_a_view_is_what_one_ray_after_the_other_sees(scale, angle):
    seen = rc.view(rc.body("sphere", scale), angle)
    parts = set()
    for row, column in rng().integers(0, 64, (150, 2)).tolist():
        exact = traced(row, column, rc._SPHERE * scale, angle)
        assert seen[:, row, column] == pytest.approx(exact, abs=1e-9)
        parts |= set(np.flatnonzero(exact > 0.01).tolist())
    assert parts >= {FLOOR, WALL, BODY}
    row, column = np.unravel_index(seen[WHITE].argmax(), (64, 64))
    assert seen[WHITE, row, column] > 0.3
    assert seen[:, row, column] == pytest.approx(traced(row, column, rc._SPHERE * scale, angle), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shadow_falls_away_from_the_lamp_and_is_soft(shape):
    """To the right of the body and behind it, as the lamp hangs in front on the left."""
    elsewhere = rc.Body(lambda origin, ray: np.full(ray.shape[1], np.inf), lambda point: point)
    empty, seen = rc.view(elsewhere, 0.0), rc.view(rc.body(shape, 1.0), 0.0)
    floor = (seen[FLOOR] > 0) & (seen[BODY] == 0) & (seen[WALL] == 0) & (empty[WALL] == 0)
    ratio = np.where(floor, seen[FLOOR] / np.where(floor, empty[FLOOR], 1.0), 1.0)
    assert ratio.max() <= 1.0 + 1e-12
    rows, columns = np.nonzero(ratio < 0.99)
    assert len(rows) > 40
    assert columns.mean() > 36
    lit_by_the_room = (rc._AMBIENT + rc._FROM_ABOVE) ** (1 / rc._GAMMA)
    assert (seen[FLOOR][floor]).min() == pytest.approx(lit_by_the_room)  # in full shadow
    shadowed = ratio[ratio < 0.99]
    assert len(np.unique(shadowed.round(2))) >= 8


def test_objects_stand_in_the_middle_whole_and_grow():
    seen = shares().reshape(8, 4, 15, 4, 64, 64)
    covered = (seen[:, :, :, BODY] > 0) | (seen[:, :, :, WHITE] > 0)
    border = np.ones((64, 64), bool)
    border[4:-4, 4:-4] = False
    assert not (covered & border).any()
    areas = covered.sum((-1, -2))
    assert (np.diff(areas, axis=0) > 0).all()
    assert areas.min() > 80
    rows, columns = np.indices((64, 64))
    middle = (covered * columns).sum((-1, -2)) / areas - 31.5
    assert np.abs(middle[:, CYLINDER:]).max() < 0.02  # seen from anywhere alike
    assert np.abs(middle[:, CUBE]).max() < 2.0
    feet = (covered * rows).max((-1, -2))
    assert (np.diff(feet.astype(int), axis=0) >= 0).all()  # nearer the camera as they grow, not in the air


def test_every_view_shows_a_corner_of_the_room():
    for angle in ANGLES:
        eye, rays = rc.camera(angle)
        assert (np.abs(eye) < np.abs([[4.0], [12.0], [9.0]])).all()  # it stays inside
        axis = rc._leave(eye, rays)[1]
        share = np.bincount(axis, minlength=3) / len(axis)
        assert share.min() > 0.01
        if abs(angle) > 0.2:  # from the right the left wall is seen, and the other way round
            assert (np.sign(rays[0, axis == 0]) == -np.sign(angle)).all()
    views = shares().reshape(8, 4, 15, 4, 64, 64)
    assert not np.array_equal(views[0, SPHERE, 0], views[0, SPHERE, 14, ..., ::-1])  # the lamp is on one side
