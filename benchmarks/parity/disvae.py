"""disvae's part of the parity runner: beta-VAE of Higgins et al. and of Burgess et al., beta-TCVAE and FactorVAE.

betaH and betaB are our BetaVAE as it stands. Where the release is another mathematics than our modules, and only there,
a recorded module has it from ``benchmarks.released.disvae``, and the run prints so:

* btcvae: the estimate of the three parts of the KL, in which a weight counts once for each coordinate, and the weight
  of the third. Encoder, decoder, draws and step are our BetaTCVAE's.
* factor: the term ``leak`` that D's loss adds to what the encoder descends. All else, both steps, halves of a batch and
  D's loss are our FactorVAE's, which has no draw for the whole batch, whose codes the release does not use.
* a reconstruction other than Bernoulli, and a capacity that does not start at 0.

Official names are the release's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.rules import Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, named, train, weights_in
from benchmarks.released import disvae as released
from importers.disvae import (
    BETAS,
    CLASSES,
    check_sizes,
    discriminator_table,
    objective,
    read_vae,
    sizes_of,
    vae_to_official,
    vae_to_ours,
)
from importers.mapping import to_official, to_ours
from interfaces.batch import ImageBatch
from lightning_modules.base import Terms
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.factor_vae import FactorVAE
from losses.reconstruction import bernoulli_nll

PLAYER = "disentangling"  # of the losses: how ``rules`` calls the paper of a case in this layout
OPTIMIZERS = {"vae": "vae_optimizer", "discriminator": "optimizer_d"}
TERMS = {"tc": "tc_loss", "mi": "mi_loss", "dwkl": "dw_kl_loss"}


class RecordedVAE(RecordedGradients, BetaVAE):
    """A BetaVAE, or what changes one term of it, whose draws follow the rule of the cases and whose losses are kept.

    Attributes:
        rec_dist: official name of the likelihood.
        initial: capacity before the first iteration.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.rec_dist, self.initial = "bernoulli", 0.0
        self._recon = torch.zeros(())

    def capacity(self) -> float:
        """Ours where it starts at 0."""
        if self.initial == 0:
            return super().capacity()
        return released.capacity(self.initial, self.c_max, self.iteration + 1, self.c_steps)

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """Ours for Bernoulli."""
        if self.rec_dist == "bernoulli":
            self._recon = super().nll(out, x)
        else:
            self._recon = released.reconstruction(out.sigmoid(), x, self.rec_dist)
        return self._recon

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """As the paper's, kept."""
        prior, terms = super().prior_loss(z, mu, logvar)
        self.keep_terms(prior, terms)
        return prior, terms

    def keep_terms(self, prior: Tensor, terms: Terms) -> None:
        """Keep the loss of encoder and decoder and its terms."""
        self.keep(PLAYER, {"loss": self._recon + prior, "recon_loss": self._recon, "kl_loss": terms["kl"]})
        self.keep(PLAYER, {f"kl_loss_{k}": kl for k, kl in enumerate(self.kl_per_dim())})
        self.keep(PLAYER, {theirs: terms[ours] for ours, theirs in TERMS.items() if ours in terms})

    def log_terms(self, player: str, terms: Terms) -> None:
        """Keep what D's step logs; it has no loss function of its own."""
        if player == "dis":
            self.keep(PLAYER, {"discrim_loss": terms["adv"]})


class RecordedBetaTCVAE(RecordedVAE, BetaTCVAE):
    """BetaTCVAE with the release's estimate.

    Attributes:
        gamma_dwkl: weight of the dimension-wise KL.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.gamma_dwkl = 1.0

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """The release's, kept."""
        mi, tc, dwkl = released.decomposed(released.densities(z, mu, logvar, self.data_size))
        terms = {"kl": self.kl(mu, logvar), "mi": mi, "tc": tc, "dwkl": dwkl}
        prior = released.stratified_objective(self, mi, tc, dwkl, self.gamma_dwkl)
        self.keep_terms(prior, terms)
        return prior, terms


class RecordedFactorVAE(RecordedVAE, FactorVAE):
    """FactorVAE whose shuffles are the recorded ones and whose encoder descends the release's leak too.

    Attributes:
        orders: of each coordinate, (latent, half a batch) an iteration.
    """

    def __init__(self, **hyper_parameters: Any) -> None:
        super().__init__(**hyper_parameters)
        self.orders: list[Tensor] = []

    def shuffled(self, z: Tensor) -> Tensor:
        """Each coordinate in its recorded order."""
        return z.gather(0, self.orders[self.iteration].T)

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """As FactorVAE's, kept; then with the leak, which the release does not count as this loss."""
        prior, terms = super().prior_loss(z, mu, logvar)
        return prior + released.leak(self.discriminator(z)), terms


RECORDED = {"factor": RecordedFactorVAE, "btcvae": RecordedBetaTCVAE}


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our module on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    batches = [batch(case, k, dtype) for k in range(case.iterations)]
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    if dtype == torch.float64:
        print(*(f"{case.path}: {said}" for said in of_the_release(case)), sep="\n")
    recorder = train(case, module, batches, snapshot)
    owners = {name: name.partition(".")[0] for name in init.weights}
    gradients = {f"{OPTIMIZERS[name.partition('.')[0]]}:{name}": g for name, g in official(module.gradients).items()}
    return Run(forward, module.losses, init, recorder.after, recorder.lrs, recorder.draws, owners, gradients=gradients)


