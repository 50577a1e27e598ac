"""The repository's weights: what they promise in their card must hold."""

import numpy as np
import pytest
import torch

from callbacks.attribute_swap import AttributeJudge
from datamodules.procedural.faces import (
    ATTRIBUTES,
    CLASSES,
    DOMAINS,
    FACTORS,
    STYLE,
    Marginals,
    attributes_of,
    face,
    facts_of,
    planes,
)
from datamodules.procedural.faces_edits import swapped
from metrics.features import faces
from metrics.features.extractor import FeatureExtractor
from metrics.features.faces import Faces
from metrics.truth import confusion, map_accuracy

WORLD, EACH = 77, 16  # a collection that neither training nor a DataModule has seen, and faces of each domain
EVEN = Marginals(dict.fromkeys(ATTRIBUTES, 0.5))


def signed(images):
    return torch.from_numpy(np.stack(images)).float() / 127.5 - 1


@pytest.fixture(scope="module")
def reader():
    return Faces()


@pytest.fixture(scope="module")
def portraits():
    """Pictures (48, 3, 64, 64) of faces 0 to 47, domain after domain."""
    return signed([planes(i, WORLD, 0, DOMAINS[i // EACH], 64, 64, marginals=EVEN) for i in range(3 * EACH)])


def test_its_numbers_are_those_of_the_faces():
    assert faces.DOMAINS == DOMAINS
    assert faces.ATTRIBUTES == ATTRIBUTES
    assert len(FACTORS) == faces.FACTORS
    assert {len(names) for names in STYLE.values()} == {faces.STYLE}
    assert len(CLASSES) == faces.CLASSES


def test_it_is_a_feature_extractor_and_a_judge_and_its_weights_are_small(reader, portraits):
    assert isinstance(reader, FeatureExtractor)
    assert isinstance(reader, AttributeJudge)
    assert reader.attributes == ATTRIBUTES
    assert faces.WEIGHTS.name in reader.protocol["weights"]
    assert faces.WEIGHTS.stat().st_size < 2_000_000
    features, seen = reader(portraits[:2]), reader.read_all(portraits[:2])
    assert features.embedding.shape == (2, reader.size)
    assert features.logits.shape == (2, reader.classes)
    assert torch.equal(features.embedding, seen.embedding)
    assert torch.equal(features.logits, seen.domain_logits)
    assert torch.equal(reader.read(portraits[:2]), seen.attribute_logits)
    logits, embedding = reader.read_and_embed(portraits[:2])
    assert torch.equal(logits, seen.attribute_logits)
    assert torch.equal(embedding, seen.embedding)
    assert seen.factors.shape == (2, len(FACTORS))
    assert seen.style.shape == (2, 3, 4)
    assert seen.semantic_logits.shape == (2, len(CLASSES), 64, 64)


def test_it_reads_attributes_and_domains_of_faces_that_it_never_saw(reader, portraits):
    truth = torch.from_numpy(attributes_of(WORLD, 0, 3 * EACH, EVEN)) > 0
    right = (reader.read(portraits) > 0) == truth
    assert right.unflatten(0, (3, EACH)).double().mean((1, 2)).min() >= 0.97
    assert right.double().mean(0).min() >= 0.9
    domains = reader(portraits).logits.argmax(1)
    assert (domains == torch.arange(3).repeat_interleave(EACH)).double().mean() >= 0.95


def test_it_reads_the_map_and_which_way_a_face_looks_in_a_mirror_too(reader, portraits):
    truth = torch.from_numpy(np.stack([face(WORLD, i, "photo", 64, 64, marginals=EVEN).semantic for i in range(8)]))
    seen = reader.read_all(portraits[:8]).semantic_logits.argmax(1)
    assert map_accuracy(confusion(seen, truth, len(CLASSES))) > 0.85
    yaw = list(FACTORS).index("yaw")
    truth = torch.from_numpy(facts_of(WORLD, 0, 3 * EACH))[:, yaw]
    for images, expected in ((portraits, truth), (portraits.flip(-1), 1 - truth)):
        error = reader.read_all(images).factors[:, yaw] - expected
        assert error.square().mean() < 0.25 * expected.var()


@pytest.mark.parametrize("domain", DOMAINS)
def test_it_sees_which_attribute_an_edit_swapped_and_no_other(reader, domain):
    exactly = []
    for k, name in enumerate(ATTRIBUTES):
        before = signed([planes(i, WORLD, 100 + 3 * k, domain, 64, 64) for i in range(3)])
        after = signed([swapped(i, WORLD, 100 + 3 * k, domain, 64, 64, attribute=name) for i in range(3)])
        changed = (reader.read(before) > 0) != (reader.read(after) > 0)
        exactly += changed.eq(torch.arange(len(ATTRIBUTES)) == k).all(1).tolist()
    assert np.mean(exactly) >= 0.9


@pytest.mark.parametrize("size", [(48, 48), (128, 128)])
def test_faces_of_other_sizes_are_resized(reader, size):
    truth = torch.from_numpy(attributes_of(WORLD, 0, 8, EVEN)) > 0
    x = signed([planes(i, WORLD, 0, "photo", *size, marginals=EVEN) for i in range(8)])
    assert ((reader.read(x) > 0) == truth).double().mean() > 0.95


def test_batch_and_autocast_change_nothing(reader, portraits):
    whole = reader.read(portraits[:4])
    each = torch.cat([reader.read(image[None]) for image in portraits[:4]])
    torch.testing.assert_close(each, whole, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reader.read(portraits[:4]), whole)


def test_missing_weights_and_gray_images_are_named(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match="make features trains it"):
        Faces(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"colour images \(N, 3, H, W\), not \(1, 1, 64, 64\)"):
        reader.read(torch.zeros(1, 1, 64, 64))
