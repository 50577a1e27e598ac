"""Names and sizes of the official DRIT's networks, and ours: what ``importers.drit`` converts by."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.hsinyinglee import (
    CONV,
    MAKERS,
    attribute_table,
    content_discriminator_table,
    content_trunk_table,
    gaussian_attribute_table,
    head,
    mixing_block_table,
    residual,
    upsampling,
)
from importers.mapping import Row, rows
from networks.content_discriminator import ContentDiscriminator
from networks.drit import AttributeEncoder, ConcatGenerator, ContentEncoder, GaussianAttributeEncoder, MixingGenerator
from networks.patch_discriminator import MultiScaleDiscriminator

NETS = ("disA", "disA2", "disB", "disB2", "disContent", *MAKERS)  # in official order


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    concat: bool
    style_size: int
    width: int
    downsamplings: int
    blocks: int
    mlp_width: int
    attribute_width: int
    dis_width: int
    dis_layers: int
    dis_scales: int
    content_dis_width: int
    content_dis_layers: int


def table(net: str, sizes: Sizes) -> list[Row]:
    """Rows of one official network, in its order of registration."""
    if net == "enc_c":
        return content_encoder_table(sizes)
    if net == "enc_a":
        return attribute_encoder_table(sizes)
    if net == "gen":
        return concat_generator_table(sizes) if sizes.concat else mixing_generator_table(sizes)
    if net == "disContent":
        return content_discriminator_table(sizes.content_dis_layers)
    ours = ("random_discriminators" if net.endswith("2") else "discriminators") + f".{'AB'.index(net[3])}.scales"
    table = []
    for s in range(sizes.dis_scales):
        for k in range(sizes.dis_layers):
            table += rows(f"Diss.{s}.{k}.model.1", f"{ours}.{s}.layers.{k}", CONV)
        table += rows(f"Diss.{s}.{sizes.dis_layers}", f"{ours}.{s}.score", CONV)
    return table


def content_encoder_table(sizes: Sizes) -> list[Row]:
    """``enc_c`` and our content encoder: the shared block first, then each domain's trunk."""
    table = residual("conv_share.0.model", "content_encoder.share")
    for d, domain in enumerate("AB"):
        ours = f"content_encoder.trunks.{d}"
        table += content_trunk_table(f"conv{domain}", ours, sizes.downsamplings, sizes.blocks)
    return table


def attribute_encoder_table(sizes: Sizes) -> list[Row]:
    """``enc_a``: all of domain A first; without concat the release has its domains in small letters."""
    table = []
    for d, domain in enumerate("AB"):
        ours = f"attribute_encoders.{d}"
        if sizes.concat:
            table += gaussian_attribute_table(f"_{domain}", ours)
        else:
            table += attribute_table(f"_{domain.lower()}", ours)
    return table


def concat_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` with concat: the shared block, then each domain's parts."""
    table = residual("dec_share.0.model", "generator.share")
    for d, domain in enumerate("AB"):
        for k in range(sizes.blocks):
            table += residual(f"dec{domain}1.{k}.model", f"generator.trunks.{d}.{k}")
        for k in range(sizes.downsamplings):
            table += upsampling(f"dec{domain}{k + 2}.0.model", f"generator.renderers.{d}.ups.{k}")
        table += head(f"dec{domain}{sizes.downsamplings + 2}.0", f"generator.renderers.{d}.head")
    return table


def mixing_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` without concat: each domain's blocks and upsamplings, then the networks between z and the blocks."""
    table = []
    for d, domain in enumerate("AB"):
        ours, n, ups = f"generator.renderers.{d}", sizes.blocks + 1, sizes.downsamplings
        for k in range(n):
            first = f"generator.firsts.{d}" if k == 0 else f"{ours}.convs.{k - 1}"
            table += mixing_block_table(f"dec{domain}{k + 1}", first, f"{ours}.blocks.{k}")
        for k in range(ups):
            table += upsampling(f"dec{domain}{n + 1}.{k}.model", f"{ours}.ups.{k}")
        table += head(f"dec{domain}{n + 1}.{ups}", f"{ours}.head")
    for d, domain in enumerate("AB"):
        for k in (0, 2, 4):
            table += rows(f"mlp{domain}.{k}", f"generator.renderers.{d}.mlp.{k}", CONV)
    return table


