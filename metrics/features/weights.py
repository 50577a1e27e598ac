"""Published weights that are on this machine or are not: nothing is ever downloaded."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch


class Published(NamedTuple):
    """A file of weights, where its authors offer it, and the first digits of its SHA-256."""

    file: str
    sha256: str
    url: str


class Weights(NamedTuple):
    """A file of weights on this machine and its whole SHA-256."""

    path: Path
    checksum: str

    def __str__(self) -> str:
        return f"{self.path.name} sha256 {self.checksum[:16]}"


def find(
    published: Published, user: str, path: str | Path | None = None, sha256: str | None = None, instead: str = ""
) -> Weights:
    """The file at ``path`` or, without one, that in the cache of ``torch.hub``, with the checksum it must have.

    Args:
        published: which file.
        user: who needs it, for the error.
        path: where to look instead of the cache.
        sha256: first digits to expect instead of the published ones.
        instead: what to do without the file, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another checksum.
    """
    place = Path(path or Path(torch.hub.get_dir(), "checkpoints", published.file))
    if not place.is_file():
        raise FileNotFoundError(
            f"{user} needs {published.file} (sha256 {published.sha256}..., from {published.url}), "
            f"but there is no file at {place}: put it there or give its path{instead and f', or {instead}'}."
        )
    return Weights(place, verify(place, published.sha256 if sha256 is None else sha256))


def verify(path: Path, sha256: str) -> str:
    """The file's SHA-256 in hexadecimal digits, once it is known to begin with ``sha256``.

    Raises:
        ValueError: it begins otherwise: the file is damaged or another.
    """
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if not checksum.startswith(sha256):
        raise ValueError(f"{path} has sha256 {checksum[:16]}... where {sha256}... is expected: fetch it again.")
    return checksum
