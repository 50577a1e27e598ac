"""Data of models that grow (ProGAN, StyleGAN, StyleALAE): the model's growth says how large images are, and how many.

One loader serves the whole training. Its images lie ready in every resolution (``pyramid``).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.arrays import SameRows, mirrored, one_domain, rows, splits, whole
from datamodules.domain_folders import kept_out_of
from datamodules.faces import FaceAttributes, renders
from datamodules.image_files import content_of
from datamodules.images import list_images
from datamodules.loaders import Batch, Order, batch_to_signed_unit, build_loader, placement, unpadded_shard
from datamodules.procedural.faces import ATTRIBUTES, attributes_of
from datamodules.pyramid import SMALLEST, VERSION, can_halve, pyramid, squares
from datamodules.rendered_domains import FIRST
from interfaces.batch import AttributeBatch, ImageBatch
from interfaces.growth import Grows, Growth

Place = tuple[int, int, int]  # sample number, index of the image, resolution
Levels = Mapping[int, np.ndarray]  # (N, 3, s, s) uint8 by resolution s

_WORLD = 0  # the one collection of faces of ``datamodules.faces``
_DRAWN_FROM = 32  # pixels a side, the smallest that faces are drawn in


class GrowingSampler(Sampler[list[Place]]):
    """Whole batches of random images, of the size and resolution that a growth has at each iteration.

    Yields lists of ``(q, index, resolution)``. The global sample number q counts the images that all processes have
    seen, whatever their resolution, so that the order is a function of (seed, q): permutations of all images joined
    end to end. Rank r takes every ``world``-th sample of an iteration from r on.

    An epoch is one permutation, and ends with the iteration that begins the next. How many batches that are changes
    with their size, so there is no length: an iteration over the sampler goes on to the end of the epoch.

    Args:
        count: number of images, at least 1.
        growth: of the model.
        seed: at least 0; decides the order.
        start: number of finished iterations, asked each time an iteration over the sampler begins.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, count: int, growth: Growth, seed: int, start: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        if count < 1:
            raise ValueError(f"Sampling needs images, not {count}.")
        self.count, self.growth, self.seed, self.start, self.rank, self.world = count, growth, seed, start, rank, world
        self._order = Order(count, count)

    def __iter__(self) -> Iterator[list[Place]]:
        """What is left of an epoch, beginning at ``start()`` wherever in it that is."""
        iteration = self.start()
        epoch = self._epoch(iteration)
        while self._epoch(iteration) == epoch:
            yield self.iteration(iteration)
            iteration += 1

    def iteration(self, iteration: int) -> list[Place]:
        """The samples of this rank in one 0-based iteration."""
        phase = self.growth.at(iteration, self.world)
        numbers = range(phase.images + self.rank, phase.images + phase.batch * self.world, self.world)
        return [(q, self._order.at(q, (self.seed,)), phase.resolution) for q in numbers]

    def _epoch(self, iteration: int) -> int:
        return self.growth.at(iteration, self.world).images // self.count


class _LevelRows(Dataset[ImageBatch]):
    """Whole training batches, addressed by what ``GrowingSampler`` yields."""

    def __init__(self, images: Levels, seed: int, flip: bool) -> None:
        self._images, self._seed, self._flip = images, seed, flip

    def __getitem__(self, places: Sequence[Place]) -> ImageBatch:
        numbers, indices, resolutions = zip(*places, strict=True)
        images = rows(self._images[resolutions[0]], indices)
        return ImageBatch(mirrored(images, numbers, (self._seed,), 0) if self._flip else images)


