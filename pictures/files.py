"""Picture files: any that Pillow opens, upright, as floats; results in the same format where it can hold them.

A result is always in colour, also of a grey picture: what makes shoes of line drawings must be able to say so. Of an
animation or a file of several pages comes the first one. Kept are transparency, 16 bits a channel and the colour
profile; other metadata (camera, place) describe the photograph that was, and are left out.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture and what its file had beside colours.

    Args:
        pixels: (3, H, W) float32 in [-1, 1], upright; not multiplied by alpha, and white where alpha is 0.
        alpha: (H, W) float32 in [0, 1], or None where the file has no transparency.
        deep: the file has 16 bits a channel.
        icc_profile: of its colours, or None.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    deep: bool = False
    icc_profile: bytes | None = None


class Format(NamedTuple):
    """What a file format can hold, in the hands of Pillow."""

    name: str
    alpha: bool = False
    options: Mapping[str, int] = MappingProxyType({})


JPEG = Format("JPEG", options={"quality": 95, "subsampling": 0})
FORMATS = {
    ".png": Format("PNG", alpha=True),
    ".tif": Format("TIFF", alpha=True),
    ".tiff": Format("TIFF", alpha=True),
    ".webp": Format("WEBP", alpha=True, options={"quality": 95}),
    ".tga": Format("TGA", alpha=True),
    ".bmp": Format("BMP"),
    ".ppm": Format("PPM"),
    ".pnm": Format("PPM"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), JPEG),
}
GREY_ALPHA = "LA;16B"
# Of 16-bit colour, Pillow reads the upper byte. As a file of the other byte order it gives the lower one. Grey with
# alpha it reads as RGBA; as a file of 8-bit RGBA it gives both bytes of both.
OTHER_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in ("BL", "LB", "NB")
} | {GREY_ALPHA: "RGBA"}


def list_pictures(source: Path) -> tuple[list[Path], list[Path]]:
    """The picture ``source``, or those of a folder and its sub-folders, sorted; and the files that are none.

    Hidden files are passed over. Which files of a folder are pictures, their endings say; a link to nothing counts as
    the file that it should be, so that ``read`` can say what is wrong with it.

    Raises:
        FileNotFoundError: there is no ``source``.
        ValueError: the folder holds no picture.
    """
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise FileNotFoundError(f"There is no picture or folder {source}: correct the path.")
    Image.init()
    readable = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    files = sorted(f for f in source.rglob("*") if (f.is_file() or not f.exists()) and not f.name.startswith("."))
    pictures = [f for f in files if f.suffix.lower() in readable]
    others = [f for f in files if f.suffix.lower() not in readable]
    if not pictures:
        such = f" among its {len(others)} file(s), such as {others[0].name}" if others else ": it is empty"
        raise ValueError(f"{source} holds no picture that Pillow opens{such}; correct the path or convert them.")
    return pictures, others


def read(path: Path) -> Picture:
    """Read a picture.

    Raises:
        ValueError: says why it cannot be read.
    """
    try:
        levels, profile = _decode(path)
    # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ValueError(f"it cannot be read ({str(error) or type(error).__name__})") from error
    channels = torch.from_numpy(levels.astype(np.float32) / np.iinfo(levels.dtype).max).permute(2, 0, 1)
    colour, alpha = channels[:3], channels[3] if len(channels) == 4 else None
    if alpha is not None:
        colour = torch.where(alpha > 0, colour, 1.0)  # files hold anything where nobody sees it, black above all
    return Picture((colour * 2 - 1).contiguous(), alpha, levels.dtype == np.uint16, profile)


def over_white(picture: Picture) -> Tensor:
    """What is seen on a white page, as in training: (3, H, W) in [-1, 1]."""
    return picture.pixels if picture.alpha is None else picture.pixels * picture.alpha + (1 - picture.alpha)


@contextlib.contextmanager
def _of_any_size() -> Iterator[None]:
    """Lift Pillow's limit of pixels: it guards servers against strangers, but here the user names the files."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@_of_any_size()
