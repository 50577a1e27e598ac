"""Looks again at a batch that ``callbacks.watchdog`` stopped at: where do its numbers cease to be finite?

    python -m benchmarks.replay runs/unit_streets/20261121-150248/replay/17.pt [--accelerator cpu]

The module is built from the file and runs its own ``training_step`` on the saved batch, with the saved seed, iteration,
rank and precision, so its noise is that of the run. It does so twice: once to see every term, weight, activation and
gradient, once under autograd's anomaly detection, which stops at the first backward function that gives NaN.

Weights are those at the stop, one or two player's steps after the batch (``callbacks.incident.save``), and learning
rates are 0, so that nothing moves between the players. Of several ranks only one is replayed: what only shows in the
sum over ranks does not show here.
"""

import argparse
import importlib
import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader


def main(args: list[str] | None = None) -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description="Find where a saved batch ceases to be finite.")
    parser.add_argument("file", type=Path, help="RUN/replay/ITERATION.pt")
    parser.add_argument("--accelerator", choices=["auto", "cpu"], default="auto")
    options = parser.parse_args(args)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    saved = load(options.file)
    describe(saved)
    witness = Witness()
    run(saved, witness, options.accelerator)
    print("\n".join(witness.account()))
    print("\nUnder anomaly detection:")
    print(anomaly(saved, options.accelerator))


def load(path: Path) -> dict[str, Any]:
    """Read a replay file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: give the file that the watchdog named, RUN/replay/ITERATION.pt.")
    return torch.load(path, map_location="cpu", weights_only=True)


def describe(saved: dict[str, Any]) -> None:
    """Print what the batch was."""
    keys = ("iteration", "seed", "rank", "world_size", "precision")
    print(saved["class_path"] + "  " + "  ".join(f"{key} {saved[key]}" for key in keys))
    for field, x in saved["batch"].items():
        names = ", ".join(saved["names"].get(field, []))
        print(f"  batch.{field}  {tuple(x.shape)}  {bad_values(x) or 'finite'}  {names}")


def named(path: str) -> Any:
    """The object of a dotted path, such as a class within a module."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def run(saved: dict[str, Any], witness: "Witness", accelerator: str, detect_anomaly: bool = False) -> None:
    """One iteration of the saved module on the saved batch."""
    torch.manual_seed(0)
    module = named(saved["class_path"])(**saved["hyper_parameters"])
    module.load_state_dict(saved["state_dict"])
    batch = named(saved["batch_class"])(**saved["batch"])
    cuda = accelerator == "auto" and torch.cuda.is_available()
    strategy = SingleDeviceStrategy(device="cuda:0" if cuda else "cpu")
    strategy.global_rank = saved["rank"]  # decides the noise
    trainer = pl.Trainer(
        accelerator="cuda" if cuda else "cpu",
        strategy=strategy,
        precision=saved["precision"],
        callbacks=[witness],
        detect_anomaly=detect_anomaly,
        max_steps=saved["iteration"] + 1,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = saved["iteration"]
    before = os.environ.get("PL_GLOBAL_SEED")
    os.environ["PL_GLOBAL_SEED"] = str(saved["seed"])
    try:
        trainer.fit(module, DataLoader([batch], batch_size=None))
    finally:
        os.environ.pop("PL_GLOBAL_SEED")
        if before is not None:
            os.environ["PL_GLOBAL_SEED"] = before


def anomaly(saved: dict[str, Any], accelerator: str) -> str:
    """What autograd stops at: the backward function and the line of the forward pass that made it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run(saved, Witness(), accelerator, detect_anomaly=True)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            origin = next((str(w.message) for w in caught if "forward call" in str(w.message)), "")
            ours = [line for line in origin.split("  File ") if line.startswith('"') and "site-packages" not in line]
            return f"  {error}\n" + "".join(f"  File {line}" for line in ours[-3:]).rstrip()
    return "  no backward function gives NaN (infinite values are not looked for)"


class Witness(pl.Callback):
    """Keeps the first weight, activation and gradient that are not finite, all terms and the norms of the gradients."""

    def __init__(self) -> None:
        self.weight = self.activation = self.gradient = ""
        self.terms: dict[str, float] = {}
        self.norms: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights, hold them still and hang a hook on each layer."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        for name, tensor in pl_module.state_dict().items():
            self.weight = self.weight or found(name, tensor)
        for name, layer in pl_module.named_modules():
            if name:
                layer.register_forward_hook(lambda layer, _, output, name=name: self._see(name, layer, output))

    def _see(self, name: str, layer: nn.Module, output: Any) -> None:
        tensors = output if isinstance(output, list | tuple) else [output]
        for x in tensors:
            if not self.activation and isinstance(x, Tensor):
                self.activation = found(f"{name} ({type(layer).__name__})", x)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the gradients, and at their norm as the module does: finite gradients can have an infinite one."""
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        grads = {n: p.grad for n, p in pl_module.named_parameters() if id(p) in mine and p.grad is not None}
        for name, grad in grads.items():
            self.gradient = self.gradient or found(name, grad)
        networks = "+".join(dict.fromkeys(name.partition(".")[0] for name in grads))
        self.norms[networks] = float(torch.nn.utils.get_total_norm(grads.values()))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Read the terms."""
        self.terms = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}

    def account(self) -> list[str]:
        """Lines to print."""
        firsts = (("weight", self.weight), ("activation", self.activation), ("gradient", self.gradient))
        return [
            *("\nTerms:", *verdicts(self.terms), "\nNorms of gradients:", *verdicts(self.norms)),
            *("\nFirst not finite:", *(f"  {what:<12} {it or 'none'}" for what, it in firsts)),
        ]


def verdicts(values: dict[str, float]) -> list[str]:
    """One line each: name, value, finite or not."""
    return [f"  {k:<24} {v:<12.5g} {'finite' if math.isfinite(v) else 'NOT FINITE'}" for k, v in values.items()]


def found(name: str, x: Tensor) -> str:
    """``name``, shape and count of what is not finite in ``x``, or nothing."""
    return f"{name}  {tuple(x.shape)}  {bad}" if (bad := bad_values(x)) else ""


def bad_values(x: Tensor) -> str:
    """'3 of 3072 values not finite', or nothing."""
    bad = int((~x.isfinite()).sum())
    return f"{bad} of {x.numel()} values not finite" if bad else ""


if __name__ == "__main__":
    main()
