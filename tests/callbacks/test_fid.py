import pytest
import torch

from callbacks.fid import FID, as_saved
from callbacks.media import to_uint8
from interfaces.model import LatentSpec
from metrics.features.extractor import Features
from metrics.frechet import frechet_distance_of_sets
from metrics.kernel import kernel_distance
from tests.callbacks.toy import Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp
from tests.metrics.features import test_inception
from tests.metrics.features.test_inception import AGREEMENT, Tiny, torch_fidelity, torchmetrics

folders, registered = test_inception.folders, test_inception.registered  # fixtures


class Means:
    """Means of the channels of the upper and of the lower half; two classes, bright and dark."""

    name, size, classes = "means", 6, 2
    protocol = {"weights": "none"}

    def __call__(self, x):
        halves = x.float().unflatten(2, (2, -1)).mean((3, 4)).flatten(1)
        return Features(halves, torch.stack((halves.sum(1), -halves.sum(1)), 1))


class Styled(Toy):
    style_spec = LatentSpec(3)

    def translate(self, x, source, target, style=None):
        return super().translate(x, source, target) + style[:, :, None, None]


def images(n, kind):
    return torch.stack([image(k, kind) for k in range(n)])


def saved(x):
    return torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) / 127.5 - 1


def embedding(x):
    return Means()(saved(x)).embedding


class Unrounded:
    """``Tiny`` of pixels that need not be whole: what is rounded must have been before."""

    name, size, classes, protocol = "tiny", 6, 6, {}

    def __call__(self, x):
        embedding = Tiny()((x + 1) * 127.5)
        return Features(embedding, embedding)


def logged(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_rows_are_distances_of_the_sets_they_name(tmp_path):
    trainer = toy_trainer(tmp_path, [FID(Means())])
    trainer.validate(Toy(), ToyData(12), verbose=False)
    a, b, _, b2 = (images(12, kind) for kind in range(4))
    found = logged(trainer)
    for row, fake in (("day2night", -0.5 * a), ("day2night_untranslated", a), ("day2night_ceiling", b2)):
        real, fake = embedding(b), embedding(fake)
        assert found[f"val/fid_means/{row}"] == pytest.approx(float(frechet_distance_of_sets(real, fake)), rel=1e-5)
        assert found[f"val/kid_means/{row}"] == pytest.approx(float(kernel_distance(real, fake)), rel=1e-4)
    assert len(found) == 6 * 6
    assert not any("/is" in key for key in found)  # the classes of other networks than Inception are no objects
    assert all(0 <= found[f"val/{name}_means/night2day"] <= 1 for name in ("precision", "recall", "coverage"))


@pytest.mark.parametrize("scale", [-1.6, -0.03])  # values that a file cuts off, and few shades
def test_fid_is_that_of_the_saved_translations_by_three_libraries(tmp_path, scale, folders, registered):
    model = Toy()
    model.scale.data.fill_(scale)
    trainer = toy_trainer(tmp_path / "run", [FID(Unrounded())])
    trainer.validate(model, ToyData(40, batch=7), verbose=False)
    found = logged(trainer)["val/fid_tiny/day2night"]
    real, fake = images(40, 1), scale * images(40, 0)
    paths, pixels = folders(real, fake)
    theirs = torch_fidelity(paths, 40, feature_extractor=registered)
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=AGREEMENT)
    assert found == pytest.approx(torchmetrics(*pixels, feature=Tiny()), rel=AGREEMENT)
    unsaved = frechet_distance_of_sets(Unrounded()(real).embedding, Unrounded()(fake).embedding)
    assert found != pytest.approx(float(unsaved), rel=AGREEMENT)


def test_what_is_saved_comes_back_and_a_diverged_image_stays_so():
    x = images(2, 0) * 1.5
    torch.testing.assert_close(as_saved(x), saved(x), rtol=0, atol=1e-6)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[1, 0, 3, 4] = value
        seen = as_saved(x)
        assert seen[0].isfinite().all()
        assert seen[1, 0, 3, 4].isnan()


