"""Gradients of iteration 1 where a case holds them by ``optimizer:net.parameter`` (``grads1.safetensors``).

Elsewhere they follow from Adam's first moment, if each optimizer takes one step an iteration: ``parity_rules``.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from benchmarks.parity.rules import FLOAT64, GRADIENT, Case, Line, Run, digest_difference, relative_l2, usable


def digest_lines(case: Case, run: Run) -> Iterator[Line]:
    """Gradients that each optimizer received in iteration 1, but for tensors whose true gradient is zero."""
    null = case.tolerance.get("tensors_without_real_gradient", {}).get("names", [])
    for key, digest in case.digests.get("grads1", {}).items():
        optimizer, _, name = key.partition(":")
        if not optimizer.endswith("_legacy") and name not in null:
            ours = run.gradients.get(key)
            yield Line(f"first gradient {key}", math.inf if ours is None else digest_difference(ours, digest), FLOAT64)


def recorded_lines(case: Case, run: Run, recorded: dict[str, Tensor]) -> Iterator[Line]:
    """Gradients of every optimizer step of iteration 1 in float32, where they are more than rounding."""
    distances = case.tolerance.get("per_gradient_tensor_float64_and_mkldnn_off", {})
    for optimizer in sorted({key.partition(":")[0] for key in recorded if "_legacy" not in key}):
        of_step = {key.partition(":")[2]: g for key, g in recorded.items() if key.partition(":")[0] == optimizer}
        for name, gradient in of_step.items():
            key, used = f"{optimizer}:{name}", usable(case, run, "after1", name, of_step)
            if used.any():
                difference = relative_l2(run.gradients[key][used], gradient[used]) if key in run.gradients else math.inf
                yield Line(f"first gradient {key}", difference, max(GRADIENT, 10 * max(distances.get(key, [0.0]))))


def either_side(lines: list[Line], case: Case, double: Run, single: Run) -> list[Line]:
    """The lines; a first gradient over its limit with the larger distance from float64, if that keeps it, and printed.

    Two float32 results that keep the limit on either side of the true value can be twice as far from each other. So the
    recorded one is held against our float64, which decides, and ours too: neither is given more room than before.
    """
    if not case.has("grads1.safetensors"):
        return lines
    recorded = case.tensors("grads1.safetensors")
    return [line if line.ok else _from_float64(line, case, recorded, double, single) for line in lines]


def _from_float64(line: Line, case: Case, recorded: dict[str, Tensor], double: Run, single: Run) -> Line:
    key = line.name.removeprefix("first gradient ")
    if key == line.name or not all(key in each for each in (recorded, double.gradients, single.gradients)):
        return line
    optimizer, _, name = key.partition(":")
    of_step = {k.partition(":")[2]: g for k, g in recorded.items() if k.partition(":")[0] == optimizer}
    used, true = usable(case, single, "after1", name, of_step), double.gradients[key]
    theirs, ours = (relative_l2(each[key][used], true[used]) for each in (recorded, single.gradients))
    if not max(theirs, ours) <= line.limit:
        return line
    print(f"side float32: {line.name}: {line.difference:.3g} apart, but {theirs:.3g} and {ours:.3g} from float64.")
    return Line(line.name, max(theirs, ours), line.limit)


def of_first_step(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the first step of each optimizer received, by ``net.parameter``; optimizers are named in that order."""
    first: dict[str, Tensor] = {}
    for key in sorted(recorded, key=lambda key: key.partition(":")):
        first.setdefault(key.partition(":")[2], recorded[key])
    return first
