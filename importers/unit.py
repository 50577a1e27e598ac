"""Checkpoints of the official UNIT (NVlabs, 2018 release: UNIT and MUNIT repositories, trainer UNIT).

    python -m importers unit load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers unit save CKPT DST        a checkpoint of ours to an official folder

The official container is gen_%08d.pt and dis_%08d.pt, each {'a': state dict, 'b': state dict}, and optimizer.pt,
{'gen': Adam, 'dis': Adam}; the number counts finished iterations. SRC is a folder of these (the highest gen number
wins; dis and optimizer.pt may be absent) or one gen-style file, as test models are released.

Widths and depths are read off the tensors; learning rate, betas and weight decay off optimizer.pt. What no file says
keeps our default: loss weights, decay of the learning rate, reflection padding (the official pad_type of every
released configuration; a model trained with another gives other pictures near the borders here). Instance-norm
statistics in files of PyTorch 0.3 were never used at test time and are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers import nvlabs
from importers.mapping import Row, rows
from importers.nvlabs import CONV, DOMAINS, NORM, DisSizes, Layout, Release
from networks.translator import ContentDecoder, ContentEncoder


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    width: int
    downsamplings: int
    blocks: int
    dis_width: int
    dis_layers: int
    dis_scales: int


def load(src: Path, dst: Path) -> None:
    """Write the official files at ``src`` as a checkpoint that our UNIT and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    nvlabs.load(src, dst, checkpoint)


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as official files in the folder ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of UNIT.
    """
    nvlabs.save(src, dst, official)


def checkpoint(release: Release) -> dict[str, Any]:
    """A Lightning checkpoint of our UNIT with the weights, moments and iteration of a release."""
    return nvlabs.checkpoint(release, layout(sizes_of(release)))


def official(ours: Mapping[str, Any], where: str) -> Release:
    """The inverse of ``checkpoint``. Blocks that the domains share are written once for each domain.

    Args:
        ours: a Lightning checkpoint of our UNIT.
        where: its file, for messages.
    """
    sizes = _sizes_of_ours(nvlabs.weights(ours), where)
    shared = (ours.get("hyper_parameters") or {}).get("shared_blocks", 0)
    last = sizes.blocks - 1
    same = {f"encoders.1.blocks.{last - k}.": f"encoders.0.blocks.{last - k}." for k in range(shared)}
    same |= {f"decoders.1.blocks.{k}.": f"decoders.0.blocks.{k}." for k in range(shared)}
    return nvlabs.official(ours, layout(sizes), where, same)


def layout(sizes: Sizes) -> Layout:
    """Our networks and the names of their tensors in both code bases."""
    n, d, b = sizes.width, sizes.downsamplings, sizes.blocks
    dis = DisSizes(*sizes[3:])
    with torch.device("meta"):
        nets = nn.ModuleDict(
            {
                "encoders": nn.ModuleList(ContentEncoder(3, n, d, b) for _ in DOMAINS),
                "decoders": nn.ModuleList(ContentDecoder(3, n, d, b) for _ in DOMAINS),
                "discriminators": nvlabs.discriminators(dis),
            }
        )
    tables = {
        "gen": (generator_table(sizes, 0), generator_table(sizes, 1)),
        "dis": (nvlabs.discriminator_table(dis, 0), nvlabs.discriminator_table(dis, 1)),
    }
    return Layout("UNIT", "lightning_modules.unit.UNIT", sizes._asdict(), nets, tables)


def generator_table(sizes: Sizes, domain: int) -> list[Row]:
    """Official VAEGen of one domain (``enc``, ``dec``) and our encoder and decoder."""
    enc, dec, downs = f"encoders.{domain}", f"decoders.{domain}", sizes.downsamplings
    table = rows("enc.model.0.conv", f"{enc}.stem", CONV)
    for k in range(downs):
        table += rows(f"enc.model.{k + 1}.conv", f"{enc}.downs.{k}", CONV)
    for part, ours, index in (("enc", enc, downs + 1), ("dec", dec, 0)):
        for i in range(sizes.blocks):
            for j in (0, 1):
                table += rows(f"{part}.model.{index}.model.{i}.model.{j}.conv", f"{ours}.blocks.{i}.conv{j + 1}", CONV)
    for k in range(downs):  # upsampling takes every other index
        table += rows(f"dec.model.{2 * k + 2}.norm", f"{dec}.norms.{k}", NORM)
        table += rows(f"dec.model.{2 * k + 2}.conv", f"{dec}.ups.{k}", CONV)
    table += rows(f"dec.model.{2 * downs + 1}.conv", f"{dec}.head", CONV)
    return [*table, Row(r"(enc|dec\.model\.0)\..*\.norm\.running_(mean|var)", None)]


def sizes_of(release: Release) -> Sizes:
    """Read widths and depths off the tensors of domain a."""
    gen, where = release.gen["a"], f"{release.where['gen']} ('a')"
    stem = nvlabs.first(gen, "enc.model.0.conv.weight", where, "a generator of UNIT")
    if stem.shape[1] != 3:
        raise ValueError(f"{where}: images have {stem.shape[1]} channels, but our UNIT takes 3.")
    downs = nvlabs.count(gen, "enc.model.{}.conv.weight") - 1
    blocks = nvlabs.count(gen, f"enc.model.{downs + 1}.model.{{}}.model.0.conv.weight")
    return Sizes(stem.shape[0], downs, blocks, *nvlabs.discriminator_sizes(release, stem.shape[0], "UNIT"))


def _sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    stem = nvlabs.first(tensors, "encoders.0.stem.weight", where, "a checkpoint of our UNIT")
    downs = nvlabs.count(tensors, "encoders.0.downs.{}.weight")
    blocks = nvlabs.count(tensors, "encoders.0.blocks.{}.conv1.weight")
    return Sizes(stem.shape[0], downs, blocks, *nvlabs.discriminator_sizes_of_ours(tensors, where, "UNIT"))
