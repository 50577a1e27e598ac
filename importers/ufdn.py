"""Checkpoints of the official UFDN.

    python -m importers ufdn load SRC DST.ckpt    official to a Lightning checkpoint of ours

The official container is a whole pickled module, of class src.ufdn.UFDN: <step>.vae, or vae. Nothing of it is run
(``importers.pickled``). Where domain adaptation left a classifier of digits beside it, a file of the same name with
dnet for vae (src.ufdn.Discriminator), it is read too. There is no way back: only the official code writes such files.

Widths and the number of domains are read off the tensors. What no file says: D_v, D_x and all optimizers, which start
afresh; loss weights, which keep our defaults, those of the release for faces, or with a classifier are those of its
example of domain adaptation; names of domains, which are photo, sketch, paint where there are three and a, b...
otherwise. A domain vector of several entries a domain, or with attributes, counts as so many domains.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from importers.mapping import Row, fresh_adam, loops, must_end_in_ckpt, rows, to_ours
from importers.nvlabs import CONV, count, first
from importers.pickled import read_module
from networks.init import normal_convolutions_
from networks.ufdn import Critic, Decoder, DomainClassifier, Encoder

VAE, HEAD = "src.ufdn.UFDN", "src.ufdn.Discriminator"
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
LR = 1e-4
DV_WIDTHS, DX_WIDTHS, DX_HIDDEN = (512, 256, 128, 64), (16, 32, 64, 128, 256), 512
ADAPTATION: dict[str, Any] = {
    "dv_widths": (1024, 256), "lambda_recon": (1.0, 1.0, 1), "lambda_kl": (1e-7, 1e-7, 1),
    "lambda_feat": (0.1, 0.1, 1), "lambda_adv": (0.0, 0.0, 1), "lambda_clf": (0.0, 0.0, 1),
}  # fmt: skip


class Sizes(NamedTuple):
    """Constructor arguments that tensors tell; the number of domains is told by their names."""

    domains: tuple[str, ...]
    image_size: int
    widths: tuple[int, ...]
    code_channels: int


def load(src: Path, dst: Path) -> None:
    """Write the official file ``src`` as a checkpoint that our UFDN and ``main.py`` load.

    Raises:
        FileNotFoundError, ValueError: with one sentence, on anything that is not exactly that container.
    """
    must_end_in_ckpt(dst)
    vae, beside = read_vae(src), src.with_name(src.name.replace("vae", "dnet"))
    head = read_module(beside, {HEAD}).tensors() if beside != src and beside.is_file() else None
    result = checkpoint(vae, head, int(src.stem) if src.stem.isdigit() else 0, str(src))
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, dst)
    print("The file has no discriminators and no optimizers: they start afresh.")
    told = ", ".join(f"{k} {v}" for k, v in result["hyper_parameters"].items() if not k.startswith("_"))
    print(f"Wrote {dst}: iteration {result['global_step']}, {told}.")


def save(src: Path, dst: Path) -> None:
    """Refuse.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "There is no way back to the official UFDN: its files pickle a module of its own code; use our checkpoint."
    )


def read_vae(src: Path) -> dict[str, Tensor]:
    """Tensors of an official file by their names in its state dict; counters that PyTorch 0.4 lacks are 0."""
    tensors = read_module(src, {VAE}).tensors()
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    return tensors


def checkpoint(vae: Mapping[str, Tensor], head: Mapping[str, Tensor] | None, step: int, where: str) -> dict[str, Any]:
    """A Lightning checkpoint of our UFDN.

    Args:
        vae: official encoder and decoder.
        head: the official classifier of digits, or None.
        step: iterations that were trained.
        where: the file of ``vae``, for messages.
    """
    sizes, arguments = sizes_of(vae, where), ADAPTATION if head is not None else {}
    classes = 0 if head is None else len(head.get("layer_out_0.0.bias", ()))
    nets = networks(sizes, classes)
    shapes = {name: tensor.shape for name, tensor in nets.state_dict().items()}
    tensors = to_ours(vae, vae_table(len(sizes.widths)), shapes, where)
    if head is not None:
        tensors |= to_ours(head, classifier_table("class_head", 0), shapes, f"{where} (its dnet)")
    judges = fresh_judges(sizes, arguments)
    players = [*judges.values(), nets]
    return {
        "epoch": 0,
        "global_step": step,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "state_dict": {"iterations": torch.tensor(step), "skipped": torch.tensor(0)} | tensors | judges.state_dict(),
        "hyper_parameters": {
            "_class_path": "lightning_modules.ufdn.UFDN",
            **sizes._asdict(),
            "dx_widths": DX_WIDTHS[: len(sizes.widths)],
            "classes": classes,
            **arguments,
        },
        "optimizer_states": [fresh_adam(len(list(net.parameters())), LR) for net in players],
        "lr_schedulers": [],
        "loops": loops(step),
        "callbacks": {},
    }


