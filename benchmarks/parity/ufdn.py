"""UFDN's part of the parity runner. The official names are those of Alexander-H-Liu/UFDN, configuration for faces."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lightning_modules.ufdn as paper
from benchmarks.parity.rules import NOISE_SEED, Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, flat, named, train, weights_in
from importers.mapping import Row, to_official, to_ours
from importers.ufdn import classifier_table, critic_table, read_vae, vae_table
from interfaces.batch import DomainBatch, LabelledBatch
from lightning_modules.base import Terms

OPTIMIZERS = {"d_feat": "opt_df", "d_pix": "opt_dp", "vae": "opt_vae"}  # of each official network
LAMBDAS = {
    "lambda_recon": "pix_recon", "lambda_kl": "kl", "lambda_feat": "feat_domain", "lambda_gp": "gp",
    "lambda_adv": "pix_adv", "lambda_clf": "pix_clf",
}  # fmt: skip
CONV, NORMED = [4, 2, 1], ["bn", "LeakyReLU"]  # kernel, stride and padding; what follows a layer
PLAIN = ["", "LeakyReLU"]
NAMES = ("vae.encoder", "vae.decoder", "D_feat", "D_pix")


class RecordedUFDN(RecordedGradients, paper.UFDN):
    """UFDN whose draws follow the rule of the cases and whose losses are kept."""

    def shares(self, x: Tensor) -> Tensor:
        """The recorded uniform draw."""
        self.draws.append(("rand", [len(x), 1]))
        return uniform((len(x), 1)).to(x)[:, :, None, None]

    def log_terms(self, player: str, terms: Terms) -> None:
        """Keep what D_v's step logs; it has no loss function of its own."""
        if player == "dv":
            self.keep("ufdn", {"df_loss": terms["adv"]})

    def critic_loss(self, x: Tensor, v: Tensor, fake: Tensor) -> tuple[Tensor, Terms, Terms]:
        """As UFDN's, kept."""
        loss, terms, scores = super().critic_loss(x, v, fake)
        weighted = {
            "pix_real_pred": scores["real"],
            "pix_fake_pred": scores["fake"],
            "gp": self.now(self.lambda_gp) * terms["gp"],
            "pix_code_loss": terms["cls"],
            "d_pix_loss": loss,
        }
        self.keep("ufdn", weighted)
        return loss, terms, scores

    def makers_loss(
        self, batch: DomainBatch | LabelledBatch, q: tuple[Tensor, Tensor], v: Tensor, v_t: Tensor, fake: Tensor | None
    ) -> tuple[Tensor, Terms]:
        """As UFDN's, kept."""
        loss, terms = super().makers_loss(batch, q, v, v_t, fake)
        weights = {
            "pix_recon": self.lambda_recon, "kl": self.lambda_kl, "feat_domain": self.lambda_feat,
            "gp": self.lambda_gp, "pix_adv": self.lambda_adv, "pix_clf": self.lambda_clf,
        }  # fmt: skip
        now = {name: self.now(weight) for name, weight in weights.items()}
        kept = {
            "mse": terms["recon"],
            "kl": terms["kl"],
            "recon_loss": now["pix_recon"] * terms["recon"] + now["kl"] * terms["kl"],
            "adv_code_loss": terms["adv_e"],
            "feature_loss": now["feat_domain"] * terms["adv_e"],
            "adv_pix_loss": -terms["adv"],
            "pix_clf_loss": terms["cls"],
            "pixel_loss": now["pix_adv"] * terms["adv"] + now["pix_clf"] * terms["cls"],
        }
        self.keep("ufdn", kept | {f"lambda_{name}": weight for name, weight in now.items()})
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our UFDN on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    recorder = train(case, module, [batch(case, k, dtype) for k in range(case.iterations)], snapshot)
    owners = {name: name.partition(".")[0] for name in init.weights}
    gradients = {
        f"{OPTIMIZERS[net]}:{net}.{row.official}": module.gradients[row.ours]
        for net, table in tables(module).items()
        for row in table
        if row.ours in module.gradients
    }
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners, gradients=gradients)


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return flat(weights) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""
    return weights_in(case, tag, "*.vae", lambda file: named("vae", read_vae(file)))


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of every optimizer."""
    return case.config["yaml_config"]["model"]["vae"]["betas"][0], 0.0


def uniform(shape: tuple[int, ...]) -> Tensor:
    """The uniform draw of the noise rule, in float64."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(NOISE_SEED)).random(shape))


