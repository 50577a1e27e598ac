"""Paints the parts of a face onto a board, from back to front."""

from __future__ import annotations

import numpy as np

from datamodules.procedural import faces_shapes as parts
from datamodules.procedural.faces_content import Face
from datamodules.procedural.faces_shapes import Board, Pose, curve, mirrored

_ROUND = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
_T = np.linspace(-1.0, 1.0, 15)
_BOW = 1.0 - _T**2

EYE_Y, MOUTH_Y = 0.07, 0.62


def paint(face: Face, height: int, width: int) -> Board:
    """All shapes of a face, on a board for a picture of the given size."""
    board = Board(Pose.of(face), height, width)
    _back_hair(board, face)
    _body(board, face)
    _head(board, face)
    _beard(board, face)
    for side in (-1, 1):
        _eye(board, face, side)
        _brow(board, face, side)
    _nose(board, face)
    _mouth(board, face)
    _folds(board, face)
    _hair(board, face)
    if face.amounts["hat"] >= 0.5:
        _hat(board, face)
    if face.amounts["glasses"] >= 0.5:
        _glasses(board, face)
    return board


def eye_x(face: Face) -> float:
    """x of the right eye."""
    return 0.335 * face.factors["eye_spacing"] * face.factors["face_width"]


def _back_hair(board: Board, face: Face) -> None:
    """The mass of hair behind the head, down to its ends."""
    volume = face.factors["hair_volume"]
    w, top, fall = face.factors["face_width"], 1.10 + 0.14 * volume, _fall(face)
    side, low, end = 0.90 * w + 0.08 * volume, (0.62 + 0.42 * fall) * w + 0.05 * volume, 0.30 + 1.45 * fall
    half = curve(
        (0.0, -top, -0.16),
        (0.5 * w, -top + 0.1, -0.16),
        (side - 0.06, -0.62, -0.16),
        (side, -0.12, -0.16),
        (side - 0.20 * (1.0 - fall) + 0.06 * fall, 0.10 + 0.45 * fall, -0.16),
        (low + 0.03 * fall, end - 0.14 - 0.12 * fall, -0.16),
        (0.82 * low, end, -0.16),
        (0.0, end + 0.05, -0.16),
    )
    board.head(parts.BACK_HAIR, _waved(mirrored(half), face))


def _fall(face: Face) -> float:
    """0 for hair that ends at the ears, 1 for hair over the shoulders."""
    return max(0.0, face.amounts["long_hair"] - 0.3) / 0.7


def _waved(points: np.ndarray, face: Face) -> np.ndarray:
    """Hair that curls the more, the lower it hangs."""
    fall = np.clip(points[:, 1] + 0.3, 0.0, 1.0)
    swing = 0.085 * face.factors["hair_wave"] * fall * np.sin(8.0 * points[:, 1] + 6.0 * face.numbers[0])
    return points + swing[:, None] * np.sign(points[:, :1]) * (1.0, 0.0, 0.0)


def _body(board: Board, face: Face) -> None:
    w = 0.5 + 0.5 * face.factors["face_width"]
    neck = curve((0.37 * w, 0.45), (0.36 * w, 0.95), (0.40 * w, 1.18), (0.62 * w, 1.36), (0.5, 1.9), (0.0, 2.0))
    board.body(parts.NECK, mirrored(neck))
    shoulder = [(0.50 * w, 1.20), (0.74 * w, 1.30), (1.22 * w, 1.44), (1.52 * w, 1.70), (1.66 * w, 2.4)]
    neckline = curve((-0.50 * w, 1.20), (-0.30 * w, 1.42), (0.0, 1.52), (0.30 * w, 1.42), (0.50 * w, 1.20))
    outer = np.concatenate([curve(*shoulder), [(1.8, 40.0)]])
    board.body(parts.SHIRT, np.concatenate([neckline, outer, outer[::-1] * (-1.0, 1.0)]))
    lower = neckline * (1.12, 1.0) + (0.0, 0.085)
    board.body(parts.COLLAR, np.concatenate([neckline, lower[::-1]]))


def _head(board: Board, face: Face) -> None:
    w, jaw = face.factors["face_width"], face.factors["jaw"]
    angle, cosine, sine = _ROUND, np.cos(_ROUND), np.sin(_ROUND)
    for side in (-1, 1):
        x, y = side * (0.80 * w + 0.03) + 0.105 * cosine, 0.14 + 0.19 * sine + 0.02 * cosine * side
        board.head(parts.EAR, np.stack([x, y, np.full(len(angle), -0.02)], axis=1))
        fold = curve((0.03, -0.10), (0.085, -0.06), (0.07, 0.04), (0.03, 0.08))
        board.line(side * (0.80 * w + fold[:, 0]), 0.14 + fold[:, 1], 0.014, ink=False, lift=-0.13)
    half = curve(
        (0.0, -1.0, 0.0),
        (0.42 * w, -0.92, 0.0),
        (0.71 * w, -0.60, 0.0),
        (0.80 * w, -0.18, 0.0),
        (0.785 * w, 0.18, 0.02),
        ((0.69 + 0.04 * jaw) * w, 0.50, 0.06),
        ((0.49 + 0.08 * jaw) * w, 0.79, 0.14),
        ((0.22 + 0.06 * jaw) * w, 0.965, 0.24),
        (0.0, 1.0, 0.26),
    )
    board.head(parts.FACE, mirrored(half))


