"""Translate pictures: ``python translate.py --ckpt last.ckpt --in photos --out out --to night``.

Any size, any file that Pillow opens; results have the size and the name of what they were made of. The checkpoint says
which model it holds, and its running average serves where it keeps one. A broken file is reported at the end and stops
no other. Exit status: 0, or 1 if a picture or a reference failed, 2 if nothing was begun because a request makes no
sense, 130 if interrupted, which leaves no file half written.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from interfaces.model import Sized, Stylist, Translator, seed_of
from networks.prepared import weights_prepared_once
from pictures import files
from pictures.tiles import at_any_size, least_tile, pad
from trained import Display, device_of, find_checkpoint, load_model

Style = tuple[str, Tensor | None]  # what it adds to the name of a result; (size,), or None for the model's own choice
Failures = list[tuple[Path, str]]  # files, and why each failed

TILE_HELP = (
    "pictures of more than TILE x TILE pixels go in tiles; UNIT and MUNIT at their authors' width need about 2 GB for "
    "each million pixels"
)


def main(args: list[str] | None = None) -> int:
    """Translate and return the exit status."""
    options = parser().parse_args(args)
    try:
        job = prepare(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run(job)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="translate.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    result.add_argument("--ckpt", type=Path, required=True, help="a checkpoint, or the folder of a run or of several")
    result.add_argument("--in", type=Path, required=True, dest="source", help="a picture, or a folder with sub-folders")
    result.add_argument("--out", type=Path, required=True, help="folder for the results, made if need be")
    result.add_argument("--to", help="domain to translate into; of two, the one that --from leaves")
    result.add_argument("--from", dest="from_", help="domain of the pictures; of two, the one that --to leaves")
    styles = result.add_mutually_exclusive_group()
    styles.add_argument("--styles", type=int, help="so many drawn styles a picture: name_0.png, name_1.png, ...")
    styles.add_argument("--style-from", type=Path, help="a picture of the target domain with the style, or a folder")
    result.add_argument("--each", action="store_true", help="with --styles: every picture has styles of its own")
    result.add_argument("--seed", type=int, default=0, help="of the drawn styles")
    result.add_argument("--tile", type=int, default=1536, help=TILE_HELP)
    result.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto is cuda where there is one")
    return result


@dataclass(frozen=True)
class Job:
    """What is to be done, all of it checked.

    Args:
        model: in eval mode on ``device``.
        checkpoint: its file.
        source: index of the pictures' domain.
        target: index of the results' domain.
        root: folder below which names are kept.
        pictures: files to translate.
        passed_over: other files beside them.
        out: folder of the results.
        styles: the same for every picture; None where each picture draws its own.
        options: the command line.
        device: where to compute.
        untouchable: files that no result may replace, without links.
        exact: names of the results that need no other ending than their pictures.
        unread: references of --style-from that could not be read.
    """

    model: Any
    checkpoint: Path
    source: int
    target: int
    root: Path
    pictures: list[Path]
    passed_over: list[Path]
    out: Path
    styles: list[Style] | None
    options: argparse.Namespace
    device: torch.device
    untouchable: frozenset[str]
    exact: frozenset[Path]
    unread: Failures


def prepare(options: argparse.Namespace) -> Job:
    """Check everything that can be checked before a picture is translated.

    Raises:
        OSError, ValueError: one sentence that says what is wrong and how to mend it.
    """
    pictures, passed_over = files.list_pictures(options.source)
    root = options.source if options.source.is_dir() else options.source.parent
    out, whole, inside = options.out, options.out.resolve(), root.resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder for the results.")
    if whole == inside or (options.source.is_dir() and whole.is_relative_to(inside)):
        raise ValueError(f"--out {out} is where the pictures are: give a folder outside {root}.")
    device = device_of(options.device)
    checkpoint = find_checkpoint(options.ckpt)
    model = load_translator(checkpoint).to(device)
    source, target = domains_of(model, options.from_, options.to)
    least = least_tile(model.size_multiple, model.smallest_size)
    if options.tile < least:
        raise ValueError(f"--tile is {options.tile}, but the smallest tile of this model is {least}.")
    references = [] if options.style_from is None else files.list_pictures(options.style_from)[0]
    check_styles(model, options)
    with torch.no_grad():
        styles, unread = styles_of(model, target, options, references, device)
    # realpath, since Path.resolve raises where links go round
    untouchable = frozenset(os.path.realpath(path) for path in [*pictures, *references])
    suffixes = [suffix for suffix, _ in styles] if styles else [f"_{number}" for number in range(options.styles)]
    exact = frozenset(exact_name(out, root, path, suffix) for path in pictures for suffix in suffixes)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"--out {out} cannot be written to: give another folder.")
    return Job(
        model,
        checkpoint,
        source,
        target,
        root,
        pictures,
        passed_over,
        out,
        styles,
        options,
        device,
        untouchable,
        exact,
        unread,
    )


def load_translator(path: Path) -> Any:
    """The translator of a checkpoint in eval mode.

    Raises:
        OSError, ValueError: there is no such file, or it holds no translator of this repository.
    """
    model = load_model(path)
    if not all(isinstance(model, seam) for seam in (Translator, Sized)):
        raise ValueError(f"{path} holds {type(model).__name__}, which does not translate pictures.")
    return model


def domains_of(model: Translator, from_: str | None, to: str | None) -> tuple[int, int]:
    """Indices of source and target; of two domains one says the other."""
    names = list(model.domains)
    for flag, name in (("--from", from_), ("--to", to)):
        if name is not None and name not in names:
            raise ValueError(f"{flag} is {name}, but this model knows {', '.join(names)}.")
    if from_ is not None and to is not None:
        return names.index(from_), names.index(to)
    given = to if to is not None else from_
    if given is None or len(names) != 2:
        needed = "--to" if to is None else "--from"
        raise ValueError(f"{needed} is missing; this model knows {', '.join(names)}.")
    other = 1 - names.index(given)
    return (other, 1 - other) if to is not None else (1 - other, other)


def check_styles(model: Translator, options: argparse.Namespace) -> None:
    """Refuse styles that the model cannot have (ValueError)."""
    kind = type(model).__name__
    if model.style_spec is None and (options.styles is not None or options.style_from is not None):
        raise ValueError(f"{kind} makes one translation of a picture: leave --styles and --style-from out.")
    if options.styles is not None and options.styles < 1:
        raise ValueError(f"--styles is {options.styles}: draw at least one.")
    if options.each and options.styles is None:
        raise ValueError("--each goes with --styles: say how many styles to draw for each picture.")
    if options.style_from is not None and not isinstance(model, Stylist):
        raise ValueError(f"{kind} cannot read the style of a picture: use --styles.")


def styles_of(
    model: Any, target: int, options: argparse.Namespace, references: list[Path], device: torch.device
) -> tuple[list[Style] | None, Failures]:
    """The styles that all pictures get: drawn, read off references, or the model's own choice; None with --each.

    Returns:
        They, and the references that could not be read.

    Raises:
        ValueError: no reference can be read.
    """
    if options.each:
        return None, []
    if options.styles is not None:
        return drawn(model, options.styles, options.seed), []
    if not references:
        return [("", None)], []
    styles: list[Style] = []
    unread: Failures = []
    for path in references:
        try:
            x = within(files.over_white(files.read(path))[None], options.tile, model.smallest_size)
            x, _ = pad(x, model.size_multiple, model.smallest_size)
            style = model.style_of(x.to(device), target)[0]
        except (ValueError, RuntimeError, MemoryError) as error:
            unread.append((path, reason_of(error)))
        else:
            styles.append((f"_{path.stem}" if options.style_from.is_dir() else "", style))
    if not styles:
        path, reason = unread[0]
        raise ValueError(f"--style-from: none of {len(references)} reference(s) serves. {path}: {reason}.")
    return styles, unread


def drawn(model: Translator, n: int, seed: int) -> list[Style]:
    """``n`` styles of the prior, the same on any device."""
    assert model.style_spec is not None
    codes = model.style_spec.draw(n, torch.Generator().manual_seed(seed))
    return [(f"_{number}", code) for number, code in enumerate(codes)]


def within(x: Tensor, side: int, smallest: int) -> Tensor:
    """``x``, (1, C, H, W), made smaller if it has more than ``side`` squared pixels: a style is no matter of detail.

    A height or width is not made smaller than ``smallest``, which the model needs.
    """
    scale = side / (x.shape[-2] * x.shape[-1]) ** 0.5
    size = [max(int(length * scale), min(length, smallest)) for length in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", antialias=True) if scale < 1 else x


class Written(NamedTuple):
    """A result."""

    place: Path
    disagreement: float | None  # of its tiles, where it was cut into tiles
    renamed: bool  # it keeps its picture's ending before .png, since another result has the name without


def exact_name(out: Path, root: Path, path: Path, suffix: str) -> Path:
    """Where a result goes whose format can hold it."""
    name = path.relative_to(root)
    return out / name.with_name(name.stem + suffix + name.suffix)


def run(job: Job) -> int:
    """Translate every picture, say what came out, and return the exit status."""
    written: dict[Path, Written] = {}
    failed: Failures = []
    print(f"{type(job.model).__name__} of {job.checkpoint} on {job.device}: {len(job.pictures)} picture(s)", flush=True)
    display = Display(len(job.pictures))
    interrupted = False
    try:
        with torch.no_grad(), weights_prepared_once():
            for done, path in enumerate(job.pictures):
                display.show(done, path)
                try:
                    for result in results(job, path, written):
                        written[result.place] = result
                except (OSError, ValueError, RuntimeError, MemoryError) as error:
                    failed.append((path, reason_of(error)))
            display.show(len(job.pictures), None)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.close()
    report(job, list(written.values()), failed)
    if interrupted:
        print("Interrupted: the remaining pictures are not translated, and none is half written.")
        return 130
    return 1 if failed or job.unread else 0


def results(job: Job, path: Path, written: Container[Path]) -> Iterator[Written]:
    """Write the translations of one picture, beside what has been ``written``."""
    picture = files.read(path)
    name = path.relative_to(job.root)
    styles = job.styles
    if styles is None:  # a seed of its own, that does not depend on the other pictures
        styles = drawn(job.model, job.options.styles, seed_of(job.options.seed, zlib.crc32(name.as_posix().encode())))
    tile = job.options.tile
    at_once = max(1, tile**2 // picture.pixels[0].numel())  # as many styles as have a tile's pixels together
    for first in range(0, len(styles), at_once):
        some = styles[first : first + at_once]
        codes = [code for _, code in some if code is not None]
        s = torch.stack(codes).to(job.device) if codes else None

        def translated(x: Tensor, s: Tensor | None = s, n: int = len(some)) -> Tensor:
            return job.model.translate(x.to(job.device).expand(n, -1, -1, -1), job.source, job.target, s)

        y = at_any_size(translated, picture.pixels[None], job.model.size_multiple, job.model.smallest_size, tile)
        if not y.pixels.isfinite().all():
            raise ValueError("the model gave numbers that are not finite")
        for (suffix, _), pixels in zip(some, y.pixels, strict=True):
            exact = exact_name(job.out, job.root, path, suffix)
            place = files.destination(exact, picture)
            renamed = place != exact and is_taken(job, place, written)
            if renamed:
                place = exact.with_name(exact.name + ".png")
            if is_taken(job, place, written, own=exact):
                raise ValueError(f"{place} would replace another picture of that name: rename one of the two")
            files.write(place, pixels, picture)
            yield Written(place, y.disagreement if y.tiles > 1 else None, renamed)


def is_taken(job: Job, place: Path, written: Container[Path], own: Path | None = None) -> bool:
    """Whether another file has the name, or will have it; ``own`` is kept for this one."""
    return os.path.realpath(place) in job.untouchable or place in written or (place in job.exact and place != own)


def reason_of(error: BaseException) -> str:
    """One line."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return "it does not fit into memory: give a smaller --tile"
    return (str(error) or type(error).__name__).splitlines()[0]


