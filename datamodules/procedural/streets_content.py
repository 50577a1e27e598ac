"""What stands in a street scene: everything that all its renders share, in any domain, style and image size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datamodules.procedural.raster import Camera, Colour

FOCAL = 0.85  # of the camera, in units of the shorter image side: about 61 degrees across
FLOOR = 3.9  # height of a storey in metres

# Names and ranges of the content vector of a scene. Lengths are metres; -1 stands for "there is none".
CONTENT_RANGES: dict[str, tuple[float, float]] = {
    "horizon": (0.42, 0.53),  # fraction of the image height, from the top
    "vanishing_x": (0.32, 0.68),  # fraction of the image width
    "camera_x": (0.0, 1.3),  # offset from the middle of the road
    "camera_height": (2.0, 2.6),
    "road_width": (6.2, 8.4),
    "sidewalk_width": (1.6, 2.6),
    "n_buildings": (4.0, 9.0),
    "height_left": (7.0, 16.2),  # mean height of the buildings on the left
    "height_right": (7.0, 16.2),
    "n_cars": (0.0, 4.0),
    "n_trees": (0.0, 4.0),
    "n_people": (0.0, 4.0),
    "n_lamps": (1.0, 4.0),
    "sun_side": (-1.0, 1.0),  # where the sun stands: -1 left, 1 right
    "lit_fraction": (0.0, 1.0),  # share of windows with a warm blind, lit after dark
    "car_x": (-2.1, 2.1),  # the nearest car's offset from the middle of the road; 0 without a car
    "car_depth": (-1.0, 22.2),  # its distance from the camera
    "tree_depth": (-1.0, 98.0),  # of the nearest tree
    "person_depth": (-1.0, 40.0),  # of the nearest person
}
CONTENT: tuple[str, ...] = tuple(CONTENT_RANGES)

# Middle tones: a wall is never as bright or as yellow as a drawn blind, so lit windows can be told by day, and walls
# are alike enough that little is lost with the light.
_WALLS: tuple[Colour, ...] = (
    (0.69, 0.52, 0.47),  # terracotta
    (0.62, 0.59, 0.49),  # olive
    (0.67, 0.63, 0.61),  # putty
    (0.53, 0.59, 0.58),  # teal
    (0.58, 0.60, 0.65),  # powder blue
    (0.64, 0.48, 0.45),  # brick
    (0.62, 0.62, 0.55),  # sage
    (0.69, 0.57, 0.56),  # rose
    (0.64, 0.61, 0.61),  # stone
    (0.65, 0.57, 0.52),  # clay
)
_ROOFS: tuple[Colour, ...] = ((0.60, 0.36, 0.31), (0.44, 0.47, 0.52), (0.52, 0.41, 0.36))
_CARS: tuple[Colour, ...] = (
    (0.85, 0.20, 0.18),
    (0.18, 0.42, 0.75),
    (0.95, 0.95, 0.95),
    (0.97, 0.76, 0.20),
    (0.16, 0.60, 0.56),
    (0.30, 0.31, 0.36),
)
_CLOTHES: tuple[Colour, ...] = ((0.90, 0.32, 0.26), (0.20, 0.45, 0.80), (0.96, 0.78, 0.25), (0.45, 0.28, 0.55))
_SKIN: tuple[Colour, ...] = ((0.96, 0.80, 0.69), (0.80, 0.58, 0.43), (0.50, 0.34, 0.26))


class Building(NamedTuple):
    """A house along the street, between the distances ``near`` and ``far``.

    Attributes:
        side: -1 left of the street, 1 right of it.
        near: distance of its first corner from the camera.
        far: distance of its last corner.
        floors: number of storeys.
        spacing: of its windows along the street.
        rise: height of the roof above the eaves; 0 for a flat roof.
        shop: whether the ground floor is a shop, with a lit front after dark.
        wall, roof, trim: colours; the trim is that of awnings and doors.
        lit: (floors, 16) bool, which windows are lit after dark; columns repeat.
    """

    side: int
    near: float
    far: float
    floors: int
    spacing: float
    rise: float
    shop: bool
    wall: Colour
    roof: Colour
    trim: Colour
    lit: np.ndarray

    @property
    def eaves(self) -> float:
        """Height of the wall."""
        return self.floors * FLOOR + 0.8


class Car(NamedTuple):
    """A car with its nearer end at (x, z); it drives away from the camera if ``away``."""

    x: float
    z: float
    away: bool
    colour: Colour


class Tree(NamedTuple):
    """A tree; ``crown`` is the radius of its crown and ``height`` that of the crown's middle."""

    x: float
    z: float
    height: float
    crown: float
    tint: float  # 0 bluish to 1 yellowish green