def sizes_of(release: Mapping[str, Any], where: str) -> Sizes:
    """Read the kind of generator, widths and depths off the tensors of domain A."""
    enc_c, enc_a, gen = (release[name] for name in MAKERS)
    concat = "fc_A.0.weight" in enc_a
    stem = _first(enc_c, "convA.0.model.1.weight", f"{where} ('enc_c')")
    attribute = _first(enc_a, "conv_A.1.weight" if concat else "model_a.1.weight", f"{where} ('enc_a')")
    head = enc_a["fc_A.0.weight"] if concat else _first(enc_a, "model_a.16.weight", f"{where} ('enc_a')")
    residual = _count(enc_c, "convA.{}.model.5.weight", start=1 + _downs(enc_c))
    mlp = 256 if concat else _first(gen, "mlpA.0.weight", f"{where} ('gen')").shape[0]
    if stem.shape[1] != 3 or attribute.shape[1] != 3:
        raise ValueError(f"{where}: images have {stem.shape[1]} channels, but our DRIT takes 3.")
    makers = (concat, head.shape[0], stem.shape[0], _downs(enc_c), residual, mlp, attribute.shape[0])
    if "disA" not in release:
        return Sizes(*makers, 64, 4, 3, 256, 3)
    dis, content = release["disA"], release["disContent"]
    first = _first(dis, "Diss.0.0.model.1.weight", f"{where} ('disA')")
    layers, scales = _count(dis, "Diss.0.{}.model.1.weight"), _count(dis, "Diss.{}.0.model.1.weight")
    width = _first(content, "model.0.model.1.weight", f"{where} ('disContent')").shape[0]
    return Sizes(*makers, first.shape[0], layers, scales, width, _count(content, "model.{}.model.1.weight") - 1)


def sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    """Read the same off a state dict of our DRIT; ``where`` is its file, for messages (ValueError)."""

    def first(name: str) -> Tensor:
        if name not in tensors:
            raise ValueError(f"{where} is not a checkpoint of our DRIT with a content discriminator: it lacks {name}.")
        return tensors[name]

    concat = "attribute_encoders.0.mu.weight" in tensors
    return Sizes(
        concat=concat,
        style_size=first(f"attribute_encoders.0.{'mu' if concat else 'head'}.weight").shape[0],
        width=first("content_encoder.trunks.0.stem.weight").shape[0],
        downsamplings=_count(tensors, "content_encoder.trunks.0.downs.{}.weight"),
        blocks=_count(tensors, "content_encoder.trunks.0.blocks.{}.conv1.weight"),
        mlp_width=256 if concat else first("generator.renderers.0.mlp.0.weight").shape[0],
        attribute_width=first("attribute_encoders.0.stem.weight").shape[0],
        dis_width=first("discriminators.0.scales.0.layers.0.weight").shape[0],
        dis_layers=_count(tensors, "discriminators.0.scales.0.layers.{}.weight"),
        dis_scales=_count(tensors, "discriminators.0.scales.{}.score.weight"),
        content_dis_width=first("content_discriminator.last.weight").shape[0],
        content_dis_layers=_count(tensors, "content_discriminator.layers.{}.weight"),
    )


def networks(sizes: Sizes) -> nn.ModuleDict:
    """Our networks without storage, for their names, order and shapes."""
    channels, downs = sizes.width * 2**sizes.downsamplings, sizes.downsamplings
    encoder = GaussianAttributeEncoder if sizes.concat else AttributeEncoder
    with torch.device("meta"):
        generator: nn.Module = (
            ConcatGenerator(channels, sizes.style_size, downs, sizes.blocks)
            if sizes.concat
            else MixingGenerator(channels, sizes.style_size, downs, sizes.blocks + 1, sizes.mlp_width)
        )
        dis, random_dis = (nn.ModuleList(MultiScaleDiscriminator(3, *sizes[7:10]) for _ in "AB") for _ in range(2))
        return nn.ModuleDict(
            {
                "content_encoder": ContentEncoder(sizes.width, downs, sizes.blocks),
                "attribute_encoders": nn.ModuleList(encoder(sizes.style_size, sizes.attribute_width) for _ in "AB"),
                "generator": generator,
                "discriminators": dis,
                "random_discriminators": random_dis,
                "content_discriminator": ContentDiscriminator(channels, *sizes[10:]),
            }
        )


def _downs(enc_c: Mapping[str, Tensor]) -> int:
    """Layers after the stem that are not residual blocks, which have a second convolution."""
    n = 0
    while f"convA.{n + 1}.model.1.weight" in enc_c and f"convA.{n + 1}.model.5.weight" not in enc_c:
        n += 1
    return n


def _first(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{where} is not a network of the official DRIT that ours can be: it lacks {name}.")
    return tensors[name]


def _count(tensors: Mapping[str, Tensor], template: str, start: int = 0) -> int:
    n = 0
    while template.format(start + n) in tensors:
        n += 1
    return n
