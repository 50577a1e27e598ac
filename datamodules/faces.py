"""Portraits by formula: the same faces as photograph, sketch and painting, or with attributes that are known."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.arrays import PairRows, SameRows, mirrored, one_domain, rows, splits, whole
from datamodules.cache import rendered
from datamodules.loaders import (
    Batch,
    Policy,
    ShuffledSampler,
    UnpairedSampler,
    batch_to_signed_unit,
    build_loader,
    placement,
    samples_of,
    unpadded_shard,
)
from datamodules.procedural.faces import ATTRIBUTES, VERSION, Marginals, attributes_of, face, planes
from datamodules.procedural.faces_edits import swapped
from datamodules.rendered_domains import FIRST, RenderedDomains
from interfaces.batch import AttributeBatch, PairedBatch

# One collection of numbered faces for all runs, so that numbers measured with different seeds compare.
_WORLD = 0


class FaceDomains(RenderedDomains):
    """Faces in two or three of the domains photo, sketch and paint, UFDN's own setting.

    Batches are those of ``RenderedDomains``; the second draw of a face has other light, pencil and palette. The faces
    do not depend on ``seed``.

    Args:
        domains: different ones of ``procedural.faces.DOMAINS``.
        size: height and width, 32 to 512, or one number for both.
        faces: number of training images per domain.
        val_faces: number of validation faces, and of test faces.
        batch_size: images of each domain per iteration and process; on average, where ``sampling`` draws domains.
        sampling: policy of ``loaders.DomainSampler``: balanced, uniform or proportional.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: unknown or equal domains or fewer than two, a size that cannot be rendered, or too few faces.
    """

    def __init__(
        self,
        domains: tuple[str, ...] = ("photo", "sketch", "paint"),
        size: int | tuple[int, int] = 64,
        faces: int = 2000,
        val_faces: int = 64,
        batch_size: int = 8,
        sampling: Policy = "balanced",
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(
            *("faces", VERSION, renders, domains, size, faces, val_faces),
            *(batch_size, sampling, num_workers, seed, flip),
        )
        for domain in self.domains:  # an unknown domain or size is refused here, not in the middle of rendering
            face(_WORLD, 0, domain, *self.size)


class FacePairs(FaceDomains):
    """Two domains of ``FaceDomains`` for models of two: ``UnpairedBatch`` in training, ``PairedBatch`` in evaluation.

    The images are those of ``FaceDomains`` with the same two domains. Arguments are its too, but for ``sampling``.
    """

    def __init__(
        self,
        domains: tuple[str, str] = ("photo", "sketch"),
        size: int | tuple[int, int] = 64,
        faces: int = 2000,
        val_faces: int = 64,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(domains, size, faces, val_faces, batch_size, "balanced", num_workers, seed, flip)
        if len(self.domains) != 2:
            raise ValueError(f"data.domains is {list(self.domains)}: FacePairs has two, FaceDomains more.")

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        sizes = self.count, self.count
        sampler = UnpairedSampler(sizes, self.batch_size, self.seed, start, *placement(trainer))
        a, b = self.images["train"]
        return self._loader(PairRows(a, b, self.seed, self.flip), sampler, self.batch_size)

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``faces photo number 17`` for each row of a training batch (NamesImages protocol)."""
        sizes, world = (self.count, self.count), placement(self.trainer)[1]
        samples = samples_of(iteration, sizes, self.batch_size, self.seed, rank, world)
        a, b = self.domains
        return {
            "a": [f"faces {a} number {i}" for _, i, _ in samples],
            "b": [f"faces {b} number {self.count + j}" for _, _, j in samples],
        }

    def _evaluation(self, split: str) -> DataLoader[Any]:
        return self._loader(SameRows(PairedBatch, self.images[split]), self._shard(), self.batch_size)


