import numpy as np
import pytest
import torch

from datamodules import rendered_domains
from datamodules.procedural.streets import street
from datamodules.streets import StreetDomains, Streets
from interfaces.batch import AlignedBatch, DomainBatch, DomainData, ImageBatch, NamesImages, PairedBatch, UnpairedBatch

SMALL = {"size": 32, "scenes": (6, 4), "val_scenes": 5, "batch_size": 2}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def ready(stage="fit", **changes):
    module = Streets(**{**SMALL, **changes})
    module.prepare_data()
    module.setup(stage)
    return module


def scene(index, domain, draw=0):
    return torch.from_numpy(street(0, index, domain, 32, 32, draw).image).permute(2, 0, 1)


def joined(loader, field):
    return torch.cat([getattr(batch, field) for batch in loader])


def same_images(x, expected):
    return {image.numpy().tobytes() for image in x} == {image.contiguous().numpy().tobytes() for image in expected}


def test_training_shows_disjoint_scenes_of_both_domains():
    module = ready()
    assert isinstance(module, DomainData)
    assert (module.true_pairs, module.domains, module.image_shape) == (True, ("day", "night"), (3, 32, 32))
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert all(isinstance(batch, UnpairedBatch) for batch in batches)
    assert {(tuple(x.shape), x.dtype) for batch in batches for x in batch} == {((2, 3, 32, 32), torch.uint8)}
    assert same_images(joined(batches, "a"), [scene(i, "day") for i in range(6)])
    assert same_images(joined(batches, "b"), [scene(i, "night") for i in range(6, 10)])


@pytest.mark.parametrize("domains", [("day", "night"), ("labels", "rain")])
def test_evaluation_gives_true_pairs_and_second_draws_of_unseen_scenes(domains):
    module = ready(domains=domains)
    module.setup("test")
    for loader, first in ((module.val_dataloader(), 1_000_000_000), (module.test_dataloader(), 2_000_000_000)):
        batches = list(loader)
        assert all(isinstance(batch, PairedBatch) for batch in batches)
        assert [len(batch.a) for batch in batches] == [2, 2, 1]
        for field, domain, draw in (
            ("a", domains[0], 0),
            ("b", domains[1], 0),
            ("a_again", domains[0], 1),
            ("b_again", domains[1], 1),
        ):
            expected = torch.stack([scene(first + i, domain, draw) for i in range(5)])
            assert torch.equal(joined(batches, field), expected)
        styleless = torch.equal(joined(batches, "a"), joined(batches, "a_again"))
        assert styleless == (domains[0] == "labels")


def test_names_are_the_scenes_of_each_training_batch():
    module = ready(scenes=(6, 4))
    assert isinstance(module, NamesImages)
    for iteration, batch in enumerate(module.train_dataloader()):
        names = module.image_names(iteration, 0)
        for field, domain in zip("ab", module.domains, strict=True):
            scenes = [int(name.removeprefix(f"streets {domain} scene ")) for name in names[field]]
            assert torch.equal(getattr(batch, field), torch.stack([scene(k, domain) for k in scenes]))


def test_prediction_gives_the_validation_images_of_each_domain():
    for loader, domain in zip(ready("predict").predict_dataloader(), ("day", "night"), strict=True):
        batches = list(loader)
        assert all(isinstance(batch, ImageBatch) for batch in batches)
        assert torch.equal(joined(batches, "image"), torch.stack([scene(1_000_000_000 + i, domain) for i in range(5)]))


def test_bytes_are_scaled_in_every_field():
    module = ready()
    batch = next(iter(module.val_dataloader()))
    scaled = module.on_after_batch_transfer(batch, 0)
    assert isinstance(scaled, PairedBatch)
    for x, y in zip(batch, scaled, strict=True):
        assert torch.equal(y, x.float() / 127.5 - 1)


@pytest.mark.parametrize("flip", [False, True])
def test_training_is_the_same_for_any_number_of_workers(flip):
    def batches(**changes):
        return list(ready(flip=flip, **changes).train_dataloader())

    plain = batches(seed=3)
    for one, two in zip(plain, batches(seed=3, num_workers=2), strict=True):
        assert torch.equal(one.a, two.a)
        assert torch.equal(one.b, two.b)
    other = batches(seed=4)
    assert not torch.equal(joined(plain, "a"), joined(other, "a"))


