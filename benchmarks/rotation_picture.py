"""What ``benchmarks.rotation`` finds of a turned code, and its picture."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEGREES = (0.0, 5.0, 10.0, 15.0, 22.5, 30.0, 45.0, 60.0, 75.0, 90.0)


class Bound(NamedTuple):
    """The two parts of the bound, means over images in nats."""

    rate: float
    distortion: float

    @property
    def elbo(self) -> float:
        """The evidence lower bound."""
        return -self.rate - self.distortion


class Turned(NamedTuple):
    """A code at one angle."""

    full: Bound  # with the covariance of the turned posterior
    variances: Bound  # with a diagonal one, ``same_variances``
    precisions: Bound  # with a diagonal one, ``same_precisions``
    expected: tuple[float, float]  # loss of both where the posterior was the best one and distortion is quadratic
    mig: float
    modularity: float


Curve = list[Turned]  # at DEGREES


class Found(NamedTuple):
    """Of one model."""

    random: list[Curve]  # one a rotation
    plane: Curve
    names: tuple[str, str]  # of the coordinates in that plane
    active: int  # coordinates
    size: int  # coordinates
    beta: float  # weight of the rate in training


Value = Callable[[Turned], float]


def draw(found: Found, picture: Path) -> None:
    """Curves over the angle: above of random rotations, mean and one standard deviation, below of the plane.

    Args:
        found: what is shown; dotted is the expected loss.
        picture: PNG to write; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.4), layout="constrained", dpi=100)
    above = f"{len(found.random)} random rotations of {found.active} active coordinates"
    for row, (curves, what) in enumerate(((found.random, above), ([found.plane], " and ".join(found.names)))):
        bound, parts, scores = (figure.add_subplot(2, 3, 3 * row + k + 1) for k in range(3))
        plot(bound, curves, lambda t: t.full.elbo, "C0-", "full covariance")
        plot(bound, curves, lambda t: t.variances.elbo, "C1-", "same variances")
        plot(bound, curves, lambda t: -t.expected[0], "C1:", "the same, expected")
        plot(bound, curves, lambda t: t.precisions.elbo, "C2-", "same precisions")
        plot(bound, curves, lambda t: -t.expected[1], "C2:", "the same, expected")
        plot(parts, curves, lambda t: t.variances.rate, "C1-", "rate, same variances")
        plot(parts, curves, lambda t: t.variances.distortion, "C1--", "distortion, same variances")
        plot(parts, curves, lambda t: t.precisions.rate, "C2-", "rate, same precisions")
        plot(parts, curves, lambda t: t.precisions.distortion, "C2--", "distortion, same precisions")
        plot(scores, curves, lambda t: t.mig, "C3-", "MIG", whole=True)
        plot(scores, curves, lambda t: t.modularity, "C4-", "modularity", whole=True)
        dress(bound, f"{what}\nELBO less that at angle 0", "nats")
        dress(parts, "rate and distortion less those at angle 0", "nats")
        dress(scores, "disentanglement of the means", "")
        scores.set_ylim(bottom=0)
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    os.replace(temporary, picture)


def plot(axes: Any, curves: Sequence[Curve], value: Value, style: str, label: str, whole: bool = False) -> None:
    """Mean over curves and, where there are several, one standard deviation; less the start unless ``whole``."""
    values = np.array([[value(each) - (0 if whole else value(curve[0])) for each in curve] for curve in curves])
    middle = values.mean(0)
    axes.plot(DEGREES, middle, style, label=label, linewidth=1.4)
    if len(values) > 1 and not style.endswith(":"):
        spread = values.std(0, ddof=1)
        axes.fill_between(DEGREES, middle - spread, middle + spread, color=style[:2], alpha=0.15, linewidth=0)


def dress(axes: Any, title: str, unit: str) -> None:
    """Titles and the like; what goes far is shown by its logarithm beyond 1."""
    if max(map(abs, axes.get_ylim())) > 20:
        axes.set_yscale("symlog", linthresh=1.0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("angle, degrees", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.set_xticks(range(0, 91, 15))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
