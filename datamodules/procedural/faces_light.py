"""Gives the parts of a face their colours and lights them: what the photograph and the painting have in common.

The light comes from above, from the side that the factor ``light`` says. The face is lit as an ellipsoid with a nose,
cheeks and a chin, each a bump with a slope known by formula; hair, clothes and hat are rounded at their edges.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import cv2
import numpy as np

from datamodules.procedural import faces_shapes as parts
from datamodules.procedural.faces_content import Face
from datamodules.procedural.faces_paint import EYE_Y, MOUTH_Y, eye_x
from datamodules.procedural.faces_shapes import Board

_SKINS = (
    (1.0, 0.88, 0.80),
    (0.97, 0.81, 0.70),
    (0.93, 0.73, 0.59),
    (0.82, 0.60, 0.45),
    (0.63, 0.43, 0.32),
    (0.46, 0.31, 0.24),
)
_FAIR = ((0.90, 0.80, 0.58), (0.86, 0.66, 0.36), (0.83, 0.45, 0.22))
_DARK = ((0.11, 0.10, 0.12), (0.22, 0.14, 0.10), (0.27, 0.12, 0.10))
_IRISES = ((0.34, 0.20, 0.12), (0.48, 0.36, 0.16), (0.28, 0.46, 0.34), (0.25, 0.44, 0.66))

SKIN = [parts.NECK, parts.EAR, parts.FACE]
HAIRS = [parts.BACK_HAIR, parts.HAIR, parts.BANGS, parts.BEARD, parts.BROW]
CLOTH = [parts.SHIRT, parts.COLLAR]
CAP = [parts.HAT, parts.BRIM]
FLAT = [
    parts.EYE,
    parts.IRIS,
    parts.PUPIL,
    parts.GLINT,
    parts.MOUTH,
    parts.TEETH,
    parts.LIP,
    parts.FRAME,
]


class View(NamedTuple):
    """A painted face, resolved per pixel; float32.

    Attributes:
        cover: (H, W, len(PARTS)), how much of each part is seen; sums to 1.
        ink, crease: (H, W) in [0, 1], the thin lines.
        x, y: (H, W), positions in the upright plane of the head.
        strand: (H, W), number of the strand of hair that passes here; runs through all hair on the head.
        strands: (H, W) around 0, within [-1, 1]: lighter and darker strands.
        unit: pixels of the shorter side.
        size: of half a head, in pixels.
    """

    cover: np.ndarray
    ink: np.ndarray
    crease: np.ndarray
    x: np.ndarray
    y: np.ndarray
    strand: np.ndarray
    strands: np.ndarray
    unit: int
    size: float


def resolved(face: Face, board: Board) -> View:
    """Everything that drawing needs, averaged per pixel."""
    cover = board.cover()
    thin = 1.0 - min(1.0, 2.0 * face.amounts["beard"])  # of stubble the skin is seen
    cover[..., parts.FACE] += thin * cover[..., parts.BEARD]
    cover[..., parts.BEARD] *= 1.0 - thin
    x, y = (a.astype(np.float32) for a in board.pose.upright(*board.positions()))
    size = board.pose.size * board.unit
    strand = _strand(face, board, x, y)
    return View(cover, board.ink(), board.crease(), x, y, strand, _streaks(face, strand, size), board.unit, size)


def _strand(face: Face, board: Board, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Hair leaves the parting, runs out like quarter ellipses and falls straight, but for its waves."""
    part, _ = board.pose.at(0.34 * face.factors["parting"], -1.0)
    t = np.clip((y + 1.16) / 1.2, 0.02, 1.0)
    wave = 0.085 * face.factors["hair_wave"] * np.clip(y + 0.3, 0.0, 1.0)
    side = np.clip(4.0 * x, -1.0, 1.0)
    bent = x - part - side * wave * np.sin(8.0 * y + 6.0 * face.numbers[0])
    return bent / np.sqrt(1.0 - (1.0 - t) ** 2)


def _streaks(face: Face, strand: np.ndarray, size: float) -> np.ndarray:
    """Waves across the strands; those finer than two pixels are left out."""
    total = np.zeros(strand.shape, np.float32)
    waves = ((5.0, 0.30), (8.7, 0.34), (14.3, 0.32), (23.9, 0.26), (39.1, 0.22), (64.7, 0.18), (101.3, 0.16))
    for number, (cycles, strength) in enumerate(waves):
        shown = np.clip(size / cycles * 6.28 / 2.5 - 1.0, 0.0, 1.0)
        if shown > 0.0:
            phase = 6.28 * face.numbers[number] + 1.7 * np.sin(cycles * 0.31 * strand + number)
            total += np.float32(shown * strength) * np.sin(np.float32(cycles) * strand + phase)
    return np.clip(total, -1.0, 1.0)


