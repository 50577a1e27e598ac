import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.evidence.page as module
from benchmarks.evidence.page import (
    BEGIN,
    END,
    between_markers,
    cell,
    evidence,
    page_of,
    read_cards,
    table,
    write_page,
)
from benchmarks.evidence.picture import draw, number
from benchmarks.evidence.plan import ROOT, Budget, Job, Measure, Plan, Quoted, Row, read_plan

PLAN = Plan(
    "toy",
    {"small": Budget("unit_labels")},
    (Measure("acc/a2b", "accuracy", "higher"), Measure("fid/a2b", "FID", "lower", decimals=1)),
    (Quoted("maps", "Table 2", "acc/a2b"), Quoted("quality", "Table 3")),
    (Row("with", "", ("0.60 ± 0.02", "good")), Row("without", "", (0.5, "–"))),
)


def card(accuracy: float, fid: float | None = None, **environment: object) -> dict:
    metrics = {"acc/a2b": {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.2, "unit": "", "n": 1000}}
    metrics["acc/a2b_untranslated"] = {"value": 0.01, "low": None, "high": None, "unit": "", "n": 1000}
    if fid is not None:
        metrics["fid/a2b"] = {"value": fid, "low": None, "high": None, "unit": "", "n": 1000}
    machine = {"commit": "0123456789", "dirty": False, "torch": "2.15.0", "cpus": 2, "cpu": "Toy", "gpus": "none"}
    return {
        "date": "2026-11-21T10:00:00+00:00",
        "protocol": {"data": "toys"},
        "protocol_hash": "abcd",
        "metrics": metrics,
        "environment": machine | environment,
    }


CARDS = {"with": [card(0.5, 10.0), card(0.7, 12.0), card(0.6, 11.0)], "without": [card(0.2), card(0.2), card(0.2)]}


def test_mean_spread_and_interval_of_known_numbers():
    lines = table(PLAN, CARDS).splitlines()
    assert lines[0] == "| | accuracy ↑ | FID ↓ | the paper: maps, Table 2 | the paper: quality, Table 3 |"
    assert lines[1] == "|---|---|---|---|---|"
    # 0.5, 0.7, 0.6: mean 0.6, deviation 0.1 with n - 1; bounds 0.4, 0.6, 0.5 and 0.7, 0.9, 0.8.
    assert lines[2] == "| with | 0.600 ± 0.100 [0.500, 0.800] | 11.0 ± 1.0 | 0.60 ± 0.02 | good |"
    assert lines[3] == "| without | 0.200 ± 0.000 [0.100, 0.400] | – | 0.5 | – |"
    assert lines[4:] == ["| *untranslated* | 0.010 | | | |"]


def test_one_seed_has_no_spread():
    assert cell([{"value": 0.25, "low": 0.2, "high": 0.3}], 2) == "0.25 [0.20, 0.30]"
    assert cell([{"value": 0.25, "low": None, "high": None}], 2) == "0.25"


def test_references_that_differ_are_a_range():
    cards = copy.deepcopy(CARDS)
    cards["without"][0]["metrics"]["acc/a2b_untranslated"]["value"] = 0.5
    assert "| *untranslated* | 0.010 to 0.500 | | | |" in table(PLAN, cards)


def test_the_words_say_when_where_and_with_what():
    cards = {"with": [card(0.5, 1.0), card(0.6, 1.0, dirty=True, gpus="1 x H200")], "without": CARDS["without"]}
    text = evidence(PLAN, cards, "make evidence PAPER=toy SEEDS=2 BUDGET=small", "../pictures/toy_evidence.png")
    assert "`make evidence PAPER=toy SEEDS=2 BUDGET=small`: mean ± standard deviation over seeds" in text
    assert "(../pictures/toy_evidence.png)" in text
    assert "2026-11-21, commit 0123456 and 0123456 with changes, torch 2.15.0" in text
    assert "2 cores of Toy, 1 x H200 and 2 cores of Toy, no GPU" in text
    assert text.endswith("protocol abcd, 1000 test images.")


def write_cards(tmp_path: Path, cards: dict) -> list[Job]:
    jobs = []
    for row, each in cards.items():
        for seed, one in enumerate(each):
            folder = tmp_path / row / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "evaluation.json").write_text(json.dumps(one))
            jobs.append(Job(row, seed, folder, {}))
    return jobs


