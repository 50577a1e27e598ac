"""Draw pictures from VQ-VAE-2: ``python sample.py --vq runs/vq --priors runs/top_prior runs/bottom_prior``.

The prior of the top draws its maps of codes, that of each lower level the maps below them, and the model whose codes
they are decodes all. Checkpoints say which models they hold, and those of priors whose codes they know. One seed gives
the same codes, however many are drawn at once, but where a sum rounds to the other side of a chance. The folder appears
when all is written, with ``grid.png`` and ``samples.json`` beside the pictures. Exit status: 0, 2 if a request makes no
sense or the disk refuses, 130 if interrupted.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from callbacks.fid import LEAST, as_saved
from callbacks.media import labelled_grid, to_uint8, write_png
from datamodules.codes import CodeMaps, sum_of
from datamodules.loaders import to_signed_unit
from extract_codes import Datasets, in_order, load_quantiser, loader
from importers.mapping import read as read_checkpoint
from interfaces.model import CodeSampler
from metrics.features.scenes import Scenes
from metrics.frechet import frechet_distance_of_sets
from trained import Display, data_of, device_of, exit_status, find_checkpoint, load_model, replacing, run_of

FILE, FOLDER, GRID = "samples.json", "samples", "grid.png"
OURS = r"samples\.json|grid\.png|sample_\d{4,}\.png"
SHOWN = 100  # pictures of the grid at most


class Prior(NamedTuple):
    """A prior and what its checkpoint says of it."""

    model: Any  # a CodeSampler in eval mode
    checkpoint: Path
    level: int
    shapes: tuple[tuple[int, int], ...]  # of the maps of all levels
    sha256: str  # of the checkpoint that made the codes


def main(args: list[str] | None = None) -> int:
    """Draw and return the exit status."""
    options = parser().parse_args(args)
    return exit_status(lambda: draw(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="sample.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    run = "a checkpoint, or the folder of a run or of several"
    result.add_argument("--vq", type=Path, required=True, help=f"the model that made the codes: {run}")
    result.add_argument("--priors", type=Path, nargs="+", required=True, help=f"one of each level, in any order: {run}")
    result.add_argument("--n", type=int, default=16, help="pictures")
    result.add_argument(
        "--temperature", type=float, nargs="+", default=[1.0], help="above 0, for all levels or for each, the top first"
    )
    result.add_argument("--seed", type=int, default=0, help="0 or more")
    result.add_argument("--out", type=Path, help=f"folder for the pictures; default {FOLDER} in the last prior's run")
    result.add_argument("--batch", type=int, default=64, help="pictures at once")
    result.add_argument("--fid", action="store_true", help="say how far they are from the validation images of --vq")
    result.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto is cuda where there is one")
    return result


def draw(options: argparse.Namespace) -> None:
    """Check everything, then draw and write.

    Raises:
        OSError, ValueError: one sentence that says what is wrong and how to mend it.
    """
    check_numbers(options)
    device, vq = device_of(options.device), find_checkpoint(options.vq, "--vq")
    model = load_quantiser(vq).to(device)
    priors = in_levels([load_prior(find_checkpoint(path, "--priors")) for path in options.priors], vq)
    if len(options.temperature) not in (1, len(priors)):
        raise ValueError(
            f"--temperature has {len(options.temperature)} numbers for {len(priors)} levels: give one or all."
        )
    for prior in priors:
        prior.model.to(device)
    out = options.out or run_in(priors[-1].checkpoint, "--out") / FOLDER
    check_out(out)
    real = real_images(vq) if options.fid else []
    print(f"{type(model).__name__} of {vq} and {len(priors)} prior(s) on {device}: {options.n} picture(s)", flush=True)
    with replacing(out) as new:
        pictures = write(new, model, priors, options)
        found = fid(model, pictures, real, options.batch) if options.fid else {}
        describe(new, vq, priors, options, found)
    if found:
        print(
            f"fid_scenes {found['fid_scenes']:.3g} of {options.n} samples against {found['images']} validation images; "
            f"of the reconstructions of these, which need no prior, {found['fid_scenes_reconstructions']:.3g}"
        )
    print(f"{options.n} sample(s) and {GRID}: {out}")


def describe(folder: Path, vq: Path, priors: list[Prior], options: argparse.Namespace, found: dict[str, float]) -> None:
    """Write ``samples.json``: all that repeats the pictures, and what was measured of them."""
    about = {
        "vq": {"checkpoint": str(vq), "sha256": priors[0].sha256},
        "priors": [{"checkpoint": str(prior.checkpoint), "sha256": sum_of(prior.checkpoint)} for prior in priors],
        "n": options.n,
        "temperature": options.temperature,
        "seed": options.seed,
    }
    (folder / FILE).write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that are out of their range (ValueError)."""
    for name, least in (("n", LEAST if options.fid else 1), ("batch", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} is {getattr(options, name)}: give {least} or more.")
    for temperature in options.temperature:
        if not 0 < temperature < math.inf:
            raise ValueError(f"--temperature is {temperature}: give a number above 0.")


def load_prior(path: Path) -> Prior:
    """The prior of a checkpoint.

    Raises:
        OSError, ValueError: there is no such file, it holds no prior, or does not say of what codes.
    """
    model = load_model(path)
    if not isinstance(model, CodeSampler):
        raise ValueError(f"{path} holds {type(model).__name__}, which draws no codes: give a checkpoint of PixelSNAIL.")
    try:
        told = read_checkpoint(path)[CodeMaps.__qualname__]
        shapes = tuple((int(height), int(width)) for height, width in told["shapes"])
        return Prior(model, path, int(told["level"]), shapes, str(told["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say whose codes it knows: train it on datamodules.codes.CodeMaps with `make train`."
        ) from error


def in_levels(priors: list[Prior], vq: Path) -> list[Prior]:
    """The priors in the order of their levels, the top first.

    Raises:
        ValueError: one knows the codes of another model than ``vq``, or a level has none or two.
    """
    made = sum_of(vq)
    for prior in priors:
        if prior.sha256 != made:
            raise ValueError(
                f"{prior.checkpoint} knows the codes of another model (sha256 {prior.sha256[:16]}) than {vq} "
                f"({made[:16]}): give --vq the checkpoint that made them, or train the prior on codes of this one."
            )
    levels, wanted = sorted(prior.level for prior in priors), list(range(len(priors[0].shapes)))
    if levels != wanted:
        raise ValueError(
            f"--priors are of the levels {', '.join(map(str, levels))}, but {vq} needs one of each of "
            f"{', '.join(map(str, wanted))}; 0 is the top."
        )
    return sorted(priors, key=lambda prior: prior.level)


def run_in(checkpoint: Path, need: str) -> Path:
    """The folder of the run in which a checkpoint lies (ValueError asks for ``need`` where it lies in none)."""
    run = run_of(checkpoint)
    if run is None:
        raise ValueError(f"{checkpoint} lies in no run: give {need}.")
    return run


def check_out(out: Path) -> None:
    """Refuse to replace what is no folder of samples, or holds other things too (ValueError)."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder for the pictures.")
    held = sorted(path.name for path in out.iterdir())
    others = [name for name in held if FILE not in held or not re.fullmatch(OURS, name)]
    if others:
        raise ValueError(f"--out {out} holds other things than samples, such as {others[0]}: give a new folder.")


@torch.no_grad()
def write(folder: Path, model: Any, priors: list[Prior], options: argparse.Namespace) -> np.ndarray:
    """Write the pictures and their grid; returns them, (N, H, W, 3) uint8."""
    # A generator for each level, and its numbers in the order of the pictures: --batch does not change what is drawn.
    rngs = [generator(options.seed, prior.level) for prior in priors]
    starts = range(0, options.n, options.batch)
    rows = sum(height for height, _ in priors[0].shapes)
    display, pictures = Display(len(starts) * rows, "rows of codes"), np.zeros((0, 0, 0, 3), np.uint8)
    try:
        for part, start in enumerate(starts):
            n = min(options.batch, options.n - start)
            display.show(part * rows, Path(f"pictures {start} to {start + n - 1}"))
            maps = drawn(priors, n, options.temperature, rngs, display, part * rows)
            made = to_uint8(model.image_of(maps))
            pictures = np.concatenate((pictures.reshape(-1, *made.shape[1:]), made))
            for k in range(start, start + n):
                write_png(folder / f"sample_{k:04d}.png", pictures[k])
    finally:
        display.close()
    write_png(folder / GRID, grid(pictures[:SHOWN]))
    return pictures


def generator(seed: int, level: int) -> torch.Generator:
    """The chance of one level, other than that of any other level or seed."""
    # Mixed, since of a seed PyTorch's generator on the CPU takes the lower 32 bits.
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, level)).generate_state(1)[0]))


def drawn(
    priors: list[Prior], n: int, temperatures: list[float], rngs: list[torch.Generator], display: Display, done: int
) -> list[Tensor]:
    """Maps of all levels, each drawn below the one before.

    Args:
        priors: of all levels, the top first.
        n: maps of each.
        temperatures: of all levels, or of each.
        rngs: of each.
        display: hears of each finished row.
        done: rows before these.
    """
    maps: list[Tensor] = []
    for prior, rng in zip(priors, rngs, strict=True):
        temperature = temperatures[prior.level if len(temperatures) > 1 else 0]

        def say(rows: int, done: int = done, level: int = prior.level) -> None:
            display.show(done + rows, Path(f"level {level}"))

        above = maps[-1] if maps else None
        maps.append(prior.model.sample(n, above, temperature=temperature, rng=rng, progress=say))
        done += maps[-1].shape[1]
    return maps


def grid(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 in rows; the number of a picture is that of its row and its column together."""
    wide = math.ceil(len(pictures) ** 0.5)
    rows = -(-len(pictures) // wide)
    cells = torch.ones(rows * wide, 3, *pictures.shape[1:3])  # white where there is no picture
    cells[: len(pictures)] = signed(pictures)
    headings = ["0", *(f"+{k}" for k in range(1, wide))]
    return labelled_grid(
        list(cells.unflatten(0, (rows, wide)).unbind(1)), headings, [str(r * wide) for r in range(rows)]
    )


def signed(pictures: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def real_images(vq: Path) -> Datasets:
    """The validation images of the run in which a checkpoint lies (OSError, ValueError where it has none)."""
    return in_order(data_of(run_in(vq, "--vq a run, whose data --fid needs") / "config.yaml"))["val"]


@torch.no_grad()
def fid(model: Any, pictures: np.ndarray, datasets: Datasets, batch: int) -> dict[str, float]:
    """How far samples are from real images by the features ``scenes``, and how far reconstructions of these are.

    Args:
        model: a ``Quantiser``.
        pictures: (N, H, W, 3) uint8.
        datasets: the real images of each domain, all of which count as one set.
        batch: images at once.
    """
    features, device = Scenes(), next(model.parameters()).device
    drawn = [features(part.to(device)).embedding for part in signed(pictures).split(batch)]
    real: list[Tensor] = []
    again: list[Tensor] = []
    for dataset in datasets:
        for images in loader(dataset, batch, 0):
            x = to_signed_unit(images.image.to(device))
            real.append(features(as_saved(x)).embedding)
            again.append(features(as_saved(model.image_of(model.indices_of(x)))).embedding)
    truth = torch.cat(real)
    return {
        "fid_scenes": float(frechet_distance_of_sets(truth, torch.cat(drawn))),
        "fid_scenes_reconstructions": float(frechet_distance_of_sets(truth, torch.cat(again))),
        "images": len(truth),
    }


if __name__ == "__main__":
    sys.exit(main())
