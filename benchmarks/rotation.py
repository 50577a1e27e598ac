"""Does the diagonal posterior choose the axes of a code? The rotation test of a trained VAE.

    python -m benchmarks.rotation RUN [--rotations 5] [--images 2000] [--out RUN/pictures/rotation.png]

The space of the code is turned further and further, and the decoder turns back. With the full covariance the evidence
lower bound does not know it; with the diagonal one that the model must have, it falls if the axes were chosen (Rolinek
et al. 2019; formulas in ``metrics.rotation``). Scores of disentanglement tell whether they are the factors'. The paths:
random rotations among active coordinates, and the plane of the two coordinates that tell most of two positions (of two
factors, where none is a position), which at 45 degrees mixes them and at 90 exchanges them.

Images are drawn from the grid of factors and each has one draw of noise, which turns with the code and is the same at
all angles. Rates are exact.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.information_plane import read_settings
from benchmarks.rotation_picture import DEGREES, Bound, Curve, Found, Turned, Value, draw
from datamodules.loaders import to_signed_unit
from interfaces.batch import FactorData
from lightning_modules.beta_vae import BetaVAE
from metrics.active_units import active_units, kl_from_prior
from metrics.disentanglement_scores import mig_of, modularity_of
from metrics.factor_codes import checked_sizes, digitised, draw_factors, entropies, mutual_information
from metrics.rotation import (
    among,
    expected_loss,
    full_rate,
    generator_of,
    random_rotation,
    rotated_covariance,
    same_precisions,
    same_variances,
    turn,
)
from trained import Display, data_of, device_of, load_model

PLANE = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
TOGETHER = 500  # images in a forward pass


class Known(NamedTuple):
    """Images and what the encoder says of them."""

    images: Tensor  # (N, C, H, W) uint8, where the model is
    factors: np.ndarray  # (N, K)
    mu: Tensor  # (N, D) float64 on the CPU, as are the following
    variance: Tensor  # (N, D)
    noise: Tensor  # (N, D) of N(0, I)


COLUMNS: dict[str, tuple[Value, int]] = {  # and decimals
    "ELBO, full covariance": (lambda t: t.full.elbo, 2),
    "ELBO, same variances": (lambda t: t.variances.elbo, 2),
    "rate": (lambda t: t.variances.rate, 2),
    "distortion": (lambda t: t.variances.distortion, 2),
    "ELBO, same precisions": (lambda t: t.precisions.elbo, 2),
    "their rate": (lambda t: t.precisions.rate, 2),
    "their distortion": (lambda t: t.precisions.distortion, 2),
    "MIG": (lambda t: t.mig, 3),
    "modularity": (lambda t: t.modularity, 3),
}


def main(arguments: list[str] | None = None) -> int:
    """Turn, print tables and draw; 2 if what was given does not serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotation", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run, or a checkpoint in it")
    parser.add_argument("--rotations", type=int, default=5, help="random ones")
    parser.add_argument("--images", type=int, default=2000, help="drawn from the grid of factors")
    parser.add_argument("--out", type=Path, help="PNG to write; default pictures/rotation.png in the run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto is cuda where there is one")
    given = parser.parse_args(arguments)
    try:
        if given.rotations < 1 or given.images < 2:
            raise ValueError(f"--rotations is 1 or more and --images 2 or more, not {given.rotations}, {given.images}.")
        run, model, data = opened(given.run)
        known = look(model.to(device_of(given.device)), data, given.images)
        found = measure(model, known, data.factor_names, given.rotations)
        print(report(found, given.images))
        picture = given.out or run / "pictures" / "rotation.png"
        draw(found, picture)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written to {os.path.relpath(picture)}.")
    return 0


def opened(path: Path) -> tuple[Path, Any, Any]:
    """The folder of a run, its model in eval mode and its data.

    Raises:
        OSError, ValueError: one sentence that says what is wrong and how to mend it.
    """
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no {checkpoint}: give the folder of a trained run, or a checkpoint in it.")
    run = path if path.is_dir() else checkpoint.absolute().parent.parent
    read_settings(run)
    model, data = load(checkpoint), data_of(run / "config.yaml")
    if not isinstance(data, FactorData):
        raise ValueError(f"{run} was trained on {type(data).__name__}, whose factors are not known: give another run.")
    return run, model, data


def load(path: Path) -> Any:
    """The VAE of a checkpoint (OSError, ValueError where it holds none)."""
    model = load_model(path)
    if not isinstance(model, BetaVAE):
        raise ValueError(f"{path} holds {type(model).__name__}, which has no posterior to turn: give a run of a VAE.")
    return model


@torch.no_grad()
def look(model: Any, data: Any, images: int) -> Known:
    """Draw images and encode them."""
    rng = torch.Generator().manual_seed(0)
    factors = draw_factors(checked_sizes(data.factor_sizes), images, np.random.RandomState(0))
    drawn = torch.from_numpy(data.images(factors)).to(model.device)
    parts = [model.posterior(to_signed_unit(part)) for part in drawn.split(TOGETHER)]
    mu, logvar = (torch.cat(each).double().cpu() for each in zip(*parts, strict=True))
    return Known(drawn, factors, mu, logvar.exp(), torch.randn(mu.shape, generator=rng, dtype=torch.float64))


