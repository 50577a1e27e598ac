from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import rendered_domains
from datamodules.faces import FaceAttributes, FaceDomains, FacePairs
from datamodules.procedural.faces import ATTRIBUTES, Marginals, face, factors
from datamodules.procedural.faces_edits import swapped
from interfaces.batch import (
    AlignedBatch,
    AttributeBatch,
    AttributeData,
    DomainBatch,
    DomainData,
    ImageBatch,
    KnowsEdits,
    NamesImages,
    PairedBatch,
    UnpairedBatch,
)

SMALL = {"size": 32, "faces": 4, "val_faces": 3, "batch_size": 2}
THREE = ("photo", "sketch", "paint")
FIRST = {"val": 1_000_000_000, "test": 2_000_000_000}
SEED = 2  # of which an evaluation that mirrored by mistake would mirror its images
TOGETHER = {"probabilities": {"smile": 0.5, "glasses": 0.5}, "correlation": [("smile", "glasses", 1.0)]}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def ready(kind, stage="fit", **changes):
    module = kind(**{**SMALL, **changes})
    module.prepare_data()
    module.setup(stage)
    return module


def portrait(index, domain="photo", draw=0, **marginals):
    image = face(0, index, domain, 32, 32, draw, Marginals(**marginals)).image
    return torch.from_numpy(image).permute(2, 0, 1)


def portraits(first, count, domain="photo", draw=0):
    return torch.stack([portrait(first + i, domain, draw) for i in range(count)])


def joined(loader, field):
    return torch.cat([getattr(batch, field) for batch in loader])


def same_images(x, expected):
    """As sets: training comes in any order."""
    return {image.numpy().tobytes() for image in x} == {image.contiguous().numpy().tobytes() for image in expected}


def named(name):
    """The picture of ``faces photo number 17``."""
    _, domain, _, number = name.split()
    return portrait(int(number), domain)


@pytest.mark.parametrize("domains", [THREE, ("paint", "photo")])
def test_domains_train_on_disjoint_faces(domains):
    module = ready(FaceDomains, domains=domains)
    assert isinstance(module, DomainData)
    assert isinstance(module, NamesImages)
    assert (module.true_pairs, module.domains, module.image_shape) == (True, domains, (3, 32, 32))
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    assert all(isinstance(batch, DomainBatch) for batch in batches)
    assert {(tuple(b.image.shape), b.image.dtype) for b in batches} == {((2 * len(domains), 3, 32, 32), torch.uint8)}
    for k, domain in enumerate(domains):
        shown = joined(batches, "image")[joined(batches, "domain") == k]
        assert same_images(shown, portraits(4 * k, 4, domain))


def test_evaluation_takes_larger_batches_than_training():
    assert [len(batch.images) for batch in ready(FaceDomains, val_faces=9).val_dataloader()] == [8, 1]
    assert [len(batch.images) for batch in ready(FaceDomains, val_faces=9, batch_size=9).val_dataloader()] == [9]


def test_domains_are_evaluated_on_the_same_unseen_faces_and_on_second_draws(monkeypatch):
    monkeypatch.setattr(rendered_domains, "TOGETHER", 1)
    module = ready(FaceDomains)
    module.setup("test")
    for split, loader in (("val", module.val_dataloader()), ("test", module.test_dataloader())):
        batches = list(loader)
        assert all(isinstance(batch, AlignedBatch) for batch in batches)
        assert [len(batch.images) for batch in batches] == [2, 1]
        for field, draw in (("images", 0), ("again", 1)):
            expected = torch.stack([portraits(FIRST[split], 3, domain, draw) for domain in THREE], 1)
            assert torch.equal(joined(batches, field), expected)
        assert not torch.equal(joined(batches, "images"), joined(batches, "again"))


def test_prediction_gives_the_validation_faces():
    for loader, domain in zip(ready(FaceDomains, "predict").predict_dataloader(), THREE, strict=True):
        batches = list(loader)
        assert all(isinstance(batch, ImageBatch) for batch in batches)
        assert torch.equal(joined(batches, "image"), portraits(FIRST["val"], 3, domain))
    loader = ready(FaceAttributes, "predict", domain="sketch").predict_dataloader()
    assert torch.equal(joined(loader, "image"), portraits(FIRST["val"], 3, "sketch"))


