"""Our papers against the recorded numbers of the official ones, and the runner against numbers changed on purpose.

A folder here is a compact copy of a recorded case: its float64 digests stand for the weights after 1 and 3
iterations, forward outputs are kept at a stride. Float32 weights are compared only where the whole case is at hand.

Each case has an input of a kinked function that is a coin toss in float32, and ours falls on the other side than the
official one: see ``test_the_one_input_that_float32_may_flip``.
"""

import functools
import json
import lzma
import math
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import rules
from benchmarks.parity import unit as parity_unit
from benchmarks.parity.kinks import Same, Watch
from benchmarks.parity.rules import Case, Line, Run, Snapshot

HERE = Path(__file__).parent
CASE = HERE / "unit"
PAPERS = {name: parity.PAPERS[name] for name in ("munit", "unit")}  # DRIT has a file of its own
EACH_PAPER = pytest.mark.parametrize("name", PAPERS)
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def runs(name):
    """The two runs of an untouched case, and what the float64 one had close to a kink."""
    case = Case(HERE / name)
    with Watch() as watch:
        double = RUN[name](case, torch.float64)
    return {torch.float64: double, torch.float32: RUN[name](case, torch.float32), "watch": watch}


RUN = {name: paper.run for name, paper in PAPERS.items()}  # as they are when nothing is patched


@pytest.fixture
def cached(monkeypatch):
    """Lets the runner take the runs above, since changes of recorded outcomes do not change ours."""
    for name, paper in PAPERS.items():
        monkeypatch.setattr(paper, "run", lambda case, dtype, name=name: runs(name)[dtype])


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(CASE, tmp_path / "case"))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensor(path, name):
    """Change one element of one tensor by one part in a thousand of the largest."""
    tensors = safetensors.torch.load(lzma.decompress(path.read_bytes()))
    tensors[name].view(-1)[0] += 1e-3 * tensors[name].abs().max()
    path.write_bytes(lzma.compress(safetensors.torch.save(tensors), preset=0))


@EACH_PAPER
def test_a_paper_agrees_with_the_official_code(capsys, name):
    status = parity.main([str(HERE / name)])
    printed = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in printed.splitlines() if not line.startswith("ok"))
    assert printed.count("\nok") > 600
    assert printed.splitlines()[-1].endswith("AGREES")


@EACH_PAPER
def test_float64_is_exact(name):
    """Far inside the limits of 1e-8: what is left is the rounding of the recorded digits."""
    case, run = Case(HERE / name), runs(name)[torch.float64]
    losses = [line for line in rules.loss_lines(case, run, double=True) if "float32" not in line.name]
    assert max(line.difference for line in losses) < 1e-13
    assert max(line.difference for line in rules.digest_lines(case, run)) < 1e-9


@pytest.mark.parametrize(("name", "value"), [("unit", -1.2923e-8), ("munit", 1.5703e-5)])
def test_the_one_input_that_float32_may_flip(name, value):
    """In iteration 1. UNIT: decoder a's first upsampling in the cycle x_aba. MUNIT: a difference of two contents."""
    values = torch.cat([call.values for call in runs(name)["watch"].calls])
    assert (values - value).abs().min().item() < 1e-3 * abs(value)


OUTCOMES = {
    ("unit", "loss"): ("losses.json", lambda x: x["float64"]["iter2"]["G"].update(loss_gen_cyc_x_b=0.6106107)),
    ("unit", "loss32"): ("losses.json", lambda x: x["float32"]["iter1"]["D"].update(loss_dis_a=2.66520)),
    ("unit", "no loss"): ("losses.json", lambda x: x["float64"]["iter3"]["G"].update(loss_gen_vgg_a=1e-9)),
    ("unit", "another loss"): ("losses.json", lambda x: x["float64"]["iter3"]["G"].update(loss_gen_new=0.5)),
    ("unit", "norm"): (
        "float64_digest.json",
        lambda x: x["after1.delta"]["gen_b.dec.model.4.norm.beta"].__setitem__(0, 2e-4),
    ),
    ("unit", "dot"): (
        "float64_digest.json",
        lambda x: x["after3.exp_avg"]["dis_b.cnns.1.4.bias"].__setitem__(1, 2.895478),
    ),
    ("unit", "null"): (
        "float64_digest.json",
        lambda x: x["after3.delta"]["gen_a.enc.model.0.conv.bias"].__setitem__(0, 5.98e-4),
    ),
    ("unit", "a digest less"): ("float64_digest.json", lambda x: x["after1.delta"].pop("dis_a.cnns.0.0.conv.bias")),
    ("unit", "rate"): ("config.json", lambda x: x["lr_per_iteration"].__setitem__(2, 5e-5)),
    ("unit", "draw"): ("config.json", lambda x: x["noise_rule"]["draws_in_iteration_1"].pop()),
    ("unit", "count"): ("config.json", lambda x: x["parameters"].update(dis_a=5663)),
    ("unit", "shape"): ("forward.json", lambda x: x["recon_b"].update(shape=[2, 3, 8, 9])),
    ("unit", "distance"): (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["forward_max_abs"].update(hidden_a=1e-9),
    ),
    ("munit", "loss"): (
        "losses.json",
        lambda x: x["float64"]["iter1"]["G"].update(
            loss_gen_recon_s_a=x["float64"]["iter1"]["G"]["loss_gen_recon_s_b"]
        ),
    ),
    ("munit", "cycle"): ("losses.json", lambda x: x["float64"]["iter2"]["G"].update(loss_gen_cycrecon_x_b=0.63084)),
    ("munit", "style"): ("float64_digest.json", lambda x: x["after1.delta"]["gen_b.mlp.model.2.fc.bias"].reverse()),
    ("munit", "draw"): ("config.json", lambda x: x["noise_rule"]["draws_in_iteration_1"].pop()),
    ("munit", "statistics"): ("config.json", lambda x: x["parameters"].update(gen_b_dummy_buffers=95)),
}