def report(job: Job, written: list[Written], failed: Failures) -> None:
    """Say how many files were written and where, what tiles mean for them, and what failed."""
    domains = job.model.domains
    disagreements = [result.disagreement for result in written if result.disagreement is not None]
    renamed = [result.place for result in written if result.renamed]
    print(f"{len(written)} translation(s) from {domains[job.source]} to {domains[job.target]} in {job.out}")
    if disagreements:
        mean = sum(disagreements) / len(disagreements) * 127.5
        print(
            f"{len(disagreements)} of them were made in tiles, which differ by {mean:.1f} of 255 on average where they "
            "overlap: a network that normalises over the image sees each tile as a picture of its own. A larger --tile "
            "avoids it where memory allows."
        )
    if renamed:
        print(
            f"{len(renamed)} of them kept the old ending before .png, such as {renamed[0]}: "
            "another result has the name without it."
        )
    if job.passed_over:
        print(f"Passed over {len(job.passed_over)} file(s) that are no pictures, such as {job.passed_over[0]}.")
    sys.stdout.flush()
    for failures, what in ((failed, f"{len(job.pictures)} picture(s)"), (job.unread, "the references of --style-from")):
        if failures:
            print(f"{len(failures)} of {what} failed:", file=sys.stderr)
        for path, reason in failures:
            print(f"  {path}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
