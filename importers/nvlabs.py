"""The container that NVlabs' UNIT and MUNIT of 2018 share, and what a Lightning checkpoint of ours has instead.

The official container is gen_%08d.pt and dis_%08d.pt, each {'a': state dict, 'b': state dict}, and optimizer.pt,
{'gen': Adam, 'dis': Adam}; the number counts finished iterations. ``src`` of ``load`` is a folder of these (the highest
gen number wins; dis and optimizer.pt may be absent) or one gen-style file, as test models are released.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
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
    must_end_in_ckpt,
    read,
    read_ours,
    refuse_average,
    rows,
    schedule,
    to_official,
    to_ours,
)
from networks.init import normal_
from networks.patch_discriminator import MultiScaleDiscriminator

DOMAINS = ("a", "b")
CONV, NORM = ("weight", "bias"), ("gamma", "beta")
LR = 1e-4  # of every released configuration, as are the betas and the weight decay below


class Release(NamedTuple):
    """What the official files of one iteration hold; ``where`` says which file a part came from."""

    gen: Mapping[str, Mapping[str, Tensor]]
    dis: Mapping[str, Mapping[str, Tensor]] | None
    optimizer: dict[str, Any] | None
    iterations: int
    where: dict[str, str]


class DisSizes(NamedTuple):
    """Constructor arguments of both papers that the discriminators' tensors tell."""

    dis_width: int
    dis_layers: int
    dis_scales: int


class Layout(NamedTuple):
    """A paper's networks and their names in both code bases.

    Args:
        paper: its name, for messages.
        class_path: of our module.
        sizes: constructor arguments that tensors tell.
        nets: our networks without storage, by attribute, for their names, order and shapes.
        tables: rows of the networks of ``gen`` and of ``dis``, in both domains.
    """

    paper: str
    class_path: str
    sizes: Mapping[str, int]
    nets: nn.ModuleDict
    tables: Mapping[str, tuple[list[Row], list[Row]]]

    @property
    def players(self) -> dict[str, list[str]]:
        """Attributes that each of our optimizers owns, in the order of our optimizers."""
        return {"dis": ["discriminators"], "gen": [name for name in self.nets if name != "discriminators"]}

    def parameters(self, player: str) -> dict[str, torch.Size]:
        """Names and shapes of a player's parameters in the order of our optimizer."""
        parts = self.players[player]
        return {f"{part}.{name}": p.shape for part in parts for name, p in self.nets[part].named_parameters()}

    def joint_table(self, player: str) -> list[Row]:
        """Rows of both domains in the order of the official optimizer: all of a, then all of b."""
        return [row for table in self.tables[player] for row in table]


