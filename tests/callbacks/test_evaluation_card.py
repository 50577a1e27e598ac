"""What a card keeps of several callbacks: everything, or it refuses."""

import json

import pytest

from callbacks.cycle_accuracy import CycleAccuracy
from callbacks.evaluation_card import EvaluationCard, card_rows, joint_protocol
from callbacks.fid import FID
from callbacks.lpips_diversity import LPIPSDiversity
from callbacks.path_length import PathLength
from tests.callbacks.test_fid import Means
from tests.callbacks.test_path_length import Squared
from tests.callbacks.toy import Toy, ToyData, toy_trainer


class Distance(Squared):
    def __init__(self, name, checksum):
        super().__init__(name)
        self.protocol = {"backbone": checksum}


def test_two_distances_keep_both_their_checksums():
    callbacks = [
        LPIPSDiversity(Distance("lpips-alex", "7be5")),
        PathLength(Distance("lpips-vgg", "397a")),
        CycleAccuracy(),
    ]
    protocol = joint_protocol([EvaluationCard(), *callbacks])
    assert protocol["lpips-alex: backbone"] == "7be5"
    assert protocol["lpips-vgg: backbone"] == "397a"
    assert {"diversity lpips-alex", "path length lpips-vgg"} <= protocol.keys()


def test_the_same_said_twice_is_said_once():
    one = Distance("one", "1")
    assert joint_protocol([LPIPSDiversity(one), PathLength(one)])["one: backbone"] == "1"


def test_a_contradiction_is_refused_before_anything_is_measured(tmp_path):
    class Others(Means):
        protocol = {"weights": "others"}

    class Second(FID):
        """Lightning itself refuses two of one class and features."""

    measuring = FID(Means())
    trainer = toy_trainer(tmp_path, [measuring, Second(Others()), EvaluationCard()])
    sentence = (
        r"^FID{'features': 'means'} and .*Second{'features': 'means'} have different protocols of 'means: weights', "
        r"which one card cannot hold: none \| others\."
    )
    with pytest.raises(ValueError, match=sentence):
        trainer.test(Toy(), ToyData(12), verbose=False)
    assert not measuring.measurements
    toy_trainer(tmp_path, [measuring, Second(Others()), EvaluationCard()]).validate(Toy(), ToyData(12), verbose=False)


@pytest.mark.parametrize("floor", ["untranslated", "prior", "chance"])
def test_a_row_of_the_table_has_its_floor_and_ceiling(floor):
    values = {"acc/x": 0.5, f"acc/x_{floor}": 0.1, "acc/x_ceiling": 0.9, "acc/y": 0.4}
    metrics = {
        key: {"value": value, "low": None, "high": None, "unit": "share", "n": 9} for key, value in values.items()
    }
    rest = (None, None, "share", 9)
    assert card_rows({"metrics": metrics}) == [("acc", "x", 0.5, *rest, 0.1, 0.9), ("acc", "y", 0.4, *rest, None, None)]


def test_the_hash_knows_the_resamples_and_the_card_the_seeds(tmp_path):
    cards = []
    for resamples in (0, 0, 3):
        callbacks = [FID(Means(), resamples=resamples), EvaluationCard()]
        toy_trainer(tmp_path, callbacks).test(Toy(), ToyData(12), verbose=False)
        cards.append(json.loads((tmp_path / "evaluation.json").read_text()))
    assert cards[0]["protocol_hash"] == cards[1]["protocol_hash"] != cards[2]["protocol_hash"]
    assert cards[0]["protocol"]["intervals"].endswith("seed 0")
    assert "seed 0" in cards[0]["protocol"]["styles"]
