"""Folders of maps of codes as batches."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.codes import CodeMaps, Description, find_codes, place, sum_of
from interfaces.batch import CodeBatch, NamesImages

SHAPES = ((2, 3), (4, 6), (8, 12))
COUNTS = {"train": 10, "val": 5}
CODES = 50


def maps_of(part, level):
    """Map n of a level begins with n, and says its level and part behind that."""
    array = np.zeros((COUNTS[part], *SHAPES[level]), np.int16)
    array[:, 0, 0] = np.arange(COUNTS[part])
    array[:, 0, 1], array[:, 0, 2] = level, part == "val"
    return array


def written(folder, **changes):
    folder.mkdir(parents=True)
    for part in COUNTS:
        for level in range(len(SHAPES)):
            np.save(place(folder, part, level), maps_of(part, level))
    known = {"model": "VQVAE2", "checkpoint": "../checkpoints/last.ckpt", "sha256": "ab" * 32, "data": "streets"}
    Description(**{"codes": CODES, "shapes": SHAPES, "counts": COUNTS, **known, **changes}).write(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "codes")


def ready(folder, stage="fit", trainer=None, **changes):
    module = CodeMaps(str(folder), **{"batch_size": 4, **changes})
    module.trainer = trainer
    module.setup(stage)
    return module


def at(step=0, rank=0, world=1):
    """What the module asks of a trainer."""
    return SimpleNamespace(global_step=step, global_rank=rank, world_size=world, _accelerator_connector=None)


def numbers(batches):
    return [n for batch in batches for n in batch.codes[:, 0, 0].tolist()]


def test_a_batch_is_a_level_and_the_one_above(folder):
    for level in (0, 1, 2):
        module = ready(folder, level=level)
        assert isinstance(module, NamesImages)
        assert (module.codes, module.shape) == (CODES, SHAPES[level])
        for loader, val in ((module.train_dataloader(), 0), (module.val_dataloader(), 1)):
            batch = next(iter(loader))
            assert isinstance(batch, CodeBatch)
            assert (batch.codes.shape, batch.codes.dtype) == ((4, *SHAPES[level]), torch.int64)
            assert batch.codes[:, 0, 1:3].tolist() == [[level, val]] * 4
            if level == 0:
                assert (batch.condition, module.condition_shape) == (None, None)
            else:
                assert module.condition_shape == SHAPES[level - 1]
                assert batch.condition.dtype == torch.int64
                assert torch.equal(batch.condition[:, 0, 0], batch.codes[:, 0, 0])
                assert batch.condition[:, 0, 1].tolist() == [level - 1] * 4


def test_an_epoch_shows_all_maps_in_whole_batches_and_a_new_order(folder):
    first, second = (numbers(ready(folder, trainer=at(step)).train_dataloader()) for step in (0, 3))
    assert len(first) == 12
    assert set(first) == set(second) == set(range(10))
    assert first != second
    assert first != numbers(ready(folder, seed=1).train_dataloader())
    assert numbers(ready(folder).val_dataloader()) == list(range(5))
    for stage in ("validate", "test", "predict"):
        module = ready(folder, stage)
        assert list(module.maps) == ["val"]
        assert numbers(getattr(module, f"{stage.replace('validate', 'val')}_dataloader")()) == list(range(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_the_very_batches(folder, workers):
    whole = [n for step in (0, 3) for n in numbers(ready(folder, trainer=at(step)).train_dataloader())]
    resumed = numbers(ready(folder, trainer=at(2), num_workers=workers).train_dataloader())
    assert resumed == whole[8 : 8 + 12]


def test_ranks_share_nothing(folder):
    one = list(ready(folder, batch_size=8).train_dataloader())
    ranks = [list(ready(folder, trainer=at(rank=r, world=2)).train_dataloader()) for r in (0, 1)]
    for whole, *halves in zip(one, *ranks, strict=True):
        assert [numbers([half]) for half in halves] == [numbers([whole])[0::2], numbers([whole])[1::2]]
    shards = [numbers(ready(folder, trainer=at(rank=r, world=2)).val_dataloader()) for r in (0, 1)]
    assert shards == [[0, 2, 4], [1, 3]]


def test_names_are_of_each_training_batch(folder):
    for rank in (0, 1):
        module = ready(folder, trainer=at(rank=rank, world=2))
        for iteration, batch in enumerate(module.train_dataloader()):
            names = module.image_names(iteration, rank)["codes"]
            assert names == [f"training image {n}" for n in numbers([batch])]


def test_maps_stay_on_the_disk(folder):
    module = ready(folder, level=1)
    assert all(isinstance(array, np.memmap) for array in module.maps["train"]._arrays)


def test_the_latest_run_is_found(tmp_path):
    for run in ("20250101-000000", "20250102-000000"):
        written(tmp_path / "runs" / run / "codes", data=run)
    (tmp_path / "runs" / "20250103-000000").mkdir()  # has no codes
    latest = tmp_path / "runs" / "20250102-000000"
    for root in (tmp_path / "runs", latest, latest / "codes"):
        assert find_codes(root) == latest / "codes"
    assert "20250102-000000" in CodeMaps(str(tmp_path / "runs")).fingerprint()


def test_fingerprints_differ_by_part_and_maker(folder, tmp_path):
    other = written(tmp_path / "other", sha256="cd" * 32)
    module = CodeMaps(str(folder), 1)
    assert "level 1 of 3, 10 train maps by VQVAE2 ababababab" in module.fingerprint()
    assert len({module.fingerprint(), module.fingerprint("validate"), CodeMaps(str(other), 1).fingerprint()}) == 3


def test_numbers_have_the_smallest_type(folder):
    about = Description.read(folder)
    assert about == Description(CODES, SHAPES, COUNTS, "VQVAE2", "../checkpoints/last.ckpt", "ab" * 32, "streets")
    assert about.dtype == np.int16
    large = Description(2**15 + 1, SHAPES, COUNTS, "", "", "", "")
    assert large.dtype == np.int32
    assert Description(2**15, SHAPES, COUNTS, "", "", "", "").dtype == np.int16


def test_a_folder_without_codes_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*absent.*data\.root"):
        CodeMaps(str(tmp_path / "absent"))
    with pytest.raises(
        FileNotFoundError,
        match=r"No codes are in .*empty, nor in the runs in it: `make train EXP=\.\.\.` .* `make codes",
    ):
        CodeMaps(str(tmp_path / "empty"))


def test_a_level_or_batch_that_is_not_there_is_refused(folder):
    for level in (-1, 3):
        with pytest.raises(ValueError, match=f"data.level is {level}, but .* levels 0, the top, to 2"):
            CodeMaps(str(folder), level)
    with pytest.raises(ValueError, match=r"data\.batch_size is 0"):
        CodeMaps(str(folder), batch_size=0)


@pytest.mark.parametrize("change", ["{", "[]", {"version": 2}, {"codes": None}, {"counts": {"train": 3}}, {"extra": 1}])
def test_a_damaged_description_is_refused(folder, change):
    path = folder / "codes.json"
    text = change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"codes.json is damaged or of another version: `make codes"):
        CodeMaps(str(folder))


def test_damaged_maps_are_refused(folder):
    path = place(folder, "train", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"train_1.npy cannot be read"):
        ready(folder, level=1)
    np.save(path, maps_of("train", 1)[:9])
    with pytest.raises(ValueError, match=r"train_1.npy is \(9, 4, 6\) int16, but codes.json says \(10, 4, 6\) int16"):
        ready(folder, level=2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*train_1.npy, which codes.json beside it promises"):
        ready(folder, level=1)
    ready(folder, level=0)  # which needs no other


@pytest.mark.parametrize("wrong", [-1, CODES])
def test_a_number_of_no_entry_is_refused(folder, wrong):
    array = maps_of("val", 0)
    array[3, 1, 1] = wrong
    np.save(place(folder, "val", 0), array)
    with pytest.raises(ValueError, match=r"val_0.npy has a number that is not in 0 to 49"):
        list(ready(folder).val_dataloader())


def test_a_checkpoint_is_of_these_codes(folder, tmp_path):
    held = CodeMaps(str(folder), 1).state_dict()
    assert (held["level"], held["sha256"], held["shapes"]) == (1, "ab" * 32, SHAPES)
    CodeMaps(str(folder), 1).load_state_dict(held)
    with pytest.raises(ValueError, match="a prior of level 1 of the codes of abababababababab, but data has level 0"):
        CodeMaps(str(folder), 0).load_state_dict(held)
    other = written(tmp_path / "other", sha256="cd" * 32)
    with pytest.raises(ValueError, match="level 1 of those of cdcdcdcdcdcdcdcd: train a new one"):
        CodeMaps(str(other), 1).load_state_dict(held)


def test_the_maker_is_found_as_it_was(folder, tmp_path):
    made = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt, which is not there any more"):
        CodeMaps(str(folder)).maker()
    made.parent.mkdir()
    made.write_bytes(b"weights")
    with pytest.raises(ValueError, match="has changed since"):
        CodeMaps(str(folder)).maker()
    assert sum_of(made) == hashlib.sha256(b"weights").hexdigest()
    new = written(tmp_path / "new", sha256=sum_of(made))
    assert CodeMaps(str(new)).maker().samefile(made)


def test_the_two_commands_are_named(tmp_path):
    for made in (False, True):
        with pytest.raises(FileNotFoundError, match=r"`make train EXP=vq_x` .* and `make codes EXP=vq_x` "):
            find_codes(tmp_path / "runs" / "vq_x")
        if not made:
            (tmp_path / "runs" / "vq_x").mkdir(parents=True)
