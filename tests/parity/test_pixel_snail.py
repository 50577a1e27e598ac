"""Our PixelSNAIL against the recorded numbers of the release's, and against numbers and code changed on purpose.

The folder is the recorded case but for its official containers, which ``tests/importers/test_pixel_snail`` has instead,
and for gradients and trained weights of all but one of the larger tensors: the losses that follow depend on them. The
case is of a top level; the logits of a bottom are in ``tests/importers/test_pixel_snail`` too.
"""

import functools
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, pad, scaled_dot_product_attention

from benchmarks.parity import __main__ as parity
from benchmarks.parity import pixel_snail as parity_pixel_snail
from benchmarks.parity import rules
from benchmarks.parity.rules import Case, Run, Snapshot
from importers.mapping import to_official
from importers.pixel_snail import table
from lightning_modules.pixel_snail import PixelSNAIL
from networks import pixel_snail as networks
from networks.pixel_snail_layers import CausalConv, normalised
from tests.parity.cases import agreement, configure, edit, edit_tensors, float64_failures, once, pack, refusal

CASE = Path(__file__).parent / "vq_vae_2_pixelsnail"
WHOLE = Path(__file__).parents[3] / "shared" / "parity" / "vq_vae_2_pixelsnail" / "open"
MASKED = "pixelsnail.blocks.1.resblocks.0.conv1.conv.conv.weight_v"
PAPER = parity_pixel_snail
run = functools.partial(once, parity_pixel_snail.run, CASE)  # in a precision
pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_agrees_with_the_official_code(capsys):
    printed = agreement(CASE, capsys)
    assert printed.count("\nok") > 300
    assert printed.count("conv{1,2}.weight_v[:, :, -1, 2:], 2304 masked taps") == 1
    assert "kink" not in printed


def test_float64_is_exact():
    lines = rules.loss_lines(Case(CASE), run(torch.float64), double=True)
    lines = [line for line in lines if "float32" not in line.name]
    assert len(lines) == 6
    assert max(line.difference for line in lines) < 1e-13


OUTCOMES = {
    "loss": ("losses.json", lambda x: x["float64"]["3"].update(loss=2.146098913)),
    "accuracy": ("losses.json", lambda x: x["float64"]["2"].update(accuracy=8 / 48)),
    "float32": ("losses.json", lambda x: x["float32"]["1"].update(loss=2.09784)),
    "distance": (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["after3"]["per_tensor_all"].update({"pixelsnail.out.2.conv.bias": 4.3e-9}),
    ),
    "distance of what is there": (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["after3"]["per_tensor_all"].update({MASKED: 5.04e-9}),
    ),
    "shape": ("forward.json", lambda x: x["block1"].update(shape=[3, 16, 4, 5])),
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
        *(("forward", name) for name in ("horizontal", "vertical", "block0", "block1", "logits")),
        ("after1/all_nets", "pixelsnail.background"),
        ("after1/all_nets", "pixelsnail.vertical.conv.conv.weight_g"),
        ("after3/all_nets", "pixelsnail.blocks.1.causal_attention.query.bias"),
        ("after3/all_nets", "pixelsnail.out.2.conv.weight_g"),
        ("grads1", "optimizer:pixelsnail.blocks.0.causal_attention.key.weight_g"),
        ("grads1", "optimizer:pixelsnail.horizontal.conv.conv.bias"),
    ],
)
def test_one_changed_tensor_is_seen(cached, folder, capsys, file, tensor):
    def change(tensors):
        t = tensors[tensor]
        t.view(-1)[t.abs().argmax()] += 2e-3 * t.abs().max()

    edit_tensors(folder / f"{file}.safetensors", change)
    assert parity.main([str(folder), "--failures"]) == 1
    assert tensor in capsys.readouterr().out


@pytest.mark.parametrize(("row", "column", "seen"), [(-1, 2, False), (-1, 4, False), (-1, 1, True), (-2, 2, True)])
def test_exactly_masked_taps_are_left_out(cached, folder, capsys, row, column, seen):
    edit_tensors(folder / "after3" / "all_nets.safetensors", lambda x: x[MASKED][0, 0, row, column].add_(1e-3))
    assert parity.main([str(folder), "--failures"]) == int(seen)
    assert (f"after3 {MASKED}" in capsys.readouterr().out) == seen


