import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from callbacks import report
from callbacks.report_data import (
    Run,
    health,
    newest_run,
    picture_series,
    read_curves,
    read_run,
    scores,
    state,
)

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NASTY = "<img src=x onerror=throwing()>\"'&{{data}}"


@pytest.fixture
def run(tmp_path):
    """A run of 38 iterations of which 35 have logged, with one NaN, three pictures and everything beside it."""
    folder = tmp_path / NASTY / "20260101-000000"
    rows = ["step,train/d/a,train/g/recon,epoch,val/psnr/a2b,val/psnr/a2b_untranslated,val/psnr/a2b_ceiling,val/odd"]
    for step in range(4, 39, 5):
        rows.append(f"{step},{'nan' if step == 14 else 1 + step},{100 / (step + 1)},0,,,,")
        if step in (9, 29):
            rows.append(f"{step},,,0,{step},5,45,-1.5")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n44,1")
    config = {"trainer": {"max_steps": 38, "log_every_n_steps": 5}, "model": {"class_path": "x.UNIT"}, "note": "</pre>"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for iteration, colour in ((10, "red"), (20, "lime"), (30, "blue")):
        path = folder / "pictures" / "media" / "translations" / f"{iteration:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), colour).save(path)
    warning = {"iteration": 15, "kind": "nan", "message": "</script><script>throw Error('escaped')</script>"}
    (folder / "warnings.jsonl").write_text(json.dumps(warning) + "\n")
    (folder / "environment.json").write_text(json.dumps({"torch": "<b>2", "parameters.gen_a": 12345}))
    metrics = {"fid/<i>": {"value": 48.2131, "low": 45.1, "high": 51.9, "unit": "", "n": 64}, "plain": 0.25}
    evaluation = {"protocol": {"crop": {"size": 64}}, "protocol_hash": "9f2c", "metrics": metrics, "extra": [1, 2]}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def page_of(folder, **options):
    return report.write_report(folder, **options).read_text()


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_curves_count_finished_iterations_and_leave_out_what_is_not_there(run):
    problems = []
    curves = read_curves(run / "metrics.csv", problems)
    assert problems == []
    assert list(curves["train/d/a"]) == [5, 10, 15, 20, 25, 30, 35]  # the cut line of iteration 45 is not among them
    assert np.isnan(curves["train/d/a"][15])
    assert curves["val/psnr/a2b"] == {10: 9.0, 30: 29.0}
    assert "epoch" not in curves


def test_broken_cells_are_counted(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/d/a\nx,1\n1,tensor(3)\n2,inf,9\n3\n4,2\n")
    problems = []
    assert read_curves(tmp_path / "metrics.csv", problems) == {"train/d/a": {3: float("inf"), 5: 2.0}}
    assert problems == ["metrics.csv holds 2 rows or cells that are not numbers; they are left out."]


def test_best_follows_the_direction():
    nan = float("nan")
    curves = {
        "val/l1/x": {1: 3.0, 2: 1.0, 3: nan},
        "val/psnr/x": {1: 3.0, 2: 1.0},
        "val/psnr/x_ceiling": {1: 9.0, 2: nan},
    }
    l1, psnr = scores(curves)
    assert l1.best == (2, 1.0)
    assert np.isnan(l1.latest)
    assert (psnr.best, psnr.latest, psnr.floor, psnr.ceiling) == ((1, 3.0), 1.0, None, 9.0)
    (alone,) = scores({"val/psnr/x_ceiling": {1: 9.0}})  # a reference of nothing is a measure like any other
    assert alone.row == "x_ceiling"


def test_a_floor_of_the_model_stands_beside_what_it_belongs_to():
    curves = {
        "val/style_r2/a2b": {1: 0.2, 2: 0.6},
        "val/style_r2/a2b_prior": {1: -0.5, 2: -1.0},
        "val/style_r2/a2b_ceiling": {1: 0.9, 2: 0.9},
    }
    (score,) = scores(curves)
    assert (score.row, score.latest, score.floor, score.ceiling) == ("a2b", 0.6, -1.0, 0.9)
    (panel,) = report.panels(curves)
    assert [curve["of"] for curve in panel["curves"]] == ["", "a2b", "a2b"]
    (score,) = scores(curves | {"val/style_r2/a2b_untranslated": {1: 0.0}})
    assert score.floor == 0.0
    (score,) = scores({"val/style_r2/a2b": {1: 0.2}, "val/style_r2/a2b_chance": {1: 0.1}})
    assert score.floor == 0.1


def test_vitals_are_curves_after_the_others(tmp_path):
    keys = ["health/grad_norm/gen", "health/grad_norm/dis", "health/data_wait", "kl/0", "kl/1", "val/l1/x", "train/d/a"]
    (tmp_path / "metrics.csv").write_text(f"step,epoch,{','.join(keys)}\n9,0,{','.join('1' * len(keys))}\n")
    panels = report.panels(read_curves(tmp_path / "metrics.csv", []))
    assert {panel["title"]: [curve["name"] for curve in panel["curves"]] for panel in panels} == {
        "train/d": ["a"],
        "val/l1": ["x"],
        "kl": ["0", "1"],
        "health/grad_norm": ["gen", "dis"],
        "health/data_wait": ["data_wait"],
    }
    assert [panel["title"] for panel in panels][0::4] == ["train/d", "health/data_wait"]


def test_the_state_of_a_run(run):
    assert state(read_run(run))[1].startswith("Last seen at iteration 35 of 38, 2")
    (run / "checkpoints").mkdir()
    torch.save({"global_step": 38}, run / "checkpoints" / "last.ckpt")  # the last three iterations logged nothing
    assert state(read_run(run)) == (True, "Finished at iteration 38")
    (run / "checkpoints" / "last.ckpt").write_text("broken")
    assert not state(read_run(run))[0]
    (run / "config.yaml").write_text("trainer: {max_steps: 30}")
    assert state(read_run(run)) == (True, "Finished at iteration 35")
    (run / "config.yaml").write_text("trainer: {max_steps: -1}")
    assert " of " not in state(read_run(run))[1]


def test_health_in_one_line(run):
    well, line = health(read_run(run))
    assert not well
    assert line == (
        "Not finite: 1 of 22 logged values (train/d/a); 1 warning (1 nan); "
        "the latest validation is the best yet in 1 of 1 measure."
    )
    quiet = Run(run, {"train/d/a": {1: 1.0}}, "", {}, {}, [], {}, {}, [])
    assert health(quiet) == (True, "All 1 logged values are finite; no warnings recorded.")


def test_what_comes_from_the_run_is_escaped(run):
    page = page_of(run)
    assert NASTY not in page
    assert html.escape(NASTY) in page
    assert "throw Error" in page
    assert "<script>throw" not in page
    assert "<b>2" not in page
    assert "fid/<i>" not in page
    assert "&lt;/pre&gt;" in page
    assert page.count("</script>") == page.count("<script") == 2
    assert data_of(page)["warnings"][0][2].startswith("</script>")


def test_the_page_refers_to_nothing_outside(run):
    page = page_of(run)
    assert not re.search(r"https?:", page.replace("http-equiv", ""))
    assert not re.search(r"""\b(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_tables(run):
    page = page_of(run)
    assert '<td data-label="floor" class="number dim">5</td>' in page
    assert '<td data-label="latest" class="number strong">29</td>' in page
    assert "width:60.0%" in page  # (29 - 5) / (45 - 5)
    assert "48.21</td>" in page
    assert "45.1 to 51.9" in page
    assert "<dt>protocol.crop.size</dt><dd>64</dd>" in page
    assert "<dt>extra</dt><dd>1, 2</dd>" in page
    assert "<dt>parameters.gen_a</dt><dd>12,345</dd>" in page
    assert 'class="problems"></ul>' in page
    order = "numbers pictures curves evaluation warnings configuration environment".split()
    assert re.findall(r'<section id="(\w+)"', page) == order


def test_charts(run):
    charts = {panel["title"]: panel["curves"] for panel in data_of(page_of(run))["panels"]}
    assert list(charts) == ["train/d", "train/g", "val/psnr", "val/odd"]
    assert charts["train/d"][0]["y"][2] is None
    assert [(curve["name"], curve["of"]) for curve in charts["val/psnr"]] == [
        ("a2b", ""),
        ("a2b_untranslated", "a2b"),
        ("a2b_ceiling", "a2b"),
    ]
    assert charts["val/odd"][0]["name"] == "odd"


def test_long_curves_are_thinned_and_keep_their_end():
    (panel,) = report.panels({"train/d/a": {step: float(step) for step in range(1, 10_001)}})
    (curve,) = panel["curves"]
    assert curve["stride"] == 4
    assert len(curve["x"]) == len(curve["y"]) == 2500
    assert curve["x"][-1] == 10_000


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_pictures_are_thinned_evenly_to_the_budget(tmp_path):
    for number in range(1, 12):
        noise(tmp_path / "a" / "b" / f"{number:07d}.png", number)
    noise(tmp_path / "a" / "b" / "validate.png", 0)
    noise(tmp_path / "curves.png", 0)
    series = picture_series(tmp_path)
    assert list(series) == ["a/b"]
    problems = []
    (whole,) = report.embed(series, 10**9, problems)
    assert [frame["label"] for frame in whole["frames"]][-2:] == ["iteration 11", "validate"]
    budget = int(3.7 * len(whole["frames"][0]["source"]))
    (thin,) = report.embed(series, budget, problems)
    assert sum(len(frame["source"]) for frame in thin["frames"]) <= budget
    labels = [frame["label"] for frame in thin["frames"]]
    assert labels[0] == "iteration 1"
    assert labels[-1] == "validate"
    assert len(labels) == 3
    assert thin["total"] == 12
    assert problems == []
    assert report.embed(series, 100, problems) == []
    assert problems == ["pictures/a/b does not fit into the page's 100 bytes for pictures."]


def test_evenly():
    items = [Path(str(number)) for number in range(7)]
    assert [int(str(item)) for item in report.evenly(items, 4)] == [0, 2, 4, 6]
    assert report.evenly(items, 1) == items[-1:]


def test_broken_parts_are_named(run):
    (run / "metrics.csv").unlink()
    (run / "config.yaml").write_text("a: [")
    (run / "warnings.jsonl").write_text('{"iteration": "x"}\n[]\n\n')
    (run / "evaluation.json").write_text("{")
    (run / "environment.json").write_text("[1]")
    (run / "pictures" / "media" / "translations" / "0000040.png").write_text("broken")
    page = html.unescape(page_of(run))
    for sentence in (
        "There is no metrics.csv.",
        "config.yaml is not a YAML mapping; it is shown as it is.",
        "warnings.jsonl holds 2 lines that cannot be read as warnings.",
        "evaluation.json is not a JSON object; it is left out.",
        "environment.json is not a JSON object; it is left out.",
        "pictures/media/translations: 1 file cannot be read as a picture.",
        "There are no validation numbers yet: metrics.csv has no val/ column with values.",
    ):
        assert sentence in page


@pytest.mark.parametrize(
    "metrics", [None, [], {"x": None}, {"x": {"value": "much", "low": None, "high": float("nan")}}]
)
def test_odd_evaluations_do_not_stop_the_page(run, metrics):
    (run / "evaluation.json").write_text(json.dumps({"metrics": metrics}))
    assert "Evaluation" in page_of(run)


@pytest.mark.parametrize(
    "config", ["trainer: 3", "model: {class_path: 3}\ntrainer: {max_steps: many}", "[]", "a: 2026-99-99"]
)
def test_odd_configurations_do_not_stop_the_page(run, config):
    (run / "config.yaml").write_text(config)
    assert "Last seen at iteration 35" in page_of(run)


def test_no_run_is_one_sentence_and_code_2(tmp_path, capsys, monkeypatch):
    assert report.main([str(tmp_path)]) == 2
    assert report.main([str(tmp_path / "none")]) == 2
    monkeypatch.chdir(tmp_path)
    assert report.main([""]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert f"{tmp_path} is not a run" in lines[0]
    assert "There is no run in runs/" in lines[2]


def test_the_newest_run_and_the_command(tmp_path):
    import os

    for name, age in (("a/1", 50), ("b/1", 0), ("c/1", 100)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "metrics.csv").write_text("step\n")
        os.utime(tmp_path / "runs" / name / "metrics.csv", (10_000 - age, 10_000 - age))
    (tmp_path / "runs" / "d" / "not").mkdir(parents=True)
    assert newest_run(tmp_path / "runs") == tmp_path / "runs" / "b" / "1"
    command = [sys.executable, "-m", "callbacks.report", ""]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs/b/1/report.html (")
    assert (tmp_path / "runs" / "b" / "1" / "report.html").is_file()


WATCH = """<script>
const seen = { errors: [], blocked: [] };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));
const complain = console.error;
console.error = (...words) => { seen.errors.push(words.join(" ")); complain(...words); };
</script>"""
DRIVE = """<script>
addEventListener("load", () => setTimeout(() => {
  const find = (selector) => document.querySelector(selector);
  const shown = () => [find(".viewer output").textContent, find(".viewer img").src.length, find(".viewer img").src];
  const change = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const drawn = () => [...document.querySelectorAll("path.curve")].map((path) => path.getAttribute("d"));
  seen.frames = [shown()];
  press("ArrowLeft"); seen.frames.push(shown());
  change(find(".viewer input"), 0); seen.frames.push(shown());
  press("ArrowLeft"); seen.frames.push(shown());
  find(".viewer button[aria-label=next]").click(); seen.frames.push(shown());
  seen.curves = drawn();
  seen.charts = document.querySelectorAll(".chart svg").length;
  seen.marks = document.querySelectorAll("path.warning").length;
  seen.infinite = document.querySelectorAll("path.infinite").length;
  seen.references = document.querySelectorAll("text.reference").length;
  const svg = find(".chart svg"), box = svg.getBoundingClientRect();
  const place = (part) => ({ clientX: box.left + part * box.width, clientY: box.top + 50 });
  svg.dispatchEvent(new PointerEvent("pointermove", place(0.99)));
  seen.read = find(".chart .read").innerText;
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  seen.left = find(".chart .read").hidden;
  change(find("#smoothing"), 0); seen.raw = drawn();
  find(".chart input").click(); seen.log = drawn();
  find("#config").open = true;
  change(find("#filter"), "MAX_STEPS");
  seen.lines = [...document.querySelectorAll("#config pre span")].filter((s) => !s.hidden).map((s) => s.textContent);
  seen.widths = [innerWidth, document.documentElement.scrollWidth];
  const entries = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.fetched = entries.filter((name) => !name.startsWith("data:"));
  parent.postMessage(JSON.stringify(seen), "*");
}, 100));
</script>"""
# In a frame, because no window is narrower than 500 pixels.
HOST = """<!doctype html><meta charset="utf-8"><script>
addEventListener("message", (event) => {
  document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "seen", textContent: event.data }));
});
</script><body><iframe src="watched.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe>"""


