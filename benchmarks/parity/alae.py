"""Part of the parity runner for ALAE, of MLPs and of styles. The official names are those of podgorskiy/ALAE."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lightning_modules.alae as mlp
import lightning_modules.style_alae as style
from benchmarks.parity.rules import Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, train, weights_in
from importers.alae import MLPSizes, StyleSizes, checkpoint, official, read_release, sizes_of_ours, tables
from interfaces.batch import ImageBatch
from interfaces.growth import Phase
from lightning_modules.base import Terms
from networks.style import faded

OPTIMIZERS = {
    "discriminator": "encoder_optimizer",
    "mapping_tl": "encoder_optimizer",
    "generator": "decoder_optimizer",
    "mapping_fl": "decoder_optimizer",
}
# Of config.json, and what tensors say of the same.
STYLE = {"channels": "channels", "latent": "latent", "startf": "width", "mapping_layers": "mapping_layers"}
MLP = {"latent": "latent", "width": "width", "mapping_layers": "mapping_layers"}
NEEDED = ("B", "lr", "b1", "dbeta", "lod", "layer_count", "resolution")
UNUSED = "bn_2"  # statistics of a batch normalisation that the release never uses and ours does not have


class RecordedALAE(RecordedGradients):
    """What both have in common: losses are kept.

    Attributes:
        named: what the runner calls the player of the case's losses.
    """

    named: str

    def log_terms(self, player: str, terms: Terms) -> None:
        """Keep losses under the names of the case."""
        kept: dict[str, Tensor | float] = {}
        if player == "d":
            r1 = self.gamma * terms["r1"]
            kept = {"loss_d": terms["adv"] + r1, "d_softplus": terms["adv"], "r1_penalty_term": r1}
            kept |= {"d_real_mean": terms["real"], "d_fake_mean": terms["fake"]}
        elif player == "g":
            kept = {"loss_g": terms["adv"]}
        elif player == "e":
            kept = {"lae": terms["w"]}
        self.keep(self.named, kept)


class RecordedMLP(RecordedALAE, mlp.ALAE):
    """ALAE."""

    named = "alae"

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """As ever; what the case has of the fade and of the average is kept too."""
        self.keep(self.named, {"blend_factor": 1.0, "ema_betta": 0.5 ** (len(batch.image) / 10_000)})
        super().training_step(batch, batch_idx)


class RecordedStyle(RecordedALAE, style.StyleALAE):
    """StyleALAE in the phases of the case, which are shares of epochs, and not of images."""

    named = "stylealae"
    phases: list[Phase]

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """As ever; what the case has of the fade and of the average is kept too."""
        blend = style.weight_of(self.phase().share)
        self.keep(self.named, {"blend_factor": blend, "ema_betta": 0.5 ** (len(batch.image) / 10_000)})
        super().training_step(batch, batch_idx)

    def phase(self) -> Phase:
        """What this iteration trains."""
        return self.phases[self.iteration]

    def set_rates(self, phase: Phase) -> None:
        """The rate of the case; nothing grows in it."""
        for opt in self.optimizers(use_pl_optimizer=False):
            for group in opt.param_groups:
                group["lr"] = self.lrs[0]

    @property
    def reached(self) -> tuple[int, float]:
        """Of iteration 1, which ``forward.json`` is about."""
        return self.phases[0].level, style.weight_of(self.phases[0].share)

    def crossover(self, level: int) -> int:
        """Styles are mixed from where there are none left."""
        return 2 * (level + 1)


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train ours on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    recorder = train(case, module, [batch(case, k, dtype) for k in range(case.iterations)], snapshot)
    owners = {name: OPTIMIZERS.get(name.partition(".")[0].removesuffix("_s"), "") for name in init.weights}
    gradients = {
        f"{OPTIMIZERS[net]}:{net}.{row.official}": row.save(g) if row.save else g
        for net, table in tables(sizes_of_ours(module.state_dict(), "")).items()
        for row in table
        if (g := module.gradients.get(str(row.ours))) is not None
    }
    return Run(
        forward,
        module.losses,
        init,
        recorder.after,
        recorder.lrs,
        recorder.draws,
        owners,
        steps=dict.fromkeys(init.weights, 2),
        gradients=gradients,
    )


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return Snapshot({name: t for name, t in weights.items() if UNUSED not in name}) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""

    def read_all(file: Path) -> dict[str, Tensor]:
        return {f"{net}.{name}": t for net, tensors in read_release(file).items() for name, t in tensors.items()}

    return weights_in(case, tag, "model_*.pth", read_all)


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of both optimizers; there is no first moment."""
    return 0.0, 0.0


