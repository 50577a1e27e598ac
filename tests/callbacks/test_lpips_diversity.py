import math
from itertools import combinations

import pytest
import torch
from jsonargparse import ArgumentParser

from callbacks.loggers import CSV, _read
from callbacks.lpips_diversity import LPIPSDiversity
from interfaces.model import LatentSpec
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, image, toy_trainer
from tests.ddp import run_ddp


class L1:
    """Of two outputs of ``Tinted`` for one input: the mean absolute difference of their styles."""

    protocol = {"weights": "none"}

    def __init__(self, name: str = "l1") -> None:
        self.name = name

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean((1, 2, 3))


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items() if key.startswith(("val/", "test/"))}


def all_pairs(styles):
    return sum((a - b).abs().mean().item() for a, b in combinations(styles, 2)) / math.comb(len(styles), 2)


class Unequal(ToyData):
    evaluation_sizes = (5, 2)

    def __init__(self):
        super().__init__(5, paired=False)


def expected(inputs, pairs, outputs, stage="val"):
    """By the definitions, of the styles alone."""
    values = {}
    drawn = [LatentSpec(3).draw(max(2 * pairs, outputs), torch.Generator().manual_seed(k)) for k in range(inputs)]
    for way, other in (("day2night", 1), ("night2day", 0)):
        apart = [(s[: 2 * pairs : 2] - s[1 : 2 * pairs : 2]).abs().mean().item() for s in drawn]
        values[f"{stage}/diversity_l1/{way}"] = sum(apart) / inputs
        values[f"{stage}/diversity_l1_pairs/{way}"] = sum(all_pairs(s[:outputs]) for s in drawn) / inputs
        references = [image(k, other).mean((1, 2)) for k in range(inputs)]  # no more than outputs: all are used
        values[f"{stage}/diversity_l1_reference/{way}"] = all_pairs(references)
        true = [(image(k, other) - image(k, other + 2)).abs().mean().item() for k in range(inputs)]
        for protocol in ("", "_pairs", "_reference"):
            values[f"{stage}/diversity_l1{protocol}/{way}_ceiling"] = sum(true) / inputs
    return values


def test_both_protocols_of_known_diversity(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, [LPIPSDiversity(L1(), inputs=4, pairs=5, outputs=6)])
    trainer.validate(Tinted(), ToyData(), verbose=False)
    assert measured(trainer) == pytest.approx(expected(4, 5, 6), rel=1e-5)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "diversity_l1_reference/night2day" in line]
    ceiling = expected(4, 5, 6)["val/diversity_l1_reference/night2day_ceiling"]
    assert line.endswith(f"over 4 inputs, ceiling {ceiling:.4f}")


def test_published_numbers_are_the_defaults_and_agree_with_theory(tmp_path):
    trainer = toy_trainer(tmp_path, [LPIPSDiversity(L1("lpips-alex"))])
    trainer.test(Tinted(), ToyData(images=40, batch=8), verbose=False)
    values = measured(trainer)
    assert {key.split("/")[1] for key in values} == {"lpips", "lpips_pairs", "lpips_reference"}
    assert len(values) == 12
    # The difference of two normal coordinates has a mean absolute value of 2 / sqrt(pi), here over 3 x 19 x 40 of them.
    assert values["test/lpips/day2night"] == pytest.approx(
        2 / math.sqrt(math.pi), abs=4 * 0.853 / math.sqrt(3 * 19 * 40)
    )
    assert values["test/lpips_pairs/day2night"] == pytest.approx(2 / math.sqrt(math.pi), rel=0.1)


def test_a_model_that_ignores_its_style_has_none(tmp_path):
    class Ignorant(Tinted):
        def translate(self, x, source, target, style=None):
            return x

    trainer = toy_trainer(tmp_path, [LPIPSDiversity(L1(), inputs=2, pairs=2, outputs=2)])
    trainer.validate(Ignorant(), ToyData(paired=False), verbose=False)
    assert set(measured(trainer).values()) == {0.0}  # and no ceiling where the truth is not known


def test_without_style_reader_there_is_no_reference(tmp_path):
    class Deaf(Tinted):
        style_of = property()

    trainer = toy_trainer(tmp_path, [LPIPSDiversity(L1(), inputs=2, pairs=2, outputs=2)])
    trainer.validate(Deaf(), ToyData(paired=False), verbose=False)
    assert sorted(key.split("/")[1] for key in measured(trainer)) == ["diversity_l1"] * 2 + ["diversity_l1_pairs"] * 2


