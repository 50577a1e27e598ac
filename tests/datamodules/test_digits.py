import bz2
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import digits
from datamodules.digits import DOMAINS, Digits
from interfaces.batch import DomainData, ImageBatch, LabelledBatch, NamesImages

RNG = np.random.default_rng(0)
GLYPHS, LABELS = RNG.integers(0, 17, (1797, 8, 8), np.uint8), RNG.integers(0, 10, 1797)
PARTS = {"train": (0, 24), "val": (24, 31), "test": (31, 40)}  # a few glyphs of scikit-learn's do
SMALL = {"copies": 2, "batch_size": 3}


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.getbasetemp() / "digits"))
    monkeypatch.setattr(digits, "_GLYPHS", PARTS)
    monkeypatch.setattr(digits, "_glyphs", lambda: (GLYPHS, LABELS))
    monkeypatch.setattr(digits, "_HELD", 4)


def ready(stage="fit", trainer=None, **changes):
    module = Digits(**{**SMALL, **changes})
    module.trainer = trainer
    module.setup(stage)
    return module


def at(step=0, rank=0, world=1):
    """What ``Digits`` asks of a trainer."""
    return SimpleNamespace(
        global_step=step,
        global_rank=rank,
        world_size=world,
        _accelerator_connector=None,
        state=SimpleNamespace(fn=None),
    )


def joined(batches, field):
    return torch.cat([getattr(batch, field) for batch in batches])


def keys(images):
    return [image.numpy().tobytes() for image in images]


def look(name, glyph, draw=0):
    return torch.from_numpy(digits.planes(draw, name, GLYPHS, np.array([glyph]), 0))


# Training


def test_training_gives_each_domain_its_own_glyphs_and_hides_the_labels_of_the_target():
    module = ready()
    assert isinstance(module, DomainData)
    assert (module.domains, module.true_pairs, module.image_shape) == (("plain", "coloured"), False, (3, 32, 32))
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 12 * 2 / 3
    for batch in batches:
        assert isinstance(batch, LabelledBatch)
        assert (batch.image.shape, batch.image.dtype) == ((6, 3, 32, 32), torch.uint8)
        assert sorted(batch.domain.tolist()) == [0, 0, 0, 1, 1, 1]
        assert (batch.domain.dtype, batch.label.dtype) == (torch.int64, torch.int64)
        assert ((batch.label == -1) == (batch.domain == 1)).all()
    image, domain, label = (joined(batches, field) for field in LabelledBatch._fields)
    source = {look("plain", g, c).numpy().tobytes(): LABELS[g] for g in range(0, 24, 2) for c in (0, 1)}
    target = [look("coloured", g, c) for g in range(1, 24, 2) for c in (0, 1)]
    shown = dict(zip(keys(image[domain == 0]), label[domain == 0].tolist(), strict=True))
    assert shown == source
    assert sorted(keys(image[domain == 1])) == sorted(keys(target))


def test_source_only_shows_nothing_of_the_target_in_training_and_both_in_evaluation():
    module = ready(source_only=True)
    batches = list(module.train_dataloader())
    assert len(batches) == 12 * 2 / 3
    assert all((len(batch.image), batch.domain.sum(), batch.label.min() >= 0) == (3, 0, True) for batch in batches)
    assert all(name.startswith("digits plain") for name in module.image_names(0, 0)["image"])
    assert "coloured" not in module.fingerprint()
    assert set(joined(module.val_dataloader(), "domain").tolist()) == {0, 1}
    one = list(ready(source_only=True, batch_size=4).train_dataloader())
    ranks = [
        list(ready(source_only=True, batch_size=2, trainer=at(rank=r, world=2)).train_dataloader()) for r in (0, 1)
    ]
    for whole, *halves in zip(one, *ranks, strict=True):
        assert sorted(keys(whole.image)) == sorted(keys(torch.cat([half.image for half in halves])))