def measure(model: Any, known: Known, factor_names: Sequence[str], rotations: int) -> Found:
    """All paths.

    Raises:
        ValueError: fewer than two coordinates are active, or a factor has one value among the images.
    """
    size, beta = known.mu.shape[1], weight_of_rate(model)
    active = np.flatnonzero(active_units(known.mu.numpy()))
    if len(active) < 2:
        raise ValueError(f"Of {size} coordinates {len(active)} varies and a rotation needs two: train for longer.")
    rng = torch.Generator().manual_seed(1)
    generators = [generator_of(random_rotation(len(active), rng)) for _ in range(rotations)]
    paths = [among(generator, torch.from_numpy(active), size) for generator in generators]
    share = information_of(known.mu, known.factors) / entropies(known.factors)
    (first, second), about = plane_of(share, factor_names, active)
    paths.append(among(PLANE, torch.tensor([first, second]), size))
    curves = followed(paths, lambda rotation: turned(model, known, rotation, beta))
    names = f"z{first} ({factor_names[about[0]]})", f"z{second} ({factor_names[about[1]]})"
    return Found(curves[:-1], curves[-1], names, len(active), size, beta)


def followed(paths: Sequence[Tensor], at: Callable[[Tensor], Turned]) -> list[Curve]:
    """What is found at all angles of all paths, whose start is the same."""
    start = at(turn(paths[0], 0.0))
    curves = [[start] for _ in paths]
    display = Display(len(paths) * (len(DEGREES) - 1))
    try:
        for number, (path, curve) in enumerate(zip(paths, curves, strict=True)):
            for k, degrees in enumerate(DEGREES[1:]):
                display.show(number * (len(DEGREES) - 1) + k, None)
                curve.append(at(turn(path, math.radians(degrees))))
    finally:
        display.close()
    return curves


def turned(model: Any, known: Known, rotation: Tensor, beta: float) -> Turned:
    """Everything at one rotation."""
    mu, s = known.mu @ rotation.T, known.variance

    def bound(rate: Tensor, around: Tensor) -> Bound:
        return Bound(float(rate.mean()), distortion(model, (mu + around) @ rotation, known.images))

    full = bound(full_rate(mu, rotated_covariance(s, rotation)), (s.sqrt() * known.noise) @ rotation.T)
    diagonals = same_variances(s, rotation), same_precisions(s, rotation)
    variances, precisions = (
        bound(kl_from_prior(mu, v.log()).sum(1), v.sqrt() * (known.noise @ rotation.T)) for v in diagonals
    )
    first, second = (float(expected_loss(v, s, rotation, beta).mean()) for v in diagonals)
    information = information_of(mu, known.factors)
    mig, modularity = mig_of(information, entropies(known.factors)).score, modularity_of(information).score
    return Turned(full, variances, precisions, (first, second), mig, modularity)


@torch.no_grad()
def distortion(model: Any, z: Tensor, images: Tensor) -> float:
    """- log p(x|z), mean over images in nats; of all parts before one wait for the device."""
    codes = z.to(images.device, torch.float32)
    pairs = zip(codes.split(TOGETHER), images.split(TOGETHER), strict=True)
    return float(torch.cat([model.nll_of_each(code, to_signed_unit(x)).double() for code, x in pairs]).mean())


def weight_of_rate(model: Any) -> float:
    """beta of a beta-VAE; 1 where the objective has other terms beside the bound, or holds the rate at a capacity."""
    return float(model.beta) if type(model) is BetaVAE and model.gamma == 0 else 1.0


def information_of(mu: Tensor, factors: np.ndarray) -> np.ndarray:
    """Mutual information of each coordinate of the means and each factor, (D, K) in nats."""
    return mutual_information(digitised(mu.numpy()), factors)


def plane_of(share: np.ndarray, names: Sequence[str], active: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two active coordinates and two factors, positions where there are two, of which they tell most together."""
    positions = [k for k, name in enumerate(names) if "position" in name]
    about = combinations(positions if len(positions) > 1 else range(len(names)), 2)
    choices = [(pair, both) for both in about for pair in permutations(active.tolist(), 2)]
    pair, both = max(choices, key=lambda choice: sum(share[d, k] for d, k in zip(*choice, strict=True)))
    return (pair[0], pair[1]), (both[0], both[1])


def report(found: Found, images: int) -> str:
    """Markdown: a table of the random rotations, means and standard deviations over them, and one of the plane."""
    active = f"{found.active} of {found.size} coordinates active"
    return "\n".join(
        [
            f"{images} images, {active}, trained with beta {found.beta:g}; everything but scores in nats.",
            f"\n{len(found.random)} random rotations of active coordinates (angle: root mean square over planes):\n",
            *rows(found.random),
            f"\nThe plane of {' and '.join(found.names)}:\n",
            *rows([found.plane]),
            f"\nThe ELBO falls at 45 degrees, by random rotations: {falls(found.random)}.",
            f"In the plane: {falls([found.plane])}.",
        ]
    )


def falls(curves: Sequence[Curve], degrees: float = 45.0) -> str:
    """What is lost with either diagonal, and what was to be expected; means over rotations."""
    at, words = [curve[DEGREES.index(degrees)] for curve in curves], list[str]()
    for k, name in enumerate(("variances", "precisions")):
        measured = statistics.fmean(each.full.elbo - getattr(each, name).elbo for each in at)
        expected = statistics.fmean(each.expected[k] for each in at)
        words.append(f"{measured:.2f} with the same {name} ({expected:.2f} expected)")
    return ", ".join(words)


def rows(curves: Sequence[Curve]) -> list[str]:
    """The lines of a table, one an angle."""
    lines = [f"| angle | {' | '.join(COLUMNS)} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for k, degrees in enumerate(DEGREES):
        cells = []
        for value, decimals in COLUMNS.values():
            values = [value(curve[k]) for curve in curves]
            spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.{decimals}f}{spread}")
        lines.append(f"| {degrees:g} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