def build(case: Case) -> RecordedUFDN:
    """Our UFDN with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our UFDN does not have.
    """
    nets, weights = case.config["yaml_config"]["model"], case.config["yaml_config"]["trainer"]["lambda"]
    vae, d_feat, d_pix = nets["vae"], nets["D_feat"], nets["D_pix"]
    check_layers(case)
    start = official_weights(case, "init")
    module = RecordedUFDN(
        domains=tuple("abc"[: vae["code_dim"]]),
        image_size=case.config["yaml_config"]["exp_setting"]["img_size"],
        widths=widths(vae["encoder"][:-1]),
        code_channels=vae["encoder"][-1][1],
        dv_widths=widths(d_feat["dnn"][:-1]),
        dx_widths=widths(d_pix["dnn"][:-2]),
        dx_hidden=d_pix["dnn"][-2][1],
        **{ours: ramp(weights[theirs]) for ours, theirs in LAMBDAS.items()},
        lr=vae["lr"],
        dv_lr=d_feat["lr"],
        dx_lr=d_pix["lr"],
        betas=tuple(vae["betas"]),
        dv_betas=tuple(d_feat["betas"]),
        dx_betas=tuple(d_pix["betas"]),
    )
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    ours = {name: value for name, value in module.state_dict().items() if name in ("iterations", "skipped")}
    for net, table in tables(module).items():
        mine = {name.removeprefix(f"{net}."): t for name, t in start.items() if name.startswith(f"{net}.")}
        ours |= to_ours(mine, table, shapes, f"{case.path / 'init'} ({net})")
    module.load_state_dict(ours)
    return module


def widths(rows: list[list[Any]]) -> tuple[int, ...]:
    """Channels or units of layers of ``config.json``."""
    return tuple(row[1] for row in rows)


def ramp(weight: dict[str, float]) -> tuple[float, float, int]:
    """A weight of ``config.json`` as ours takes it."""
    return weight["init"], weight["final"], int(weight["step"])


def check_layers(case: Case) -> None:
    """Refuse layers of ``config.json`` that our UFDN does not have (ValueError); G mirrors E."""
    nets = case.config["yaml_config"]["model"]
    vae, d_feat, d_pix = nets["vae"], nets["D_feat"]["dnn"], nets["D_pix"]["dnn"]
    *inner, code = widths(vae["encoder"])
    k = vae["code_dim"]
    ours = [
        [["conv", w, *CONV, *NORMED] for w in inner] + [["conv", code, *CONV, "", ""]],
        [["conv", w, *CONV, *NORMED, n == 0] for n, w in enumerate(inner[::-1])]
        + [["conv", 3, *CONV, "", "Tanh", False]],
        [["fc", w, *PLAIN, 0] for w in widths(d_feat[:-1])] + [["fc", k, "", "", 0]],
        [["conv", w, *CONV, *PLAIN] for w in widths(d_pix[:-2])]
        + [["fc", d_pix[-2][1], *PLAIN, 0], ["fc", [1, k], "", "", 0]],
    ]
    for name, found, expected in zip(NAMES, (vae["encoder"], vae["decoder"], d_feat, d_pix), ours, strict=True):
        if found != expected:
            raise ValueError(f"{case.path}: config.json says that {name} is {found}, but our UFDN has {expected}.")
    if not 2 <= k <= 3:
        raise ValueError(f"{case.path}: config.json says {k} domains, which do not take turns as 2 or 3 do.")


def tables(module: paper.UFDN) -> dict[str, list[Row]]:
    """Official names and ours, by official network."""
    return {
        "vae": vae_table(len(module.encoder.convs)),
        "d_feat": classifier_table("domain_classifier", len(module.domain_classifier.layers)),
        "d_pix": critic_table(len(module.critic.convs)),
    }


@torch.no_grad()
def forward_outputs(module: RecordedUFDN, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    x, code, trans = (case.batch[f"iter0.{name}"].to(dtype) for name in ("x", "code", "trans_code"))
    net = copy.deepcopy(module).train()  # whose running statistics may change
    z = net.draw(*net.encoder(x))
    outputs = {"train_z": z.flatten(1), "train_recon": net.decoder(z, code)}
    net = copy.deepcopy(module).eval()
    mu, logvar = net.encoder(x)
    translated = net.blend(x, 0, trans)
    outputs |= {
        "mu": mu.flatten(1), "logvar": logvar.flatten(1), "recon": net.decoder(mu, code), "translated": translated,
        "d_feat_logits": net.domain_classifier(mu),
    }  # fmt: skip
    outputs["d_pix_real"], outputs["d_pix_real_code"] = net.critic(x)
    outputs["d_pix_fake"], outputs["d_pix_fake_code"] = net.critic(translated)
    return outputs


def snapshot(module: RecordedUFDN, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights under official names; the case holds no state of optimizers."""
    state = module.state_dict()
    named = {net: to_official(state, table) for net, table in tables(module).items()}
    return flat({f"{net}.{name}": t for net, tensors in named.items() for name, t in tensors.items()})


def batch(case: Case, iteration: int, dtype: torch.dtype) -> DomainBatch:
    """A recorded batch; its size must be that of ``config.json`` (ValueError)."""
    found = [name for name in (f"iter{iteration}.x", f"iter{iteration}.code") if name not in case.batch]
    if found:
        raise ValueError(f"{case.path}: batch.safetensors lacks {', '.join(found)}.")
    x, code = case.batch[f"iter{iteration}.x"], case.batch[f"iter{iteration}.code"]
    size = case.config["yaml_config"]["exp_setting"]["img_size"]
    expected = [case.config["total_batch"], 3, size, size]
    if list(x.shape) != expected:
        raise ValueError(f"{case.path}: iter{iteration}.x is {list(x.shape)}, but config.json says {expected}.")
    return DomainBatch(x.to(dtype), code.argmax(1))