class Person(NamedTuple):
    """A person on the sidewalk."""

    x: float
    z: float
    height: float
    coat: Colour
    skin: Colour


class Lamp(NamedTuple):
    """A street lamp at the kerb whose arm reaches over the road."""

    x: float
    z: float
    height: float


class Scene(NamedTuple):
    """All content factors of one scene; see `CONTENT_RANGES` for the ranges of the numbers."""

    camera: Camera
    road: float  # half its width
    sidewalk: float
    sun: int
    skyline: np.ndarray  # (24,) heights of the far hills and roofs
    buildings: list[Building]  # from far to near
    parks: list[tuple[int, float, float]]  # side, near, far: gaps between buildings
    cars: list[Car]
    trees: list[Tree]
    people: list[Person]
    lamps: list[Lamp]

    @property
    def wall(self) -> float:
        """Distance of the buildings from the middle of the road."""
        return self.road + self.sidewalk

    def vector(self) -> np.ndarray:
        """(len(CONTENT),) float32, in the order of `CONTENT`."""
        heights = [np.mean([b.eaves + b.rise for b in self.buildings if b.side == side] or [0.0]) for side in (-1, 1)]
        lit = np.concatenate([b.lit.ravel() for b in self.buildings]).mean()
        car = min(self.cars, key=lambda c: c.z, default=None)
        camera = self.camera
        return np.array(
            [
                camera.horizon,
                camera.vanishing_x,
                camera.x,
                camera.height,
                2 * self.road,
                self.sidewalk,
                len(self.buildings),
                *heights,
                len(self.cars),
                len(self.trees),
                len(self.people),
                len(self.lamps),
                self.sun,
                lit,
                car.x if car else 0.0,
                car.z if car else -1.0,
                min((t.z for t in self.trees), default=-1.0),
                min((p.z for p in self.people), default=-1.0),
            ],
            np.float32,
        )


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene.

    Args:
        rng: the only source of chance.

    Returns:
        A scene in which every counted object lies at least partly inside a square image.
    """
    number = rng.random(6).tolist()  # plain floats: numpy's would turn float32 pictures into float64
    camera = Camera(
        vanishing_x=0.32 + 0.36 * number[0],
        horizon=0.42 + 0.11 * number[1],
        x=1.3 * number[2],
        height=2.0 + 0.6 * number[3],
        focal=FOCAL,
    )
    road, sidewalk = 3.1 + 1.1 * number[4], 1.6 + number[5]
    walls = rng.permutation(len(_WALLS))
    buildings: list[Building] = []
    parks: list[tuple[int, float, float]] = []
    for side in (-1, 1):
        row, gaps = _row(
            rng, side, _edge(camera, side * (road + sidewalk)), walls[len(buildings) :], 9 - len(buildings)
        )
        buildings += row
        parks += gaps
    return Scene(
        camera=camera,
        road=road,
        sidewalk=sidewalk,
        sun=int(rng.choice((-1, 1))),
        skyline=4.0 + 9.0 * rng.random(24),
        buildings=sorted(buildings, key=lambda b: -b.near),
        parks=parks,
        cars=_cars(rng, camera, road),
        trees=_trees(rng, camera, road, sidewalk, parks),
        people=_people(rng, camera, road, sidewalk),
        lamps=_lamps(rng, camera, road),
    )


def _edge(camera: Camera, x: float, margin: float = 0.0) -> float:
    """The distance at which the line along the street at ``x`` enters a square image, ``margin`` inside its frame."""
    offset = x - camera.x
    room = (1.0 - camera.vanishing_x if offset > 0 else camera.vanishing_x) - margin
    return camera.focal * abs(offset) / room


def _row(
    rng: np.random.Generator, side: int, edge: float, walls: np.ndarray, limit: int
) -> tuple[list[Building], list[tuple[int, float, float]]]:
    """The houses and gaps on one side; equal steps of distance ratio look equally wide."""
    slots = min(int(rng.integers(2, 6)), limit)
    gap = int(rng.integers(1, 3)) if slots > 2 and rng.random() < 0.6 else -1
    near = edge
    buildings: list[Building] = []
    parks: list[tuple[int, float, float]] = []
    for slot in range(slots):
        number, lit = rng.random(9).tolist(), rng.random((5, 16))
        far = near * (1.35 + 0.45 * number[0])
        if slot == gap:
            parks.append((side, near, far))
        else:
            flat = number[1] < 0.35
            buildings.append(
                Building(
                    side=side,
                    # The first house reaches past the camera, so it also fills wider images.
                    near=near if slot else 0.4,
                    far=far,
                    floors=2 + int(2 * number[2]),
                    spacing=4.4 + 1.8 * number[3],
                    rise=0.0 if flat else 1.6 + 1.4 * number[4],
                    shop=bool(number[5] < 0.45),
                    wall=_WALLS[walls[len(buildings)]],
                    roof=_ROOFS[int(3 * number[6])],
                    trim=_CARS[int(6 * number[7])],
                    lit=lit < 0.2 + 0.45 * number[8],
                )
            )
        near = far
    return buildings, parks


def _cars(rng: np.random.Generator, camera: Camera, road: float) -> list[Car]:
    cars: list[Car] = []
    lanes = {-1: 0.0, 1: 0.0}  # how far each lane is taken
    colours = rng.permutation(len(_CARS))
    for i in range(int(rng.integers(0, 5))):
        side = int(rng.choice((-1, 1)))
        x = side * road * 0.5
        start = max(_edge(camera, x, margin=0.1), 7.0) if not lanes[side] else lanes[side]
        z = start + 9.0 * float(rng.random()) ** 1.5
        lanes[side] = z + 7.0
        cars.append(Car(x, z, side > 0, _CARS[colours[i]]))
    return cars


def _trees(
    rng: np.random.Generator, camera: Camera, road: float, sidewalk: float, parks: list[tuple[int, float, float]]
) -> list[Tree]:
    places = [(side * (road + sidewalk), near + 0.5 * (far - near)) for side, near, far in parks]
    for _ in range(4):
        x = float(rng.choice((-1, 1))) * (road + 0.4 * sidewalk)
        places.append((x, max(_edge(camera, x, margin=0.04), 9.0) * (1.1 + 1.6 * float(rng.random()))))
    shapes = rng.random((len(places), 3)).tolist()
    count = int(rng.integers(0, 5))
    return [Tree(x, z, 3.8 + 1.1 * a, 1.35 + 0.6 * b, c) for (x, z), (a, b, c) in zip(places, shapes, strict=True)][
        :count
    ]


def _people(rng: np.random.Generator, camera: Camera, road: float, sidewalk: float) -> list[Person]:
    people = []
    for _ in range(int(rng.integers(0, 5))):
        side, number = float(rng.choice((-1, 1))), rng.random(5).tolist()
        x = side * (road + sidewalk * (0.25 + 0.55 * number[0]))
        z = max(_edge(camera, x, margin=0.06), 7.5) * (1.0 + 0.6 * number[1])
        coat, skin = _CLOTHES[int(4 * number[2])], _SKIN[int(3 * number[3])]
        people.append(Person(x, z, 1.85 + 0.3 * number[4], coat, skin))
    return people


def _lamps(rng: np.random.Generator, camera: Camera, road: float) -> list[Lamp]:
    height, side, ratio = 5.0 + float(rng.random()), int(rng.choice((-1, 1))), 1.5 + 0.4 * float(rng.random())
    lamps = []
    for i in range(int(rng.integers(1, 5))):
        x = side * (road + 0.35)
        whole = FOCAL * (height + 0.4 - camera.height) / (camera.horizon - 0.03)  # from here the head is in the picture
        lamps.append(Lamp(x, max(_edge(camera, x, margin=0.08), whole) * ratio**i * 1.02, height))
        side = -side
    return lamps
