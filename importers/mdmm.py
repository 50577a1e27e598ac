"""Checkpoints of the official multi-domain DRIT++ (MDMM).

    python -m importers mdmm load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers mdmm save CKPT DST        a checkpoint of ours to an official file

The official container is one file, %05d.pth: state dicts dis1, dis2, disContent, enc_c, enc_a and gen, the same six
names with _opt (Adam), the epoch and total_it, the number of full updates. A file with enc_c, enc_a and gen alone will
do for ``load``.

The number of domains, sizes and the kind of generator (``--concat``) are read off the tensors; learning rate, betas and
weight decay off the optimizers. What no file says: domains are called a, b, c..., as the folders trainA, trainB... are;
loss weights keep our defaults, but for mode seeking, which the release does not have (0); one full update in
d_iter = 3 batches. Files say nothing of ``--isDcontent`` either: where disContent has never stepped, ours trains it,
unless one goes on with --model.lambda_content 0 from the weights alone.
"""

from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers import hsinyinglee
from importers.hsinyinglee import (
    CONV,
    MAKERS,
    Layout,
    Player,
    attribute_table,
    content_discriminator_table,
    content_trunk_table,
    gaussian_attribute_table,
    head,
    mixing_block_table,
    residual,
    upsampling,
)
from importers.mapping import Row, must_end_in_ckpt, refuse_average, rows
from importers.nvlabs import count, first, weights
from networks.drit import ContentTrunk
from networks.drit_multidomain import (
    ContentClassifier,
    DomainAttributeEncoder,
    DomainConcatGenerator,
    DomainDiscriminator,
    DomainGaussianAttributeEncoder,
    DomainMixingGenerator,
)

NETS = ("dis1", "dis2", "disContent", *MAKERS)  # in official order
# Our optimizers, in order.
PLAYERS = (
    Player(("dis1", "dis2"), ("discriminator", "random_discriminator")),
    Player(MAKERS, ("content_encoder", "attribute_encoder", "generator")),
    Player(("disContent",), ("content_discriminator",)),
)
OURS = {theirs: mine for player in PLAYERS for theirs, mine in zip(*player, strict=True)}


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell, but for the number of domains, which is told by their names."""

    domains: tuple[str, ...]
    concat: bool
    style_size: int
    width: int
    downsamplings: int
    blocks: int
    mlp_width: int
    attribute_width: int
    dis_width: int = 64
    dis_layers: int = 6
    dis_kernel: int = 3
    content_dis_width: int = 256
    content_dis_layers: int = 3


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our MultiDomainDRIT and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    release = read_release(src)
    result, remarks = checkpoint(release, str(src)), hsinyinglee.afresh(release)
    if "gen_opt" in release and release["gen_opt"]["state"] and not release["disContent_opt"]["state"]:
        remarks.append("The file's disContent has never stepped (no --isDcontent): ours starts to train it.")
    hsinyinglee.write_ours(result, dst, remarks)


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of MultiDomainDRIT.
    """
    hsinyinglee.save(src, dst, official)


def read_release(src: Path) -> dict[str, Any]:
    """Read an official file: all networks or those that make translations, with or without optimizers."""
    return hsinyinglee.read_container(src, NETS)


