import sys

import pytest
import torch

import callbacks.progress as module
from callbacks.progress import Progress, format_terms, three_digits
from callbacks.translation_metrics import TranslationMetrics
from tests.callbacks.toy import Toy, ToyData, toy_trainer


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25412, "0.254"), (1.5, "1.50"), (0.012345, "0.0123"), (123.4, "123"), (-12.345, "-12.3"), (float("nan"), "nan"),
     (2.5e-5, "2.50e-05"), (0.0, "0.00"), (99999.0, "99999"), (float("inf"), "inf")],
)  # fmt: skip
def test_three_digits(value, text):
    assert three_digits(value) == text


def test_terms_are_grouped_by_player():
    values = {"train/d/a": torch.tensor(0.25), "train/d/b": torch.tensor(0.5), "train/g/kl": torch.tensor(1.0)}
    assert format_terms(values) == "d: a 0.250 b 0.500   g: kl 1.00"
    assert format_terms({}) == ""


def test_scores_are_left_to_the_curves(tmp_path, capsys):
    class Scored(Toy):
        def training_step(self, batch, batch_idx):
            self.log_terms("score", {"real_a": torch.ones(())})
            super().training_step(batch, batch_idx)

    toy_trainer(tmp_path, [Progress(every_seconds=0)], limit_val_batches=0).fit(Scored(), ToyData())
    out = capsys.readouterr().out
    assert "g: recon" in out
    assert "score" not in out


def test_a_log_file_gets_lines_over_the_whole_training(tmp_path, capsys):
    model = Toy()
    toy_trainer(tmp_path, [Progress(every_seconds=0), TranslationMetrics()]).fit(model, ToyData())
    lines = [line for line in capsys.readouterr().out.splitlines() if "it/s" in line]
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    last = model.losses[-1]
    # In the order in which the player's terms are logged, without the part that all keys share.
    assert lines[-1].endswith(
        f"g: recon {three_digits(last)} kl {three_digits(10 * last)}   d: a {three_digits(last + 1)}"
    )
    assert "0:00:00 left" in lines[-1]


def test_a_validation_prints_its_measures_without_references(tmp_path, capsys):
    toy_trainer(tmp_path, [Progress(), TranslationMetrics()]).fit(Toy(), ToyData())
    lines = [line for line in capsys.readouterr().out.splitlines() if "  validation   " in line]
    assert [line.split()[0] for line in lines] == ["2", "4"]
    assert "psnr: day2night" in lines[0]
    assert "ceiling" not in lines[0]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_by_itself_prints_its_measures(tmp_path, capsys, stage):
    getattr(toy_trainer(tmp_path, [Progress(), TranslationMetrics()]), stage)(Toy(), ToyData(), verbose=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "psnr: day2night" in line]
    assert line.startswith("validation   " if stage == "validate" else "test   ")
    assert "ceiling" not in line


def test_terms_are_read_only_when_they_are_shown(tmp_path, monkeypatch):
    reads, read = [], module.format_terms
    monkeypatch.setattr(module, "format_terms", lambda values: reads.append(1) or read(values))
    toy_trainer(tmp_path, [Progress(every_seconds=1000)], max_steps=20, limit_val_batches=0).fit(Toy(), ToyData())
    assert len(reads) == 1  # the last iteration is always shown


def test_a_terminal_gets_a_bar_and_gets_its_output_back(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    before, progress = sys.stdout, Progress()
    toy_trainer(tmp_path, [progress]).fit(Toy(), ToyData())
    assert sys.stdout is before
    assert "4/4" in capsys.readouterr().out
    assert progress._display is None


def test_a_terminal_is_given_back_after_an_error(tmp_path, monkeypatch):
    class Broken(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    before, progress = sys.stdout, Progress()
    with pytest.raises(RuntimeError, match="broken"):
        toy_trainer(tmp_path, [progress]).fit(Broken(), ToyData())
    assert sys.stdout is before
    assert progress._display is None


def test_many_rows_of_one_measure_are_told_by_their_mean_and_ends():
    values = {f"val/psnr/{a}2{b}": torch.tensor(10.0 * a + b) for a in range(4) for b in range(4) if a != b}
    assert format_terms(values) == "psnr: " + " ".join(f"{k.split('/')[2]} {float(v):#.3g}" for k, v in values.items())
    values["val/psnr/4"] = torch.tensor(99.0)
    mean = sum(map(float, values.values())) / 13
    assert format_terms(values) == f"psnr: mean {mean:#.3g} (0{'2'}1 1.00 to 4 99.0)"
