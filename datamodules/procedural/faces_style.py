"""Draws a face in one of three domains: as a photograph, a pencil sketch, or a painting.

Each domain is a function ``(face, board, view, style, rng) -> (H, W, 3)``, RGB around [0, 1]. ``style`` holds that
domain's numbers from `STYLE`, each uniform in [0, 1]; they act on the whole picture and move nothing. ``rng`` places
grain, the shake of the pencil and the strokes of the brush.
"""

from __future__ import annotations

import cv2
import numpy as np

from datamodules.procedural import faces_shapes as parts
from datamodules.procedural.faces_content import Face
from datamodules.procedural.faces_light import SKIN, View, lined, lit
from datamodules.procedural.faces_shapes import PARTS, Board

# The style numbers of each domain; 0.5 is the middle of the effect.
STYLE: dict[str, tuple[str, ...]] = {
    "photo": ("exposure", "warmth", "contrast", "vignette"),
    "sketch": ("weight", "tone", "angle", "paper"),
    "paint": ("warmth", "saturation", "exposure", "relief"),
}

# A painter's palette: violet in the shadows, yellow in the light.
_SHADOW, _SUNLIGHT = np.array((0.06, -0.02, 0.16), np.float32), np.array((0.07, 0.03, -0.11), np.float32)
_LUMA = np.array((0.30, 0.59, 0.11), np.float32)

_HAIRS = [parts.BACK_HAIR, parts.HAIR, parts.BANGS, parts.BEARD]
_REGIONS = ([parts.BACKGROUND], _HAIRS, SKIN, [parts.SHIRT, parts.COLLAR], [parts.HAT, parts.BRIM])
_DETAIL = [
    parts.EYE,
    parts.IRIS,
    parts.PUPIL,
    parts.GLINT,
    parts.MOUTH,
    parts.TEETH,
    parts.LIP,
    parts.FRAME,
    parts.BROW,
]

# Parts with one number have no pencil line between them.
_GROUPS = np.zeros(len(PARTS), np.uint8)
for _number, _members in enumerate(
    (
        (parts.BACKGROUND,),
        (parts.BACK_HAIR, parts.HAIR, parts.BANGS),
        (parts.NECK,),
        (parts.SHIRT,),
        (parts.COLLAR,),
        (parts.EAR,),
        (parts.FACE, parts.BROW),
        (parts.BEARD,),
        (parts.EYE,),
        (parts.IRIS, parts.PUPIL, parts.GLINT),
        (parts.MOUTH, parts.TEETH),
        (parts.LIP,),
        (parts.HAT,),
        (parts.BRIM,),
        (parts.FRAME,),
    )
):
    _GROUPS[list(_members)] = _number
_GROUPS.setflags(write=False)


