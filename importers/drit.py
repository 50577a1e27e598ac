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

from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from importers.drit_names import MAKERS, NETS, Sizes, networks, sizes_of, sizes_of_ours, table
from importers.mapping import (
    adam_to_official,
    adam_to_ours,
    fresh_adam,
    loops,
    read,
    refuse_average,
    schedule,
    to_official,
    to_ours,
)
from networks.init import normal_convolutions_

# Our optimizers, in order: official networks whose parameters each holds, in our order.
PLAYERS = (("disA", "disB", "disA2", "disB2"), MAKERS, ("disContent",))
D_ITER = 3  # of the release, which counts full updates; we count batches
LR, CONTENT_LR = 1e-4, 0.4


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
        "epoch": int(release.get("ep", 0)),
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
        "lr_schedulers": [schedule(group, iterations) for group in groups],
        "loops": loops(iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our DRIT.
        where: its file, for messages.
    """
    state = ours["state_dict"]
    tensors = {k: v for k, v in state.items() if k not in ("iterations", "skipped")}
    refuse_average(tensors, "DRIT", where)
    sizes = sizes_of_ours(tensors, where)
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
    counts = {"ep": int(ours.get("epoch", 0)), "total_it": int(state.get("iterations", 0)) // d_iter}
    return {name: release[name] for name in order} | counts


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
        return fresh_adam(len(shapes), LR * CONTENT_LR if k == 2 else LR, 1e-4, scheduled=True)
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
