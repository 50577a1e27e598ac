"""Our DRIT against the recorded numbers of the official one, and the runner against numbers changed on purpose.

The folders are compact copies of recorded cases, as ``test_parity`` describes. The draws of a case are equal by shape:
which draw goes where is tested apart, in ``tests/lightning_modules/test_drit``.
"""

import functools
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import drit as parity_drit
from benchmarks.parity import gradients, rules
from benchmarks.parity.rules import Case, Run, Snapshot
from tests.parity.cases import agreement, configure, edit, edit_tensors, refusal

HERE = Path(__file__).parent
EACH = pytest.mark.parametrize("name", ["drit_ms", "drit_noconcat"])
RUN = parity_drit.run
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def run(name: str, dtype: torch.dtype) -> Run:
    return RUN(Case(HERE / name), dtype)


@pytest.fixture
def copy(tmp_path):
    return lambda name: Path(shutil.copytree(HERE / name, tmp_path / name))


@pytest.fixture
def cached(monkeypatch):
    """The runner takes the runs above, since changes of recorded outcomes do not change ours."""
    monkeypatch.setattr(parity_drit, "run", lambda case, dtype: run(case.path.name, dtype))


@pytest.mark.slow
@EACH
def test_it_agrees_with_the_official_code(capsys, name):
    printed = agreement(HERE / name, capsys)
    assert printed.count("\nok") > 600


@EACH
def test_float64_is_exact(name):
    case, ours = Case(HERE / name), run(name, torch.float64)
    lines = list(parity.float64_lines(case, parity_drit, ours))
    assert [line for line in lines if not line.ok] == []
    losses = [line for line in rules.loss_lines(case, ours, double=True) if "float32" not in line.name]
    assert len(losses) > 60
    assert max(line.difference for line in losses) < 1e-13


OUTCOMES = {
    "mode seeking": ("losses.json", lambda x: x["float64"]["iter3"]["EG"].update(lz_AB=1.0)),
    "domains": ("losses.json", lambda x: swap(x["float64"]["iter1"]["EG"], "gan2_loss_a", "gan2_loss_b")),
    "content": ("losses.json", lambda x: x["float64"]["iter2"]["D_content"].update(disContent_loss=2.0)),
    "two steps": ("float64_digest.json", lambda x: x["after1.delta"]["gen.decA4.0.bias"].__setitem__(0, 1e-4)),
    "null": ("float64_digest.json", lambda x: x["after3.delta"]["enc_c.convA.1.model.1.bias"].__setitem__(1, 1e-4)),
    "draw": ("config.json", lambda x: x["noise_rule"]["draws_in_iteration_1"].pop()),
    "count": ("config.json", lambda x: x["parameters"].update(enc_a=3187)),
    "rate": ("config.json", lambda x: x["lr_per_iteration"].__setitem__(1, 2e-4)),
}


def swap(terms, one, other):
    terms[one], terms[other] = terms[other], terms[one]


@pytest.mark.parametrize("kind", OUTCOMES)
def test_one_changed_outcome_is_seen(cached, copy, kind):
    name, change = OUTCOMES[kind]
    folder = copy("drit_ms")
    edit(folder / name, change)
    lines = parity.float64_lines(Case(folder), parity_drit, run("drit_ms", torch.float64))
    assert not all(line.ok for line in lines)


def test_gradients_are_held_against_recorded_ones(copy):
    """The whole case has them; here one is made from ours."""
    folder, ours = copy("drit_ms"), run("drit_ms", torch.float64)
    names = ["disContent_opt.second:disContent.model.4.weight", "enc_c_opt.phase2:enc_c.convA.0.model.1.weight"]
    file = {name: ours.gradients[name].float().contiguous() for name in names}
    case = Case(folder)
    assert all(line.ok for line in gradients.recorded_lines(case, ours, file))
    digests = {name: [rules.l2(g), float((g.double() * rules.normal(g.shape)).sum())] for name, g in file.items()}
    case.digests["grads1"] = digests | {"gen_opt.phase2_legacy:gen.decA4.0.bias": [1.0, 1.0]}
    assert [line.difference < 1e-6 for line in gradients.digest_lines(case, ours)] == [True, True]
    file[names[1]] = ours.gradients["enc_c_opt.phase1:enc_c.convA.0.model.1.weight"].float()
    assert [line.ok for line in gradients.recorded_lines(case, ours, file)] == [True, False]
    file["disContent_opt:disContent.model.4.weight"] = file[names[0]] + 1
    first = gradients.of_first_step(file)
    assert torch.equal(first["disContent.model.4.weight"], file["disContent_opt:disContent.model.4.weight"])


def test_attribute_encoders_receive_nothing_in_the_second_phase():
    keys = run("drit_ms", torch.float64).gradients
    assert any(key.startswith("enc_a_opt.phase1:") for key in keys)
    assert not any(key.startswith("enc_a_opt.phase2:") for key in keys)


def repaint(folder):
    edit_tensors(folder / "batch.safetensors", lambda x: x["pool.a"][0, 0, 0, 0].add_(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (configure("hyperparameters", "concat", value=0), "config.json says sizes (False,"),
        (configure("hyperparameters", "widths", "discriminator", value=2), "but init/ holds"),
        (configure("hyperparameters", "dis_spectral_norm", value=True), "dis_spectral_norm is True"),
        (configure("hyperparameters", "lr_policy", value="step"), "lr_policy is 'step'"),
        (configure("paper", value="drit_multi"), "'drit_multi'"),
        (lambda folder: (folder / "losses.json.xz").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
        (repaint, "another sha256"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(copy, capsys, change, words):
    folder = copy("drit_ms")
    change(folder)
    assert words in refusal(folder, capsys)


def test_official_containers_give_the_same_start(copy):
    folder = copy("drit_noconcat")
    packed = parity_drit.recorded(Case(folder), "init")
    release = {"ep": 0, "total_it": 0}
    for name, tensor in packed.weights.items():
        net, _, key = name.partition(".")
        release.setdefault(net, {})[key] = tensor
    torch.save(release, folder / "init" / "00000.pth")
    read = parity_drit.recorded(Case(folder), "init")
    assert isinstance(read, Snapshot)
    assert set(read.weights) == set(packed.weights)
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in packed.weights.items())
