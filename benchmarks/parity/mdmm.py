"""The part of multi-domain DRIT++ in the parity runner. The official names are those of HsinYingLee/MDMM.

One recorded iteration is an update of the content discriminator alone, on a batch of its own, and a full update: two
iterations of ours with ``d_iter = 2``.
"""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.drit_multidomain as paper
from benchmarks.parity import hsinyinglee
from benchmarks.parity.hsinyinglee import adam, assembled, flat, official_file, packed
from benchmarks.parity.rules import Case, Run, Snapshot, normal
from benchmarks.parity.run import Recorded, check_among, check_fixed, received, train
from importers.hsinyinglee import MAKERS
from importers.mdmm import NETS, checkpoint, layout, official, read_release, sizes_of
from interfaces.batch import DomainBatch
from lightning_modules.base import Terms

__all__ = ["adam", "recorded", "run"]  # what the runner asks of a paper

FIXED = {
    ("dis_norm",): "None",  # the code ignores every other
    ("dis_spectral_norm",): False,
    ("input_dim",): 3,
    ("isDcontent",): True,
    ("eps",): 1e-8,
}
STEPS = {"enc_c": 2, "gen": 2}  # an iteration of the case, where not one
# Optimizer steps of one iteration of the case, in order: suffix of the official name, networks that step.
UPDATES = (
    ("", ("disContent",)),
    ("", ("dis1", "dis2")),
    (".phase1", MAKERS),
    (".phase2", ("enc_c", "gen")),
)


class RecordedMDMM(Recorded, paper.MultiDomainDRIT):
    """MultiDomainDRIT whose noise follows the rule of the cases and whose losses are kept.

    Attributes:
        gradients: what each optimizer step so far received, by our name.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """As ever; then keep what the optimizer receives in the first iteration of the case."""
        super().on_before_optimizer_step(optimizer)
        if len(self.gradients) < len(UPDATES):
            self.gradients.append(received(self, optimizer))

    def log_terms(self, player: str, terms: Terms) -> None:
        """Keep what D^c's steps log; they have no loss function of their own."""
        if player == "content":
            self.keep("D_content", {"disContent_loss": terms["domain"]})

    def discriminator_loss(self, x: Tensor, k: Tensor, drawn: paper.Drawn) -> tuple[Tensor, Terms, Terms]:
        """As the paper's, kept; the official log has domain terms without their weight."""
        loss, terms, scores = super().discriminator_loss(x, k, drawn)
        names = {"D1_gan": "encoded", "D1_cls": "cls_encoded", "D2_gan": "random", "D2_cls": "cls_random"}
        self.keep("D", {f"{official}_loss": terms[ours] for official, ours in names.items()})
        return loss, terms, scores

    def encoded_loss(self, x: Tensor, k: Tensor, drawn: paper.Drawn) -> tuple[Tensor, Terms]:
        """As the paper's, kept with weights."""
        loss, terms = super().encoded_loss(x, k, drawn)
        weighted = {
            "gan_loss": self.lambda_adv * terms["adv"],
            "gan_cls_loss": self.lambda_cls_g * terms["cls"],
            "gan_loss_content": self.lambda_content * terms["content"],
            "kl_loss_zc": self.lambda_content_norm * terms["content_norm"],
            "kl_loss_za": self.lambda_kl * terms["kl"],
            "l1_self_rec_loss": self.lambda_recon * terms["recon"],
            "l1_cc_rec_loss": self.lambda_cycle * terms["cycle"],
            "G_loss": loss,
        }
        self.keep("EG", weighted)
        return loss, terms

    def random_loss(self, k: Tensor, drawn: paper.Drawn) -> tuple[Tensor, Terms]:
        """As the paper's, kept with weights."""
        loss, terms = super().random_loss(k, drawn)
        weighted = {
            "gan2_loss": self.lambda_adv * terms["adv_random"],
            "gan2_cls_loss": self.lambda_cls_g * terms["cls_random"],
            "l1_recon_z_loss": self.lambda_latent * terms["latent"],
        }
        self.keep("EG", weighted)
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our MultiDomainDRIT on a case, in its own ``training_step`` under Lightning's trainer."""
    release = _release(case, "init")
    assert release is not None
    module = build(case, release).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    batches = [batch(case, f"iter{k}{kind}", dtype) for k in range(case.iterations) for kind in ("c", "")]
    recorder = train(case, module, batches, snapshot, per_iteration=2)
    owners = {name: name.partition(".")[0] for name in init.weights}
    return Run(
        forward,
        [alone | full for alone, full in zip(module.losses[::2], module.losses[1::2], strict=True)],
        init,
        recorder.after,
        [lrs[:2] for lrs in recorder.lrs[1::2]],  # without the content discriminator's
        recorder.draws,
        owners,
        steps={name: STEPS[net] for name, net in owners.items() if net in STEPS},
        gradients=official_gradients(module),
    )


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    release = _release(case, tag)
    return None if release is None else flat(release, NETS)