def test_no_masked_tap_holds_the_recorded_distance_of_this_case():
    """In another it may; so the runner asks only that the other taps are no further away. Here they are just as far."""
    recorded, ours = (state.weights[MASKED] for state in (parity_pixel_snail.recorded(Case(CASE), "after3"), after()))
    there = ~run(torch.float64).absent[MASKED]
    found, d = rules.max_abs(ours[there], recorded[there]), Case(CASE).distance("after3", MASKED)
    assert abs(found - d) < rules.rounding(d)
    assert rules.max_abs(ours[~there], recorded[~there]) > 2.9e-4


def after() -> Snapshot:
    return run(torch.float64).after["after3"]


def test_elements_that_are_not_there():
    """Of a gradient and of a weight: the second of three."""
    case, init = Case(CASE), Snapshot({"net.w": torch.zeros(3)})
    official, gradients = Snapshot({"net.w": torch.tensor([0.1, 9.0, 0.1])}), {"net.w": torch.tensor([1.0, 5.0, 1.0])}
    absent = {"net.w": torch.tensor([False, True, False])}
    for weights, seen in (
        ([0.1, 0.0, 0.1], []),
        ([0.1, 1e-9, 0.1], ["after1 net.w (not there, not moved)"]),
        ([0.1, 0.0, 0.101], ["after1 net.w"]),
        ([0.1, math.nan, 0.1], ["after1 net.w (not there, not moved)"]),
    ):
        ours = Run({}, [], init, {"after1": Snapshot({"net.w": torch.tensor(weights)})}, [[0.1]], [], {"net.w": "w"})
        ours.absent = absent
        assert rules.usable(case, ours, "after1", "net.w", gradients).tolist() == [True, False, True]
        lines = list(rules.weight_lines(case, ours, "after1", official, init, gradients))
        assert [line.name for line in lines if not line.ok] == seen
        assert len(lines) == 2


@pytest.mark.parametrize(("key", "value"), [("lr", 3.001e-4)])
def test_one_changed_hyper_parameter_is_seen(folder, key, value):
    edit(folder / "config.json", lambda x: x["sizes"].update({key: value}))
    assert float64_failures(parity_pixel_snail, folder) != []


def test_one_changed_input_is_seen(folder):
    edit_tensors(folder / "batch.safetensors", lambda x: x["iter2.top"][0, 1, 2].add_(1).remainder_(8))
    assert any("iter3 vq.loss" in line.name for line in float64_failures(parity_pixel_snail, folder))


def attends_to_itself(self, query, key):
    q, k, v = self.heads(query, key)
    return scaled_dot_product_attention(q, k, v, is_causal=True).mT.reshape(len(query), -1, *query.shape[2:])


def first_place_gets_a_value(self, query, key):
    q, k, v = self.heads(query, key)
    found = scaled_dot_product_attention(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True)
    return torch.cat((v[:, :, :1], found), 2).mT.reshape(len(query), -1, *query.shape[2:])


def columns_not_moved_on(self, codes):
    above, left = self.horizontal(self.before(codes, self.horizontal)), self.vertical(self.before(codes, self.vertical))
    return pad(above[:, :, :-1], (0, 0, 1, 0)) + left


def norm_of_all_taps(self, v):
    weight = normalised(self.weight_g, v).flatten(2)
    return pad(weight[..., : weight.shape[2] - self.masked], (0, self.masked)).view_as(v)


@pytest.mark.parametrize(
    ("owner", "name", "mistake"),
    [
        (networks.CausalAttention, "forward", attends_to_itself),
        (networks.CausalAttention, "forward", first_place_gets_a_value),
        (networks.PixelSNAILNetwork, "first", columns_not_moved_on),
        (networks, "elu", torch.nn.functional.elu_),
        (networks, "glu", lambda x, dim: x.chunk(2, dim)[0].tanh() * x.chunk(2, dim)[1].sigmoid()),
    ],
    ids=["sees itself", "first place", "columns", "in place", "another gate"],
)
def test_another_network_is_seen(monkeypatch, owner, name, mistake):
    monkeypatch.setattr(owner, name, mistake)
    assert float64_failures(parity_pixel_snail, CASE) != []