@pytest.mark.parametrize(("name", "kind"), OUTCOMES)
def test_one_changed_outcome_is_seen(cached, tmp_path, capsys, name, kind):
    file, change = OUTCOMES[name, kind]
    copy = Path(shutil.copytree(HERE / name, tmp_path / "case"))
    edit(copy / file, change)
    assert parity.main([str(copy), "--failures"]) == 1
    assert "FAIL" in capsys.readouterr().out


FORWARD = {
    "unit": ["hidden_a", "x_aba", "dis_b.fake.s1", "noise"],
    "munit": ["adain_a", "style_b_recon", "x_ab_style_b"],
}


@pytest.mark.parametrize(("name", "output"), [(name, output) for name in FORWARD for output in FORWARD[name]])
def test_one_changed_forward_output_is_seen(cached, tmp_path, capsys, name, output):
    copy = Path(shutil.copytree(HERE / name, tmp_path / "case"))
    edit_tensor(copy / "forward.safetensors.xz", output)
    assert parity.main([str(copy), "--failures"]) == 1
    assert f"forward {output}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("init/all_nets.safetensors.xz", "gen_b.dec.model.5.conv.weight"), ("batch.safetensors.xz", "iter2.a")],
)
def test_one_changed_input_is_seen(copy, name, tensor):
    edit_tensor(copy / name, tensor)
    assert parity.main([str(copy), "--failures"]) == 1


def test_one_changed_hyper_parameter_is_seen(copy):
    edit(copy / "config.json", lambda x: x["hyperparameters"].update(beta2=0.998))
    assert parity.main([str(copy), "--failures"]) == 1


def delete(name):
    return lambda folder: (folder / name).unlink()


