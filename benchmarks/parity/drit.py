"""DRIT's part of the parity runner (DRIT, DRIT++, with and without concat). The official names are HsinYingLee's.

One recorded iteration is an update of the content discriminator alone, on a batch of its own, and a full update: two
iterations of ours with ``d_iter = 2``.
"""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.drit as paper
from benchmarks.parity import hsinyinglee
from benchmarks.parity.hsinyinglee import adam, assembled, flat, official_file, packed
from benchmarks.parity.rules import NOISE_SEED, Case, Run, Snapshot, normal
from benchmarks.parity.run import Recorded, caught, check_among, check_fixed, received, train
from importers.drit import checkpoint, layout, official, read_release
from importers.drit_names import NETS, sizes_of
from importers.hsinyinglee import MAKERS
from interfaces.batch import UnpairedBatch
from lightning_modules.base import Terms

__all__ = ["adam", "recorded", "run"]  # what the runner asks of a paper

FIXED = {
    ("dis_norm",): "None",  # the code ignores every other
    ("dis_spectral_norm",): False,
    ("input_dim_a",): 3,
    ("input_dim_b",): 3,
    ("eps",): 1e-8,
}
SECOND_SEED = NOISE_SEED + 1  # of z2, by the exception to the noise rule
STEPS = {"disContent": 2, "enc_c": 2, "gen": 2}  # an iteration of the case, where not one
# Optimizer steps of one iteration of the case, in order: suffix of the official name, networks that step.
UPDATES = (
    ("", ("disContent",)),
    ("", ("disA", "disA2", "disB", "disB2")),
    (".second", ("disContent",)),
    (".phase1", MAKERS),
    (".phase2", ("enc_c", "gen")),
)


class RecordedDRIT(Recorded, paper.DRIT):
    """DRIT whose noise follows the rule of the cases and whose losses are kept, each domain's part by itself.

    Attributes:
        gradients: what each optimizer step so far received, by our name.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.gradients: list[dict[str, Tensor]] = []
        self._second = -1  # number of the draw that is z2

    def draw(self, x_a: Tensor, x_b: Tensor) -> paper.Drawn:
        """As DRIT's; z2 follows contents, attributes where these are drawn, and z1."""
        if self.lambda_ms > 0:
            self._second = len(self.draws) + (5 if self.concat else 3)
        return super().draw(x_a, x_b)

    def noise_like(self, x: Tensor) -> Tensor:
        """The recorded draw of this shape."""
        seed = SECOND_SEED if len(self.draws) == self._second else NOISE_SEED
        self.draws.append(("randn", list(x.shape)))
        return normal(x.shape, seed).to(x)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """As ever; then keep what the optimizer receives in the first iteration of the case."""
        super().on_before_optimizer_step(optimizer)
        if len(self.gradients) < len(UPDATES):
            self.gradients.append(received(self, optimizer))

    def discriminator_loss(self, batch: UnpairedBatch, drawn: paper.Drawn) -> tuple[Tensor, Terms, Terms]:
        """As DRIT's, kept."""
        loss, terms, scores = super().discriminator_loss(batch, drawn)
        names = {"disA": "a", "disB": "b", "disA2": "a_random", "disB2": "b_random"}
        self.keep("D", {f"{net}_loss": terms[name] for net, name in names.items()})
        return loss, terms, scores

    def content_loss(self, c_a: Tensor, c_b: Tensor) -> tuple[Tensor, Terms]:
        """As DRIT's, kept."""
        loss, terms = super().content_loss(c_a, c_b)
        self.keep("D_content" if self.only_content() else "D", {"disContent_loss": loss})
        return loss, terms

    def encoded_loss(self, x_a: Tensor, x_b: Tensor, drawn: paper.Drawn) -> tuple[Tensor, Terms]:
        """As DRIT's, kept with weights. Its terms are sums over domains: parts are caught where they are computed."""
        with (
            caught(paper, "log_generator") as adv,
            caught(paper, "log_confusion") as content,
            caught(paper, "kl_unit_variance") as norm,
            caught(paper, "l1") as recon,
        ):
            loss, terms = super().encoded_loss(x_a, x_b, drawn)
        names = {
            "gan_loss_a": adv[0], "gan_loss_b": adv[1],
            "gan_loss_acontent": content[0], "gan_loss_bcontent": content[1],
            "kl_loss_za_a": self.lambda_kl * drawn.kl_a, "kl_loss_za_b": self.lambda_kl * drawn.kl_b,
            "kl_loss_zc_a": self.lambda_content_norm * norm[-2], "kl_loss_zc_b": self.lambda_content_norm * norm[-1],
            "l1_recon_AA_loss": self.lambda_recon * recon[0], "l1_recon_BB_loss": self.lambda_recon * recon[1],
            "l1_recon_A_loss": self.lambda_cycle * recon[2], "l1_recon_B_loss": self.lambda_cycle * recon[3],
            "G_loss": loss,
        }  # fmt: skip
        self.keep("EG", names)
        return loss, terms

    def random_loss(self, drawn: paper.Drawn) -> tuple[Tensor, Terms]:
        """As DRIT's, kept with weights."""
        with (
            caught(paper, "adversary") as adv,
            caught(paper, "l1") as latent,
            caught(paper, "mode_seeking") as ms,
        ):
            loss, terms = super().random_loss(drawn)
        names = {
            "gan2_loss_a": adv[0], "gan2_loss_b": adv[1],
            "l1_recon_z_loss_a": self.lambda_latent * latent[0], "l1_recon_z_loss_b": self.lambda_latent * latent[1],
        }  # fmt: skip
        self.keep("EG", names | dict(zip(("lz_AB", "lz_BA"), ms, strict=False)))
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our DRIT on a case, in its own ``training_step`` under Lightning's trainer."""
    release = _release(case, "init")
    assert release is not None
    module = build(case, release).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    keys = [f"iter{k}{kind}" for k in range(case.iterations) for kind in ("c", "")]
    batches = [UnpairedBatch(*(image(case, f"{key}.{d}").to(dtype) for d in "ab")) for key in keys]
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


