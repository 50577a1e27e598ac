"""What data by formula cost: the share of an iteration of ``beta_vae_sprites`` that waits for its sprites.

    python -m benchmarks.sprites_time [--threads 2 --iterations 140] [--write]

Beside it how many the loader gives alone; at least 20,000 a second are asked for.
"""

import argparse
import warnings
from pathlib import Path

import torch
import yaml

from benchmarks.timing import RESULTS, bare, images_a_second, keep, machine, waiting
from datamodules.factors import FactorDataModule
from datamodules.procedural.sprites import Sprites
from lightning_modules.beta_vae import BetaVAE

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "beta_vae_sprites.yaml"


def main() -> None:
    """Measure, print and, with ``--write``, keep the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description="Time how long an iteration waits for sprites.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=140)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = [f"{machine(options, device)} {EXPERIMENT.name}, fp32.", "", "| row | time | share |", "|---|---|---|"]
    lines += rows(device, options.iterations)
    print("\n".join(lines), flush=True)
    if options.write:
        keep("What an iteration waits for sprites", "sprites_time", "\n".join([*lines, ""]))


def rows(device: torch.device, iterations: int) -> list[str]:
    """What an iteration of the experiment waits for sprites, and their loader alone."""
    experiment = yaml.safe_load(EXPERIMENT.read_text())
    torch.manual_seed(0)
    model = BetaVAE(**experiment["model"]["init_args"]).to(device)
    batch = experiment["data"]["init_args"]["batch_size"]
    wait, share = waiting(FactorDataModule(Sprites(), batch_size=batch), bare(model), iterations, device)
    alone = images_a_second(FactorDataModule(Sprites(), batch_size=batch), iterations)
    return [
        f"| waiting for {batch} sprites | {wait:.2f} ms | {share:.1%} |",
        f"| the loader alone | {alone:,.0f} images/s | |",
    ]


if __name__ == "__main__":
    main()
