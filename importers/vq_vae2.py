"""Checkpoints of VQ-VAE-2's PyTorch release (rosinality/vq-vae-2-pytorch), stage one.

    python -m importers vq_vae2 load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers vq_vae2 save CKPT DST        a checkpoint of ours to an official file

The official container is one plain state dict an epoch, vqvae_560.pt; where training on several devices has put module.
before all names, it is taken off. There are two levels, the finer of stride 4: ours of other levels or another stride
cannot be written.

Sizes are read off the tensors. What no file says: the weight of the commitment, which keeps our default, as does the
decay of the codebooks, the release's whatever it was told; the optimizer and the iteration, which start afresh.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from importers.mapping import Row, fresh_adam, loops, must_end_in_ckpt, read, read_ours, rows, to_official, to_ours
from importers.nvlabs import count, first, weights
from networks.vq_vae2 import VQVAE2Networks

# The release's networks and ours, in its order; inside each, names are the same.
PARTS = {
    "enc_b": "encoders.1",
    "enc_t": "encoders.0",
    "quantize_conv_t": "projections.0",
    "quantize_t": "codebooks.0",
    "dec_t": "conditioners.0",
    "quantize_conv_b": "projections.1",
    "quantize_b": "codebooks.1",
    "upsample_t": "upsamples.0",
    "dec": "decoder",
}
LEVELS, STRIDE = 2, 4
LR, BETAS = 3e-4, (0.9, 0.999)


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    channels: int
    width: int
    res_blocks: int
    res_width: int
    dim: int
    codes: int


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our VQVAE2 and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    result = checkpoint(read_release(src), str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    print("The file has no optimizer: the moments of Adam start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of VQVAE2 or one that the
            release has no file for.
    """
    ours = read_ours(src)
    if dst.is_dir():
        raise ValueError(f"DST is {dst}, a folder, but the official container is a file.")
    release = official(ours, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    # The official code is of 2019, whose PyTorch reads only the older of the two file formats.
    torch.save(release, dst, _use_new_zipfile_serialization=False)
    print(f"Wrote {dst}: {', '.join(f'{k} {v}' for k, v in sizes_of(release, str(src))._asdict().items())}.")


def read_release(src: Path) -> dict[str, Tensor]:
    """Tensors of an official file, whose names do not begin with the module. of a wrapped model any more."""
    release = read(src)
    if not isinstance(release, dict) or not all(isinstance(tensor, Tensor) for tensor in release.values()):
        raise ValueError(f"{src} is not the official container, one state dict, as vqvae_560.pt is.")
    wrapped = all(name.startswith("module.") for name in release)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in release.items()}


def checkpoint(release: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our VQVAE2 with the weights and codebooks of an official file.

    Args:
        release: its tensors.
        where: the file, for messages.
    """
    sizes = sizes_of(release, where)
    nets = networks(sizes)
    shapes = {f"nets.{name}": tensor.shape for name, tensor in nets.state_dict().items()}
    tensors = to_ours(release, table(nets), shapes, where)
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(0), "skipped": torch.tensor(0)}
        | {name: tensors[name] for name in shapes},
        "hyper_parameters": {"_class_path": "lightning_modules.vq_vae2.VQVAE2", **sizes._asdict()},
        "optimizer_states": [fresh_adam(len(list(nets.parameters())), LR, betas=BETAS)],
        "lr_schedulers": [],
        "loops": loops(0),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The inverse of ``checkpoint``.

    Args:
        ours: a Lightning checkpoint of our VQVAE2.
        where: its file, for messages.

    Raises:
        ValueError: it is none, or has not the levels and the stride of the release.
    """
    tensors = weights(ours)
    levels = count(tensors, "nets.codebooks.{}.embed")
    if levels == 0:
        raise ValueError(f"{where} is not a checkpoint of our VQVAE2: it lacks the codebook nets.codebooks.0.embed.")
    convolution = re.compile(rf"nets\.encoders\.{levels - 1}\.blocks\.\d+\.weight")
    stride = 2 ** (sum(convolution.fullmatch(name) is not None for name in tensors) - 1)  # the last has stride 1
    if (levels, stride) != (LEVELS, STRIDE):
        raise ValueError(
            f"{where} has levels {levels} and stride {stride}, but the official VQ-VAE-2 has only {LEVELS} and "
            f"{STRIDE}, so there is no official file for it: use our checkpoint."
        )
    named = {
        f"{theirs}.{name.removeprefix(f'nets.{mine}.')}": tensor
        for theirs, mine in PARTS.items()
        for name, tensor in tensors.items()
        if name.startswith(f"nets.{mine}.")
    }
    rows_of_all = table(networks(sizes_of(named, where)))
    known = {row.ours for row in rows_of_all}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(f"{where} has tensors that the official VQ-VAE-2 does not have: {', '.join(left_over[:20])}.")
    return OrderedDict(to_official(tensors, rows_of_all))


def table(nets: VQVAE2Networks) -> list[Row]:
    """Official names and those of our module, in official order."""
    named = {theirs: (mine, list(nets.get_submodule(mine).state_dict())) for theirs, mine in PARTS.items()}
    return [row for theirs, (mine, names) in named.items() for row in rows(theirs, f"nets.{mine}", names)]


def sizes_of(release: Mapping[str, Tensor], where: str) -> Sizes:
    """Read sizes off official tensors; ``where`` is their file, for messages (ValueError)."""
    what = "the official VQ-VAE-2's first stage"
    stem = first(release, "enc_b.blocks.0.weight", where, what)
    projection = first(release, "quantize_conv_t.weight", where, what)
    embed = release.get("quantize_t.embed")
    if embed is None or embed.ndim != 2:
        raise ValueError(f"{where} is not {what}: it lacks the codebook quantize_t.embed.")
    blocks = {found[1] for name in release if (found := re.match(r"enc_b\.blocks\.(\d+)\.conv\.", name))}
    inside = [release[name] for k in sorted(blocks) if (name := f"enc_b.blocks.{k}.conv.1.weight") in release]
    return Sizes(
        channels=stem.shape[1],
        width=projection.shape[1],
        res_blocks=len(blocks),
        res_width=len(inside[0]) if inside else 32,  # any will do for no blocks
        dim=projection.shape[0],
        codes=embed.shape[1],
    )


def networks(sizes: Sizes) -> VQVAE2Networks:
    """Our networks without storage, for their names, order and shapes."""
    with torch.device("meta"):
        return VQVAE2Networks(**sizes._asdict(), levels=LEVELS, stride=STRIDE)