def photo(face: Face, board: Board, view: View, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A portrait in soft light, before a wall out of focus."""
    exposure, warmth, contrast, vignette = _centred(style)
    picture = lined(face, view, lit(face, board, view, 1.0 + 0.12 * contrast))
    u, v = board.positions()
    picture *= (1.0 - (0.24 + 0.10 * vignette) * np.minimum(u * u + v * v, 0.6))[..., None]
    picture *= (1.0 + 0.10 * exposure) * np.array((1.0 + 0.04 * warmth, 1.0, 1.0 - 0.05 * warmth), np.float32)
    grain = rng.standard_normal(view.x.shape, np.float32)
    return picture + (0.006 * grain)[..., None]


def sketch(face: Face, board: Board, view: View, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pencil on paper: lines where parts meet, hatching where it is dark, strands for hair; grey."""
    weight, tone, angle, paper = _centred(style)
    dark = np.clip(1.0 - lit(face, board, view, 0.85) @ _LUMA, 0.0, 1.0)
    u, v = board.positions()
    shake = _noise(rng, view.x.shape, 0.06 * view.unit)
    cover, unit = view.cover, view.unit
    period = max(0.0155, 3.2 / unit)
    turn = 0.9 + 0.25 * angle
    along = (u * np.cos(turn) + v * np.sin(turn)) / period + 0.15 * shake
    across = (u * np.cos(turn + 1.0) + v * np.sin(turn + 1.0)) / period + 0.15 * shake
    smooth = min(0.75, 0.25 + 24.0 / unit)  # a small picture has no room for lines: there the pencil is smudged
    stripes, crossed = (0.5 + 0.5 * np.cos(np.float32(2.0 * np.pi) * a) for a in (along, across))
    hair = cover[..., [*_HAIRS, parts.BROW]].sum(axis=2)
    far = cover[..., parts.BACKGROUND]
    hatched = np.clip(1.4 * dark - 0.35 - 0.6 * stripes, 0.0, 0.8) + np.clip(
        1.4 * dark - 0.85 - 0.6 * crossed, 0.0, 0.5
    )
    hatched += smooth * (0.85 * np.clip(dark - 0.18, 0.0, 1.0) - hatched)
    strands = np.clip(1.30 * dark - 0.28 - 0.45 * view.strands * (0.6 + 0.6 * dark), 0.0, 1.0)
    shading = hatched * (1.0 - hair - 0.75 * far) + strands * hair
    solid = cover[..., [parts.PUPIL, parts.FRAME, parts.MOUTH]].sum(axis=2) + 0.45 * cover[..., parts.IRIS]
    solid += 0.25 * cover[..., parts.BROW]
    shading = np.maximum(shading, 1.1 * solid) * (1.0 - cover[..., parts.GLINT])
    lines = board.outlines(_GROUPS, max(0.75, 0.0052 * unit) * (1.0 + 0.2 * weight))
    lines = np.maximum(lines * (0.80 + 0.14 * shake), np.maximum(0.95 * view.ink, 0.72 * view.crease))
    strength = 1.0 + 0.12 * weight
    ink = 1.0 - (1.0 - np.clip(0.82 * strength * shading, 0.0, 0.95)) * (
        1.0 - np.clip(0.88 * strength * lines, 0.0, 0.97)
    )
    grain = _noise(rng, view.x.shape, max(1.0, 0.004 * unit))
    ink = np.clip(ink * (1.0 + 0.10 * grain), 0.0, 1.0)
    white = 0.955 + 0.02 * paper + 0.008 * grain
    grey = white + ink * (0.14 - 0.04 * tone - white)
    return grey[..., None].repeat(3, axis=2)


def paint(face: Face, board: Board, view: View, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Oil on canvas: few tones, laid on in strokes that follow the forms, finer where there is more to see."""
    warmth, saturation, exposure, relief = _centred(style)
    picture = lit(face, board, view, 1.15)
    grey = (picture @ _LUMA)[..., None]
    picture = grey + (1.30 + 0.15 * saturation) * (picture - grey)
    picture = 1.06 * picture + (1.0 - grey) * _SHADOW + grey * _SUNLIGHT
    picture = _few_tones(np.clip(picture, 0.0, 1.0), 8.0)
    picture *= (1.0 + 0.08 * exposure) * np.array((1.0 + 0.05 * warmth, 1.0, 1.0 - 0.07 * warmth), np.float32)
    brushed, height = _brushed(picture, view, rng)
    light = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) + cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
    light = np.clip(light, -0.5, 0.5)
    return lined(face, view, brushed * (1.0 - (0.085 + 0.035 * relief) * light)[..., None])


def _few_tones(picture: np.ndarray, count: float) -> np.ndarray:
    """The picture with its brightness drawn towards ``count`` steps, hues kept."""
    grey = np.maximum(picture @ _LUMA, 0.02) * count
    low = np.floor(grey)
    t = grey - low
    step = low + np.clip(2.2 * (t - 0.5) + 0.5, 0.0, 1.0)
    return picture * ((0.45 * grey + 0.55 * step) / grey)[..., None]


def _brushed(picture: np.ndarray, view: View, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture in strokes, (H, W, 3), and how thick the paint is, (H, W) in [0, 1].

    Background, hair, skin, shirt and hat are painted one by one, so that no stroke of one reaches into another. Eyes,
    mouth and glasses are too small for strokes.
    """
    height, width = view.x.shape
    samples = 2 if view.unit <= 288 else 1
    angle = _flow(picture, view)
    total = view.cover[..., _DETAIL].sum(axis=2)[..., None] * np.dstack([picture, np.full_like(view.x, 0.5)]) * 255.0
    sigma = max(0.016 * view.unit, 0.8)
    for region in _REGIONS:
        cover = view.cover[..., region].sum(axis=2)
        if not cover.any():
            continue
        spread = cv2.GaussianBlur(np.dstack([picture * cover[..., None], cover]), (0, 0), sigma)
        ground = spread[..., :3] / np.maximum(spread[..., 3:], 1e-3)
        canvas = np.full((height * samples, width * samples, 4), 128, np.uint8)
        canvas[..., :3] = cv2.resize(_bytes(ground), canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        wanted = cover > 0.9
        _strokes(canvas, picture, angle, wanted, max(0.042 * view.unit, 2.4), samples, rng)
        if region != _REGIONS[0]:
            off = np.abs(ground - picture).sum(axis=2)
            _strokes(canvas, picture, angle, wanted & (off > 0.07), max(0.020 * view.unit, 1.3), samples, rng)
        total += cover[..., None] * cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    total *= np.float32(1 / 255)
    return np.ascontiguousarray(total[..., :3]), np.ascontiguousarray(total[..., 3])


def _strokes(
    canvas: np.ndarray,
    picture: np.ndarray,
    angle: np.ndarray,
    wanted: np.ndarray,
    spacing: float,
    samples: int,
    rng: np.random.Generator,
) -> None:
    """Strokes ``spacing`` pixels apart, in shuffled order, where ``wanted``; each has the colour of its middle."""
    height, width = angle.shape
    rows, columns = max(1, round(height / spacing)), max(1, round(width / spacing))
    place = rng.permutation(rows * columns)
    rolls = rng.random((len(place), 5), np.float32)
    middle = (np.stack([place % columns, place // columns], axis=1) + rolls[:, :2]) * (width / columns, height / rows)
    x, y = np.minimum(middle.astype(np.intp), (width - 1, height - 1)).T
    kept = wanted[y, x]
    x, y, middle, rolls = x[kept], y[kept], middle[kept], rolls[kept]
    turn = angle[y, x] + 0.4 * (rolls[:, 2] - 0.5)
    reach = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (spacing * (0.8 + 0.6 * rolls[:, 3:4]))
    ends = np.rint(np.concatenate([middle - reach, middle + reach], axis=1) * (16 * samples)).astype(np.int32).tolist()
    colour = _bytes(picture[y, x] * (0.97 + 0.06 * rolls[:, 4:5]))
    paint = np.concatenate([colour, _bytes(rolls[:, 4:5])], axis=1).tolist()
    thick = max(1, round(1.15 * spacing * samples))
    for (x0, y0, x1, y1), tint in zip(ends, paint, strict=True):
        cv2.line(canvas, (x0, y0), (x1, y1), tint, thick, cv2.LINE_8, 4)


def _flow(picture: np.ndarray, view: View) -> np.ndarray:
    """(H, W) radians: along the strands of hair, and elsewhere across the slope of the brightness."""
    grey = cv2.GaussianBlur(picture @ _LUMA, (0, 0), 0.02 * view.unit + 0.3)
    hair = view.cover[..., _HAIRS].sum(axis=2)
    slopes = []
    for d in ((1, 0), (0, 1)):
        light, strand = (cv2.Sobel(a, cv2.CV_32F, *d, ksize=3) for a in (grey, np.clip(view.strand, -3.0, 3.0)))
        slopes.append(light + hair * (10.0 * strand - light))
    # A tilt for where the picture is flat, as a hand has.
    return np.arctan2(slopes[0] + 0.02, -slopes[1] + 0.02)


def _centred(style: np.ndarray) -> list[float]:
    return [2.0 * value - 1.0 for value in style.tolist()]


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> np.ndarray:
    """(H, W) smooth, about -1 to 1, with one draw every ``cell`` pixels."""
    height, width = shape
    draws = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), np.float32) * 2.0 - 1.0
    return cv2.resize(draws, (width, height), interpolation=cv2.INTER_LINEAR)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
