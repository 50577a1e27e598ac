"""Names of another code base and ours, side by side: one table serves both directions.

A table has one row a tensor, in the order in which the official code registers it, since its optimizers number
their parameters in that order. Nothing is dropped or left at its initial value in silence: a tensor without a
row, and a row without its tensor, are errors that name it.
"""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # Adam's, each of its parameter's shape


class Row(NamedTuple):
    """One tensor in both code bases.

    Args:
        official: its official name; where ``ours`` is None, a regular expression for names to leave out on purpose.
        ours: our name, or None.
        load: what turns the official tensor into ours, where they are arranged differently (a transposition).
        save: its inverse.
    """

    official: str
    ours: str | None
    load: Callable[[Tensor], Tensor] | None = None
    save: Callable[[Tensor], Tensor] | None = None


def rows(official: str, ours: str, names: Sequence[str]) -> list[Row]:
    """Rows of one layer whose parameters have the same names in both, in registration order."""
    return [Row(f"{official}.{name}", f"{ours}.{name}") for name in names]


def read(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU; only plain containers and tensors are ever built from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no PyTorch file, or it holds code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
        reason = told[0] if told else "it is damaged or of another kind."
        raise ValueError(f"{path} is no file of plain tensors, so it was not loaded: {reason}") from error
    except Exception as error:  # damaged bytes can make the reader fail in any way
        raise ValueError(f"{path} cannot be read as a PyTorch file: it is damaged or of another kind.") from error


def must_end_in_ckpt(dst: Path) -> None:
    """Refuse another name for a checkpoint of ours (ValueError)."""
    if dst.suffix != ".ckpt":
        raise ValueError(f"DST is {dst}, but Lightning checkpoints end in .ckpt.")


def read_ours(src: Path) -> dict[str, Any]:
    """A Lightning checkpoint of ours (FileNotFoundError, ValueError where it is none)."""
    ours = read(src)
    if not isinstance(ours, dict) or not isinstance(ours.get("state_dict"), dict):
        raise ValueError(f"{src} is not a Lightning checkpoint: it has no state_dict.")
    return ours


def to_ours(
    tensors: Mapping[str, Tensor], table: Sequence[Row], shapes: Mapping[str, torch.Size], where: str
) -> dict[str, Tensor]:
    """Official tensors under our names.

    Args:
        tensors: by official name.
        table: rows of exactly these tensors.
        shapes: of our tensors, by our name.
        where: file (and part of it) for messages.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    by_name = {row.official: row for row in table if row.ours is not None}
    dropped = [re.compile(row.official) for row in table if row.ours is None]
    left_over = [k for k in tensors if k not in by_name and not any(p.fullmatch(k) for p in dropped)]
    _refuse(f"{where} lacks", [name for name in by_name if name not in tensors])
    _refuse(f"{where} has tensors that this model does not have:", left_over)
    ours = {}
    for name, row in by_name.items():
        assert row.ours is not None
        ours[row.ours] = row.load(tensors[name]) if row.load else tensors[name]
        if ours[row.ours].shape != shapes[row.ours]:
            found, needed = tuple(ours[row.ours].shape), tuple(shapes[row.ours])
            raise ValueError(f"{where}: {name} is {found}, but the sizes of the other tensors ask for {needed}.")
    return ours


def to_official(tensors: Mapping[str, Tensor], table: Sequence[Row]) -> dict[str, Tensor]:
    """The inverse of ``to_ours`` for the rows of one official network, in official order."""
    kept = [row for row in table if row.ours is not None]
    _refuse("The checkpoint lacks", [str(row.ours) for row in kept if row.ours not in tensors])
    return {r.official: r.save(tensors[r.ours]) if r.save else tensors[r.ours] for r in kept if r.ours is not None}


def adam_to_ours(
    adam: Mapping[str, Any], table: Sequence[Row], shapes: Mapping[str, torch.Size], where: str
) -> dict[str, Any]:
    """Renumber the state of an official Adam: its order is the table's, ours that of ``names``.

    Args:
        adam: a state dict of one parameter group.
        table: rows of its parameters, in their order.
        shapes: of our parameters, by our name, in the order of our optimizer.
        where: file (and part of it) for messages.

    Raises:
        ValueError: not such a state dict, or not for these parameters.
    """
    kept = [row for row in table if row.ours is not None]
    try:
        (group,) = adam["param_groups"]
        keys, state = group["params"], adam["state"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not the state of an Adam with one parameter group.") from error
    if len(keys) != len(kept):
        raise ValueError(f"{where} has {len(keys)} parameters, but the networks have {len(kept)}.")
    numbers = {name: n for n, name in enumerate(shapes)}
    moved = {}
    for key, row in zip(keys, kept, strict=True):  # keys are numbers, in files of torch 0.4 addresses
        if key in state:
            moments = _each_moment(state[key], row.load)
            for moment in MOMENTS:
                if moment in moments and moments[moment].shape != shapes[str(row.ours)]:
                    raise ValueError(f"{where}: {moment} of {row.official} is {tuple(moments[moment].shape)}.")
            moved[numbers[str(row.ours)]] = moments
    # fused: how our modules step; it changes no number, and they refuse the loop
    group = {**group, "fused": True, "params": [*range(len(shapes))]}
    return {"state": dict(sorted(moved.items())), "param_groups": [group]}


def adam_to_official(adam: Mapping[str, Any], table: Sequence[Row], numbers: Mapping[str, int]) -> dict[str, Any]:
    """The inverse of ``adam_to_ours``; ``numbers`` gives our parameters' place in our optimizer."""
    kept = [row for row in table if row.ours is not None]
    state = adam["state"]
    moved = {
        n: _each_moment(state[numbers[str(row.ours)]], row.save)
        for n, row in enumerate(kept)
        if numbers[str(row.ours)] in state
    }
    return {"state": moved, "param_groups": [{**adam["param_groups"][0], "fused": None, "params": [*range(len(kept))]}]}


def _each_moment(state: Mapping[str, Any], transform: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
    return {k: transform(v) if transform and k in MOMENTS else v for k, v in state.items()}


def _refuse(what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise ValueError(f"{what} {', '.join(names[:20])}{more}.")


def refuse_average(tensors: Mapping[str, Tensor], paper: str, where: str) -> None:
    """Refuse to leave out silently what our model translates with.

    Raises:
        ValueError: the model keeps a running average of its weights.
    """
    if any(name.startswith("averaged.") for name in tensors):
        raise ValueError(
            f"{where} translates with a running average of its weights (ema), for which the official {paper} has no "
            "place: train with --model.ema 0 to export."
        )


def fresh_adam(
    parameters: int,
    lr: float,
    weight_decay: float = 0.0,
    scheduled: bool = False,
    betas: tuple[float, float] = (0.5, 0.999),
) -> dict[str, Any]:
    """State of one of our optimizers that has not stepped yet.

    Args:
        parameters: how many tensors it holds.
        lr: its rate.
        weight_decay: L2, added to the gradient.
        scheduled: the rate is one of a schedule, which starts with it.
        betas: its averages; (0.5, 0.999) in most adversarial papers.
    """
    few = [nn.Parameter(torch.empty(0)) for _ in range(parameters)]
    state = torch.optim.Adam(few, lr, betas=betas, weight_decay=weight_decay, fused=True).state_dict()
    if scheduled:
        state["param_groups"][0]["initial_lr"] = lr
    return state


def schedule(group: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """State of our learning-rate schedule, a function of the iteration."""
    base = group.get("initial_lr", group["lr"])
    counts = {"last_epoch": iterations, "_step_count": iterations + 1}
    return {"base_lrs": [base], "_last_lr": [group["lr"]], "lr_lambdas": [None], **counts}


def loops(iterations: int) -> dict[str, Any]:
    """State of Lightning's loops: nothing but the count of iterations, so that ``fit --ckpt_path`` goes on from it."""
    count = {"ready": iterations, "completed": iterations}
    fit = {
        "epoch_loop.state_dict": {"_batches_that_stepped": iterations},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": count, "current": dict(count)},
    }
    return {"fit_loop": fit, "validate_loop": {}, "test_loop": {}, "predict_loop": {}}
