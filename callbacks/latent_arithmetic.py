"""Whether attributes add and subtract as codes do: smiling with long hair - long hair + neither = smiling without."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.attribute_swap import AttributeJudge
from callbacks.code_spaces import Space, check_codes, spaces
from callbacks.measured import Measurement, Measuring, log_alike, named
from callbacks.media import labelled_grid, save_picture
from callbacks.probes import in_order, in_parts
from callbacks.rows import PRIOR
from callbacks.separability import attributes_for, judged_draws, read
from interfaces.model import seed_of
from metrics.intervals import wilson


class LatentArithmetic(Measuring):
    """Adds and subtracts mean codes of draws that a judge has chosen (DCGAN, Radford et al. 2016, Sec. 6.3.2).

    For attributes A and B, (A, B) - (not A, B) + (not A, not B) should make (A, not B): with smile and long hair, a
    smile goes from faces with long hair to faces without. Each of the three is the mean of some draws that the judge
    reads so; the paper has three, chosen by eye. Codes are w of a ``StyledGenerator``, else those of a ``Decoder``: of
    a normal prior, which a mean of several draws is too near the middle of, they are scaled to the length sqrt(D) of
    its draws; of a uniform one they are cut off at its bounds.

    * ``val/arithmetic/smile_without_long_hair``: share of results that have A and have not B, as the judge reads them.
    * the same with ``_prior``: share of all draws that do so by chance.
    * ``media/arithmetic/smile_without_long_hair``: the draws, their means and the result of the first trial.

    ``test/...`` in a test. An equation of which too few draws have the attributes is left out, and said so.

    Args:
        judge: reads the attributes, such as ``metrics.features.faces.Faces``.
        equations: A and B of each, names of the judge's attributes.
        draws: among which the judge chooses.
        examples: in each mean; 3 in the paper.
        trials: results of each equation.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.

    Raises:
        ValueError: a number is out of its range, A is B, or the judge does not know an attribute.
    """

    def __init__(
        self,
        judge: AttributeJudge,
        equations: tuple[tuple[str, str], ...] = (("smile", "long_hair"), ("glasses", "long_hair")),
        draws: int = 1000,
        examples: int = 3,
        trials: int = 64,
        every: int = 1,
    ) -> None:
        super().__init__(every)
        if min(draws, examples, trials) < 1:
            raise ValueError(
                f"LatentArithmetic has {draws} draws, {examples} examples and {trials} trials: give 1 or more of each."
            )
        for a, b in equations:
            attributes_for((a, b), judge, self)
            if a == b:
                raise ValueError(f"LatentArithmetic has an equation of {a} and {b}: give two attributes.")
        self.judge, self.equations = judge, tuple((a, b) for a, b in equations)
        self.draws, self.examples, self.trials = draws, examples, trials

    @property
    def protocol(self) -> dict[str, str]:
        """Who judges, and how many codes are added."""
        how = f"means of {self.examples} among {self.draws} draws of seed 0, {self.trials} trials"
        return {"arithmetic": how} | named("LatentArithmetic", self.judge.protocol)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a space of codes (TypeError)."""
        check_codes(pl_module, self)

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing."""

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Nothing: images of the data are not needed."""

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Judge the draws, do this rank's share of the sums, bring the readings together, draw and log."""
        space = spaces(trainer, model)[-1]
        judged = judged_draws(trainer, model, self.judge, self.draws)
        codes, found = judged.codes[space.name], dict[str, Measurement]()
        for a, b in self.equations:
            column_a, column_b = (self.judge.attributes.index(name) for name in (a, b))
            name, has = f"{a}_without_{b}", judged.logits > 0
            pools = _pools(has[:, column_a], has[:, column_b])
            few = min(len(pool) for pool in pools)
            if few < self.examples:
                if trainer.is_global_zero:
                    print(f"LatentArithmetic leaves {name} out: {few} draws are such, not {self.examples}.", flush=True)
                continue
            numbers = range(trainer.global_rank, self.trials, trainer.world_size)
            sums = [self._sum(space, codes, pools, number) for number in numbers]
            results = torch.stack([each.result for each in sums]) if sums else codes[:0]
            seen = read(space, self.judge, results) > 0
            right = in_order(trainer, (seen[:, column_a] & ~seen[:, column_b]).tolist())
            by_chance = (has[:, column_a] & ~has[:, column_b]).tolist()
            found |= {f"arithmetic/{name}": _share(right), f"arithmetic/{name}{PRIOR}": _share(by_chance)}
            if trainer.is_global_zero:
                self._show(trainer, space, sums[0], a, b)
        log_alike(model, stage, {key: each.value for key, each in found.items()})
        if stage == "test":
            self.measurements = found

    def _sum(self, space: Space, codes: Tensor, pools: tuple[Tensor, ...], number: int) -> "Sum":
        """A trial, a function of its number and the pools."""
        rng = torch.Generator().manual_seed(seed_of(0, number))
        groups = [codes[pool[torch.randperm(len(pool), generator=rng)[: self.examples]]] for pool in pools]
        a, b, c = (group.mean(0) for group in groups)
        return Sum(torch.stack(groups), placed(torch.stack((a, b, c)), space), placed((a - b + c)[None], space)[0])

    def _show(self, trainer: pl.Trainer, space: Space, shown: "Sum", a: str, b: str) -> None:
        """Save the draws in columns, their means below, and the result beside these."""
        each = torch.cat((shown.groups.flatten(0, 1), shown.means, shown.result[None]))
        images = in_parts(lambda part: space.image(part), each).cpu()
        groups = images[: 3 * self.examples].unflatten(0, (3, self.examples))
        *means, result = images[3 * self.examples :].split(1)
        columns = [torch.cat((group, mean)) for group, mean in zip(groups, means, strict=True)]
        columns.append(torch.cat((torch.ones_like(groups[0]), result)))
        headings = [f"{a}\n{b}", f"- no {a}\n{b}", f"+ no {a}\nno {b}", f"= {a}\nno {b}"]
        labels = [*(str(k + 1) for k in range(self.examples)), "mean"]
        save_picture(trainer, f"media/arithmetic/{a}_without_{b}", labelled_grid(columns, headings, labels))


class Sum(NamedTuple):
    """One trial."""

    groups: Tensor  # (3, examples, D)
    means: Tensor  # (3, D), placed
    result: Tensor  # (D,), placed


def placed(codes: Tensor, space: Space) -> Tensor:
    """Sums and means of codes, (N, D), where the prior has its draws."""
    if space.prior == "normal":
        return codes * (codes.shape[1] ** 0.5 / codes.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return codes.clamp(-1, 1) if space.prior == "uniform" else codes


def _pools(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Places of the draws of each group."""
    return tuple(mask.nonzero()[:, 0] for mask in (a & b, ~a & b, ~a & ~b))


def _share(right: list[bool]) -> Measurement:
    """With the interval of independent trials; those of one equation share draws, so theirs is too narrow."""
    return Measurement(sum(right) / len(right), wilson(sum(right), len(right)), "share", len(right))
