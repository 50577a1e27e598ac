"""Checkpoints of VQ-VAE-2's PyTorch release (rosinality/vq-vae-2-pytorch), stage two: PixelSNAIL as prior of codes.

    python -m importers pixel_snail load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers pixel_snail save CKPT DST        a checkpoint of ours to an official file

The official container is one file an epoch and level, pixelsnail_top_420.pt: {'model': state dict, 'args': the
argparse.Namespace of the training}; where training on several devices has put module. before all names, it is taken
off. Nothing but such a Namespace of plain values is built from it beside tensors. Names are ours but for the ``conv``
under which the release keeps each convolution (``networks.pixel_snail``).

Sizes are read off the tensors and held against args where these say them too; dropout and rate are those of args. What
no file says: the optimizer and the iteration, which start afresh.

The release sets the masked taps of causal filters to zero before each use, yet an optimizer step and the first weights
leave other numbers there, and so may a file. They are kept: ours uses them nowhere, neither in a convolution nor in a
norm, their gradients are zero, and so what is loaded and saved again is the same file.
"""

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from importers.mapping import Row, fresh_adam, loops, must_end_in_ckpt, read, read_ours, to_official, to_ours
from importers.nvlabs import first, weights
from networks.pixel_snail import PixelSNAILNetwork

