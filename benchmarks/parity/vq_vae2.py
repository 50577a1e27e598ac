"""Part of the parity runner for stage one of VQ-VAE-2. The official names are those of rosinality/vq-vae-2-pytorch."""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.vq_vae2 as paper
from benchmarks.parity.rules import Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, named, train, weights_in
from importers.mapping import to_official, to_ours
from importers.vq_vae2 import read_release, table
from interfaces.batch import ImageBatch
from lightning_modules.base import Terms

# Of config.json, and our arguments.
ARGUMENTS = {
    "in_channel": "channels",
    "channel": "width",
    "n_res_block": "res_blocks",
    "n_res_channel": "res_width",
    "embed_dim": "dim",
    "n_embed": "codes",
    "decay": "decay",
    "latent_w": "beta",
    "lr": "lr",
}
CODEBOOKS = {"vqvae.quantize_t.embed": 1, "vqvae.quantize_b.embed": 1}


class RecordedVQVAE2(RecordedGradients, paper.VQVAE2):
    """VQVAE2 whose losses are kept, and what its codes are after each iteration."""

    def descend(self, opt: Any, *losses: Tensor, clip: float | None = None) -> None:
        """As ever; the loss and the settings of Adam are kept."""
        (loss,), (group,) = losses, opt.param_groups
        self.keep("vq", {"loss": loss, "lr": group["lr"], "beta1": group["betas"][0]})
        super().descend(opt, *losses, clip=clip)

    def log_terms(self, player: str, terms: Terms) -> None:
        """Keep the terms of the loss."""
        if player == "vq":
            self.keep(player, {"recon_loss": terms["recon"], "latent_loss": terms["commit"]})

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """As ever; then keep what the same images are rounded to by the new weights and codebooks."""
        super().training_step(batch, batch_idx)
        self.nets.eval()
        with torch.no_grad():
            top, bottom = self.indices_of(batch.image)
        self.nets.train()
        self.losses[-1] |= {
            "vq.n_codes_used_after_step_top": len(top.unique()),
            "vq.n_codes_used_after_step_bottom": len(bottom.unique()),
            "vq.id_checksum_after_step": checksum(top) + checksum(bottom),
        }


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our VQVAE2 on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    init, forward = snapshot(module, []), forward_outputs(module, case, dtype)
    recorder = train(case, module, [batch(case, k, dtype) for k in range(case.iterations)], snapshot)
    gradients = {
        f"optimizer:vqvae.{row.official}": module.gradients[row.ours]
        for row in table(module.nets)
        if row.ours in module.gradients
    }
    return Run(
        forward,
        module.losses,
        init,
        recorder.after,
        recorder.lrs,
        recorder.draws,
        dict.fromkeys(init.weights, "optimizer"),
        gradients=gradients,
        codebooks=CODEBOOKS,
    )


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return Snapshot(weights) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""
    return weights_in(case, tag, "vqvae_*.pt", lambda file: named("vqvae", read_release(file)))


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of the optimizer."""
    return case.losses["float64"]["iter1"]["vq"]["beta1"], 0.0


def build(case: Case) -> RecordedVQVAE2:
    """Our VQVAE2 with the sizes and weights that ``config.json`` names and the initial weights of the case.

    Raises:
        ValueError: the configuration asks for what our VQVAE2 does not have, or the weights are of other sizes.
    """
    sizes = case.config.get("sizes", {})
    needed = (*ARGUMENTS, "B", "size")
    if missing := [name for name in needed if name not in sizes]:
        raise ValueError(f"{case.path}: config.json has no sizes of VQ-VAE-2's first stage: {', '.join(missing)}.")
    if sizes.get("sched") is not None:
        raise ValueError(f"{case.path}: sched is {sizes['sched']!r}, but our VQVAE2 has a constant rate, None.")
    start = official_weights(case, "init")
    module = RecordedVQVAE2(**{ours: sizes[theirs] for theirs, ours in ARGUMENTS.items()})
    state = module.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    mine = {name.removeprefix("vqvae."): tensor for name, tensor in start.items()}
    try:
        state |= to_ours(mine, table(module.nets), shapes, "init/")
    except ValueError as error:
        raise ValueError(f"{case.path}: init/ does not hold networks of the sizes in config.json.") from error
    module.load_state_dict(state)
    return module


@torch.no_grad()
def forward_outputs(module: RecordedVQVAE2, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    x, nets = batch(case, 0, dtype).image, module.nets.eval()
    enc_b = nets.encoders[1](x)
    top, bottom = nets.encode(x)
    outputs = {
        "enc_b": enc_b, "enc_t": nets.encoders[0](enc_b),
        "quant_t": top.codes, "quant_b": bottom.codes, "id_t": top.indices, "id_b": bottom.indices,
        "diff": (top.commitment + bottom.commitment)[None], "recon": nets.decode([top.codes, bottom.codes]),
        "decode_code": nets.decode_indices([top.indices, bottom.indices]),
    }  # fmt: skip
    nets.train()
    return outputs


def checksum(indices: Tensor) -> int:
    """Sum of index times position, from 1 on."""
    flat = indices.flatten()
    return int((flat * torch.arange(1, len(flat) + 1)).sum())


def snapshot(module: RecordedVQVAE2, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights and codebooks under official names; the case holds no state of the optimizer."""
    tensors = to_official(module.state_dict(), table(module.nets))
    return Snapshot({f"vqvae.{name}": tensor.clone() for name, tensor in tensors.items()})


def batch(case: Case, iteration: int, dtype: torch.dtype) -> ImageBatch:
    """A recorded batch; its size must be that of ``config.json`` (ValueError)."""
    name, sizes = f"iter{iteration}.x", case.config["sizes"]
    if name not in case.batch:
        raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
    expected = [sizes["B"], sizes["in_channel"], sizes["size"], sizes["size"]]
    if list(case.batch[name].shape) != expected:
        raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
    return ImageBatch(case.batch[name].to(dtype))
