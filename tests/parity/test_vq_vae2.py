"""Stage one of our VQ-VAE-2 against the recorded numbers of the official one, and against numbers changed on purpose.

The folder is the recorded case but for its official containers, which ``tests/importers/test_vq_vae2`` has instead, for
what it holds twice, and for gradients and trained weights of the larger tensors: the losses that follow depend on them.
The case has neither another decay than the release's nor restarts: ``tests/networks/test_codebook`` has.
"""

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import rules
from benchmarks.parity import vq_vae2 as parity_vq_vae2
from benchmarks.parity.rules import Case
from networks.codebook import Codebook
from tests.parity.cases import agreement, configure, edit, edit_tensors, float64_failures, once, refusal

CASE = Path(__file__).parent / "vq_vae_2"
WHOLE = Path(__file__).parents[3] / "shared" / "parity" / "vq_vae_2" / "open"
PAPER = parity_vq_vae2
run = functools.partial(once, parity_vq_vae2.run, CASE)  # in a precision
pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_agrees_with_the_official_code(cached, capsys):
    printed = agreement(CASE, capsys)
    assert printed.count("\nok") > 350
    assert "kink" not in printed


def test_float64_is_exact():
    lines = rules.loss_lines(Case(CASE), run(torch.float64), double=True)
    lines = [line for line in lines if "float32" not in line.name]
    assert len(lines) == 24
    assert max(line.difference for line in lines) < 1e-13


OUTCOMES = {
    "reconstruction": ("losses.json", lambda x: x["float64"]["3"].update(recon_loss=0.21650846)),
    "commitment": ("losses.json", lambda x: x["float64"]["2"].update(latent_loss=57.0442921)),
    "sum": ("losses.json", lambda x: x["float64"]["1"].update(loss=0.21299066)),
    "rate": ("losses.json", lambda x: x["float64"]["2"].update(lr=0.00030001)),
    "beta": ("losses.json", lambda x: x["float64"]["3"].update(beta1=0.85)),
    "used codes": ("losses.json", lambda x: x["float64"]["1"].update(n_codes_used_after_step_bottom=4)),
    "indices": ("losses.json", lambda x: x["float64"]["1"].update(id_checksum_after_step=23793)),
    "float32": ("losses.json", lambda x: x["float32"]["1"].update(latent_loss=0.0139174)),
    "distance": (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["after3"]["per_tensor_all"].update({"vqvae.upsample_t.weight": 1.95e-8}),
    ),
    "shape": ("forward.json", lambda x: x["id_b"].update(shape=[4, 4, 5])),
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_one_changed_outcome_is_seen(cached, folder, capsys, kind):
    name, change = OUTCOMES[kind]
    edit(folder / name, change)
    assert parity.main([str(folder), "--failures"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        *(("forward", name) for name in ("enc_b", "enc_t", "quant_t", "quant_b", "diff", "recon", "decode_code")),
        *(("forward", name) for name in ("id_t", "id_b")),
        ("after1/all_nets", "vqvae.quantize_b.embed_avg"),
        ("after3/all_nets", "vqvae.quantize_t.cluster_size"),
        ("after3/all_nets", "vqvae.quantize_conv_b.weight"),
        ("grads1", "optimizer:vqvae.enc_b.blocks.0.weight"),
    ],
)
def test_one_changed_tensor_is_seen(cached, folder, capsys, file, tensor):
    def change(tensors):
        t = tensors[tensor]
        t.view(-1)[t.abs().argmax()] += 1 if t.dtype == torch.int64 else 2e-3 * t.abs().max()

    edit_tensors(folder / f"{file}.safetensors", change)
    assert parity.main([str(folder), "--failures"]) == 1
    assert tensor in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "seen"), [(1 + 5e-5, False), (1 + 2e-4, True), (float("nan"), True)])
def test_an_entry_is_not_hidden_by_unused_ones_that_are_huge(cached, folder, factor, seen):
    """Entry 12, in use, is 3e4 times as short as four others: a limit for the tensor would not see it."""
    edit_tensors(folder / "after3" / "all_nets.safetensors", lambda x: x["vqvae.quantize_t.embed"][:, 12].mul_(factor))
    case = Case(folder)
    lines = parity.float32_lines(case, parity_vq_vae2, run(torch.float32))
    over = [line.name for line in lines if not line.ok]
    assert over == (["after3 vqvae.quantize_t.embed (each entry)"] if seen else [])


@pytest.mark.parametrize(("key", "value"), [("latent_w", 0.26), ("decay", 0.991), ("lr", 3.001e-4)])
def test_one_changed_hyper_parameter_is_seen(folder, key, value):
    edit(folder / "config.json", lambda x: x["sizes"].update({key: value}))
    assert float64_failures(parity_vq_vae2, folder) != []


def test_codes_that_follow_before_they_are_used_are_seen(monkeypatch):
    follow, quantise = Codebook._follow, Codebook.quantise

    def too_early(self, z):
        if self.training:
            rows = z.detach().movedim(1, -1).reshape(-1, z.shape[1])
            follow(self, rows, self.nearest(rows))
        return quantise(self, z)

    monkeypatch.setattr(Codebook, "quantise", too_early)
    monkeypatch.setattr(Codebook, "_follow", lambda *_: None)
    assert float64_failures(parity_vq_vae2, CASE) != []


def test_one_changed_input_is_seen(folder):
    edit_tensors(folder / "batch.safetensors", lambda x: x["iter2.x"][0, 0, 0, 0].add_(1e-3))
    assert float64_failures(parity_vq_vae2, folder) != []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (configure("sizes", "sched", value="cycle"), "sched is 'cycle', but our VQVAE2 has a constant rate"),
        (configure("sizes", "n_embed", value=17), "init/ does not hold networks of the sizes in config.json"),
        (configure("sizes", "n_res_block", value=1), "init/ does not hold networks of the sizes in config.json"),
        (configure("sizes", "B", value=3), "iter0.x is [4, 3, 16, 16], but config.json says [3, 3, 16, 16]"),
        (configure("sizes", value={"B": 3}), "config.json has no sizes of VQ-VAE-2's first stage: in_channel, channel"),
        (configure("paper", value="VQ-GAN"), "there are: disentangling-vae"),
        (
            lambda folder: edit_tensors(folder / "batch.safetensors", lambda x: x.pop("iter1.x")),
            "batch.safetensors lacks iter1.x",
        ),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert words in refusal(folder, capsys)


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the recorded files are not in the repository")
def test_official_containers_and_all_tensors_agree(cached, capsys):
    assert parity.main([str(WHOLE), "--failures"]) == 0
    assert capsys.readouterr().out.count(" compared, 0 over their limit") == 2
    whole, packed = (parity_vq_vae2.recorded(Case(path), "after3").weights for path in (WHOLE, CASE))
    assert len(whole) == 64
    assert set(packed) < set(whole)
    assert all(torch.equal(whole[name], tensor) for name, tensor in packed.items())