BETAS = (0.9, 0.999)
# Of the release's command line, in its order. Its codes lie at path, which no file of ours says: give it before the
# release trains on, since it takes what the file says for all that is on its command line.
ARGS: dict[str, Any] = {
    "batch": 32, "epoch": 420, "hier": "top", "lr": 3e-4, "channel": 256, "n_res_block": 4, "n_res_channel": 256,
    "n_out_res_block": 0, "n_cond_res_block": 3, "dropout": 0.1, "amp": "O0", "sched": None, "ckpt": None, "path": "",
}  # fmt: skip
TWICE = re.compile(r"horizontal|vertical|blocks\.\d+\.resblocks\.\d+\.conv[12]")  # a conv under another conv


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    shape: tuple[int, int]
    classes: int
    width: int
    kernel: int
    blocks: int
    res_blocks: int
    res_width: int
    attention: bool
    out_blocks: int
    cond_blocks: int
    cond_width: int
    cond_kernel: int


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our PixelSNAIL and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    result = checkpoint(*read_release(src), str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    print("The file has no optimizer: the moments of Adam start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of PixelSNAIL.
    """
    ours = read_ours(src)
    if dst.is_dir():
        raise ValueError(f"DST is {dst}, a folder, but the official container is a file.")
    model, args = official(ours, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    # The official code is of 2019, whose PyTorch reads only the older of the two file formats.
    torch.save({"model": model, "args": Namespace(**args)}, dst, _use_new_zipfile_serialization=False)
    told = ", ".join(f"{k} {v!r}" for k, v in args.items())
    print(*unknown_to_scripts(sizes_of(model, str(src))), f"Wrote {dst}: {told}.", sep="\n")


def read_release(src: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and arguments of an official file; no name begins with the module. of a wrapped model any more."""
    with torch.serialization.safe_globals([Namespace]):
        release = read(src)
    parts: dict[str, Any] = release if isinstance(release, dict) else {}
    model: Any = parts.get("model")
    args: Any = parts.get("args")
    both = isinstance(model, dict) and isinstance(args, Namespace)
    if not both or not all(isinstance(tensor, Tensor) for tensor in model.values()):
        raise ValueError(
            f"{src} is not the official container, as pixelsnail_top_420.pt is: it needs 'model', a state dict, and "
            "'args', an argparse.Namespace."
        )
    wrapped = all(name.startswith("module.") for name in model)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in model.items()}, vars(args)


def checkpoint(model: Mapping[str, Tensor], args: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our PixelSNAIL with the weights of an official file.

    Args:
        model: its tensors.
        args: its arguments.
        where: the file, for messages.
    """
    sizes = sizes_of(model, where)
    check_args(sizes, args, where)
    told = {"dropout": args.get("dropout", ARGS["dropout"]), "lr": args.get("lr", ARGS["lr"])}
    net = network(sizes, where, told["dropout"])
    shapes = {f"net.{name}": tensor.shape for name, tensor in net.state_dict().items()}
    tensors = to_ours(model, table(net), shapes, where)
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(0), "skipped": torch.tensor(0)}
        | {name: tensors[name] for name in shapes},
        "hyper_parameters": {"_class_path": "lightning_modules.pixel_snail.PixelSNAIL", **sizes._asdict(), **told},
        "optimizer_states": [fresh_adam(len(list(net.parameters())), told["lr"], betas=BETAS)],
        "lr_schedulers": [],
        "loops": loops(0),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our PixelSNAIL.
        where: its file, for messages.

    Raises:
        ValueError: it is none.
    """
    tensors = weights(ours)
    for name in ("net.background", "net.horizontal.weight_v"):
        if name not in tensors or tensors[name].ndim != 4:
            raise ValueError(f"{where} is not a checkpoint of our PixelSNAIL: it lacks {name}.")
    sizes = sizes_of({of_release(name.removeprefix("net.")): tensor for name, tensor in tensors.items()}, where)
    rows_of_all = table(network(sizes, where))
    known = {row.ours for row in rows_of_all}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(
            f"{where} has tensors that the official PixelSNAIL does not have: {', '.join(left_over[:20])}."
        )
    told = {key: value for key, value in ours.get("hyper_parameters", {}).items() if key in ("dropout", "lr")}
    args = ARGS | args_of(sizes) | {"n_out_res_block": sizes.out_blocks, "n_cond_res_block": sizes.cond_blocks} | told
    return OrderedDict(to_official(tensors, rows_of_all)), args


def table(net: PixelSNAILNetwork) -> list[Row]:
    """Official names and those of our module, in official order."""
    return [Row(of_release(name), f"net.{name}") for name in net.state_dict()]


def of_release(name: str) -> str:
    """The official name of a tensor of our network."""
    layer, _, parameter = name.rpartition(".")
    if not layer or ".causal_attention." in layer:  # coordinates, and linear layers
        return name
    return f"{layer}{'.conv.conv' if TWICE.fullmatch(layer) else '.conv'}.{parameter}"


def sizes_of(model: Mapping[str, Tensor], where: str) -> Sizes:
    """Read sizes off official tensors; ``where`` is their file, for messages (ValueError)."""
    what = "the official PixelSNAIL"
    background = model.get("background")
    if background is None or background.ndim != 4:
        raise ValueError(f"{where} is not {what}: it lacks the map of coordinates, background.")
    codes = first(model, "horizontal.conv.conv.weight_v", where, what)
    inside = [
        model[name] for name in ("blocks.0.resblocks.0.conv1.conv.conv.bias", "out.0.conv1.conv.bias") if name in model
    ]
    above = model.get("cond_resnet.blocks.0.conv.weight_v")
    return Sizes(
        shape=(background.shape[2], background.shape[3]),
        classes=codes.shape[1],
        width=codes.shape[0],
        kernel=codes.shape[3],
        blocks=_many(model, r"blocks\.(\d+)\."),
        res_blocks=_many(model, r"blocks\.0\.resblocks\.(\d+)\."),
        res_width=len(inside[0]) if inside else ARGS["n_res_channel"],  # any will do for no blocks, as below
        attention=any(".causal_attention." in name for name in model),
        out_blocks=_many(model, r"out\.(\d+)\.conv1\."),
        cond_blocks=_many(model, r"cond_resnet\.blocks\.(\d+)\.conv1\."),
        cond_width=256 if above is None else above.shape[0],
        cond_kernel=3 if above is None else above.shape[-1],
    )


def args_of(sizes: Sizes) -> dict[str, Any]:
    """What arguments of the release say of sizes too."""
    level = "bottom" if sizes.cond_blocks > 0 else "top"
    return {
        "hier": level, "channel": sizes.width, "n_res_block": sizes.res_blocks, "n_res_channel": sizes.res_width
    }  # fmt: skip


def check_args(sizes: Sizes, args: Mapping[str, Any], where: str) -> None:
    """Hold arguments against sizes.

    Those of a top also say n_cond_res_block and those of a bottom n_out_res_block, which are not held against anything:
    they are what the command line has by default, whether a network of this level has such blocks or not.

    Raises:
        ValueError: they differ, or dropout or rate is no number.
    """
    said = args_of(sizes)
    if args.get("hier", said["hier"]) == "bottom":  # which may have been trained without the level above
        said |= {"hier": "bottom", "n_cond_res_block": sizes.cond_blocks}
    else:
        said["n_out_res_block"] = sizes.out_blocks
    if sizes.res_blocks + sizes.out_blocks == 0:
        del said["n_res_channel"]
    if wrong := [f"{key} {args[key]!r} for {found!r}" for key, found in said.items() if args.get(key, found) != found]:
        raise ValueError(f"{where} has args of another network than its tensors: {', '.join(wrong)}.")
    for key in ("dropout", "lr"):
        if not isinstance(args.get(key, 0.0), int | float):
            raise ValueError(f"{where} has args whose {key} is {args[key]!r}, not a number.")


def unknown_to_scripts(sizes: Sizes) -> list[str]:
    """That the release's class holds a network, but its scripts build another, where they do."""
    bottom = sizes.cond_blocks > 0
    theirs = {
        "shape": (64, 64) if bottom else (32, 32), "classes": 512, "kernel": 5, "blocks": 4, "attention": not bottom,
    }  # fmt: skip
    if bottom:
        theirs |= {"cond_width": sizes.res_width, "cond_kernel": 3}
    other = [f"{key} {value}" for key, value in sizes._asdict().items() if theirs.get(key, value) != value]
    return [f"The release's scripts do not build {', '.join(other)}: give these to its class."] if other else []


def network(sizes: Sizes, where: str, dropout: float = 0.0) -> PixelSNAILNetwork:
    """Our network without storage, for its names, order and shapes (ValueError where ours cannot be so)."""
    try:
        with torch.device("meta"):
            return PixelSNAILNetwork(**sizes._asdict(), dropout=dropout)
    except ValueError as error:
        raise ValueError(f"{where} is no PixelSNAIL of ours: {error}") from error


def _many(model: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers names have where ``pattern`` has its group."""
    return len({found[1] for name in model if (found := re.match(pattern, name))})