def test_pairs_are_unpaired_in_training_and_true_in_evaluation():
    module = ready(FacePairs)
    module.setup("test")
    assert isinstance(module, DomainData)
    batches = list(module.train_dataloader())
    assert all(isinstance(batch, UnpairedBatch) for batch in batches)
    assert same_images(joined(batches, "a"), portraits(0, 4, "photo"))
    assert same_images(joined(batches, "b"), portraits(4, 4, "sketch"))
    for split, loader in (("val", module.val_dataloader()), ("test", module.test_dataloader())):
        batches = list(loader)
        assert all(isinstance(batch, PairedBatch) for batch in batches)
        for field, domain, draw in (("a", "photo", 0), ("b", "sketch", 0), ("a_again", "photo", 1)):
            assert torch.equal(joined(batches, field), portraits(FIRST[split], 3, domain, draw))
        assert torch.equal(joined(batches, "b_again"), portraits(FIRST[split], 3, "sketch", 1))
    assert module.fingerprint("test") == FaceDomains(("photo", "sketch"), **SMALL).fingerprint("test")


@pytest.mark.parametrize("kind", [FaceDomains, FacePairs, FaceAttributes])
def test_names_are_the_faces_of_each_training_batch(kind):
    module = ready(kind)
    for iteration, batch in enumerate(module.train_dataloader()):
        for field, names in module.image_names(iteration, 0).items():
            assert torch.equal(getattr(batch, field), torch.stack([named(name) for name in names]))


@pytest.mark.parametrize("kind", [FaceDomains, FacePairs, FaceAttributes])
def test_a_resumed_run_goes_on_where_it_was(kind):
    def batches(start):
        module = ready(kind, faces=5, flip=True, seed=3)
        module.trainer = SimpleNamespace(global_step=start, global_rank=0, world_size=1)
        return list(module.train_dataloader())

    whole = batches(0) + batches(3)  # an epoch is three batches
    for start in (1, 2):
        for one, two in zip(batches(start), whole[start : start + 3], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(whole[0], whole[3], strict=True))