class FaceAttributes(pl.LightningDataModule):
    """Faces of one domain with the attributes that they have.

    All stages give ``AttributeBatch``; prediction gives ``ImageBatch``. ``edited`` has the truth of every swap: the
    same face with the attribute, or without.

    Args:
        attributes: some of ``procedural.faces.ATTRIBUTES``.
        domain: one of ``procedural.faces.DOMAINS``.
        size: height and width, 32 to 512, or one number for both.
        faces: number of training images.
        val_faces: number of validation faces, and of test faces.
        probabilities: of attributes by name, instead of those of ``procedural.faces.PROBABILITIES``.
        correlation: (attribute, other attribute, r in [-1, 1]) of those that go together, see ``Marginals``; in
            training only, so that an evaluation sees all combinations.
        batch_size: images per iteration and process; Fader Networks need several parts, see there.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: unknown attributes or domain, marginals that cannot be, a size that cannot be rendered, or too few
            faces.
    """

    def __init__(
        self,
        attributes: tuple[str, ...] = ("smile", "glasses"),
        domain: str = "photo",
        size: int | tuple[int, int] = 64,
        faces: int = 4000,
        val_faces: int = 128,
        probabilities: dict[str, float] | None = None,
        correlation: list[tuple[str, str, float]] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__()
        self.attributes, self.domain = tuple(attributes), domain
        self.categories = (2,) * len(self.attributes)
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.faces, self.val_faces = faces, val_faces
        self.marginals = {
            "train": Marginals(probabilities or {}, tuple((a, b, float(r)) for a, b, r in correlation or ())),
            "val": Marginals(probabilities or {}),
        }
        self.batch_size, self.num_workers, self.seed, self.flip = batch_size, num_workers, seed, flip
        self.image_shape = (3, *self.size)
        self.images: dict[str, np.ndarray] = {}
        unknown = [name for name in self.attributes if name not in ATTRIBUTES]
        if unknown or not self.attributes:
            what = f"no attribute {unknown[0]!r}" if unknown else "none in data.attributes"
            raise ValueError(f"Of the attributes of faces there is {what}: choose some of {', '.join(ATTRIBUTES)}.")
        if faces < 2 or val_faces < 1:
            raise ValueError(f"Faces need 2 or more faces and 1 or more val_faces, not {faces} and {val_faces}.")
        face(_WORLD, 0, domain, *self.size, marginals=self.marginals["train"])

    def prepare_data(self) -> None:
        """Render what is not in the cache, in one process per machine."""
        running = None if self.trainer is None else self.trainer.state.fn
        for split in splits("fit" if running is None else running.value):
            self._render(split)

    def setup(self, stage: str) -> None:
        """Open the images of a stage."""
        self.images.update({split: self._render(split) for split in splits(stage)})

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        return self._loader(self._attributed("train"), self._sampler(start, *placement(trainer)))

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation faces, without padding."""
        return self._loader(self._attributed("val"), [(0, k) for k in self._shard()])

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test faces."""
        return self._loader(self._attributed("test"), [(0, k) for k in self._shard()])

    def predict_dataloader(self) -> DataLoader[Any]:
        """The validation faces."""
        return self._loader(one_domain(self.images["val"]), self._shard())

    def edited(self, stage: str, attribute: int) -> np.ndarray:
        """(N, 3, H, W) uint8, faces of ``validate`` or ``test`` with one attribute swapped (KnowsEdits protocol)."""
        split = splits(stage)[-1]
        name = self.attributes[attribute]
        return renders(self.domain, FIRST[split], self.val_faces, self.size, self.marginals["val"], swap=name)

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``faces photo number 17`` for each row of a training batch (NamesImages protocol)."""
        samples = self._sampler(lambda: iteration, rank, placement(self.trainer)[1]).iteration(iteration)
        return {"image": [f"faces {self.domain} number {i}" for _, i in samples]}

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        size, split = f"{self.size[0]}x{self.size[1]}", splits(stage)[0]
        count, drawn = self.faces if split == "train" else self.val_faces, self._marginals(split)
        how = f"{dict(drawn.probabilities)} {list(drawn.correlation)}"
        what = f"{self.domain}, {', '.join(self.attributes)}, {size}, {count} {split} faces"
        return f"faces version {VERSION}, {what}, {how}"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _marginals(self, split: str) -> Marginals:
        return self.marginals["train" if split == "train" else "val"]

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> ShuffledSampler:
        return ShuffledSampler(self.faces, self.batch_size, self.seed, start, rank, world)

    def _attributed(self, split: str) -> "_Attributed":
        count = self.faces if split == "train" else self.val_faces
        values = attributes_of(_WORLD, FIRST[split], count, self._marginals(split))
        columns = [ATTRIBUTES.index(name) for name in self.attributes]
        return _Attributed(self.images[split], values[:, columns], self.seed, self.flip and split == "train")

    def _shard(self) -> range:
        return unpadded_shard(self.val_faces, *placement(self.trainer))

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return build_loader(dataset, sampler, self.batch_size, self.num_workers, self.seed, collate=whole)

    def _render(self, split: str) -> np.ndarray:
        count = self.faces if split == "train" else self.val_faces
        return renders(self.domain, FIRST[split], count, self.size, self._marginals(split))


class _Attributed(Dataset[AttributeBatch]):
    """Whole batches of faces with their attributes, addressed by (sample number, index)."""

    def __init__(self, images: np.ndarray, values: np.ndarray, seed: int, flip: bool) -> None:
        self._images, self._values, self._seed, self._flip = images, values, seed, flip

    def __getitems__(self, samples: Sequence[tuple[int, int]]) -> AttributeBatch:
        numbers, indices = zip(*samples, strict=True)
        images = rows(self._images, indices)
        if self._flip:
            mirrored(images, numbers, (self._seed,), 0)
        return AttributeBatch(images, torch.from_numpy(self._values[list(indices)].astype(np.int64)))


def renders(
    domain: str,
    first: int,
    count: int,
    size: tuple[int, int],
    marginals: Marginals | None = None,
    draw: int = 0,
    swap: str = "",
) -> np.memmap:
    """(count, 3, H, W) uint8, faces ``first`` to ``first + count - 1``, from the cache or new.

    Args:
        domain: one of ``procedural.faces.DOMAINS``.
        first: number of the first face.
        count: how many.
        size: height and width.
        marginals: of their attributes; None for the usual ones.
        draw: of their style.
        swap: an attribute that each face has where it has it not, and has not where it has it; "" for none.
    """
    marginals = marginals or Marginals()
    which: dict[str, Any] = {"domain": domain, "first": first, "draw": draw}
    drawn = f"{sorted(marginals.probabilities.items())} {list(marginals.correlation)}"
    function = partial(swapped, attribute=swap) if swap else planes
    return rendered(
        partial(function, seed=_WORLD, height=size[0], width=size[1], marginals=marginals, **which),
        count,
        (3, *size),
        key={"generator": "faces", "version": VERSION, "world": _WORLD, "marginals": drawn, "swap": swap, **which},
        what=f"faces {domain} {size[0]}x{size[1]}{' swapped ' + swap if swap else ''}",
    )
