import numpy as np
import pytest
from PIL import Image

from callbacks.curves import Curves, draw_curves, read_panels, smooth
from callbacks.loggers import CSV
from callbacks.translation_metrics import TranslationMetrics
from tests.callbacks.toy import Toy, ToyData, toy_trainer


def test_panels_by_player_and_measure(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,epoch,val/psnr/a2b,train/g/kl,train/d/a\n0,0,,1,2\n3,0,20,,\n4,0,,nan,-1\n")
    panels = read_panels(file)
    assert list(panels) == ["train/g", "train/d", "val/psnr"]
    assert [list(v) for v in panels["train/d"]["a"]] == [[0, 4], [2, -1]]
    assert [list(v) for v in panels["val/psnr"]["a2b"]] == [[3], [20]]


def test_smoothing_keeps_length_constants_and_lines():
    assert smooth([3.0] * 200) == pytest.approx([3.0] * 200)
    line = np.arange(600.0)
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    assert np.std(smooth(np.random.default_rng(0).normal(size=600))) < 0.5
    assert smooth([1.0, 2.0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "text", ["step,train/g/x\n0,1\n1,nan\n2,-3\n", "step,train/g/x\n0,nan\n", "step,train/g/x\n1,0\n"]
)
@pytest.mark.filterwarnings("error")
def test_awkward_numbers_are_drawn(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    draw_curves(tmp_path / "metrics.csv", tmp_path / "p" / "curves.png")
    assert np.asarray(Image.open(tmp_path / "p" / "curves.png")).std() > 0


def test_an_empty_file_draws_nothing(tmp_path):
    (tmp_path / "metrics.csv").write_text("step\n")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_fit_leaves_a_picture(tmp_path):
    toy_trainer(tmp_path, [TranslationMetrics(), Curves()], CSV(tmp_path)).fit(Toy(), ToyData())
    width, height = Image.open(tmp_path / "pictures" / "curves.png").size
    assert width == 3 * 560
    assert height == 3 * 360  # 2 players and 5 measures
    assert list((tmp_path / "pictures").iterdir()) == [tmp_path / "pictures" / "curves.png"]
