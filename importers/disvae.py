"""Checkpoints of disvae (Dubois et al. 2019): VAE, beta-VAE, FactorVAE and beta-TCVAE.

    python -m importers disvae load SRC DST.ckpt    official to a Lightning checkpoint of ours
    python -m importers disvae save CKPT DST        a checkpoint of ours to an official folder

The official container is a folder: model.pt, a state dict of encoder and decoder, and specs.json, the arguments of the
training. SRC is the folder, or one of its files model-<epoch>.pt, beside which specs.json lies.

Sizes are read off the tensors; which paper it is (loss), weights and rates off specs.json. What no file says: the
discriminator of FactorVAE and all optimizers, which start afresh; the iteration, so that ramp and capacity begin again:
set anneal to 0, or c_steps to 1, to train on with full weights; the number of training images, which beta-TCVAE asks
for and ``IMAGES`` knows of the release's data sets. The objective of ours is not the official one everywhere; where it
is not for a file, ``load`` says so (``departures``).
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import Row, fresh_adam, loops, must_end_in_ckpt, read, read_ours, rows, to_official, to_ours
from importers.nvlabs import CONV, count, first, weights
from networks.init import he_uniform_
from networks.vae import Decoder, Encoder, PermutationDiscriminator

HEAD = "encoder.mu_logvar_gen"  # mean and logarithm of the variance by turns
CLASSES = {
    "VAE": "lightning_modules.beta_vae.BetaVAE",
    "betaH": "lightning_modules.beta_vae.BetaVAE",
    "betaB": "lightning_modules.beta_vae.BetaVAE",
    "factor": "lightning_modules.factor_vae.FactorVAE",
    "btcvae": "lightning_modules.beta_tcvae.BetaTCVAE",
}  # by the official name of the loss
IMAGES = {"mnist": 60_000, "fashion": 60_000, "dsprites": 737_280, "celeba": 202_599, "chairs": 86_366}
BETAS, DIS_BETAS = (0.9, 0.999), (0.5, 0.9)
DIS_WIDTH, DIS_LAYERS = 1000, 5
NEEDED = {
    "VAE": (),
    "betaH": ("betaH_B",),
    "betaB": ("betaB_G", "betaB_initC", "betaB_finC"),
    "factor": ("factor_G", "lr_disc"),
    "btcvae": ("btcvae_A", "btcvae_B", "btcvae_G", "dataset"),
}


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell."""

    image_shape: tuple[int, int, int]
    latent: int
    convs: tuple[int, ...]
    kernels: tuple[int, ...]
    hidden: tuple[int, ...]
    dec_hidden: tuple[int, ...]


def load(src: Path, dst: Path) -> None:
    """Write the official model at ``src`` as a checkpoint that our module and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    file = src / "model.pt" if src.is_dir() else src
    tensors, specs = read_vae(file), read_specs(file.with_name("specs.json"))
    result = checkpoint(tensors, specs, str(file))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    print("The container has no optimizers and no iteration: they start afresh.", *departures(specs), sep="\n")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items())
    print(f"Wrote {dst}: {told}.")


def save(src: Path, dst: Path) -> None:
    """Write the checkpoint of ours at ``src`` as model.pt and specs.json in the folder ``dst``.

    Raises:
        FileNotFoundError, ValueError: with one sentence, where ``src`` is not a model that disvae has.
    """
    ours = read_ours(src)
    if dst.is_file():
        raise ValueError(f"DST is {dst}, a file, but the official container is a folder.")
    tensors, specs = official(ours, str(src))
    dst.mkdir(parents=True, exist_ok=True)
    # The official code needs PyTorch of 2018, which reads only the older of the two file formats.
    torch.save(tensors, dst / "model.pt", _use_new_zipfile_serialization=False)
    (dst / "specs.json").write_text(json.dumps(specs, indent=4, sort_keys=True))
    print(f"Wrote model.pt and specs.json in {dst}; discriminator, optimizers and iteration have no place there.")


def read_vae(file: Path) -> dict[str, Tensor]:
    """Tensors of an official model.pt (FileNotFoundError, ValueError)."""
    state = read(file)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} is not the official container: it needs to be a state dict.")
    return dict(state)


def read_specs(file: Path) -> dict[str, Any]:
    """The arguments of the training (FileNotFoundError, ValueError)."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}, which says what the model beside it is.")
    try:
        specs = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(specs, dict) or specs.get("loss") not in CLASSES:
        loss = specs.get("loss") if isinstance(specs, dict) else None
        raise ValueError(f"{file} says that the loss is {loss!r}, but there are: {', '.join(CLASSES)}.")
    needed = ("img_size", "latent_dim", "model_type", "rec_dist", "lr", "reg_anneal", *NEEDED[specs["loss"]])
    if missing := [name for name in needed if name not in specs]:
        raise ValueError(f"{file} does not say {', '.join(missing)}.")
    return specs


