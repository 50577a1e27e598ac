"""Checkpoints of ALAE's release (podgorskiy/ALAE), of StyleALAE and of the MLPs for MNIST.

    python -m importers alae load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers alae save CKPT DST        a checkpoint of ours to an official file

The official container is one file, model_final.pth: {'models': state dicts, 'auxiliary': ...}. The models are E
(discriminator), G (generator), D (mapping_tl) and F (mapping_fl), their running averages (the same with _s) and the
mean of w (dlatent_avg). The auxiliary part holds a tracker, whose objects are built as empty ones.

Sizes are read off the tensors. Which of the two configurations an MLP is of, 28x28 pixels in [0, 1] or 32x32 in
[-1, 1], is told by the batch normalisation that the former has and never uses; it is left out, and written as it
begins. Filters of the blur must be the release's. The optimizers start afresh in both directions, and so does the
release's count of epochs. How far a StyleALAE has grown no file says: it counts as grown. To train on, keep first: 1,
fade: 0 and stable: 1, and set batches.
"""

from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import Row, loops, must_end_in_ckpt, read, read_ours, rows, to_official, to_ours
from importers.nvlabs import count, first, weights
from networks.alae import Encoder, Generator, MappingD, MappingF, MLPEncoder, MLPGenerator, groups_by_rate
from networks.lreq_adam import LREQAdam

NETS = {"discriminator": "e", "generator": "g", "mapping_tl": "d", "mapping_fl": "f"}  # in the release's order
LAYER = ("weight", "bias")
FUSED = 128  # height and width from which G's first convolutions are stored as transposed ones
BLUR = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
MLP_ROWS = 8  # of the mean of w, all alike: the MLPs' configurations say 4 layers
# The configuration that runs at the release's last commit, where it differs from our defaults.
LAST = {"image_size": 32, "encoder_slopes": (0.2,) * 3, "generator_slopes": (0.2,) * 2, "unit_range": False}
GROWN = {"batches": (1,), "first": 1, "fade": 0, "stable": 1}
WHAT = "the official ALAE"


class RunningMeanTorch:
    """Stands for the release's class of this name in its tracker, and does nothing."""


class StyleSizes(NamedTuple):
    """Constructor arguments of StyleALAE that tensors tell."""

    resolution: int
    channels: int
    latent: int
    width: int
    max_width: int
    mapping_layers: int

    @property
    def levels(self) -> int:
        """Resolutions from 4 on."""
        return self.resolution.bit_length() - 2


class MLPSizes(NamedTuple):
    """Constructor arguments of ALAE that tensors tell."""

    latent: int
    width: int
    mapping_layers: int


