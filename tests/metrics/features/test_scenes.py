"""The repository's weights: what they promise in their card must hold."""

import pytest
import torch

from datamodules.procedural import streets
from metrics.features import scenes
from metrics.features.extractor import FeatureExtractor
from metrics.features.scenes import Scenes
from metrics.truth import confusion, map_accuracy


def test_its_numbers_are_those_of_the_streets():
    assert scenes.DOMAINS == streets.DOMAINS
    assert len(streets.CONTENT) == scenes.CONTENT
    assert max(map(len, streets.STYLE.values())) == scenes.STYLE
    assert len(streets.CLASSES) == scenes.CLASSES


def test_it_is_a_feature_extractor_and_its_weights_are_small():
    reader = Scenes()
    assert isinstance(reader, FeatureExtractor)
    assert scenes.WEIGHTS.stat().st_size < 2_000_000
    features = reader(torch.zeros(2, 3, 64, 64))
    assert features.embedding.shape == (2, reader.size)
    assert features.logits.shape == (2, reader.classes)


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_it_reads_streets_that_it_never_saw(size):
    reader = Scenes()
    domains, counts = 0, torch.zeros(11, 11, dtype=torch.long)
    for k, domain in enumerate(streets.DOMAINS):
        for index in range(5):
            scene = streets.street(77, 10 * k + index, domain, *size)
            x = torch.from_numpy(scene.image).permute(2, 0, 1)[None] / 127.5 - 1
            seen = reader.read(x)
            domains += int(seen.domain_logits.argmax()) == k
            truth = torch.from_numpy(scene.semantic)[None, None].float()
            truth = torch.nn.functional.interpolate(truth, (64, 64), mode="nearest-exact")[:, 0]
            counts += confusion(seen.semantic_logits.argmax(1), truth, 11)
    assert domains >= 38
    assert map_accuracy(counts) > 0.8


def test_batch_and_autocast_change_nothing():
    reader, x = Scenes(), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = reader(x).embedding
    torch.testing.assert_close(torch.cat([reader(image[None]).embedding for image in x]), whole, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reader(x).embedding, whole)


def test_missing_weights_and_gray_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make features trains it"):
        Scenes(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"colour images \(N, 3, H, W\), not \(1, 1, 64, 64\)"):
        Scenes()(torch.zeros(1, 1, 64, 64))