def _beard(board: Board, face: Face) -> None:
    amount, w, jaw = face.amounts["beard"], face.factors["face_width"], face.factors["jaw"]
    if amount <= 0.0:
        return
    more, square = 0.02 + 0.12 * amount, 0.06 * jaw
    outer = curve(
        (0.79 * w, 0.0, 0.05),
        (0.795 * w, 0.20, 0.04),
        ((0.72 + square) * w, 0.54, 0.06),
        ((0.54 + square) * w, 0.84 + 0.5 * more, 0.14),
        ((0.26 + square) * w, 1.0 + more, 0.24),
        (0.0, 1.02 + more, 0.26),
    )
    inner = curve(
        (0.0, 0.50, 0.88),
        (0.15, 0.475, 0.85),
        (0.30 * w, 0.53, 0.74),
        (0.40 * w, 0.64, 0.55),
        (0.52 * w, 0.50, 0.5),
        (0.63 * w, 0.28, 0.42),
        (0.69 * w, 0.0, 0.38),
    )
    ragged = 1.0 + 0.012 * np.sin(np.arange(len(outer)) * 2.1 + 6.0 * face.numbers[1])
    outer[:, 1] *= np.where(outer[:, 1] > 0.6, ragged, 1.0)
    half = np.concatenate([inner, outer])
    for side in (1.0, -1.0):
        board.head(parts.BEARD, half * (side, 1.0, 1.0))


def _eye(board: Board, face: Face, side: int) -> None:
    f, smile = face.factors, face.amounts["smile"]
    half, x0 = 0.185 * f["eye_size"], side * eye_x(face)
    up, down = 0.125 * f["eye_size"] * (1.0 - 0.06 * smile), 0.088 * f["eye_size"] * (1.0 - 0.38 * smile)
    tilt = -0.012 * side * _T
    x = x0 + half * _T
    upper, lower = EYE_Y - up * _BOW**0.8 + tilt, EYE_Y + down * _BOW**0.8 + tilt
    almond_x, almond_y = np.concatenate([x, x[-2:0:-1]]), np.concatenate([upper, lower[-2:0:-1]])
    board.skin(parts.EYE, almond_x, almond_y)
    frame = board.screen(parts.raised(almond_x, almond_y))
    gaze_x, gaze_y = x0 + 0.075 * f["gaze_x"], EYE_Y - 0.015 + 0.055 * f["gaze_y"]
    cosine, sine = np.cos(_ROUND), np.sin(_ROUND)
    for part, radius, dx, dy in (
        (parts.IRIS, 0.108 * f["eye_size"], 0.0, 0.0),
        (parts.PUPIL, 0.052 * f["eye_size"], 0.0, 0.0),
        (parts.GLINT, 0.032 * f["eye_size"], 0.035 * (1.0 if f["light"] > 0 else -1.0), -0.042),
    ):
        board.inside(part, gaze_x + dx + radius * cosine, gaze_y + dy + radius * sine, frame)
    board.line(x, upper, 0.040, ink=True)
    corner = x0 + side * half
    lash = np.array([0.0, 0.05 * side])
    board.line(corner - 0.02 * side + lash, np.array([EYE_Y - 0.02, EYE_Y - 0.055]), 0.03, ink=True)
    board.line(x[1:-1], upper[1:-1] - 0.055, 0.014, ink=False)
    board.line(x[3:-3], lower[3:-3] + 0.012, 0.012, ink=False)


def _brow(board: Board, face: Face, side: int) -> None:
    f = face.factors
    x0, y0 = side * eye_x(face), -0.19 - 0.06 * f["brow_height"] - 0.015 * face.amounts["smile"]
    thick = (0.030 + 0.032 * f["brow_weight"]) * (1.0 - 0.25 * (side * _T + 1.0) ** 1.5 * 0.5)
    x = x0 + 0.225 * _T - 0.01 * side
    middle = y0 - 0.070 * (1.0 - (_T + 0.06 * side) ** 2) + 0.03
    board.skin(parts.BROW, np.concatenate([x, x[::-1]]), np.concatenate([middle - thick, (middle + thick)[::-1]]))