def build(case: Case) -> Any:
    """Our module with the initial weights of the case, of the sizes that ``config.json`` names.

    Raises:
        FileNotFoundError: there are no initial weights.
        ValueError: the configuration asks for what ours does not have, or the weights are of other sizes.
    """
    config = case.config.get("sizes", {})
    if missing := [name for name in NEEDED if name not in config]:
        raise ValueError(f"{case.path}: config.json has no sizes of ALAE: {', '.join(missing)}.")
    if config["dbeta"] != 0.995:
        raise ValueError(f"{case.path}: dbeta is {config['dbeta']}, but the mean of w of our ALAE follows by 0.995.")
    release: dict[str, dict[str, Tensor]] = {}
    for name, tensor in official_weights(case, "init").items():
        net, _, key = name.partition(".")
        release.setdefault(net, {})[key] = tensor
    ours = checkpoint(release, f"{case.path / 'init'}")
    arguments = {k: v for k, v in ours["hyper_parameters"].items() if not k.startswith("_")}
    sizes = sizes_of_ours(ours["state_dict"], f"{case.path / 'init'}")
    check(case, sizes)
    rates: dict[str, Any] = {"beta2": config["b1"], "psi": 1.0}
    if isinstance(sizes, MLPSizes):
        module: Any = RecordedMLP(**arguments | rates | {"lr": config["lr"]})
    else:
        module = RecordedStyle(**arguments | rates | {"lrs": (config["lr"],)})
        module.phases = phases(case)
    module.load_state_dict(ours["state_dict"])
    module.iterations.zero_()
    return module


def check(case: Case, sizes: StyleSizes | MLPSizes) -> None:
    """Refuse tensors of other sizes than ``config.json`` names (ValueError)."""
    config, found = case.config["sizes"], sizes._asdict()
    pairs = {name: (config.get(name), found[ours]) for name, ours in (MLP if "width" in config else STYLE).items()}
    if isinstance(sizes, StyleSizes):
        pairs["layer_count"] = (config["layer_count"], sizes.levels)
        pairs["resolution"] = (config["resolution"], 4 * 2 ** config["lod"])
    for name, (asked, given) in pairs.items():
        if asked != given:
            raise ValueError(f"{case.path}: config.json says that {name} is {asked}, but init/ is of {given}.")


def phases(case: Case) -> list[Phase]:
    """Of each iteration, from the epoch in which the case begins (``EPOCHS_PER_LOD`` of the release)."""
    config, epoch = case.config["sizes"], case.config["yacs_cfg"]["TRAIN.TRAIN_EPOCHS"] - 1
    level, epochs = config["lod"], config["epl"]
    begun, fade = epoch - level * epochs, (epochs // 2) * config["ds"]
    result = []
    for k in range(case.iterations):
        share = (begun * config["ds"] + k * config["B"]) / fade if level > 0 and begun < epochs // 2 else 1.0
        result.append(Phase(level, config["resolution"], config["B"], share, 0))
    return result


@torch.no_grad()
def forward_outputs(module: Any, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    net, config = copy.deepcopy(module), case.config["sizes"]  # whose draws are not those of training
    x = batch(case, 0, dtype).image
    z = net.noise_like(x.new_empty(config["B"], config["latent"]))
    outputs = {"z": z, "w": (w := net.f(z))}
    if isinstance(net, mlp.ALAE):
        x, encode, decode = net.pixels(x), net.e, net.g
    else:
        level, blend = net.reached
        x = faded(x, blend)
        for where, blocks in (("decode", net.g.blocks), ("encode", net.e.blocks)):
            for k, block in enumerate(blocks):
                block.register_forward_hook(kept_in(outputs, f"{where}_block{k}"))

        def encode(x: Tensor) -> Tensor:
            return net.e(x, level, blend)

        def decode(w: Tensor) -> Tensor:
            return net.g(net.rows(w, level), level, blend, net.noise_like)

    outputs["fake"] = fake = decode(w)
    outputs["x_encoded"] = code = encode(x)
    if not isinstance(net, mlp.ALAE):
        outputs = dict(outputs)  # the hooks have kept what they should
        rows = net.rows(w, level)
        outputs["fake_no_noise"] = net.g(rows, level, blend)
        outputs["fake_blend1"] = net.g(rows, level, 1.0, net.noise_like)
        outputs["fake_lower_lod"] = net.g(rows, max(level - 1, 0), 1.0, net.noise_like)
    outputs |= {"d_real": net.d(code), "fake_encoded": (again := encode(fake)), "d_fake": net.d(again)}
    outputs["x_reconstruction"] = decode(code)
    return outputs


def kept_in(outputs: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps the features that a block passes on."""

    def keep(module: Any, inputs: Any, output: Any) -> None:
        outputs[name] = output[0] if isinstance(output, tuple) else output

    return keep


def snapshot(module: Any, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights under official names; the runner does not compare the state of this optimizer."""
    models = official({"state_dict": module.state_dict()}, "")
    return Snapshot(
        {
            f"{net}.{name}": t.clone()
            for net, tensors in models.items()
            for name, t in tensors.items()
            if UNUSED not in name
        }
    )


def batch(case: Case, iteration: int, dtype: torch.dtype) -> ImageBatch:
    """A recorded batch in [-1, 1]; in float64 it is normalised anew from its 256 values.

    Raises:
        ValueError: it is missing or not of the size of ``config.json``.
    """
    name, config = f"iter{iteration}.x", case.config["sizes"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    expected = [config["B"], config.get("channels", 1), config["resolution"], config["resolution"]]
    if list(case.batch[name].shape) != expected:
        raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
    x, unit = case.batch[name].to(dtype), config["resolution"] == 28  # which is in [0, 1]
    if dtype == torch.float64:
        x = (x * 255).round() / 255 if unit else ((x + 1) * 127.5).round() / 127.5 - 1
    return ImageBatch(2 * x - 1 if unit else x)
