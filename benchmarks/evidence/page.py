"""The part of a paper's page that evidence writes: a table of all rows, how it was measured, the picture's place."""

import difflib
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import ROOT, Job, Measure, Plan
from callbacks.rows import CEILING, CHANCE, UNTRANSLATED
from metrics.compare import FILE, differing

BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
PAGES, PICTURES = ROOT / "docs" / "papers", ROOT / "docs" / "pictures"

ARROWS = {"higher": "↑", "lower": "↓", "": ""}  # the better end

Card = dict[str, Any]
Cards = dict[str, list[Card]]  # by row, one a seed


def read_cards(plan: Plan, jobs: Iterable[Job]) -> Cards:
    """The evaluation cards of finished jobs.

    Raises:
        FileNotFoundError: a job has left none.
        ValueError: cards do not compare, or none has a measure of the plan.
    """
    cards: Cards = {}
    for job in jobs:
        path = job.folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{job.folder} has no {FILE}: the evaluation of {plan.paper} must name the callback EvaluationCard."
            )
        cards.setdefault(job.row, []).append(json.loads(path.read_text()))
    every = [card for each in cards.values() for card in each]
    first = every[0]["protocol"]
    apart = {row.name for row in plan.rows if row.data}
    for row, each in cards.items():
        for card in each:
            both = first.keys() & card["protocol"].keys()  # a row may measure more than another
            both -= {"data"} if row in apart else set()
            if lines := differing({key: first[key] for key in both}, {key: card["protocol"][key] for key in both}):
                raise ValueError(
                    f"Row {row} was measured otherwise than {next(iter(cards))}, so they do not compare: {lines[0]}"
                )
    known = sorted({key for card in every for key in card["metrics"]})
    for measure in plan.measures:
        if measure.key not in known:
            near = ", ".join(difflib.get_close_matches(measure.key, known, n=3, cutoff=0.3))
            raise ValueError(f"No evaluation card of {plan.paper} has {measure.key}; the nearest are: {near}.")
    return cards


def evidence(plan: Plan, cards: Cards, command: str, picture: str, plane: str = "") -> str:
    """All that stands between the markers.

    Args:
        plan: what was to be shown.
        cards: of all rows.
        command: that makes this again.
        picture: path as the page names it.
        plane: that of the information plane, if there is one.
    """
    seeds = max(len(each) for each in cards.values())
    how = "mean ± standard deviation over seeds" if seeds > 1 else "one seed"
    every = [card for each in cards.values() for card in each]
    words = (
        f"`{command}`: {how}; in brackets 95 % over the test images (bootstrap, bounds averaged over seeds). "
        f"{provenance(plan, every)}"
    )
    words += "".join(f" {row.name}: {row.data}." for row in plan.rows if row.data)
    pictures = [f"![{plan.paper}: every row, a dot a seed]({picture})"]
    pictures += [f"![{plan.paper}: rate and distortion of every row]({plane})"] if plane else []
    return "\n\n".join([table(plan, cards), *pictures, words])


def table(plan: Plan, cards: Cards) -> str:
    """Markdown: a line for each row of the plan, and those that they are read against, where the cards have them."""
    heads = [f"{measure.title} {ARROWS[measure.better]}".rstrip() for measure in plan.measures]
    heads += [f"the paper: {column.title}, {column.table}" for column in plan.quoted]
    lines = [line("", *heads), "|---" * (len(heads) + 1) + "|"]
    for row in plan.rows:
        cells = [cell(measured(cards[row.name], measure.key), measure.decimals) for measure in plan.measures]
        lines.append(line(row.name, *cells, *map(str, row.paper)))
    for ending in (UNTRANSLATED, CHANCE, CEILING):
        cells = [reference(cards, measure, ending) for measure in plan.measures]
        if any(cells):
            lines.append(line(f"*{ending.strip('_')}*", *cells, *([""] * len(plan.quoted))))
    return "\n".join(lines)


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return "|" + "".join(f" {text} |" if text else " |" for text in cells)


def measured(cards: Sequence[Card], key: str) -> list[dict[str, Any]]:
    """A measure in each card that has it."""
    return [card["metrics"][key] for card in cards if key in card["metrics"]]


def cell(found: Sequence[dict[str, Any]], decimals: int) -> str:
    """Mean, spread over seeds, and the interval over images; a dash where nothing was measured."""
    if not found:
        return "–"
    values = [each["value"] for each in found]
    text = f"{statistics.mean(values):.{decimals}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{decimals}f}"
    if all(each["low"] is not None for each in found):
        low, high = (statistics.mean(each[end] for each in found) for end in ("low", "high"))
        text += f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    return text


def reference(cards: Cards, measure: Measure, ending: str) -> str:
    """What rows are read against; nothing if no card has it, the range if the rows have different ones."""
    values = [each["value"] for row in cards.values() for each in measured(row, measure.key + ending)]
    texts = list(dict.fromkeys(f"{value:.{measure.decimals}f}" for value in sorted(values)))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}" if texts else ""


def provenance(plan: Plan, cards: Sequence[Card]) -> str:
    """When, with which code, on which machine."""
    machines = [card["environment"] for card in cards]
    dates = sorted({card["date"][:10] for card in cards})
    commits = {f"{str(each['commit'])[:7]}{' with changes' if each['dirty'] else ''}" for each in machines}
    hardware = {
        f"{each['cpus']} cores of {each['cpu']}, {'no GPU' if each['gpus'] == 'none' else each['gpus']}"
        for each in machines
    }
    images = {each["n"] for measure in plan.measures for each in measured(cards, measure.key)}
    return (
        f"{dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}, commit {joined(commits)}, "
        f"torch {joined(each['torch'] for each in machines)}, {joined(hardware)}, protocol "
        f"{joined(card['protocol_hash'] for card in cards)}, {joined(images)} test images."
    )


def joined(words: Iterable[Any]) -> str:
    """Different ones, in order."""
    return " and ".join(sorted({str(word) for word in words}))


def page_of(plan: Plan) -> Path:
    """The page, which has a place for the evidence.

    Raises:
        FileNotFoundError: there is no page.
        ValueError: it has not exactly one pair of markers.
    """
    page = PAGES / f"{plan.page or plan.paper}.md"
    if not page.is_file():
        raise FileNotFoundError(
            f"There is no page docs/papers/{page.name} to write the evidence of {plan.paper} to: add it, with both "
            "markers."
        )
    between_markers(page.read_text(), "", page.name, *markers(plan))
    return page


def markers(plan: Plan) -> tuple[str, str]:
    """What stands before and after the evidence; on a page of another name the evidence's own is in it."""
    if plan.page in ("", plan.paper):
        return BEGIN, END
    return BEGIN.replace("evidence", f"evidence {plan.paper}"), END.replace("evidence", f"evidence {plan.paper}")


def between_markers(text: str, new: str, name: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with what stands between two markers replaced (ValueError if it has not exactly one pair, in order)."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"{name} has no place for the evidence: it needs one line {begin} and after it one line {end}."
        )
    return f"{text[: text.index(begin)]}{begin}\n{new}\n{text[text.index(end) :]}"


def write_page(page: Path, plan: Plan, text: str) -> None:
    """Replace the evidence of a page in one step."""
    temporary = page.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(between_markers(page.read_text(), text, page.name, *markers(plan)))
    os.replace(temporary, page)
