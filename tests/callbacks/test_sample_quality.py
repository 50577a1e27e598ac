import pytest
import torch

from callbacks.fid import FID
from callbacks.sample_quality import SampleQuality
from metrics.frechet import frechet_distance_of_sets
from metrics.kernel import kernel_distance
from tests.callbacks.test_fid import Means, embedding
from tests.callbacks.test_samples import Coder, Drawn, DrawnData, Maker, logged, painted, seeded
from tests.callbacks.toy import Toy, ddp_options, toy_trainer
from tests.ddp import run_ddp


class Blurred(Coder):
    """Whose images come back paler than they were."""

    def encode(self, x):
        return super().encode(x) * 0.5


def real(n):
    return torch.stack([Drawn()[k].image for k in range(n)])


def fake(n, batch):
    return torch.cat([painted(seeded(batch, number)) for number in range(-(-n // batch))])[:n]


def test_samples_and_reconstructions_are_compared_with_as_many_real_images(tmp_path):
    trainer = toy_trainer(tmp_path, [SampleQuality(Means(), batch_size=4)])
    trainer.validate(Blurred(), DrawnData(11), verbose=False)
    found, r = logged(trainer), embedding(real(11))
    for row, images in (("samples", fake(11, 4)), ("reconstructions", 0.5 * real(11))):
        f = embedding(images)
        assert found[f"val/fid_means/{row}"] == pytest.approx(float(frechet_distance_of_sets(r, f)), rel=1e-4)
        assert found[f"val/kid_means/{row}"] == pytest.approx(float(kernel_distance(r, f)), rel=1e-3, abs=1e-7)
    measures = ("fid", "kid", "precision", "recall", "density", "coverage")
    assert set(found) == {f"val/{m}_means/{row}" for m in measures for row in ("samples", "reconstructions")}


def test_who_only_makes_images_has_no_reconstructions_and_inception_no_suffix(tmp_path):
    class Named(Means):
        name = "inception"

    callback = SampleQuality(Named())
    trainer = toy_trainer(tmp_path, [callback])
    trainer.validate(Maker(), DrawnData(), verbose=False)
    assert {key.partition("/")[2] for key in logged(trainer)} == {
        f"{measure}/samples" for measure in ("fid", "kid", "precision", "recall", "density", "coverage", "is")
    }
    assert callback.protocol["samples"] == "as many as real images, batch k of 16 drawn with seed k"
    assert callback.protocol.items() >= FID(Named()).protocol.items()  # so that one card holds both


def test_a_test_has_intervals_and_the_number_of_images(tmp_path):
    callback = SampleQuality(Means(), resamples=20)
    toy_trainer(tmp_path, [callback]).test(Blurred(), DrawnData(12), verbose=False)
    assert len(callback.measurements) == 12
    for key, each in callback.measurements.items():
        assert each.n == 12
        assert each.interval.low <= each.value <= each.interval.high, key


def test_real_images_are_looked_at_once(tmp_path):
    seen = []

    class Counting(Means):
        def __call__(self, x):
            seen.append(len(x))
            return super().__call__(x)

    trainer, model = toy_trainer(tmp_path, [SampleQuality(Counting(), batch_size=20)]), Maker()
    for _ in range(2):
        trainer.validate(model, DrawnData(8, batch=4), verbose=False)
    assert seen == [4, 4, 8, 8]


def test_a_rehearsal_is_not_measured_and_others_are_refused(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, [SampleQuality(Means())], limit_val_batches=1)
    trainer.validate(Maker(), DrawnData(batch=5), verbose=False)
    assert "SampleQuality does not measure: it needs 6 images, not 5." in capsys.readouterr().out
    assert not trainer.callback_metrics
    with pytest.raises(TypeError, match="SampleQuality needs a Generator, but Toy has no sample"):
        toy_trainer(tmp_path, [SampleQuality(Means())]).validate(Toy(), DrawnData(), verbose=False)
    for wrong in ({"batch_size": 0}, {"resamples": -1}):
        with pytest.raises(ValueError, match="SampleQuality has batch_size"):
            SampleQuality(Means(), **wrong)


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [SampleQuality(Means(), batch_size=4)], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Blurred(), DrawnData(11), verbose=False)
    return logged(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second
    assert first == pytest.approx(_validate(0, 1, tmp_path), rel=1e-5, abs=1e-7)