def test_cards_are_read_by_row_and_seed(tmp_path):
    assert read_cards(PLAN, write_cards(tmp_path, CARDS)) == CARDS


def test_cards_that_do_not_compare_are_refused(tmp_path):
    cards = copy.deepcopy(CARDS)
    cards["with"][1]["protocol"]["lpips"] = "also measured"
    assert read_cards(PLAN, write_cards(tmp_path / "more", cards)) == cards
    cards["without"][1]["protocol"]["data"] = "other toys"
    with pytest.raises(ValueError, match=r"Row without was measured otherwise than with.*data: toys \| other toys"):
        read_cards(PLAN, write_cards(tmp_path, cards))


def test_a_row_may_have_data_of_another_name_which_the_page_tells(tmp_path):
    apart = dataclasses.replace(PLAN, rows=(PLAN.rows[0], dataclasses.replace(PLAN.rows[1], data="half of the toys")))
    cards = copy.deepcopy(CARDS)
    cards["without"][1]["protocol"]["data"] = "other toys"
    assert read_cards(apart, write_cards(tmp_path / "data", cards)) == cards
    assert evidence(apart, cards, "make", "x.png").endswith("test images. without: half of the toys.")
    cards["without"][1]["protocol"]["scale"] = "other"
    cards["with"][0]["protocol"]["scale"] = "same"
    with pytest.raises(ValueError, match="scale: same"):
        read_cards(apart, write_cards(tmp_path / "scale", cards))


def test_a_measure_that_no_card_has_names_the_nearest(tmp_path):
    jobs = write_cards(tmp_path, {row: [card(0.5)] for row in CARDS})
    with pytest.raises(ValueError, match=r"No evaluation card of toy has fid/a2b; the nearest are: acc/a2b"):
        read_cards(PLAN, jobs)