def build(case: Case, release: dict[str, Any]) -> RecordedMDMM:
    """Ours with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our MultiDomainDRIT does not have.
    """
    hp, sizes = case.config["hyperparameters"], case.config["sizes"]
    check_fixed(case, FIXED, "MultiDomainDRIT")
    check_among(case, ("lr_policy",), ("lambda",), "MultiDomainDRIT")
    found, widths = sizes_of(release, str(case.path / "init")), hp["widths"]
    asked = (
        bool(hp["concat"]), sizes["nz"], sizes["num_domains"], widths["content_encoder"], widths["attribute_encoder"],
        widths["discriminator"], int(hp["crop_size"] / 64), widths["content_discriminator"],
    )  # fmt: skip
    held = (
        found.concat, found.style_size, len(found.domains), found.width, found.attribute_width, found.dis_width,
        found.dis_kernel, found.content_dis_width,
    )  # fmt: skip
    if asked != held:
        raise ValueError(f"{case.path}: config.json says sizes {asked}, but init/ holds {held}.")
    module = RecordedMDMM(
        **found._asdict(),
        lambda_cls=hp["lambda_cls"],
        lambda_cls_g=hp["lambda_cls_G"],
        lambda_recon=hp["lambda_rec"],
        lambda_cycle=hp["lambda_rec"],
        lambda_ms=0.0,
        d_iter=2,
        lr=hp["lr"],
        content_lr=hp["lr_disContent"] / hp["lr"],
        content_clip=hp["clip_grad_norm_disContent"],
        betas=(hp["beta1"], hp["beta2"]),
        weight_decay=hp["weight_decay"],
    )
    module.load_state_dict(checkpoint(release, str(case.path / "init"))["state_dict"])
    return module


@torch.no_grad()
def forward_outputs(module: RecordedMDMM, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there: contents without noise, attributes drawn."""
    x, domain = batch(case, "iter0", dtype)
    k = torch.nn.functional.one_hot(domain, len(module.domains)).to(dtype)
    e_c, e_a, g, other = module.content_encoder, module.attribute_encoder, module.generator, paper.swap
    z = normal((len(x), module.style_spec.size)).to(dtype)
    c, a = e_c(x), module.attribute(x, k)[0]
    encoded, drawn = g(other(c), a, k), g(other(c), z, k)
    again, a_again = e_c(encoded), module.attribute(encoded, k)[0]
    outputs = {
        "given_z": z, "content": c, "attr": a, "recon": g(c, a, k), "trans_encoded": encoded, "trans_random": drawn,
        "trans_next_domain": g(c, z, k.roll(1, 1)), "content_recon": again, "attr_recon": a_again,
        "cycle": g(other(again), a_again, k), "disContent": module.content_discriminator(c),
    }  # fmt: skip
    if module.concat:
        for name, y in (("", x), ("_recon", encoded), ("_random", drawn)):
            outputs[f"mu{name}"], outputs[f"logvar{name}"] = e_a(y, k)
    else:
        outputs["attr_random"] = e_a(drawn, k)
    for net, dis, fake in (("1", module.discriminator, encoded), ("2", module.random_discriminator, drawn)):
        for kind, y in (("real", x), ("fake", fake)):
            outputs[f"dis{net}.{kind}.gan"], outputs[f"dis{net}.{kind}.cls"] = dis(y)
    module.draws.clear()
    return outputs


def official_gradients(module: RecordedMDMM) -> dict[str, Tensor]:
    """Gradients of the first iteration by ``optimizer:net.parameter``."""
    sizes = sizes_of(official({"state_dict": module.state_dict()}, "the model"), "the model")
    return hsinyinglee.official_gradients(UPDATES, module.gradients, layout(sizes).tables)


def snapshot(module: RecordedMDMM, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our state under official names."""
    ours = {"state_dict": module.state_dict(), "optimizer_states": optimizer_states}
    return flat(official(ours, "the model"), NETS)


def batch(case: Case, key: str, dtype: torch.dtype) -> DomainBatch:
    """A recorded batch from the pool of pictures (ValueError)."""
    if missing := [name for name in ("pool", f"{key}.rows", f"{key}.domain") if name not in case.batch]:
        raise ValueError(f"{case.path}: batch.safetensors lacks {', '.join(missing)}.")
    image = assembled(case, key, "pool").to(dtype)
    return DomainBatch(image, case.batch[f"{key}.domain"].argmax(1))


def _release(case: Case, tag: str) -> dict[str, Any] | None:
    """The official file of a folder of the case, or the same as ``all_nets.safetensors``."""
    file = official_file(case, tag)
    return packed(case, tag, NETS) if file is None else read_release(file)
