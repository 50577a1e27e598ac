"""Our UFDN against the recorded numbers of the official one, and against numbers changed on purpose.

The folder is the recorded case but for its official containers, which ``tests/importers/test_ufdn`` has instead, and
what it holds twice. The draws of a case are equal by shape: which draw goes where is tested apart, in
``tests/lightning_modules/test_ufdn``.
"""

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import rules
from benchmarks.parity import ufdn as parity_ufdn
from benchmarks.parity.rules import Case
from tests.parity.cases import agreement, configure, edit, edit_tensors, once, refusal

CASE = Path(__file__).parent / "ufdn"
PAPER = parity_ufdn
run = functools.partial(once, parity_ufdn.run, CASE)  # in a precision
pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_agrees_with_the_official_code(cached, capsys):
    printed = agreement(CASE, capsys)
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
    def change(tensors):
        t = tensors[tensor]
        tensors[tensor] = t + 1 if tensor.endswith("tracked") else t * 1.002

    edit_tensors(folder / f"{file}.safetensors", change)
    assert parity.main([str(folder), "--failures"]) == 1


def set_in_model(*keys, value):
    return configure("yaml_config", "model", *keys, value=value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in_model("vae", "encoder", 0, 2, value=3), "vae.encoder is [['conv', 8, 3,"),
        (set_in_model("vae", "decoder", 1, 1, value=13), "vae.decoder is"),
        (set_in_model("D_feat", "dnn", 0, 4, value=0.5), "D_feat is"),
        (set_in_model("D_pix", "dnn", 1, 5, value="bn"), "D_pix is"),
        (set_in_model("D_pix", "dnn", 2, 1, value=17), "d_pix"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
        (configure("total_batch", value=7), "config.json says [7, 3,"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert words in refusal(folder, capsys)


def test_official_containers_give_the_same_start():
    """Of the whole case, where it is at hand."""
    whole = Path(__file__).parents[3] / "shared" / "parity" / "ufdn" / "open"
    if not whole.is_dir():
        pytest.skip("the whole case is not here")
    read_from_container = parity_ufdn.recorded(Case(whole), "after1")
    packed = parity_ufdn.recorded(Case(CASE), "after1")
    assert set(read_from_container.weights) == set(packed.weights)
    assert all(torch.equal(read_from_container.weights[name], tensor) for name, tensor in packed.weights.items())