def load(src: Path, dst: Path, checkpoint: Callable[[Release], dict[str, Any]]) -> None:
    """Write the official files at ``src`` as a checkpoint that ``main.py`` loads.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    release = read_release(src)
    result = checkpoint(release)
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    if release.dis is None:
        print(f"No dis_{release.iterations:08d}.pt beside the generators: the discriminators start afresh.")
    if release.optimizer is None:
        print("No optimizer.pt: the moments of Adam start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: iteration {release.iterations}, {told}.")


def save(src: Path, dst: Path, official: Callable[[Mapping[str, Any], str], Release]) -> None:
    """Write the checkpoint of ours at ``src`` as official files in the folder ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of that paper.
    """
    ours = read_ours(src)
    if dst.is_file():
        raise ValueError(f"DST is {dst}, a file, but the official container is a folder.")
    release = official(ours, str(src))
    dst.mkdir(parents=True, exist_ok=True)
    files = {f"gen_{release.iterations:08d}.pt": release.gen, f"dis_{release.iterations:08d}.pt": release.dis}
    if release.optimizer is None:
        print(f"{src} has no optimizer states, so there is no optimizer.pt.")
    else:
        files["optimizer.pt"] = release.optimizer
    for name, content in files.items():
        # The official code needs PyTorch 0.4, which reads only the older of the two file formats.
        torch.save(content, dst / name, _use_new_zipfile_serialization=False)
    print(f"Wrote {', '.join(files)} in {dst}.")


def read_release(src: Path) -> Release:
    """Read a folder of official files, or one gen-style file."""
    if not src.exists():
        raise FileNotFoundError(f"There is no {src}.")
    if src.is_file():
        number = re.fullmatch(r"gen_(\d+)", src.stem)
        return Release(_pair(src), None, None, int(number[1]) if number else 0, {"gen": str(src)})
    numbers = {int(m[1]): p for p in src.glob("gen_*.pt") if (m := re.fullmatch(r"gen_(\d+)", p.stem))}
    if not numbers:
        raise FileNotFoundError(f"{src} holds no gen_*.pt: give the official checkpoint folder, or one file of it.")
    newest = max(numbers)
    gen, dis, optimizer = numbers[newest], src / f"dis_{numbers[newest].stem[4:]}.pt", src / "optimizer.pt"
    has_dis, adam = dis.is_file(), read(optimizer) if optimizer.is_file() else None
    if adam is not None and (not isinstance(adam, dict) or not {"gen", "dis"} <= set(adam)):
        raise ValueError(
            f"{optimizer} is not the official container: it needs 'gen' and 'dis', each the state of an Adam."
        )
    where = {"gen": str(gen), "dis": str(dis), "optimizer": str(optimizer)}
    return Release(_pair(gen), _pair(dis) if has_dis else None, adam, newest, where)


def checkpoint(release: Release, layout: Layout) -> dict[str, Any]:
    """A Lightning checkpoint of ours with the weights, moments and iteration of a release."""
    shapes = {name: tensor.shape for name, tensor in layout.nets.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for player, pair in (("gen", release.gen), ("dis", release.dis)):
        for domain, table in zip(DOMAINS, layout.tables[player], strict=True):
            if pair is not None:
                tensors |= to_ours(pair[domain], table, shapes, f"{release.where[player]} ('{domain}')")
    if release.dis is None:
        tensors |= _fresh_discriminators(layout.nets)
    counters = {"iterations": torch.tensor(release.iterations), "skipped": torch.tensor(0)}
    states = [_adam(release, layout, player) for player in layout.players]
    groups = [state["param_groups"][0] for state in states]
    return {
        "epoch": 0,
        "global_step": release.iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": counters | {name: tensors[name] for name in shapes},
        "hyper_parameters": {
            "_class_path": layout.class_path,
            **layout.sizes,
            "lr": groups[1].get("initial_lr", groups[1]["lr"]),
            "betas": list(groups[1]["betas"]),
            "weight_decay": groups[1]["weight_decay"],
        },
        "optimizer_states": states,
        "lr_schedulers": [schedule(group, release.iterations) for group in groups],
        "loops": loops(release.iterations),
        "callbacks": {},
    }


def weights(ours: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a Lightning checkpoint of ours without the counters of the base class."""
    return {k: v for k, v in ours["state_dict"].items() if k not in ("iterations", "skipped")}


