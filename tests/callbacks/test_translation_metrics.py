import pytest
import torch

from callbacks.loggers import CSV, _read
from callbacks.translation_metrics import TranslationMetrics
from metrics.paired import MEASURES, paired_values
from tests.callbacks.toy import Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp


def expected(stage, n=7, scale=-0.5):
    a, b, a2, b2 = (torch.stack([image(k, kind) for k in range(n)]) for kind in range(4))
    rows = {
        "day2night": (scale * a, b),
        "day2night_untranslated": (a, b),
        "day2night_ceiling": (b2, b),
        "night2day": (scale * b, a),
        "night2day_untranslated": (b, a),
        "night2day_ceiling": (a2, a),
    }
    values = {}
    for row, (prediction, truth) in rows.items():
        means = dict(zip(MEASURES, paired_values(prediction, truth).mean(0), strict=True))
        values |= {f"{stage}/{name}/{row}": value.item() for name, value in means.items()}
    return values


def logged(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items() if key.startswith(("val/", "test/"))}


def test_every_row_and_measure_of_validate(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, [TranslationMetrics()])
    trainer.validate(Toy(), ToyData(), verbose=False)
    assert len(logged(trainer)) == 30
    assert logged(trainer) == pytest.approx(expected("val"), rel=1e-6)
    assert "night2day ceiling" in capsys.readouterr().out


def test_test_logs_under_its_own_name(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, [TranslationMetrics()])
    trainer.test(Toy(), ToyData(images=4), verbose=False)
    assert logged(trainer) == pytest.approx(expected("test", n=4), rel=1e-6)
    assert f"{expected('test', n=4)['test/psnr/day2night']:.2f}" in capsys.readouterr().out


def test_references_are_logged_each_time_and_the_sanity_check_never(tmp_path):
    logger = CSV(tmp_path)
    toy_trainer(tmp_path, [TranslationMetrics()], logger, log_every_n_steps=100).fit(Toy(), ToyData())
    first, second = _read(tmp_path / "metrics.csv")
    assert [first["step"], second["step"]] == ["1", "3"]
    for key in (key for key in first if key.startswith("val/")):
        same = first[key] == second[key]
        assert same == key.endswith(("_untranslated", "_ceiling")) or "pixel_accuracy" in key
        assert second[key]


def test_data_without_truth_are_refused_at_setup(tmp_path):
    with pytest.raises(ValueError, match="needs true pairs, which ToyData does not have"):
        toy_trainer(tmp_path, [TranslationMetrics()]).validate(Toy(), ToyData(paired=False), verbose=False)


def test_batches_that_break_the_promise_are_refused(tmp_path):
    class Liar(ToyData):
        true_pairs = True

    with pytest.raises(TypeError, match="claim true pairs, but a UnpairedBatch has none"):
        toy_trainer(tmp_path, [TranslationMetrics()]).validate(Toy(), Liar(paired=False), verbose=False)


def _validate(rank, world, folder):
    import warnings

    trainer = toy_trainer(folder, [TranslationMetrics()], **ddp_options(world))
    with warnings.catch_warnings(record=True) as caught:
        trainer.fit(Toy(), ToyData(images=5, batch=1))
    noise = [str(w.message) for w in caught if "sync_dist" in str(w.message)]
    return logged(trainer), noise


@pytest.mark.ddp
def test_two_uneven_ranks_measure_what_one_measures(tmp_path):
    (first, noise), (second, _) = run_ddp(_validate, tmp_path)
    assert first == second
    assert noise == []
    references = {key: value for key, value in expected("val", n=5).items() if key in first and "_" in key[-15:]}
    assert {key: first[key] for key in references} == pytest.approx(references, rel=1e-6)