def test_a_missing_card_names_the_callback(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no evaluation\.json: .* must name the callback EvaluationCard"):
        read_cards(PLAN, [Job("with", 0, tmp_path, {})])


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = between_markers(text, "new", "toy.md")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert between_markers(once, "new", "toy.md") == once


def test_evidence_of_another_name_has_its_own_place_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGES", tmp_path)
    other = dataclasses.replace(PLAN, paper="other", page="toy")
    (tmp_path / "toy.md").write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(ValueError, match=r"toy\.md has no place .* one line <!-- evidence other: begin -->"):
        page_of(other)
    (tmp_path / "toy.md").write_text(f"{BEGIN}\n{END}\n<!-- evidence other: begin -->\n<!-- evidence other: end -->\n")
    for plan in (PLAN, other, dataclasses.replace(PLAN, page="toy")):
        assert page_of(plan) == tmp_path / "toy.md"
        write_page(page_of(plan), plan, f"of {plan.paper}")
    assert (tmp_path / "toy.md").read_text() == (
        f"{BEGIN}\nof toy\n{END}\n<!-- evidence other: begin -->\nof other\n<!-- evidence other: end -->\n"
    )


def test_what_rows_reach_by_chance_stands_below_them():
    cards = copy.deepcopy(CARDS)
    for each, value in zip(cards["with"], (0.1, 0.2, 0.1), strict=True):
        each["metrics"]["acc/a2b_chance"] = {"value": value, "low": None, "high": None, "unit": "", "n": 9}
    lines = table(PLAN, cards).splitlines()
    assert lines[4:] == ["| *untranslated* | 0.010 | | | |", "| *chance* | 0.100 to 0.200 | | | |"]


@pytest.mark.parametrize("text", ["none", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"])
def test_a_page_without_one_pair_of_markers_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGES", tmp_path)
    (tmp_path / "toy.md").write_text(text)
    with pytest.raises(
        ValueError, match=r"toy\.md has no place for the evidence: it needs one line <!-- evidence: begin"
    ):
        page_of(PLAN)
    with pytest.raises(FileNotFoundError, match=r"no page docs/papers/other\.md to write the evidence of toy to"):
        page_of(dataclasses.replace(PLAN, page="other"))


@pytest.mark.parametrize("paper", sorted(path.stem for path in (ROOT / "experiments" / "_evidence").glob("*.yaml")))
def test_every_listed_paper_has_a_page_with_a_place_for_its_evidence(paper):
    assert page_of(read_plan(paper)).is_file()


def test_the_picture_shows_dots_and_the_paper_only_where_it_compares(tmp_path):
    def pixels(plan: Plan, name: str) -> np.ndarray:
        draw(plan, CARDS, tmp_path / name)
        return np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)

    def orange(image: np.ndarray) -> np.ndarray:
        return (image[..., 0] > 230) & (image[..., 1] < 170) & (image[..., 2] < 90)

    image = pixels(PLAN, "both.png")
    blue = (image[..., 2] - image[..., 0]) > 60
    left, right = np.array_split(np.arange(image.shape[1]), 2)
    assert blue[:, left].sum() > 50, "no dots of the first measure"
    assert blue[:, right].sum() > 50, "no dots of the second measure"
    assert orange(image)[:, left].any()
    assert not orange(image)[:, right].any(), "the paper's other column compares with nothing"
    unquoted = Plan(PLAN.paper, PLAN.budgets, PLAN.measures, (Quoted("maps", "Table 2"), PLAN.quoted[1]), PLAN.rows)
    assert not orange(pixels(unquoted, "ours.png")).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.png", "ours.png"]


def test_rows_of_an_axis_are_drawn_as_a_curve_for_each_series(tmp_path):
    rows = tuple(Row(f"{series} {at}", at=at, series=series) for series in ("one", "other") for at in (1, 2, 16))
    plan = Plan("toy", {"small": Budget("unit_labels")}, PLAN.measures[:1], (), rows, axis="beta")
    heights = {"one": 0.8, "other": 0.2}
    cards = {row.name: [card(heights[row.series] + d) for d in (-0.02, 0.02)] for row in rows}
    draw(plan, cards, tmp_path / "curves.png")
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    blue = np.argwhere((image[..., 2] - image[..., 0]) > 100)
    orange = np.argwhere((image[..., 0] - image[..., 2]) > 150)
    assert np.ptp(blue[:, 1]) > image.shape[1] / 2, "a curve reaches from the first place to the last"
    assert np.median(blue[:, 0]) < np.median(orange[:, 0]), "the higher curve is above"


def test_scores_are_also_drawn_against_another_measure(tmp_path):
    score, loss = PLAN.measures[0], Measure("distortion", "distortion", "lower")
    rows = tuple(Row(f"{series} {at}", at=at, series=series) for series in ("one", "other") for at in (1, 2))
    plan = Plan("toy", {"small": Budget("unit_labels")}, (score, loss), (), rows, axis="beta", against="distortion")
    at_loss = {"one": 1.0, "other": 9.0}
    cards = {row.name: [] for row in rows}
    for row in rows:
        values = {score.key: 0.5 + 0.01 * row.at, "distortion": at_loss[row.series] + 0.01 * row.at}
        cards[row.name] = [{"metrics": {key: {"value": value} for key, value in values.items()}}]
    draw(plan, cards, tmp_path / "against.png")
    draw(dataclasses.replace(plan, against=""), cards, tmp_path / "alone.png")
    images = [
        np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in ("against.png", "alone.png")
    ]
    third = images[0][:, 2 * images[0].shape[1] // 3 :]
    blue = np.argwhere((third[..., 2] - third[..., 0]) > 100)
    orange = np.argwhere((third[..., 0] - third[..., 2]) > 150)
    assert np.median(blue[:, 1]) < np.median(orange[:, 1]), "the series that loses less is to the left"
    assert images[0].shape[1] > images[1].shape[1]


def test_a_measure_without_a_better_end_has_no_arrow():
    plan = dataclasses.replace(PLAN, measures=(Measure("acc/a2b", "rate", ""),), quoted=())
    assert table(plan, CARDS).splitlines()[0] == "| | rate |"


def test_numbers_are_read_off_quoted_values():
    assert [number(value) for value in (0.5, "0.569 ± 0.029", "12", "-1.5", "–", None)] == [
        0.5,
        0.569,
        12,
        -1.5,
        None,
        None,
    ]