@pytest.mark.parametrize("kind", [FaceDomains, FacePairs, FaceAttributes])
def test_flip_mirrors_some_in_training_alone(kind):
    plain, flipped = ready(kind, seed=SEED), ready(kind, seed=SEED, flip=True)
    turned = []
    for one, two in zip(plain.train_dataloader(), flipped.train_dataloader(), strict=True):
        for field in {"image", "a", "b"} & set(one._fields):
            for x, y in zip(getattr(one, field), getattr(two, field), strict=True):
                turned.append(torch.equal(x.flip(-1), y))
                assert turned[-1] or torch.equal(x, y)
    assert 0 < sum(turned) < len(turned)
    for one, two in zip(plain.val_dataloader(), flipped.val_dataloader(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_images_are_scaled_and_attributes_are_not():
    batch = next(iter(ready(FaceAttributes).val_dataloader()))
    scaled = ready(FaceAttributes).on_after_batch_transfer(batch, 0)
    assert torch.equal(scaled.image, batch.image.float() / 127.5 - 1)
    assert torch.equal(scaled.attributes, batch.attributes)
    assert batch.attributes.dtype == torch.int64


@pytest.mark.parametrize("attributes", [("smile", "glasses"), ("hat", "old", "smile")])
def test_attributes_are_those_of_the_faces_in_the_images(attributes):
    module = ready(FaceAttributes, attributes=attributes, faces=12, val_faces=12, flip=True)
    module.setup("test")
    assert isinstance(module, AttributeData)
    assert (module.attributes, module.categories) == (attributes, (2,) * len(attributes))
    seen = set()
    for first, loader in (
        (0, module.train_dataloader()),
        (FIRST["val"], module.val_dataloader()),
        (FIRST["test"], module.test_dataloader()),
    ):
        number = {}
        for i in range(first, first + 12):
            image = portrait(i)
            number[image.contiguous().numpy().tobytes()] = number[image.flip(-1).numpy().tobytes()] = i
        batches = list(loader)
        assert all(isinstance(batch, AttributeBatch) for batch in batches)
        indices = [number[image.numpy().tobytes()] for image in joined(batches, "image")]
        assert sorted(indices) == list(range(first, first + 12))
        truth = [[factors(0, i).attributes[name] for name in attributes] for i in indices]
        assert joined(batches, "attributes").tolist() == truth
        seen |= {value for row in truth for value in row}
    assert seen == {0, 1}


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
def test_edited_has_the_truth_of_every_swap(stage, split):
    module = ready(FaceAttributes, stage, attributes=("hat", "smile"), domain="paint")
    assert isinstance(module, KnowsEdits)
    for k, name in enumerate(module.attributes):
        edited = module.edited(stage, k)
        truth = [swapped(i, 0, FIRST[split], "paint", 32, 32, attribute=name) for i in range(3)]
        assert np.array_equal(edited, np.stack(truth))
        assert (edited != module.images[split]).any(axis=(1, 2, 3)).all()


def test_attributes_go_together_in_training_only():
    module = ready(FaceAttributes, faces=16, val_faces=16, **TOGETHER)
    a, b = joined(module.train_dataloader(), "attributes").T
    assert torch.equal(a, b)
    assert 0 < a.sum() < 16
    a, b = joined(module.val_dataloader(), "attributes").T
    assert 2 < (a != b).sum() < 14  # 16 fair coins: 8 +- 2
    train, val = (module.images[split] for split in ("train", "val"))
    correlation = (("smile", "glasses", 1.0),)
    for i in range(4):
        expected = portrait(i, probabilities=TOGETHER["probabilities"], correlation=correlation)
        assert torch.equal(torch.from_numpy(train[i].copy()), expected)
        expected = portrait(FIRST["val"] + i, probabilities=TOGETHER["probabilities"])
        assert torch.equal(torch.from_numpy(val[i].copy()), expected)


def test_edits_keep_the_marginals_of_the_evaluation():
    module = ready(FaceAttributes, "validate", probabilities={"hat": 1.0}, correlation=TOGETHER["correlation"])
    drawn = Marginals({"hat": 1.0})
    truth = [swapped(i, 0, FIRST["val"], "photo", 32, 32, marginals=drawn, attribute="glasses") for i in range(3)]
    assert np.array_equal(module.edited("validate", 1), np.stack(truth))


def test_a_fingerprint_tells_all_that_moves_a_pixel():
    def of(stage="fit", kind=FaceAttributes, **changes):
        return kind(**{**SMALL, **changes}).fingerprint(stage)

    changes = (
        {},
        {"size": (32, 48)},
        {"faces": 5},
        {"domain": "paint"},
        {"attributes": ("hat",)},
        {"probabilities": {"smile": 0.2}},
        {"correlation": [("smile", "glasses", 0.5)]},
    )
    assert len({of(**change) for change in changes}) == len(changes)
    assert of(seed=4, batch_size=1) == of()
    # An evaluation sees neither the size of the training set nor its correlation.
    assert of("validate", faces=5, correlation=[("smile", "glasses", 0.5)]) == of("validate")
    assert len({of(stage) for stage in ("fit", "validate", "test")}) == 3
    assert of("validate", probabilities={"smile": 0.2}) != of("validate")
    assert of(kind=FaceDomains, domains=("photo", "paint")) != of(kind=FaceDomains)


def test_second_start_renders_nothing(monkeypatch):
    ready(FaceDomains)

    def refuse(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr("datamodules.cache._images", refuse)
    module = FaceDomains(**SMALL)
    module.setup("fit")
    assert len(module.images["train"][0]) == 4


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (FaceDomains, {"domains": ("photo", "photo", "paint")}, "two or more different ones"),
        (FaceDomains, {"domains": ("photo",)}, "two or more different ones"),
        (FaceDomains, {"domains": ("photo", "drawing")}, "no face domain 'drawing'; choose one of photo"),
        (FaceDomains, {"size": 16}, "16x16 cannot be rendered"),
        (FaceDomains, {"faces": 1}, "2 or more faces"),
        (FaceDomains, {"val_faces": 0}, "2 or more faces and validation 1 or more"),
        (FacePairs, {"domains": THREE}, "FacePairs has two, FaceDomains more"),
        (FaceAttributes, {"attributes": ("smile", "hats")}, "no attribute 'hats': choose some of smile"),
        (FaceAttributes, {"attributes": ()}, "none in data.attributes"),
        (FaceAttributes, {"domain": "drawing"}, "no face domain 'drawing'"),
        (FaceAttributes, {"faces": 1}, "2 or more faces"),
        (FaceAttributes, {"probabilities": {"smiles": 0.5}}, f"no attribute 'smiles'; choose from {ATTRIBUTES[0]}"),
        (FaceAttributes, {"probabilities": {"smile": 1.5}}, "probability of 'smile' must be 0 to 1"),
        (FaceAttributes, {"correlation": [("smile", "hat", 2.0)]}, "must be -1 to 1, not 2.0"),
    ],
)
def test_bad_arguments_are_refused_at_once(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**{**SMALL, **changes})
