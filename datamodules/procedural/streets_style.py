"""Light and weather: turns the buffers of a painted scene into a picture of one domain.

Each domain is a function ``(scene, buffers, style, rng) -> (H, W, 3)``, RGB around [0, 1]. ``style`` holds that
domain's factors from `STYLE`, each uniform in [0, 1]. They act smoothly on the whole picture, so what stands in the
street can be recovered in any of them; ``rng`` places only stars, drops and flakes.
"""

from __future__ import annotations

import cv2
import numpy as np

from datamodules.procedural.raster import Buffers
from datamodules.procedural.streets_content import Scene

# The factors of each domain; 0.5 is the middle of the effect.
STYLE: dict[str, tuple[str, ...]] = {
    "day": ("exposure", "warmth", "haze", "cloudiness", "cloud_x", "sky_depth", "sun_strength"),
    "night": ("exposure", "warmth", "sky_glow", "lamp_strength", "window_strength", "moon_x", "haze"),
    "rain": ("exposure", "coolness", "mist", "wetness", "lights", "streaks", "wind"),
    "snow": ("exposure", "coolness", "haze", "cover", "flakes", "wind"),
    "fog": ("exposure", "warmth", "density", "lights"),
    "dusk": ("exposure", "redness", "purple", "haze", "sun_strength", "sun_height", "lights"),
    "labels": (),
    "sketch": (),
}


# Screen position and size of the puffs of four clouds, in units of the shorter side.
_CLOUDS = np.array(
    [
        (u + size * du, v + size * dv, size * radius)
        for u, v, size in ((-0.75, -0.27, 1.1), (-0.12, -0.33, 0.9), (0.30, -0.22, 0.8), (0.85, -0.33, 1.2))
        for du, dv, radius in ((0.0, 0.0, 0.050), (-0.075, 0.02, 0.034), (0.08, 0.015, 0.040))
    ]
)


