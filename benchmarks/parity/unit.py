"""UNIT's part of the parity runner: how a case is built, run and named. The official names are those of NVlabs."""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.unit as paper
from benchmarks.parity.nvlabs import FIXED, adam, flat, initial, recorded
from benchmarks.parity.rules import Case, Run, Snapshot, normal
from benchmarks.parity.run import Recorded, caught, check_among, check_fixed, recorded_input, train
from importers.nvlabs import DOMAINS, Release
from importers.unit import checkpoint, official, sizes_of
from interfaces.batch import UnpairedBatch
from lightning_modules.base import Terms

__all__ = ["adam", "recorded", "run"]  # what the runner asks of a paper


class RecordedUNIT(Recorded, paper.UNIT):
    """UNIT whose noise follows the rule of the cases and whose losses are kept, each domain's part by itself."""

    def discriminator_loss(self, batch: UnpairedBatch, x_ba: Tensor, x_ab: Tensor) -> tuple[Tensor, Terms, Terms]:
        """As UNIT's, kept."""
        loss, terms, scores = super().discriminator_loss(batch, x_ba, x_ab)
        self.keep("D", {"loss_dis_a": terms["a"], "loss_dis_b": terms["b"], "loss_dis_total": loss})
        return loss, terms, scores

    def generator_loss(
        self, batch: UnpairedBatch, mu_a: Tensor, mu_b: Tensor, decoded: paper.Decoded
    ) -> tuple[Tensor, Terms]:
        """As UNIT's, kept. Its terms are sums over the domains: their parts are caught where they are computed."""
        adversarial = "lsgan_generator" if self.least_squares else "log_generator"
        # a before b, first pass before cycle
        with caught(paper, adversarial) as adv, caught(paper, "kl_unit_variance") as kl, caught(paper, "l1") as recon:
            loss, terms = super().generator_loss(batch, mu_a, mu_b, decoded)
        names = {
            "adv_a": adv[0], "adv_b": adv[1],
            "recon_kl_a": kl[0], "recon_kl_b": kl[1], "recon_kl_cyc_aba": kl[2], "recon_kl_cyc_bab": kl[3],
            "recon_x_a": recon[0], "recon_x_b": recon[1], "cyc_x_a": recon[2], "cyc_x_b": recon[3],
            "vgg_a": 0.0, "vgg_b": 0.0, "total": loss,
        }  # fmt: skip
        self.keep("G", {f"loss_gen_{name}": value for name, value in names.items()})
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our UNIT on a case, in its own ``training_step`` under Lightning's trainer."""
    release = initial(case)
    module = build(case, release).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    batches = [UnpairedBatch(*(recorded_input(case, k, d).to(dtype) for d in DOMAINS)) for k in range(case.iterations)]
    recorder = train(case, module, batches, snapshot)
    owners = {name: name[:3] for name in init.weights}
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners)


def build(case: Case, release: Release) -> RecordedUNIT:
    """Our UNIT with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our UNIT does not have.
    """
    hp = case.config["hyperparameters"]
    check_fixed(case, FIXED, "UNIT")
    check_among(case, ("dis", "gan_type"), ("lsgan", "nsgan"), "UNIT")
    check_among(case, ("lr_policy",), ("step", "constant"), "UNIT")
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
    a, b = (recorded_input(case, 0, d).to(dtype) for d in DOMAINS)
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
    return flat(official(ours, "the model"))
