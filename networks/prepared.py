"""What a layer makes of its weights before it can use them, made once an iteration."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_prepared: dict[tuple[int, bool], Tensor] | None = None


@contextmanager
def weights_prepared_once() -> Iterator[None]:
    """Within, what a layer makes of its weights before it can use them is made once and not at every use.

    Gradients of all uses are summed before they go back through the preparation, so that this too happens once. Who
    changes weights within calls ``weights_changed``, as ``ManualModule.descend`` does.
    """
    global _prepared
    outer, _prepared = _prepared, {}
    try:
        yield
    finally:
        _prepared = outer


def prepared(weight: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """``prepare(weight)``, remembered within ``weights_prepared_once``; one preparation a weight."""
    if _prepared is None:
        return prepare(weight)
    key = (id(weight), torch.is_grad_enabled() and weight.requires_grad)
    if key not in _prepared:
        _prepared[key] = prepare(weight)
    return _prepared[key]


def weights_changed(weights: Iterable[Tensor]) -> None:
    """Forget what was made of these weights; fused optimizers leave no other trace of a step."""
    if _prepared:
        changed = {id(weight) for weight in weights}
        for key in [key for key in _prepared if key[0] in changed]:
            del _prepared[key]