def build(case: Case, release: dict[str, Any]) -> RecordedDRIT:
    """Our DRIT with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our DRIT does not have.
    """
    hp, sizes = case.config["hyperparameters"], case.config["sizes"]
    check_fixed(case, FIXED, "DRIT")
    check_among(case, ("lr_policy",), ("lambda",), "DRIT")
    found = sizes_of(release, str(case.path / "init"))
    widths = hp["widths"]
    asked = (
        bool(hp["concat"]), sizes["nz"], widths["content_encoder"], widths["attribute_encoder"],
        widths["discriminator"], hp["dis_scale"], widths["content_discriminator"],
    )  # fmt: skip
    held = (
        found.concat, found.style_size, found.width, found.attribute_width, found.dis_width, found.dis_scales,
        found.content_dis_width,
    )  # fmt: skip
    if asked != held:
        raise ValueError(f"{case.path}: config.json says sizes {asked}, but init/ holds {held}.")
    module = RecordedDRIT(
        **found._asdict(),
        lambda_ms=0.0 if hp["no_ms"] else 1.0,
        d_iter=2,
        encoded_rows=sizes["half_size"],
        lr=hp["lr"],
        content_lr=hp["lr_disContent"] / hp["lr"],
        content_clip=hp["clip_grad_norm_disContent"],
        betas=(hp["beta1"], hp["beta2"]),
        weight_decay=hp["weight_decay"],
    )
    module.load_state_dict(checkpoint(release, str(case.path / "init"))["state_dict"])
    return module


@torch.no_grad()
def forward_outputs(module: RecordedDRIT, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there: contents without noise, attributes drawn."""
    x = {d: image(case, f"iter0.{d}").to(dtype) for d in "ab"}
    e_c, g = module.content_encoder, module.generator
    z = normal((len(x["a"]), module.style_spec.size)).to(dtype)
    c = {d: e_c(x[d], k) for k, d in enumerate("ab")}
    a = {d: module.attribute(x[d], k)[0] for k, d in enumerate("ab")}
    outputs = {"given_z": z}
    encoded, drawn = {}, {}
    for k, (d, other) in enumerate((("a", "b"), ("b", "a"))):
        encoded[d], drawn[d] = g(c[other], a[d], k), g(c[other], z, k)
        outputs |= {f"content_{d}": c[d], f"attr_{d}": a[d], f"recon_{d}": g(c[d], a[d], k)}
        outputs |= {f"fake_{d}_encoded": encoded[d], f"fake_{d}_random": drawn[d]}
        outputs[f"content_{other}_recon"] = e_c(encoded[d], k)
        outputs[f"attr_{d}_recon"] = module.attribute(encoded[d], k)[0]
        named = {"": x[d], "_recon": encoded[d], "_random": drawn[d]}
        encoder = module.attribute_encoders[k]
        if module.concat:
            outputs |= {f"mu_{d}{name}": encoder(y)[0] for name, y in named.items()}
            outputs[f"logvar_{d}"] = encoder(x[d])[1]
        else:
            outputs[f"attr_{d}_random"] = encoder(drawn[d])
        outputs[f"disContent.{d}"] = module.content_discriminator(c[d]).flatten()
        for net, dis, fake in (("", module.discriminators, encoded), ("2", module.random_discriminators, drawn)):
            for kind, y in (("real", x[d]), ("fake", fake[d])):
                scores = enumerate(dis[k](y))
                outputs |= {f"dis{d.upper()}{net}.{kind}.s{s}": score for s, score in scores}
    for k, d in enumerate("ab"):
        outputs[f"cycle_{d}"] = g(outputs[f"content_{d}_recon"], outputs[f"attr_{d}_recon"], k)
    module.draws.clear()
    return outputs


def official_gradients(module: RecordedDRIT) -> dict[str, Tensor]:
    """Gradients of the first iteration by ``optimizer:net.parameter``."""
    sizes = sizes_of(official({"state_dict": module.state_dict()}, "the model"), "the model")
    return hsinyinglee.official_gradients(UPDATES, module.gradients, layout(sizes).tables)


def snapshot(module: RecordedDRIT, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our state under official names."""
    ours = {"state_dict": module.state_dict(), "optimizer_states": optimizer_states}
    return flat(official(ours, "the model"), NETS)


def image(case: Case, key: str) -> Tensor:
    """The recorded images of one domain, ``iter0.a``, of its own pool of pictures (ValueError)."""
    pool, rows = f"pool.{key[-1]}", f"{key}.rows"
    if pool not in case.batch or rows not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {pool} or {rows}.")
    return assembled(case, key, pool)


def _release(case: Case, tag: str) -> dict[str, Any] | None:
    """The official file of a folder of the case, or the same as ``all_nets.safetensors``."""
    file = official_file(case, tag)
    return packed(case, tag, NETS) if file is None else read_release(file)
