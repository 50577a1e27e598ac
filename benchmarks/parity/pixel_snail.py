"""Part of the parity runner for stage two of VQ-VAE-2, PixelSNAIL. The official names are those of the release.

Left out of gradients and weights are the masked taps of causal filters, and the run prints so:

    blocks.*.resblocks.*.conv{1,2}.conv.conv.weight_v[:, :, -1, kernel // 2:]

The release sets them to zero before each use, but its convolution sees them: they have gradients, and a value from each
step of Adam to the next forward. Our convolution does not see them, so that they have no gradient and never move.
"""

from typing import Any

import torch
from torch import Tensor

import lightning_modules.pixel_snail as paper
from benchmarks.parity.rules import Case, Run, Snapshot
from benchmarks.parity.run import RecordedGradients, named, train, weights_in
from importers.mapping import to_official, to_ours
from importers.pixel_snail import BETAS, check_args, read_release, sizes_of, table
from interfaces.batch import CodeBatch
from lightning_modules.base import Terms
from networks.pixel_snail_layers import CausalConv

PLAYER = "vq"  # of the losses: how ``rules`` calls the paper of a case in this layout
# Of config.json, and our arguments, beside those that the official file says too.
ARGUMENTS = {
    "shape": "shape",
    "n_class": "classes",
    "kernel": "kernel",
    "n_block": "blocks",
    "attention": "attention",
}


class RecordedPixelSNAIL(RecordedGradients, paper.PixelSNAIL):
    """PixelSNAIL whose losses are kept."""

    def loss(self, batch: CodeBatch) -> tuple[Tensor, Terms]:
        """As ever, kept."""
        loss, terms = super().loss(batch)
        self.keep(PLAYER, {"loss": loss, "accuracy": terms["accuracy"]})
        return loss, terms


def run(case: Case, dtype: torch.dtype) -> Run:
    """Train our PixelSNAIL on a case, in its own ``training_step`` under Lightning's trainer."""
    module = build(case).to(dtype)
    batches = [batch(case, k) for k in range(case.iterations)]
    init, forward = snapshot(module, []), forward_outputs(module, batches[0])
    absent = masked_taps(module)
    if dtype == torch.float64:
        count, kernel = sum(int(mask.sum()) for mask in absent.values()), module.hparams["kernel"]
        print(
            f"{case.path}: left out are blocks.*.resblocks.*.conv{{1,2}}.weight_v[:, :, -1, {kernel // 2}:], {count} "
            "masked taps, which have gradients in the release, but are zero at each use; in ours they have none."
        )
    recorder = train(case, module, batches, snapshot)
    gradients = {
        f"optimizer:pixelsnail.{row.official}": module.gradients[row.ours]
        for row in table(module.net)
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
        absent=absent,
    )


def recorded(case: Case, tag: str) -> Snapshot | None:
    """The official state in ``init``, ``after1``...; None where the case does not hold it."""
    weights = official_weights(case, tag)
    return Snapshot(weights) if weights else None


def official_weights(case: Case, tag: str) -> dict[str, Tensor]:
    """All tensors of a folder of the case by ``net.key``; none where it does not hold them."""
    return weights_in(case, tag, "pixelsnail_*.pt", lambda file: named("pixelsnail", read_release(file)[0]))


def adam(case: Case) -> tuple[float, float]:
    """beta1 and weight decay of the optimizer."""
    return BETAS[0], 0.0


def build(case: Case) -> RecordedPixelSNAIL:
    """Our PixelSNAIL with the sizes that ``config.json`` names and the initial weights of the case, without dropout.

    Raises:
        ValueError: the configuration asks for what our PixelSNAIL does not have, or the weights are of other sizes.
    """
    sizes, start = case.config.get("sizes", {}), official_weights(case, "init")
    if missing := [name for name in (*ARGUMENTS, "hier", "B", "lr") if name not in sizes]:
        raise ValueError(f"{case.path}: config.json has no sizes of PixelSNAIL: {', '.join(missing)}.")
    if sizes.get("sched") is not None:
        raise ValueError(f"{case.path}: sched is {sizes['sched']!r}, but our PixelSNAIL has a constant rate, None.")
    mine, where = {name.removeprefix("pixelsnail."): tensor for name, tensor in start.items()}, f"{case.path / 'init'}"
    found = sizes_of(mine, where)
    check_args(found, sizes, where)
    told = {ours: sizes[theirs] for theirs, ours in ARGUMENTS.items()} | {"shape": tuple(sizes["shape"])}
    for name, value in told.items():
        if getattr(found, name) != value:
            raise ValueError(f"{where} has {name} {getattr(found, name)}, but config.json says {value}.")
    module = RecordedPixelSNAIL(**found._asdict(), dropout=0.0, side_dropout=0.0, lr=sizes["lr"])
    state = module.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    module.load_state_dict(state | to_ours(mine, table(module.net), shapes, where))
    return module


@torch.no_grad()
def forward_outputs(module: RecordedPixelSNAIL, batch: CodeBatch) -> dict[str, Tensor]:
    """Every output of ``forward.json``, by its name there."""
    net = module.net.eval()
    convs = {"horizontal": net.horizontal, "vertical": net.vertical}
    outputs = {name: conv(net.before(batch.codes, conv)) for name, conv in convs.items()}
    x, told = net.first(batch.codes), net.told(batch.condition, len(batch.codes))
    for k, block in enumerate(net.blocks):
        x = outputs[f"block{k}"] = block(x, net.background, told)
    outputs["logits"] = net(batch.codes, batch.condition)
    net.train()
    return outputs


def masked_taps(module: RecordedPixelSNAIL) -> dict[str, Tensor]:
    """True where the release masks, by official name."""
    masks = {}
    for row in table(module.net):
        layer, _, parameter = str(row.ours).rpartition(".")
        if parameter == "weight_v" and isinstance(conv := module.get_submodule(layer), CausalConv):
            mask = masks[f"pixelsnail.{row.official}"] = torch.zeros_like(conv.weight_v, dtype=torch.bool)
            mask[:, :, -1, mask.shape[3] // 2 :] = True
    return masks


def snapshot(module: RecordedPixelSNAIL, optimizer_states: list[dict[str, Any]]) -> Snapshot:
    """Copy of our weights under official names; the case holds no state of the optimizer."""
    tensors = to_official(module.state_dict(), table(module.net))
    return Snapshot({f"pixelsnail.{name}": tensor.clone() for name, tensor in tensors.items()})


def batch(case: Case, iteration: int) -> CodeBatch:
    """Recorded codes, of a bottom with those above; their size must be that of ``config.json`` (ValueError)."""
    sizes = case.config["sizes"]
    (height, width), maps = sizes["shape"], []
    levels = {"top": [height, width]}
    if sizes["hier"] == "bottom":
        levels = {"bottom": [height, width], "top": [height // 2, width // 2]}
    for level, shape in levels.items():
        name, expected = f"iter{iteration}.{level}", [sizes["B"], *shape]
        if name not in case.batch:
            raise ValueError(f"{case.path}: batch.safetensors lacks {name}.")
        if list(case.batch[name].shape) != expected:
            raise ValueError(f"{case.path}: {name} is {list(case.batch[name].shape)}, but config.json says {expected}.")
        maps.append(case.batch[name].long())
    return CodeBatch(*maps)