def test_flip_mirrors_about_half_and_leaves_the_cache_alone():
    plain, flipped = (list(ready(flip=flip, scenes=60).train_dataloader()) for flip in (False, True))
    for field in ("a", "b"):
        x, y = joined(plain, field), joined(flipped, field)
        mirrored = [torch.equal(q, p.flip(-1)) for p, q in zip(x, y, strict=True)]
        kept = [torch.equal(q, p) for p, q in zip(x, y, strict=True)]
        assert np.logical_xor(mirrored, kept).all()
        assert 12 < sum(mirrored) < 48  # 60 fair coins: 30 +- 3.9
    again = list(ready(scenes=60).train_dataloader())
    assert torch.equal(joined(again, "a"), joined(plain, "a"))


def test_second_start_renders_nothing(monkeypatch):
    ready()

    def refuse(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr("datamodules.streets.planes", refuse)
    module = Streets(**SMALL)
    module.setup("fit")
    assert len(module.images["train"][0]) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": ("day", "nigth")}, "nigth.*night"),
        ({"domains": ("day", "day")}, "give two different ones"),
        ({"size": 16}, "16x16 cannot be rendered"),
        ({"scenes": 1}, "2 or more scenes"),
        ({"val_scenes": 0}, "1 or more val_scenes"),
    ],
)
def test_bad_arguments_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        Streets(**{**SMALL, **changes})


def many(stage="fit", **changes):
    module = StreetDomains(**{"size": 32, "scenes": 4, "val_scenes": 3, "batch_size": 2, **changes})
    module.prepare_data()
    module.setup(stage)
    return module


@pytest.mark.parametrize(
    "domains", [("day", "night"), ("day", "night", "rain", "snow", "fog", "dusk", "labels", "sketch")]
)
def test_many_domains_train_on_disjoint_scenes(domains):
    module = many(domains=domains)
    assert isinstance(module, DomainData)
    batches = list(module.train_dataloader())
    assert len(batches) == 2
    assert all(isinstance(batch, DomainBatch) and len(batch.image) == 2 * len(domains) for batch in batches)
    for k, domain in enumerate(domains):
        shown = [image for batch in batches for image in batch.image[batch.domain == k]]
        assert same_images(shown, [scene(i, domain) for i in range(4 * k, 4 * k + 4)])
    names = module.image_names(1, 0)["image"]
    drawn = {name: scene(int(name.split()[-1]), name.split()[1]) for name in names}
    assert same_images(batches[1].image, drawn.values())


def test_many_domains_are_evaluated_on_the_same_unseen_scenes(monkeypatch):
    monkeypatch.setattr(rendered_domains, "TOGETHER", 1)
    domains = ("day", "rain", "labels")
    module = many("test", domains=domains)
    batches = list(module.test_dataloader())
    assert all(isinstance(batch, AlignedBatch) for batch in batches)
    assert [len(batch.images) for batch in batches] == [2, 1]
    for field, draw in (("images", 0), ("again", 1)):
        for k, domain in enumerate(domains):
            expected = torch.stack([scene(2_000_000_000 + i, domain, draw) for i in range(3)])
            assert torch.equal(joined(batches, field)[:, k], expected)
    facts = module.scene_facts("test")
    assert (len(facts.styles), facts.semantic.shape) == (3, (3, 32, 32))
    module = many("predict", domains=domains)
    shown = [torch.cat([batch.image for batch in loader]) for loader in module.predict_dataloader()]
    assert torch.equal(shown[1], torch.stack([scene(1_000_000_000 + i, "rain") for i in range(3)]))


def test_many_domains_refuse_one_and_unknown_ones():
    with pytest.raises(ValueError, match="two or more different"):
        StreetDomains(domains=("day", "day", "night"))
    with pytest.raises(ValueError, match="no street domain 'noon'; choose one of day"):
        StreetDomains(domains=("day", "noon"))


def test_mirroring_is_a_function_of_the_sample_number():
    plain, flipped = many(), many(flip=True)
    for one, two in zip(plain.train_dataloader(), flipped.train_dataloader(), strict=True):
        turned = [
            torch.equal(x.flip(-1), y) and not torch.equal(x, y) for x, y in zip(one.image, two.image, strict=True)
        ]
        kept = [torch.equal(x, y) for x, y in zip(one.image, two.image, strict=True)]
        assert all(t or k for t, k in zip(turned, kept, strict=True))
        assert any(turned)
        assert any(kept)
    again = many(flip=True)
    for one, two in zip(flipped.train_dataloader(), again.train_dataloader(), strict=True):
        assert torch.equal(one.image, two.image)
