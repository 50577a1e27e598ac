"""Paints the shapes of a street scene onto a canvas, from far to near."""

from __future__ import annotations

import numpy as np

from datamodules.procedural.raster import Canvas, Colour, Surface, disc, pool, wheel
from datamodules.procedural.streets_content import FLOOR, Building, Car, Lamp, Person, Scene, Tree

CLASSES: tuple[str, ...] = (
    "sky",
    "building",
    "window",
    "road",
    "marking",
    "sidewalk",
    "terrain",
    "tree",
    "car",
    "person",
    "lamp",
)
SKY, BUILDING, WINDOW, ROAD, MARKING, SIDEWALK, TERRAIN, TREE, CAR, PERSON, LAMP = range(len(CLASSES))

# Outline numbers: no line is drawn between surfaces that share one.
_ROAD_LINE, _WALK_LINE, _TREE_LINE = 1, 2, 100

FAR = 160.0  # where the street ends
_ASPHALT: Colour = (0.50, 0.51, 0.55)
_PAVEMENT: Colour = (0.72, 0.70, 0.67)
_GRASS: Colour = (0.55, 0.70, 0.38)
_PAINT: Colour = (0.84, 0.84, 0.82)
_GLASS: Colour = (0.42, 0.50, 0.60)
_BLIND: Colour = (0.94, 0.79, 0.44)  # a drawn blind by day marks the window that is lit at night
_REFLECTION: Colour = (0.50, 0.59, 0.69)  # of the sky, in the upper half of a pane
_LIT: Colour = (1.0, 0.70, 0.30)
_LIT_TOP: Colour = (1.0, 0.84, 0.50)

# Corners of a window, from its sill: half widths along the street, heights, the frame's margin, the upper third.
_ACROSS = np.array([(0, 0, -1), (0, 0, 1), (0, 0, 1), (0, 0, -1)], np.float32)
_UP = np.array([(0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0)], np.float32)
_SILL = np.array((0, 0.16, 0), np.float32)
_TOP = np.array([(0, 1.15, 0), (0, 1.15, 0), (0, 1.75, 0), (0, 1.75, 0)], np.float32)

# A tree crown of radius 1: four round blobs, in three ever smaller and brighter layers that wander to the light.
_BLOBS = ((-0.55, -0.25, 0.68), (0.55, -0.2, 0.66), (0.0, 0.42, 0.78), (0.0, -0.1, 0.8))
_LAYERS = ((0.0, 0.0, 1.0), (0.06, 0.12, 0.8), (0.1, 0.26, 0.5))
_CROWN = np.array([[disc(a + x, b + y, 0, c * r, c * r) for a, b, c in _BLOBS] for x, y, r in _LAYERS], np.float32)


def paint(scene: Scene, height: int, width: int) -> Canvas:
    """All shapes of a scene, on a canvas for an image of the given size."""
    canvas = Canvas(scene.camera, height, width)
    _ground(canvas, scene)
    for near, side, far in sorted(((n, s, f) for s, n, f in scene.parks), reverse=True):
        _hedge(canvas, scene, side, near, far)
    hidden = _hidden_below(scene)
    for building in scene.buildings:
        _building(canvas, building, scene.wall, hidden[building.side, building.near])
    things: list[Car | Tree | Person | Lamp] = [*scene.cars, *scene.trees, *scene.people, *scene.lamps]
    things.sort(key=lambda thing: -thing.z)
    for thing in things:
        _shadow(canvas, thing)
    for thing in things:
        if isinstance(thing, Car):
            _car(canvas, thing)
        elif isinstance(thing, Tree):
            _tree(canvas, thing)
        elif isinstance(thing, Person):
            _person(canvas, thing)
        else:
            _lamp(canvas, thing)
    return canvas


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """``colour`` with a share of ``other`` in it."""
    keep = 1.0 - share
    return (
        keep * colour[0] + share * other[0],
        keep * colour[1] + share * other[1],
        keep * colour[2] + share * other[2],
    )


def _dark(colour: Colour, share: float = 0.25) -> Colour:
    return mixed(colour, (0.08, 0.08, 0.16), share)


def _hidden_below(scene: Scene) -> dict[tuple[int, float], float]:
    """Up to which height the end wall of each building is covered by the next one."""
    hidden = {}
    for building in scene.buildings:
        fronts = [b for b in scene.buildings if b.side == building.side and abs(b.far - building.near) < 1e-6]
        hidden[building.side, building.near] = fronts[0].eaves if fronts else 0.0
    return hidden


