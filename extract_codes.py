"""Turn the images of an experiment into maps of codes: ``python extract_codes.py --ckpt runs/vq_vae2_streets``.

A prior of the codes is trained on them (``datamodules.codes``). Training and validation images are taken in the order
of the data, domain after domain, as validation shows them: no crop or mirroring is drawn. The checkpoint says which
model it holds, and ``config.yaml`` of its run which images. The folder appears when all is written. Exit status: 0, 2
if a request makes no sense or the disk refuses, 130 if interrupted.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.arrays import SameRows, one_domain, whole
from datamodules.codes import FILE, FOLDER, PARTS, Description, place, sum_of
from datamodules.image_files import Images
from datamodules.loaders import build_loader, to_signed_unit
from interfaces.model import Quantiser
from trained import Display, data_of, device_of, exit_status, find_checkpoint, load_model, replacing, run_of

Datasets = list[SameRows | Images]  # one a domain


def main(args: list[str] | None = None) -> int:
    """Extract and return the exit status."""
    options = parser().parse_args(args)
    return exit_status(lambda: extract(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="extract_codes.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    result.add_argument("--ckpt", type=Path, required=True, help="a checkpoint, or the folder of a run or of several")
    result.add_argument("--config", type=Path, help="whose data to take; default config.yaml of the checkpoint's run")
    result.add_argument("--out", type=Path, help=f"folder for the codes; default {FOLDER} in the checkpoint's run")
    result.add_argument("--batch", type=int, default=64, help="images at once")
    result.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto is cuda where there is one")
    return result


def extract(options: argparse.Namespace) -> None:
    """Check everything, then write.

    Raises:
        OSError, ValueError: one sentence that says what is wrong and how to mend it.
    """
    checkpoint, device = find_checkpoint(options.ckpt), device_of(options.device)
    config, out = places(options, checkpoint)
    if options.batch < 1:
        raise ValueError(f"--batch is {options.batch}: give 1 or more.")
    check_out(out)
    model = load_quantiser(checkpoint).to(device)
    data = data_of(config)
    datasets = in_order(data)
    counts = {part: sum(len(each) for each in datasets[part]) for part in PARTS}
    print(f"{type(model).__name__} of {checkpoint} on {device}: {sum(counts.values())} image(s)", flush=True)
    about = Description(
        codes=model.codes,
        shapes=shapes_of(model, datasets["train"][0]),
        counts=counts,
        model=type(model).__name__,
        checkpoint=os.path.relpath(checkpoint.absolute(), out.absolute()),  # so that a run can be moved
        sha256=sum_of(checkpoint),
        data=data.fingerprint("fit") if hasattr(data, "fingerprint") else type(data).__name__,
    )
    with replacing(out) as new:
        write(new, about, model, datasets, options.batch, int(getattr(data, "num_workers", 0)))
    sizes = " and ".join(f"{height}x{width}" for height, width in about.shapes)
    numbers = " and ".join(f"{n} of {part}" for part, n in counts.items())
    print(f"Maps of {sizes} in {about.codes} codes, {numbers}: {out}")


def places(options: argparse.Namespace, checkpoint: Path) -> tuple[Path, Path]:
    """The configuration with the data, and the folder for the codes.

    Raises:
        ValueError: neither the command line nor the place of the checkpoint says so.
    """
    if options.config is not None and options.out is not None:
        return options.config, options.out
    run = run_of(checkpoint)
    if run is None:
        raise ValueError(f"{checkpoint} lies in no run with data and a place for codes: give --config and --out.")
    return options.config or run / "config.yaml", options.out or run / FOLDER


def check_out(out: Path) -> None:
    """Refuse to replace what is no folder of codes, or holds other things too (ValueError)."""
    if not out.exists():
        return
    others = (
        sorted(p.name for p in out.iterdir() if p.name != FILE and p.suffix != ".npy") if out.is_dir() else [out.name]
    )
    if others or not ((out / FILE).is_file() or not any(out.iterdir())):
        raise ValueError(
            f"--out {out} holds other things than codes, such as {(others or ['arrays'])[0]}: give a new folder."
        )


def load_quantiser(path: Path) -> Any:
    """The model of a checkpoint in eval mode.

    Raises:
        OSError, ValueError: there is no such file, or it holds no model with codebooks.
    """
    model = load_model(path)
    if not isinstance(model, Quantiser):
        raise ValueError(f"{path} holds {type(model).__name__}, which has no codebooks: give a checkpoint of VQVAE2.")
    return model


def in_order(data: Any) -> dict[str, Datasets]:
    """The images of both parts, rendered or read from files.

    Raises:
        ValueError: the data keep no such lists.
    """
    images, sources = getattr(data, "images", None), getattr(data, "sources", None)
    if isinstance(images, dict):
        arrays = {part: several(images[part]) for part in PARTS}
        domains = len(arrays["train"])  # validation may have another draw of each behind them
        return {part: [one_domain(array) for array in arrays[part][:domains]] for part in PARTS}
    if isinstance(sources, dict):
        folders = {"train": "train", "val": "test"}
        each = {part: [sources[key] for key in sources if key.startswith(folders[part])] for part in PARTS}
        return {part: [Images(files) for one in each[part] for files in several(one)] for part in PARTS}
    raise ValueError(
        f"{type(data).__name__} has no lists of training and validation images: give --config an experiment with data "
        "of datamodules.streets, faces, unpaired, domain_folders or attribute_images."
    )


def several(held: Any) -> list[Any]:
    """What is held for each domain, or for all images at once."""
    return list(held) if isinstance(held, list | tuple) else [held]


@torch.no_grad()
def shapes_of(model: Any, dataset: SameRows | Images) -> tuple[tuple[int, int], ...]:
    """Height and width of the maps of each level, by one image."""
    images = next(iter(loader(dataset, 1, 0)))
    maps = model.indices_of(to_signed_unit(images.image[:1].to(model.device)))
    return tuple((level.shape[1], level.shape[2]) for level in maps)


def write(
    folder: Path, about: Description, model: Any, datasets: dict[str, Datasets], batch: int, workers: int
) -> None:
    """Write the maps of all parts and what they are."""
    display, done = Display(sum(about.counts.values())), 0
    try:
        for part in PARTS:
            with ExitStack() as stack:
                files = [stack.enter_context(begun(folder, about, part, level)) for level in range(len(about.shapes))]
                for maps in encoded(model, datasets[part], batch, workers):
                    for file, level in zip(files, maps, strict=True):
                        file.write(level.astype(about.dtype).tobytes())
                    done += len(maps[0])
                    display.show(done, Path(part))
                for file in files:
                    file.flush()
                    os.fsync(file.fileno())
    finally:
        display.close()
    about.write(folder)


def begun(folder: Path, about: Description, part: str, level: int) -> BinaryIO:
    """The open file of a part and a level with its header. Plain writes raise on a full disk, where a map would die."""
    file = open(place(folder, part, level), "wb")  # noqa: SIM115 (closed by the caller)
    header = {"descr": about.dtype.str, "fortran_order": False, "shape": about.shape(part, level)}
    np.lib.format.write_array_header_1_0(file, header)
    return file


@torch.no_grad()
def encoded(model: Any, datasets: Datasets, batch: int, workers: int) -> Iterator[list[np.ndarray]]:
    """The maps of all images in order, (n, h, w) of each level for n images at a time."""
    for dataset in datasets:
        for images in loader(dataset, batch, workers):
            x = to_signed_unit(images.image.to(model.device))
            yield [level.cpu().numpy() for level in model.indices_of(x)]


def loader(dataset: SameRows | Images, batch: int, workers: int) -> DataLoader[Any]:
    """All images in order."""
    collate = whole if isinstance(dataset, SameRows) else None
    return build_loader(dataset, range(len(dataset)), batch, workers, seed=0, collate=collate)


if __name__ == "__main__":
    sys.exit(main())
