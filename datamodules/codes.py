"""Maps of codes that a trained model made of images, kept in a folder: what the prior of codes is trained on.

The folder holds ``<part>_<level>.npy`` for the parts ``train`` and ``val`` and for each level, the top being 0: row n
of every level is image n of the part. ``codes.json`` says what they are; ``extract_codes.py`` writes both.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.arrays import splits, whole
from datamodules.loaders import ShuffledSampler, build_loader, placement, unpadded_shard
from interfaces.batch import CodeBatch

FILE, FOLDER = "codes.json", "codes"
PARTS = ("train", "val")
VERSION = 1
EXTRACT = "`make codes EXP=...` writes them"


@dataclass(frozen=True)
class Description:
    """What ``codes.json`` says of the maps beside it.

    Args:
        codes: entries of each codebook; numbers are in [0, codes).
        shapes: height and width of the maps of each level, the top first.
        counts: images of each part.
        model: class that made the maps.
        checkpoint: its file, relative to the folder where that is possible.
        sha256: of that file as it was.
        data: of what images, in words that fix every pixel.
        version: of this format.
    """

    codes: int
    shapes: tuple[tuple[int, int], ...]
    counts: dict[str, int]
    model: str
    checkpoint: str
    sha256: str
    data: str
    version: int = VERSION

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the files: the smallest signed integer that holds every number."""
        return np.dtype(np.int16 if self.codes <= 2**15 else np.int32)

    def shape(self, part: str, level: int) -> tuple[int, int, int]:
        """Of the array of a part and a level."""
        return self.counts[part], *self.shapes[level]

    def maker(self, folder: Path) -> Path:
        """The checkpoint that made the maps in ``folder``, as it was then.

        Raises:
            FileNotFoundError: it is not where it was.
            ValueError: it has changed since.
        """
        path = folder / self.checkpoint
        if not path.is_file():
            raise FileNotFoundError(f"The codes in {folder} are of {path}, which is not there any more.")
        if sum_of(path) != self.sha256:
            raise ValueError(f"{path} is not what made the codes in {folder}, it has changed since: {EXTRACT} anew.")
        return path

    def write(self, folder: Path) -> None:
        """Write ``codes.json``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """What ``codes.json`` of a folder says.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}, so {folder} holds no codes: {EXTRACT}.")
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**held | {"shapes": tuple((int(h), int(w)) for h, w in held["shapes"])})
            sound = found.codes > 0 and len(found.shapes) > 0 and all(found.counts[part] > 0 for part in PARTS)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or of another version: {EXTRACT} anew.") from error
        if not sound or found.version != VERSION:
            raise ValueError(f"{path} is damaged or of another version: {EXTRACT} anew.")
        return found


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, by which a ``Description`` knows a checkpoint."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(folder: Path, part: str, level: int) -> Path:
    """The file of a part and a level."""
    return folder / f"{part}_{level}.npy"