def official(ours: Mapping[str, Any], layout: Layout, where: str, shared: Mapping[str, str] | None = None) -> Release:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of ours.
        layout: of its sizes.
        where: its file, for messages.
        shared: beginnings of names of parameters that are those of another name, and the beginning of that.
    """
    tensors = weights(ours)
    refuse_average(tensors, layout.paper, where)
    nets = {
        player: {d: OrderedDict(to_official(tensors, table)) for d, table in zip(DOMAINS, pair, strict=True)}
        for player, pair in layout.tables.items()
    }
    known = {row.ours for player in layout.tables for row in layout.joint_table(player)}
    if left_over := [name for name in tensors if name not in known]:
        names = ", ".join(left_over[:20])
        raise ValueError(f"{where} has tensors that the official {layout.paper} does not have: {names}.")
    adam = None
    if ours.get("optimizer_states"):
        states = dict(zip(layout.players, ours["optimizer_states"], strict=True))
        adam = {}
        for player in ("gen", "dis"):
            numbers = _numbers(layout.parameters(player), shared or {})
            adam[player] = adam_to_official(states[player], layout.joint_table(player), numbers)
    return Release(nets["gen"], nets["dis"], adam, int(ours["state_dict"].get("iterations", 0)), {})


def discriminator_table(sizes: DisSizes, domain: int) -> list[Row]:
    """Official MsImageDis of one domain and our multi-scale discriminator."""
    table = []
    for s in range(sizes.dis_scales):
        ours = f"discriminators.{domain}.scales.{s}"
        for k in range(sizes.dis_layers):
            table += rows(f"cnns.{s}.{k}.conv", f"{ours}.layers.{k}", CONV)
        table += rows(f"cnns.{s}.{sizes.dis_layers}", f"{ours}.score", CONV)
    return table


def discriminators(sizes: DisSizes) -> nn.ModuleList:
    """Ours of both domains."""
    return nn.ModuleList(MultiScaleDiscriminator(3, *sizes) for _ in DOMAINS)


def discriminator_sizes(release: Release, width: int, paper: str) -> DisSizes:
    """Read off the tensors of domain a; the official ones, with ``width``, where a release has no discriminators."""
    if release.dis is None:
        return DisSizes(width, dis_layers=4, dis_scales=3)
    dis = release.dis["a"]
    layer = first(dis, "cnns.0.0.conv.weight", f"{release.where['dis']} ('a')", f"a discriminator of {paper}")
    return DisSizes(layer.shape[0], count(dis, "cnns.0.{}.conv.weight"), count(dis, "cnns.{}.0.conv.weight"))


def discriminator_sizes_of_ours(tensors: Mapping[str, Tensor], where: str, paper: str) -> DisSizes:
    """Read off the tensors of a checkpoint of ours."""
    scale = "discriminators.0.scales.{}"
    layer = first(tensors, scale.format(0) + ".layers.0.weight", where, f"a checkpoint of our {paper}")
    layers = count(tensors, scale.format(0) + ".layers.{}.weight")
    return DisSizes(layer.shape[0], layers, count(tensors, scale + ".score.weight"))


def first(tensors: Mapping[str, Tensor], name: str, where: str, what: str) -> Tensor:
    """The convolution that whatever is ``what`` has (ValueError)."""
    if name not in tensors or tensors[name].ndim != 4:
        raise ValueError(f"{where} is not {what}: it lacks the convolution {name}.")
    return tensors[name]


def count(tensors: Mapping[str, Tensor], template: str) -> int:
    """How many of ``template.format(0)``, ``template.format(1)``... there are."""
    n = 0
    while template.format(n) in tensors:
        n += 1
    return n


def _pair(path: Path) -> dict[str, dict[str, Tensor]]:
    pair = read(path)
    if not isinstance(pair, dict) or set(pair) != set(DOMAINS) or not all(map(_is_state_dict, pair.values())):
        raise ValueError(f"{path} is not the official container: it needs 'a' and 'b', each a state dict.")
    return pair


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _numbers(names: Iterable[str], shared: Mapping[str, str]) -> dict[str, int]:
    """Place of each parameter in our optimizer, which sees a block that both domains share once."""
    numbers: dict[str, int] = {}
    for name in names:
        original = next((name.replace(b, a) for b, a in shared.items() if name.startswith(b)), name)
        numbers[name] = numbers[original] if original != name else len(set(numbers.values()))
    return numbers


def _adam(release: Release, layout: Layout, player: str) -> dict[str, Any]:
    """State of one of our optimizers, from optimizer.pt or afresh."""
    shapes = layout.parameters(player)
    if release.optimizer is not None and (player == "gen" or release.dis is not None):
        where = f"{release.where['optimizer']} ('{player}')"
        return adam_to_ours(release.optimizer[player], layout.joint_table(player), shapes, where)
    return fresh_adam(len(shapes), LR, 1e-4, scheduled=True)


def _fresh_discriminators(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Initial weights as our modules draw them, the same at every import."""
    dis = nets["discriminators"].to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normal_(dis, 0.02)
    return {f"discriminators.{name}": tensor for name, tensor in dis.state_dict().items()}