def configure(*keys, value):
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return lambda folder: edit(folder / "config.json", change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (delete("losses.json"), "lacks losses.json"),
        (delete("batch.safetensors.xz"), "lacks batch.safetensors"),
        (delete("init/all_nets.safetensors.xz"), "lacks init/all_nets.safetensors"),
        (delete("config.json"), "not a parity case: it lacks config.json"),
        (lambda folder: (folder / "batch.safetensors.xz").write_bytes(b"x"), "is damaged"),
        (configure("paper", value="cyclegan"), "'cyclegan'"),
        (configure("hyperparameters", "gen", "pad_type", value="zero"), "gen.pad_type is 'zero'"),
        (configure("hyperparameters", "dis", "norm", value="in"), "dis.norm is 'in'"),
        (configure("hyperparameters", "dis", "gan_type", value="wgan"), "dis.gan_type is 'wgan'"),
        (configure("hyperparameters", "gen", "activ", value="lrelu"), "gen.activ is 'lrelu'"),
        (configure("hyperparameters", "vgg_w", value=1), "vgg_w is 1"),
        (configure("hyperparameters", "gen", "n_res", value=3), "config.json says sizes"),
        (configure("sizes", "image_hw", value=[32, 64]), "config.json says [2, 3, 32, 64]"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(copy, capsys, change, words):
    change(copy)
    assert parity.main([str(copy)]) == 2
    printed = capsys.readouterr().out
    assert words in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("configuration", [("gen", "pad_type", "zero"), ("dis", "gan_type", "nsgan"), ("vgg_w", 1)])
def test_what_munit_does_not_have_is_said(tmp_path, capsys, configuration):
    copy = Path(shutil.copytree(HERE / "munit", tmp_path / "case"))
    configure("hyperparameters", *configuration[:-1], value=configuration[-1])(copy)
    assert parity.main([str(copy)]) == 2
    assert f"{'.'.join(configuration[:-1])} is {configuration[-1]!r}, but our MUNIT has only" in capsys.readouterr().out


def test_official_containers_give_the_same_start(copy):
    """A case as recorded holds ``gen_%08d.pt`` and ``dis_%08d.pt`` where the compact one packs all tensors."""
    packed = parity_unit.recorded(Case(CASE), "init")
    nets = {"gen": {"a": {}, "b": {}}, "dis": {"a": {}, "b": {}}}
    for name, tensor in packed.weights.items():
        nets[name[:3]][name[4]][name[6:]] = tensor
    for net, pair in nets.items():
        torch.save(pair, copy / "init" / f"{net}_00000000.pt")
    read = parity_unit.recorded(Case(copy), "init")
    assert set(read.weights) == set(packed.weights)
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in packed.weights.items())


# The rules themselves, on one weight of four elements: the recorded update is 0.1 a step, the last element has no
# gradient, the official float32 is 1e-6 from float64.


@pytest.fixture
def toy(copy):
    edit(
        copy / "tolerance.json",
        lambda x: x.update(
            per_tensor_float32_vs_float64_max_abs_after1_after3={"net.w": [1.0e-6, 1.0e-6]},
            tensors_without_real_gradient={"names": ["net.null"]},
        ),
    )
    case = Case(copy)
    init = Snapshot({"net.w": torch.zeros(4), "net.null": torch.zeros(1), "net.still": torch.ones(2)})
    after = Snapshot({"net.w": torch.full((4,), 0.1), "net.null": torch.zeros(1) + 0.1, "net.still": torch.ones(2)})
    gradients = {"net.w": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    owners = dict.fromkeys(init.weights, "net")
    return case, init, after, gradients, lambda ours: Run({}, [], init, {"after1": ours}, [[0.1]], [], owners)


@pytest.mark.parametrize(
    ("name", "index", "shift", "seen"),
    [
        ("net.w", 0, 1.6e-4, False),  # 1e-3 of the update of three elements: 1.7e-4
        ("net.w", 0, 1.8e-4, True),
        ("net.w", 3, 0.2, False),  # decided by rounding: two steps of Adam and a tenth
        ("net.w", 3, 0.23, True),
        ("net.null", 0, 0.2, False),
        ("net.null", 0, 0.23, True),
        ("net.still", 1, 1e-7, True),  # what did not change must not
        ("net.w", 1, math.nan, True),
    ],
)
def test_float32_limits_of_weights(toy, name, index, shift, seen):
    case, init, after, gradients, run = toy
    ours = Snapshot({key: value.clone() for key, value in after.weights.items()})
    ours.weights[name][index] += shift
    lines = list(rules.weight_lines(case, run(ours), "after1", after, init, gradients))
    assert any(not line.ok for line in lines) == seen


def test_float64_must_be_as_far_from_the_file_as_recorded(toy):
    case, init, after, _, run = toy
    exact = Snapshot({key: value.double() for key, value in after.weights.items()})
    for shift, agrees in ((1.0e-6, True), (1.05e-6, True), (1.1e-6, False), (0.0, False)):
        exact.weights["net.w"][0] = after.weights["net.w"][0].double() + shift
        first = next(iter(rules.recorded_lines(case, run(exact), "after1", after)))
        assert first.ok == agrees


def test_first_gradients_come_from_adams_moment():
    init = Snapshot({"w": torch.tensor([2.0])})
    after = Snapshot({}, exp_avg={"w": torch.tensor([0.5 * (3.0 + 0.1 * 2.0)])})
    assert rules.first_gradients(after, init, 0.5, 0.1)["w"].item() == pytest.approx(3.0)


def test_recorded_digits():
    assert rules.rounding(1.3e-8) == pytest.approx(1.3e-10 + 0.05e-8)
    assert rules.rounding(1e-7) == pytest.approx(1e-9 + 0.05e-7)
    assert rules.rounding(0.195) == pytest.approx(0.00195 + 0.0005)
    assert rules.rounding(0.0) == 0
    assert not Line("x", math.nan, 1.0).ok


def test_a_flip_by_rounding_is_undone_and_told_but_an_error_is_not():
    x = torch.tensor([[1.0, -1e-8, -0.5]], dtype=torch.float64)
    with Watch() as watch:
        torch.relu(x * 1)
    near = torch.tensor([[1.0, 2e-6, -0.5]], requires_grad=True)
    with Same(watch.calls) as same:
        torch.relu(near * 1).sum().backward()
    assert near.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert len(same.flips) == 1
    assert "[0, 1]" in same.flips[0]
    far = torch.tensor([[1.0, 2e-3, -0.5]], requires_grad=True)
    with Same(watch.calls) as same:
        torch.relu(far * 1).sum().backward()
    assert far.grad.tolist() == [[1.0, 1.0, 0.0]]
    assert same.flips == []
