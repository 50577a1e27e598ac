"""Measures how far each coordinate of a code stands for one factor of the data, and shows which tells of which."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import sklearn
import torch

from callbacks.heat_map import heat_map
from callbacks.measured import Measurement, Measuring, log_alike
from callbacks.media import save_picture
from callbacks.probes import infer
from interfaces.batch import FactorData
from interfaces.model import Encoder, require
from metrics.active_units import active_units
from metrics.disentanglement import (
    beta_vae_score,
    dci,
    dependence,
    factor_vae_score,
    irs,
    modularity_explicitness,
    sap,
)
from metrics.disentanglement_scores import mig_of
from metrics.factor_codes import Represent, digitised, entropies, indexed, mutual_information, sample


@dataclass(frozen=True)
class Counts:
    """How much a score looks at."""

    votes: int  # that settle, of the beta-VAE and FactorVAE scores
    votes_test: int  # that are counted
    points: int  # of MIG, IRS, dependence, and for variances
    train: int  # points to fit to, of SAP, explicitness and DCI
    test: int

    @property
    def images(self) -> int:
        """About how many images all scores ask for: a vote looks at 64, one of the beta-VAE score at as many pairs."""
        return 3 * 64 * (self.votes + self.votes_test) + 4 * self.points + 3 * (self.train + self.test)


PUBLISHED = Counts(10_000, 5_000, 10_000, 10_000, 5_000)  # Locatello et al. 2019
QUICK = Counts(350, 175, 2000, 1000, 500)  # in a fit: noisier, and not to be compared with published scores

_GRID = 1_000_000  # images that are all encoded once outside a fit, where scores ask for as many
_TOGETHER = 512  # images in a forward pass


class Disentanglement(Measuring):
    """Logs scores of an ``Encoder`` on data with known factors, by the protocols of Locatello et al. (2019).

    * ``disentanglement/factor_vae``, ``mig``, ``sap``, ``modularity``, ``explicitness`` (NaN where a value of a factor
      is missing among so few points), ``irs``; outside a fit also ``beta_vae``, which takes most images, and ``dci``
      (disentanglement), ``completeness`` and ``informativeness``, whose trees take minutes. All in [0, 1], 1 is best.
    * ``dependence/total_correlation``, ``wasserstein``, ``information``: how far coordinates depend on each other.
    * ``active_units``: how many coordinates have means whose variance over images is above 0.01 (Burda et al. 2016).
    * ``media/information``: the mutual information of each coordinate and each factor, as a share of the factor's
      entropy; rows in the order of their KL where the model tells it.

    The mean of the posterior is the code. In a fit counts are small; ``validate`` and ``test`` take the published ones
    and, of a grid of a million images or fewer, encode every image once if scores ask for more than these. The first
    process measures for all.

    Args:
        leave_out: names of factors that do not count, such as smallNORB's instance: they are drawn at random.
        seed: of all draws; each score has its own.
        jobs: processes for support vector machines and trees outside a fit, -1 one for each core; the scores do not
            depend on it.
        counts: of ``validate`` and ``test``; None are the published ones, and fewer are noisier.
        every: measures in each ``every``-th validation of a fit; ``validate`` and ``test`` always measure.
    """

    def __init__(
        self,
        leave_out: tuple[str, ...] = (),
        seed: int = 0,
        jobs: int = -1,
        every: int = 1,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(every)
        self.leave_out, self.seed, self.jobs, self.counts = tuple(leave_out), seed, jobs, counts or PUBLISHED

    @property
    def protocol(self) -> dict[str, str]:
        """Counts, seed, what is left out and who fits."""
        how = f"{self.counts}, seed {self.seed}, means of the posterior, without {list(self.leave_out)}"
        return {"disentanglement": f"{how}, scikit-learn {sklearn.__version__}"}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a model without a code, data without factors, and names of factors that it has not.

        Raises:
            TypeError: ``pl_module`` is no ``Encoder``, or the data are no ``FactorData``.
            ValueError: there is no such factor, or fewer than two are left.
        """
        require(pl_module, Encoder, self)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, FactorData):
            raise TypeError(f"Disentanglement needs data with known factors, such as datamodules.factors, not {data}.")
        unknown = [name for name in self.leave_out if name not in data.factor_names]
        if unknown:
            raise ValueError(f"Disentanglement.leave_out has {unknown[0]}: give some of {list(data.factor_names)}.")
        if len(data.factor_names) - len(self.leave_out) < 2:
            raise ValueError("Disentanglement needs two factors or more: name fewer in leave_out.")

    def begin(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Nothing: images are asked for when the validation is over."""

    def add(self, trainer: pl.Trainer, model: Any, batch: Any) -> None:
        """Nothing."""

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Measure on the first process, tell the others, log."""
        found: list[Any] = [None]
        if trainer.is_global_zero:
            found = [self._measure(trainer, model)]
        if trainer.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        log_alike(model, stage, found[0])
        if stage == "test":
            self.measurements = {
                key: Measurement(value, None, _unit(key), self.counts.test) for key, value in found[0].items()
            }

    def _measure(self, trainer: pl.Trainer, model: Any) -> dict[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        fit = trainer.state.fn == "fit"
        counts = QUICK if fit else self.counts
        kept = [k for k, name in enumerate(data.factor_names) if name not in self.leave_out]
        sizes = tuple(data.factor_sizes[k] for k in kept)
        jobs = 1 if fit else self.jobs
        represent = self._represent(trainer, model, kept)
        if not fit and len(kept) == len(data.factor_sizes) and math.prod(sizes) <= min(_GRID, counts.images):
            grid = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), 1)
            represent = indexed(represent(grid), sizes)
        votes = {"train": counts.votes, "test": counts.votes_test}
        points = {"train": counts.train, "test": counts.test}
        found = {
            "factor_vae": factor_vae_score(represent, sizes, self._rng(1), **votes, points=counts.points).test,
            "sap": sap(represent, sizes, self._rng(2), **points, jobs=jobs).score,
            "irs": irs(represent, sizes, self._rng(3), counts.points).score,
        }
        modularity, explicitness = modularity_explicitness(represent, sizes, self._rng(4), **points)
        found |= {"modularity": modularity.score, "explicitness": float(np.mean(explicitness.test))}
        codes, factors = sample(represent, sizes, counts.points, self._rng(5))
        information, entropy = mutual_information(digitised(codes), factors), entropies(factors)
        found["mig"] = mig_of(information, entropy).score
        self._draw(trainer, model, [data.factor_names[k] for k in kept], information / entropy)
        if not fit:
            found["beta_vae"] = float(beta_vae_score(represent, sizes, self._rng(0), **votes).test)
            trees = dci(represent, sizes, self._rng(6), **points, jobs=jobs)
            found |= {"dci": trees.disentanglement, "completeness": trees.completeness}
            found["informativeness"] = float(trees.informativeness.test)
        between = dependence(represent, sizes, self._rng(7), counts.points)
        return {f"disentanglement/{name}": float(value) for name, value in found.items()} | {
            "dependence/total_correlation": between.total_correlation,
            "dependence/wasserstein": between.wasserstein,
            "dependence/information": between.information,
            "active_units": float(active_units(codes).sum()),
        }

    def _represent(self, trainer: pl.Trainer, model: Any, kept: list[int]) -> Represent:
        """Factors that count to means of the posterior; the others are drawn."""
        data, rng = trainer.datamodule, np.random.default_rng(self.seed)  # type: ignore[attr-defined]

        def represent(factors: np.ndarray) -> np.ndarray:
            whole = np.stack([rng.integers(size, size=len(factors)) for size in data.factor_sizes], 1)
            whole[:, kept] = factors
            codes = []
            for start in range(0, len(whole), _TOGETHER):
                images = torch.from_numpy(data.images(whole[start : start + _TOGETHER]))
                codes.append(infer(trainer, lambda x: model.encode(x.float() / 127.5 - 1), images).cpu().numpy())
            return np.concatenate(codes)

        return represent

    def _rng(self, score: int) -> np.random.RandomState:
        return np.random.RandomState(np.random.SeedSequence((self.seed, score)).generate_state(1))

    def _draw(self, trainer: pl.Trainer, model: Any, names: list[str], shares: np.ndarray) -> None:
        kl = model.kl_per_dim() if hasattr(model, "kl_per_dim") else None
        order = range(len(shares)) if kl is None else torch.argsort(kl, descending=True).tolist()
        rows = [f"z{d}" if kl is None else f"z{d}, {float(kl[d]):.2f} nats" for d in order]
        picture = heat_map(
            "share of a factor's entropy that a coordinate tells", rows, names, shares[list(order)], shares[list(order)]
        )
        save_picture(trainer, "media/information", picture)


def _unit(key: str) -> str:
    return {"dependence/total_correlation": "nats", "dependence/information": "nats"}.get(key, "")
