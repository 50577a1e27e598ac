"""Which image has which attributes: tables as CSV and in the format of CelebA's lists."""

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class AttributeTable(NamedTuple):
    """Attributes of some images."""

    files: tuple[str, ...]  # names of N images, as the table has them
    attributes: tuple[str, ...]  # K names
    categories: tuple[int, ...]  # how many categories each attribute has, 2 where it is there or not
    values: np.ndarray  # (N, K) int64 in 0 .. categories - 1


def read_attributes(path: Path, wanted: Sequence[str] | None = None) -> AttributeTable:
    """Read a table with one line an image.

    * CSV: a first line of names, of which the first is that of the column of file names.
    * CelebA's ``list_attr_celeba.txt``: the number of images, the names, then a file and its values a line.

    Values are -1 and 1, or whole numbers from 0 on.

    Args:
        path: of the table; ``.csv`` or any other ending.
        wanted: attributes to keep, in this order; None for all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line or a value does not fit, an attribute is unknown, or it never varies.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table of attributes {path}: correct data.table or create it.")
    names, lines = _csv(path) if path.suffix.lower() == ".csv" else _celeba(path)
    wanted = names if wanted is None else list(wanted)
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}."
            raise ValueError(f"{path} has no attribute {name}; {hint}")
    if not wanted or not lines:
        raise ValueError(f"{path} holds no {'image' if wanted else 'attribute'}.")
    places = [names.index(name) for name in wanted]
    rows = [[_whole(path, number, each[place]) for place in places] for number, _, each in lines]
    values = np.array(rows, np.int64)
    values[:, values.min(0) < 0] = (values[:, values.min(0) < 0] + 1) // 2  # -1 and 1
    categories = values.max(0) + 1
    for k, name in enumerate(wanted):
        alike = values[:, k].min() == values[:, k].max()
        if alike or values[:, k].min() < 0:
            what = "has one value only" if alike else "mixes -1 with other numbers than 1"
            raise ValueError(f"{path}: attribute {name} {what}, from which nothing can be learnt.")
    return AttributeTable(tuple(file for _, file, _ in lines), tuple(wanted), tuple(categories.tolist()), values)


def read_partition(path: Path) -> dict[str, int]:
    """CelebA's ``list_eval_partition``, as text or CSV: 0 for training, 1 validation, 2 test, by file name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a name and one of these numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: correct data.partition, or leave it out.")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.replace(",", " ").split()
        if not parts or (number == 1 and not parts[-1].isdigit()):
            continue
        if len(parts) != 2 or parts[1] not in ("0", "1", "2"):
            raise ValueError(
                f"Line {number} of {path} must be a file name and 0 (train), 1 (val) or 2 (test): {line!r}."
            )
        found[parts[0]] = int(parts[1])
    return found


Lines = list[tuple[int, str, list[str]]]  # number in the file, name of the image, values


def _csv(path: Path) -> tuple[list[str], Lines]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(row)]
    if not rows:
        raise ValueError(f"{path} is empty: its first line must name the columns.")
    names = [name.strip() for name in rows[0][1][1:]]
    return names, [_checked(path, number, [cell.strip() for cell in row], names) for number, row in rows[1:]]


def _celeba(path: Path) -> tuple[list[str], Lines]:
    rows = [
        (k, line.split()) for k, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()
    ]
    if len(rows) < 2 or len(rows[0][1]) != 1 or not rows[0][1][0].isdigit():
        raise ValueError(
            f"{path} is not in CelebA's format (number of images, names, then a line an image); "
            "name it .csv if it is one."
        )
    names = rows[1][1]
    return names, [_checked(path, number, row, names) for number, row in rows[2:]]


def _checked(path: Path, number: int, row: list[str], names: list[str]) -> tuple[int, str, list[str]]:
    if len(row) != len(names) + 1:
        raise ValueError(f"Line {number} of {path} has {len(row) - 1} values for {len(names)} attributes.")
    return number, row[0], row[1:]


def _whole(path: Path, number: int, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"Line {number} of {path} holds {value!r}: values are -1 and 1, or 0, 1, 2, ...") from None
