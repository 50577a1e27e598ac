"""What a recorded case of an official implementation is, and when a run of ours agrees with it.

Nothing here knows a paper. A case is a folder of recorded numbers: ``config.json``, initial weights, batches, and
what came out after each iteration. It is run twice from the same float32 start. Float64 decides: two correct
implementations differ there by rounding of 1e-16 only, so an epsilon in the wrong place shows. Float32 keeps limits
that follow from how far the official code is from itself (``tolerance.json``: float32 against float64).
"""

import json
import lzma
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

NOISE_SEED = 20260101
FLOAT64 = 1e-8  # relative, of losses and digests
DIGITS = 0.01  # relative, of recorded distances
GRADIENT = 1e-4  # relative l2 of a first gradient in float32
WEIGHTS = {1: 1e-3}  # l2, relative to the update, after so many iterations
WEIGHTS_LATER = 2e-2
CODE = 1e-4  # l2 of each entry of a codebook, relative to the recorded entry
NO_GRADIENT = 1e-7  # of the largest first gradient of the same optimizer: below, rounding decides Adam's step


class Line(NamedTuple):
    """One compared quantity; ``ok`` is False for NaN too."""

    name: str
    difference: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the difference keeps the limit."""
        return self.difference <= self.limit


@dataclass
class Snapshot:
    """Weights and Adam's state, by ``net.parameter`` in official names."""

    weights: dict[str, Tensor]
    exp_avg: dict[str, Tensor] = field(default_factory=dict)
    exp_avg_sq: dict[str, Tensor] = field(default_factory=dict)
    step: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """What ours gives for a case in one precision.

    Args:
        forward: outputs of the networks with their initial weights, by name of ``forward.json``.
        losses: per iteration, by ``player.term``.
        init: weights before training.
        after: snapshots by tag, ``after1``, ``after3``.
        lrs: per iteration, the rate of each optimizer.
        draws: kind and shape of each noise draw of iteration 1.
        optimizer_of: which optimizer owns a ``net.parameter``.
        counts: of elements that ``config.json`` counts among ``parameters`` and that no network trains.
        steps: steps an iteration of a ``net.parameter`` whose optimizer does not take one.
        gradients: what optimizers received in iteration 1, by ``optimizer:net.parameter``, where the case records it.
        codebooks: the dimension of a ``net.buffer`` that counts its entries, where it holds some.
        absent: masks, by ``net.parameter``, of elements that the official network never uses and that ours never moves.
    """

    forward: dict[str, Tensor]
    losses: list[dict[str, float]]
    init: Snapshot
    after: dict[str, Snapshot]
    lrs: list[list[float]]
    draws: list[tuple[str, list[int]]]
    optimizer_of: dict[str, str]
    counts: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    codebooks: dict[str, int] = field(default_factory=dict)
    absent: dict[str, Tensor] = field(default_factory=dict)