def vae_table(layers: int) -> list[Row]:
    """Official encoder and decoder, of ``layers`` normalised layers each, and ours."""
    table = []
    for part, ours in (("enc", "encoder"), ("dec", "decoder")):
        for k in range(layers):
            table += rows(f"{part}_{k}.0", f"{ours}.convs.{k}", CONV) + rows(f"{part}_{k}.1", f"{ours}.norms.{k}", NORM)
    table += rows("enc_mu.0", "encoder.mu", CONV) + rows("enc_logvar.0", "encoder.logvar", CONV)
    return table + rows(f"dec_{layers}.0", "decoder.head", CONV)


def classifier_table(ours: str, hidden: int) -> list[Row]:
    """Official D_v or classifier of digits, which no released file of faces holds, and ours."""
    table = [row for k in range(hidden) for row in rows(f"layer_{k}.0", f"{ours}.layers.{k}", CONV)]
    return table + rows("layer_out_0.0", f"{ours}.head", CONV)


def critic_table(layers: int) -> list[Row]:
    """Official D_x, which no released file holds, and ours."""
    table = [row for k in range(layers) for row in rows(f"layer_{k}.0", f"critic.convs.{k}", CONV)]
    table += rows(f"layer_{layers}.0", "critic.hidden", CONV)
    return table + rows("layer_out_0.0", "critic.score", CONV) + rows("layer_out_1.0", "critic.domain", CONV)


def sizes_of(vae: Mapping[str, Tensor], where: str) -> Sizes:
    """Read widths, code and number of domains off the tensors."""
    what = "an encoder and decoder of the official UFDN"
    layers = count(vae, "enc_{}.0.weight")
    mu, decoder = first(vae, "enc_mu.0.weight", where, what), first(vae, "dec_0.0.weight", where, what)
    widths = tuple(first(vae, f"enc_{k}.0.weight", where, what).shape[0] for k in range(layers))
    domains = decoder.shape[0] - mu.shape[0]
    if not 2 <= domains <= len(ascii_lowercase):
        raise ValueError(f"{where} has a domain vector of {domains}, but our UFDN takes 2 to {len(ascii_lowercase)}.")
    names = ("photo", "sketch", "paint") if domains == 3 else tuple(ascii_lowercase[:domains])
    return Sizes(names, 2 ** (layers + 1), widths, mu.shape[0])


def networks(sizes: Sizes, classes: int) -> nn.ModuleDict:
    """Our networks without storage, for their names, order and shapes."""
    with torch.device("meta"):
        nets: dict[str, nn.Module] = {
            "encoder": Encoder(sizes.widths, sizes.code_channels),
            "decoder": Decoder(len(sizes.domains), sizes.code_channels, sizes.widths[::-1]),
        }
        if classes:
            nets["class_head"] = DomainClassifier(sizes.code_channels, (), classes)
    return nn.ModuleDict(nets)


def fresh_judges(sizes: Sizes, arguments: Mapping[str, Any]) -> nn.ModuleDict:
    """D_v and, but for domain adaptation, D_x as our UFDN starts them, the same at every import."""
    domains = len(sizes.domains)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dv = DomainClassifier(sizes.code_channels, arguments.get("dv_widths", DV_WIDTHS), domains)
        if arguments:
            return nn.ModuleDict({"domain_classifier": dv})
        dx = Critic(sizes.image_size, DX_WIDTHS[: len(sizes.widths)], DX_HIDDEN, domains)
        normal_convolutions_(dx)
    return nn.ModuleDict({"domain_classifier": dv, "critic": dx})
