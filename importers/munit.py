"""Checkpoints of the official MUNIT (NVlabs, 2018 release, trainer MUNIT).

    python -m importers munit load SRC DST.ckpt [--zero-padding]    official to a Lightning checkpoint of ours
    python -m importers munit save CKPT DST                         a checkpoint of ours to an official folder

The official container is gen_%08d.pt and dis_%08d.pt, each {'a': state dict, 'b': state dict}, and optimizer.pt,
{'gen': Adam, 'dis': Adam}; the number counts finished iterations. SRC is a folder of these (the highest gen number
wins; dis and optimizer.pt may be absent) or one gen-style file, as test models are released.

Widths, depths and the sizes of style and MLP are read off the tensors; learning rate, betas and weight decay off
optimizer.pt. What no file says keeps our default: loss weights (set lambda_cycle and lambda_vgg as in the model's
configuration before training goes on), decay of the learning rate, padding. Padding is a trap: the animal and HD models
of April 2018 were configured with zeros at the border, not with reflections as all later ones, and need
``--zero-padding``; without it they load, but draw worse borders.

The official AdaIN layers carry statistics that nothing reads: left out by load, written as they always are (mean 0,
variance 1) by save. So are, by load, the instance-norm statistics in the content encoders of PyTorch 0.3.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers import nvlabs
from importers.mapping import Row, rows
from importers.nvlabs import CONV, DOMAINS, NORM, DisSizes, Layout, Release
from networks.munit import AdaINDecoder, StyleEncoder
from networks.translator import ContentEncoder


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    width: int
    downsamplings: int
    blocks: int
    style_size: int
    mlp_width: int
    dis_width: int
    dis_layers: int
    dis_scales: int


def load(src: Path, dst: Path, zero_padding: bool = False) -> None:
    """Write the official files at ``src`` as a checkpoint that our MUNIT and ``main.py`` load.

    Args:
        src: folder, or gen-style file.
        dst: ends in .ckpt.
        zero_padding: how the model was configured, which no file says.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    nvlabs.load(src, dst, partial(checkpoint, zero_padding=zero_padding))


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as official files in the folder ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of MUNIT.
    """
    nvlabs.save(src, dst, official)


def checkpoint(release: Release, zero_padding: bool = False) -> dict[str, Any]:
    """A Lightning checkpoint of our MUNIT with the weights, moments and iteration of a release."""
    result = nvlabs.checkpoint(release, layout(sizes_of(release)))
    if zero_padding:
        result["hyper_parameters"]["zero_padding"] = True
    return result


def official(ours: Mapping[str, Any], where: str) -> Release:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our MUNIT.
        where: its file, for messages.
    """
    release = nvlabs.official(ours, layout(_sizes_of_ours(nvlabs.weights(ours), where)), where)
    return release._replace(gen={domain: with_statistics(gen) for domain, gen in release.gen.items()})


