"""The repository's weights: what they promise in their card must hold."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks.train_digits import MOMENTS, TRAINED, digit, moments_of
from metrics.features import digits
from metrics.features.digits import Digits
from metrics.features.extractor import FeatureExtractor
from metrics.frechet import frechet_distance_of_sets


@pytest.fixture(scope="module")
def reader():
    return Digits()


@pytest.fixture(scope="module")
def strangers():
    """All glyphs of writers that training has not seen, in draws that it has not seen; the labels of them."""
    bunch, which = load_digits(), np.arange(TRAINED, 1797)
    images = [digit(k + 7 * len(which), bunch.images.astype(np.uint8), which, "plain") for k in range(len(which))]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(bunch.target[which])


def signed(images):
    return images.float() / 127.5 - 1


def test_it_is_a_feature_extractor_and_its_weights_are_small(reader, strangers):
    assert isinstance(reader, FeatureExtractor)
    assert digits.WEIGHTS.name in reader.protocol["weights"]
    assert digits.WEIGHTS.stat().st_size < 1_000_000
    features, seen = reader(signed(strangers[0][:3])), reader.read(signed(strangers[0][:3]))
    assert features.embedding.shape == (3, reader.size)
    assert features.logits.shape == (3, reader.classes)
    assert torch.equal(features.embedding, seen.embedding)
    assert torch.equal(features.logits, seen.label_logits)
    assert seen.moments.shape == (3, len(MOMENTS) + 1)


def test_it_reads_labels_and_ink_of_writers_that_it_never_saw(reader, strangers):
    images, labels = strangers
    seen, truth = reader.read(signed(images)), moments_of(images)
    assert (seen.label_logits.argmax(1) == labels).double().mean() >= 0.9
    for k, name in enumerate(MOMENTS):
        assert np.corrcoef(seen.moments[:, k], truth[:, k])[0, 1] > 0.8, name


def test_moments_are_those_of_known_ink():
    image = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 0, 27] = 255  # upper right
    image[1, 0, [0, 27], [0, 27]] = 255  # a line down to the right
    one, line = moments_of(image).tolist()
    assert one == pytest.approx([1 / 784, 1, -1, 0, 0, 0], abs=1e-6)
    assert line == pytest.approx([2 / 784, 0, 0, 1, 1, 1], abs=1e-6)


def test_other_sets_are_further_away_than_halves_of_one_are_from_each_other(reader, strangers):
    images, labels = strangers
    x = signed(images)
    half = frechet_distance_of_sets(*(reader(part).embedding for part in (x[::2], x[1::2])))
    thicker = torch.nn.functional.max_pool2d(x, 3, 1, 1)
    some = x[labels < 5]
    speckled = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for other in (thicker, x * 0.5 - 0.5, x.roll((3, 3), (2, 3)), some, speckled):
        assert frechet_distance_of_sets(reader(x).embedding, reader(other).embedding) > half


def test_sizes_batches_and_autocast_change_little_or_nothing(reader, strangers):
    x, labels = signed(strangers[0][:100]), strangers[1][:100]
    whole = reader(x).embedding
    torch.testing.assert_close(torch.cat([reader(part).embedding for part in x.split(7)]), whole, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reader(x).embedding, whole)
    large = torch.nn.functional.interpolate(x, (56, 56), mode="bilinear")
    assert (reader(large).logits.argmax(1) == labels).double().mean() >= 0.85


def test_missing_weights_and_coloured_images_are_named(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match="make features trains it"):
        Digits(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"grey images \(N, 1, H, W\), not \(1, 3, 28, 28\)"):
        reader.read(torch.zeros(1, 3, 28, 28))
