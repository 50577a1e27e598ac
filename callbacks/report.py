"""One page that shows a run: ``python -m callbacks.report RUN`` writes ``RUN/report.html`` from the folder alone.

The page needs no network and no server: styles, script and pictures are inside it. What is missing or broken in the
folder is named on the page in one sentence; it never keeps the rest from being shown.
"""

import base64
import io
import json
import math
import os
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from callbacks.report_data import (
    KINDS,
    REFERENCES,
    Curve,
    Run,
    Score,
    counted,
    health,
    is_run,
    newest_run,
    read_run,
    scores,
    state,
)

POINTS = 3000  # at most so many of a curve are drawn; a screen has no more columns
LISTED = 200  # warnings written out
PICTURE_BYTES = 25_000_000
LONGEST_SIDE = 4096  # pixels; larger pictures are reduced


def main(arguments: list[str]) -> int:
    """Write the page of a run folder, or of the newest run.

    Args:
        arguments: one run folder; none or an empty one for the newest of ``runs/<experiment>/<time>``.

    Returns:
        Exit code: 0, or 2 where there is no run.
    """
    named = next((argument for argument in arguments if argument), None)
    folder = Path(named) if named else newest_run(Path("runs"))
    if folder is None:
        print("There is no run in runs/ yet: make train EXP=unit_streets makes one.", file=sys.stderr)
        return 2
    if not is_run(folder):
        parts = "neither config.yaml nor metrics.csv nor pictures/"
        print(f"{folder} is not a run, it holds {parts}: give a folder runs/<experiment>/<time>.", file=sys.stderr)
        return 2
    page = write_report(folder)
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0


def write_report(folder: Path, picture_bytes: int = PICTURE_BYTES) -> Path:
    """Write ``report.html`` in a run folder.

    Args:
        folder: of the run.
        picture_bytes: most that the pictures may take in the page together; longer series are thinned.

    Returns:
        The page.
    """
    run = read_run(folder)
    viewers = embed(run.pictures, picture_bytes, run.problems)
    page, temporary = folder / "report.html", folder / f".report.{os.getpid()}.tmp"
    temporary.write_text(assemble(run, viewers), encoding="utf-8", errors="replace")
    os.replace(temporary, page)
    return page