class _GrowingImages(pl.LightningDataModule):
    """What the two below have in common; where images come from, they say.

    Args:
        levels: gives those of ``train`` in all resolutions, and of ``val`` and ``test`` in ``size``.
        called: name of a training image.
        size: height and width, a power of two.
        largest: that ``size`` may be.
        batch_size: see there.
        num_workers: reading processes.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: another size, or an empty batch.
    """

    def __init__(
        self,
        levels: Callable[[str], Levels],
        called: Callable[[int], str],
        size: int,
        largest: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        flip: bool,
    ) -> None:
        super().__init__()
        if not 2 * SMALLEST <= size <= largest or not can_halve(size):
            raise ValueError(f"data.size is {size}: give a power of two, {2 * SMALLEST} to {largest}.")
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: give 1 or more.")
        self._levels, self._called, self.size = levels, called, size
        self.batch_size, self.num_workers, self.seed, self.flip = batch_size, num_workers, seed, flip
        self.image_shape = (3, size, size)
        self.images: dict[str, Levels] = {}

    def prepare_data(self) -> None:
        """Make what is not in the cache, in one process per machine.

        Raises:
            ValueError: the model grows to other sizes than the data have, or a file cannot be read.
        """
        self._growth()
        running = None if self.trainer is None else self.trainer.state.fn
        for split in splits("fit" if running is None else running.value):
            self._levels(split)

    def setup(self, stage: str) -> None:
        """Open the images of a stage."""
        self.images.update({split: self._levels(split) for split in splits(stage)})

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on, as large and as many as the model's growth asks for."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        dataset = _LevelRows(self.images["train"], self.seed, self.flip)
        return self._loader(dataset, self._sampler(start, *placement(trainer)), None)

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the validation images in full size, without padding."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test images."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The validation images."""
        return self._of("val", one_domain(self.images["val"][self.size]))

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """A name for each row of a training batch (NamesImages protocol)."""
        samples = self._sampler(lambda: iteration, rank, placement(self.trainer)[1]).iteration(iteration)
        return {"image": [self._called(i) for _, i, _ in samples]}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device."""
        return batch_to_signed_unit(batch)

    def _growth(self) -> Growth:
        """The model's; of one that does not grow, ``size`` and ``batch_size`` for good."""
        model = getattr(self.trainer, "lightning_module", None)
        if not isinstance(model, Grows):
            return Growth((self.size,), (self.batch_size,))
        first, last = model.growth.resolutions[0], model.growth.resolutions[-1]
        if last != self.size:
            raise ValueError(f"The model grows to {last}x{last}, but data.size is {self.size}: give both the same.")
        if first < SMALLEST:
            raise ValueError(
                f"The model begins with images of {first}x{first}, but the data have none below {SMALLEST}x{SMALLEST}: "
                f"begin with {SMALLEST}."
            )
        return model.growth

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> GrowingSampler:
        count = len(self.images["train"][self.size])
        return GrowingSampler(count, self._growth(), self.seed, start, rank, world)

    def _evaluation(self, split: str) -> DataLoader[Any]:
        return self._of(split, one_domain(self.images[split][self.size]))

    def _of(self, split: str, dataset: Dataset[Any]) -> DataLoader[Any]:
        shard = unpadded_shard(len(self.images[split][self.size]), *placement(self.trainer))
        return self._loader(dataset, shard, self.batch_size)

    def _loader(self, dataset: Dataset[Any], sampler: Any, batch_size: int | None) -> DataLoader[Any]:
        return build_loader(dataset, sampler, batch_size, self.num_workers, self.seed, collate=whole)


