import json
import shutil
from pathlib import Path

from metrics.compare import main


def card(folder, name, protocol, **metrics):
    run = folder / "unit_streets" / name
    run.mkdir(parents=True)
    measured = {k.replace("__", "/"): {"value": v, "low": v - 1, "high": v + 1} for k, v in metrics.items()}
    (run / "evaluation.json").write_text(json.dumps({"protocol": protocol, "metrics": measured}))
    return str(run)


def test_cards_of_one_protocol_stand_side_by_side(tmp_path, capsys):
    protocol = {"data": "x"}
    a, b = card(tmp_path, "a", protocol, psnr__d=21.25), card(tmp_path, "b", protocol, psnr__d=20.0, fid__d=3.0)
    assert main([a, b + "/evaluation.json"]) == 0
    out = capsys.readouterr().out
    assert "| | unit_streets/a | unit_streets/b |" in out
    assert "| psnr/d ↑ | 21.25 [20.25, 22.25] | 20 [19, 21] |" in out
    assert "| fid/d ↓ |  | 3 [2, 4] |" in out


def test_two_cards_of_one_run_are_told_apart(tmp_path, capsys):
    run = Path(card(tmp_path, "a", {}, psnr__d=21.0))
    shutil.copy(run / "evaluation.json", run / "evaluation_best.json")
    assert main([str(run), str(run / "evaluation_best.json")]) == 0
    assert "| | unit_streets/a | unit_streets/a best |" in capsys.readouterr().out


def test_cards_of_other_protocols_are_refused_unless_told(tmp_path, capsys):
    a, b = card(tmp_path, "a", {"data": "x"}, fid__d=1.0), card(tmp_path, "b", {"data": "y"}, fid__d=2.0)
    assert main([a, b]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "data: x | y" in captured.err
    assert main([a, b, "--anyway"]) == 0
    assert "The protocols differ" in capsys.readouterr().out


def test_a_missing_card_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "evaluation.json: make evaluate" in capsys.readouterr().err