def day(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sunny day with a few clouds."""
    exposure, warmth, haze, cloudiness, cloud_x, depth, strength = _centred(style)
    zenith = _rgb(0.47 - 0.10 * depth, 0.71 - 0.07 * depth, 0.94 - 0.02 * depth)
    horizon = _rgb(0.83 + 0.05 * warmth, 0.91, 0.97 - 0.08 * warmth)
    sky = _gradient(b, zenith, horizon)
    sky += _spot(b, scene.sun * 0.36, -0.36, 0.16)[..., None] * _rgb(0.17, 0.14, 0.04)
    sky = _blend(sky, _rgb(1.0, 0.97, 0.80), _disc(b, scene.sun * 0.36, -0.36, 0.045))
    sky = _blend(sky, _rgb(0.99, 0.99, 1.0), (0.32 + 0.22 * cloudiness) * _clouds(b, cloud_x))
    sun = _sunlight(scene, b, height=0.95)
    light = _rgb(0.85, 0.86, 0.90) * (0.94 + 0.12 * b.up)[..., None]
    light = light + (0.14 + 0.06 * strength) * sun[..., None] * _rgb(1.0, 0.92 - 0.05 * warmth, 0.74 - 0.20 * warmth)
    ground = _haze(b.colour * light, b, _rgb(0.78, 0.83, 0.88), 0.018 * (1.0 + haze))
    picture = ground + b.sky[..., None] * sky
    return picture * (1.0 + 0.21 * exposure) * _rgb(1.0 + 0.09 * warmth, 1.0, 1.0 - 0.12 * warmth)


def night(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clear night: moonlight, street lamps, lit windows, and the lights of the cars."""
    exposure, warmth, glow, lamps, windows, moon_x, haze = _centred(style)
    sky = _gradient(b, _rgb(0.035, 0.05, 0.15), _rgb(0.20 + 0.06 * glow, 0.18 + 0.03 * glow, 0.34 + 0.06 * glow))
    sky = _stars(sky, b, rng)
    moon = -scene.sun * 0.30 + 0.08 * moon_x
    sky += 0.22 * _spot(b, moon, -0.36, 0.10)[..., None] * _rgb(0.7, 0.8, 1.0)
    sky = _blend(sky, _rgb(0.95, 0.94, 0.84), _disc(b, moon, -0.36, 0.04))
    ambient = _rgb(0.37, 0.385, 0.51) * (0.80 + 0.25 * b.up - 0.15 * scene.sun * b.side)[..., None]
    warm = _rgb(1.0, 0.76 - 0.10 * warmth, 0.44 - 0.20 * warmth)
    light = ambient + (0.60 + 0.4 * lamps) * _lamplight(scene, b)[..., None] * warm + 0.6 * _headlights(scene, b)
    emitted = b.glow * (0.58 + 0.15 * windows) * _rgb(1.0, 0.97 - 0.08 * warmth, 0.92 - 0.24 * warmth)
    # What shines is not lit as well, or every window would turn white.
    ground = _haze(b.colour * light * (1.0 - 0.7 * b.glow) + emitted, b, _rgb(0.17, 0.16, 0.30), 0.015 * (1.0 + haze))
    picture = ground + b.sky[..., None] * sky + (0.26 + 0.14 * lamps) * _bloom(emitted, b)
    picture += 0.10 * _cones(scene, b)[..., None] * warm
    return picture * (1.0 + 0.42 * exposure) * _rgb(1.0 + 0.13 * warmth, 1.0, 1.0 - 0.16 * warmth)


def rain(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey day whose wet ground mirrors the street."""
    exposure, coolness, mist, wetness, lights, streaks, wind = _centred(style)
    sky = _gradient(b, _rgb(0.43, 0.47, 0.54), _rgb(0.68, 0.71, 0.75))
    emitted = b.glow * (0.55 + 0.25 * lights)
    light = _rgb(0.60, 0.64, 0.70) * (0.88 + 0.16 * b.up)[..., None]
    wet = b.ground * (0.62 + 0.25 * wetness)
    colour = b.colour * (1.0 - 0.45 * wet)[..., None]
    ground = _haze(colour * light + emitted * (1.0 - 0.4 * light), b, _rgb(0.66, 0.69, 0.73), 0.011 * (1.0 + mist))
    picture = ground + b.sky[..., None] * sky + 0.25 * _bloom(emitted, b)
    picture = _blend(picture, 0.92 * _mirrored(picture, b), 0.72 * wet)
    picture = _blend(picture, _rgb(0.86, 0.89, 0.93), (0.30 + 0.12 * streaks) * _streaks(b, rng, wind))
    return picture * (1.0 + 0.2 * exposure) * _rgb(1.0 - 0.10 * coolness, 1.0, 1.0 + 0.08 * coolness)


def snow(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A white winter day with falling snow."""
    exposure, coolness, haze, cover, flakes, wind = _centred(style)
    sky = _gradient(b, _rgb(0.66, 0.73, 0.82), _rgb(0.88, 0.90, 0.94))
    amount = np.clip((b.up - 0.22) * 1.9, 0.0, 1.0) * (0.86 + 0.16 * cover)
    # Wheels keep two tracks per lane half clear.
    track = np.abs(np.abs(np.abs(b.x) - 0.5 * scene.road) - 0.72)
    tracks = np.clip(1.5 - track / 0.22, 0.0, 1.0) * b.ground * (np.abs(b.x) < scene.road)
    amount = amount * (1.0 - 0.55 * tracks)
    colour = _blend(b.colour, _rgb(0.97, 0.98, 1.0) * (1.0 - b.sky)[..., None], amount)
    light = _rgb(0.80, 0.84, 0.92) * (0.90 + 0.14 * b.up + 0.05 * scene.sun * b.side)[..., None]
    emitted = b.glow * 0.4
    ground = colour * light + emitted * (1.0 - 0.7 * light)
    ground = _haze(ground, b, _rgb(0.87, 0.90, 0.94), 0.010 * (1.0 + haze))
    picture = ground + b.sky[..., None] * sky + 0.15 * _bloom(emitted, b)
    picture = _blend(picture, _rgb(1.0, 1.0, 1.0), (0.8 + 0.2 * flakes) * _flakes(b, rng, wind))
    return picture * (1.0 + 0.16 * exposure) * _rgb(1.0 - 0.10 * coolness, 1.0, 1.0 + 0.05 * coolness)


def fog(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A foggy morning: what is far fades into one pale tone, lights stay visible a little longer."""
    exposure, warmth, density, lights = _centred(style)
    pale = _rgb(0.84 + 0.03 * warmth, 0.85, 0.86 - 0.05 * warmth)
    emitted = b.glow * (0.45 + 0.2 * lights)
    light = _rgb(0.66, 0.69, 0.73) * (0.88 + 0.16 * b.up)[..., None]
    rate = 0.042 * (1.0 + 0.5 * density)
    ground = _haze(b.colour * light + emitted * (1.0 - 0.5 * light), b, pale, rate)
    sky = _gradient(b, 0.95 * pale, pale)
    glow = b.glow * np.exp(-0.6 * rate * b.z)[..., None]
    picture = ground + b.sky[..., None] * sky + (0.3 + 0.2 * lights) * _bloom(glow, b)
    return picture * (1.0 + 0.2 * exposure) * _rgb(1.0 + 0.06 * warmth, 1.0, 1.0 - 0.08 * warmth)


def dusk(scene: Scene, b: Buffers, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """After a clear day: an orange and purple sky, long warm light from one side, first lights."""
    exposure, redness, purple, haze, strength, height, lights = _centred(style)
    top = _rgb(0.32 + 0.06 * purple, 0.25, 0.50 + 0.06 * purple)
    middle = _rgb(0.86 + 0.04 * redness, 0.45 - 0.06 * redness, 0.47)
    low = _rgb(1.0, 0.76 - 0.08 * redness, 0.42 - 0.08 * redness)
    sky = _gradient(b, top, middle, low)
    x, y = scene.sun * 0.10, -0.05 - 0.04 * height
    sky += (0.5 * _spot(b, x, y, 0.20))[..., None] * _rgb(0.5, 0.35, 0.1)
    sky = _blend(sky, _rgb(1.0, 0.93, 0.66), _disc(b, x, y, 0.06))
    sun = _sunlight(scene, b, height=0.32)
    light = _rgb(0.42 + 0.04 * purple, 0.37, 0.53 + 0.04 * purple) * (0.90 + 0.16 * b.up)[..., None]
    light = light + (0.55 + 0.2 * strength) * sun[..., None] * _rgb(1.0, 0.62 - 0.08 * redness, 0.30)
    emitted = b.glow * (0.62 + 0.25 * lights)
    ground = _haze(b.colour * light + emitted * (1.0 - 0.5 * light), b, _rgb(0.93, 0.62, 0.46), 0.008 * (1.0 + haze))
    picture = ground + b.sky[..., None] * sky + 0.30 * _bloom(emitted, b)
    return picture * (1.0 + 0.24 * exposure) * _rgb(1.0 + 0.06 * redness, 1.0, 1.0 + 0.06 * purple)


def _centred(style: np.ndarray) -> list[float]:
    """Factors as offsets in [-0.5, 0.5]."""
    return [float(x) - 0.5 for x in style]


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array((red, green, blue), np.float32)


def _blend(picture: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return picture + share[..., None] * (other - picture)


def _gradient(b: Buffers, top: np.ndarray, *below: np.ndarray) -> np.ndarray:
    """(H, W, 3) sky colours from the top of a square image down to the horizon."""
    colours = np.stack([top, *below])
    place = np.clip((b.v[:, 0] + 0.48) / 0.48, 0.0, 1.0) * len(below)
    steps = np.arange(len(colours))
    rows = np.stack([np.interp(place, steps, colours[:, c]) for c in range(3)], axis=-1).astype(np.float32)
    return np.repeat(rows[:, None], b.u.shape[1], axis=1)


def _spot(b: Buffers, u: float, v: float, size: float) -> np.ndarray:
    """(H, W) a round glow of standard deviation ``size``."""
    return np.exp(-0.5 * ((b.v - v) / size) ** 2) * np.exp(-0.5 * ((b.u - u) / size) ** 2)


def _disc(b: Buffers, u: float, v: float, radius: float) -> np.ndarray:
    """(H, W) an anti-aliased disc."""
    pixel = 1.0 / min(b.x.shape)
    return np.clip((radius - np.hypot(b.u - u, b.v - v)) / pixel + 0.5, 0.0, 1.0)


def _clouds(b: Buffers, shift: float) -> np.ndarray:
    """(H, W) soft flat-bottomed clouds that ``shift`` moves sideways."""
    u, v, radius = (_CLOUDS + (0.16 * shift, 0.0, 0.0)).astype(np.float32).T
    across = np.exp(-0.5 * ((b.u.T - u) / radius) ** 2)
    down = np.exp(-0.5 * ((b.v - v) / radius) ** 2)
    return np.clip((down @ across.T - 0.25) * 1.8, 0.0, 1.0)


def _sunlight(scene: Scene, b: Buffers, height: float) -> np.ndarray:
    """(H, W) direct sun at each point, 0 to 1, softly shaded by the house row; ``height`` is the sun's tangent."""
    heights, depths = [], []
    for building in sorted((x for x in scene.buildings if x.side == scene.sun), key=lambda x: x.near):
        heights += [building.eaves, building.eaves]
        depths += [building.near, building.far - 0.5]
    roof = np.interp(b.z, depths or [1.0], heights or [0.0], right=0.0).astype(np.float32)
    # The tangent is scaled so that houses shade their pavement and part of the road, never all of it.
    slope = height * 1.5 * 9.0 / scene.wall
    edge = roof * 0.50 - (scene.wall - scene.sun * b.x) * slope
    open_sky = np.clip(0.5 - (edge - b.y) / 0.9, 0.0, 1.0)
    facing = np.maximum(scene.sun * b.side, 0.0)
    front = np.clip(1.0 - b.up - np.abs(b.side), 0.0, 1.0)
    return open_sky * np.clip(0.75 * b.up + 0.85 * facing + 0.40 * front, 0.0, 1.0)


def _lamplight(scene: Scene, b: Buffers) -> np.ndarray:
    """(H, W) light that arrives from the street lamps."""
    total = np.zeros(b.x.shape, np.float32)
    for lamp in scene.lamps:
        inward = -1.0 if lamp.x > 0 else 1.0
        squared = (b.x - lamp.x - 1.3 * inward) ** 2 + (0.6 * (b.y - lamp.height)) ** 2 + (0.7 * (b.z - lamp.z)) ** 2
        below = np.clip(0.35 + 0.5 * (lamp.height - b.y), 0.15, 1.0)
        total += below / (1.0 + squared / 7.0)
    return np.minimum(total, 1.1) * (1.0 - b.sky)


def _headlights(scene: Scene, b: Buffers) -> np.ndarray:
    """(H, W, 3) pools on the road: white before a car's front, red behind it."""
    white, red = np.zeros(b.x.shape, np.float32), np.zeros(b.x.shape, np.float32)
    for car in scene.cars:
        reach = 2.2 if car.away else 3.5
        across, along = (b.x - car.x) / 1.3, (b.z - (car.z - 0.7 * reach)) / reach
        pool = red if car.away else white
        pool += np.exp(-across * across - along * along)
    white, red = (white * b.ground)[..., None], (red * b.ground)[..., None]
    return white * _rgb(0.75, 0.70, 0.55) + red * _rgb(0.40, 0.05, 0.04)


def _cones(scene: Scene, b: Buffers) -> np.ndarray:
    """(H, W) the lit air below the street lamps."""
    total = np.zeros(b.x.shape, np.float32)
    camera = scene.camera
    for lamp in scene.lamps:
        scale = camera.focal / lamp.z
        u = (lamp.x + (-1.3 if lamp.x > 0 else 1.3) - camera.x) * scale
        drop = (b.v - (camera.height - lamp.height) * scale) / (lamp.height * scale)  # 0 at the lamp, 1 on the ground
        half = (0.45 + 2.0 * np.maximum(drop, 0.0)) * scale
        inside = np.clip((half - np.abs(b.u - u)) / (0.4 * half) + 0.0, 0.0, 1.0)
        total += inside * np.clip(drop * 20.0, 0.0, 1.0) * np.clip(1.1 - drop, 0.0, 1.0)
    return np.minimum(total, 1.0)


def _haze(ground: np.ndarray, b: Buffers, pale: np.ndarray, rate: float) -> np.ndarray:
    """Fade what is far into ``pale``, by ``rate`` per metre."""
    clear = np.exp(-rate * np.minimum(b.z, 250.0))[..., None]
    return ground * clear + ((1.0 - b.sky)[..., None] * (1.0 - clear)) * pale


def _bloom(emitted: np.ndarray, b: Buffers) -> np.ndarray:
    """(H, W, 3) the halo of what shines, blurred at a small size as a halo has no detail."""
    height, width = b.x.shape
    step = max(1, min(height, width) // 64)
    small = cv2.resize(emitted, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
    sigma = 0.028 * min(small.shape[:2])
    halo = cv2.GaussianBlur(small, (0, 0), sigma) + 0.5 * cv2.GaussianBlur(small, (0, 0), 2.4 * sigma)
    return halo if step == 1 else cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR)


def _mirrored(picture: np.ndarray, b: Buffers) -> np.ndarray:
    """The picture upside down about the horizon, smeared downwards as on wet asphalt."""
    height, width = b.x.shape
    horizon = -b.v[0, 0] * min(height, width)  # in pixels, from the centre of the first row
    rows = np.clip(2.0 * horizon - np.arange(height, dtype=np.float32) + 0.03 * min(height, width), 0, height - 1)
    flipped = picture[np.rint(rows).astype(np.intp)]
    unit = min(height, width)
    return cv2.GaussianBlur(flipped, (0, 0), sigmaX=max(0.008 * unit, 0.3), sigmaY=0.03 * unit)


def _stars(sky: np.ndarray, b: Buffers, rng: np.random.Generator) -> np.ndarray:
    """A few faint stars, well above the roofs."""
    unit, width = min(b.x.shape), b.x.shape[1]
    layer = np.zeros(b.x.shape, np.float32)
    for u, v, size in rng.random((18, 3)).tolist():
        centre = (int((0.5 * width + 1.4 * (u - 0.5) * unit) * 16), int((0.40 * v * unit) * 16))
        cv2.circle(layer, centre, int((0.0015 + 0.002 * size) * unit * 16), 0.35 + 0.5 * size, -1, cv2.LINE_8, 4)
    return _blend(sky, _rgb(0.9, 0.92, 1.0), min(0.7, 0.002 * unit) * layer)  # a pixel of a small image is a large star


def _streaks(b: Buffers, rng: np.random.Generator, wind: float) -> np.ndarray:
    """(H, W) sparse slanted lines of rain."""
    height, width = b.x.shape
    unit, area = min(height, width), height * width / min(height, width) ** 2
    layer = np.zeros((height, width), np.uint8)
    drops = rng.random((44, 3))[: round(22 * min(area, 2.0))]
    starts = drops[:, :2] * (width, height)
    ends = starts + np.stack([0.08 * wind * np.ones(len(drops)), 0.05 + 0.06 * drops[:, 2]], axis=1) * unit
    lines = np.rint(np.stack([starts, ends], axis=1) * 16).astype(np.int32)
    for line in lines:
        cv2.line(layer, line[0].tolist(), line[1].tolist(), 255, max(1, round(unit / 200)), cv2.LINE_AA, 4)
    return layer.astype(np.float32) * np.float32(min(1.0, 0.5 + unit / 400) / 255)  # one pixel is wide in a small image


def _flakes(b: Buffers, rng: np.random.Generator, wind: float) -> np.ndarray:
    """(H, W) sparse round flakes, the near ones larger."""
    height, width = b.x.shape
    unit = min(height, width)
    scale = 4 if unit < 128 else 2
    layer = np.zeros((height * scale, width * scale), np.uint8)
    for x, y, size in rng.random((46, 3)).tolist():
        centre = (int((x + 0.1 * wind * y) * width * scale * 16), int(y * height * scale * 16))
        cv2.circle(layer, centre, int((0.0045 + 0.008 * size**3) * unit * scale * 16), 255, -1, cv2.LINE_8, 4)
    return cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)
