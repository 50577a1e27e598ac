"""Our UFDN against the recorded numbers of the official one, and against numbers changed on purpose.

The folder is the recorded case but for its official containers, which ``tests/importers/test_ufdn`` has instead, and
what it holds twice. The draws of a case are equal by shape: which draw goes where is tested apart, in
``tests/lightning_modules/test_ufdn``.
"""

import functools
import lzma
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import rules
from benchmarks.parity import ufdn as parity_ufdn
from benchmarks.parity.rules import Case, Run
from tests.parity.test_drit import edit

CASE = Path(__file__).parent / "ufdn"
RUN = parity_ufdn.run
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def run(dtype: torch.dtype) -> Run:
    return RUN(Case(CASE), dtype)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(CASE, tmp_path / "ufdn"))


@pytest.fixture
def cached(monkeypatch):
    """The runner takes the runs above, since changes of recorded outcomes do not change ours."""

    monkeypatch.setattr(parity_ufdn, "run", lambda case, dtype: run(dtype))


def test_it_agrees_with_the_official_code(cached, capsys):
    status = parity.main([str(CASE)])
    printed = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in printed.splitlines() if not line.startswith("ok"))
    assert printed.count("\nok") > 440
    assert "kink" not in printed


def test_float64_is_exact():
    lines = rules.loss_lines(Case(CASE), run(torch.float64), double=True)
    lines = [line for line in lines if "float32" not in line.name]
    assert len(lines) == 60
    assert max(line.difference for line in lines) < 1e-13


def test_our_targets_are_the_recorded_ones():
    case = Case(CASE)
    module = parity_ufdn.build(case)
    for k in range(case.iterations):
        module.iterations.fill_(k)
        assert torch.equal(module.targets(case.batch[f"iter{k}.code"]), case.batch[f"iter{k}.trans_code"])


OUTCOMES = {
    "penalty": lambda x: x["float64"]["1"].update(gp=60.8),
    "flipped": lambda x: x["float64"]["3"].update(adv_code_loss=6.144925),
    "sum": lambda x: x["float64"]["2"].update(kl=11.1636643),
    "weight": lambda x: x["float64"]["2"].update(lambda_pix_recon=99.9),
    "critic": lambda x: x["float32"]["2"].update(pix_fake_pred=0.4896),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_one_changed_loss_is_seen(cached, folder, capsys, kind):
    edit(folder / "losses.json", OUTCOMES[kind])
    assert parity.main([str(folder), "--failures"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("forward", "train_z"),
        ("forward", "d_pix_fake_code"),
        ("after1/all_nets", "vae.enc_1.1.running_var"),
        ("after3/all_nets", "vae.dec_2.1.running_mean"),
        ("after3/all_nets", "d_pix.layer_2.0.weight"),
        ("after1/all_nets", "vae.enc_0.1.num_batches_tracked"),
        ("grads1", "opt_dp:d_pix.layer_0.0.weight"),
    ],
)
def test_one_changed_tensor_is_seen(cached, folder, file, tensor):
    path = folder / f"{file}.safetensors.xz"
    tensors = safetensors.torch.load(lzma.decompress(path.read_bytes()))
    tensors[tensor] = tensors[tensor] + 1 if tensor.endswith("tracked") else tensors[tensor] * 1.002
    path.write_bytes(lzma.compress(safetensors.torch.save(tensors), preset=0))
    assert parity.main([str(folder), "--failures"]) == 1


def set_in_model(*keys, value):
    def change(config):
        config = config["yaml_config"]["model"]
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return lambda folder: edit(folder / "config.json", change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in_model("vae", "encoder", 0, 2, value=3), "vae.encoder is [['conv', 8, 3,"),
        (set_in_model("vae", "decoder", 1, 1, value=13), "vae.decoder is"),
        (set_in_model("D_feat", "dnn", 0, 4, value=0.5), "D_feat is"),
        (set_in_model("D_pix", "dnn", 1, 5, value="bn"), "D_pix is"),
        (set_in_model("D_pix", "dnn", 2, 1, value=17), "d_pix"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
        (lambda folder: edit(folder / "config.json", lambda x: x.update(total_batch=7)), "config.json says [7, 3,"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert parity.main([str(folder)]) == 2
    printed = capsys.readouterr().out
    assert words in printed
    assert len(printed.splitlines()) == 1


def test_official_containers_give_the_same_start():
    """Of the whole case, where it is at hand."""
    whole = Path(__file__).parents[3] / "shared" / "parity" / "ufdn" / "open"
    if not whole.is_dir():
        pytest.skip("the whole case is not here")
    read_from_container = parity_ufdn.recorded(Case(whole), "after1")
    packed = parity_ufdn.recorded(Case(CASE), "after1")
    assert set(read_from_container.weights) == set(packed.weights)
    assert all(torch.equal(read_from_container.weights[name], tensor) for name, tensor in packed.weights.items())