def checkpoint(release: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our MultiDomainDRIT with the weights, moments and iteration of an official file."""
    result = hsinyinglee.checkpoint(release, layout(sizes_of(release, where)), where, {"lambda_ms": 0.0})
    return result | {"lr_schedulers": result["lr_schedulers"][:2]}  # D^c's rate has none


def official(ours: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our MultiDomainDRIT.
        where: its file, for messages.
    """
    tensors = weights(ours)
    refuse_average(tensors, "MDMM", where)
    if not (ours.get("hyper_parameters") or {}).get("dis_ring", True):
        raise ValueError(
            f"{where} has scores without the ring of zeros (dis_ring), which the official MDMM always has."
        )
    return hsinyinglee.official(ours, layout(sizes_of_ours(tensors, where)), where)


def layout(sizes: Sizes) -> Layout:
    """Our networks and the names of their tensors in both code bases."""
    class_path = "lightning_modules.drit_multidomain.MultiDomainDRIT"
    tables = {net: table(net, sizes) for net in NETS}
    return Layout("MDMM", class_path, sizes._asdict(), networks(sizes), tables, PLAYERS)


def table(net: str, sizes: Sizes) -> list[Row]:
    """Rows of one official network, in its order of registration."""
    ours = OURS[net]
    if net == "gen":
        return concat_generator_table(sizes) if sizes.concat else mixing_generator_table(sizes)
    if net == "enc_a":
        return gaussian_attribute_table("", ours) if sizes.concat else attribute_table("", ours)
    if net == "enc_c":
        return content_trunk_table("conv", ours, sizes.downsamplings, sizes.blocks + 1)
    if net == "disContent":
        return content_discriminator_table(sizes.content_dis_layers)
    table = [row for j in range(sizes.dis_layers) for row in rows(f"model.{j}.model.1", f"{ours}.layers.{j}", CONV)]
    return [*table, Row("conv1.weight", f"{ours}.score.weight"), Row("conv2.weight", f"{ours}.domain.weight")]


def concat_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` with concat."""
    table = residual("dec_share.0.model", "generator.first")
    for j in range(sizes.blocks):
        table += residual(f"dec1.{j}.model", f"generator.trunk.{j}")
    for j in range(sizes.downsamplings):
        table += upsampling(f"dec{j + 2}.0.model", f"generator.renderer.ups.{j}")
    return table + head(f"dec{sizes.downsamplings + 2}.0", "generator.renderer.head")


def mixing_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` without concat, whose upsamplings are called decA, whatever the domain."""
    ours, n, table = "generator.renderer", sizes.blocks + 1, []
    for j in range(n):
        before = f"{ours}.convs.{j - 1}" if j > 0 else "generator.first"
        table += mixing_block_table(f"dec{j + 1}", before, f"{ours}.blocks.{j}")
    for j in range(sizes.downsamplings):
        table += upsampling(f"decA{n + 1}.{j}.model", f"{ours}.ups.{j}")
    table += head(f"decA{n + 1}.{sizes.downsamplings}", f"{ours}.head")
    return table + [row for j in (0, 2, 4) for row in rows(f"mlp.{j}", f"{ours}.mlp.{j}", CONV)]


def sizes_of(release: Mapping[str, Any], where: str) -> Sizes:
    """Read the number of domains, the kind of generator, widths and depths off the tensors."""
    what = "a network of the official MDMM that ours can be"
    enc_c, enc_a, gen = (release[name] for name in MAKERS)
    concat = "fc.0.weight" in enc_a
    stem = first(enc_c, "conv.0.model.1.weight", f"{where} ('enc_c')", what)
    attribute = first(enc_a, "conv.1.weight" if concat else "model.1.weight", f"{where} ('enc_a')", what)
    head = enc_a["fc.0.weight"] if concat else first(enc_a, "model.16.weight", f"{where} ('enc_a')", what)
    if not concat and "mlp.0.weight" not in gen:
        raise ValueError(f"{where} ('gen') lacks mlp.0.weight, but enc_a is the one without --concat.")
    residual = sum(name.endswith(".model.5.weight") for name in enc_c)
    domains = attribute.shape[1] - 3
    if stem.shape[1] != 3 or not 2 <= domains <= len(ascii_lowercase):
        raise ValueError(
            f"{where}: images have {stem.shape[1]} channels and there are {domains} domains, but ours takes 3 channels "
            "and 2 to 26 domains."
        )
    makers = Sizes(
        domains=tuple(ascii_lowercase[:domains]),
        concat=concat,
        style_size=head.shape[0],
        width=stem.shape[0],
        downsamplings=count(enc_c, "conv.{}.model.1.weight") - 1 - residual,
        blocks=residual - 1,
        mlp_width=256 if concat else gen["mlp.0.weight"].shape[0],
        attribute_width=attribute.shape[0],
    )
    if "dis1" not in release:
        return makers
    dis, content = release["dis1"], release["disContent"]
    return makers._replace(
        dis_width=first(dis, "model.0.model.1.weight", f"{where} ('dis1')", what).shape[0],
        dis_layers=count(dis, "model.{}.model.1.weight"),
        dis_kernel=first(dis, "conv2.weight", f"{where} ('dis1')", what).shape[2],
        content_dis_width=first(content, "model.0.model.1.weight", f"{where} ('disContent')", what).shape[0],
        content_dis_layers=count(content, "model.{}.model.1.weight") - 1,
    )


def sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    """Read the same off a state dict of our MultiDomainDRIT; ``where`` is its file, for messages (ValueError)."""
    what = "a checkpoint of our MultiDomainDRIT with a content discriminator"
    concat = "attribute_encoder.mu.weight" in tensors
    stem = first(tensors, "attribute_encoder.stem.weight", where, what)
    dis = first(tensors, "discriminator.domain.weight", where, what)
    mlp = None if concat else tensors.get("generator.renderer.mlp.0.weight")
    return Sizes(
        domains=tuple(ascii_lowercase[: dis.shape[0]]),
        concat=concat,
        style_size=len(tensors["attribute_encoder.mu.weight" if concat else "attribute_encoder.head.weight"]),
        width=first(tensors, "content_encoder.stem.weight", where, what).shape[0],
        downsamplings=count(tensors, "content_encoder.downs.{}.weight"),
        blocks=count(tensors, "content_encoder.blocks.{}.conv1.weight") - 1,
        mlp_width=256 if mlp is None else mlp.shape[0],
        attribute_width=stem.shape[0],
        dis_width=first(tensors, "discriminator.layers.0.weight", where, what).shape[0],
        dis_layers=count(tensors, "discriminator.layers.{}.weight"),
        dis_kernel=dis.shape[2],
        content_dis_width=first(tensors, "content_discriminator.last.weight", where, what).shape[0],
        content_dis_layers=count(tensors, "content_discriminator.layers.{}.weight"),
    )


def networks(sizes: Sizes) -> nn.ModuleDict:
    """Our networks without storage, for their names, order and shapes."""
    k, channels, downs = len(sizes.domains), sizes.width * 2**sizes.downsamplings, sizes.downsamplings
    encoder = DomainGaussianAttributeEncoder if sizes.concat else DomainAttributeEncoder
    with torch.device("meta"):
        generator: nn.Module = (
            DomainConcatGenerator(k, channels, sizes.style_size, downs, sizes.blocks)
            if sizes.concat
            else DomainMixingGenerator(k, channels, sizes.style_size, downs, sizes.blocks + 1, sizes.mlp_width)
        )
        dis, random_dis = (
            DomainDiscriminator(k, sizes.dis_width, sizes.dis_layers, sizes.dis_kernel) for _ in range(2)
        )
        nets: dict[str, nn.Module] = {
            "enc_c": ContentTrunk(sizes.width, downs, sizes.blocks + 1),
            "enc_a": encoder(k, sizes.style_size, sizes.attribute_width),
            "gen": generator,
            "dis1": dis,
            "dis2": random_dis,
            "disContent": ContentClassifier(k, channels, sizes.content_dis_width, sizes.content_dis_layers),
        }
        return nn.ModuleDict({OURS[name]: net for name, net in nets.items()})
