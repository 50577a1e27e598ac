"""Our multi-domain DRIT++ against the recorded numbers of the official one, and against numbers changed on purpose.

The folder is a compact copy of the recorded case, as ``test_parity`` describes, with digests of all first gradients.
The draws of a case are equal by shape: which draw goes where is tested apart, in
``tests/lightning_modules/test_drit_multidomain``.
"""

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import mdmm as parity_mdmm
from benchmarks.parity import rules
from benchmarks.parity.rules import Case, Run, Snapshot
from tests.parity.cases import agreement, configure, edit, edit_tensors, refusal

CASE = Path(__file__).parent / "mdmm"
RUN = parity_mdmm.run
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def run() -> Run:
    return RUN(Case(CASE), torch.float64)


@pytest.mark.slow
def test_it_agrees_with_the_official_code(capsys):
    printed = agreement(CASE, capsys)
    assert printed.count("\nok") > 600


def test_float64_is_exact():
    lines = list(parity.float64_lines(Case(CASE), parity_mdmm, run()))
    assert [line for line in lines if not line.ok] == []
    assert sum("first gradient" in line.name for line in lines) > 100
    losses = [line for line in rules.loss_lines(Case(CASE), run(), double=True) if "float32" not in line.name]
    assert len(losses) == 48
    assert max(line.difference for line in losses) < 1e-13


def raised(key, name, by=1e-6):
    return lambda x: x[key][name].__setitem__(0, x[key][name][0] * (1 + by))


OUTCOMES = {
    "sum over rows": ("losses.json", lambda x: x["float64"]["iter3"]["EG"].update(gan2_loss=1.0)),
    "content": ("losses.json", lambda x: x["float64"]["iter2"]["D_content"].update(disContent_loss=2.0)),
    "gradient": ("float64_digest.json", raised("grads1", "gen_opt.phase2:gen.dec2.0.model.0.weight")),
    "weights": ("float64_digest.json", raised("after1.delta", "gen.dec4.0.bias")),
    "moments": ("float64_digest.json", raised("after3.exp_avg", "dis2.conv2.weight")),
    "draw": ("config.json", lambda x: x["noise_rule"]["draws_in_iteration_1"].pop()),
    "count": ("config.json", lambda x: x["parameters"].update(enc_a=5971)),
    "rate": ("config.json", lambda x: x["lr_per_iteration"].__setitem__(1, 2e-4)),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_one_changed_outcome_is_seen(folder, kind):
    name, change = OUTCOMES[kind]
    edit(folder / name, change)
    lines = parity.float64_lines(Case(folder), parity_mdmm, run())
    assert [line for line in lines if not line.ok] != []


def test_the_attribute_encoder_receives_nothing_in_the_second_phase():
    keys = run().gradients
    assert any(key.startswith("enc_a_opt.phase1:") for key in keys)
    assert not any(key.startswith("enc_a_opt.phase2:") for key in keys)


def repaint(folder):
    edit_tensors(folder / "batch.safetensors", lambda x: x["pool"][0, 0, 0, 0].add_(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (configure("hyperparameters", "concat", value=0), "config.json says sizes (False,"),
        (configure("sizes", "num_domains", value=4), "but init/ holds"),
        (configure("hyperparameters", "crop_size", value=256), "but init/ holds"),
        (configure("hyperparameters", "isDcontent", value=False), "isDcontent is False"),
        (configure("hyperparameters", "lr_policy", value="step"), "lr_policy is 'step'"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
        (repaint, "another sha256"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert words in refusal(folder, capsys)


def test_official_containers_give_the_same_start(folder):
    packed = parity_mdmm.recorded(Case(folder), "init")
    release = {"ep": 0, "total_it": 0}
    for name, tensor in packed.weights.items():
        net, _, key = name.partition(".")
        release.setdefault(net, {})[key] = tensor
    torch.save(release, folder / "init" / "00000.pth")
    read = parity_mdmm.recorded(Case(folder), "init")
    assert isinstance(read, Snapshot)
    assert set(read.weights) == set(packed.weights)
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in packed.weights.items())
