"""Checkpoints of the official Fader Networks.

    python -m importers fader load SRC DST.ckpt    official to a Lightning checkpoint of ours

The official container is a whole pickled module, of class src.model.AutoEncoder: male.pth and the like, as released, or
best_rec_ae.pth, periodic-5_ae.pth, as training leaves it, with ..._lat_dis.pth, ..._ptc_dis.pth and ..._clf_dis.pth
beside it, which are read too. Nothing of them is run (``importers.pickled``). There is no way back: only the official
code writes such files.

Attributes, sizes and dropout are read off the modules; a patch discriminator or a classifier that is there takes one
step an iteration (ptc_steps, clf_steps). What no file says: loss weights, of which those of these two are 0 by default,
so set lambda_ptc and lambda_clf before training goes on; the state of the optimizers, which start afresh, as does a
latent discriminator without a file; and the iteration, so that the ramp begins again, as in the release: set ramp to 0
to train on with full weights.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from importers.mapping import Row, fresh_adam, loops, must_end_in_ckpt, to_ours
from importers.pickled import PickledModule, read_module
from networks.fader import AutoEncoder, Classifier, LatentDiscriminator, PatchDiscriminator

CLASSES = {
    "lat_dis": "src.model.LatentDiscriminator",
    "ptc_dis": "src.model.PatchDiscriminator",
    "clf_dis": "src.model.Classifier",
    "ae": "src.model.AutoEncoder",
}
# Of the module and of our constructors; "attr" says the attributes.
SIZES = {"init_fm": "width", "max_fm": "max_width", "n_layers": "layers", "n_skip": "skips"}
FIXED = {"img_fm": 3, "instance_norm": False, "deconv_method": "convtranspose"}
LR = 2e-4

Release = dict[str, PickledModule]  # by the keys of ``CLASSES``, "ae" always


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our Fader and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    release = read_release(src)
    result = checkpoint(release, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    if "lat_dis" not in release:
        print("No latent discriminator beside the auto-encoder: it starts afresh, as do the moments of Adam.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: {told}.")


def save(src: Path, dst: Path) -> None:
    """Refuse.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "There is no way back to the official Fader Networks: its files pickle modules of its own code; use our "
        "checkpoint."
    )


def read_release(src: Path) -> Release:
    """Read an official auto-encoder and the discriminators that training has left beside it."""
    beside = {net: src.with_name(src.name.removesuffix("_ae.pth") + f"_{net}.pth") for net in CLASSES if net != "ae"}
    found = {net: path for net, path in beside.items() if src.name.endswith("_ae.pth") and path.is_file()}
    return {net: read_module(path, {CLASSES[net]}) for net, path in (found | {"ae": src}).items()}


def tensors_of(module: PickledModule) -> dict[str, Tensor]:
    """Its tensors; counters of batches that PyTorch before 0.4.1 lacks are 0."""
    tensors = module.tensors()
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return tensors


def checkpoint(release: Release, where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our Fader with the weights of official modules.

    Args:
        release: the modules.
        where: the file of the auto-encoder, for messages.
    """
    arguments = arguments_of(release, where)
    nets = networks(arguments)
    tensors: dict[str, Tensor] = {}
    for name, net in nets.items():
        state = net.state_dict()
        if name in release:
            shapes = {key: tensor.shape for key, tensor in state.items()}
            table = [Row(key, key) for key in shapes]
            state = to_ours(tensors_of(release[name]), table, shapes, f"{where} ({name})")
        tensors |= {f"{name}.{key}": tensor for key, tensor in state.items()}
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(0), "skipped": torch.tensor(0)} | tensors,
        "hyper_parameters": {"_class_path": "lightning_modules.fader.Fader", **arguments},
        "optimizer_states": [fresh_adam(len(list(net.parameters())), LR) for net in nets.values()],
        "lr_schedulers": [],
        "loops": loops(0),
        "callbacks": {},
    }


def arguments_of(release: Release, where: str) -> dict[str, Any]:
    """Arguments of our Fader that the modules tell (ValueError where it does not have what they ask for)."""
    settings = release["ae"].settings
    needed = ("img_sz", "attr", "dropout", *SIZES, *FIXED)
    if missing := [name for name in needed if name not in settings]:
        raise ValueError(f"{where} does not say {', '.join(missing)}, as the official auto-encoder does.")
    for name, ours in FIXED.items():
        if settings[name] != ours:
            raise ValueError(f"{where} has {name} {settings[name]!r}, but our Fader has only {ours!r}.")
    for net, module in release.items():
        if module.settings.get("attr", settings["attr"]) != settings["attr"]:
            raise ValueError(f"{where} and the {net} beside it are of other attributes.")
    names, counts = ([pair[k] for pair in settings["attr"]] for k in (0, 1))
    arguments = {"attributes": names, "categories": counts, "image_size": settings["img_sz"]}
    arguments |= {ours: settings[name] for name, ours in SIZES.items()} | {"dropout": float(settings["dropout"])}
    if "lat_dis" in release:
        judge = release["lat_dis"].settings
        arguments |= {"hidden": judge["hid_dim"], "lat_dropout": float(judge["dropout"])}
    return arguments | {f"{net[:3]}_steps": 1 for net in ("ptc_dis", "clf_dis") if net in release}


def networks(arguments: Mapping[str, Any]) -> nn.ModuleDict:
    """Our networks in the order of our optimizers; what starts afresh does so alike at every import."""
    channels = sum(arguments["categories"])
    sizes = {name: arguments[name] for name in ("width", "max_width")}
    depth = {name: arguments[name] for name in ("layers", "skips")}
    side, hidden = arguments["image_size"], {"hidden": arguments["hidden"]} if "hidden" in arguments else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = nn.ModuleDict({"lat_dis": LatentDiscriminator(channels, side, **sizes, **depth, **hidden)})
        if "ptc_steps" in arguments:
            nets["ptc_dis"] = PatchDiscriminator(arguments["width"])
        if "clf_steps" in arguments:
            nets["clf_dis"] = Classifier(channels, side, **sizes, **hidden)
        nets["ae"] = AutoEncoder(channels, **sizes, **depth)
    return nets
