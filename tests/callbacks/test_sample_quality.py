import pytest
import torch

from callbacks.fid import FID
from callbacks.sample_quality import SampleQuality
from datamodules.loaders import build_loader, placement, unpadded_shard
from interfaces.batch import ImageBatch
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


def contrast(z):
    return 0.3 * torch.tanh(z)


class Boards(Blurred):
    """With a board of black and white over the colours, of the contrast that the first coordinate says."""

    def decode(self, z):
        board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float() * 2 - 1
        return super().decode(z) + contrast(z[:, :1, None, None]) * board


class Board(Drawn):
    def __getitem__(self, k):
        with torch.no_grad():
            return ImageBatch(Boards().eval().decode(seeded(1, 1000 + k))[0])


class BoardData(DrawnData):
    def val_dataloader(self):
        return build_loader(Board(), unpadded_shard(self.images, *placement(self.trainer)), self.batch, 0, seed=0)

    test_dataloader = val_dataloader


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
    keys = {f"val/{m}_means/{row}" for m in measures for row in ("samples", "reconstructions")}
    assert {key for key in found if "sharpness" not in key} == keys


def test_sharpness_is_that_of_images_as_they_would_be_saved_and_of_real_ones(tmp_path):
    callback, numbers = SampleQuality(Means(), batch_size=4, resamples=50), range(1000, 1011)
    toy_trainer(tmp_path, [callback]).test(Boards(), BoardData(11), verbose=False)
    found = {key: each for key, each in callback.measurements.items() if "sharpness" in key}
    z = torch.cat([seeded(1, number) for number in numbers])[:, 0].double()
    codes = {"real": z, "reconstructions": z / 2, "samples": torch.cat([seeded(4, k) for k in range(3)])[:11, 0]}
    sharp = {row: 16 * contrast(each.double()) ** 2 for row, each in codes.items()}  # see tests/metrics/test_sharpness
    for row, expected in sharp.items():
        assert found[f"sharpness/{row}"].value == pytest.approx(float(expected.mean()), rel=0.03)  # 8 bits
    for row in ("reconstructions", "samples"):
        ratio, expected = found[f"sharpness_ratio/{row}"], sharp[row].mean() / sharp["real"].mean()
        assert ratio.value == pytest.approx(float(expected), rel=0.03)
        assert ratio.interval.low <= ratio.value <= ratio.interval.high
    widths = [end.high - end.low for end in (found[f"sharpness_ratio/{row}"].interval for row in [*sharp][1:])]
    assert widths[0] < widths[1] / 3, "reconstructions are of the very images that they are compared with"
    assert len(found) == 5


def test_who_only_makes_images_has_no_reconstructions_and_inception_no_suffix(tmp_path):
    class Named(Means):
        name = "inception"

    callback = SampleQuality(Named())
    trainer = toy_trainer(tmp_path, [callback])
    trainer.validate(Maker(), DrawnData(), verbose=False)
    measures = ("fid", "kid", "precision", "recall", "density", "coverage", "is", "sharpness", "sharpness_ratio")
    expected = {f"{measure}/samples" for measure in measures} | {"sharpness/real"}
    assert {key.partition("/")[2] for key in logged(trainer)} == expected
    assert callback.protocol["samples"] == "as many as real images, batch k of 16 drawn with seed k"
    assert callback.protocol.items() >= FID(Named()).protocol.items()  # so that one card holds both


def test_a_test_has_intervals_and_the_number_of_images(tmp_path):
    callback = SampleQuality(Means(), resamples=20)
    toy_trainer(tmp_path, [callback]).test(Boards(), BoardData(12), verbose=False)
    assert len(callback.measurements) == 17
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
    trainer.validate(Boards(), BoardData(11), verbose=False)
    return logged(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second
    assert first == pytest.approx(_validate(0, 1, tmp_path), rel=1e-5, abs=1e-7)