def test_names_are_the_glyphs_of_each_training_batch():
    module = ready()
    assert isinstance(module, NamesImages)
    for iteration, batch in enumerate(module.train_dataloader()):
        for name, image in zip(module.image_names(iteration, 0)["image"], batch.image, strict=True):
            _, domain, _, glyph, _, draw = name.split()
            assert torch.equal(image, look(domain, int(glyph), int(draw)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_the_very_batches(workers):
    whole = list(ready(trainer=at(0), seed=3).train_dataloader())
    epochs = whole + list(ready(trainer=at(len(whole)), seed=3).train_dataloader())
    for step in (1, 5, 8):
        resumed = ready(trainer=at(step), seed=3, num_workers=workers).train_dataloader()
        for one, two in zip(epochs[step:], resumed, strict=False):
            assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    other = list(ready(seed=4).train_dataloader())
    assert not torch.equal(joined(whole, "image"), joined(other, "image"))


def test_two_ranks_see_what_one_with_the_doubled_batch_does():
    one = list(ready(batch_size=4).train_dataloader())
    ranks = [list(ready(batch_size=2, trainer=at(rank=r, world=2)).train_dataloader()) for r in (0, 1)]
    for whole, *halves in zip(one, *ranks, strict=True):
        assert sorted(keys(whole.image)) == sorted(keys(torch.cat([half.image for half in halves])))
    names = [ready(batch_size=2, trainer=at(rank=r, world=2)).image_names(3, r)["image"] for r in (0, 1)]
    assert sorted(names[0] + names[1]) == sorted(ready(batch_size=4).image_names(3, 0)["image"])


# Evaluation


@pytest.mark.parametrize(("stage", "part"), [("validate", "val"), ("test", "test")])
def test_evaluation_gives_the_glyphs_kept_out_in_both_domains_with_true_labels(stage, part):
    module = ready(stage)
    batches = list(getattr(module, f"{part}_dataloader")())
    glyphs = range(*PARTS[part])
    image, domain, label = (joined(batches, field) for field in LabelledBatch._fields)
    assert domain.tolist() == [0, 1] * len(glyphs)  # an evaluation that is cut short has seen both
    for k, name in enumerate(module.domains):
        assert torch.equal(image[domain == k], torch.stack([look(name, g) for g in glyphs]))
        assert label[domain == k].tolist() == LABELS[glyphs].tolist()


def test_shards_of_an_evaluation_are_disjoint_and_complete():
    one = list(ready("test").test_dataloader())
    for world in (2, 5):
        shards = [joined(ready("test", at(rank=r, world=world)).test_dataloader(), "image") for r in range(world)]
        assert [len(shard) for shard in shards] == [len(range(r, 18, world)) for r in range(world)]
        assert sorted(keys(torch.cat(shards))) == sorted(keys(joined(one, "image")))


def test_prediction_gives_the_validation_images_of_each_domain():
    for loader, name in zip(ready("predict").predict_dataloader(), ("plain", "coloured"), strict=True):
        batches = list(loader)
        assert all(isinstance(batch, ImageBatch) for batch in batches)
        assert torch.equal(joined(batches, "image"), torch.stack([look(name, g) for g in range(*PARTS["val"])]))


def test_bytes_are_scaled_and_numbers_are_not():
    module = ready()
    batch = next(iter(module.train_dataloader()))
    scaled = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(scaled.image, batch.image.float() / 127.5 - 1)
    assert torch.equal(scaled.label, batch.label)
    assert torch.equal(scaled.domain, batch.domain)


def test_a_fingerprint_tells_stages_domains_and_copies_apart():
    prints = [ready(**changes).fingerprint() for changes in ({}, {"copies": 3}, {"source": "warped"})]
    prints += [ready().fingerprint(stage) for stage in ("validate", "test")]
    assert len(set(prints)) == 5
    assert ready(seed=9).fingerprint() == prints[0]


def test_scikit_learns_digits_are_whole_forms(monkeypatch):
    monkeypatch.undo()
    glyphs, labels = digits._glyphs()
    assert (glyphs.dtype, int(glyphs.max()), labels.dtype) == (np.uint8, 16, np.int64)
    assert np.array_equal(glyphs, load_digits().images)
    assert [end for _, end in digits._GLYPHS.values()] == [1029, 1287, 1797]
    for first, _ in digits._GLYPHS.values():  # every form begins so
        assert labels[first : first + 10].tolist() == list(range(10))


# Recorded domains


def mnist(root, train, test):
    """Files of torchvision's format: (n, 28, 28) images and labels of each split."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, (images, labels) in (("train", train), ("t10k", test)):
        head = struct.pack(">4B3I", 0, 0, 8, 3, len(images), 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())


def flat(n, size):
    """Image k is k + 1 everywhere, which no resize changes."""
    return np.broadcast_to(np.arange(1, n + 1, dtype=np.uint8)[:, None, None], (n, size, size)).copy()


def test_mnist_keeps_its_last_training_images_for_validation(tmp_path):
    mnist(tmp_path, (flat(13, 28), np.arange(13) % 10), (flat(5, 28) + 100, np.arange(5)))
    options = {"source": "mnist", "target": "inverted", "root": str(tmp_path)}
    module = ready(**options)
    batches = list(module.train_dataloader())
    image, domain, label = (joined(batches, field) for field in LabelledBatch._fields)
    first = image[domain == 0][:, 0, 0, 0]
    assert torch.equal(image[domain == 0], first[:, None, None, None].expand(-1, 3, 32, 32))
    assert set(first.tolist()) == set(range(1, 10))
    assert torch.equal(label[domain == 0], first.long() - 1)
    drawn = [name for name in module.image_names(0, 0)["image"] if name.startswith("digits")]
    assert {int(name.split()[3]) for name in drawn} <= set(range(24))
    assert len(module.digits["train"][1].labels) == 2 * 24  # alone of its kind, a domain by formula has all glyphs
    names = [name for name in module.image_names(0, 0)["image"] if name.startswith("mnist")]
    values = batches[0].image[batches[0].domain == 0][:, 0, 0, 0]
    assert names == [f"mnist image {value - 1}" for value in values]
    for stage, values in (("val", range(10, 14)), ("test", range(101, 106))):
        module.setup({"val": "validate"}.get(stage, stage))
        batches = list(getattr(module, f"{stage}_dataloader")())
        shown = joined(batches, "image")[joined(batches, "domain") == 0][:, 0, 0, 0]
        assert shown.tolist() == list(values)


def test_gray_images_grow_by_pillows_bilinear_filter():
    image = np.zeros((1, 1, 16, 16), np.uint8)
    image[..., 8:] = 200
    grown = digits._resized(image)
    assert grown.shape == (1, 1, 32, 32)
    assert grown[0, 0, 5, 14:18].tolist() == [0, 50, 150, 200]  # a quarter and three quarters of the step


def test_usps_is_read_from_torchvisions_file(tmp_path):
    values = np.array([[-1.0] * 256, [1.0] * 256, [0.0] * 256, *[[1.0] * 256] * 4])
    lines = [f"{k + 1} " + " ".join(f"{i + 1}:{v}" for i, v in enumerate(row)) for k, row in enumerate(values)]
    (tmp_path / "usps.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    module = ready(source="plain", target="usps", root=str(tmp_path))
    images, labels = module.digits["train"][1]
    assert images.shape == (3, 1, 32, 32)
    assert images[:, 0, 0, 0].tolist() == [0, 255, 127]
    assert labels.tolist() == [0, 1, 2]  # the file counts from 1


@pytest.mark.parametrize(
    ("stage", "extra", "split"),
    [("fit", True, "extra"), ("fit", False, "train"), ("validate", True, "extra"), ("test", True, "test")],
)
def test_svhn_trains_on_its_extra_split(monkeypatch, stage, extra, split):
    asked = []

    def svhn(root, split, download):
        asked.append((root, split, download))
        data = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 3, 32, 32))
        return SimpleNamespace(data=data, labels=np.arange(6))

    monkeypatch.setattr("torchvision.datasets.SVHN", svhn)
    module = ready(stage, source="svhn", target="plain", root="here", svhn_extra=extra)
    assert asked == [("here", split, False)]
    counts = {name: len(each[0].labels) for name, each in module.digits.items()}
    assert counts == {"fit": {"train": 2, "val": 4}, "validate": {"val": 4}, "test": {"test": 6}}[stage]


def test_files_are_fetched_only_where_that_is_allowed_and_only_beforehand(monkeypatch):
    asked = []

    def usps(root, train, download):
        asked.append(download)
        return SimpleNamespace(data=flat(9, 16), targets=list(range(9)))

    monkeypatch.setattr("torchvision.datasets.USPS", usps)
    for allowed, expected in ((False, [False]), (True, [True, False])):
        asked.clear()
        module = Digits(**SMALL, source="usps", target="plain", root="here", download=allowed)
        module.prepare_data()
        module.setup("fit")
        assert asked == expected


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "colored"}, "data.target is 'colored': give one of plain, inverted, coloured"),
        ({"target": "plain"}, "data.source and data.target are both 'plain'"),
        ({"source": "mnist"}, "data.source is 'mnist', whose files need a folder: give data.root"),
        ({"copies": 0}, "data.copies is 0: give 1 or more"),
    ],
)
def test_bad_arguments_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        Digits(**{**SMALL, **changes})


@pytest.mark.parametrize("name", ["mnist", "usps", "svhn"])
def test_absent_files_are_named_with_both_cures(tmp_path, name):
    assert name in DOMAINS
    message = f"There is no {name} in {tmp_path} .*set data.root to the folder that holds .*, or data.download to true"
    with pytest.raises(FileNotFoundError, match=message):
        ready(source=name, root=str(tmp_path))


def test_without_scikit_learn_the_cure_is_named(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn, or give data.source and data.target of mnist"):
        digits._glyphs()
