"""UNIT's part of the parity runner: how a case is built, run and named. The official names are those of NVlabs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_modules.unit as paper
from benchmarks.parity_rules import Case, Run, Snapshot, normal, number
from importers.unit import DOMAINS, Release, checkpoint, official, read_release, sizes_of
from interfaces.batch import UnpairedBatch
from lightning_modules.base import Terms

# What of the official configuration our UNIT does not vary.
FIXED = {
    ("gen", "activ"): "relu",
    ("gen", "pad_type"): "reflect",
    ("dis", "activ"): "lrelu",
    ("dis", "pad_type"): "reflect",
    ("dis", "norm"): "none",
    ("input_dim_a",): 3,
    ("input_dim_b",): 3,
    ("vgg_w",): 0,  # no case holds the weights of VGG
}


class RecordedUNIT(paper.UNIT):
    """UNIT whose noise follows the rule of the cases and whose losses are kept, each domain's part by itself."""

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.draws: list[tuple[str, list[int]]] = []
        self.losses: list[dict[str, float]] = []

    def noise_like(self, x: Tensor) -> Tensor:
        """The recorded draw of this shape."""
        self.draws.append(("randn", list(x.shape)))
        return normal(x.shape).to(x)

    def discriminator_loss(self, batch: UnpairedBatch, x_ba: Tensor, x_ab: Tensor) -> tuple[Tensor, Terms, Terms]:
        """As UNIT's, kept."""
        loss, terms, scores = super().discriminator_loss(batch, x_ba, x_ab)
        kept = {"loss_dis_a": terms["a"], "loss_dis_b": terms["b"], "loss_dis_total": loss}
        self.losses.append({f"D.{name}": term.item() for name, term in kept.items()})
        return loss, terms, scores

    def generator_loss(
        self, batch: UnpairedBatch, mu_a: Tensor, mu_b: Tensor, decoded: paper.Decoded
    ) -> tuple[Tensor, Terms]:
        """As UNIT's, kept. Its terms are sums over the domains: their parts are caught where they are computed."""
        adversarial = "lsgan_generator" if self.least_squares else "log_generator"
        with _caught(adversarial) as adv, _caught("kl_unit_variance") as kl, _caught("l1") as recon:
            loss, terms = super().generator_loss(batch, mu_a, mu_b, decoded)
        names = {
            "adv_a": adv[0], "adv_b": adv[1],
            "recon_kl_a": kl[0], "recon_kl_b": kl[1], "recon_kl_cyc_aba": kl[2], "recon_kl_cyc_bab": kl[3],
            "recon_x_a": recon[0], "recon_x_b": recon[1], "cyc_x_a": recon[2], "cyc_x_b": recon[3],
            "total": loss,
        }  # fmt: skip
        self.losses[-1] |= {f"G.loss_gen_{name}": value.item() for name, value in names.items()}
        self.losses[-1] |= {"G.loss_gen_vgg_a": 0.0, "G.loss_gen_vgg_b": 0.0}
        return loss, terms