def assemble(run: Run, viewers: list[dict[str, Any]]) -> str:
    """The page as text; everything that comes from the run is escaped."""
    finished, where = state(run)
    well, summary = health(run)
    path = run.folder.absolute()
    marks = [list(entry.values()) for entry in run.warnings]
    data = {"panels": panels(run.curves), "warnings": marks, "pictures": viewers}
    slots = {
        "experiment": escape(path.parent.name),
        "time": escape(path.name),
        "state": escape(where),
        "state_class": "good" if finished else "open",
        "health": escape(summary),
        "health_class": "good" if well else "amiss",
        "facts": _facts(run),
        "problems": "".join(f"<li>{escape(sentence)}</li>" for sentence in run.problems),
        "headline": _headline(scores(run.curves)),
        "evaluation": _evaluation(run.evaluation),
        "warnings": _warnings(run.warnings),
        "configuration": _configuration(run.config),
        "environment": _environment(run.environment),
        # A script element ends at the first "</script", wherever it stands.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], template)


def panels(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """Charts by the first two parts of the key, one for all dimensions of a KL; training first, the run's health last.

    A reference names the curve it belongs to.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(curves, key=lambda key: next(k for k, kind in enumerate(KINDS) if key.startswith(kind))):
        first, second, *rest = key.split("/")
        title, name = ("kl", second) if first == "kl" else (f"{first}/{second}", "/".join(rest) or second)
        suffix = next((s for s in REFERENCES if key.endswith(s) and key.removesuffix(s) in curves), "")
        points = list(curves[key].items())
        stride = -(-len(points) // POINTS)
        points = points[::-stride][::-1]  # the latest is always kept
        values = [value if math.isfinite(value) else None for _, value in points]
        curve = {"name": name, "of": name.removesuffix(suffix) if suffix else "", "stride": stride}
        found.setdefault(title, []).append(curve | {"x": [step for step, _ in points], "y": values})
    return [{"title": title, "curves": each} for title, each in found.items()]


def embed(series: dict[str, list[Path]], budget: int, problems: list[str]) -> list[dict[str, Any]]:
    """Pictures as data URIs, by series; every series is thinned evenly, to the same fraction, until all fit.

    Args:
        series: files by key, oldest first.
        budget: most characters of all URIs together.
        problems: gets a sentence for every series with files that cannot be read or do not fit.

    Returns:
        ``key``, ``total`` files and ``frames`` (``label``, ``source``) of each series.
    """
    packed: dict[Path, str] = {}

    def source(path: Path) -> str:
        if path not in packed:
            packed[path] = _data_uri(path)
        return packed[path]

    estimate = sum(len(source(files[-1])) * len(files) for files in series.values())
    fraction = min(1.0, budget / max(estimate, 1))
    while True:
        chosen = {key: evenly(files, max(1, int(len(files) * fraction))) for key, files in series.items()}
        size = sum(len(source(path)) for files in chosen.values() for path in files)
        if size <= budget or all(len(files) == 1 for files in chosen.values()):
            break
        fraction *= 0.9 * budget / size
    viewers, left = [], budget
    for key, files in chosen.items():
        frames = [{"label": _frame_label(path), "source": source(path)} for path in files if source(path)]
        if len(frames) < len(files):
            problems.append(f"pictures/{key}: {counted(len(files) - len(frames), 'file')} cannot be read as a picture.")
        left -= sum(len(frame["source"]) for frame in frames)
        if frames and left < 0:
            problems.append(f"pictures/{key} does not fit into the page's {budget:,} bytes for pictures.")
        elif frames:
            viewers.append({"key": key, "total": len(series[key]), "frames": frames})
    return viewers


def evenly(items: list[Path], count: int) -> list[Path]:
    """``count`` of the items at equal distances, first and last among them; the last alone where it is one."""
    if count == 1:
        return items[-1:]
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def _frame_label(path: Path) -> str:
    return f"iteration {int(path.stem):,}" if path.stem.isdigit() else path.stem


def _data_uri(path: Path) -> str:
    packed = io.BytesIO()
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            small.save(packed, "WEBP", quality=85)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()


def _facts(run: Run) -> str:
    model, data = (run.settings.get(part) for part in ("model", "data"))
    names = [str(part["class_path"]) for part in (model, data) if isinstance(part, dict) and "class_path" in part]
    facts = [name.rpartition(".")[2] for name in names]
    if "seed_everything" in run.settings:
        facts.append(f"seed {run.settings['seed_everything']}")
    facts += [f"{name} {run.environment[name]}"[:16] for name in ("torch", "commit") if run.environment.get(name)]
    return "".join(f"<span>{escape(fact)}</span>" for fact in facts)


def _headline(found: list[Score]) -> str:
    if not found:
        return _absent("There are no validation numbers yet: metrics.csv has no val/ column with values.")
    referred = any(score.floor is not None or score.ceiling is not None for score in found)
    columns = ["floor", "latest", "best", "ceiling"] if referred else ["latest", "best"]
    rows, last = [], ""
    for score in found:
        cells = {
            "floor": f'class="number dim">{_number(score.floor)}',
            "latest": f'class="number strong">{_number(score.latest)}',
            "best": f'class="number">{_best(score)}',
            "ceiling": f'class="number dim">{_number(score.ceiling)}',
        }
        arrow = {"higher": "↑", "lower": "↓"}.get(score.better, "")
        measure = f'{escape(score.measure.replace("_", " "))} <span class="dim">{arrow}</span>'
        same = score.measure == last
        rows.append(
            f'<tr class="{"" if same else "first"}"><th scope="row">{"" if same else measure}</th>'
            f'<td class="row">{escape(score.row.replace("_", " "))}</td>'
            + "".join(f'<td data-label="{column}" {cells[column]}</td>' for column in columns)
            + (f'<td class="position">{_position(score)}</td>' if referred else "")
            + "</tr>"
        )
        last = score.measure
    heads = "".join(f'<th class="number">{column}</th>' for column in columns)
    heads = f"<th>measure</th><th></th>{heads}{'<th>from floor to ceiling</th>' if referred else ''}"
    note = "↑ higher is better, ↓ lower."
    if referred:
        note += " Floor: the input left untranslated or, where styles are asked for, translated in styles of the prior."
        note += " Ceiling: another draw of the true style, the most one can ask."
    return (
        f'<table class="headline"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="note">{note}</p>'
    )


def _best(score: Score) -> str:
    return f'{_number(score.best[1])} <span class="dim at">at {score.best[0]:,}</span>' if score.best else "–"


def _position(score: Score) -> str:
    if score.floor is None or score.ceiling is None or score.floor == score.ceiling or not math.isfinite(score.latest):
        return ""
    part = (score.latest - score.floor) / (score.ceiling - score.floor)
    width = 100 * min(1.0, max(0.0, part))
    return f'<span class="bar"><i style="width:{width:.1f}%"></i></span><span class="dim number">{part:.0%}</span>'


def _evaluation(found: dict[str, Any]) -> str:
    metrics = found.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return _absent("This run has not been evaluated: there is no evaluation.json with metrics.")
    rows = []
    for name, entry in metrics.items():
        each = entry if isinstance(entry, dict) else {"value": entry}
        interval = f"{_number(each['low'])} to {_number(each['high'])}" if {"low", "high"} <= set(each) else "–"
        cells = (_number(each.get("value")), interval, escape(str(each.get("unit") or "")), _number(each.get("n")))
        kinds = ("number strong", "number", "", "number dim")
        cells_html = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells_html}</tr>')
    heads = "".join(f"<th>{head}</th>" for head in ("metric", "value", "interval", "unit", "n"))
    protocol = _flat({k: v for k, v in found.items() if k != "metrics"})
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>{"".join(rows)}</table></div>'
        f"<details><summary>protocol</summary>{_pairs(protocol)}</details>"
    )


def _warnings(entries: list[dict[str, Any]]) -> str:
    if not entries:
        return _absent("None were recorded.")
    rows = "".join(
        f'<tr><td class="number">{entry["iteration"]:,}</td><td><span class="tag">{escape(entry["kind"])}</span></td>'
        f"<td>{escape(entry['message'])}</td></tr>"
        for entry in entries[:LISTED]
    )
    more = f'<p class="note">The first {LISTED} of {len(entries):,}.</p>' if len(entries) > LISTED else ""
    heads = "<th>iteration</th><th>kind</th><th>message</th>"
    return f'<div class="wide"><table class="texts"><thead><tr>{heads}</tr></thead>{rows}</table></div>{more}'


def _configuration(text: str) -> str:
    if not text:
        return _absent("There is no config.yaml to show.")
    lines = "".join(f"<span>{escape(line)}\n</span>" for line in text.splitlines())
    return (
        '<details id="config"><summary>config.yaml, as it ran</summary>'
        '<input type="search" id="filter" placeholder="Show lines with …" aria-label="Show lines with">'
        f"<pre>{lines}</pre></details>"
    )


def _environment(found: dict[str, Any]) -> str:
    return _pairs(_flat(found)) if found else _absent("It was not recorded: there is no environment.json.")


def _pairs(pairs: dict[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd></div>" for name, value in pairs.items()
    )
    return f'<dl class="pairs">{rows}</dl>'


def _flat(mapping: dict[Any, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _number(value: Any) -> str:
    """Four digits of a number; a dash for None; anything else as it is, escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _absent(sentence: str) -> str:
    return f'<p class="absent">{escape(sentence)}</p>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
