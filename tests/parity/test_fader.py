"""Our Fader Networks against the recorded numbers of the official ones, and against numbers changed on purpose.

The folder is the recorded case but for its official containers, which ``tests/importers/test_fader`` has instead. What
the case cannot see, random categories and the players that are off in it, is tested in
``tests/lightning_modules/test_fader``.
"""

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import fader as parity_fader
from benchmarks.parity import rules
from benchmarks.parity.rules import Case
from tests.parity.cases import agreement, configure, edit, float64_failures, once, refusal

CASE = Path(__file__).parent / "fader"
PAPER = parity_fader
run = functools.partial(once, parity_fader.run, CASE)  # in a precision
pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_agrees_with_the_official_code(cached, capsys):
    printed = agreement(CASE, capsys)
    assert printed.count("\nok") > 240
    assert "kink" not in printed


def test_float64_is_exact():
    """But for biases before a normalisation, which rounding drives: the latent discriminator lets them pass."""
    lines = rules.loss_lines(Case(CASE), run(torch.float64), double=True)
    lines = [line for line in lines if "float32" not in line.name]
    assert len(lines) == 12
    assert max(line.difference for line in lines) < 1e-11


OUTCOMES = {
    "reconstruction": ("losses.json", lambda x: x["float64"]["3"].update(rec_cost=0.42821452)),
    "latent": ("losses.json", lambda x: x["float64"]["2"].update(lat_dis_cost0=1.48395271)),
    "feedback": ("losses.json", lambda x: x["float64"]["2"].update(ae_lat_dis_loss=1.42191958)),
    "ramp": ("losses.json", lambda x: x["float64"]["3"].update(lambda_lat_dis=0.375)),
    "float32": ("losses.json", lambda x: x["float32"]["1"].update(rec_cost=0.37551)),
    "distance": (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["after3"]["per_tensor_all"].update({"ae.dec_layers.1.0.weight": 1.95e-8}),
    ),
    "shape": ("forward.json", lambda x: x["dec2"].update(shape=[4, 3, 16, 15])),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_one_changed_outcome_is_seen(cached, folder, capsys, kind):
    name, change = OUTCOMES[kind]
    edit(folder / name, change)
    assert parity.main([str(folder), "--failures"]) == 1
    assert "FAIL" in capsys.readouterr().out


MISTAKES = {
    "clip": lambda p: p.update(clip_grad_norm=1e6),
    "ramp": lambda p: p.update(lambda_schedule=0.0),
    "weight": lambda p: p.update(lambda_lat_dis=0.4),
    "beta": lambda p: p.update(dis_optimizer="adam,lr=0.0002,beta1=0.6", ae_optimizer="adam,lr=0.0002,beta1=0.6"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_changed_hyper_parameter_is_seen(folder, kind):
    edit(folder / "config.json", lambda x: MISTAKES[kind](x["params"]))
    assert float64_failures(parity_fader, folder) != []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (configure("params", "instance_norm", value=True), "instance_norm is True, but our Fader has only False"),
        (configure("params", "deconv_method", value="pixelshuffle"), "deconv_method is 'pixelshuffle'"),
        (configure("params", "ae_optimizer", value="adam,lr=0.1"), "has optimizers that our Fader has not"),
        (configure("params", "init_fm", value=8), "init/ does not hold networks of the sizes in config.json"),
        (configure("params", "batch_size", value=3), "iter0.lat_dis0.x is [4, 3, 16, 16], but config.json says [3, 3"),
        (configure("params", "n_lat_dis", value=2), "lacks iter0.lat_dis1.x"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert words in refusal(folder, capsys)
