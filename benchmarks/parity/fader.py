"""Fader Networks' part of the parity runner: how a case is built, run and named. Official names are the release's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lightning_modules.fader as paper
from benchmarks.parity.rules import Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, flat, train, weights_in
from importers.fader import CLASSES, read_release, tensors_of
from interfaces.batch import AttributeBatch
from lightning_modules.base import Terms

PLAYERS = ("lat", "ptc", "clf")  # that step before the auto-encoder, in this order
FIXED = {"img_fm": 3, "instance_norm": False, "deconv_method": "convtranspose"}


class RecordedFader(RecordedGradients, paper.Fader):
    """Fader whose random categories follow the rule of the cases and whose losses are kept."""

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self._steps: dict[str, int] = {}  # so far, of each discriminator

    def integers(self, n: int, below: Tensor) -> Tensor:
        """The recorded draw: row i has i mod ``below``."""
        return torch.arange(n)[:, None] % below

    def keep_step(self, player: str, loss: Tensor) -> None:
        """Keep the loss of the next step of a discriminator in an iteration."""
        steps = getattr(self, f"{player}_steps")
        k = self._steps[player] = self._steps.get(player, -1) + 1
        self.keep("fader", {f"{player}_dis_cost{k % steps}": loss})

    def latent_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """As Fader's, kept."""
        loss, terms = super().latent_loss(x, y)
        self.keep_step("lat", loss)
        return loss, terms

    def patch_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """As Fader's, kept."""
        loss, terms = super().patch_loss(x, y)
        self.keep_step("ptc", loss)
        return loss, terms

    def classifier_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """As Fader's, kept."""
        loss, terms = super().classifier_loss(x, y)
        self.keep_step("clf", loss)
        return loss, terms

    def autoencoder_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """As Fader's, kept; the reconstruction with its weight, the others without."""
        loss, terms = super().autoencoder_loss(x, y)
        kept = {"rec_cost": self.lambda_ae * terms["recon"]}
        kept |= {f"ae_{player}_dis_loss": terms[player] for player in PLAYERS if player in terms}
        kept |= {f"lambda_{player}_dis": self.ramp() * getattr(self, f"lambda_{player}") for player in PLAYERS}
        self.keep("fader", kept)
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our Fader on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    recorder = train(case, module, [batch(case, k, dtype) for k in range(case.iterations)], snapshot)
    owners = {name: name.partition(".")[0] for name in init.weights}
    gradients = {f"{name.partition('.')[0]}_optimizer:{name}": g for name, g in module.gradients.items()}
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners, gradients=gradients)


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return flat(weights) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""

    def read(file: Path) -> dict[str, Tensor]:
        nets = read_release(file).items()
        return {f"{net}.{name}": tensor for net, module in nets for name, tensor in tensors_of(module).items()}

    return weights_in(case, tag, "*_ae.pth", read)


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of every optimizer."""
    return optimizer(case)[1][0], 0.0


def optimizer(case: Case) -> tuple[float, tuple[float, float]]:
    """Rate and betas of ``config.json``, such as "adam,lr=0.0002" (ValueError where ours has none such)."""
    given = {case.config["params"][f"{player}_optimizer"] for player in ("ae", "dis")}
    name, *words = given.pop().split(",")
    arguments = {key: float(value) for key, _, value in (word.partition("=") for word in words)}
    if given or name != "adam" or not set(arguments) <= {"lr", "beta1", "beta2"}:
        raise ValueError(f"{case.path}: config.json has optimizers that our Fader has not: it has one kind of Adam.")
    return arguments.get("lr", 1e-3), (arguments.get("beta1", 0.5), arguments.get("beta2", 0.999))


def build(case: Case) -> RecordedFader:
    """Our Fader with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our Fader does not have, or the weights are of other sizes.
    """
    p = case.config["params"]
    for name, ours in FIXED.items():
        if p[name] != ours:
            raise ValueError(f"{case.path}: {name} is {p[name]!r}, but our Fader has only {ours!r}.")
    start = official_weights(case, "init")
    lr, betas = optimizer(case)
    module = RecordedFader(
        attributes=tuple(name for name, _ in p["attr"]),
        categories=tuple(n for _, n in p["attr"]),
        image_size=p["img_sz"],
        width=p["init_fm"],
        max_width=p["max_fm"],
        layers=p["n_layers"],
        skips=p["n_skip"],
        hidden=p["hid_dim"],
        lat_dropout=p["lat_dis_dropout"],
        dropout=p["dec_dropout"],
        lambda_ae=p["lambda_ae"],
        **{f"lambda_{player}": p[f"lambda_{player}_dis"] for player in PLAYERS},
        **{f"{player}_steps": p[f"n_{player}_dis"] for player in PLAYERS},
        ramp=p["lambda_schedule"],
        smooth=p["smooth_label"],
        lr=lr,
        betas=betas,
        clip=p["clip_grad_norm"],
    )
    ours = {name: value for name, value in module.state_dict().items() if name in ("iterations", "skipped")}
    try:
        module.load_state_dict(ours | start)
    except RuntimeError as error:
        raise ValueError(f"{case.path}: init/ does not hold networks of the sizes in config.json.") from error
    return module


@torch.no_grad()
def forward_outputs(module: RecordedFader, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    x, y = case.batch["iter0.ae0.x"].to(dtype), case.batch["iter0.ae0.y"].to(dtype)
    ae = module.eval().ae
    maps = ae.encode(x)
    outputs = {f"enc{k}": h for k, h in enumerate(maps)}
    h = maps[-1]
    for k in range(len(ae.dec_layers)):
        h = ae.decode_layer(k, h, maps, y)
        outputs[f"dec{k}"] = h
    categories = case.config["params"]["attr"]
    outputs["flipped_attributes"] = module.planes(module.any_category(torch.zeros(len(x), len(categories))))
    code = maps[-1 - module.skips]
    readers = {"lat_dis": (module.lat_dis, code), "ptc_dis": (module.ptc_dis, x), "clf_dis": (module.clf_dis, x)}
    outputs |= {name: net(seen) for name, (net, seen) in readers.items() if net is not None}
    module.train()
    return outputs


def snapshot(module: RecordedFader, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights, whose names are the official ones; the case holds no state of optimizers."""
    return flat({k: t for k, t in module.state_dict().items() if k.partition(".")[0] in CLASSES})


def batch(case: Case, iteration: int, dtype: torch.dtype) -> AttributeBatch:
    """The recorded batches of an iteration's steps as one, in the order of the steps.

    Raises:
        ValueError: one is missing, or not of the size in ``config.json``.
    """
    p = case.config["params"]
    steps = [f"{player}_dis{k}" for player in PLAYERS for k in range(p[f"n_{player}_dis"])] + ["ae0"]
    images, categories = [], []
    for step in (f"iter{iteration}.{step}" for step in steps):
        if f"{step}.x" not in case.batch or f"{step}.y" not in case.batch:
            raise ValueError(f"{case.path}: batch.safetensors lacks {step}.x or {step}.y.")
        x, y = case.batch[f"{step}.x"], case.batch[f"{step}.y"]
        expected = [p["batch_size"], 3, p["img_sz"], p["img_sz"]]
        if list(x.shape) != expected:
            raise ValueError(f"{case.path}: {step}.x is {list(x.shape)}, but config.json says {expected}.")
        images.append(x.to(dtype))
        categories.append(torch.stack([own.argmax(1) for own in y.split([n for _, n in p["attr"]], 1)], 1))
    return AttributeBatch(torch.cat(images), torch.cat(categories))