class Recorder(pl.Callback):
    """Keeps learning rates and, after the iterations that the case asks for, weights and moments."""

    def __init__(self, tags: list[str]) -> None:
        self.tags = {number(tag): tag for tag in tags}
        self.lrs: list[list[float]] = []
        self.after: dict[str, Snapshot] = {}
        self.draws: list[tuple[str, list[int]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The rates that this iteration uses."""
        self.lrs.append([opt.param_groups[0]["lr"] for opt in trainer.optimizers])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The state after this iteration."""
        if batch_idx == 0:
            self.draws = list(pl_module.draws)
        if batch_idx + 1 in self.tags:
            states = [opt.state_dict() for opt in trainer.optimizers]
            self.after[self.tags[batch_idx + 1]] = snapshot(pl_module, states)


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our UNIT on a case, in its own ``training_step`` under Lightning's trainer."""
    release = _release(case, "init")
    assert release is not None
    module = build(case, release).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    recorder = Recorder(case.tags)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true" if dtype == torch.float64 else "32-true",
        max_epochs=1,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [UnpairedBatch(*(_input(case, k, d).to(dtype) for d in DOMAINS)) for k in range(case.iterations)]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    owners = {name: name[:3] for name in init.weights}
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners)


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    release = _release(case, tag)
    return None if release is None else _flat(release)


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of every optimizer."""
    hp = case.config["hyperparameters"]
    return hp["beta1"], hp["weight_decay"]


def build(case: Case, release: Release) -> RecordedUNIT:
    """Our UNIT with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our UNIT does not have.
    """
    hp = case.config["hyperparameters"]
    for keys, ours in FIXED.items():
        value = hp
        for key in keys:
            value = value.get(key, ours)
        if value != ours:
            raise ValueError(f"{case.path}: {'.'.join(keys)} is {value!r}, but our UNIT has only {ours!r}.")
    if hp["dis"]["gan_type"] not in ("lsgan", "nsgan"):
        raise ValueError(f"{case.path}: dis.gan_type is {hp['dis']['gan_type']!r}, but our UNIT has lsgan and nsgan.")
    if hp["lr_policy"] not in ("step", "constant"):
        raise ValueError(f"{case.path}: lr_policy is {hp['lr_policy']!r}, but our UNIT has step and constant.")
    gen, dis = hp["gen"], hp["dis"]
    sizes = (gen["dim"], gen["n_downsample"], gen["n_res"], dis["dim"], dis["n_layer"], dis["num_scales"])
    if sizes_of(release) != sizes:
        raise ValueError(f"{case.path}: config.json says sizes {sizes}, but init/ holds {tuple(sizes_of(release))}.")
    module = RecordedUNIT(
        **sizes_of(release)._asdict(),
        least_squares=dis["gan_type"] == "lsgan",
        lambda_gan=hp["gan_w"],
        lambda_kl=hp["recon_kl_w"],
        lambda_recon=hp["recon_x_w"],
        lambda_cycle_kl=hp["recon_kl_cyc_w"],
        lambda_cycle=hp["recon_x_cyc_w"],
        lr=hp["lr"],
        betas=(hp["beta1"], hp["beta2"]),
        weight_decay=hp["weight_decay"],
        lr_step=hp.get("step_size", 1),
        lr_gamma=hp["gamma"] if hp["lr_policy"] == "step" else 1.0,
    )
    module.load_state_dict(checkpoint(release)["state_dict"])
    return module


@torch.no_grad()
def forward_outputs(module: RecordedUNIT, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    a, b = (_input(case, 0, d).to(dtype) for d in DOMAINS)
    (e_a, e_b), (g_a, g_b), (d_a, d_b) = module.encoders, module.decoders, module.discriminators
    h_a, h_b = e_a(a), e_b(b)
    noise = normal(h_a.shape).to(h_a)
    x_ab, x_ba = module.translate(a, 0, 1), module.translate(b, 1, 0)
    h_ab, h_ba = e_b(x_ab), e_a(x_ba)
    outputs = {
        "noise": noise, "hidden_a": h_a, "hidden_b": h_b,
        "recon_a": module.translate(a, 0, 0), "recon_b": module.translate(b, 1, 1), "x_ab": x_ab, "x_ba": x_ba,
        "x_ab_noise": g_b(h_a + noise), "x_ba_noise": g_a(h_b + normal(h_b.shape).to(h_b)),
        "hidden_a_recon": h_ab, "hidden_b_recon": h_ba, "x_aba": g_a(h_ab), "x_bab": g_b(h_ba),
    }  # fmt: skip
    for name, dis, real, fake in (("dis_a", d_a, a, x_ba), ("dis_b", d_b, b, x_ab)):
        for kind, x in (("real", real), ("fake", fake)):
            outputs |= {f"{name}.{kind}.s{s}": score for s, score in enumerate(dis(x))}
    return outputs


def snapshot(module: RecordedUNIT, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our state under official names."""
    ours = {"state_dict": module.state_dict(), "optimizer_states": optimizer_states}
    return _flat(official(ours, "the model"))


def _input(case: Case, iteration: int, domain: str) -> Tensor:
    """A recorded batch; its size must be that of ``config.json``."""
    name, sizes = f"iter{iteration}.{domain}", case.config["sizes"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    expected = [sizes["batch_size"], sizes["channels"], *sizes["image_hw"]]
    if list(case.batch[name].shape) != expected:
        raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
    return case.batch[name]


def _release(case: Case, tag: str) -> Release | None:
    """Official files of a folder of the case, or the same as ``all_nets.safetensors``."""
    folder = case.path / tag
    if any(folder.glob("gen_*.pt")):
        return read_release(folder)
    if not case.has(f"{tag}/all_nets.safetensors"):
        if tag == "init":
            raise FileNotFoundError(f"{folder} has neither gen_*.pt nor all_nets.safetensors.")
        return None
    nets: dict[str, dict[str, dict[str, Tensor]]] = {"gen": {}, "dis": {}}
    for name, tensor in case.tensors(f"{tag}/all_nets.safetensors").items():
        net, _, key = name.partition(".")
        nets[net[:3]].setdefault(net[4:], {})[key] = tensor
    where = f"{folder / 'all_nets.safetensors'}"
    return Release(nets["gen"], nets["dis"], None, number(tag.replace("init", "0")), {"gen": where, "dis": where})


def _flat(release: Release) -> Snapshot:
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


@contextlib.contextmanager
def _caught(name: str) -> Iterator[list[Tensor]]:
    """Values of a loss function that UNIT calls, in the order of its calls: a before b, first pass before cycle."""
    values: list[Tensor] = []
    function: Callable[..., Tensor] = getattr(paper, name)

    def catch(*args: Tensor) -> Tensor:
        values.append(function(*args))
        return values[-1]

    setattr(paper, name, catch)
    try:
        yield values
    finally:
        setattr(paper, name, function)
