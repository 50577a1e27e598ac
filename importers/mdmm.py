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

from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.drit import D_ITER
from importers.drit_names import CONV, MAKERS, head, residual, upsampling
from importers.mapping import (
    Row,
    adam_to_official,
    adam_to_ours,
    fresh_adam,
    loops,
    read,
    refuse_average,
    rows,
    schedule,
    to_official,
    to_ours,
)
from importers.nvlabs import count, first
from networks.drit import ContentTrunk
from networks.drit_multidomain import (
    ContentClassifier,
    DomainAttributeEncoder,
    DomainConcatGenerator,
    DomainDiscriminator,
    DomainGaussianAttributeEncoder,
    DomainMixingGenerator,
)
from networks.init import normal_convolutions_

NETS = ("dis1", "dis2", "disContent", *MAKERS)  # in official order
OURS = dict(
    zip(
        NETS,
        (
            "discriminator", "random_discriminator", "content_discriminator", "content_encoder", "attribute_encoder",
            "generator",
        ),
        strict=True,
    )
)  # fmt: skip
PLAYERS = (("dis1", "dis2"), MAKERS, ("disContent",))  # official networks of each of our optimizers, in our order
LR, CONTENT_LR = 1e-4, 4e-5


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
    if dst.suffix != ".ckpt":
        raise ValueError(f"DST is {dst}, but Lightning checkpoints end in .ckpt.")
    release = read_release(src)
    result = checkpoint(release, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    if "dis1" not in release:
        print("The file has no discriminators: they start afresh.")
    if "gen_opt" not in release:
        print("The file has no optimizers: the moments of Adam start afresh.")
    elif release["gen_opt"]["state"] and not release["disContent_opt"]["state"]:
        print("The file's disContent has never stepped (no --isDcontent): ours starts to train it.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: iteration {result['global_step']}, {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of MultiDomainDRIT.
    """
    ours = read(src)
    if not isinstance(ours, dict) or not isinstance(ours.get("state_dict"), dict):
        raise ValueError(f"{src} is not a Lightning checkpoint: it has no state_dict.")
    if dst.is_dir():
        raise ValueError(f"DST is {dst}, a folder, but the official container is a file.")
    release = official(ours, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    # The official code needs PyTorch 0.4, which reads only the older of the two file formats.
    torch.save(release, dst, _use_new_zipfile_serialization=False)
    if "gen_opt" not in release:
        print(f"{src} has no optimizer states, so {dst} has none.")
    print(f"Wrote {dst}: total_it {release['total_it']}.")


def read_release(src: Path) -> dict[str, Any]:
    """Read an official file: all networks or those that make translations, with or without optimizers."""
    release = read(src)
    nets = [name for name in NETS if isinstance(release, dict) and name in release]
    if nets not in (list(NETS), list(MAKERS)):
        raise ValueError(f"{src} is not the official container: it needs {', '.join(NETS)}, or the last three alone.")
    for name in nets:
        if not isinstance(release[name], dict) or not all(isinstance(t, Tensor) for t in release[name].values()):
            raise ValueError(f"{src} ('{name}') is not a state dict.")
    known = {*NETS, *(f"{name}_opt" for name in NETS), "ep", "total_it"}
    if unknown := sorted(set(release) - known):
        raise ValueError(f"{src} has what the official container does not have: {', '.join(unknown)}.")
    optimizers = [name for name in NETS if f"{name}_opt" in release]
    if optimizers and (optimizers != list(NETS) or nets != list(NETS)):
        raise ValueError(f"{src} has some optimizers only, or of networks that it lacks: {', '.join(optimizers)}.")
    return release


def checkpoint(release: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our MultiDomainDRIT with the weights, moments and iteration of an official file."""
    sizes = sizes_of(release, where)
    nets = networks(sizes)
    shapes = {name: tensor.shape for name, tensor in nets.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for name in NETS:
        if name in release:
            tensors |= to_ours(release[name], table(name, sizes), shapes, f"{where} ('{name}')")
    if "dis1" not in release:
        tensors |= _fresh_discriminators(nets)
    iterations = int(release.get("total_it", 0)) * D_ITER
    states = [_adam(release, sizes, nets, k, where) for k in range(len(PLAYERS))]
    groups = [state["param_groups"][0] for state in states]
    lr, content_lr = (groups[k].get("initial_lr", groups[k]["lr"]) for k in (1, 2))
    return {
        "epoch": int(release.get("ep", 0)),
        "global_step": iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(iterations), "skipped": torch.tensor(0)}
        | {name: tensors[name] for name in shapes},
        "hyper_parameters": {
            "_class_path": "lightning_modules.drit_multidomain.MultiDomainDRIT",
            **sizes._asdict(),
            "lr": lr,
            "content_lr": content_lr / lr,
            "betas": list(groups[1]["betas"]),
            "weight_decay": groups[1]["weight_decay"],
            "lambda_ms": 0.0,
            "d_iter": D_ITER,
        },
        "optimizer_states": states,
        "lr_schedulers": [schedule(group, iterations) for group in groups[:2]],  # D^c's rate has none
        "loops": loops(iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our MultiDomainDRIT.
        where: its file, for messages.
    """
    state, arguments = ours["state_dict"], ours.get("hyper_parameters") or {}
    tensors = {k: v for k, v in state.items() if k not in ("iterations", "skipped")}
    refuse_average(tensors, "MDMM", where)
    if not arguments.get("dis_ring", True):
        raise ValueError(
            f"{where} has scores without the ring of zeros (dis_ring), which the official MDMM always has."
        )
    sizes = sizes_of_ours(tensors, where)
    tables = {name: table(name, sizes) for name in NETS}
    known = {row.ours for rows_of_net in tables.values() for row in rows_of_net}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(f"{where} has tensors that the official MDMM does not have: {', '.join(left_over[:20])}.")
    release: dict[str, Any] = {name: OrderedDict(to_official(tensors, tables[name])) for name in NETS}
    if ours.get("optimizer_states"):
        nets = networks(sizes)
        for player, adam in zip(PLAYERS, ours["optimizer_states"], strict=True):
            numbers = {name: n for n, name in enumerate(_shapes(nets, player))}
            release |= {f"{name}_opt": adam_to_official(adam, tables[name], numbers) for name in player}
    order = [*NETS, *(f"{name}_opt" for name in NETS if f"{name}_opt" in release)]
    total = int(state.get("iterations", 0)) // arguments.get("d_iter", D_ITER)
    return {name: release[name] for name in order} | {"ep": int(ours.get("epoch", 0)), "total_it": total}


def table(net: str, sizes: Sizes) -> list[Row]:
    """Rows of one official network, in its order of registration."""
    ours = OURS[net]
    if net == "gen":
        return concat_generator_table(sizes) if sizes.concat else mixing_generator_table(sizes)
    if net == "enc_a":
        return gaussian_attribute_table() if sizes.concat else attribute_table()
    if net == "enc_c":
        table, downs = rows("conv.0.model.1", f"{ours}.stem", CONV), sizes.downsamplings
        for j in range(downs):
            table += rows(f"conv.{j + 1}.model.1", f"{ours}.downs.{j}", CONV)
        for j in range(sizes.blocks + 1):
            table += residual(f"conv.{downs + 1 + j}.model", f"{ours}.blocks.{j}")
        return table
    n = sizes.content_dis_layers if net == "disContent" else sizes.dis_layers
    table = [row for j in range(n) for row in rows(f"model.{j}.model.1", f"{ours}.layers.{j}", CONV)]
    if net == "disContent":
        return table + rows(f"model.{n}.model.1", f"{ours}.last", CONV) + rows(f"model.{n + 1}", f"{ours}.score", CONV)
    return [*table, Row("conv1.weight", f"{ours}.score.weight"), Row("conv2.weight", f"{ours}.domain.weight")]


def gaussian_attribute_table() -> list[Row]:
    """``enc_a`` with concat."""
    ours = OURS["enc_a"]
    table = rows("fc.0", f"{ours}.mu", CONV) + rows("fcVar.0", f"{ours}.logvar", CONV)
    table += rows("conv.1", f"{ours}.stem", CONV)
    for j in range(3):
        for theirs, mine in (("conv.2", "conv1"), ("conv.4.1", "conv2"), ("shortcut.1", "shortcut")):
            table += rows(f"conv.{j + 2}.{theirs}", f"{ours}.blocks.{j}.{mine}", CONV)
    return table


def attribute_table() -> list[Row]:
    """``enc_a`` without concat."""
    ours = OURS["enc_a"]
    table = rows("model.1", f"{ours}.stem", CONV)
    for j in range(4):
        table += rows(f"model.{3 * j + 4}", f"{ours}.downs.{j}", CONV)
    return table + rows("model.16", f"{ours}.head", CONV)


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
        block, mine = f"dec{j + 1}", f"{ours}.blocks.{j}"
        table += rows(f"{block}.conv1.0.1", f"{ours}.convs.{j - 1}" if j > 0 else "generator.first", CONV)
        table += rows(f"{block}.conv2.0.1", f"{mine}.conv", CONV)
        for i in (1, 2):
            table += rows(f"{block}.blk{i}.0", f"{mine}.mix{i}.wide", CONV)
            table += rows(f"{block}.blk{i}.2", f"{mine}.mix{i}.narrow", CONV)
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


def _shapes(nets: nn.ModuleDict, player: tuple[str, ...]) -> dict[str, torch.Size]:
    """Our parameters in the order of one of our optimizers."""
    parts = [OURS[net] for net in player]
    return {f"{part}.{name}": p.shape for part in parts for name, p in nets[part].named_parameters()}


def _adam(release: Mapping[str, Any], sizes: Sizes, nets: nn.ModuleDict, k: int, where: str) -> dict[str, Any]:
    """State of one of our optimizers, joined from its networks' or afresh."""
    shapes = _shapes(nets, PLAYERS[k])
    if "gen_opt" not in release:
        return fresh_adam(len(shapes), CONTENT_LR if k == 2 else LR, 1e-4, scheduled=True)
    parts = [
        adam_to_ours(release[f"{net}_opt"], table(net, sizes), shapes, f"{where} ('{net}_opt')") for net in PLAYERS[k]
    ]
    state = {n: moments for part in parts for n, moments in part["state"].items()}
    return {"state": dict(sorted(state.items())), "param_groups": parts[0]["param_groups"]}


def _fresh_discriminators(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Initial weights as our MultiDomainDRIT draws them, the same at every import."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = nn.ModuleDict({OURS[name]: nets[OURS[name]].to_empty(device="cpu") for name in NETS[:3]})
        for layer in fresh.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        normal_convolutions_(fresh)
    return fresh.state_dict()
