"""What measuring costs beside generating: ``python -m benchmarks.evaluation_cost [--images 2000] [--write]``.

UNIT of the released width translates 64x64 images; the ``scenes`` features of the translations are taken in the same
turns, and what ``callbacks.fid`` computes of a set is timed on features of as many images.
"""

import argparse
import time
from datetime import date

import torch

from benchmarks.timing import RESULTS, cpu, keep
from lightning_modules.unit import UNIT
from metrics.features.scenes import Scenes
from metrics.frechet import frechet_distance_of_sets
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance
from metrics.manifold import density_coverage_values, precision_recall_values

TURN = 20  # images


def main() -> None:
    """Measure, print and, with ``--write``, keep the line."""
    parser = argparse.ArgumentParser(description="Time FID and its relatives against the images they measure.")
    parser.add_argument("--images", type=int, default=2000, help="in each set")
    parser.add_argument("--turns", type=int, default=10, help=f"of {TURN} images each, from which the rest is scaled")
    parser.add_argument("--write", action="store_true", help=f"keep the line in {RESULTS.name}")
    given = parser.parse_args()
    torch.manual_seed(0)
    model, reader = UNIT().eval(), Scenes()
    generating = looking = 0.0
    x = torch.rand(TURN, 3, 64, 64) * 2 - 1
    reader(x)
    with torch.no_grad():
        for _ in range(given.turns):
            began = time.perf_counter()
            y = model.translate(x, 0, 1)
            generated = time.perf_counter()
            reader(y)
            generating += generated - began
            looking += time.perf_counter() - generated
    scale = given.images / (given.turns * TURN)
    real, fake = torch.randn(2, given.images, reader.size).abs()
    began = time.perf_counter()
    for measure in (frechet_distance_of_sets, kernel_distance, precision_recall_values, density_coverage_values):
        measure(real, fake)
    inception_score(fake[:, : reader.classes])
    comparing = time.perf_counter() - began
    share = (looking * scale + comparing) / (generating * scale)
    where = f"{date.today()}, {torch.get_num_threads()} threads, {cpu()}"
    line = (
        f"{where}: {given.images} translations of 64x64 by UNIT (width 64) take {generating * scale:.0f} s; `scenes` "
        f"features of them {looking * scale:.1f} s; FID, KID, precision, recall, density, coverage and IS "
        f"{comparing:.1f} s: **{share:.1%}** on top (limit 15 %)."
    )
    print(line)
    if given.write:
        keep("Cost of FID beside generating", "evaluation_cost", line + "\n")


if __name__ == "__main__":
    main()