def find_codes(root: Path) -> Path:
    """The folder of codes: ``root`` itself, that of a run, or that of the latest run of several that has one.

    Raises:
        FileNotFoundError: there is none.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {root} to read codes from: {_commands(root)}; or correct data.root."
        )
    for pattern in (FILE, f"{FOLDER}/{FILE}", f"*/{FOLDER}/{FILE}"):
        found = sorted(root.glob(pattern))
        if found:
            return found[-1].parent
    raise FileNotFoundError(f"No codes are in {root}, nor in the runs in it: {_commands(root)}.")


def _commands(root: Path) -> str:
    name = root.name if root.parent.name == "runs" else "..."
    return (
        f"`make train EXP={name}` trains a model that has codes, and `make codes EXP={name}` writes those of its images"
    )


def opened(folder: Path, about: Description, part: str, level: int) -> np.memmap:
    """The maps of a part and a level, (N, H, W), read as they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or not what ``codes.json`` says.
    """
    path, shape = place(folder, part, level), about.shape(part, level)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, which {FILE} beside it promises: {EXTRACT} anew.")
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {EXTRACT} anew.") from error
    if not isinstance(array, np.memmap) or array.shape != shape or array.dtype != about.dtype:
        raise ValueError(
            f"{path} is {array.shape} {array.dtype}, but {FILE} says {shape} {about.dtype}: {EXTRACT} anew."
        )
    return array


class CodeMaps(pl.LightningDataModule):
    """Maps of one level, each with that of the level above.

    All stages give ``CodeBatch``. Training shows every map once an epoch, in a new order; its last batch is filled from
    the start of the order. Validation, test and prediction show those of the validation images in order. Checkpoints
    hold ``codes.json`` and the level, so that a prior is never used with codes of another model.

    Args:
        root: folder of codes, of a run that has one, or of several runs, of which the latest is taken.
        level: whose maps are modelled, the top being 0.
        batch_size: maps per iteration and process.
        num_workers: reading processes; 0 is enough, since reading is a copy from memory.
        seed: of the order, 0 or more.

    Attributes:
        folder: where the maps are.
        codes: entries of each codebook.
        shapes: height and width of the maps of each level.
        shape: of the maps that are modelled.
        condition_shape: of those of the level above; None for the top.

    Raises:
        FileNotFoundError: there are no codes.
        ValueError: they are damaged, there is no such level, or the batch is empty.
    """

    def __init__(self, root: str, level: int = 0, batch_size: int = 32, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.level, self.batch_size, self.num_workers, self.seed = level, batch_size, num_workers, seed
        self.folder = find_codes(Path(root).expanduser())
        self.about = Description.read(self.folder)
        levels = len(self.about.shapes)
        if not 0 <= level < levels:
            raise ValueError(f"data.level is {level}, but {self.folder} has the levels 0, the top, to {levels - 1}.")
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: give 1 or more.")
        self.codes, self.shapes, self.shape = self.about.codes, self.about.shapes, self.about.shapes[level]
        self.condition_shape = self.about.shapes[level - 1] if level > 0 else None
        self.maps: dict[str, _Maps] = {}

    def setup(self, stage: str) -> None:
        """Open the maps of a stage.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: one is not what the description says.
        """
        levels = [self.level] if self.level == 0 else [self.level, self.level - 1]
        for part in _parts(stage):
            files = [place(self.folder, part, level) for level in levels]
            arrays = [opened(self.folder, self.about, part, level) for level in levels]
            self.maps[part] = _Maps(arrays, files, self.codes)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's current iteration on."""
        trainer = self.trainer
        start = (lambda: 0) if trainer is None else (lambda: trainer.global_step)
        return self._loader(self.maps["train"], self._sampler(start, *placement(trainer)))

    def val_dataloader(self) -> DataLoader[Any]:
        """This process's share of the maps of validation images, without padding."""
        shard = unpadded_shard(self.about.counts["val"], *placement(self.trainer))
        return self._loader(self.maps["val"], [(0, k) for k in shard])

    def test_dataloader(self) -> DataLoader[Any]:
        """The same as validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The same as validation."""
        return self.val_dataloader()

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """``training image 17`` for each row of a training batch (NamesImages protocol)."""
        sampler = self._sampler(lambda: iteration, rank, placement(self.trainer)[1])
        return {"codes": [f"training image {i}" for _, i in sampler.iteration(iteration)]}

    def maker(self) -> Path:
        """The checkpoint of the model that made the maps, as it was then (FileNotFoundError, ValueError)."""
        return self.about.maker(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """Whose codes the prior knows, and of which level."""
        return {"level": self.level, **asdict(self.about)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse to go on with a prior of other codes (ValueError)."""
        there, here = (state_dict["level"], state_dict["sha256"]), (self.level, self.about.sha256)
        if there != here:
            raise ValueError(
                f"The checkpoint is a prior of level {there[0]} of the codes of {there[1][:16]}, but data has level "
                f"{here[0]} of those of {here[1][:16]}: train a new one, or give data.root and level of its training."
            )

    def fingerprint(self, stage: str = "fit") -> str:
        """Which maps a stage serves, in words that fix every one: whose they are, and of what images."""
        about, part = self.about, _parts(stage)[0]
        made = f"{about.counts[part]} {part} maps by {about.model} {about.sha256[:16]}"
        return f"level {self.level} of {len(about.shapes)}, {made}, of: {about.data}"

    def _sampler(self, start: Callable[[], int], rank: int, world: int) -> ShuffledSampler:
        return ShuffledSampler(self.about.counts["train"], self.batch_size, self.seed, start, rank, world)

    def _loader(self, maps: "_Maps", sampler: Any) -> DataLoader[Any]:
        return build_loader(maps, sampler, self.batch_size, self.num_workers, self.seed, collate=whole)


class _Maps(Dataset[CodeBatch]):
    """Whole batches, addressed by what ``loaders.ShuffledSampler`` yields."""

    def __init__(self, arrays: Sequence[np.ndarray], files: Sequence[Path], codes: int) -> None:
        self._arrays, self._files, self._codes = arrays, files, codes

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitems__(self, samples: Sequence[tuple[int, int]]) -> CodeBatch:
        index = [i for _, i in samples]
        found = [self._rows(array, file, index) for array, file in zip(self._arrays, self._files, strict=True)]
        return CodeBatch(found[0], found[1] if len(found) > 1 else None)

    def _rows(self, array: np.ndarray, file: Path, index: list[int]) -> Tensor:
        numbers = array[index].astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= self._codes:  # an embedding on a GPU would end the process
            raise ValueError(f"{file} has a number that is not in 0 to {self._codes - 1}: {EXTRACT} anew.")
        return torch.from_numpy(numbers)


def _parts(stage: str) -> tuple[str, ...]:
    """Of a stage; there are no codes of test images."""
    return splits("validate" if stage == "test" else stage)
