"""Official checkpoints in and out: ``python -m importers PAPER load SRC DST.ckpt``, ``... PAPER save CKPT DST``.

What SRC and DST are for a paper, its module here says: ``python -m importers PAPER --help``.
"""

import argparse
import sys
from pathlib import Path

from importers import alae, disvae, drit, fader, mdmm, munit, pixel_snail, ufdn, unit, vq_vae2

PAPERS = {
    "alae": alae,
    "disvae": disvae,
    "drit": drit,
    "fader": fader,
    "mdmm": mdmm,
    "munit": munit,
    "pixel_snail": pixel_snail,
    "ufdn": ufdn,
    "unit": unit,
    "vq_vae2": vq_vae2,
}


def main(args: list[str] | None = None) -> None:
    """Convert one checkpoint; a mistake is answered with one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m importers", description=__doc__)
    papers = parser.add_subparsers(dest="paper", required=True)
    for name, module in PAPERS.items():
        keep = argparse.RawDescriptionHelpFormatter
        paper = papers.add_parser(name, description=module.__doc__, formatter_class=keep)
        paper.add_argument("direction", choices=("load", "save"), help="load: official to ours; save: ours to official")
        paper.add_argument("src", type=Path)
        paper.add_argument("dst", type=Path)
        if name == "munit":
            paper.add_argument("--zero-padding", action="store_true", help="of the model to load, see above")
    given = vars(parser.parse_args(args))
    module, direction = PAPERS[given.pop("paper")], given.pop("direction")
    if direction == "save":
        given.pop("zero_padding", None)  # no official file says how a model is padded
    try:
        (module.load if direction == "load" else module.save)(**given)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
