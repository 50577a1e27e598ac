"""Numbers as a picture: a table whose cells are the darker the more they are to be looked at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (40, 40, 40)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, darkness: np.ndarray
) -> np.ndarray:
    """A picture of a matrix with its names.

    Args:
        title: above it.
        rows: R names.
        columns: C names.
        values: (R, C) numbers to print; NaN for a cell without one.
        darkness: (R, C) in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    font = ImageFont.load_default(15)
    left = max(90, 26 + max((round(font.getlength(name)) for name in rows), default=0))
    width = max(84, 12 + max((round(font.getlength(name)) for name in columns), default=0))
    height, top = 44, 64
    size = max(left + len(columns) * width + 8, round(font.getlength(title)) + 16), top + len(rows) * height + 8
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((8, 6), title, INK, font)
    for k, name in enumerate(columns):
        draw.text((left + k * width + width // 2, top - 6), name, INK, font, anchor="mb")
    for k, name in enumerate(rows):
        draw.text((left - 8, top + k * height + height // 2), name, INK, font, anchor="rm")
    for row, column in np.ndindex(len(rows), len(columns)):
        x, y, value = left + column * width, top + row * height, values[row, column]
        dark = float(np.clip(darkness[row, column], 0, 1)) if not np.isnan(value) else 0.0
        shade = (236, 236, 236) if np.isnan(value) else tuple(int(250 - dark * span) for span in (20, 90, 130))
        draw.rectangle((x + 1, y + 1, x + width - 2, y + height - 2), shade)
        text = "" if np.isnan(value) else f"{value:.3g}"
        draw.text((x + width // 2, y + height // 2), text, INK, font, anchor="mm")
    return np.asarray(picture)