def test_a_norm_of_all_taps_is_seen_where_masked_ones_are_not_zero(folder, monkeypatch):
    """The recorded ones are zero before the first step, as the release uses them; a file's need not be."""
    edit_tensors(folder / "init" / "all_nets.safetensors", lambda x: x[MASKED][:, :, -1, 2:].add_(0.1))
    assert not any("forward" in line.name for line in float64_failures(parity_pixel_snail, folder))
    monkeypatch.setattr(CausalConv, "_normalised", norm_of_all_taps)
    assert any("forward block1" in line.name for line in float64_failures(parity_pixel_snail, folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (configure("sizes", "sched", value="cycle"), "sched is 'cycle', but our PixelSNAIL has a constant rate"),
        (configure("sizes", "n_class", value=9), "has classes 8, but config.json says 9"),
        (configure("sizes", "shape", value=[4, 5]), "has shape (4, 4), but config.json says (4, 5)"),
        (configure("sizes", "kernel", value=3), "has kernel 5, but config.json says 3"),
        (configure("sizes", "attention", value=False), "has attention True, but config.json says False"),
        (configure("sizes", "channel", value=32), "args of another network than its tensors: channel 32 for 16"),
        (configure("sizes", "n_out_res_block", value=0), "n_out_res_block 0 for 1"),
        (configure("sizes", "B", value=2), "iter0.top is [3, 4, 4], but config.json says [2, 4, 4]"),
        (configure("sizes", value={"B": 3}), "config.json has no sizes of PixelSNAIL: shape, n_class, kernel"),
        (configure("paper", value="VQ-VAE-2-PixelSNAIL"), "the paper of this case is 'VQ-VAE-2-PixelSNAIL'"),
        (configure("paper", value="VQ-VAE-2 (the release): VQVAE"), "no sizes of VQ-VAE-2's first stage"),
        (lambda folder: edit_tensors(folder / "batch.safetensors", lambda x: x.pop("iter1.top")), "lacks iter1.top"),
        (lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets.safetensors"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(folder, capsys, change, words):
    change(folder)
    assert words in refusal(folder, capsys)


def test_each_stage_is_found_by_its_name(folder, monkeypatch):
    found = []
    for name in ("vq-vae-2", "vq-vae-2 pixelsnail"):
        monkeypatch.setattr(parity.PAPERS[name], "run", lambda case, dtype, name=name: found.append(name))
    monkeypatch.setattr(parity, "float64_lines", lambda *_: [])
    monkeypatch.setattr(parity, "float32_lines", lambda *_: [])
    for paper in ("VQ-VAE-2 (the release): VQVAE", "VQ-VAE-2 PixelSNAIL prior (the release)", "VQ-VAE-2"):
        configure("paper", value=paper)(folder)
        parity.compare(folder)
    assert found[::2] == ["vq-vae-2", "vq-vae-2 pixelsnail", "vq-vae-2"]


def test_a_bottom_is_trained_on_its_codes_and_those_above(folder):
    """Of which no case is here: the loss is that of its network."""
    sizes = {"classes": 8, "width": 16, "blocks": 1, "res_blocks": 1, "res_width": 8, "attention": False}
    torch.manual_seed(0)
    prior = PixelSNAIL((4, 4), **sizes, out_blocks=0, cond_blocks=1, cond_width=8, dropout=0.0, side_dropout=0.0)
    tensors = to_official(prior.state_dict(), table(prior.net))
    pack(folder / "init" / "all_nets.safetensors", {f"pixelsnail.{name}": tensor for name, tensor in tensors.items()})
    maps = {
        f"iter{k}.{level}": torch.randint(8, (3, s, s)) for k in range(3) for level, s in (("bottom", 4), ("top", 2))
    }
    pack(folder / "batch.safetensors", maps)
    told = {"hier": "bottom", "n_block": 1, "attention": False, "n_out_res_block": 1, "n_cond_res_block": 1}
    edit(folder / "config.json", lambda x: x["sizes"].update(told))
    ours = parity_pixel_snail.run(Case(folder), torch.float64)
    with torch.no_grad():
        logits = prior.double().net(maps["iter0.bottom"], maps["iter0.top"])
    assert ours.losses[0]["vq.loss"] == pytest.approx(cross_entropy(logits, maps["iter0.bottom"]).item(), abs=1e-12)
    assert torch.equal(ours.forward["logits"], logits)
    assert "optimizer:pixelsnail.cond_resnet.blocks.1.conv2.conv.weight_v" in ours.gradients


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the recorded files are not in the repository")
def test_official_containers_and_all_tensors_agree(cached, capsys):
    assert parity.main([str(WHOLE), "--failures"]) == 0
    assert capsys.readouterr().out.count(" compared, 0 over their limit") == 2
    whole, packed = (parity_pixel_snail.recorded(Case(path), "after3").weights for path in (WHOLE, CASE))
    assert len(whole) == 88
    assert set(packed) < set(whole)
    assert all(torch.equal(whole[name], tensor) for name, tensor in packed.items())