def _decode(path: Path) -> tuple[np.ndarray, bytes | None]:
    """(H, W, 3 or 4) uint8 or uint16, and the colour profile."""
    # As an open file: by path, Pillow 13 maps an uncompressed TIFF into memory and scrambles it where it is rotated.
    with open(path, "rb") as file, Image.open(file) as image:
        raw_mode = _raw_mode(image)
        coloured = image.mode in ("RGB", "RGBA", "P") and raw_mode != GREY_ALPHA
        profile = image.info.get("icc_profile") if coloured else None  # of grey or CMYK: not of RGB
        other_bytes = OTHER_BYTES.get(raw_mode) if image.mode in ("RGB", "RGBA") else None
        upright = _upright(image)
    if upright.mode == "F":
        raise ValueError("floating point pixels have no fixed range; save it with 8 or 16 bits")
    transparent = upright.info.get("transparency")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        grey = np.asarray(upright).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its pixels are beyond 16 bits; save it with 8 or 16 bits")
        return _keyed(np.repeat(grey[..., None].astype(np.uint16), 3, axis=2), transparent), profile
    if other_bytes is not None:
        with open(path, "rb") as file, Image.open(file) as image:
            image.tile = [tile._replace(args=_with_raw_mode(tile.args, other_bytes)) for tile in image.tile]
            others = np.asarray(_upright(image))
        if raw_mode == GREY_ALPHA:
            both = others[..., ::2].astype(np.uint16) << 8 | others[..., 1::2]
            return both[..., [0, 0, 0, 1]], profile
        return _keyed(np.asarray(upright).astype(np.uint16) << 8 | others, transparent), profile
    return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB")), profile


def _keyed(levels: np.ndarray, transparent: int | tuple[int, ...] | None) -> np.ndarray:
    """(H, W, 3) uint16, with a fourth channel where the file calls one grey or colour transparent (tRNS)."""
    if transparent is None:
        return levels
    opaque = (levels != np.asarray(transparent)).any(axis=2, keepdims=True)
    return np.concatenate((levels, opaque * np.uint16(65535)), axis=2)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, in Pillow's words; '' where they are not decoded so."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _with_raw_mode(args: tuple[Any, ...] | str | None, raw_mode: str) -> tuple[Any, ...] | str:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def destination(path: Path, picture: Picture) -> Path:
    """``path``, or the same with ``.png``, where its ending names a format that cannot hold the result."""
    form = FORMATS.get(path.suffix.lower())
    fits = form is not None and (form.alpha or picture.alpha is None) and (form.name == "PNG" or not picture.deep)
    return path if fits else path.with_name(path.stem + ".png" if form or path.suffix else path.name + ".png")


def write(path: Path, pixels: Tensor, like: Picture) -> None:
    """Write a result so that nobody ever finds half a file; its folder is made.

    Args:
        path: as ``destination`` gives it.
        pixels: (3, H, W) in [-1, 1]; values outside are cut off.
        like: the picture that it was made of.
    """
    form = FORMATS[path.suffix.lower()]
    channels = pixels.detach().float().cpu() / 2 + 0.5
    if like.alpha is not None:
        channels = torch.cat((channels, like.alpha[None]))
    top = 65535 if like.deep else 255
    levels = (
        (channels * top).round().clamp(0, top).permute(1, 2, 0).numpy().astype(np.uint16 if like.deep else np.uint8)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if like.deep:
            temporary.write_bytes(_png_of_16_bits(levels, like.icc_profile))
        else:
            options = dict(form.options) | ({"icc_profile": like.icc_profile} if like.icc_profile else {})
            Image.fromarray(levels).save(temporary, format=form.name, **options)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _png_of_16_bits(levels: np.ndarray, profile: bytes | None) -> bytes:
    """(H, W, 3 or 4) uint16 as a PNG (W3C recommendation, third edition), which Pillow can only write in 8 bits."""
    height, width, channels = levels.shape
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    rows[1:] -= rows[:-1].copy()  # filter 2: what differs from the row above, modulo 256
    filtered = np.concatenate((np.full((height, 1), 2, np.uint8), rows), axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    icc = _chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)) if profile else b""
    data = _chunk(b"IDAT", zlib.compress(filtered.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + icc + data + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