def colours(face: Face) -> np.ndarray:
    """(len(PARTS), 3) float32: the colour of each part in white light."""
    f, table = face.factors, np.zeros((len(parts.PARTS), 3), np.float32)
    skin, hair = between(_SKINS, f["skin"]), hair_colour(face)
    red = np.array((0.78, 0.26, 0.28)) * (0.55 + 0.45 * skin.mean() / 0.85)
    table[SKIN], table[[parts.BACK_HAIR, parts.HAIR, parts.BANGS]] = skin, hair
    table[parts.EAR] = skin * (0.97, 0.90, 0.88)
    table[parts.BACK_HAIR] = 0.72 * hair
    table[parts.BEARD] = 0.9 * hair + 0.03
    table[parts.BROW] = 0.62 * hair + 0.02
    table[parts.LIP] = (0.55 - 0.25 * f["lip_red"]) * skin * (1.0, 0.72, 0.72) + (0.45 + 0.25 * f["lip_red"]) * red
    table[parts.EYE], table[parts.TEETH], table[parts.GLINT] = (0.95, 0.95, 0.95), (0.97, 0.96, 0.94), (1.0, 1.0, 1.0)
    table[parts.IRIS] = between(_IRISES, f["eye_colour"])
    table[parts.PUPIL], table[parts.MOUTH], table[parts.FRAME] = (
        (0.05, 0.04, 0.05),
        (0.32, 0.08, 0.09),
        (0.10, 0.09, 0.11),
    )
    table[parts.SHIRT] = hsv(f["shirt_hue"], 0.55 - 0.2 * f["shirt_light"], 0.38 + 0.5 * f["shirt_light"])
    table[parts.COLLAR] = 0.78 * table[parts.SHIRT]
    table[parts.HAT] = hsv(f["hat_hue"], 0.62, 0.70)
    table[parts.BRIM] = hsv(f["hat_hue"], 0.52, 0.82)
    return table


def hair_colour(face: Face) -> np.ndarray:
    """(3,) fair or dark, in all shades between, and grey with age."""
    hue, dark, old = face.factors["hair_hue"], face.amounts["dark_hair"], face.amounts["old"]
    hair = between(_FAIR, hue) * (1.0 - dark) + between(_DARK, hue) * dark
    grey = np.array((0.80, 0.80, 0.81)) * (1.0 - dark) + np.array((0.36, 0.36, 0.38)) * dark
    return hair + 0.75 * old * (grey - hair)


def between(colours: tuple[tuple[float, float, float], ...], place: float) -> np.ndarray:
    """(3,) the colour at ``place`` along a row of colours, 0 for the first and 1 for the last."""
    step = place * (len(colours) - 1)
    first = min(int(step), len(colours) - 2)
    low, high = np.array(colours[first]), np.array(colours[first + 1])
    return low + (step - first) * (high - low)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) RGB."""
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def lit(face: Face, board: Board, view: View, contrast: float = 1.0) -> np.ndarray:
    """(H, W, 3) float32 around [0, 1]: the face in soft light, still without its lines; contrast 1 is a photo's."""
    table, cover = colours(face), view.cover
    side = face.factors["light"]
    skin = (cover[..., SKIN] @ table[SKIN]) * _skin_light(face, board, view, contrast)
    skin = _flushed(face, board, view, skin)
    hair = _hair_light(view, side, contrast)[..., None] * (cover[..., HAIRS] @ table[HAIRS])
    hair += _sheen(face, view)
    cloth = (cover[..., CLOTH] @ table[CLOTH]) * _rounded(view, CLOTH, side, 0.5 * contrast, 0.05)[..., None]
    cloth *= (1.0 - 0.35 * contrast * _cast(view, [parts.FACE, parts.BEARD, parts.NECK], side, 0.16, 0.05))[..., None]
    cap = (cover[..., CAP] @ table[CAP]) * (_rounded(view, CAP, side, 0.8 * contrast, 0.05) * _knit(face, view))[
        ..., None
    ]
    picture = skin + hair + cloth + cap + _features(face, board, view, table, contrast)
    return picture + cover[..., :1] * background(face, view)


def lined(face: Face, view: View, picture: np.ndarray) -> np.ndarray:
    """The picture with its thin lines: lashes and the mouth dark, folds as soft shadows."""
    picture = picture * (1.0 - 0.80 * view.ink)[..., None]
    depth = 0.30 + 0.08 * face.amounts["old"]
    crease = cv2.GaussianBlur(view.crease, (0, 0), max(0.004 * view.unit, 0.2))
    return picture * (1.0 - depth * crease)[..., None] ** np.array((0.7, 1.1, 1.2), np.float32)