class GrowingFaces(_GrowingImages):
    """Faces by formula in the style of photographs, for models that grow and for those that do not.

    Training gives ``ImageBatch``, of the resolution and number that ``growth`` of the model has at the iteration
    (``interfaces.growth.Grows``). Validation and test give ``AttributeBatch`` of fixed faces in full size; prediction
    gives ``ImageBatch`` of the validation faces. The faces are those of ``faces.FaceAttributes``, and do not depend on
    ``seed``; sizes below 32 are halved from 32.

    Args:
        attributes: some of ``procedural.faces.ATTRIBUTES``.
        size: height and width, a power of two, 8 to 256; a model that grows ends with it.
        faces: number of training images.
        val_faces: number of validation faces, and of test faces.
        batch_size: images per iteration and process, where the model does not grow, and in evaluation.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images.

    Raises:
        ValueError: unknown attributes, another size, too few faces, or an empty batch.
    """

    def __init__(
        self,
        attributes: tuple[str, ...] = ("smile", "glasses"),
        size: int = 64,
        faces: int = 4000,
        val_faces: int = 128,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(self._drawn, "faces photo number {}".format, size, 256, batch_size, num_workers, seed, flip)
        # It checks the arguments, and says in words which faces these are.
        self._same = FaceAttributes(attributes, "photo", max(size, _DRAWN_FROM), faces, val_faces)
        self.attributes, self.categories = self._same.attributes, self._same.categories
        self.faces, self.val_faces = faces, val_faces

    def fingerprint(self, stage: str = "fit") -> str:
        """Which images a stage serves, in words that fix every pixel."""
        return f"{self._same.fingerprint(stage)}, as {self.size}x{self.size}, pyramid version {VERSION}"

    def _evaluation(self, split: str) -> DataLoader[Any]:
        values = attributes_of(_WORLD, FIRST[split], self.val_faces)
        values = values[:, [ATTRIBUTES.index(name) for name in self.attributes]].astype(np.int64)
        return self._of(split, SameRows(AttributeBatch, (self.images[split][self.size], values)))

    def _drawn(self, split: str) -> Levels:
        side = max(self.size, _DRAWN_FROM)
        images = renders("photo", FIRST[split], self.faces if split == "train" else self.val_faces, (side, side))
        levels = pyramid(images, f"faces photo {side}x{side}", SMALLEST if split == "train" else self.size)
        return {resolution: level for resolution, level in levels.items() if resolution <= self.size}


class GrowingFolder(_GrowingImages):
    """Photographs of one folder, for models that grow and for those that do not.

    All stages give ``ImageBatch``: training of the resolution and number that ``growth`` of the model has at the
    iteration (``interfaces.growth.Grows``), the others of fixed images in full size, which are kept out of training.
    Before the first training, the largest square from the centre of every photograph goes into the cache folder, in
    all resolutions: 4 bytes a pixel of ``size``, such as 16 GB of 60,000 photographs of 256x256.

    ``root`` is one of

    * a folder of images, with its subfolders, or a ``.txt`` list of them: a share is kept out of training, chosen by
      the files' names;
    * a folder with ``train/`` and ``test/`` (or ``val/``).

    Args:
        root: see above.
        size: height and width, a power of two, 8 to 1024; a model that grows ends with it.
        held_out: share kept out where no folder says so, at least one image.
        batch_size: images per iteration and process, where the model does not grow, and in evaluation.
        num_workers: reading processes; 0 is enough where the cache fits into memory.
        seed: of order and flips, 0 or more.
        flip: mirror half of the training images, as the releases do with faces.

    Raises:
        FileNotFoundError: there is no such folder or list.
        ValueError: too few images, another size or share, or an empty batch.
    """

    def __init__(
        self,
        root: str,
        size: int = 256,
        held_out: float = 0.1,
        batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__(self._squares, self._file, size, 1024, batch_size, num_workers, seed, flip)
        if not 0 < held_out < 1:
            raise ValueError(f"data.held_out is {held_out}: give a share between 0 and 1.")
        self.root = Path(root).expanduser()
        self._files = dict(zip(("train", "val"), _divided(self.root, held_out), strict=True))

    def fingerprint(self, stage: str = "fit") -> str:
        """Number of images of a stage, and a hash of their names and contents.

        Contents of training images, which no number is measured on and which may be many, are known by their size.
        """
        split = _kept(splits(stage)[0])
        listing = "\n".join(f"{file.name} {content_of(file, split)}" for file in self._files[split])
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        what = f"{len(self._files[split])} images {digest}"
        return f"{split}: {what}, squares of {self.size}x{self.size}, pyramid version {VERSION}"

    def _squares(self, split: str) -> Levels:
        split = _kept(split)
        what = f"{self.root.stem} {split}"
        images = squares(self._files[split], self.size, what)
        return pyramid(images, f"{what} {self.size}x{self.size}", SMALLEST if split == "train" else self.size)

    def _file(self, index: int) -> str:
        return str(self._files["train"][index])


def _kept(split: str) -> str:
    """There are no test images but those of validation."""
    return "val" if split == "test" else split


def _divided(root: Path, held_out: float) -> tuple[list[Path], list[Path]]:
    """Photographs to train on, and those that are kept out."""
    folder = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if folder is not None and (root / "train").is_dir():
        return list_images(root / "train"), list_images(folder)
    files = list_images(root)
    if len(files) < 2:
        raise ValueError(f"{root} holds a single image, and one is kept out of training: add images to it.")
    kept = set(kept_out_of(files, held_out))
    return [file for file in files if file not in kept], [file for file in files if file in kept]
