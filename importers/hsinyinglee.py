"""The container that HsinYingLee's DRIT and MDMM share, and what a Lightning checkpoint of ours has instead.

The official container is one file: a state dict for each network, of which enc_c, enc_a and gen, the last three, may
be alone; the same names with _opt (Adam), which may be absent; the epoch and total_it, the number of full updates.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import (
    Row,
    adam_to_official,
    adam_to_ours,
    fresh_adam,
    loops,
    read,
    read_ours,
    rows,
    schedule,
    to_official,
    to_ours,
)
from importers.nvlabs import weights
from networks.init import normal_convolutions_

MAKERS = ("enc_c", "enc_a", "gen")  # what translations are made with
CONV = ("weight", "bias")
D_ITER = 3  # of both releases, which count full updates; we count batches
LR, CONTENT_LR = 1e-4, 4e-5


class Player(NamedTuple):
    """Networks whose parameters one of our optimizers holds, in its order: official names, and attributes of ours."""

    official: tuple[str, ...]
    ours: tuple[str, ...]


class Layout(NamedTuple):
    """A paper's networks and their names in both code bases.

    Args:
        paper: its name, for messages.
        class_path: of our module.
        sizes: constructor arguments that tensors tell.
        nets: our networks without storage, by attribute, for their names, order and shapes.
        tables: rows of each official network, in official order.
        players: discriminators, makers and content discriminator, as our optimizers are.
    """

    paper: str
    class_path: str
    sizes: Mapping[str, Any]
    nets: nn.ModuleDict
    tables: Mapping[str, list[Row]]
    players: tuple[Player, Player, Player]

    def parameters(self, player: Player) -> dict[str, torch.Size]:
        """Names and shapes of a player's parameters in the order of our optimizer."""
        return {f"{part}.{name}": p.shape for part in player.ours for name, p in self.nets[part].named_parameters()}


def read_container(src: Path, nets: Sequence[str]) -> dict[str, Any]:
    """Read an official file: all networks, with or without their optimizers, or those that make translations.

    Args:
        src: the file.
        nets: names of all networks, in official order.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not that container.
    """
    release = read(src)
    found = [name for name in nets if isinstance(release, dict) and name in release]
    if found not in (list(nets), list(MAKERS)):
        raise ValueError(f"{src} is not the official container: it needs {', '.join(nets)}, or the last three alone.")
    for name in found:
        if not isinstance(release[name], dict) or not all(isinstance(t, Tensor) for t in release[name].values()):
            raise ValueError(f"{src} ('{name}') is not a state dict.")
    known = {*nets, *(f"{name}_opt" for name in nets), "ep", "total_it"}
    if unknown := sorted(set(release) - known):
        raise ValueError(f"{src} has what the official container does not have: {', '.join(unknown)}.")
    optimizers = [name for name in nets if f"{name}_opt" in release]
    if optimizers and (optimizers != list(nets) or found != list(nets)):
        raise ValueError(f"{src} has some optimizers only, or of networks that it lacks: {', '.join(optimizers)}.")
    return release


def afresh(release: Mapping[str, Any]) -> list[str]:
    """One sentence for each part that a file does not have."""
    sentences = []
    if "disContent" not in release:
        sentences.append("The file has no discriminators: they start afresh.")
    if "gen_opt" not in release:
        sentences.append("The file has no optimizers: the moments of Adam start afresh.")
    return sentences


def write_ours(ours: Mapping[str, Any], dst: Path, remarks: Sequence[str]) -> None:
    """Write a Lightning checkpoint of ours and tell of it, after what there is to remark."""
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(ours, dst)
    told = ", ".join(f"{k} {v}" for k, v in ours["hyper_parameters"].items() if not k.startswith("_"))
    print(*remarks, f"Wrote {dst}: iteration {ours['global_step']}, {told}.", sep="\n")