def background(face: Face, view: View) -> np.ndarray:
    """(H, W, 3) a wall out of focus, lighter on the side of the light."""
    f = face.factors
    far = hsv(f["background_hue"], 0.32, 0.46 + 0.40 * f["background_light"])
    near = hsv((f["background_hue"] + 0.06) % 1.0, 0.20, 0.58 + 0.38 * f["background_light"])
    glow = np.exp(-((view.x - 0.9 * f["light"]) ** 2 + (view.y + 0.5) ** 2) / 2.2)[..., None]
    return (far + glow * (near - far)).astype(np.float32)


def _lamp(side: float) -> tuple[float, float, float]:
    x, y, z = 0.75 * side, -0.48, 0.80
    length = (x * x + y * y + z * z) ** 0.5
    return x / length, y / length, z / length


def _skin_light(face: Face, board: Board, view: View, contrast: float) -> np.ndarray:
    """(H, W, 3) light on the skin, about 1 where it is brightest."""
    side, w = face.factors["light"], face.factors["face_width"]
    lx, ly, lz = _lamp(side)
    nx, ny = np.clip(view.x / (0.95 * w), -0.95, 0.95), np.clip((view.y - 0.05) / 1.3, -0.9, 0.9)
    light = nx * lx + ny * ly + np.sqrt(np.maximum(1.0 - nx * nx - ny * ny, 0.04)) * lz
    light = light + _slopes(face, board, view, lx, ly)
    eyes = sum(_spot(view, board.pose.at(s * eye_x(face), EYE_Y - 0.05), 0.24, 0.15) for s in (-1, 1))
    light = light - 0.16 * eyes
    light = light - 0.35 * _cast(view, [parts.HAIR, parts.BANGS, parts.HAT, parts.BRIM], side, 0.055, 0.022)
    neck = view.cover[..., parts.NECK]
    light = light - 0.60 * neck * _cast(view, [parts.FACE, parts.BEARD], side, 0.10, 0.04)
    shade = np.clip(0.5 + contrast * (light - 0.57), 0.0, 1.0)
    shade = (shade * shade * (3.0 - 2.0 * shade))[..., None]
    dark, bright = np.array((0.66, 0.52, 0.50), np.float32), np.array((1.06, 1.04, 1.02), np.float32)
    return dark + shade * (bright - dark)


def _slopes(face: Face, board: Board, view: View, lx: float, ly: float) -> np.ndarray:
    """What bumps add to the light: each is a Gaussian, whose slope is known."""
    size = face.factors["nose_size"]
    total = np.zeros(view.x.shape, np.float32)
    bumps = [(0.0, 0.38, 0.16, 0.12 * size, 0.10 * size, 0.75), (0.0, 0.88, 0.0, 0.20, 0.13, 0.30)]
    bumps += [(s * 0.42, 0.34, 0.0, 0.26, 0.22, 0.30) for s in (-1, 1)]
    for x, y, lift, wide, high, strength in bumps:
        cx, cy = board.pose.at(x, y, lift)
        dx, dy = (view.x - cx) / wide, (view.y - cy) / high
        total += strength * np.exp(-0.5 * (dx * dx + dy * dy)) * (dx * lx + dy * ly)
    (tx, ty), (bx, by) = board.pose.at(0.0, 0.36, 0.15), board.pose.at(0.0, -0.22, 0.02)
    along = (view.y - by) / (ty - by)
    dx = (view.x - bx - np.clip(along, 0.0, 1.0) * (tx - bx)) / (0.075 * size)
    gate = np.clip(4.0 * (1.0 - np.abs(2.0 * along - 1.0)), 0.0, 1.0)
    return total + 0.45 * gate * np.exp(-0.5 * dx * dx) * dx * lx


def _flushed(face: Face, board: Board, view: View, skin: np.ndarray) -> np.ndarray:
    """Red cheeks and nose, a soft gleam, and the spots of age."""
    smile, here = face.amounts["smile"], view.cover[..., parts.FACE]
    cheeks = sum(_spot(view, board.pose.at(s * 0.45, 0.36 - 0.05 * smile), 0.20, 0.15) for s in (-1, 1))
    red = (0.55 + 0.3 * smile) * cheeks + 0.35 * _spot(view, board.pose.at(0.0, 0.38, 0.16), 0.12, 0.10)
    skin = skin * (1.0 - (here * red)[..., None] * np.array((0.02, 0.16, 0.15), np.float32))
    side = face.factors["light"]
    gleam = 0.5 * _spot(view, board.pose.at(0.18 * side, -0.42), 0.28, 0.16)
    gleam = gleam + 0.8 * _spot(view, board.pose.at(0.03 * side, 0.33, 0.17), 0.055, 0.075)
    gleam = gleam + 0.4 * sum(_spot(view, board.pose.at(s * 0.42 + 0.06 * side, 0.26), 0.12, 0.08) for s in (-1, 1))
    return skin + (0.13 * here * gleam)[..., None] * np.array((1.0, 0.95, 0.88), np.float32)


