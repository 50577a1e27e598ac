"""What is read from reconstructions, of models whose reconstructions are known."""

import pytest
import torch
from torch.nn.functional import normalize

from callbacks.attribute_agreement import AttributeAgreement, EmbeddingJudge
from callbacks.attribute_swap import AttributeJudge
from callbacks.measured import Measures
from callbacks.reconstruction import Reconstruction
from callbacks.sample_quality import SampleQuality
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import AttributeBatch
from metrics.better import better_end
from metrics.features.faces import Faces
from tests.callbacks.test_fid import Means
from tests.callbacks.test_samples import Coder, Drawn, DrawnData, Eye, Maker, logged
from tests.callbacks.toy import Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp

IMAGES = 11
WRONG = 3  # an image of which the judge reads another red than the data know


class Rosy(Coder):
    """Makes every image red, and blue less so."""

    def decode(self, z):
        less = z * torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0, 1.0])
        return super().decode(less) + torch.tensor([0.2, 0.0, 0.0])[:, None, None]


class Knowing(Eye):
    """An eye that tells images from each other by their colours."""

    size = 3

    def read_and_embed(self, x):
        return self.read(x), x.mean((2, 3))


class Known(Drawn):
    def __getitem__(self, k):
        image = super().__getitem__(k).image
        red = (image[0].mean() > 0) != (k == WRONG)
        return AttributeBatch(image, torch.tensor([1, int(red)]))


class KnownData(DrawnData):
    attributes = ("hat", "red")

    def val_dataloader(self):
        return build_loader(Known(), unpadded_shard(self.images, *placement(self.trainer)), self.batch, 0, seed=0)

    test_dataloader = val_dataloader


def measured(folder, model, callback, data=None, **options):
    trainer = toy_trainer(folder, [callback], **options)
    trainer.validate(model, data or DrawnData(IMAGES), verbose=False)
    return logged(trainer)


def colours(n=IMAGES):
    """(n, 3), in the order of the eye's attributes."""
    return torch.stack([Drawn()[k].image.mean((1, 2)) for k in range(n)]).flip(1)


def share(values):
    return pytest.approx(float(values.double().mean()), abs=1e-6)


def test_what_comes_back_as_it_was_agrees_and_another_image_only_by_chance(tmp_path):
    found, has = measured(tmp_path, Coder(), AttributeAgreement(Eye())), colours() > 0
    assert [found[f"val/attribute_agreement/{name}"] for name in (*Eye.attributes, "all")] == [1] * 4
    by_chance = has == has.roll(1, 0)
    for k, name in enumerate(Eye.attributes):
        assert found[f"val/attribute_agreement/{name}_chance"] == share(by_chance[:, k])
    assert found["val/attribute_agreement/all_chance"] == share(by_chance)
    assert 0 < found["val/attribute_agreement/all_chance"] < 1
    assert len(found) == 8


def test_an_attribute_that_all_reconstructions_have_agrees_where_images_have_it(tmp_path):
    found, has = measured(tmp_path, Rosy(), AttributeAgreement(Eye(), ("red", "blue"))), colours() > 0
    assert found["val/attribute_agreement/blue"] == 1
    assert found["val/attribute_agreement/red"] == share(has[:, 2])
    assert found["val/attribute_agreement/red_chance"] == share(has[:, 2])
    assert found["val/attribute_agreement/all"] == share((1 + has[:, 2].double()) / 2)


def test_what_the_data_know_is_truth_and_the_judges_own_errors_a_ceiling(tmp_path):
    found = measured(tmp_path, Rosy(), AttributeAgreement(Eye()), KnownData(IMAGES))
    true = colours()[:, 2] > 0
    true[WRONG] = ~true[WRONG]
    for row in ("red", "all"):  # of the data's two attributes the judge knows one
        assert found[f"val/attribute_truth/{row}"] == share(true)
        assert found[f"val/attribute_truth/{row}_ceiling"] == pytest.approx((IMAGES - 1) / IMAGES)
    assert not [key for key in found if "hat" in key]
    exact = measured(tmp_path, Coder(), AttributeAgreement(Eye()), KnownData(IMAGES))
    assert exact["val/attribute_truth/red"] == exact["val/attribute_truth/red_ceiling"]
    assert exact["val/attribute_truth/red_chance"] == share(true == (colours()[:, 2] > 0).roll(1, 0))


