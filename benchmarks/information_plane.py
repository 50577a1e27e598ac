"""What codes cost against what they lose, the information plane of variational models (Alemi et al. 2018).

    python -m benchmarks.information_plane RUN [RUN ...] [--out plane.png]

A run folder tells rate and distortion of its test images (``evaluation.json``) or, where it was not tested, of its
last validation (``metrics.csv``); all runs must tell the same. ``callbacks.rate_distortion`` measures them. Runs whose
models have the same arguments are seeds of one row, which is named after what sets it apart.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.report_data import read_curves
from metrics.compare import FILE


class Point(NamedTuple):
    """One run."""

    rate: float  # nats
    distortion: float  # nats


Points = dict[str, list[Point]]  # by row, one a seed


def main(arguments: list[str] | None = None) -> int:
    """Draw the plane of run folders and print it as a table; 2 if they do not have it in them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.information_plane", description="Rate and distortion.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("information_plane.png"), help="PNG to write")
    given = parser.parse_args(arguments)
    try:
        points = read_points(given.runs)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(points))
    draw_plane(points, given.out)
    print(f"Written to {os.path.relpath(given.out)}.")
    return 0


def read_points(runs: Sequence[Path]) -> Points:
    """The points of run folders by row.

    Raises:
        FileNotFoundError: a folder has no ``config.yaml``, or no numbers.
        ValueError: a folder has no rate and distortion, only some were tested, or their data differ.
    """
    settings = [read_settings(run) for run in runs]
    for run, each in zip(runs, settings, strict=True):
        if without_seed(each["data"]) != without_seed(settings[0]["data"]):
            raise ValueError(f"{run} has other data than {runs[0]}, so they do not compare: give runs of one data set.")
    tested = [run for run in runs if (run / FILE).is_file()]
    if tested and len(tested) < len(runs):
        other = next(run for run in runs if run not in tested)
        raise ValueError(f"{tested[0]} was tested and {other} was not, so they do not compare: test all runs or none.")
    points: Points = {}
    for run, name in zip(runs, names_of([each["model"] for each in settings]), strict=True):
        points.setdefault(name, []).append(tested_point(run) if tested else validated_point(run))
    return points


def read_settings(run: Path) -> dict[str, Any]:
    """The configuration of a run, which has a model and data."""
    file = run / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: give the folders of trained runs.")
    found = yaml.safe_load(file.read_text())
    if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in ("model", "data")):
        raise ValueError(f"{file} has no model and data: give the folders of trained runs.")
    return found


def without_seed(part: Mapping[str, Any]) -> dict[str, Any]:
    """A class and its arguments but for the seed."""
    return {key: value for key, value in flat(part).items() if key != "seed"}


def flat(part: Mapping[str, Any]) -> dict[str, Any]:
    """A class and its arguments side by side."""
    own = part.get("init_args") or {}
    return {"": str(part.get("class_path", "")).rpartition(".")[2], **own, **(part.get("dict_kwargs") or {})}


def names_of(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each model: its class, and the arguments in which it differs from any other."""
    each = [flat(model) for model in models]
    keys = dict.fromkeys(key for model in each for key in model if key)
    apart = [key for key in keys if len({repr(model.get(key)) for model in each}) > 1]
    return [", ".join([model[""], *(f"{key} {model[key]}" for key in apart if key in model)]) for model in each]


def tested_point(run: Path) -> Point:
    """Of the evaluation card."""
    metrics = json.loads((run / FILE).read_text())["metrics"]
    if not has_point(metrics):
        raise ValueError(f"{run / FILE} has no rate and distortion: name callbacks.rate_distortion and test again.")
    return point_of(metrics)


def validated_point(run: Path) -> Point:
    """Of the last validation."""
    file, problems = run / "metrics.csv", list[str]()
    curves = read_curves(file, problems)
    if not file.is_file():
        raise FileNotFoundError(f"There is neither {run / FILE} nor {file}: give the folders of trained runs.")
    if not all(curves.get(f"val/{key}") for key in Point._fields):
        raise ValueError(f"{file} has no val/rate and val/distortion: name callbacks.rate_distortion and validate.")
    return Point(*(list(curves[f"val/{key}"].values())[-1] for key in Point._fields))


def has_point(metrics: Mapping[str, Any]) -> bool:
    """Whether the metrics of an evaluation card have both."""
    return all(key in metrics for key in Point._fields)


def point_of(metrics: Mapping[str, Any]) -> Point:
    """Of the metrics of an evaluation card."""
    return Point(*(float(metrics[key]["value"]) for key in Point._fields))


def points_of_cards(cards: Mapping[str, Sequence[Mapping[str, Any]]]) -> Points:
    """The points of evaluation cards by row; rows that have not been measured so are left out.

    Args:
        cards: by row, one a seed, as ``benchmarks.evidence.page.read_cards`` gives them.
    """
    found = {
        row: [point_of(card["metrics"]) for card in each if has_point(card["metrics"])] for row, each in cards.items()
    }
    return {row: points for row, points in found.items() if points}


def table(points: Points) -> str:
    """Markdown: means, and standard deviations over seeds."""
    lines = ["| | rate, nats | distortion, nats | ELBO, nats | runs |", "|---|---|---|---|---|"]
    for row, each in points.items():
        columns = [[p.rate for p in each], [p.distortion for p in each], [-p.rate - p.distortion for p in each]]
        cells = [
            f"{middle:.2f}" + (f" ± {spread:.2f}" if len(each) > 1 else "") for middle, spread in map(summary, columns)
        ]
        lines.append(f"| {row} | {' | '.join(cells)} | {len(each)} |")
    return "\n".join(lines)


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds, 0 of one seed."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw_plane(points: Points, picture: Path) -> None:
    """Distortion over rate: a dot a seed, mean and spread of each row, and lines on which the ELBO is the same.

    Args:
        points: by row; one or more.
        picture: PNG to write; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 5.2), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    for number, (row, each) in enumerate(points.items()):
        (rate, wide), (distortion, high) = (summary(values) for values in zip(*each, strict=True))
        colour, marker = f"C{number % 10}", "osD^v"[number // 10 % 5]
        axes.plot(*zip(*each, strict=True), marker, color=colour, alpha=0.35, markersize=5, linestyle="none")
        axes.errorbar(
            rate,
            distortion,
            high,
            wide,
            fmt=marker,
            color=colour,
            capsize=3,
            markersize=8,
            label=f"{row} ({len(each)})",
        )
    axes.margins(0.15)
    draw_bounds(axes)
    axes.set_xlabel("rate: KL(q(z|x), prior), nats")
    axes.set_ylabel("distortion: - log p(x|z), nats")
    axes.set_title("Rate and distortion; dots are seeds, bars their standard deviation", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside right upper")
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    os.replace(temporary, picture)


def draw_bounds(axes: Any) -> None:
    """Lines of constant rate + distortion at round numbers within the axes, which stay as they are."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(8).tick_values(left + bottom, right + top):
        first, last = max(left, total - top), min(right, total - bottom)
        if first < last:
            axes.plot([first, last], [total - first, total - last], color="grey", linewidth=0.7, alpha=0.6, zorder=0)
            place = {"xytext": (2, -2), "textcoords": "offset points", "va": "top"}
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.annotate(f"ELBO {-total:,.5g}", (first, total - first), fontsize=7, color="grey", bbox=box, **place)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


if __name__ == "__main__":
    sys.exit(main())