def test_the_protocol_says_what_changes_numbers():
    protocol = FID(Means(), resamples=20).protocol
    assert protocol["means: weights"] == "none"
    assert protocol["fid_means"] == "of 8-bit images; intervals from 20 resamples, seed 0"
    assert "is" not in protocol


def test_too_few_images_are_refused_before_anything_is_trained(tmp_path):
    class Few(ToyData):
        evaluation_sizes = (12, 5)

    with pytest.raises(ValueError, match="at least 6 images, and night has 5 for evaluation"):
        toy_trainer(tmp_path, [FID(Means())]).fit(Toy(), Few(12))


def test_a_rehearsal_of_a_few_batches_is_not_measured_and_goes_on(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, [FID(Means())], limit_val_batches=1)
    trainer.validate(Toy(), ToyData(12, batch=5), verbose=False)
    assert "FID is not measured: it needs 6 images of each domain, not 5." in capsys.readouterr().out
    assert not trainer.callback_metrics


def test_inception_alone_has_no_suffix(tmp_path):
    class Named(Means):
        name = "inception"

    trainer = toy_trainer(tmp_path, [FID(Named())])
    trainer.validate(Toy(), ToyData(12), verbose=False)
    assert {"val/fid/day2night", "val/is/day2night"} <= logged(trainer).keys()
    assert trainer.callbacks[0].protocol["is"] == "one split"


def test_unpaired_data_have_no_ceiling_and_a_repeated_image_counts_once(tmp_path):
    class Unequal(ToyData):
        evaluation_sizes = (12, 8)

    callback = FID(Means(), resamples=20)
    trainer = toy_trainer(tmp_path, [callback])
    trainer.test(Toy(), Unequal(12, paired=False), verbose=False)
    assert not any(key.endswith("_ceiling") for key in logged(trainer))
    assert callback.measurements["fid_means/day2night"].n == 12
    assert callback.measurements["fid_means/night2day"].n == 8
    expected = frechet_distance_of_sets(embedding(images(8, 1)), embedding(-0.5 * images(12, 0)))
    assert callback.measurements["fid_means/day2night"].value == pytest.approx(float(expected), rel=1e-5)


def test_measurements_of_a_test_have_intervals_around_them(tmp_path):
    callback = FID(Means(), resamples=50)
    toy_trainer(tmp_path, [callback]).test(Toy(), ToyData(30, batch=7), verbose=False)
    for name, each in callback.measurements.items():
        assert each.interval.low <= each.value <= each.interval.high, name
    assert callback.measurements["fid_means/day2night"].interval.high > 0


def test_every_second_validation(tmp_path):
    callback = FID(Means(), every=2)
    seen = []
    begin = callback.begin
    callback.begin = lambda trainer, model, stage: (seen.append(trainer.global_step), begin(trainer, model, stage))
    toy_trainer(tmp_path, [callback], max_steps=8).fit(Toy(), ToyData(12))
    assert seen == [4, 8]


def test_styles_are_functions_of_the_image(tmp_path):
    found = []
    for batch in (1, 4):
        trainer = toy_trainer(tmp_path, [FID(Means())])
        trainer.validate(Styled(), ToyData(10, batch=batch), verbose=False)
        found.append(logged(trainer))
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)
    assert found[0]["val/fid_means/day2night"] > 0.5  # styles spread the outputs


def _validate(rank, world, folder):
    trainer = toy_trainer(folder, [FID(Means())], **(ddp_options(world) if world > 1 else {}))
    trainer.validate(Styled(), ToyData(11, batch=2), verbose=False)
    return logged(trainer)


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    first, second = run_ddp(_validate, tmp_path)
    assert first == second
    assert first == pytest.approx(_validate(0, 1, tmp_path), rel=1e-5, abs=1e-7)