def _level(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> list[tuple[float, float, float]]:
    return [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]


def _facing(x0: float, x1: float, y0: float, y1: float, z: float) -> list[tuple[float, float, float]]:
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def _along(x: float, y0: float, y1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
    return [(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)]


def _ground(canvas: Canvas, scene: Scene) -> None:
    camera, road, wall = scene.camera, scene.road, scene.wall
    floor = camera.floor()
    ridge = [(x, y, 250.0) for x, y in zip(np.linspace(-700, 700, 24), 3.0 * scene.skyline, strict=True)]
    hills = Surface((0.50, 0.62, 0.52), TERRAIN, camera.front(250.0), up=0.4)
    canvas.fill([(-700.0, 0.0, 250.0), *ridge, (700.0, 0.0, 250.0)], hills)
    canvas.fill(_level(-900, 900, 0.5, 300.0), Surface(_GRASS, TERRAIN, floor, up=1.0))
    near = 0.3  # nearer than anything in view
    walk = Surface(_PAVEMENT, SIDEWALK, floor, up=1.0, ground=1.0, outline=_WALK_LINE)
    kerb = Surface(_dark(_PAVEMENT, 0.3), SIDEWALK, floor, up=0.6, ground=1.0)
    canvas.fill(_level(-wall, wall, near, FAR), walk)
    canvas.fill(_level(-road - 0.22, road + 0.22, near, FAR), kerb)
    canvas.fill(_level(-road, road, near, FAR), Surface(_ASPHALT, ROAD, floor, up=1.0, ground=1.0, outline=_ROAD_LINE))
    marks = Surface(_PAINT, MARKING, floor, up=1.0, ground=1.0)
    dashes = [_level(-0.11, 0.11, z, z + 2.6) for z in (2.0, 6.6, 11.2, 15.8, 20.4, 25.0, 29.6, 34.2, 38.8, 43.4)]
    canvas.fill(dashes, marks)
    for side in (-1, 1):
        edge = side * (road - 0.28)
        canvas.fill(_level(edge - 0.07, edge + 0.07, near, FAR), marks)


def _hedge(canvas: Canvas, scene: Scene, side: int, near: float, far: float) -> None:
    """A garden between two houses, behind a hedge."""
    x = side * (scene.wall + 0.4)
    camera = scene.camera
    canvas.fill(
        _facing(x, x + side * 14.0, 0.0, 2.2, far - 0.3),
        Surface((0.40, 0.58, 0.34), TERRAIN, camera.front(far), up=0.2),
    )
    canvas.fill(_along(x, 0.0, 1.0, near, far), Surface((0.36, 0.56, 0.30), TERRAIN, camera.wall(x), side=-side))
    top = [(x, 1.0, near), (x, 1.0, far), (x + side * 0.8, 1.0, far), (x + side * 0.8, 1.0, near)]
    canvas.fill(top, Surface((0.46, 0.66, 0.36), TERRAIN, camera.wall(x), up=1.0))


def _building(canvas: Canvas, b: Building, wall_x: float, hidden: float) -> None:
    x, eaves = b.side * wall_x, b.eaves
    plane, depth = canvas.camera.wall(x), b.side * 9.0
    front = canvas.camera.front(max(b.near, 0.4))
    # The end that faces the camera, with its gable.
    end = _facing(x, x + depth, 0.0, eaves, b.near)
    if b.rise:
        end.insert(3, (x + depth / 2, eaves + b.rise, b.near))
    canvas.fill(end, Surface(_dark(b.wall, 0.12), BUILDING, front))
    if hidden < eaves - FLOOR:
        rows = np.arange(1, b.floors) * FLOOR + 1.0
        columns = x + b.side * np.array([1.3, 4.2, 7.1])
        _windows(canvas, b, wall_x, rows[rows > hidden], columns, front, end=True)
    # The roof leans away from the street, so it shows above the eaves.
    if b.rise:
        slope = [(x, eaves, b.near), (x, eaves, b.far)]
        slope += [(x + depth / 2, eaves + b.rise, b.far), (x + depth / 2, eaves + b.rise, b.near)]
        canvas.fill(slope, Surface(b.roof, BUILDING, plane, up=0.8, side=-0.4 * b.side))
    canvas.fill(_along(x, 0.0, eaves, b.near, b.far), Surface(b.wall, BUILDING, plane, side=-b.side))
    canvas.fill(
        _along(x, eaves - 0.35, eaves, b.near, b.far),
        Surface(mixed(b.wall, (1, 1, 1), 0.45), BUILDING, plane, up=0.3, side=-0.7 * b.side),
    )
    columns = np.arange(b.far - 0.5 * b.spacing, b.near + 0.4 * b.spacing, -b.spacing)
    _windows(canvas, b, wall_x, np.arange(b.shop, b.floors) * FLOOR + 1.1, columns, plane, end=False)
    if b.shop:
        _shop(canvas, b, x)
    else:
        plinth = Surface(_dark(b.wall, 0.3), BUILDING, plane, side=-b.side)
        canvas.fill(_along(x, 0.0, 0.55, b.near, b.far), plinth)


def _windows(
    canvas: Canvas, b: Building, wall_x: float, rows: np.ndarray, columns: np.ndarray, plane: Colour, *, end: bool
) -> None:
    """A grid of windows on the street front (``columns`` are distances) or on the end wall (then they are x)."""
    if not len(rows) or not len(columns):
        return
    half = 0.62 if end else 0.26 * b.spacing
    middle = np.empty((len(rows), len(columns), 3), np.float32)  # of the sill of each window
    middle[..., 1] = rows[:, None]
    middle[..., 0], middle[..., 2] = (columns, b.near) if end else (b.side * wall_x, columns)
    storey = np.rint((rows - 1.0) / FLOOR).astype(int)
    lit = b.lit[storey % 5][:, np.arange(len(columns)) % 16]
    if not end:  # leave out what lies outside the picture
        seen = columns + half + 0.2 > canvas.enters(b.side * wall_x)
        middle, lit = middle[:, seen], lit[:, seen]
    middle, lit = middle.reshape(-1, 1, 3), lit.ravel()
    across, up = (_ACROSS[:, ::-1] if end else _ACROSS), _UP
    side = 0.0 if end else -float(b.side)
    on, off = middle[lit], middle[~lit]
    pane = half * across + 1.75 * up
    frame = Surface(mixed(b.wall, (1, 1, 1), 0.2), BUILDING, plane, side=side)
    canvas.fill(middle + ((half + 0.16) * across + 2.07 * up - _SILL), frame)
    glass = Surface(_GLASS, WINDOW, plane, 0.15, 0.3 * side)
    blind = Surface(_BLIND, WINDOW, plane, 0.15, 0.3 * side, _LIT)
    canvas.fill(off + pane, glass)
    canvas.fill(on + pane, blind)
    if canvas.detailed:
        top = half * across + _TOP
        canvas.fill(off + top, glass._replace(colour=_REFLECTION))
        canvas.fill(on + top, blind._replace(colour=_dark(_BLIND, 0.1), glow=_LIT_TOP))


def _shop(canvas: Canvas, b: Building, x: float) -> None:
    plane, low, high = canvas.camera.wall(x), 0.5, 2.5
    near, far = max(b.near, 0.5) + 0.25, b.far - 0.5
    canvas.fill(_along(x, 0.0, FLOOR, b.near, b.far), Surface(_dark(b.wall, 0.25), BUILDING, plane, side=-b.side))
    canvas.fill(_along(x, low, high, near, far), Surface(_BLIND, WINDOW, plane, 0.15, -0.3 * b.side, _LIT))
    start = max(near, canvas.enters(x) - 1.0)
    posts = [_along(x, low, high, z, z + 0.14) for z in np.arange(far - 3.9, start, -1.6)]
    if posts:
        canvas.fill(posts, Surface(_dark(b.wall, 0.3), BUILDING, plane, side=-b.side))
    door = far - 1.2
    canvas.fill(_along(x, 0.0, high, door - 1.1, door), Surface(_dark(b.trim, 0.2), BUILDING, plane, side=-b.side))
    out = x - b.side * 0.9  # the awning's edge
    stripes = np.linspace(near - 0.2, far + 0.2, max(3, 2 * int((min(far - near, 14.0)) / 2.0) + 1))
    quads = [
        [(x, 3.1, a), (x, 3.1, c), (out, 2.45, c), (out, 2.45, a)] for a, c in zip(stripes, stripes[1:], strict=False)
    ]
    awning = Surface(b.trim, BUILDING, plane, up=0.7, side=-0.5 * b.side)
    canvas.fill(quads[::2], awning)
    canvas.fill(quads[1::2], awning._replace(colour=mixed(b.trim, (1, 1, 1), 0.5)))


def _shadow(canvas: Canvas, thing: Car | Tree | Person | Lamp) -> None:
    """A soft dark patch on the ground, the same in all domains; two rings look soft at any size."""
    on_road = isinstance(thing, Car)
    if isinstance(thing, Lamp):
        return
    base, kind, line = (_ASPHALT, ROAD, _ROAD_LINE) if on_road else (_PAVEMENT, SIDEWALK, _WALK_LINE)
    width, length = {Car: (1.15, 2.5), Tree: (0.7, 0.9), Person: (0.4, 0.5)}[type(thing)]
    z = thing.z + (2.1 if on_road else 0.0)
    for size, share in ((1.15, 0.3), (0.9, 0.6)):
        patch = pool(thing.x, z, size * width, size * length)
        surface = Surface(_dark(base, share), kind, canvas.camera.floor(), up=0.8, ground=0.6, outline=line)
        canvas.fill(patch, surface)


def _car(canvas: Canvas, car: Car) -> None:
    x, z, camera = car.x, car.z, canvas.camera
    tail = z + 4.1
    visible = -1.0 if x > camera.x else 1.0  # the flank that the camera sees
    flank = x + visible * 0.88
    plane, body = camera.front(z), car.colour
    side = Surface(_dark(body, 0.16), CAR, camera.wall(flank), side=visible)
    tyre = Surface((0.13, 0.13, 0.15), CAR, plane)
    # Tyres of the near end, then the flank with its wheels.
    canvas.fill([_facing(x + s * 0.62 - 0.2, x + s * 0.62 + 0.2, 0.0, 0.45, z + 0.3) for s in (-1, 1)], tyre)
    canvas.fill(_along(flank, 0.25, 0.88, z, tail), side)
    canvas.fill([wheel(flank, 0.34, z + d, 0.36) for d in (0.85, 3.2)], tyre)
    first, last = (0.45, 2.9) if car.away else (1.15, 3.8)  # the cabin sits behind the bonnet
    cabin = [(flank, 0.88, z + first - 0.4), (flank, 0.88, z + last + 0.5)]
    roof = x + visible * 0.68
    cabin += [(roof, 1.45, z + last), (roof, 1.45, z + first + 0.25)]
    glass = Surface(_dark(_GLASS, 0.25), CAR, plane, up=0.3)
    canvas.fill(_level(x - 0.88, x + 0.88, z, tail, 0.88), Surface(body, CAR, plane, up=1.0))
    canvas.fill(cabin, glass._replace(side=0.5 * visible))
    # The window towards us, in its frame, then the roof above it.
    z0, z1 = z + first - 0.4, z + first + 0.25
    frame = [(x - 0.84, 0.88, z0), (x + 0.84, 0.88, z0), (x + 0.7, 1.47, z1), (x - 0.7, 1.47, z1)]
    pane = [(x - 0.72, 0.92, z0), (x + 0.72, 0.92, z0), (x + 0.6, 1.38, z1), (x - 0.6, 1.38, z1)]
    canvas.fill(_level(x - 0.7, x + 0.7, z1, z + last, 1.47), Surface(mixed(body, (1, 1, 1), 0.2), CAR, plane, up=1.0))
    canvas.fill(frame, Surface(_dark(body, 0.1), CAR, plane))
    canvas.fill(pane, glass)
    # The face: body with cut corners, bumper, lamps and plate.
    face = [(x - 0.88, 0.3, z), (x + 0.88, 0.3, z), (x + 0.92, 0.6, z), (x + 0.82, 0.9, z), (x - 0.82, 0.9, z)]
    canvas.fill([*face, (x - 0.92, 0.6, z)], Surface(body, CAR, plane, up=0.1))
    canvas.fill(_facing(x - 0.86, x + 0.86, 0.22, 0.42, z), Surface(_dark(body, 0.6), CAR, plane))
    colour, glow = ((0.80, 0.10, 0.10), (1.0, 0.12, 0.08)) if car.away else ((1.0, 0.98, 0.88), (1.0, 0.97, 0.82))
    lamps = [_facing(x + s * 0.64 - 0.2, x + s * 0.64 + 0.2, 0.55, 0.78, z) for s in (-1, 1)]
    canvas.fill(lamps, Surface(colour, CAR, plane, glow=glow))
    canvas.fill(_facing(x - 0.25, x + 0.25, 0.46, 0.6, z), Surface((0.93, 0.92, 0.85), CAR, plane))


def _tree(canvas: Canvas, tree: Tree) -> None:
    x, z, y, r = tree.x, tree.z, tree.height, tree.crown
    plane = canvas.camera.front(z)
    half = max(0.17, 0.6 * canvas.pixel(z))
    trunk = [(x - 1.3 * half, 0.0, z), (x + 1.3 * half, 0.0, z), (x + 0.8 * half, y, z), (x - 0.8 * half, y, z)]
    canvas.fill(trunk, Surface((0.46, 0.33, 0.25), TREE, plane, side=0.3))
    green = mixed((0.22, 0.50, 0.36), (0.50, 0.62, 0.24), tree.tint)
    crown = _CROWN * np.float32(r) + np.array((x, y, z), np.float32)
    shades = ((_dark(green, 0.35), 0.25), (green, 0.55), (mixed(green, (1.0, 1.0, 0.6), 0.22), 0.9))
    for layer, (colour, up) in zip(crown, shades, strict=True):
        surface = Surface(colour, TREE, plane, up, 0.2, outline=_TREE_LINE)
        for blob in layer:  # one by one: cv2 cuts holes where polygons of one call overlap
            canvas.fill(blob, surface)


def _person(canvas: Canvas, person: Person) -> None:
    x, z, h = person.x, person.z, person.height
    plane = canvas.camera.front(z)
    w = max(0.24, 0.75 * canvas.pixel(z))
    legs = [_facing(x + s * 0.5 * w - 0.38 * w, x + s * 0.5 * w + 0.38 * w, 0.0, 0.5 * h, z) for s in (-1, 1)]
    canvas.fill(legs, Surface((0.22, 0.24, 0.36), PERSON, plane))
    coat = [(x - w, 0.38 * h, z), (x + w, 0.38 * h, z), (x + 1.25 * w, 0.7 * h, z), (x + 0.8 * w, 0.83 * h, z)]
    coat += [(x - 0.8 * w, 0.83 * h, z), (x - 1.25 * w, 0.7 * h, z)]
    canvas.fill(coat, Surface(person.coat, PERSON, plane, up=0.15))
    canvas.fill(disc(x, 0.91 * h, z, 0.72 * w, 0.105 * h, 12), Surface(person.skin, PERSON, plane, up=0.2))
    hair = [(x - 0.74 * w, 0.93 * h, z), (x + 0.74 * w, 0.93 * h, z), (x + 0.5 * w, 1.03 * h, z)]
    canvas.fill([*hair, (x - 0.5 * w, 1.03 * h, z)], Surface((0.20, 0.15, 0.14), PERSON, plane, up=0.4))


def _lamp(canvas: Canvas, lamp: Lamp) -> None:
    x, z, h = lamp.x, lamp.z, lamp.height
    plane = canvas.camera.front(z)
    half = max(0.07, 0.5 * canvas.pixel(z))
    inward = -1.0 if x > 0 else 1.0
    metal = Surface((0.48, 0.52, 0.56), LAMP, plane)
    canvas.fill(_facing(x - half, x + half, 0.0, h, z), metal)
    canvas.fill(_facing(x - half, x + inward * 1.3, h - 0.8 * half, h + 0.8 * half, z), metal)
    head = x + inward * 1.3
    hood = [
        (head - 0.42, h - 0.12, z),
        (head + 0.42, h - 0.12, z),
        (head + 0.2, h + 0.22, z),
        (head - 0.2, h + 0.22, z),
    ]
    canvas.fill(hood, metal)
    bulb = max(0.12, 0.5 * canvas.pixel(z))
    bulb_surface = Surface((0.90, 0.88, 0.76), LAMP, plane, glow=(1.0, 0.90, 0.62))
    canvas.fill(_facing(head - 0.36, head + 0.36, h - 0.12 - 2 * bulb, h - 0.12, z), bulb_surface)
