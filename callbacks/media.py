"""Pictures: tensors to labelled grids, grids to files (PNG, moving: GIF) and to W&B; tables to W&B."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

GUTTER = 4  # white pixels between cells
INK = (40, 40, 40)


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of this run; only rank 0 may write there, other ranks can hold another path."""
    return Path(trainer.default_root_dir)


def shown(path: Path) -> str:
    """``path`` as short as it can be typed in the working folder."""
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)


def logged_step(trainer: pl.Trainer) -> int:
    """The x-axis position at which Lightning would log a scalar now: batches, however many optimizers there are."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def save_picture(trainer: pl.Trainer, key: str, image: np.ndarray) -> None:
    """Write ``<run>/pictures/<key>/<iteration>.png`` and show the picture in W&B where there is one.

    Outside ``fit`` the file is named after what runs, ``validate.png``: the iteration is not known there.
    Call it on any rank: ranks other than 0 do nothing.

    Args:
        trainer: of the run.
        key: such as ``media/translations``; slashes become folders.
        image: (H, W, 3) uint8.

    Raises:
        TypeError: ``image`` is not uint8; W&B would turn it black without a word.
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise TypeError(f"{key}: a picture is (H, W, 3) uint8, not {image.shape} {image.dtype}; see to_uint8.")
    if not trainer.is_global_zero:
        return
    write_png(_place(trainer, key).with_suffix(".png"), image)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [image], step=logged_step(trainer))


def save_video(trainer: pl.Trainer, key: str, frames: Sequence[np.ndarray], fps: int = 8) -> None:
    """Write ``<run>/pictures/<key>/<iteration>.gif``, which repeats for ever, and show it in W&B where there is one.

    Call it on any rank: ranks other than 0 do nothing.

    Args:
        trainer: of the run.
        key: as for ``save_picture``, of which it must not be one.
        frames: (H, W, 3) uint8 each, of one size.
        fps: frames a second.
    """
    if not trainer.is_global_zero:
        return
    path = _place(trainer, key).with_suffix(".gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(temporary, format="GIF", save_all=True, append_images=others, duration=1000 // fps, loop=0)
    os.replace(temporary, path)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(key, [str(path)], step=logged_step(trainer))


def _place(trainer: pl.Trainer, key: str) -> Path:
    """Of a picture of this moment, without the ending of its name."""
    name = f"{trainer.global_step:07d}" if trainer.state.fn in (None, "fit") else str(trainer.state.fn.value)
    return run_folder(trainer) / "pictures" / key / name


def show_table(trainer: pl.Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
    """Show a table in W&B where there is one, to be sorted and compared between runs.

    Call it on any rank: ranks other than 0 do nothing.

    Args:
        trainer: of the run.
        key: such as ``evaluation``.
        columns: their names.
        rows: values in the order of the columns; None for what is not known.
        step: position on the x-axis.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, list(columns), [list(row) for row in rows], step=step)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    Image.fromarray(image).save(temporary, format="PNG")
    os.replace(temporary, path)


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert (N, C, H, W) in [-1, 1], C 1 or 3, to (N, H, W, 3) in 0..255; values outside are cut off."""
    scaled = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    pixels = scaled.byte().permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))


def labelled_grid(
    columns: Sequence[Tensor], headings: Sequence[str], rows: Sequence[str] | None = None, least_width: int = 900
) -> np.ndarray:
    """One image per cell, headings above the columns and beside the rows, white gutters between.

    Small images are magnified by whole numbers, pixel by pixel, so that what is seen is what was made.

    Args:
        columns: each (N, C, H, W) in [-1, 1], all of one shape.
        headings: one per column; may hold line breaks.
        rows: one label per image, or None.
        least_width: the images together are at least this wide, in pixels.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: there is not one heading per column, or the columns differ in shape.
    """
    if len(columns) != len(headings) or len({tuple(column.shape) for column in columns}) != 1:
        shapes = [tuple(column.shape) for column in columns]
        raise ValueError(f"A grid needs columns of one shape and a heading for each, not {shapes} and {headings}.")
    cells = np.stack([to_uint8(column) for column in columns], axis=1)  # (row, column, H, W, 3)
    magnify = max(1, -(-least_width // (len(columns) * cells.shape[3])))
    cells = cells.repeat(magnify, axis=2).repeat(magnify, axis=3)
    n, _, height, width, _ = cells.shape

    font = _fitting_font(headings, width)
    top = _height(font, headings)
    left = 0 if rows is None else max(int(font.getlength(label)) for label in rows) + 2 * GUTTER
    picture = Image.new("RGB", (left + len(columns) * (width + GUTTER), top + n * (height + GUTTER)), "white")
    for column, heading in enumerate(headings):
        label = Image.new("RGB", (width, top), "white")  # a label longer than its cell is cut, not run into the next
        ImageDraw.Draw(label).multiline_text((width // 2, top // 2), heading, INK, font, anchor="mm", align="center")
        x = left + column * (width + GUTTER)
        picture.paste(label, (x, 0))
        for row in range(n):
            picture.paste(Image.fromarray(cells[row, column]), (x, top + row * (height + GUTTER)))
    for row, text in enumerate(rows or ()):
        middle = top + row * (height + GUTTER) + height // 2
        ImageDraw.Draw(picture).text((left - GUTTER, middle), text, INK, font, anchor="rm")
    return np.asarray(picture)


def beside(*pictures: np.ndarray, gap: int = 24) -> np.ndarray:
    """Pictures of one height from left to right, ``gap`` white pixels between them."""
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (white, picture)][1:], axis=1)


def _fitting_font(labels: Sequence[str], width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest size from 16 down to 8 in which every line is at most ``width`` wide."""
    lines = [line for label in labels for line in label.split("\n")]
    for size in range(16, 8, -1):
        font = ImageFont.load_default(size)
        if all(font.getlength(line) <= width for line in lines):
            return font
    return ImageFont.load_default(8)


def _height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, labels: Sequence[str]) -> int:
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return max(int(canvas.multiline_textbbox((0, 0), label, font)[3]) for label in labels) + 2 * GUTTER