class Case:
    """A folder of recorded numbers.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: a file that belongs to a case, or that its ``config.json`` lists, is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = self.json("config.json")
        missing = [name for name in self.config.get("files_listing", []) if not _stored(path / name)]
        if missing:
            raise FileNotFoundError(f"{path} lacks {', '.join(missing)}, which its config.json lists.")
        self.losses: dict[str, Any] = self.json("losses.json")
        self.tolerance: dict[str, Any] = self.json("tolerance.json")
        self.forward_info: dict[str, Any] = self.json("forward.json")
        self.forward = self.tensors("forward.safetensors")
        self.batch = self.tensors("batch.safetensors")
        digests = self.json("float64_digest.json") if self.has("float64_digest.json") else {}
        self.digests: dict[str, Any] = {key: value for key, value in digests.items() if isinstance(value, dict)}
        self.iterations = len(self.losses["float64"])
        names = [*self.config.get("files_listing", []), *self.digests]
        self.tags = sorted({m[0] for name in names if (m := re.match(r"after\d+", name))}, key=number)
        if "1" in self.losses["float64"]:
            self._rename()

    def _rename(self) -> None:
        """Give an earlier layout, whose losses have no player, the names of the later one."""
        player = re.match(r"\w*", str(self.config.get("paper")).lower())[0]
        for precision in ("float32", "float64"):
            terms = self.losses[precision].items()
            self.losses[precision] = {f"iter{k}": {player: of_iteration} for k, of_iteration in terms}
        distances = self.tolerance["float32_vs_float64"]
        distances["forward_max_abs"] = self.tolerance["forward_float32_vs_float64"]["per_tensor"]
        of_losses = max(self.tolerance["losses_max_relative_difference"].values())
        distances["losses_max_rel"] = {f"iter{k + 1}": of_losses for k in range(self.iterations)}
        self.tags = [tag for tag in ("after1", "after3") if self.has(f"{tag}/all_nets.safetensors")]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the case; ``name.xz`` will do."""
        data = self._bytes(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise ValueError(f"{self.path / name} is not valid JSON: {error}.") from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file of the case; ``name.xz`` will do."""
        data = self._bytes(name)
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{self.path / name} is damaged: {error}.") from error

    def _bytes(self, name: str) -> bytes:
        path = _stored(self.path / name)
        if path is None:
            raise FileNotFoundError(f"{self.path} is not a parity case: it lacks {name}.")
        try:
            return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        except lzma.LZMAError as error:
            raise ValueError(f"{path} is damaged: {error}.") from error

    def has(self, name: str) -> bool:
        """Whether the case has this file."""
        return _stored(self.path / name) is not None

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Elements decided by rounding, 1 each, in the shapes of the weights."""
        return self.tensors("ill_conditioned.safetensors") if self.has("ill_conditioned.safetensors") else {}

    def distance(self, tag: str, name: str) -> float | None:
        """Recorded max abs difference of a tensor between the official float32 and float64, None if not recorded."""
        paired = self.tolerance.get("per_tensor_float32_vs_float64_max_abs_after1_after3", {})
        if name in paired and tag in ("after1", "after3"):
            return paired[name][0 if tag == "after1" else 1]
        return self.tolerance["float32_vs_float64"].get(tag, {}).get("per_tensor_all", {}).get(name)

    def largest(self, *keys: str) -> float:
        """The larger of float32 against float64 and float32 against other kernels of one recorded quantity."""
        found = [0.0]
        for kind in ("float32_vs_float64", "float32_other_torch", "float32_other_kernels"):
            value: Any = self.tolerance.get(kind, {})
            for key in keys:
                value = value.get(key, {}) if isinstance(value, Mapping) else {}
            found += [float(value)] if isinstance(value, int | float) else []
        return max(found)


def normal(shape: tuple[int, ...] | torch.Size, seed: int = NOISE_SEED) -> Tensor:
    """The draw of the noise rule: standard normal in float64, a function of its shape (and of a case's exceptions)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(np.asarray(rng.standard_normal(tuple(shape))))


def number(tag: str) -> int:
    """3 of ``after3``."""
    return int(tag.removeprefix("after"))


def exact_lines(case: Case, run: Run) -> Iterator[Line]:
    """What has no tolerance: schedules, noise draws, parameter counts, steps."""
    recorded_lrs = case.config.get("lr_per_iteration", [])
    yield Line("iterations", abs(len(run.losses) - case.iterations), 0)
    for k, lr in enumerate(recorded_lrs, 1):
        difference = (
            max((relative(ours, lr) for ours in run.lrs[k - 1]), default=math.inf) if k <= len(run.lrs) else math.inf
        )
        yield Line(f"lr, iteration {k}", difference, 1e-12)
    rule = case.config.get("noise_rule", {})
    if "draws_in_iteration_1" in rule:
        official = sorted((kind, tuple(shape)) for kind, shape, *_ in rule["draws_in_iteration_1"])
        ours = sorted((kind, tuple(shape)) for kind, shape in run.draws)
        yield Line(
            f"noise draws in iteration 1, ours {len(ours)}, official {len(official)}", float(official != ours), 0
        )
    for net, count in case.config.get("parameters", {}).items():
        trained = sum(w.numel() for name, w in run.init.weights.items() if name.startswith(f"{net}."))
        yield Line(f"parameters of {net}", abs(run.counts.get(net, trained) - count), 0)
    for tag, snapshot in run.after.items():
        wrong = [name for name, step in snapshot.step.items() if step != number(tag) * run.steps.get(name, 1)]
        yield Line(f"Adam's steps {tag}", len(wrong), 0)


def forward_lines(case: Case, run: Run, double: bool) -> Iterator[Line]:
    """Outputs with the initial weights; in float64 as far from the recorded float32 as the official float64 is."""
    for name, recorded in case.forward.items():
        info = case.forward_info.get(name, {})
        ours = run.forward.get(name)
        if ours is None or list(recorded.shape) != info.get("shape"):
            yield Line(f"forward {name}: not computed, or not of its recorded shape", math.inf, 0)
            continue
        if double and "float64_l2_and_dot_of_full" in info:
            yield Line(f"forward {name} digest", digest_difference(ours, info["float64_l2_and_dot_of_full"]), FLOAT64)
        difference = max_abs(_strided(ours, recorded, info), recorded)
        d = case.largest("forward_max_abs", name)
        if double and "full_shape" not in info:
            yield distance_line(f"forward {name}", difference, d)
        elif double:  # the recorded distance is that of the full output
            yield Line(f"forward {name}", difference, d + rounding(d))
        else:
            yield Line(f"forward {name}", difference, 30 * d + 1e-6 * float(recorded.abs().max()))


def loss_lines(case: Case, run: Run, double: bool) -> Iterator[Line]:
    """Every loss term of every iteration."""
    for k in range(case.iterations):
        single, exact = (flat(case.losses[precision][f"iter{k + 1}"]) for precision in ("float32", "float64"))
        if set(single) != set(exact):
            yield Line(f"iter{k + 1}: losses.json has other terms in float32 than in float64", math.inf, 0)
        d = case.largest("losses_max_rel", f"iter{k + 1}")
        for name in exact:
            ours = run.losses[k].get(name, math.nan)
            if double:
                yield Line(f"iter{k + 1} {name}", relative(ours, exact[name]), FLOAT64)
                if d > 0 and name in single:  # a wrong number there would widen its own limit below
                    difference = relative(single[name], ours)
                    yield Line(f"iter{k + 1} {name}: the recorded float32", difference, d + rounding(d))
                continue
            limit = max(1e-5 if k == 0 else 1e-4, 30 * relative(single.get(name, math.nan), exact[name]))
            limit = 0.0 if isinstance(exact[name], int) else limit  # counts, checksums
            yield Line(f"iter{k + 1} {name}", relative(ours, single.get(name, math.nan)), limit)


def digest_lines(case: Case, run: Run) -> Iterator[Line]:
    """Every tensor of the float64 run: l2 norm and product with the rule's normal tensor."""
    for group, digests in case.digests.items():
        tag, _, what = group.partition(".")
        if tag.endswith("_legacy") or group == "grads1":
            continue  # other semantics, for the record; parity_gradients
        snapshot = run.after.get(tag)
        if snapshot is None or what not in ("delta", "exp_avg"):
            raise ValueError(f"{case.path / 'float64_digest.json'} has {group}, which this runner does not know.")
        if what == "delta":
            tensors = {name: weight - run.init.weights[name] for name, weight in snapshot.weights.items()}
        else:
            tensors = snapshot.exp_avg
        for name in sorted(set(tensors) ^ set(digests)):
            yield Line(f"{group} {name}: only in one of the two", math.inf, 0)
        for name in (name for name in digests if name in tensors):
            yield Line(f"{group} {name}", digest_difference(tensors[name], digests[name]), FLOAT64)


def recorded_lines(case: Case, run: Run, tag: str, recorded: Snapshot) -> Iterator[Line]:
    """Ours in float64 is as far from the recorded float32 files as the official float64 is."""
    ours, null = run.after[tag], case.tolerance.get("tensors_without_real_gradient", {}).get("names", [])
    for name, weight in recorded.weights.items():
        d = case.distance(tag, name)
        if d is not None and name in run.absent:  # the recorded distance is of these elements too
            there = ~run.absent[name]
            yield Line(f"{tag} {name}", max_abs(ours.weights[name][there], weight[there]), d + rounding(d))
        elif d is not None:
            yield distance_line(f"{tag} {name}", max_abs(ours.weights[name], weight), d)
    for name, moment in recorded.exp_avg.items():
        d = case.largest("adam_exp_avg", tag, "max_relative_l2")
        if name not in null:
            d = case.largest("adam_exp_avg_without_those", tag) or d
        limit = d + rounding(d) + 1e-7
        yield Line(f"{tag} {name} exp_avg", relative_l2(moment, ours.exp_avg[name]), limit)
        if (
            name in recorded.exp_avg_sq and name not in null
        ):  # an error e of g is at most one of sqrt(n) (2 e + e^2) of g^2
            second, e = relative_l2(recorded.exp_avg_sq[name], ours.exp_avg_sq[name]), max(limit, 1e-4)
            yield Line(f"{tag} {name} exp_avg_sq", second, math.sqrt(moment.numel()) * (2 * e + e * e))
    wrong = sum(step != number(tag) * run.steps.get(name, 1) for name, step in recorded.step.items())
    yield Line(f"{tag} Adam's steps in the file", wrong, 0)


def gradient_lines(case: Case, run: Run, recorded: dict[str, Tensor], ours: dict[str, Tensor]) -> Iterator[Line]:
    """First gradients in float32, where they are more than rounding."""
    d = case.largest("adam_exp_avg_without_those", "after1")
    for name, gradient in recorded.items():
        used = usable(case, run, "after1", name, recorded)
        if used.any():
            difference = relative_l2(ours[name][used], gradient[used])
            yield Line(f"first gradient {name}", difference, max(GRADIENT, 10 * d))


def weight_lines(
    case: Case, run: Run, tag: str, recorded: Snapshot, init: Snapshot, gradients: dict[str, Tensor]
) -> Iterator[Line]:
    """Weights in float32; where rounding decides, only that Adam's steps are no longer than they can be."""
    share = WEIGHTS.get(number(tag), WEIGHTS_LATER)
    bound = 2 * sum(max(lrs) for lrs in run.lrs[: number(tag)]) * 1.1
    for name, weight in recorded.weights.items():
        ours, used = run.after[tag].weights[name], usable(case, run, tag, name, gradients)
        if torch.equal(weight, init.weights[name]) or not weight.is_floating_point():
            yield Line(f"{tag} {name} (exactly)", max_abs(ours, weight), 0)
            continue
        if name in run.codebooks:  # unused entries are 1e5 times as long as others and would hide these
            entries = zip(ours.unbind(run.codebooks[name]), weight.unbind(run.codebooks[name]), strict=True)
            differences = torch.tensor([relative_l2(*pair) for pair in entries])
            yield Line(f"{tag} {name} (each entry)", float(differences.max()), CODE)  # NaN, where there is one
            continue
        if used.any():
            update = l2(weight[used].double() - init.weights[name][used].double())
            d = case.distance(tag, name) or 0.0
            difference = l2(ours[used].double() - weight[used].double())
            yield Line(f"{tag} {name}", difference, max(share * update, 10 * d * math.sqrt(weight.numel())))
        if name in run.absent:
            absent = run.absent[name]
            used |= absent
            yield Line(f"{tag} {name} (not there, not moved)", max_abs(ours[absent], run.init.weights[name][absent]), 0)
        if not used.all():
            difference = max_abs(ours[~used], weight[~used])
            steps = run.steps.get(name, 1)
            yield Line(f"{tag} {name} (decided by rounding, bound only)", difference, steps * bound)


def usable(case: Case, run: Run, tag: str, name: str, gradients: dict[str, Tensor]) -> Tensor:
    """Elements of a tensor whose update is more than rounding: a mask of its shape."""
    used = torch.ones_like(run.init.weights[name], dtype=torch.bool)
    null = case.tolerance.get("tensors_without_real_gradient", {})
    if name in null.get("names", []):
        return torch.zeros_like(used)
    some = null.get("elements", {}).get(name, {})
    used[some.get("first_index_all_null", [])] = False
    if used.ndim > 1:
        used[:, some.get("second_index_all_null", [])] = False
    used.view(-1)[case.tolerance.get("elements_decided_by_rounding", {}).get(tag, {}).get(name, [])] = False
    if name in case.masks:
        used &= case.masks[name] == 0
    if name in run.absent:
        used &= ~run.absent[name]
    if name in gradients:
        mine = [g.abs().max() for other, g in gradients.items() if run.optimizer_of[other] == run.optimizer_of[name]]
        used &= gradients[name].abs() >= max(mine) * NO_GRADIENT
        used &= gradients[name] != 0
    return used


def first_gradients(snapshot: Snapshot, init: Snapshot, beta1: float, weight_decay: float) -> dict[str, Tensor]:
    """Gradients of iteration 1, from Adam's first moment: (1 - beta1) (g + weight_decay w)."""
    moments = snapshot.exp_avg.items()
    return {name: m.double() / (1 - beta1) - weight_decay * init.weights[name].double() for name, m in moments}


def distance_line(name: str, difference: float, d: float) -> Line:
    """That a distance equals a recorded one within 1 % and the digits that were recorded."""
    return Line(f"{name}: {difference:.3e} from the recorded float32, official {d:g}", abs(difference - d), rounding(d))


def rounding(d: float) -> float:
    """1 % of a recorded number and half a unit of its last digit; two digits at least."""
    if d == 0:
        return 0.0
    mantissa, _, exponent = f"{d!r}".partition("e")
    digits = len(mantissa.replace(".", "").strip("0")) if not exponent else len(mantissa.replace(".", ""))
    return DIGITS * d + 0.5 * 10 ** (math.floor(math.log10(d)) - max(digits, 2) + 1)


def digest_difference(x: Tensor, digest: list[float]) -> float:
    """Largest difference of [l2, dot], relative to the recorded norm."""
    x = x.double()
    found = (l2(x), float((x * normal(x.shape)).sum()))
    difference = max(abs(found[0] - digest[0]), abs(found[1] - digest[1]))
    return difference / digest[0] if digest[0] > 0 else difference


def flat(players: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{"D": {"loss": 1}} as {"D.loss": 1}."""
    return {f"{player}.{name}": value for player, terms in players.items() for name, value in terms.items()}


def relative(ours: float, recorded: float) -> float:
    """Relative difference; a recorded zero asks for zero."""
    if recorded == 0:
        return 0.0 if ours == 0 else math.inf
    return abs(ours - recorded) / abs(recorded)


def relative_l2(ours: Tensor, recorded: Tensor) -> float:
    """l2 of the difference in parts of the recorded l2; a recorded zero asks for zero."""
    difference, norm = l2(ours.double() - recorded.double()), l2(recorded)
    return difference / norm if norm > 0 else (0.0 if difference == 0 else math.inf)


def max_abs(ours: Tensor, recorded: Tensor) -> float:
    """Largest absolute difference; shapes must be equal."""
    if ours.shape != recorded.shape:
        return math.inf
    return float((ours.double() - recorded.double()).abs().max())


def l2(x: Tensor) -> float:
    """Euclidean norm in float64."""
    return float(torch.linalg.vector_norm(x.double()))


def _strided(ours: Tensor, recorded: Tensor, info: Mapping[str, Any]) -> Tensor:
    """Every k-th row and column, where only those are recorded (``full_shape``)."""
    full = info.get("full_shape", list(recorded.shape))
    if list(ours.shape) != full:
        return ours
    steps = [-(-whole // part) for whole, part in zip(full, recorded.shape, strict=True)]
    return ours[tuple(slice(None, None, step) for step in steps)]


def _stored(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".xz")
    return path if path.is_file() else packed if packed.is_file() else None
