"""Checkpoints of the official DRIT and DRIT++ (two domains).

    python -m importers drit load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers drit save CKPT DST        a checkpoint of ours to an official file

The official container is one file, %05d.pth or last.pth: state dicts disA, disA2, disB, disB2, disContent, enc_c,
enc_a and gen, the same eight names with _opt (Adam), the epoch and total_it, the number of full updates. A file with
enc_c, enc_a and gen alone will do for ``load``.

Sizes and the kind of generator (``--concat``) are read off the tensors; learning rate, betas and weight decay off the
optimizers. What no file says keeps our default: loss weights (of mode seeking too), d_iter = 3 and the decay of the
learning rate, which counts iterations here: a run that the release had begun to slow down goes on at our schedule's
rate for its iteration. Discriminators with spectral normalisation or of one scale are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from importers import hsinyinglee
from importers.drit_names import NETS, Sizes, networks, sizes_of, sizes_of_ours, table
from importers.hsinyinglee import MAKERS, Layout, Player
from importers.mapping import must_end_in_ckpt, refuse_average
from importers.nvlabs import weights

# Our optimizers, in order.
PLAYERS = (
    Player(("disA", "disB", "disA2", "disB2"), ("discriminators", "random_discriminators")),
    Player(MAKERS, ("content_encoder", "attribute_encoders", "generator")),
    Player(("disContent",), ("content_discriminator",)),
)


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our DRIT and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    release = read_release(src)
    hsinyinglee.write_ours(checkpoint(release, str(src)), dst, hsinyinglee.afresh(release))


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of DRIT.
    """
    hsinyinglee.save(src, dst, official)


def read_release(src: Path) -> dict[str, Any]:
    """Read an official file: all networks or those that make translations, with or without optimizers."""
    return hsinyinglee.read_container(src, NETS)


def checkpoint(release: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our DRIT with the weights, moments and iteration of an official file."""
    return hsinyinglee.checkpoint(release, layout(sizes_of(release, where)), where)


def official(ours: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our DRIT.
        where: its file, for messages.
    """
    tensors = weights(ours)
    refuse_average(tensors, "DRIT", where)
    return hsinyinglee.official(ours, layout(sizes_of_ours(tensors, where)), where)


def layout(sizes: Sizes) -> Layout:
    """Our networks and the names of their tensors in both code bases."""
    tables = {net: table(net, sizes) for net in NETS}
    return Layout("DRIT", "lightning_modules.drit.DRIT", sizes._asdict(), networks(sizes), tables, PLAYERS)