Sizes = StyleSizes | MLPSizes
Release = Mapping[str, Mapping[str, Tensor]]  # state dicts by name of the model


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our ALAE or StyleALAE and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    result = checkpoint(read_release(src), str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    print("The optimizers start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as the official file ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a checkpoint of ALAE or StyleALAE.
    """
    ours = read_ours(src)
    if dst.is_dir():
        raise ValueError(f"DST is {dst}, a folder, but the official container is a file.")
    models = official(ours, str(src))
    auxiliary = {
        "scheduler": {f"{player}coder_optimizer": {"last_epoch": 0} for player in ("en", "de")},
        "tracker": {"tracks": OrderedDict(), "epochs": [], "means_over_epochs": OrderedDict()},
    }
    dst.parent.mkdir(parents=True, exist_ok=True)
    # The official code is of 2020, whose PyTorch reads only the older of the two file formats.
    torch.save({"models": models, "auxiliary": auxiliary}, dst, _use_new_zipfile_serialization=False)
    print(f"Wrote {dst}: {', '.join(f'{k} {v}' for k, v in sizes_of(models, str(src))._asdict().items())}.")


def read_release(src: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts of an official file, by model."""
    with torch.serialization.safe_globals([(RunningMeanTorch, "tracker.RunningMeanTorch")]):
        release = read(src)
    models: Any = release.get("models") if isinstance(release, dict) else None
    names = [*(f"{net}{s}" for s in ("", "_s") for net in NETS), "dlatent_avg"]
    if not isinstance(models, dict) or sorted(models) != sorted(names):
        raise ValueError(f"{src} is not the official container: it needs 'models', which are {', '.join(names)}.")
    for name, tensors in models.items():
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise ValueError(f"{src}: {name} is no state dict.")
    return models


def checkpoint(release: Release, where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our ALAE or StyleALAE with the weights of an official file.

    Args:
        release: its state dicts.
        where: the file, for messages.
    """
    sizes = sizes_of(release, where)
    nets = networks(sizes)
    shapes = {name: tensor.shape for name, tensor in nets.state_dict().items()}
    state: dict[str, Tensor] = {}
    for net, table in tables(sizes).items():
        for s, prefix in (("", ""), ("_s", "averaged.")):
            check_blur(release[f"{net}{s}"], f"{where} ({net}{s})")
            found = to_ours(release[f"{net}{s}"], table, shapes, f"{where} ({net}{s})")
            state |= {f"{prefix}{name}": tensor for name, tensor in found.items()}
    state["w_avg"] = mean_to_ours(release["dlatent_avg"], sizes, where)
    styled = isinstance(sizes, StyleSizes)
    arguments: dict[str, Any] = {"_class_path": f"lightning_modules.{'style_alae.Style' if styled else 'alae.'}ALAE"}
    iterations = 0
    if isinstance(sizes, StyleSizes):
        arguments, iterations = arguments | GROWN, sizes.levels  # one an iteration
        state["shown"] = torch.tensor([sizes.levels - 1.0, 1.0])
    elif not any("bn_2" in name for name in release["generator"]):
        arguments |= LAST
    pairs = [(nets["e"], nets["d"]), (nets["g"], nets["f"])]
    return {
        "epoch": 0,
        "global_step": iterations,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": state | {"iterations": torch.tensor(iterations), "skipped": torch.tensor(0)},
        "hyper_parameters": arguments | sizes._asdict(),
        "optimizer_states": [fresh(groups_by_rate(*pair)) for pair in pairs],
        "lr_schedulers": [],
        "loops": loops(iterations),
        "callbacks": {},
    }


def official(ours: Mapping[str, Any], where: str) -> dict[str, dict[str, Tensor]]:
    """The inverse of ``checkpoint``, in the release's order.

    Args:
        ours: a Lightning checkpoint of our ALAE or StyleALAE.
        where: its file, for messages.

    Raises:
        ValueError: it is none.
    """
    tensors = weights(ours)
    sizes = sizes_of_ours(tensors, where)
    table_of = tables(sizes)
    known = {row.ours for table in table_of.values() for row in table}
    known |= {f"averaged.{name}" for name in known} | {"w_avg", "shown", "iterations", "skipped"}
    if left_over := [name for name in tensors if name not in known]:
        raise ValueError(f"{where} has tensors that {WHAT} does not have: {', '.join(left_over[:20])}.")
    norms = isinstance(sizes, MLPSizes) and bool(ours.get("hyper_parameters", {}).get("unit_range", True))
    result: dict[str, dict[str, Tensor]] = {}
    for net, table in table_of.items():
        result[net] = complete(to_official(tensors, table), norms)
    mean = tensors["w_avg"]
    result["dlatent_avg"] = OrderedDict(buff=mean if mean.ndim == 2 else mean.expand(MLP_ROWS, -1).clone())
    averaged = {name.removeprefix("averaged."): t for name, t in tensors.items() if name.startswith("averaged.")}
    for net, table in table_of.items():
        result[f"{net}_s"] = complete(to_official(averaged, table), norms)
    return result


def complete(tensors: Mapping[str, Tensor], norms: bool) -> dict[str, Tensor]:
    """One official state dict with what ours lacks because it is constant: filters of the blur, unused statistics."""
    result: dict[str, Tensor] = OrderedDict()
    for name, tensor in tensors.items():
        if name == "fc_3.weight" and norms:
            width = tensor.shape[1]
            result["bn_2.running_mean"], result["bn_2.running_var"] = torch.zeros(width), torch.ones(width)
            result["bn_2.num_batches_tracked"] = torch.tensor(0)
        block, _, part = name.rpartition("_block.")
        number, _, layer = part.partition(".")
        after = {"en conv_2.weight": tensor.shape[-3:][0], "de style_1.weight": len(tensor) // 2}
        if (channels := after.get(f"{block[:2]} {layer}")) is not None:
            result[f"{block}_block.{number}.blur.weight"] = BLUR.to(tensor).expand(channels, 1, 3, 3).clone()
        result[name] = tensor
    return result


def tables(sizes: Sizes) -> dict[str, list[Row]]:
    """Official names and those of our module, of each network; average and trained have the same."""
    f = [row for k in range(sizes.mapping_layers) for row in rows(f"map_blocks.{k}.fc", f"f.layers.{k}", LAYER)]
    d = [row for k in range(3) for row in rows(f"map_blocks.{k}", f"d.layers.{k}", LAYER)]
    if isinstance(sizes, MLPSizes):
        unused = Row(r"bn_2\.(running_mean|running_var|num_batches_tracked)", None)
        e, g = ([r for k in range(3) for r in rows(f"fc_{k + 1}", f"{net}.layers.{k}", LAYER)] for net in "eg")
        return {"discriminator": [*e, unused], "generator": [*g, unused], "mapping_tl": d, "mapping_fl": f}
    blur = Row(r"(en|de)code_block\.\d+\.blur\.weight", None)
    e = [row for k in range(sizes.levels) for row in rows(f"from_rgb.{k}.from_rgb", f"e.from_rgb.{k}", LAYER)]
    g = [Row("const", "g.const")]
    for k in range(sizes.levels):
        names = ["bias_1", "bias_2", "conv_1.weight", "conv_2.weight"]
        names += [f"style_{n}.{name}" for n in (1, 2) for name in LAYER]
        e += rows(f"encode_block.{k}", f"e.blocks.{k}", names)
    for k in range(sizes.levels):
        theirs, mine = f"decode_block.{k}", f"g.blocks.{k}"
        g += rows(theirs, mine, ["noise_weight_1", "bias_1", "noise_weight_2", "bias_2"])
        if k > 0:
            turn = turned if 4 * 2**k >= FUSED else None
            g.append(Row(f"{theirs}.conv_1.weight", f"{mine}.conv_1.weight", turn, turn))
        g += rows(theirs, mine, ["style_1.weight", "style_1.bias", "conv_2.weight", "style_2.weight", "style_2.bias"])
    g += [row for k in range(sizes.levels) for row in rows(f"to_rgb.{k}.to_rgb", f"g.to_rgb.{k}", LAYER)]
    return {"discriminator": [*e, blur], "generator": [*g, blur], "mapping_tl": d, "mapping_fl": f}


def turned(kernel: Tensor) -> Tensor:
    """Of a transposed convolution to the convolution of an enlarged image that it is, and back."""
    return kernel.flip(2, 3).transpose(0, 1).contiguous()


def check_blur(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse another filter than the one that our networks have (ValueError names it)."""
    for name, tensor in tensors.items():
        if name.endswith(".blur.weight") and (
            tensor.shape[1:] != (1, 3, 3) or not torch.equal(tensor, BLUR.to(tensor).expand_as(tensor))
        ):
            raise ValueError(f"{where}: {name} is not the filter [1, 2, 1] x [1, 2, 1] / 16, which our blur is.")


def mean_to_ours(tensors: Mapping[str, Tensor], sizes: Sizes, where: str) -> Tensor:
    """The mean of w; MLPs have one of it, where the release repeats it (ValueError says what is wrong)."""
    buff = tensors.get("buff")
    count_of_rows = MLP_ROWS if isinstance(sizes, MLPSizes) else 2 * sizes.levels
    if buff is None or [*tensors] != ["buff"] or buff.shape != (count_of_rows, sizes.latent):
        raise ValueError(f"{where}: dlatent_avg is not one tensor, buff, of {count_of_rows} x {sizes.latent}.")
    if isinstance(sizes, StyleSizes):
        return buff
    if not torch.equal(buff, buff[:1].expand_as(buff)):
        raise ValueError(f"{where}: the rows of dlatent_avg differ, which those of an MLP never do.")
    return buff[0].clone()


def sizes_of(release: Release, where: str) -> Sizes:
    """Read sizes off official tensors; ``where`` is their file, for messages (ValueError)."""
    f, e, g = release["mapping_fl"], release["discriminator"], release["generator"]
    latent = first_matrix(f, "map_blocks.0.fc.weight", where).shape[0]
    layers = count(dict(f), "map_blocks.{}.fc.weight")
    if "fc_1.weight" in e:
        return MLPSizes(latent, first_matrix(e, "fc_1.weight", where).shape[0], layers)
    levels = count(dict(g), "to_rgb.{}.to_rgb.weight")
    image = first(e, "from_rgb.0.from_rgb.weight", where, WHAT)
    last = first(e, f"encode_block.{max(levels - 1, 0)}.conv_2.weight", where, WHAT)
    return StyleSizes(2 * 2**levels, image.shape[1], latent, image.shape[0], last.shape[0], layers)


def sizes_of_ours(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    """The same off our tensors."""
    named = {"f.layers.0.weight", "w_avg", "e.layers.0.weight", "e.from_rgb.0.weight"} & set(tensors)
    if not {"f.layers.0.weight", "w_avg"} <= named or len(named) != 3:
        raise ValueError(f"{where} is not a checkpoint of our ALAE or StyleALAE.")
    latent, layers = tensors["f.layers.0.weight"].shape[0], count(dict(tensors), "f.layers.{}.weight")
    if "e.layers.0.weight" in named:
        return MLPSizes(latent, tensors["e.layers.0.weight"].shape[0], layers)
    levels = count(dict(tensors), "g.to_rgb.{}.weight")
    image, last = tensors["e.from_rgb.0.weight"], first(tensors, f"e.blocks.{levels - 1}.conv_2.weight", where, WHAT)
    return StyleSizes(2 * 2**levels, image.shape[1], latent, image.shape[0], last.shape[0], layers)


def first_matrix(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """A weight of a linear layer (ValueError where there is none)."""
    found = tensors.get(name)
    if found is None or found.ndim != 2:
        raise ValueError(f"{where} is not {WHAT}: it lacks the matrix {name}.")
    return found


def networks(sizes: Sizes) -> nn.ModuleDict:
    """Our networks, for their names and shapes."""
    latent = sizes.latent
    f = MappingF(latent, sizes.mapping_layers)
    if isinstance(sizes, MLPSizes):
        e, g = MLPEncoder(latent, sizes.width, ()), MLPGenerator(latent, sizes.width, (), 28)
        return nn.ModuleDict({"f": f, "g": g, "e": e, "d": MappingD(latent, latent, 0)})
    same = (sizes.channels, sizes.levels, latent, sizes.width, sizes.max_width)
    d = MappingD(latent, 2 * latent, latent)
    return nn.ModuleDict({"f": f, "g": Generator(*same), "e": Encoder(*same), "d": d})


def fresh(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """State of an optimizer of these groups that has not stepped yet."""
    few = [group | {"params": [nn.Parameter(torch.empty(0)) for _ in group["params"]]} for group in groups]
    return LREQAdam(few).state_dict()
