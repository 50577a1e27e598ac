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

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import Row, adam_to_official, adam_to_ours, read, rows, to_official, to_ours
from networks.init import normal_
from networks.patch_discriminator import MultiScaleDiscriminator
from networks.translator import ContentDecoder, ContentEncoder

DOMAINS = ("a", "b")
CONV, NORM = ("weight", "bias"), ("gamma", "beta")
PLAYERS = {"dis": ("discriminators",), "gen": ("encoders", "decoders")}  # in the order of our optimizers
LR = 1e-4  # of every released configuration, as are the betas and the weight decay below


class Release(NamedTuple):
    """What the official files of one iteration hold; ``where`` says which file a part came from."""

    gen: Mapping[str, Mapping[str, Tensor]]
    dis: Mapping[str, Mapping[str, Tensor]] | None
    optimizer: dict[str, Any] | None
    iterations: int
    where: dict[str, str]


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
    if dst.suffix != ".ckpt":
        raise ValueError(f"DST is {dst}, but Lightning checkpoints end in .ckpt.")
    release = read_release(src)
    result = checkpoint(release)
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    if release.dis is None:
        print(f"No dis_{release.iterations:08d}.pt beside the generators: the discriminators start afresh.")
    if release.optimizer is None:
        print("No optimizer.pt: the moments of Adam start afresh.")
    print(f"Wrote {dst}: iteration {release.iterations}, {_tell(result['hyper_parameters'])}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as official files in the folder ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of UNIT.
    """
    ours = read(src)
    if not isinstance(ours, dict) or not isinstance(ours.get("state_dict"), dict):
        raise ValueError(f"{src} is not a Lightning checkpoint: it has no state_dict.")
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


def checkpoint(release: Release) -> dict[str, Any]:
    """A Lightning checkpoint of our UNIT with the weights, moments and iteration of a release."""
    sizes = sizes_of(release)
    nets = networks(sizes)
    shapes = {name: tensor.shape for name, tensor in nets.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for k, domain in enumerate(DOMAINS):
        where = f"{release.where['gen']} ('{domain}')"
        tensors |= to_ours(release.gen[domain], generator_table(sizes, k), shapes, where)
        if release.dis is not None:
            where = f"{release.where['dis']} ('{domain}')"
            tensors |= to_ours(release.dis[domain], discriminator_table(sizes, k), shapes, where)
    if release.dis is None:
        tensors |= _fresh_discriminators(nets)
    counters = {"iterations": torch.tensor(release.iterations), "skipped": torch.tensor(0)}
    states = [_adam(release, sizes, nets, player) for player in PLAYERS]
    groups = [state["param_groups"][0] for state in states]
    base_lr = groups[1].get("initial_lr", groups[1]["lr"])
    return {
        "epoch": 0,
        "global_step": release.iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": counters | {name: tensors[name] for name in shapes},
        "hyper_parameters": {
            "_class_path": "lightning_modules.unit.UNIT",
            **sizes._asdict(),
            "lr": base_lr,
            "betas": list(groups[1]["betas"]),
            "weight_decay": groups[1]["weight_decay"],
        },
        "optimizer_states": states,
        "lr_schedulers": [_schedule(group, release.iterations) for group in groups],
        "loops": _loops(release.iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> Release:
    """The inverse of ``checkpoint``. Blocks that the domains share are written once for each domain.

    Args:
        ours: a Lightning checkpoint of our UNIT.
        where: its file, for messages.
    """
    tensors = {k: v for k, v in ours["state_dict"].items() if k not in ("iterations", "skipped")}
    sizes = _sizes_of_ours(tensors, where)
    tables = {"gen": generator_table, "dis": discriminator_table}
    nets = {p: {d: to_official(tensors, table(sizes, k)) for k, d in enumerate(DOMAINS)} for p, table in tables.items()}
    known = {row.ours for table in tables.values() for k in (0, 1) for row in table(sizes, k)}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(f"{where} has tensors that the official UNIT does not have: {', '.join(left_over[:20])}.")
    adam = None
    if ours.get("optimizer_states"):
        shared = (ours.get("hyper_parameters") or {}).get("shared_blocks", 0)
        adam = {}
        for (player, parts), state in zip(PLAYERS.items(), ours["optimizer_states"], strict=True):
            numbers = _numbers(_shapes(networks(sizes), parts), sizes, shared)
            adam[player] = adam_to_official(state, _joint_table(player, sizes), numbers)
        adam = {"gen": adam["gen"], "dis": adam["dis"]}
    ordered = {p: {d: OrderedDict(state) for d, state in pair.items()} for p, pair in nets.items()}
    iterations = int(ours["state_dict"].get("iterations", 0))
    return Release(ordered["gen"], ordered["dis"], adam, iterations, {})


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


def discriminator_table(sizes: Sizes, domain: int) -> list[Row]:
    """Official MsImageDis of one domain and our multi-scale discriminator."""
    table = []
    for s in range(sizes.dis_scales):
        ours = f"discriminators.{domain}.scales.{s}"
        for k in range(sizes.dis_layers):
            table += rows(f"cnns.{s}.{k}.conv", f"{ours}.layers.{k}", CONV)
        table += rows(f"cnns.{s}.{sizes.dis_layers}", f"{ours}.score", CONV)
    return table


def sizes_of(release: Release) -> Sizes:
    """Read widths and depths off the tensors of domain a."""
    gen, where = release.gen["a"], f"{release.where['gen']} ('a')"
    stem = _first(gen, "enc.model.0.conv.weight", where, "a generator of UNIT")
    if stem.shape[1] != 3:
        raise ValueError(f"{where}: images have {stem.shape[1]} channels, but our UNIT takes 3.")
    downs = _count(gen, "enc.model.{}.conv.weight") - 1
    blocks = _count(gen, f"enc.model.{downs + 1}.model.{{}}.model.0.conv.weight")
    width = stem.shape[0]
    if release.dis is None:
        return Sizes(width, downs, blocks, dis_width=width, dis_layers=4, dis_scales=3)
    dis = release.dis["a"]
    first = _first(dis, "cnns.0.0.conv.weight", f"{release.where['dis']} ('a')", "a discriminator of UNIT")
    layers, scales = _count(dis, "cnns.0.{}.conv.weight"), _count(dis, "cnns.{}.0.conv.weight")
    return Sizes(width, downs, blocks, first.shape[0], layers, scales)


def networks(sizes: Sizes) -> nn.ModuleDict:
    """Our networks without storage, for their names, order and shapes."""
    n, d, b = sizes.width, sizes.downsamplings, sizes.blocks
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "encoders": nn.ModuleList(ContentEncoder(3, n, d, b) for _ in DOMAINS),
                "decoders": nn.ModuleList(ContentDecoder(3, n, d, b) for _ in DOMAINS),
                "discriminators": nn.ModuleList(MultiScaleDiscriminator(3, *sizes[3:]) for _ in DOMAINS),
            }
        )


def _pair(path: Path) -> dict[str, dict[str, Tensor]]:
    pair = read(path)
    if not isinstance(pair, dict) or set(pair) != set(DOMAINS) or not all(map(_is_state_dict, pair.values())):
        raise ValueError(f"{path} is not the official container: it needs 'a' and 'b', each a state dict.")
    return pair


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _first(tensors: Mapping[str, Tensor], name: str, where: str, what: str) -> Tensor:
    if name not in tensors or tensors[name].ndim != 4:
        raise ValueError(f"{where} is not {what}: it lacks the convolution {name}.")
    return tensors[name]


def _count(tensors: Mapping[str, Tensor], template: str) -> int:
    n = 0
    while template.format(n) in tensors:
        n += 1
    return n


def _sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    stem = _first(tensors, "encoders.0.stem.weight", where, "a checkpoint of our UNIT")
    score = _first(tensors, "discriminators.0.scales.0.layers.0.weight", where, "a checkpoint of our UNIT")
    dis = "discriminators.0.scales.{}"
    return Sizes(
        width=stem.shape[0],
        downsamplings=_count(tensors, "encoders.0.downs.{}.weight"),
        blocks=_count(tensors, "encoders.0.blocks.{}.conv1.weight"),
        dis_width=score.shape[0],
        dis_layers=_count(tensors, dis.format(0) + ".layers.{}.weight"),
        dis_scales=_count(tensors, dis + ".score.weight"),
    )


def _joint_table(player: str, sizes: Sizes) -> list[Row]:
    """Rows of both domains in the order of the official optimizer: all of a, then all of b."""
    table = generator_table if player == "gen" else discriminator_table
    return [row for k in range(len(DOMAINS)) for row in table(sizes, k)]


def _shapes(nets: nn.ModuleDict, parts: Iterable[str]) -> dict[str, torch.Size]:
    """Our parameters in the order of our optimizer."""
    return {f"{part}.{name}": p.shape for part in parts for name, p in nets[part].named_parameters()}


def _numbers(names: Iterable[str], sizes: Sizes, shared: int) -> dict[str, int]:
    """Place of each parameter in our optimizer, which sees a block that both domains share once."""
    own = {
        f"encoders.1.blocks.{sizes.blocks - 1 - k}.": f"encoders.0.blocks.{sizes.blocks - 1 - k}."
        for k in range(shared)
    }
    own |= {f"decoders.1.blocks.{k}.": f"decoders.0.blocks.{k}." for k in range(shared)}
    numbers: dict[str, int] = {}
    for name in names:
        original = next((name.replace(b, a) for b, a in own.items() if name.startswith(b)), name)
        numbers[name] = numbers[original] if original != name else len(set(numbers.values()))
    return numbers


def _adam(release: Release, sizes: Sizes, nets: nn.ModuleDict, player: str) -> dict[str, Any]:
    """State of one of our optimizers, from optimizer.pt or afresh."""
    shapes = _shapes(nets, PLAYERS[player])
    if release.optimizer is not None and (player == "gen" or release.dis is not None):
        where = f"{release.where['optimizer']} ('{player}')"
        return adam_to_ours(release.optimizer[player], _joint_table(player, sizes), shapes, where)
    parameters = [nn.Parameter(torch.empty(0)) for _ in shapes]
    fresh = torch.optim.Adam(parameters, LR, betas=(0.5, 0.999), weight_decay=1e-4, fused=True).state_dict()
    fresh["param_groups"][0]["initial_lr"] = LR
    return fresh


def _fresh_discriminators(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Initial weights as our UNIT draws them, the same at every import."""
    dis = nets["discriminators"].to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normal_(dis, 0.02)
    return {f"discriminators.{name}": tensor for name, tensor in dis.state_dict().items()}


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


def _tell(hyper_parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in hyper_parameters.items() if not k.startswith("_"))