def checkpoint(tensors: Mapping[str, Tensor], specs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our module.

    Args:
        tensors: official encoder and decoder.
        specs: of ``read_specs``.
        where: the file of ``tensors``, for messages.
    """
    sizes = sizes_of(tensors, where)
    check_sizes(sizes, specs, where)
    vae = networks(sizes)
    result = vae_to_ours(tensors, sizes, {name: tensor.shape for name, tensor in vae.state_dict().items()}, where)
    states = [fresh_adam(len(list(vae.parameters())), specs["lr"], betas=BETAS)]
    if specs["loss"] == "factor":
        judge = fresh_discriminator(sizes.latent)
        result |= judge.state_dict()
        states.append(fresh_adam(len(list(judge.parameters())), specs["lr_disc"], betas=DIS_BETAS))
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(0), "skipped": torch.tensor(0)} | result,
        "hyper_parameters": {
            "_class_path": CLASSES[specs["loss"]],
            **sizes._asdict(),
            "glorot": False,
            **objective(specs, IMAGES.get(specs.get("dataset", ""), 0)),
        },
        "optimizer_states": states,
        "lr_schedulers": [],
        "loops": loops(0),
        "callbacks": {},
    }


def objective(specs: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Arguments of ours for what the model was trained with, without sizes.

    Args:
        specs: of ``read_specs``.
        images: in the training data; 0 is unknown.

    Raises:
        ValueError: ``reg_anneal`` is no whole number of iterations.
    """
    anneal, told = specs["reg_anneal"], {"lr": float(specs["lr"])}
    if int(anneal) != anneal:
        raise ValueError(f"reg_anneal is {anneal}, but ours counts whole iterations.")
    ramp = {"anneal": int(anneal)}
    if specs["loss"] == "VAE":
        return told | {"beta": 1.0} | ramp
    if specs["loss"] == "betaH":
        return told | {"beta": float(specs["betaH_B"])} | ramp
    if specs["loss"] == "betaB":  # c_steps 1 is C in full from the first iteration on, as is reg_anneal 0
        capacity = {"c_max": float(specs["betaB_finC"]), "c_steps": max(1, int(anneal))}
        return told | {"gamma": float(specs["betaB_G"])} | capacity
    if specs["loss"] == "factor":
        judge = {"halves": True, "dis_layers": DIS_LAYERS, "dis_lr": float(specs["lr_disc"])}
        return told | {"factor_gamma": float(specs["factor_G"])} | judge | ramp
    beta = told | {"beta": float(specs["btcvae_B"])}
    if images == 0:
        return beta
    return beta | {"data_size": images, "stratified": True, "alpha": float(specs["btcvae_A"])} | ramp


def departures(specs: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing in which training goes on otherwise than it began."""
    sentences, loss = [], specs["loss"]
    if specs["rec_dist"] != "bernoulli":
        sentences.append(f"It was trained with rec_dist {specs['rec_dist']}: ours goes on with bernoulli.")
    if loss == "betaB" and specs["betaB_initC"] != 0:
        sentences.append(f"Its capacity started at {specs['betaB_initC']}: ours starts at 0.")
    if loss == "factor":
        sentences.append("The container has no discriminator: it starts afresh; its loss moves no encoder here.")
    if loss == "btcvae":
        sentences.append("The release counts a weight of an estimate once for each coordinate: ours counts it once.")
        if specs["btcvae_G"] != 1:
            sentences.append(f"Its dimension-wise KL had the weight {specs['btcvae_G']}: ours has 1.")
        if specs["dataset"] not in IMAGES:
            sentences.append("How many images it saw is not known: ours has weighted sampling, without a ramp.")
    return sentences


def official(ours: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of ``checkpoint``: tensors and specs.

    Args:
        ours: a Lightning checkpoint of ours.
        where: its file, for messages.
    """
    told, tensors = ours.get("hyper_parameters") or {}, weights(ours)
    path = told.get("_class_path", "")
    if path not in CLASSES.values():
        raise ValueError(f"{where} is of {path.rpartition('.')[2] or 'no class that it names'}, which disvae is not.")
    for name in ("tanh", "gaussian"):
        if told.get(name, False):
            raise ValueError(f"{where} has {name}, which the official networks do not have.")
    vae = {name: tensor for name, tensor in tensors.items() if not name.startswith("discriminator.")}
    convs = count(vae, "encoder.convs.{}.weight")
    unlike = sorted(set(vae) ^ {str(row.ours) for row in vae_table(convs)})
    if convs not in (3, 4) or unlike:
        raise ValueError(
            f"{where} has {convs} convolutions, but disvae has 3 or 4, with two layers: {', '.join(unlike[:5])}."
        )
    result = vae_to_official(vae)
    sizes = sizes_of(result, where)
    shapes = {name: tensor.shape for name, tensor in networks(sizes).state_dict().items()}
    vae_to_ours(result, sizes, shapes, where)  # refuses other shapes
    return result, specs_of(told, sizes)


def specs_of(told: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """What specs.json says of a model of ours; ``told`` are its arguments, of which a neutral one may be absent."""
    loss = {"FactorVAE": "factor", "BetaTCVAE": "btcvae"}.get(told["_class_path"].rpartition(".")[2], "betaH")
    gamma, anneal = told.get("gamma", 0.0), told.get("anneal", 0)
    specs: dict[str, Any] = {
        "img_size": list(sizes.image_shape),
        "latent_dim": sizes.latent,
        "model_type": "Burgess",
        "rec_dist": "bernoulli",
        "lr": told["lr"],
    }
    if loss == "factor":
        return specs | {
            "loss": loss, "factor_G": told["factor_gamma"], "lr_disc": told["dis_lr"], "reg_anneal": anneal,
        }  # fmt: skip
    if loss == "btcvae":
        kept = {"btcvae_A": told.get("alpha", 1.0), "btcvae_B": told["beta"], "btcvae_G": 1.0}
        known = [name for name, images in IMAGES.items() if images == told.get("data_size", 0)]
        return specs | {"loss": loss, "reg_anneal": anneal, "dataset": known[0] if known else "custom"} | kept
    if gamma > 0:
        capacity = {"betaB_G": gamma, "betaB_initC": 0.0, "betaB_finC": told["c_max"], "reg_anneal": told["c_steps"]}
        return specs | {"loss": "betaB"} | capacity
    return specs | {"loss": loss, "betaH_B": told["beta"], "reg_anneal": anneal}


def vae_table(convs: int) -> list[Row]:
    """Rows of encoder and decoder with so many convolutions each, the head as two: see ``separated``."""
    down = ["conv1", "conv2", "conv3", "conv_64"][:convs]
    up = ["convT_64", "convT1", "convT2", "convT3"][4 - convs :]
    table = [row for k, name in enumerate(down) for row in rows(f"encoder.{name}", f"encoder.convs.{k}", CONV)]
    table += [row for k in (0, 1) for row in rows(f"encoder.lin{k + 1}", f"encoder.layers.{k}", CONV)]
    table += [
        Row(f"{HEAD}.{kind}[{start}::2]", f"encoder.{ours}.{kind}")
        for kind in CONV
        for start, ours in ((0, "mu"), (1, "logvar"))
    ]
    table += [row for k in (0, 1, 2) for row in rows(f"decoder.lin{k + 1}", f"decoder.layers.{k}", CONV)]
    return table + [row for k, name in enumerate(up) for row in rows(f"decoder.{name}", f"decoder.convs.{k}", CONV)]


def discriminator_table(layers: int) -> list[Row]:
    """Rows of a discriminator of so many hidden layers, which no official file holds."""
    ours = [*(f"discriminator.layers.{k}" for k in range(layers)), "discriminator.head"]
    return [row for k, name in enumerate(ours) for row in rows(f"lin{k + 1}", name, CONV)]


def separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors with the head as two: even rows are means, odd ones logarithms of variances."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] == HEAD:
            result |= {f"{name}[{start}::2]": tensor[start::2].clone() for start in (0, 1)}
        else:
            result[name] = tensor
    return result


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``separated``, in the same order."""
    result: dict[str, Tensor] = OrderedDict()
    for name, tensor in tensors.items():
        whole, _, part = name.partition("[")
        if not part:
            result[name] = tensor
        elif part == "0::2]":
            result[whole] = torch.stack((tensor, tensors[f"{whole}[1::2]"]), 1).flatten(0, 1)
    return result


def vae_to_ours(
    tensors: Mapping[str, Tensor], sizes: Sizes, shapes: Mapping[str, torch.Size], where: str
) -> dict[str, Tensor]:
    """Official encoder and decoder under our names (ValueError as ``mapping.to_ours``)."""
    return to_ours(separated(tensors), vae_table(len(sizes.convs)), shapes, where)


def vae_to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its inverse; also for gradients, of which there are as many."""
    return joined(to_official(tensors, vae_table(count(tensors, "encoder.convs.{}.weight"))))


def sizes_of(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    """Read channels, sides, widths and the size of the code off the tensors (ValueError where that cannot be)."""
    stem = first(tensors, "encoder.conv1.weight", where, "a model of disvae")
    layers = [f"{part}.lin{k}.weight" for part in ("encoder", "decoder") for k in (1, 2)]
    if missing := [name for name in layers if name not in tensors or tensors[name].ndim != 2]:
        raise ValueError(f"{where} is not a model of disvae: it lacks the layer {missing[0]}.")
    convs, side = (4, 64) if "encoder.conv_64.weight" in tensors else (3, 32)
    hidden = [tensors[name].shape[0] for name in layers]
    return Sizes(
        image_shape=(stem.shape[1], side, side),
        latent=tensors["decoder.lin1.weight"].shape[1],
        convs=(stem.shape[0],) * convs,
        kernels=(4,) * convs,
        hidden=tuple(hidden[:2]),
        dec_hidden=tuple(hidden[2:]),
    )


def check_sizes(sizes: Sizes, specs: Mapping[str, Any], where: str) -> None:
    """Refuse specs that are not of these tensors (ValueError)."""
    found = {"img_size": list(sizes.image_shape), "latent_dim": sizes.latent, "model_type": "Burgess"}
    for name, ours in found.items():
        if specs[name] != ours:
            raise ValueError(f"{where} has {name} {ours!r}, but the arguments beside it say {specs[name]!r}.")


def networks(sizes: Sizes) -> nn.ModuleDict:
    """Our encoder and decoder without storage, for their names, order and shapes."""
    with torch.device("meta"):
        encoder = Encoder(sizes.image_shape, sizes.latent, sizes.convs, sizes.kernels, sizes.hidden)
        decoder = Decoder(sizes.latent, sizes.image_shape, sizes.convs, sizes.dec_hidden)
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def fresh_discriminator(latent: int) -> nn.ModuleDict:
    """D as the release makes it, alike at every import."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = nn.ModuleDict({"discriminator": PermutationDiscriminator(latent, DIS_WIDTH, DIS_LAYERS)})
        he_uniform_(judge)
    return judge
