from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from datamodules.faces import FaceAttributes
from datamodules.growing import GrowingFaces, GrowingFolder, GrowingSampler
from interfaces.batch import AttributeBatch, AttributeData, ImageBatch, NamesImages
from interfaces.growth import Growth
from lightning_modules.base import ManualModule
from tests.callbacks.toy import ddp_options, toy_trainer
from tests.ddp import run_ddp

SMALL = {"size": 32, "faces": 12, "val_faces": 3, "batch_size": 2}
# 12 images are seen once after 2 iterations at 8x8 and 2 at 16x16, in the middle of whose fade a second epoch begins.
GROWTH = Growth((8, 16, 32), batches=(4, 2), first=8, fade=6, stable=4)
PHASES = [(8, 4)] * 2 + [(16, 2)] * 5 + [(32, 2)] * 9  # resolution and images of the first iterations
EPOCHS = [range(4), range(4, 10), range(10, 16)]  # iterations of each


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def trainer(iteration=0, growth: Growth | None = GROWTH, rank=0, world=1):
    model = object() if growth is None else SimpleNamespace(growth=growth)
    fields = {"global_step": iteration, "global_rank": rank, "world_size": world, "lightning_module": model}
    return SimpleNamespace(**fields, state=SimpleNamespace(fn=None))


def ready(stage="fit", kind=GrowingFaces, at=None, **changes):
    module = kind(**{**SMALL, **changes})
    module.trainer = trainer() if at is None else at
    module.prepare_data()
    module.setup(stage)
    return module


def sampler(count=12, growth=GROWTH, seed=5, start=0, rank=0, world=1):
    return GrowingSampler(count, growth, seed, lambda: start, rank, world)


def iterations(first, last, **changes):
    """Keys of some iterations, as a run that is never interrupted has them: epoch after epoch."""
    keys, start = [], 0
    while start <= last:
        epoch = list(sampler(start=start, **changes))
        keys += epoch
        start += len(epoch)
    return keys[first : last + 1]