def _hair_light(view: View, side: float, contrast: float) -> np.ndarray:
    """(H, W) light on hair: strands, round edges, and dark below."""
    fall = np.clip(1.02 - 0.12 * np.maximum(view.y, 0.0), 0.7, 1.0)
    round_ = _rounded(view, [parts.BACK_HAIR, parts.HAIR, parts.BANGS, parts.HAT, parts.BRIM], side, contrast, 0.06)
    hang = 0.30 * contrast * view.cover[..., parts.BACK_HAIR] * _cast(view, [parts.FACE], side, 0.05, 0.05)
    return fall * round_ * (1.0 + 0.24 * view.strands) - hang


def _sheen(face: Face, view: View) -> np.ndarray:
    """(H, W, 3) the band of light around the crown."""
    here = view.cover[..., parts.HAIR] + view.cover[..., parts.BANGS]
    bend = view.y + 0.86 - 0.22 * view.x**2 - 0.05 * view.strands
    band = np.exp(-((bend / 0.11) ** 2)) * np.exp(-((view.x - 0.3 * face.factors["light"]) ** 2) / 0.30)
    colour = 0.5 * hair_colour(face) + np.array((0.24, 0.22, 0.20))
    return (0.55 * here * band * (0.75 + 0.5 * view.strands))[..., None] * colour.astype(np.float32)


def _features(face: Face, board: Board, view: View, table: np.ndarray, contrast: float) -> np.ndarray:
    """(H, W, 3) eyes, mouth and glasses."""
    cover = view.cover
    total = cover[..., FLAT] @ table[FLAT]
    shade = np.zeros(view.x.shape, np.float32)
    for side in (-1, 1):
        _, y = board.pose.at(side * eye_x(face), EYE_Y)
        lid = np.clip((y - 0.01 - view.y) / 0.11, 0.0, 1.0) * (np.sign(view.x) == side)
        shade += 0.42 * contrast * lid * (cover[..., parts.EYE] + 0.6 * cover[..., parts.IRIS])
    total = total * (1.0 - shade)[..., None]
    middle = board.pose.at(0.0, MOUTH_Y + 0.06 + 0.13 * face.amounts["smile"], 0.03)
    gloss = cover[..., parts.LIP] * _spot(view, middle, 0.11, 0.035)
    upper = cover[..., parts.LIP] * np.clip((middle[1] - 0.04 - view.y) / 0.05, 0.0, 1.0)
    return total * (1.0 - 0.16 * contrast * upper)[..., None] + (0.22 * contrast * gloss)[..., None]


def _knit(face: Face, view: View) -> np.ndarray:
    """(H, W) ribs of wool."""
    ribs = np.clip(view.size / 20.0 - 0.5, 0.35, 1.0)
    return 1.0 + np.float32(0.09 * ribs) * np.sin(22.0 * view.strand)


def _spot(view: View, centre: tuple[float, float], wide: float, high: float) -> np.ndarray:
    dx, dy = (view.x - centre[0]) / wide, (view.y - centre[1]) / high
    return np.exp(-0.5 * (dx * dx + dy * dy)).astype(np.float32)


def _rounded(view: View, which: list[int], side: float, strength: float, radius: float) -> np.ndarray:
    """(H, W) light on something soft, by the slope of its blurred silhouette; ``radius`` in units."""
    lx, ly, _ = _lamp(side)
    sigma = radius * view.unit
    soft = cv2.GaussianBlur(view.cover[..., which].sum(axis=2), (0, 0), sigma)
    across, down = (cv2.Sobel(soft, cv2.CV_32F, *d, ksize=3, scale=0.125 * 2.5 * sigma) for d in ((1, 0), (0, 1)))
    return 1.0 - 0.1 * strength - strength * (across * lx + down * ly)


def _cast(view: View, which: list[int], side: float, far: float, soft: float) -> np.ndarray:
    """(H, W) the soft shadow that parts cast down and away from the light; lengths in units."""
    body = view.cover[..., which].sum(axis=2)
    shift = np.array([[1.0, 0.0, -0.5 * side * far * view.unit], [0.0, 1.0, far * view.unit]], np.float32)
    moved = cv2.warpAffine(body, shift, body.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(moved, (0, 0), max(soft * view.unit, 0.4))