def browse(page, folder, width=1280):
    """Let Chromium open a page that tells what happened on it; returns that, and what the console said."""
    head, body = '<meta name="viewport"', "</body>"
    (folder / "watched.html").write_text(page.replace(head, WATCH + head).replace(body, DRIVE + body))
    (folder / "host.html").write_text(HOST.replace("WIDTH", str(width)))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=2000 --dump-dom"
    flags += " --hide-scrollbars --window-size=1400,1000"
    own = [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [CHROMIUM, *flags.split(), *own, (folder / "host.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert 'id="seen"' in done.stdout, done.stdout[:500] + done.stderr[-2000:]
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_works_in_a_browser(run, tmp_path, width):
    seen, console = browse(page_of(run), tmp_path, width)
    assert seen["errors"] == seen["blocked"] == seen["fetched"] == console == []
    assert [label for label, *_ in seen["frames"]] == [f"iteration {k}" for k in (30, 20, 10, 10, 20)]
    assert len({source for *_, source in seen["frames"]}) == 3
    assert all(source.startswith("data:image/webp;base64,") for *_, source in seen["frames"])
    assert seen["charts"] == 4
    assert len(seen["curves"]) == 6  # four, and the means of the two of training
    assert all(re.fullmatch(r"(?:[ML][\d.]+ [\d.]+)+", path) for path in seen["curves"])
    assert seen["curves"][0].count("M") == 2  # the NaN is a gap
    assert seen["curves"][0].count("L") == 4
    assert (seen["marks"], seen["infinite"], seen["references"]) == (4, 1, 2)
    assert "iteration 35" in seen["read"]
    assert "35 (mean " in seen["read"]
    assert seen["left"]
    assert len(seen["raw"]) == 4
    assert seen["log"][0] != seen["raw"][0]
    assert [line.strip() for line in seen["lines"]] == ["trainer:", "max_steps: 38"]
    assert seen["widths"] == [width, width]  # nothing runs over the edge


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_browser_would_tell(run, tmp_path):
    outside = '<img src="http://localhost:9/x.png"><script>throw Error("seen")</script></header>'
    seen, console = browse(page_of(run).replace("</header>", outside), tmp_path)
    assert seen["errors"] == ["Uncaught Error: seen"]
    assert seen["blocked"] == ["http://localhost:9/x.png"]
    assert len(console) == 2
