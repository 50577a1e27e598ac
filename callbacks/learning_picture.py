"""The picture of ``callbacks.learning_order``: what a code told of each factor, measurement by measurement."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEARNED = 0.1  # share from which on a factor counts as learned; chance gives one of 40 values 0.05 of 2000 points
PANELS = 12  # coordinates with a panel of their own


class Moment(NamedTuple):
    """What a code tells after some iterations."""

    iteration: int
    shares: np.ndarray  # (D, K) in [0, 1], mutual information by the entropy of the factor
    active: np.ndarray  # (D,) bool
    kl: np.ndarray  # (D,) nats; NaN where the model has no posterior
    target: float  # nats at which the objective holds the KL; NaN where it does not

    @property
    def best(self) -> np.ndarray:
        """(K,) the largest share of any coordinate."""
        return self.shares.max(0)


def learned_at(moments: Sequence[Moment]) -> np.ndarray:
    """From when on each factor's best share is half of its last or more: (K,) iterations, infinite if not learned."""
    best = np.stack([moment.best for moment in moments])  # (T, K)
    first = len(best) - np.logical_and.accumulate((best >= best[-1] / 2)[::-1]).sum(0)
    iterations = np.array([moment.iteration for moment in moments], float)
    return np.where(best[-1] >= LEARNED, iterations[first], np.inf)


def draw_order(names: Sequence[str], moments: Sequence[Moment]) -> np.ndarray:
    """The picture of ``LearningOrder``.

    Args:
        names: of the factors.
        moments: one or more, in the order of their iterations.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = moments[-1]
    shown = [int(d) for d in _by_weight(last) if last.active[d]][:PANELS]
    has_kl = not np.isnan(last.kl).all()
    rows = -(-len(shown) // 4)
    heights = [0.8 + 0.36 * len(names), *([2.6] if has_kl else []), *[2.1] * rows]
    figure = Figure(figsize=(12, sum(heights) + 0.9), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(heights), 4, height_ratios=heights)
    _draw_heat(figure, figure.add_subplot(grid[0, :]), names, moments)
    if has_kl:
        _draw_kl(figure.add_subplot(grid[1, :2]), shown, moments)
        _draw_total(figure.add_subplot(grid[1, 2:]), moments)
    top = max(0.05, float(last.best.max()), *(float(m.shares[shown].max(initial=0.0)) for m in moments))
    for k, d in enumerate(shown):
        axes = figure.add_subplot(grid[len(heights) - rows + k // 4, k % 4])
        _draw_coordinate(axes, d, names, moments, top)
    if shown:
        figure.legend(*axes.get_legend_handles_labels(), fontsize=9, frameon=False, loc="outside lower center", ncols=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _by_weight(moment: Moment) -> np.ndarray:
    """Coordinates by their KL, or where there is none by what they tell, most first."""
    weight = moment.shares.max(1) if np.isnan(moment.kl).all() else moment.kl
    return np.argsort(-weight, kind="stable")


def _draw_heat(figure: Any, axes: Any, names: Sequence[str], moments: Sequence[Moment]) -> None:
    at = learned_at(moments)
    order = np.argsort(at, kind="stable")
    iterations = np.array([moment.iteration for moment in moments], float)
    best = np.stack([moment.best for moment in moments], 1)[order]
    half = np.diff(iterations) / 2 if len(iterations) > 1 else np.array([0.5])
    edges = np.concatenate([[iterations[0] - half[0]], iterations[1:] - half[: len(iterations) - 1]])
    edges = np.append(edges, iterations[-1] + half[-1])
    cells = axes.pcolormesh(edges, np.arange(len(names) + 1), best, cmap="viridis", vmin=0, vmax=max(0.05, best.max()))
    for row, k in enumerate(order):
        if np.isfinite(at[k]):
            axes.plot([at[k]] * 2, [row, row + 1], color="black", linewidth=4, solid_capstyle="butt")
            axes.plot([at[k]] * 2, [row, row + 1], color="white", linewidth=2, solid_capstyle="butt")
    words = [f"{names[k]}  {f'{at[k]:,.0f}' if np.isfinite(at[k]) else 'not learned'}" for k in order]
    axes.set_yticks(np.arange(len(names)) + 0.5, words)
    axes.invert_yaxis()
    _dress(
        axes,
        "What the best coordinate tells of each factor; at the white line it passes half of its last value for good",
    )
    axes.grid(False)
    figure.colorbar(cells, ax=axes, label="share of entropy", pad=0.01)


def _draw_kl(axes: Any, shown: Sequence[int], moments: Sequence[Moment]) -> None:
    iterations, kl = [moment.iteration for moment in moments], np.stack([moment.kl for moment in moments])
    others = [d for d in range(kl.shape[1]) if d not in shown]
    for k, d in enumerate(others):
        axes.plot(iterations, kl[:, d], color="grey", linewidth=0.8, alpha=0.6, label=None if k else "others")
    for d in shown:
        axes.plot(iterations, kl[:, d], linewidth=1.3, label=f"z{d}")
    _dress(axes, "KL of each coordinate")
    axes.set_ylabel("nats", fontsize=8)
    axes.legend(fontsize=7, frameon=False, ncols=2)


def _draw_total(axes: Any, moments: Sequence[Moment]) -> None:
    iterations = [moment.iteration for moment in moments]
    axes.plot(iterations, [moment.kl.sum() for moment in moments], linewidth=1.5, label="KL of all coordinates, nats")
    targets = np.array([moment.target for moment in moments])
    if not np.isnan(targets).all():
        axes.plot(iterations, targets, "--", color="black", linewidth=1.2, label="C(t), nats")
    active = [int(moment.active.sum()) for moment in moments]
    axes.plot(iterations, active, ":", color="C2", drawstyle="steps-post", label="active coordinates, number")
    _dress(axes, "The whole code")
    axes.legend(fontsize=8, frameon=False)


def _draw_coordinate(axes: Any, d: int, names: Sequence[str], moments: Sequence[Moment], top: float) -> None:
    iterations, last = [moment.iteration for moment in moments], moments[-1]
    for k, name in enumerate(names):
        axes.plot(iterations, [moment.shares[d, k] for moment in moments], linewidth=1.3, label=name)
    _dress(axes, f"z{d}" if np.isnan(last.kl[d]) else f"z{d}, {last.kl[d]:.2f} nats")
    axes.set_ylim(0, 1.05 * top)
    axes.set_ylabel("share", fontsize=8)
    axes.locator_params(axis="x", nbins=4)


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("iteration", fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