def _nose(board: Board, face: Face) -> None:
    size, shade = face.factors["nose_size"], -1.0 if face.factors["light"] > 0 else 1.0
    wing = 0.135 * size
    under = curve(
        (-wing, 0.34), (-wing, 0.405), (-0.06, 0.425), (0.0, 0.455), (0.06, 0.425), (wing, 0.405), (wing, 0.34)
    )
    board.line(under[:, 0], under[:, 1], 0.016, ink=False, lift=0.10)
    bridge = curve((0.085, -0.12), (0.065, 0.06), (0.085, 0.22), (0.11, 0.30))
    board.line(shade * size * bridge[:, 0], bridge[:, 1], 0.012, ink=False, lift=0.10)
    for side in (-1, 1):
        x = side * 0.07 * size + np.array([-0.022, 0.022])
        board.line(x, np.array([0.418, 0.418]), 0.030, ink=True, lift=0.12)


def _mouth(board: Board, face: Face) -> None:
    smile = face.amounts["smile"]
    half = 0.235 * face.factors["mouth_width"] + 0.095 * smile
    corner, middle = MOUTH_Y + 0.008 - 0.078 * smile, MOUTH_Y + 0.012 * smile
    opening = 0.165 * max(0.0, smile - 0.3) / 0.7
    x, line = half * _T, middle + (corner - middle) * _T**2
    bow = 0.058 * _BOW**0.8 * (1.0 - 0.28 * np.exp(-((_T / 0.16) ** 2)))
    bottom = line + opening * _BOW
    lip = bottom + 0.078 * _BOW**0.7
    board.skin(parts.LIP, np.concatenate([x, x[::-1]]), np.concatenate([line - bow, lip[::-1]]), 0.03)
    if opening > 0.0:
        board.skin(parts.MOUTH, np.concatenate([x, x[::-1]]), np.concatenate([line, bottom[::-1]]), 0.03)
        row = slice(1, -1)
        teeth = line + 0.72 * opening * _BOW
        board.skin(
            parts.TEETH, np.concatenate([x[row], x[row][::-1]]), np.concatenate([line[row], teeth[row][::-1]]), 0.03
        )
    board.line(x, line, 0.018 if opening > 0.02 else 0.026, ink=True, lift=0.03)
    for side in (-1, 1):
        dimple = side * (half + 0.02 * np.array([0.0, 1.0]))
        board.line(dimple, np.array([corner, corner - 0.015 - 0.02 * smile]), 0.02, ink=True, lift=0.03)
        if smile > 0.3:
            cheek = curve((0.19, 0.40), (0.30, 0.47), (half + 0.085, 0.60))
            board.line(side * cheek[:, 0], cheek[:, 1], 0.014, ink=False)


def _folds(board: Board, face: Face) -> None:
    """The lines of age; from an amount of 0.3 on, ever wider."""
    amount = (face.amounts["old"] - 0.3) / 0.7
    if amount <= 0.0:
        return
    width = 0.010 + 0.018 * amount
    for row, (y, half) in enumerate(((-0.60, 0.30), (-0.49, 0.36), (-0.385, 0.30))):
        wobble = 0.012 * np.sin(7.0 * _T + 6.0 * face.numbers[2 + row])
        board.line(half * _T, y - 0.03 * _BOW + wobble, width, ink=False)
    for side in (-1, 1):
        x0 = side * eye_x(face)
        fold = curve((0.18, 0.36), (0.29, 0.47), (0.36, 0.62), (0.35, 0.72))
        board.line(side * fold[:, 0], fold[:, 1], 1.3 * width, ink=False)
        board.line(x0 + 0.16 * _T, EYE_Y + 0.125 + 0.055 * _BOW, width, ink=False)
        board.line(x0 + 0.12 * _T, EYE_Y + 0.165 + 0.06 * _BOW, 0.7 * width, ink=False)
        for dy in (-0.07, 0.0, 0.07):
            x = x0 + side * np.array([0.215, 0.26, 0.30])
            board.line(x, EYE_Y - 0.01 + dy * np.array([0.5, 0.9, 1.4]), 0.8 * width, ink=False)
        frown = curve((0.055, -0.27), (0.045, -0.19), (0.06, -0.12))
        board.line(side * frown[:, 0], frown[:, 1], width, ink=False, lift=0.02)


