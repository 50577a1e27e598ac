"""The picture of a paper's evidence: a panel for each measure."""

import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.page import Cards, measured
from benchmarks.evidence.plan import Measure, Plan, Quoted


def draw(plan: Plan, cards: Cards, picture: Path) -> None:
    """Rows one below the other, or, where the plan has an axis, curves along it; a dot a seed, mean and deviation.

    Where the plan says against which measure, a panel more for each score, whose higher end is the better one: methods
    compare where they stand one above the other.

    Args:
        plan: what is shown.
        cards: of all rows.
        picture: PNG to write; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[Measure, Measure | None]] = [(measure, None) for measure in plan.measures]
    for base in (each for each in plan.measures if each.key == plan.against):
        panels += [(measure, base) for measure in plan.measures if measure.better == "higher"]
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    size = (1.0 + 3.8 * across, 3.2 * down) if plan.axis else (2.2 + 3.6 * across, down * (1.0 + 0.42 * len(plan.rows)))
    figure = Figure(figsize=(size[0], size[1] + 0.4), layout="constrained", dpi=110)
    for number, (measure, against) in enumerate(panels):
        axes = figure.add_subplot(down, across, number + 1)
        if against is not None:
            draw_against(axes, plan, cards, measure, against)
        elif plan.axis:
            draw_curves(axes, plan, cards, measure)
        else:
            draw_rows(axes, plan, cards, measure, named=number % across == 0)
        better = f"\n({measure.better} is better)" if measure.better else ""
        axes.set_title(f"{measure.title.replace('`', '')}{better}", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    os.replace(temporary, picture)


def draw_rows(axes: Any, plan: Plan, cards: Cards, measure: Measure, named: bool) -> None:
    """Each row at its height, with the paper's values where they compare."""
    names = [row.name for row in plan.rows]
    for place, name in enumerate(names):
        values = values_of(cards, name, measure)
        if values:
            axes.errorbar(
                statistics.mean(values), place, xerr=deviation(values), fmt="|", color="C0", capsize=4, markersize=14
            )
            axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.5, markersize=5)
    for column in (k for k, each in enumerate(plan.quoted) if each.measure == measure.key):
        draw_paper(axes, plan.quoted[column], [row.paper[column] for row in plan.rows])
    axes.set_yticks(range(len(names)), names if named else [""] * len(names), fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)


def draw_curves(axes: Any, plan: Plan, cards: Cards, measure: Measure) -> None:
    """A curve for each series, its mean with one deviation on either side."""
    places: set[float] = set()
    for color, series in enumerate(dict.fromkeys(row.series for row in plan.rows)):
        points = sorted(
            (row.at, values)
            for row in plan.rows
            if row.series == series and row.at is not None and (values := values_of(cards, row.name, measure))
        )
        if not points:
            continue
        at, means = [x for x, _ in points], [statistics.mean(values) for _, values in points]
        spread = [deviation(values) for _, values in points]
        below, above = ([mean + sign * s for mean, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        axes.plot(at, means, "-", color=f"C{color}", label=series or None)
        axes.fill_between(at, below, above, color=f"C{color}", alpha=0.15, linewidth=0)
        for x, values in points:
            axes.plot([x] * len(values), values, "o", color=f"C{color}", alpha=0.5, markersize=4)
        places |= set(at)
    if places and min(places) > 0 and max(places) / min(places) >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(sorted(places), [f"{x:g}" for x in sorted(places)])
    axes.set_xlabel(plan.axis, fontsize=8)
    if len({row.series for row in plan.rows}) > 1:
        axes.legend(fontsize=7, frameon=False)


def draw_against(axes: Any, plan: Plan, cards: Cards, measure: Measure, against: Measure) -> None:
    """One measure over another: the rows of a series joined in the order of the axis, each row's place beside it."""
    for color, series in enumerate(dict.fromkeys(row.series for row in plan.rows)):
        means = []
        for row in sorted((row for row in plan.rows if row.series == series), key=lambda row: row.at or 0.0):
            x, y = values_of(cards, row.name, against), values_of(cards, row.name, measure)
            if x and len(x) == len(y):
                axes.plot(x, y, "o", color=f"C{color}", alpha=0.4, markersize=4)
                means.append((statistics.mean(x), statistics.mean(y)))
                axes.annotate(f"{row.at:g}", means[-1], fontsize=7, xytext=(3, 3), textcoords="offset points")
        if means:
            axes.plot(*zip(*means, strict=True), "-", color=f"C{color}", label=series or None)
    axes.set_xlabel(against.title, fontsize=8)
    if len({row.series for row in plan.rows}) > 1:
        axes.legend(fontsize=7, frameon=False)


def values_of(cards: Cards, row: str, measure: Measure) -> list[float]:
    """One a seed."""
    return [each["value"] for each in measured(cards[row], measure.key)]


def deviation(values: Sequence[float]) -> float:
    """Over seeds; 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw_paper(axes: Any, column: Quoted, values: Sequence[Any]) -> None:
    """The paper's values beside ours; a value that is no number is left out."""
    found = [(number(value), place + 0.25) for place, value in enumerate(values)]
    points = [(x, y) for x, y in found if x is not None]
    if points:
        axes.plot(
            *zip(*points, strict=True), "D", color="C1", markerfacecolor="none", label=f"the paper, {column.table}"
        )
        axes.legend(fontsize=7, frameon=False)


def number(value: Any) -> float | None:
    """The number that a quoted value, such as ``0.569 ± 0.029``, begins with."""
    found = re.match(r"\s*[-+]?\d+(\.\d+)?", str(value))
    return float(found[0]) if found else None
