"""Checkpoints of the official DRIT and DRIT++ (two domains).

    python -m importers drit load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers drit save CKPT DST        a checkpoint of ours to an official file

The official container is one file, %05d.pth or last.pth: state dicts disA, disA2, disB, disB2, disContent, enc_c,
enc_a and gen, the same eight names with _opt (Adam), the epoch and total_it, the number of full updates. A file with
enc_c, enc_a and gen alone will do for ``load``.

Sizes and the kind of generator (``--concat``) are read off the tensors; learning rate, betas and weight decay off the
optimizers. What no file says keeps our default: loss weights (of mode seeking too), d_iter = 3 and the decay of the
learning rate, which counts iterations here. Discriminators with spectral normalisation or of one scale are refused.
"""

from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import Row, adam_to_official, adam_to_ours, read, rows, to_official, to_ours
from networks.drit import (
    AttributeEncoder,
    ConcatGenerator,
    ContentDiscriminator,
    ContentEncoder,
    DomainDiscriminator,
    GaussianAttributeEncoder,
    MixingGenerator,
)
from networks.init import normal_convolutions_

CONV = ("weight", "bias")
MAKERS = ("enc_c", "enc_a", "gen")
NETS = ("disA", "disA2", "disB", "disB2", "disContent", *MAKERS)  # in official order
# Our optimizers, in order: official networks whose parameters each holds, in our order.
PLAYERS = (("disA", "disB", "disA2", "disB2"), MAKERS, ("disContent",))
D_ITER = 3  # of the release, which counts full updates; we count batches
LR, CONTENT_LR = 1e-4, 0.4


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


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our DRIT and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    if dst.suffix != ".ckpt":
        raise ValueError(f"DST is {dst}, but Lightning checkpoints end in .ckpt.")
    release = read_release(src)
    result = checkpoint(release, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    if "disA" not in release:
        print("The file has no discriminators: they start afresh.")
    if "gen_opt" not in release:
        print("The file has no optimizers: the moments of Adam start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: iteration {result['global_step']}, {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of DRIT.
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
    if optimizers and optimizers != list(NETS):
        raise ValueError(f"{src} has some optimizers only: {', '.join(optimizers)}.")
    return release


def checkpoint(release: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our DRIT with the weights, moments and iteration of an official file."""
    sizes = sizes_of(release, where)
    nets = networks(sizes)
    shapes = {name: tensor.shape for name, tensor in nets.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for name in NETS:
        if name in release:
            tensors |= to_ours(release[name], table(name, sizes), shapes, f"{where} ('{name}')")
    if "disA" not in release:
        tensors |= _fresh_discriminators(nets)
    iterations = int(release.get("total_it", 0)) * D_ITER
    states = [_adam(release, sizes, nets, k, where) for k in range(len(PLAYERS))]
    groups = [state["param_groups"][0] for state in states]
    lr, content_lr = (groups[k].get("initial_lr", groups[k]["lr"]) for k in (1, 2))
    return {
        "epoch": 0,
        "global_step": iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(iterations), "skipped": torch.tensor(0)}
        | {name: tensors[name] for name in shapes},
        "hyper_parameters": {
            "_class_path": "lightning_modules.drit.DRIT",
            **sizes._asdict(),
            "lr": lr,
            "content_lr": content_lr / lr,
            "betas": list(groups[1]["betas"]),
            "weight_decay": groups[1]["weight_decay"],
            "d_iter": D_ITER,
        },
        "optimizer_states": states,
        "lr_schedulers": [_schedule(group, iterations) for group in groups],
        "loops": _loops(iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our DRIT.
        where: its file, for messages.
    """
    state = ours["state_dict"]
    tensors = {k: v for k, v in state.items() if k not in ("iterations", "skipped") and not k.startswith("averaged.")}
    sizes = _sizes_of_ours(tensors, where)
    tables = {name: table(name, sizes) for name in NETS}
    known = {row.ours for rows_of_net in tables.values() for row in rows_of_net}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(f"{where} has tensors that the official DRIT does not have: {', '.join(left_over[:20])}.")
    release: dict[str, Any] = {name: OrderedDict(to_official(tensors, tables[name])) for name in NETS}
    if ours.get("optimizer_states"):
        nets = networks(sizes)
        for player, adam in zip(PLAYERS, ours["optimizer_states"], strict=True):
            numbers = {name: n for n, name in enumerate(_shapes(nets, player))}
            release |= {f"{name}_opt": adam_to_official(adam, tables[name], numbers) for name in player}
    d_iter = (ours.get("hyper_parameters") or {}).get("d_iter", D_ITER)
    order = [*NETS, *(f"{name}_opt" for name in NETS if f"{name}_opt" in release)]
    return {name: release[name] for name in order} | {"ep": 0, "total_it": int(state.get("iterations", 0)) // d_iter}


def table(net: str, sizes: Sizes) -> list[Row]:
    """Rows of one official network, in its order of registration."""
    if net == "enc_c":
        return content_encoder_table(sizes)
    if net == "enc_a":
        return gaussian_attribute_table() if sizes.concat else attribute_table()
    if net == "gen":
        return concat_generator_table(sizes) if sizes.concat else mixing_generator_table(sizes)
    if net == "disContent":
        n = sizes.content_dis_layers
        table = [r for k in range(n) for r in rows(f"model.{k}.model.1", f"content_discriminator.layers.{k}", CONV)]
        table += rows(f"model.{n}.model.1", "content_discriminator.last", CONV)
        return table + rows(f"model.{n + 1}", "content_discriminator.score", CONV)
    ours = ("random_discriminators" if net.endswith("2") else "discriminators") + f".{'AB'.index(net[3])}.scales"
    table = []
    for s in range(sizes.dis_scales):
        for k in range(sizes.dis_layers):
            table += rows(f"Diss.{s}.{k}.model.1", f"{ours}.{s}.layers.{k}", CONV)
        table += rows(f"Diss.{s}.{sizes.dis_layers}", f"{ours}.{s}.score", CONV)
    return table


def content_encoder_table(sizes: Sizes) -> list[Row]:
    """``enc_c`` and our content encoder: the shared block first, then each domain's trunk."""
    table = _residual("conv_share.0.model", "content_encoder.share")
    for d, domain in enumerate("AB"):
        trunk, downs = f"content_encoder.trunks.{d}", sizes.downsamplings
        table += rows(f"conv{domain}.0.model.1", f"{trunk}.stem", CONV)
        for k in range(downs):
            table += rows(f"conv{domain}.{k + 1}.model.1", f"{trunk}.downs.{k}", CONV)
        for k in range(sizes.blocks):
            table += _residual(f"conv{domain}.{downs + 1 + k}.model", f"{trunk}.blocks.{k}")
    return table


def gaussian_attribute_table() -> list[Row]:
    """``enc_a`` with concat."""
    table = []
    for d, domain in enumerate("AB"):
        ours = f"attribute_encoders.{d}"
        table += rows(f"fc_{domain}.0", f"{ours}.mu", CONV) + rows(f"fcVar_{domain}.0", f"{ours}.logvar", CONV)
        table += rows(f"conv_{domain}.1", f"{ours}.stem", CONV)
        for k in range(3):
            for theirs, mine in (("conv.2", "conv1"), ("conv.4.1", "conv2"), ("shortcut.1", "shortcut")):
                table += rows(f"conv_{domain}.{k + 2}.{theirs}", f"{ours}.blocks.{k}.{mine}", CONV)
    return table


def attribute_table() -> list[Row]:
    """``enc_a`` without concat."""
    table = []
    for d, domain in enumerate("ab"):
        ours = f"attribute_encoders.{d}"
        table += rows(f"model_{domain}.1", f"{ours}.stem", CONV)
        for k in range(4):
            table += rows(f"model_{domain}.{3 * k + 4}", f"{ours}.downs.{k}", CONV)
        table += rows(f"model_{domain}.16", f"{ours}.head", CONV)
    return table


def concat_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` with concat: the shared block, then each domain's parts."""
    table = _residual("dec_share.0.model", "generator.share")
    for d, domain in enumerate("AB"):
        for k in range(sizes.blocks):
            table += _residual(f"dec{domain}1.{k}.model", f"generator.trunks.{d}.{k}")
        for k in range(sizes.downsamplings):
            table += _upsampling(f"dec{domain}{k + 2}.0.model", f"generator.renderers.{d}.ups.{k}")
        table += _head(f"dec{domain}{sizes.downsamplings + 2}.0", f"generator.renderers.{d}.head")
    return table


def mixing_generator_table(sizes: Sizes) -> list[Row]:
    """``gen`` without concat: each domain's blocks and upsamplings, then the networks between z and the blocks."""
    table = []
    for d, domain in enumerate("AB"):
        ours, n, ups = f"generator.renderers.{d}", sizes.blocks + 1, sizes.downsamplings
        for k in range(n):
            first = f"generator.firsts.{d}" if k == 0 else f"{ours}.convs.{k - 1}"
            block, mine = f"dec{domain}{k + 1}", f"{ours}.blocks.{k}"
            table += rows(f"{block}.conv1.0.1", first, CONV) + rows(f"{block}.conv2.0.1", f"{mine}.conv", CONV)
            for j in (1, 2):
                table += rows(f"{block}.blk{j}.0", f"{mine}.mix{j}.wide", CONV)
                table += rows(f"{block}.blk{j}.2", f"{mine}.mix{j}.narrow", CONV)
        for k in range(ups):
            table += _upsampling(f"dec{domain}{n + 1}.{k}.model", f"{ours}.ups.{k}")
        table += _head(f"dec{domain}{n + 1}.{ups}", f"{ours}.head")
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
        dis, random_dis = (nn.ModuleList(DomainDiscriminator(*sizes[7:10]) for _ in "AB") for _ in range(2))
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


def _residual(official: str, ours: str) -> list[Row]:
    return rows(f"{official}.1", f"{ours}.conv1", CONV) + rows(f"{official}.5", f"{ours}.conv2", CONV)


def _upsampling(official: str, ours: str) -> list[Row]:
    """A layer norm's parameters are (C, 1, 1) there."""
    norm = (("weight", "gamma"), ("bias", "beta"))
    return rows(f"{official}.0", f"{ours}.conv", CONV) + [
        Row(f"{official}.1.{theirs}", f"{ours}.{mine}", torch.flatten, lambda t: t.view(-1, 1, 1))
        for theirs, mine in norm
    ]


def _head(official: str, ours: str) -> list[Row]:
    """A transposed 1x1 convolution there, a plain one here."""
    swap = _swap
    return [Row(f"{official}.weight", f"{ours}.weight", swap, swap), Row(f"{official}.bias", f"{ours}.bias")]


def _swap(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).contiguous()


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


def _sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
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


def _shapes(nets: nn.ModuleDict, player: tuple[str, ...]) -> dict[str, torch.Size]:
    """Our parameters in the order of one of our optimizers."""
    parts = {
        PLAYERS[0]: ("discriminators", "random_discriminators"),
        PLAYERS[1]: ("content_encoder", "attribute_encoders", "generator"),
        PLAYERS[2]: ("content_discriminator",),
    }[player]
    return {f"{part}.{name}": p.shape for part in parts for name, p in nets[part].named_parameters()}


def _adam(release: Mapping[str, Any], sizes: Sizes, nets: nn.ModuleDict, k: int, where: str) -> dict[str, Any]:
    """State of one of our optimizers, joined from its networks' or afresh."""
    shapes = _shapes(nets, PLAYERS[k])
    if "gen_opt" not in release:
        parameters = [nn.Parameter(torch.empty(0)) for _ in shapes]
        lr = LR * CONTENT_LR if k == 2 else LR
        fresh = torch.optim.Adam(parameters, lr, betas=(0.5, 0.999), weight_decay=1e-4, fused=True).state_dict()
        fresh["param_groups"][0]["initial_lr"] = lr
        return fresh
    parts = [
        adam_to_ours(release[f"{net}_opt"], table(net, sizes), shapes, f"{where} ('{net}_opt')") for net in PLAYERS[k]
    ]
    state = {n: moments for part in parts for n, moments in part["state"].items()}
    return {"state": dict(sorted(state.items())), "param_groups": parts[0]["param_groups"]}


def _fresh_discriminators(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Initial weights as our DRIT draws them, the same at every import."""
    names = ("discriminators", "random_discriminators", "content_discriminator")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = nn.ModuleDict({name: nets[name].to_empty(device="cpu") for name in names})
        for layer in fresh.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        normal_convolutions_(fresh)
    return fresh.state_dict()


def _schedule(group: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """State of our learning-rate schedule, a function of the iteration."""
    base = group.get("initial_lr", group["lr"])
    counts = {"last_epoch": iterations, "_step_count": iterations + 1}
    return {"base_lrs": [base], "_last_lr": [group["lr"]], "lr_lambdas": [None], **counts}


def _loops(iterations: int) -> dict[str, Any]:
    """State of Lightning's loops: nothing but the count of iterations, so that ``fit --ckpt_path`` goes on from it."""
    count = {"ready": iterations, "completed": iterations}
    fit = {
        "epoch_loop.state_dict": {"_batches_that_stepped": iterations},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": count, "current": dict(count)},
    }
    return {"fit_loop": fit, "validate_loop": {}, "test_loop": {}, "predict_loop": {}}