def _hair(board: Board, face: Face) -> None:
    """The hair in front: from the hairline up and around, and with long hair a lock on each side."""
    f, fall, volume = face.factors, _fall(face), face.factors["hair_volume"]
    w, top, part = f["face_width"], 1.11 + 0.15 * volume, 0.34 * f["parting"]
    side, tip = 0.89 * w + 0.08 * volume, 0.0 + 1.62 * fall
    tight = max(0.0, 1.0 - 3.0 * fall)  # short hair lies close above the ears
    outer, inner = side + 0.05 * fall - (side - 0.83 * w) * tight, 0.775 * w
    over = curve(
        (outer, tip - 0.04 - 0.06 * fall, 0.0),
        (outer + 0.02, 0.5 * (tip - 0.4), -0.04),
        (side, -0.42, -0.06),
        (0.79 * w + 0.03, -0.76, -0.08),
        (0.47 * w, -top + 0.09, -0.10),
        (0.0, -top, -0.10),
    )
    over = np.concatenate([over, over[-2::-1] * (-1.0, 1.0, 1.0)])
    line = curve(
        (-inner, tip, 0.04),
        (-0.77 * w, 0.5 * (tip - 0.3), 0.04),
        (-0.68 * w, -0.30, 0.12),
        (-0.5 * w + 0.1 * part, -0.55, 0.38),
        (0.55 * part - 0.12, -0.68, 0.55),
        (part, -0.74, 0.55),
        (0.55 * part + 0.12 + 0.1 * part, -0.69, 0.55),
        (0.5 * w + 0.1 * part, -0.55, 0.38),
        (0.68 * w, -0.30, 0.12),
        (0.77 * w, 0.5 * (tip - 0.3), 0.04),
        (inner, tip, 0.04),
    )
    board.head(parts.HAIR, _waved(np.concatenate([line, over]), face))
    if face.amounts["bangs"] > 0.0:
        _bangs(board, face, w, part)


def _bangs(board: Board, face: Face, w: float, part: float) -> None:
    low = -0.60 + 0.34 * face.amounts["bangs"]
    count = 7
    edges = np.linspace(-0.74 * w, 0.74 * w, count + 1) + np.array(
        [0.0, *(0.05 * n - 0.025 for n in face.numbers[8:14]), 0.0]
    )
    lean = 0.05 if part < 0 else -0.05
    bottom: list[tuple[float, float]] = [(-0.80 * w, -0.10)]
    for lock in range(count):
        a, b = edges[lock], edges[lock + 1]
        drop = low + 0.07 * abs(lock - 3) / 3 + 0.05 * (face.numbers[lock + 1] - 0.5)
        bottom += [(a + 0.25 * (b - a) + lean, drop - 0.03), (0.5 * (a + b) + lean, drop + 0.03)]
        bottom += [(b - 0.2 * (b - a) + lean, drop), (b + 0.4 * lean, drop - 0.09)]
    bottom += [(0.80 * w, -0.10)]
    x, y = np.array(bottom).T
    crown = curve((0.80 * w, -0.35), (0.55 * w, -0.80), (0.4 * part, -0.95), (-0.55 * w, -0.80), (-0.80 * w, -0.35))
    board.skin(parts.BANGS, np.concatenate([x, crown[:, 0]]), np.concatenate([y, crown[:, 1]]), 0.04)


def _hat(board: Board, face: Face) -> None:
    """A knitted cap with a turned-up brim, wider than the hair below it."""
    w = 0.95 * face.factors["face_width"] + 0.09 * face.factors["hair_volume"]
    dome = curve((0.0, -1.40, -0.1), (0.46 * w, -1.32, -0.1), (0.84 * w, -1.02, -0.1), (0.96 * w, -0.52, -0.08))
    board.head(parts.HAT, mirrored(dome))
    cosine, sine = np.cos(_ROUND), np.sin(_ROUND)
    across = np.sign(cosine) * np.abs(cosine) ** 0.35
    y = -0.63 - 0.06 * (1.0 - across**2) + 0.155 * np.sign(sine) * np.abs(sine) ** 0.5
    z = 0.75 * np.sqrt(1.0 - across**2) - 0.08 + 0.1 * (y + 0.63)
    board.head(parts.BRIM, np.stack([w * across, y, z], axis=1))


def _glasses(board: Board, face: Face) -> None:
    w, x0 = face.factors["face_width"], eye_x(face)
    power = 2.0 + 2.6 * face.factors["frame_shape"]
    cosine, sine = np.cos(_ROUND), np.sin(_ROUND)
    x = 0.275 * np.sign(cosine) * np.abs(cosine) ** (2.0 / power)
    y = EYE_Y + 0.02 + 0.225 * np.sign(sine) * np.abs(sine) ** (2.0 / power)
    for side in (-1, 1):
        temple = side * np.array([x0 + 0.275, 0.80 * w])
        board.ring(parts.FRAME, temple, np.array([EYE_Y - 0.04, EYE_Y + 0.02]), 0.045, 0.02, closed=False)
    for side in (-1, 1):
        board.ring(parts.FRAME, side * x0 + x, y, 0.050, 0.08, closed=True)
    bridge = np.array([0.275 - x0, 0.0, x0 - 0.275])
    board.ring(parts.FRAME, bridge, EYE_Y + np.array([-0.03, -0.06, -0.03]), 0.045, 0.12, closed=False)