def halved(images, resolution):
    """Bytes halved as often as it takes, each mean cut off."""
    while images.shape[-1] > resolution:
        x = images.to(torch.int64)
        images = ((x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) // 4).to(torch.uint8)
    return images


def test_batches_have_the_size_and_the_resolution_of_their_iteration():
    keys = iterations(0, 15)
    assert [({resolution for _, _, resolution in batch}, len(batch)) for batch in keys] == [
        ({resolution}, count) for resolution, count in PHASES
    ]
    assert [q for batch in keys for q, _, _ in batch] == list(range(36))


def test_an_epoch_is_the_data_once_also_across_a_growth():
    for epoch in EPOCHS:
        keys = list(sampler(start=epoch.start))
        assert len(keys) == len(epoch)
        assert sorted(i for batch in keys for _, i, _ in batch) == list(range(12))
    each = [sampler(start=epoch.start, seed=seed) for seed in (0, 1) for epoch in EPOCHS]
    assert len({tuple(i for batch in one for _, i, _ in batch) for one in each}) == 6


@pytest.mark.parametrize("count", [1, 3, 5])
def test_any_number_of_images_is_shown_as_often_within_one(count):
    keys = iterations(0, 15, count=count)
    assert [q for batch in keys for q, _, _ in batch] == list(range(36))
    seen = np.bincount([i for batch in keys for _, i, _ in batch], minlength=count)
    assert seen.max() - seen.min() <= 1


def test_ranks_are_disjoint_and_together_the_order_of_one_process():
    doubled = Growth(GROWTH.resolutions, (8, 4), GROWTH.first, GROWTH.fade, GROWTH.stable)
    one = iterations(0, 8, growth=doubled)
    ranks = [iterations(0, 8, rank=rank, world=2) for rank in range(2)]
    for whole, first, second in zip(one, *ranks, strict=True):
        assert whole[::2] == first
        assert whole[1::2] == second
    assert {resolution for batch in one for _, _, resolution in batch} == {8, 16, 32}
    # However many processes there are, image by image it is the same order.
    pairs = [(q, i) for batch in one for q, i, _ in batch]
    assert pairs == [(q, i) for batch in iterations(0, 40) for q, i, _ in batch][: len(pairs)]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_a_sampler_goes_on_from_any_iteration(rank, world):
    through = iterations(0, 30, rank=rank, world=world)
    for start in range(16):
        resumed = list(sampler(start=start, rank=rank, world=world))
        assert resumed == through[start : start + len(resumed)]
        assert resumed[0] == sampler(rank=rank, world=world).iteration(start)
    if world == 1:  # an epoch ends where it would have ended
        assert [start + len(list(sampler(start=start))) for start in range(16)] == [
            epoch.stop for epoch in EPOCHS for _ in epoch
        ]


def test_position_is_asked_at_every_iter():
    finished = 0
    order = GrowingSampler(12, GROWTH, 0, lambda: finished)
    assert next(iter(order))[0][0] == 0
    finished = 4
    assert next(iter(order))[0][0] == 12


def test_training_images_are_halved_faces():
    module = ready(attributes=("hat",))
    faces = torch.from_numpy(np.array(module.images["train"][32]))
    assert sorted(module.images["train"]) == [4, 8, 16, 32]
    drawn = FaceAttributes(size=32, faces=12, val_faces=3)
    drawn.setup("fit")
    assert np.array_equal(faces, drawn.images["train"])
    for epoch in EPOCHS:
        module.trainer.global_step = epoch.start
        batches = list(module.train_dataloader())
        assert len(batches) == len(epoch)
        for iteration, batch in zip(epoch, batches, strict=True):
            resolution, count = PHASES[iteration]
            assert isinstance(batch, ImageBatch)
            assert (batch.image.shape, batch.image.dtype) == ((count, 3, resolution, resolution), torch.uint8)
            names = module.image_names(iteration, 0)["image"]
            assert all(name.startswith("faces photo number ") for name in names)
            assert torch.equal(batch.image, halved(faces[[int(name.split()[-1]) for name in names]], resolution))
    assert isinstance(module, NamesImages)


@pytest.mark.parametrize("start", [1, 5])  # both go on over a growth and a fade
def test_workers_and_a_resume_change_nothing(start):
    def batches(first, **changes):
        module = ready(at=trainer(first), flip=True, seed=3, **changes)
        return list(module.train_dataloader())

    through = [batch.image for epoch in EPOCHS for batch in batches(epoch.start)]
    resumed = [batch.image for batch in batches(start, num_workers=2)]
    assert len(resumed) > 0
    assert all(torch.equal(one, two) for one, two in zip(resumed, through[start:], strict=False))


def test_flip_mirrors_some_in_training_alone():
    plain, flipped = ready(seed=2), ready(seed=2, flip=True)
    turned = []
    for one, two in zip(plain.train_dataloader(), flipped.train_dataloader(), strict=True):
        for x, y in zip(one.image, two.image, strict=True):
            turned.append(torch.equal(x.flip(-1), y))
            assert turned[-1] or torch.equal(x, y)
    assert 0 < sum(turned) < len(turned)
    for one, two in zip(plain.val_dataloader(), flipped.val_dataloader(), strict=True):
        assert torch.equal(one.image, two.image)


def test_a_model_that_does_not_grow_has_one_size():
    for at in (trainer(growth=None), None):
        module = GrowingFaces(**{**SMALL, "batch_size": 5})
        module.setup("fit")
        module.trainer = at
        assert [tuple(batch.image.shape) for batch in module.train_dataloader()] == [(5, 3, 32, 32)] * 3
        assert len(module.image_names(7, 0)["image"]) == 5


def test_evaluation_is_of_fixed_faces_in_full_size_with_their_attributes():
    attributes = ("hat", "smile", "old")
    drawn = FaceAttributes(attributes, size=32, faces=12, val_faces=3, batch_size=2)
    drawn.setup("fit")
    drawn.setup("test")
    for rank, rows in ((0, [0, 2]), (1, [1])):
        module = ready(at=trainer(5, rank=rank, world=2), attributes=attributes)
        module.setup("test")
        assert isinstance(module, AttributeData)
        assert (module.attributes, module.categories, module.image_shape) == (attributes, (2, 2, 2), (3, 32, 32))
        for name in ("val_dataloader", "test_dataloader"):
            (batch,) = list(getattr(module, name)())
            truth = list(getattr(drawn, name)())
            assert isinstance(batch, AttributeBatch)
            assert torch.equal(batch.image, torch.cat([one.image for one in truth])[rows])
            assert torch.equal(batch.attributes, torch.cat([one.attributes for one in truth])[rows])
        (shown,) = list(module.predict_dataloader())
        assert isinstance(shown, ImageBatch)
        assert torch.equal(shown.image, next(iter(module.val_dataloader())).image)
    scaled = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(scaled.image, batch.image.float() / 127.5 - 1)
    assert torch.equal(scaled.attributes, batch.attributes)


def test_faces_below_32_are_halved_from_there():
    large, small = ready(), ready(size=8, at=trainer(growth=Growth((4, 8))))
    assert sorted(small.images["train"]) == [4, 8]
    assert list(small.images["val"]) == [8]
    for split in ("train", "val"):
        assert torch.equal(
            torch.from_numpy(np.array(small.images[split][8])),
            halved(torch.from_numpy(np.array(large.images[split][32])), 8),
        )
    assert small.image_shape == (3, 8, 8)


def test_a_fingerprint_tells_all_that_moves_a_pixel():
    def of(stage="fit", **changes):
        return GrowingFaces(**{**SMALL, **changes}).fingerprint(stage)

    changes = ({}, {"size": 16}, {"size": 8}, {"faces": 13}, {"attributes": ("hat",)})
    assert len({of(**change) for change in changes}) == len(changes)
    assert of(seed=4, batch_size=1) == of()
    assert of("validate", faces=13) == of("validate")
    assert len({of(stage) for stage in ("fit", "validate", "test")}) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 48}, "data.size is 48: give a power of two, 8 to 256"),
        ({"size": 4}, "data.size is 4: give a power of two"),
        ({"size": 512}, "data.size is 512: give a power of two"),
        ({"batch_size": 0}, "data.batch_size is 0: give 1 or more"),
        ({"faces": 1}, "2 or more faces"),
        ({"val_faces": 0}, "1 or more val_faces"),
        ({"attributes": ("hats",)}, "no attribute 'hats': choose some of smile"),
    ],
)
def test_bad_arguments_are_refused_at_once(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        GrowingFaces(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("growth", "sentence"),
    [
        (Growth((8, 16)), "The model grows to 16x16, but data.size is 32: give both the same"),
        (Growth((2, 4, 8, 16, 32)), "begins with images of 2x2, but the data have none below 4x4: begin with 4"),
    ],
)
def test_a_growth_that_the_data_cannot_follow_is_refused_before_anything_is_drawn(growth, sentence, monkeypatch):
    module = GrowingFaces(**SMALL)
    module.trainer = trainer(growth=growth)
    monkeypatch.setattr("datamodules.growing.renders", None)
    with pytest.raises(ValueError, match=sentence):
        module.prepare_data()


def test_a_sampler_needs_images():
    with pytest.raises(ValueError, match="Sampling needs images, not 0"):
        sampler(count=0)


def fill(folder, count, first=0):
    """Photographs whose single grey level tells which they are."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (22, 20), (first + i,) * 3).save(folder / f"{i}.png")
    return folder


def levels_of(batches):
    for batch in batches:
        assert isinstance(batch, ImageBatch)
        assert (batch.image == batch.image[:, :1, :1, :1]).all()
    return [level for batch in batches for level in batch.image[:, 0, 0, 0].tolist()]


def folder(root, **changes):
    growth = Growth((4, 8, 16), (4, 2), first=4, fade=2, stable=2)
    small = {"size": 16, "batch_size": 3, "num_workers": 0}
    module = GrowingFolder(str(root), **{**small, **changes})
    module.trainer = trainer(growth=growth)
    return module


def opened(module):
    module.prepare_data()
    for stage in ("fit", "test"):
        module.setup(stage)
    return module


def test_a_share_of_a_folder_is_kept_out(tmp_path):
    module = opened(folder(fill(tmp_path / "photos", 10), held_out=0.2))
    batches = list(module.train_dataloader())
    assert [tuple(batch.image.shape[1:]) for batch in batches] == [(3, 4, 4), (3, 8, 8), (3, 8, 8)]
    trained, kept = levels_of(batches), levels_of(module.val_dataloader())
    assert sorted(trained + kept) == list(range(10))
    assert len(kept) == 2
    assert levels_of(module.test_dataloader()) == levels_of(module.predict_dataloader()) == kept
    assert {batch.image.shape[-1] for batch in module.val_dataloader()} == {16}
    names = [name for k in range(3) for name in module.image_names(k, 0)["image"]]
    assert names == [str(tmp_path / "photos" / f"{level}.png") for level in trained]


def test_folders_may_say_what_is_kept_out(tmp_path):
    fill(tmp_path / "photos" / "train", 4)
    fill(tmp_path / "photos" / "test", 3, first=100)
    module = opened(folder(tmp_path / "photos"))
    assert sorted(levels_of(module.train_dataloader())) == [0, 1, 2, 3]
    assert levels_of(module.val_dataloader()) == [100, 101, 102]


def test_a_list_of_files_is_a_folder(tmp_path):
    fill(tmp_path / "photos", 4)
    (tmp_path / "list.txt").write_text("photos/0.png\nphotos/2.png\n")
    module = opened(folder(tmp_path / "list.txt"))
    assert sorted(levels_of(module.train_dataloader())[:1] + levels_of(module.val_dataloader())) == [0, 2]


def test_a_folder_without_use_is_refused(tmp_path):
    for changes in ({"held_out": 0.0}, {"held_out": 1.0}):
        with pytest.raises(ValueError, match=r"data.held_out is .*: give a share between 0 and 1"):
            folder(fill(tmp_path / str(changes["held_out"]), 2), **changes)
    with pytest.raises(ValueError, match="a single image, and one is kept out of training"):
        folder(fill(tmp_path / "one", 1))
    with pytest.raises(FileNotFoundError, match="no folder or list file .*nowhere"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data.size is 2048: give a power of two, 8 to 1024"):
        folder(tmp_path / "one", size=2048)


def test_a_broken_photograph_is_named(tmp_path):
    (fill(tmp_path / "photos", 3) / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"Cannot read image .*1\.png .*: replace the file or remove it"):
        folder(tmp_path / "photos").prepare_data()


def test_a_fingerprint_of_photographs_knows_their_contents(tmp_path):
    root = fill(tmp_path / "photos", 3)
    module = folder(root)
    before = {stage: module.fingerprint(stage) for stage in ("fit", "test")}
    assert folder(root, size=8).fingerprint("test") != before["test"]
    assert module.fingerprint("validate") == before["test"]
    (kept,) = (int(level) for level in levels_of(opened(module).val_dataloader()))
    Image.new("RGB", (22, 20), (200,) * 3).save(root / f"{kept}.png")
    assert folder(root).fingerprint("test") != before["test"]
    assert folder(root).fingerprint("fit") == before["fit"]


class Growing(ManualModule):
    """Writes down what it is shown."""

    def __init__(self, growth=GROWTH):
        super().__init__()
        self.growth = growth
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown, self.evaluated = {}, []

    def training_step(self, batch, batch_idx):
        assert batch.image.shape[-1] == self.growth.at(self.iteration, self.trainer.world_size).resolution
        self.shown[self.iteration] = batch.image.clone()
        self.descend(self.optimizers(), self.weight * batch.image.mean())
        self.end_iteration()

    def validation_step(self, batch, batch_idx):
        self.evaluated.append(len(batch.image))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01, fused=True)


def fit(folder, steps, resumed=None, growth=GROWTH, num_workers=0, **options):
    model = Growing(growth)
    data = GrowingFaces(**SMALL, seed=3, flip=True, num_workers=num_workers)
    toy_trainer(folder, max_steps=steps, val_check_interval=4, num_sanity_val_steps=0, **options).fit(
        model, data, ckpt_path=resumed
    )
    return model


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_is_resumed_anywhere_with_the_very_images(tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    through = fit(tmp_path, 13, callbacks=[save], enable_checkpointing=True)
    assert [through.shown[k].shape[-1] for k in range(13)] == [resolution for resolution, _ in PHASES[:13]]
    assert through.evaluated == [2, 1] * 3  # after 4, 8 and 12 iterations
    for finished in (1, 3, 4, 6, 10):  # of an epoch the last are 4 and 10
        resumed = fit(tmp_path, 13, tmp_path / f"step={finished}.ckpt", num_workers=2 if finished == 6 else 0)
        assert same(resumed.shown, {k: x for k, x in through.shown.items() if k >= finished})


def fit_on_a_rank(rank, world, folder, growth, steps):
    return fit(folder, steps, growth=growth, **ddp_options(world)).shown


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batches(tmp_path):
    first, second = run_ddp(fit_on_a_rank, tmp_path, GROWTH, 6)
    doubled = Growth(GROWTH.resolutions, (8, 4), GROWTH.first, GROWTH.fade, GROWTH.stable)
    one = fit(tmp_path, 6, growth=doubled).shown
    assert one.keys() == first.keys() == second.keys() == set(range(6))
    for k in one:
        assert torch.equal(one[k][::2], first[k])
        assert torch.equal(one[k][1::2], second[k])
    assert {x.shape[-1] for x in one.values()} == {8, 16, 32}
