"""Put evaluation cards side by side: ``python -m metrics.compare RUN_A/evaluation.json RUN_B ... [--anyway]``.

Cards of different protocols measured different things. They are refused, with what differs, unless told otherwise.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from metrics.better import better_end

FILE = "evaluation.json"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 if a card is missing or the protocols differ."""
    parser = argparse.ArgumentParser(prog="python -m metrics.compare", description="Compare evaluation cards.")
    parser.add_argument("cards", nargs="+", type=Path, help="evaluation.json, or the run folders that hold them")
    parser.add_argument("--anyway", action="store_true", help="compare cards of different protocols")
    given = parser.parse_args(arguments)
    paths = [path / FILE if path.is_dir() else path for path in given.cards]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        print(f"There is no evaluation card {missing[0]}: make evaluate writes it.", file=sys.stderr)
        return 2
    cards = [json.loads(path.read_text()) for path in paths]
    differences = [line for card in cards[1:] for line in differing(cards[0]["protocol"], card["protocol"])]
    if differences and not given.anyway:
        lines = "\n  ".join(dict.fromkeys(differences))
        print(
            f"The protocols differ, so the numbers do not compare (--anyway does it still):\n  {lines}", file=sys.stderr
        )
        return 2
    print(table([label(path) for path in paths], cards))
    if differences:
        print("\nThe protocols differ:\n  " + "\n  ".join(dict.fromkeys(differences)))
    return 0


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """A line for every entry in which two protocols differ."""
    return [
        f"{key}: {one.get(key, 'none')} | {other.get(key, 'none')}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def table(labels: list[str], cards: list[dict[str, Any]]) -> str:
    """Markdown: a row for each measure that any card has, a column for each card, intervals in brackets.

    An arrow after the measure points to its better end.
    """
    names = list(dict.fromkeys(name for card in cards for name in card["metrics"]))
    lines = ["| | " + " | ".join(labels) + " |", "|---" * (len(cards) + 1) + "|"]
    for name in names:
        arrow = {"higher": " ↑", "lower": " ↓"}.get(better_end(name.partition("/")[0]), "")
        lines.append(f"| {name}{arrow} | " + " | ".join(cell(card["metrics"].get(name)) for card in cards) + " |")
    return "\n".join(lines)


def cell(measured: dict[str, Any] | None) -> str:
    """A value and its interval, or nothing."""
    if measured is None:
        return ""
    interval = "" if measured.get("low") is None else f" [{measured['low']:.4g}, {measured['high']:.4g}]"
    return f"{measured['value']:.4g}{interval}"


def label(path: Path) -> str:
    """Experiment and time of a run, and which of its checkpoints where it is not the last."""
    return "/".join(path.absolute().parts[-3:-1]) + path.stem.removeprefix("evaluation").replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