def of_the_release(case: Case) -> list[str]:
    """What a case takes from ``benchmarks.released.disvae``, a sentence each; one that says nothing of it is ours."""
    args = case.config["args"]
    name = CLASSES[args["loss"]].rpartition(".")[2]
    said = []
    if args["loss"] == "btcvae":
        said.append("the estimate counts a weight once for each coordinate, as the release; ours counts it once")
    if args["loss"] == "factor":
        said.append(
            "the encoder also descends what D's loss says of codes as they are, as in the release; in ours it does not"
        )
    if args["rec_dist"] != "bernoulli":
        said.append(f"the likelihood is the release's {args['rec_dist']}, which ours does not have")
    if args["loss"] == "betaB" and args["betaB_initC"] != 0:
        said.append(f"the capacity starts at {args['betaB_initC']}; ours starts at 0")
    return [f"{name}: {each}; all else is ours." for each in said] or [f"{name}: all of it is ours."]


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return Snapshot(weights) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""
    return weights_in(case, tag, "model.pt", lambda file: named("vae", read_vae(file)))


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay; of D, whose first moments no case has, beta1 is another."""
    return BETAS[0], 0.0


def build(case: Case) -> RecordedVAE:
    """Our module with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what we do not have, or the weights are of other sizes.
    """
    args, sizes, start = case.config["args"], case.config["sizes"], official_weights(case, "init")
    if args["loss"] not in CLASSES:
        raise ValueError(f"{case.path}: the loss is {args['loss']!r}, but there are: {', '.join(CLASSES)}.")
    where = f"{case.path / 'init'} (vae)"
    vae, judge = (of_network(start, net) for net in OPTIMIZERS)
    found = sizes_of(vae, where)
    check_sizes(found, args, where)
    widths = [found.convs[0], *found.hidden, *found.dec_hidden]
    if widths != [sizes["hid"], *[sizes["hidden"]] * 4]:
        raise ValueError(f"{where} has widths {widths}, but config.json says {sizes['hid']} and {sizes['hidden']}.")
    extra = {"dis_width": sizes["disc"]} if args["loss"] == "factor" else {}
    kind = RECORDED.get(args["loss"], RecordedVAE)
    module = kind(**found._asdict(), glorot=False, **objective(args, case.config["n_data"]), **extra)
    module.rec_dist = args["rec_dist"]
    state = module.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    ours = {name: state[name] for name in ("iterations", "skipped")} | vae_to_ours(vae, found, shapes, where)
    if isinstance(module, RecordedFactorVAE):
        table = discriminator_table(len(module.discriminator.layers))
        ours |= to_ours(judge, table, shapes, f"{case.path / 'init'} (discriminator)")
        module.orders = [orders(case, k) for k in range(case.iterations)]
    elif isinstance(module, RecordedBetaTCVAE):
        module.gamma_dwkl = args["btcvae_G"]
    elif args["loss"] == "betaB":
        module.initial = args["betaB_initC"]
    module.load_state_dict(ours)
    return module


def of_network(tensors: Mapping[str, Tensor], net: str) -> dict[str, Tensor]:
    """Tensors of an official network without its name."""
    return {name.removeprefix(f"{net}."): t for name, t in tensors.items() if name.startswith(f"{net}.")}


@torch.no_grad()
def forward_outputs(module: RecordedVAE, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    x = case.batch["iter0.x"].to(dtype)
    if isinstance(module, FactorVAE):
        x, _ = module.cut(x)
    mu, logvar = module.encoder(x)
    z = module.draw(mu, logvar)
    out = module.decoder(z)
    outputs = {
        "mu": mu, "logvar": logvar, "recon": module.decoder(mu).sigmoid(), "train_z": z, "train_recon": out.sigmoid(),
        "recon_loss_bernoulli": bernoulli_nll(out, x).view(1), "kl": module.kl(mu, logvar).view(1),
    }  # fmt: skip
    outputs[f"recon_loss_{module.rec_dist}"] = module.nll(out, x).view(1)
    if isinstance(module, BetaTCVAE):
        outputs |= released.densities(z, mu, logvar, module.data_size)._asdict()
    if isinstance(module, FactorVAE):
        outputs["d_z"] = module.discriminator(z)
    module.draws.clear()
    return outputs


def snapshot(module: RecordedVAE, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights under official names; the case holds no state of optimizers."""
    return Snapshot({name: tensor.clone() for name, tensor in official(module.state_dict()).items()})


def official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours, weights or gradients, by official ``net.parameter``."""
    named = {f"vae.{name}": tensor for name, tensor in vae_to_official(tensors).items()}
    layers = sum(name.startswith("discriminator.layers.") and name.endswith("weight") for name in tensors)
    judge = to_official(tensors, discriminator_table(layers)) if layers > 0 else {}
    return named | {f"discriminator.{name}": tensor for name, tensor in judge.items()}


def batch(case: Case, iteration: int, dtype: torch.dtype) -> ImageBatch:
    """A recorded batch in [-1, 1]; its size must be that of ``config.json`` (ValueError)."""
    name, args = f"iter{iteration}.x", case.config["args"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    expected = [args["batch_size"], *args["img_size"]]
    if list(case.batch[name].shape) != expected:
        raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
    return ImageBatch(2 * case.batch[name].to(dtype) - 1)


def orders(case: Case, iteration: int) -> Tensor:
    """The recorded order of each coordinate in an iteration (ValueError where it is none)."""
    name, args = f"iter{iteration}.perm", case.config["args"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    half = torch.arange(args["batch_size"] // 2).expand(args["latent_dim"], -1)
    if case.batch[name].shape != half.shape or not torch.equal(case.batch[name].sort(1).values, half):
        raise ValueError(f"{case.path}: {name} is no order of {half.shape[1]} codes for {len(half)} coordinates each.")
    return case.batch[name]