def test_a_judge_with_embeddings_says_how_far_faces_are_from_each_other(tmp_path):
    assert isinstance(Faces(), EmbeddingJudge)
    assert not isinstance(Eye(), EmbeddingJudge)
    assert isinstance(Eye(), AttributeJudge)
    found, x = measured(tmp_path, Coder(), AttributeAgreement(Knowing())), normalize(colours(), dim=1)
    assert found["val/embedding_distance/all"] == pytest.approx(0, abs=1e-6)
    expected = (x - x.roll(1, 0)).norm(dim=1).mean()
    assert found["val/embedding_distance/all_chance"] == pytest.approx(float(expected), rel=0.02)  # of 8 bits
    assert measured(tmp_path, Rosy(), AttributeAgreement(Knowing()))["val/embedding_distance/all"] > 0.1


def test_a_model_that_has_diverged_agrees_with_nothing(tmp_path):
    class Broken(Coder):
        def decode(self, z):
            return super().decode(z) * torch.nan

    found = measured(tmp_path, Broken(), AttributeAgreement(Eye()), KnownData(IMAGES))
    assert {value for key, value in found.items() if "ceiling" not in key} == {0}


def test_a_test_has_intervals_and_says_who_judged(tmp_path):
    callback = AttributeAgreement(Knowing())
    assert isinstance(callback, Measures)
    toy_trainer(tmp_path, [callback]).test(Rosy(), KnownData(IMAGES), verbose=False)
    for key, each in callback.measurements.items():
        assert each.n == IMAGES
        assert each.interval.low <= each.value <= each.interval.high, key
    red = callback.measurements["attribute_agreement/red"]
    assert red.interval.low < red.value < red.interval.high
    assert callback.protocol["AttributeAgreement: judge"] == "an eye"
    assert callback.protocol["attribute agreement"].startswith("blue, green, red of 8-bit images")
    ends = [better_end(key.partition("/")[0]) for key in callback.measurements if "/all" in key]
    assert ends == ["higher"] * 5 + ["lower"] * 2


def test_an_image_is_given_back_once_for_all_who_look(tmp_path):
    class Counting(Coder):
        coded = 0

        def encode(self, x):
            self.coded += len(x)
            return super().encode(x)

    model, callbacks = Counting(), [Reconstruction(), SampleQuality(Means()), AttributeAgreement(Eye())]
    toy_trainer(tmp_path, callbacks).validate(model, KnownData(IMAGES), verbose=False)
    assert model.coded == IMAGES


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(TypeError, match="AttributeAgreement needs an Encoder, but Maker has no encode"):
        measured(tmp_path, Maker(), AttributeAgreement(Eye()))
    with pytest.raises(ValueError, match="AttributeAgreement's judge reads blue, green, red, not smile"):
        AttributeAgreement(Eye(), ("smile",))

    class Both(Coder, Toy):
        pass

    with pytest.raises(TypeError, match="AttributeAgreement needs batches with a field image, not PairedBatch"):
        measured(tmp_path, Both(), AttributeAgreement(Eye()), ToyData())

    class Forgetful(DrawnData):
        attributes = ("red",)

    with pytest.raises(TypeError, match="AttributeAgreement needs the attributes of the data, not ImageBatch"):
        measured(tmp_path, Coder(), AttributeAgreement(Eye()), Forgetful())


def _validate(rank, world, folder):
    options = ddp_options(world) if world > 1 else {}
    return measured(folder, Rosy(), AttributeAgreement(Knowing()), KnownData(IMAGES), **options)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    alone = _validate(0, 1, tmp_path)
    assert len(alone) == 16
    first, second = run_ddp(_validate, tmp_path)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-6, abs=1e-9)
