"""What the parity runners of UNIT and MUNIT share: official files of a case, and states under official names."""

from typing import Any

from torch import Tensor

from benchmarks.parity.rules import Case, Snapshot, number
from importers.nvlabs import Release, read_release

# What of the official configuration our UNIT and MUNIT do not vary.
FIXED: dict[tuple[str, ...], Any] = {
    ("gen", "activ"): "relu",
    ("gen", "pad_type"): "reflect",
    ("dis", "activ"): "lrelu",
    ("dis", "pad_type"): "reflect",
    ("dis", "norm"): "none",
    ("input_dim_a",): 3,
    ("input_dim_b",): 3,
    ("vgg_w",): 0,  # no case holds the weights of VGG
}


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    release = release_of(case, tag)
    return None if release is None else flat(release)


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of every optimizer."""
    hp = case.config["hyperparameters"]
    return hp["beta1"], hp["weight_decay"]


def initial(case: Case) -> Release:
    """Official files of the start (FileNotFoundError)."""
    release = release_of(case, "init")
    if release is None:
        raise FileNotFoundError(f"{case.path / 'init'} has neither gen_*.pt nor all_nets.safetensors.")
    return release


def release_of(case: Case, tag: str) -> Release | None:
    """Official files of a folder of the case, or the same as ``all_nets.safetensors``; None where it has neither."""
    folder = case.path / tag
    if any(folder.glob("gen_*.pt")):
        return read_release(folder)
    if not case.has(f"{tag}/all_nets.safetensors"):
        return None
    nets: dict[str, dict[str, dict[str, Tensor]]] = {"gen": {}, "dis": {}}
    for name, tensor in case.tensors(f"{tag}/all_nets.safetensors").items():
        net, _, key = name.partition(".")
        nets[net[:3]].setdefault(net[4:], {})[key] = tensor
    where = f"{folder / 'all_nets.safetensors'}"
    return Release(nets["gen"], nets["dis"], None, number(tag.replace("init", "0")), {"gen": where, "dis": where})


def flat(release: Release) -> Snapshot:
    """Copies of all tensors by ``gen_a.key``; Adam numbers its parameters in this order."""
    result = Snapshot({})
    for player, pair in (("gen", release.gen), ("dis", release.dis or {})):
        named = {f"{player}_{d}.{key}": t.clone() for d in pair for key, t in pair[d].items() if "running_" not in key}
        result.weights |= named
        states = release.optimizer[player]["state"] if release.optimizer else {}
        for n, name in enumerate(named):
            if n in states:
                result.exp_avg[name] = states[n]["exp_avg"].clone()
                result.exp_avg_sq[name] = states[n]["exp_avg_sq"].clone()
                result.step[name] = int(states[n]["step"])
    return result