def save(src: Path, dst: Path, official: Callable[[Mapping[str, Any], str], dict[str, Any]]) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of that paper.
    """
    ours = read_ours(src)
    if dst.is_dir():
        raise ValueError(f"DST is {dst}, a folder, but the official container is a file.")
    release = official(ours, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    # The official code needs PyTorch 0.4, which reads only the older of the two file formats.
    torch.save(release, dst, _use_new_zipfile_serialization=False)
    if "gen_opt" not in release:
        print(f"{src} has no optimizer states, so {dst} has none.")
    print(f"Wrote {dst}: total_it {release['total_it']}.")


def checkpoint(
    release: Mapping[str, Any], layout: Layout, where: str, implied: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """A Lightning checkpoint of ours with the weights, moments and iteration of an official file.

    Args:
        release: what the file holds.
        layout: of its sizes.
        where: the file, for messages.
        implied: constructor arguments that every file of the paper has, without saying so.
    """
    shapes = {name: tensor.shape for name, tensor in layout.nets.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for net, table in layout.tables.items():
        if net in release:
            tensors |= to_ours(release[net], table, shapes, f"{where} ('{net}')")
    if "disContent" not in release:
        tensors |= _fresh_discriminators(layout)
    iterations = int(release.get("total_it", 0)) * D_ITER
    states = [_adam(release, layout, player, where) for player in layout.players]
    groups = [state["param_groups"][0] for state in states]
    lr, content_lr = (groups[k].get("initial_lr", groups[k]["lr"]) for k in (1, 2))
    return {
        "epoch": int(release.get("ep", 0)),
        "global_step": iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(iterations), "skipped": torch.tensor(0)}
        | {name: tensors[name] for name in shapes},
        "hyper_parameters": {
            "_class_path": layout.class_path,
            **layout.sizes,
            "lr": lr,
            "content_lr": content_lr / lr,
            "betas": list(groups[1]["betas"]),
            "weight_decay": groups[1]["weight_decay"],
            **(implied or {}),
            "d_iter": D_ITER,
        },
        "optimizer_states": states,
        "lr_schedulers": [schedule(group, iterations) for group in groups],
        "loops": loops(iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], layout: Layout, where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of ours.
        layout: of its sizes.
        where: its file, for messages.
    """
    tensors, tables = weights(ours), layout.tables
    known = {row.ours for table in tables.values() for row in table}
    if left_over := [name for name in tensors if name not in known]:
        names = ", ".join(left_over[:20])
        raise ValueError(f"{where} has tensors that the official {layout.paper} does not have: {names}.")
    release: dict[str, Any] = {net: OrderedDict(to_official(tensors, table)) for net, table in tables.items()}
    if ours.get("optimizer_states"):
        adams: dict[str, Any] = {}
        for player, adam in zip(layout.players, ours["optimizer_states"], strict=True):
            numbers = {name: n for n, name in enumerate(layout.parameters(player))}
            adams |= {f"{net}_opt": adam_to_official(adam, tables[net], numbers) for net in player.official}
        release |= {f"{net}_opt": adams[f"{net}_opt"] for net in tables}
    d_iter = (ours.get("hyper_parameters") or {}).get("d_iter", D_ITER)
    total = int(ours["state_dict"].get("iterations", 0)) // d_iter
    return release | {"ep": int(ours.get("epoch", 0)), "total_it": total}


def content_trunk_table(official: str, ours: str, downsamplings: int, blocks: int) -> list[Row]:
    """Layers of ``enc_c`` that end in residual blocks."""
    table = rows(f"{official}.0.model.1", f"{ours}.stem", CONV)
    for j in range(downsamplings):
        table += rows(f"{official}.{j + 1}.model.1", f"{ours}.downs.{j}", CONV)
    for j in range(blocks):
        table += residual(f"{official}.{downsamplings + 1 + j}.model", f"{ours}.blocks.{j}")
    return table