def with_statistics(gen: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Add the statistics of the official AdaIN layers, each before the convolution of its layer as they are there."""
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in gen.items():
        if name.startswith("dec.model.0.") and name.endswith("conv.weight"):
            norm = name.replace("conv.weight", "norm")
            result[f"{norm}.running_mean"] = tensor.new_zeros(len(tensor))
            result[f"{norm}.running_var"] = tensor.new_ones(len(tensor))
        result[name] = tensor
    return result


def layout(sizes: Sizes) -> Layout:
    """Our networks and the names of their tensors in both code bases."""
    n, d, b = sizes.width, sizes.downsamplings, sizes.blocks
    style, mlp, dis = sizes.style_size, sizes.mlp_width, DisSizes(*sizes[5:])
    with torch.device("meta"):
        nets = nn.ModuleDict(
            {
                "content_encoders": nn.ModuleList(ContentEncoder(3, n, d, b) for _ in DOMAINS),
                "style_encoders": nn.ModuleList(StyleEncoder(3, n, style) for _ in DOMAINS),
                "decoders": nn.ModuleList(AdaINDecoder(3, n, d, b, style, mlp) for _ in DOMAINS),
                "discriminators": nvlabs.discriminators(dis),
            }
        )
    tables = {
        "gen": (generator_table(sizes, 0), generator_table(sizes, 1)),
        "dis": (nvlabs.discriminator_table(dis, 0), nvlabs.discriminator_table(dis, 1)),
    }
    return Layout("MUNIT", "lightning_modules.munit.MUNIT", sizes._asdict(), nets, tables)


def generator_table(sizes: Sizes, domain: int) -> list[Row]:
    """Official AdaINGen of one domain (``enc_style``, ``enc_content``, ``dec``, ``mlp``) and our networks."""
    style, content, dec = (f"{part}.{domain}" for part in ("style_encoders", "content_encoders", "decoders"))
    downs = sizes.downsamplings
    table = rows("enc_style.model.0.conv", f"{style}.stem", CONV)
    for k in range(4):
        table += rows(f"enc_style.model.{k + 1}.conv", f"{style}.downs.{k}", CONV)
    table += rows("enc_style.model.6", f"{style}.head", CONV)
    table += rows("enc_content.model.0.conv", f"{content}.stem", CONV)
    for k in range(downs):
        table += rows(f"enc_content.model.{k + 1}.conv", f"{content}.downs.{k}", CONV)
    for part, ours, index in (("enc_content", content, downs + 1), ("dec", dec, 0)):
        for i in range(sizes.blocks):
            for j in (0, 1):
                table += rows(f"{part}.model.{index}.model.{i}.model.{j}.conv", f"{ours}.blocks.{i}.conv{j + 1}", CONV)
    for k in range(downs):  # upsampling takes every other index
        table += rows(f"dec.model.{2 * k + 2}.norm", f"{dec}.norms.{k}", NORM)
        table += rows(f"dec.model.{2 * k + 2}.conv", f"{dec}.ups.{k}", CONV)
    table += rows(f"dec.model.{2 * downs + 1}.conv", f"{dec}.head", CONV)
    for k, layer in enumerate(("first", "second", "last")):
        table += rows(f"mlp.model.{k}.fc", f"{dec}.mlp.{layer}", CONV)
    return [*table, Row(r"(enc_content\.model|dec\.model\.0)\..*\.norm\.running_(mean|var)", None)]


def sizes_of(release: Release) -> Sizes:
    """Read sizes off the tensors of domain a."""
    gen, where, what = release.gen["a"], f"{release.where['gen']} ('a')", "a generator of MUNIT"
    stem = nvlabs.first(gen, "enc_content.model.0.conv.weight", where, what)
    if stem.shape[1] != 3:
        raise ValueError(f"{where}: images have {stem.shape[1]} channels, but our MUNIT takes 3.")
    style = nvlabs.first(gen, "enc_style.model.6.weight", where, what)
    if "mlp.model.0.fc.weight" not in gen:
        raise ValueError(f"{where} lacks mlp.model.0.fc.weight.")
    downs = nvlabs.count(gen, "enc_content.model.{}.conv.weight") - 1
    blocks = nvlabs.count(gen, f"enc_content.model.{downs + 1}.model.{{}}.model.0.conv.weight")
    dis = nvlabs.discriminator_sizes(release, stem.shape[0], "MUNIT")
    return Sizes(stem.shape[0], downs, blocks, len(style), len(gen["mlp.model.0.fc.weight"]), *dis)


def _sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    what = "a checkpoint of our MUNIT"
    stem = nvlabs.first(tensors, "content_encoders.0.stem.weight", where, what)
    style = nvlabs.first(tensors, "style_encoders.0.head.weight", where, what)
    if "decoders.0.mlp.first.weight" not in tensors:
        raise ValueError(f"{where} lacks decoders.0.mlp.first.weight.")
    downs = nvlabs.count(tensors, "content_encoders.0.downs.{}.weight")
    blocks = nvlabs.count(tensors, "content_encoders.0.blocks.{}.conv1.weight")
    dis = nvlabs.discriminator_sizes_of_ours(tensors, where, "MUNIT")
    return Sizes(stem.shape[0], downs, blocks, len(style), len(tensors["decoders.0.mlp.first.weight"]), *dis)
