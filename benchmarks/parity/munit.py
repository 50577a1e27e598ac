"""MUNIT's part of the parity runner: how a case is built, run and named. The official names are those of NVlabs."""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.munit as paper
from benchmarks.parity.nvlabs import FIXED, adam, flat, initial, recorded
from benchmarks.parity.rules import Case, Run, Snapshot, normal
from benchmarks.parity.run import Recorded, caught, check_among, check_fixed, recorded_input, train
from importers.munit import checkpoint, official, sizes_of
from importers.nvlabs import DOMAINS, Release
from interfaces.batch import UnpairedBatch
from lightning_modules.base import Terms

__all__ = ["adam", "recorded", "run"]  # what the runner asks of a paper


class RecordedMUNIT(Recorded, paper.MUNIT):
    """MUNIT whose styles follow the rule of the cases and whose losses are kept, each domain's part by itself."""

    def discriminator_loss(self, batch: UnpairedBatch, x_ba: Tensor, x_ab: Tensor) -> tuple[Tensor, Terms, Terms]:
        """As MUNIT's, kept."""
        loss, terms, scores = super().discriminator_loss(batch, x_ba, x_ab)
        self.keep("D", {"loss_dis_a": terms["a"], "loss_dis_b": terms["b"], "loss_dis_total": loss})
        return loss, terms, scores

    def generator_loss(
        self, batch: UnpairedBatch, c_a: Tensor, c_b: Tensor, decoded: paper.Decoded
    ) -> tuple[Tensor, Terms]:
        """As MUNIT's, kept. Its terms are sums over the domains: their parts are caught where they are computed."""
        with caught(paper, "lsgan_generator") as adv, caught(paper, "l1") as distances:
            loss, terms = super().generator_loss(batch, c_a, c_b, decoded)
        parts = {"adv": adv}
        for name, term in (("recon_x", "recon"), ("recon_s", "style"), ("recon_c", "content"), ("cycrecon_x", "cycle")):
            parts[name] = [distances.pop(0), distances.pop(0)] if term in terms else [torch.zeros(()), torch.zeros(())]
        names = {f"loss_gen_{name}_{d}": part[k] for name, part in parts.items() for k, d in enumerate(DOMAINS)}
        self.keep("G", names | {"loss_gen_vgg_a": 0.0, "loss_gen_vgg_b": 0.0, "loss_gen_total": loss})
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our MUNIT on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case, initial(case)).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    batches = [UnpairedBatch(*(recorded_input(case, k, d).to(dtype) for d in DOMAINS)) for k in range(case.iterations)]
    recorder = train(case, module, batches, snapshot)
    owners = {name: name[:3] for name in init.weights}
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners, statistics(module))


def build(case: Case, release: Release) -> RecordedMUNIT:
    """Our MUNIT with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our MUNIT does not have.
    """
    hp = case.config["hyperparameters"]
    check_fixed(case, FIXED | {("dis", "gan_type"): "lsgan"}, "MUNIT")
    check_among(case, ("lr_policy",), ("step", "constant"), "MUNIT")
    gen, dis = hp["gen"], hp["dis"]
    sizes = (
        *(gen["dim"], gen["n_downsample"], gen["n_res"], gen["style_dim"], gen["mlp_dim"]),
        *(dis["dim"], dis["n_layer"], dis["num_scales"]),
    )
    if sizes_of(release) != sizes:
        raise ValueError(f"{case.path}: config.json says sizes {sizes}, but init/ holds {tuple(sizes_of(release))}.")
    module = RecordedMUNIT(
        **sizes_of(release)._asdict(),
        lambda_gan=hp["gan_w"],
        lambda_recon=hp["recon_x_w"],
        lambda_style=hp["recon_s_w"],
        lambda_content=hp["recon_c_w"],
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
def forward_outputs(module: RecordedMUNIT, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    a, b = (recorded_input(case, 0, d).to(dtype) for d in DOMAINS)
    (g_a, g_b), (d_a, d_b) = module.decoders, module.discriminators
    c_a, c_b, own_a, own_b = (
        module.content_of(a, 0),
        module.content_of(b, 1),
        module.style_of(a, 0),
        module.style_of(b, 1),
    )
    given = normal((len(a), module.style_spec.size, 1, 1)).to(a)
    s = given.flatten(1)
    x_ab, x_ba = module.translate(a, 0, 1, s), module.translate(b, 1, 0, s)
    c_aba, own_ab = module.content_of(x_ab, 1), module.style_of(x_ab, 1)
    outputs = {
        "given_style": given, "content_a": c_a, "content_b": c_b,
        "style_a": own_a[:, :, None, None], "style_b": own_b[:, :, None, None],
        "adain_a": g_a.mlp(own_a), "adain_b_given": g_b.mlp(s),
        "recon_a": module.translate(a, 0, 0, own_a), "recon_b": module.translate(b, 1, 1, own_b),
        "x_ab": x_ab, "x_ba": x_ba, "x_ab_style_b": module.translate(a, 0, 1, own_b),
        "content_a_recon": c_aba, "style_b_recon": own_ab[:, :, None, None], "x_aba": g_a(c_aba, own_a),
    }  # fmt: skip
    for name, discriminator, real, fake in (("dis_a", d_a, a, x_ba), ("dis_b", d_b, b, x_ab)):
        for kind, x in (("real", real), ("fake", fake)):
            outputs |= {f"{name}.{kind}.s{s}": score for s, score in enumerate(discriminator(x))}
    return outputs


def statistics(module: RecordedMUNIT) -> dict[str, int]:
    """Elements of the official AdaIN layers' statistics, which nothing reads, as ``importers.munit`` writes them."""
    gen = official({"state_dict": module.state_dict()}, "the model").gen
    return {
        f"gen_{d}_dummy_buffers": sum(t.numel() for name, t in gen[d].items() if "running_" in name) for d in DOMAINS
    }


def snapshot(module: RecordedMUNIT, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our state under official names."""
    ours = {"state_dict": module.state_dict(), "optimizer_states": optimizer_states}
    return flat(official(ours, "the model"))