def gaussian_attribute_table(ending: str, ours: str) -> list[Row]:
    """``enc_a`` with concat, of layers whose official names have this ending."""
    table = rows(f"fc{ending}.0", f"{ours}.mu", CONV) + rows(f"fcVar{ending}.0", f"{ours}.logvar", CONV)
    table += rows(f"conv{ending}.1", f"{ours}.stem", CONV)
    for j in range(3):
        for theirs, mine in (("conv.2", "conv1"), ("conv.4.1", "conv2"), ("shortcut.1", "shortcut")):
            table += rows(f"conv{ending}.{j + 2}.{theirs}", f"{ours}.blocks.{j}.{mine}", CONV)
    return table


def attribute_table(ending: str, ours: str) -> list[Row]:
    """``enc_a`` without concat, of layers whose official names have this ending."""
    table = rows(f"model{ending}.1", f"{ours}.stem", CONV)
    for j in range(4):
        table += rows(f"model{ending}.{3 * j + 4}", f"{ours}.downs.{j}", CONV)
    return table + rows(f"model{ending}.16", f"{ours}.head", CONV)


def content_discriminator_table(layers: int) -> list[Row]:
    """``disContent``."""
    ours, table = "content_discriminator", []
    for j in range(layers):
        table += rows(f"model.{j}.model.1", f"{ours}.layers.{j}", CONV)
    table += rows(f"model.{layers}.model.1", f"{ours}.last", CONV)
    return table + rows(f"model.{layers + 1}", f"{ours}.score", CONV)


def mixing_block_table(official: str, first: str, ours: str) -> list[Row]:
    """A block of ``gen`` without concat, whose first convolution stands at ``first`` here."""
    table = rows(f"{official}.conv1.0.1", first, CONV) + rows(f"{official}.conv2.0.1", f"{ours}.conv", CONV)
    for i in (1, 2):
        table += rows(f"{official}.blk{i}.0", f"{ours}.mix{i}.wide", CONV)
        table += rows(f"{official}.blk{i}.2", f"{ours}.mix{i}.narrow", CONV)
    return table


def residual(official: str, ours: str) -> list[Row]:
    """Both convolutions of an instance-normalised block."""
    return rows(f"{official}.1", f"{ours}.conv1", CONV) + rows(f"{official}.5", f"{ours}.conv2", CONV)


def upsampling(official: str, ours: str) -> list[Row]:
    """A layer norm's parameters are (C, 1, 1) there."""
    norm = (("weight", "gamma"), ("bias", "beta"))
    return rows(f"{official}.0", f"{ours}.conv", CONV) + [
        Row(f"{official}.1.{theirs}", f"{ours}.{mine}", torch.flatten, lambda t: t.view(-1, 1, 1))
        for theirs, mine in norm
    ]


def head(official: str, ours: str) -> list[Row]:
    """A transposed 1x1 convolution there, a plain one here."""
    swap = _swap
    return [Row(f"{official}.weight", f"{ours}.weight", swap, swap), Row(f"{official}.bias", f"{ours}.bias")]


def _swap(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).contiguous()


def _adam(release: Mapping[str, Any], layout: Layout, player: Player, where: str) -> dict[str, Any]:
    """State of one of our optimizers, joined from its networks' or afresh."""
    shapes = layout.parameters(player)
    if "gen_opt" not in release:
        lr = CONTENT_LR if "disContent" in player.official else LR
        return fresh_adam(len(shapes), lr, 1e-4, scheduled=True)
    parts = [
        adam_to_ours(release[f"{net}_opt"], layout.tables[net], shapes, f"{where} ('{net}_opt')")
        for net in player.official
    ]
    state = {n: moments for part in parts for n, moments in part["state"].items()}
    return {"state": dict(sorted(state.items())), "param_groups": parts[0]["param_groups"]}


def _fresh_discriminators(layout: Layout) -> dict[str, Tensor]:
    """Initial weights as our modules draw them, the same at every import."""
    discriminators, _, content = layout.players
    names = (*discriminators.ours, *content.ours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = nn.ModuleDict({name: layout.nets[name].to_empty(device="cpu") for name in names})
        for layer in fresh.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        normal_convolutions_(fresh)
    return fresh.state_dict()
