import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import factor_digits
from datamodules.factor_digits import MNIST, SmallDigits
from datamodules.factors import FactorDataModule, LabelledSource
from datamodules.procedural import digit_variants
from tests.datamodules.test_factor_files import served


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSFADE_CACHE", str(tmp_path / "cache"))


def test_small_digits(monkeypatch):
    few = SimpleNamespace(images=load_digits().images[:30], target=load_digits().target[:30])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    monkeypatch.setattr(factor_digits, "_TRAINED", 20)
    source = SmallDigits(copies=2)
    assert isinstance(source, LabelledSource)
    assert (source.trained, source.labels.shape) == (40, (60, 1))
    glyphs = few.images.astype(np.uint8)
    for index, glyph, draw in ((0, 0, 0), (19, 19, 0), (20, 0, 1), (40, 20, 0), (59, 29, 1)):
        # A draw is told by the number of the glyph, so that it is the same whatever stands beside it.
        drawn = digit_variants.plain(glyphs[glyph], (0, draw, glyph))[..., 0]
        assert np.array_equal(
            source.rows(np.array([index]))[0, 0], cv2.resize(drawn, (28, 28), interpolation=cv2.INTER_AREA)
        )
        assert source.labels[index, 0] == few.target[glyph]
    threes = source.images(np.full((4, 1), 3))  # as many different ones as there are
    assert np.array_equal(threes, source.rows(np.flatnonzero(source.labels[:, 0] == 3)[:4]))
    assert len({image.tobytes() for image in threes}) == 4
    with pytest.raises(ValueError, match="copies is 0: give 1 or more"):
        SmallDigits(copies=0)


def test_small_digits_are_as_large_as_mnists():
    """MNIST's lie in the middle 20 of 28 pixels; no digit of ours is cut."""
    source = SmallDigits(copies=1)
    assert (len(source.labels), source.trained) == (1797, 1287)
    images = source.rows(np.arange(1797))[:, 0]
    rows = images.max(2) > 100
    height = 28 - rows.argmax(1) - rows[:, ::-1].argmax(1)
    assert height.mean() == pytest.approx(20, abs=1.5)
    assert max(images[:, [0, -1]].max(), images[:, :, [0, -1]].max()) < 40  # no more than the soft edge of a stroke


def mnist(root, train, test):
    """Files of torchvision's format, of given labels; image k of all is k everywhere."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    first = 0
    for split, labels in (("train", train), ("t10k", test)):
        images = np.arange(first, first + len(labels), dtype=np.uint8)[:, None].repeat(784, 1)
        first += len(labels)
        head = struct.pack(">4B3I", 0, 0, 8, 3, len(images), 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(head + bytes(labels))


def test_mnist_trains_and_evaluates_apart(tmp_path):
    mnist(tmp_path, [5, 0, 4, 5], [7, 5, 0])
    source = MNIST(str(tmp_path))
    assert (source.trained, source.labels[:, 0].tolist()) == (4, [5, 0, 4, 5, 7, 5, 0])
    factors, images = served(source, 2)
    assert set(images[:, 0, 0, 0].tolist()) <= {0, 1, 2, 3}
    assert factors[:, 0].tolist() == source.labels[images[:, 0, 0, 0], 0].tolist()
    asked = source.images(np.array([[5], [0], [5], [5], [5]]))
    assert (asked.shape, asked[:, 0, 3, 3].tolist()) == ((5, 1, 28, 28), [0, 1, 3, 5, 0])  # and round again
    with pytest.raises(ValueError, match="factors ask for digit 9, of which there is no image in MNIST"):
        source.images(np.array([[9]]))
    other = tmp_path / "other"
    mnist(other, [5, 0, 4, 4], [7, 5, 0])
    assert MNIST(str(other)).fingerprint() != source.fingerprint()


def test_mnist_is_fetched_only_where_that_is_allowed(monkeypatch):
    asked = []

    def fake(root, train, download):
        asked.append((root, train, download))
        return SimpleNamespace(data=torch.zeros(2, 28, 28, dtype=torch.uint8), targets=torch.tensor([0, 1]))

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    for allowed in (False, True):
        asked.clear()
        source = MNIST("here", download=allowed)
        assert asked == []  # a command line is read without opening anything
        assert source.trained == 2
        assert asked == [("here", True, allowed), ("here", False, allowed)]


def test_absent_mnist_is_named_with_both_cures(tmp_path):
    module = FactorDataModule(MNIST(str(tmp_path)))
    with pytest.raises(
        FileNotFoundError, match="There is no MNIST in .*: set root to .* MNIST/raw, or download to true"
    ):
        module.prepare_data()
