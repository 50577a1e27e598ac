import numpy as np
import pytest
import torch

from callbacks.code_classifier import CodeClassifier
from callbacks.measured import Measures
from datamodules.factors import FactorDataModule
from interfaces.batch import LabelledData
from interfaces.model import FeatureEncoder
from lightning_modules.base import ManualModule
from metrics.code_classifiers import nearest_neighbour, support_vectors
from metrics.intervals import wilson
from tests.callbacks.test_samples import logged
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.datamodules.test_factors import Tiny
from tests.ddp import run_ddp

TRAINED, HELD = 41, 24


class Shades:
    """Images of one shade; the first label is whether they are bright, of which one in eight lies."""

    names, sizes, image_shape = ("bright", "third"), (2, 3), (1, 4, 4)
    trained = TRAINED
    shades = np.random.default_rng(0).integers(0, 256, TRAINED + HELD)
    labels = np.stack([(shades > 127) ^ (np.arange(TRAINED + HELD) % 8 == 5), shades % 3], 1).astype(np.int64)

    def images(self, factors):
        raise AssertionError("images of given factors are not asked for")

    def rows(self, index):
        shown = self.shades[index].astype(np.uint8)[:, None, None, None]
        return np.broadcast_to(shown, (len(index), 1, 4, 4)).copy()

    def fingerprint(self):
        return "shades"


class Bright(ManualModule):
    """The code is the brightness, in [-1, 1]."""

    def encode(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        return x.mean((1, 2, 3))[:, None]


class Layered(Bright):
    """Whose hidden layer knows nothing, and whose code is made of it once."""

    def features_of(self, x):
        return x.new_zeros(len(x), 3), super().encode(x)

    def encode(self, x):
        raise AssertionError("features_of has given the code")


def data(**changes):
    return FactorDataModule(Shades(), **{"val_images": 12, "batch_size": 5, **changes})


def truth(module, part):
    """What the classifiers must say, of images in the order of the source."""
    loader = getattr(module, f"{part}_dataloader")()
    asked = torch.cat([batch.image[:, 0, 0, 0] for batch in loader]).numpy()
    factors = torch.cat([batch.factors for batch in loader]).numpy()
    known, codes = (np.float32(x)[:, None] / np.float32(127.5) - 1 for x in (Shades.shades[:TRAINED], asked))
    found = {}
    for k, name in enumerate(Shades.names):
        for key, classifier in (("knn_accuracy", nearest_neighbour), ("svm_accuracy", support_vectors)):
            said = classifier(known, Shades.labels[:TRAINED, k], codes)
            found[f"{key}/{name}"] = (said == factors[:, k]).mean()
    return found


def test_all_training_images_are_known_and_evaluation_images_are_asked(tmp_path):
    module = data()
    assert isinstance(module, LabelledData)
    trainer = toy_trainer(tmp_path, [CodeClassifier()])
    trainer.validate(Bright(), module, verbose=False)
    found = logged(trainer)
    assert found == pytest.approx({f"val/{key}": value for key, value in truth(module, "val").items()}, abs=1e-6)
    assert 0.6 < found["val/svm_accuracy/bright"] < 1  # one in eight lies
    assert not isinstance(Bright(), FeatureEncoder)


def test_the_hidden_layer_is_asked_too_in_the_same_look(tmp_path):
    trainer, module = toy_trainer(tmp_path, [CodeClassifier()]), data()
    trainer.validate(Layered(), module, verbose=False)
    found, expected = logged(trainer), truth(module, "val")
    assert len(found) == 8
    assert found["val/knn_accuracy/bright"] == pytest.approx(expected["knn_accuracy/bright"])
    assert found["val/svm_accuracy/third"] == pytest.approx(expected["svm_accuracy/third"])
    # All features are equal, so that all images get one label.
    held = torch.cat([batch.factors[:, 0] for batch in module.val_dataloader()]).double().mean().item()
    assert min(abs(found["val/svm_accuracy/bright_hidden"] - share) for share in (held, 1 - held)) < 1e-6


def test_a_test_has_intervals_of_other_images(tmp_path):
    callback, module = CodeClassifier(), data()
    assert isinstance(callback, Measures)
    toy_trainer(tmp_path, [callback]).test(Bright(), module, verbose=False)
    expected = truth(module, "test")
    assert {key: each.value for key, each in callback.measurements.items()} == pytest.approx(expected)
    for each in callback.measurements.values():
        assert (each.n, each.unit, each.interval) == (12, "share", wilson(round(each.value * 12), 12))
    assert callback.protocol["classifiers of codes"].startswith("1 nearest neighbour by l2; linear SVM, C = 0.02")


def test_a_grid_and_models_without_codes_are_refused_at_once(tmp_path):
    trainer = toy_trainer(tmp_path, [CodeClassifier()])
    with pytest.raises(ValueError, match="data.source is Tiny, a grid, which has no list of training images"):
        trainer.validate(Bright(), FactorDataModule(Tiny(), val_images=5, batch_size=4), verbose=False)
    with pytest.raises(TypeError, match="CodeClassifier needs an? Encoder, but Toy has no encode"):
        toy_trainer(tmp_path, [CodeClassifier()]).validate(Toy(), data(), verbose=False)
    with pytest.raises(TypeError, match="needs data with a labelled_dataloader, .* not ToyData"):
        toy_trainer(tmp_path, [CodeClassifier()]).validate(Bright(), ToyData(), verbose=False)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [CodeClassifier()], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Layered(), data(val_images=11), verbose=False)
    return logged(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_know_and_ask_what_one_does(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second == _validate(0, 1, tmp_path)
