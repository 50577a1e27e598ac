"""What the parity runners of DRIT and MDMM share: official files of a case, its batches, states and gradients by name.

Networks are named as in the official file, in its order, and tensors ``net.key``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.rules import Case, Snapshot, number
from importers.mapping import Row


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of every optimizer."""
    hp = case.config["hyperparameters"]
    return hp["beta1"], hp["weight_decay"]


def official_file(case: Case, tag: str) -> Path | None:
    """The official file in ``init``, ``after1``...; None where the case holds none there."""
    return min((case.path / tag).glob("*.pth"), default=None)


def packed(case: Case, tag: str, nets: Sequence[str]) -> dict[str, Any] | None:
    """What the official file would hold, from ``all_nets.safetensors``; None where the case does not have it.

    Raises:
        FileNotFoundError: the case does not say how it starts.
    """
    if not case.has(f"{tag}/all_nets.safetensors"):
        if tag == "init":
            raise FileNotFoundError(f"{case.path / tag} lacks init/all_nets.safetensors and has no *.pth.")
        return None
    release: dict[str, Any] = {name: {} for name in nets}
    for name, tensor in case.tensors(f"{tag}/all_nets.safetensors").items():
        net, _, key = name.partition(".")
        release[net][key] = tensor
    return release | {"ep": 0, "total_it": 0 if tag == "init" else number(tag)}


def flat(release: Mapping[str, Any], nets: Sequence[str]) -> Snapshot:
    """Copies of all tensors by ``net.key``; Adam numbers its parameters in this order."""
    result = Snapshot({})
    for net in nets:
        named = {f"{net}.{key}": t.clone() for key, t in release[net].items()}
        result.weights |= named
        states = release.get(f"{net}_opt", {}).get("state", {})
        for n, name in enumerate(named):
            if n in states:
                result.exp_avg[name] = states[n]["exp_avg"].clone()
                result.exp_avg_sq[name] = states[n]["exp_avg_sq"].clone()
                result.step[name] = int(states[n]["step"])
    return result


def assembled(case: Case, key: str, pool: str) -> Tensor:
    """A recorded batch from a pool of pictures, held against its recorded checksum.

    Args:
        case: whose ``batch.safetensors`` has the pool, and the rows of the batch.
        key: name of the batch, ``iter0c.a``.
        pool: name of the pool.

    Raises:
        ValueError: the batch is not the recorded one.
    """
    pictures = []
    for picture, mirrored, upturned, roll in case.batch[f"{key}.rows"].tolist():
        x = case.batch[pool][picture]
        x = x.flip(-1) if mirrored else x
        x = x.flip(-2) if upturned else x
        pictures.append(x.roll(roll, 0))
    batch = torch.stack(pictures).float() / 127.5 - 1
    expected = case.config["batches"]["assembled_float32_little_endian_C_order"][key]
    if list(batch.shape) != expected["shape"]:
        raise ValueError(f"{case.path}: {key} is {list(batch.shape)}, but config.json says {expected['shape']}.")
    if hashlib.sha256(batch.numpy().tobytes()).hexdigest() != expected["sha256"]:
        raise ValueError(f"{case.path}: {key} has another sha256 than config.json says.")
    return batch


def official_gradients(
    updates: Sequence[tuple[str, Sequence[str]]],
    gradients: Sequence[Mapping[str, Tensor]],
    tables: Mapping[str, Sequence[Row]],
) -> dict[str, Tensor]:
    """Gradients of the first iteration by ``optimizer:net.parameter``.

    Args:
        updates: optimizer steps, in order: ending of the official optimizer's name, networks that step.
        gradients: what each step ``received``.
        tables: rows of each network.
    """
    result: dict[str, Tensor] = {}
    for (ending, nets), of_step in zip(updates, gradients, strict=True):
        for net in nets:
            for row in tables[net]:
                gradient = of_step[str(row.ours)]
                result[f"{net}_opt{ending}:{net}.{row.official}"] = row.save(gradient) if row.save else gradient
    return result