@pytest.mark.parametrize(("every", "rows"), [(1, 2), (2, 1), (3, 0)])
def test_every_so_many_validations(tmp_path, every, rows):
    callback = LPIPSDiversity(L1(), inputs=2, pairs=1, outputs=2, every=every)
    toy_trainer(tmp_path, [callback], CSV(tmp_path)).fit(Tinted(), ToyData())
    values = [row.get("val/diversity_l1/day2night") for row in _read(tmp_path / "metrics.csv")]
    values = [value for value in values if value]
    assert len(values) == rows
    assert len(set(values)) == min(rows, 1)  # the same styles each time
    resumed = LPIPSDiversity(L1(), every=every)
    resumed.load_state_dict(callback.state_dict())
    assert resumed._validations == 2  # the sanity check is none


def test_images_that_a_smaller_domain_repeats_count_once(tmp_path):
    callback = LPIPSDiversity(L1(), inputs=9, pairs=3, outputs=3)
    toy_trainer(tmp_path, [callback]).test(Tinted(), Unequal(), verbose=False)
    found = callback.measurements
    assert {key: each.n for key, each in found.items()} == {
        f"diversity_l1{protocol}/{way}": n
        for way, n in (("day2night", 5), ("night2day", 2))
        for protocol in ("", "_pairs", "_reference")
    }
    few = expected(2, 3, 3, "test")
    assert found["diversity_l1/night2day"].value == pytest.approx(few["test/diversity_l1/night2day"], rel=1e-5)
    # Two night images are all that there are to refer to, and not their repetitions.
    reference = few["test/diversity_l1_reference/day2night"]
    assert found["diversity_l1_reference/day2night"].value == pytest.approx(reference, rel=1e-5)


def test_the_protocol_is_under_the_name_of_the_distance():
    protocol = LPIPSDiversity(L1(), inputs=2).protocol
    assert protocol["l1: weights"] == "none"
    assert protocol["diversity l1"].startswith("2 inputs, 19 random pairs, all pairs of 10; styles and references")


def test_a_model_without_styles_is_refused_at_setup(tmp_path):
    with pytest.raises(ValueError, match=r"LPIPSDiversity needs a model with styles, but Toy\.style_spec is None"):
        toy_trainer(tmp_path, [LPIPSDiversity(L1())]).validate(Toy(), ToyData(), verbose=False)


@pytest.mark.parametrize("wrong", [{"inputs": 0}, {"pairs": 0}, {"outputs": 1}, {"every": 0}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="it needs 2 outputs and 1 of the others"):
        LPIPSDiversity(L1(), **wrong)


@pytest.mark.parametrize(
    "distance",
    [
        {"class_path": "metrics.features.lpips.LPIPS", "init_args": {"net": "alex"}},
        {
            "class_path": "metrics.features.distance.EmbeddingDistance",
            "init_args": {"extractor": {"class_path": "tests.metrics.features.test_distance.Means"}},
        },
    ],
)
def test_an_experiment_can_name_its_distance(distance):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(LPIPSDiversity, "diversity")
    config = parser.parse_object({"diversity": {"distance": distance, "every": 5}})
    assert config.diversity.distance.class_path == distance["class_path"]


def _validate(rank, world, folder):
    """Uneven shares, and a rank without any."""
    import warnings

    results = []
    with warnings.catch_warnings(record=True) as caught:
        for data, inputs in ((ToyData(7), 5), (ToyData(3), 9), (ToyData(3), 1), (Unequal(), 9)):
            options = ddp_options(world) if world > 1 else {}
            callback = LPIPSDiversity(L1(), inputs, pairs=3, outputs=4)
            trainer = toy_trainer(folder, [callback], **options)
            trainer.validate(Tinted(), data, verbose=False)
            results.append((measured(trainer), {key: len(values) for key, values in callback._values.items()}))
    return results, [str(w.message) for w in caught if "sync_dist" in str(w.message)]


@pytest.mark.ddp
def test_two_ranks_measure_what_one_measures(tmp_path):
    alone, _ = _validate(0, 1, tmp_path)
    assert [len(values) for values, _ in alone] == [12, 12, 8, 6]  # one input alone has no pair of references
    assert run_ddp(_validate, tmp_path) == [(alone, [])] * 2
