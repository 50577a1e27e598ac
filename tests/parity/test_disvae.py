"""Our beta-VAE, beta-TCVAE and FactorVAE against recorded numbers of disvae, and against numbers changed on purpose.

The folders are recorded cases but for the official containers and, of outcomes, for large weights; pictures are kept at
a stride. Where the release is other mathematics than our module, the run has it from ``benchmarks.released.disvae``;
``tests/benchmarks/test_released_disvae`` holds our modules themselves against it. The draws of a case are equal by
shape: which draw goes where is tested there too.
"""

import functools
import lzma
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.parity import __main__ as parity
from benchmarks.parity import disvae as parity_disvae
from benchmarks.parity import rules
from benchmarks.parity.rules import Case, Run
from lightning_modules.beta_tcvae import BetaTCVAE
from tests.parity.cases import configure, edit

HERE = Path(__file__).parent
LOSSES = ["betaH", "betaB", "btcvae", "factor"]
EACH = pytest.mark.parametrize("loss", LOSSES)
RUN = parity_disvae.run
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def run(name: str, dtype: torch.dtype) -> Run:
    return RUN(Case(HERE / name), dtype)


@pytest.fixture
def copy(tmp_path):
    return lambda loss: Path(shutil.copytree(HERE / f"beta_vae_{loss}", tmp_path / f"beta_vae_{loss}"))


@pytest.fixture
def cached(monkeypatch):
    """The runner takes the runs above, since changes of recorded outcomes do not change ours."""
    monkeypatch.setattr(parity_disvae, "run", lambda case, dtype: run(case.path.name, dtype))


def edit_tensor(path, name, change):
    packed = path.with_name(path.name + ".xz")
    tensors = safetensors.torch.load(lzma.decompress(packed.read_bytes()))
    tensors[name] = change(tensors[name])
    packed.write_bytes(lzma.compress(safetensors.torch.save(tensors), preset=0))


class OurBetaTCVAE(parity_disvae.RecordedVAE, BetaTCVAE):
    """Nothing of the release."""


@EACH
def test_it_agrees_with_the_official_code(cached, capsys, loss):
    status = parity.main([str(HERE / f"beta_vae_{loss}")])
    printed = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in printed.splitlines() if not line.startswith("ok"))
    assert printed.count("\nok") > 185
    assert "kink" not in printed


@EACH
def test_float64_is_exact(loss):
    lines = rules.loss_lines(Case(HERE / f"beta_vae_{loss}"), run(f"beta_vae_{loss}", torch.float64), double=True)
    lines = [line for line in lines if "float32" not in line.name]
    assert len(lines) == 3 * {"btcvae": 11, "factor": 10}.get(loss, 8)
    assert max(line.difference for line in lines) < 1e-12


@pytest.mark.parametrize(
    ("loss", "words"),
    [("betaH", "BetaVAE: all of it is ours"), ("btcvae", "ours counts it once"), ("factor", "in ours it does not")],
)
def test_what_is_the_releases_is_said(capsys, loss, words):
    RUN(Case(HERE / f"beta_vae_{loss}"), torch.float64)
    assert words in capsys.readouterr().out


@EACH
def test_our_draws_are_the_recorded_ones_but_for_what_the_release_throws_away(loss):
    """FactorVAE's codes of the whole batch; the release shuffles by another kind of draw, which the case records."""
    case = Case(HERE / f"beta_vae_{loss}")
    recorded = [shape for kind, shape in case.config["ruled_draws_of_iteration_1"] if kind == "randn_like"]
    ours = [shape for _, shape in run(f"beta_vae_{loss}", torch.float64).draws]
    assert ours == (recorded[1:] if loss == "factor" else recorded)


OUTCOMES = {
    ("betaH", "loss"): ("losses.json", lambda x: x["float64"]["3"].update(loss=727.1729)),
    ("betaH", "coordinate"): ("losses.json", lambda x: x["float64"]["1"].update(kl_loss_4=0.0177345959)),
    ("betaH", "float32"): ("losses.json", lambda x: x["float32"]["1"].update(recon_loss=732.866)),
    ("betaH", "shape"): ("forward.json", lambda x: x["train_z"].update(shape=[4, 6])),
    ("betaB", "loss"): ("losses.json", lambda x: x["float64"]["2"].update(loss=1023.96599)),
    ("btcvae", "mi"): ("losses.json", lambda x: x["float64"]["1"].update(mi_loss=4.87302069)),
    ("btcvae", "dwkl"): ("losses.json", lambda x: x["float64"]["3"].update(dw_kl_loss=0.36773552)),
    ("factor", "tc"): ("losses.json", lambda x: x["float64"]["2"].update(tc_loss=-2.7785071)),
    ("factor", "dis"): ("losses.json", lambda x: x["float64"]["3"].update(discrim_loss=1.42699794)),
    ("factor", "distance"): (
        "tolerance.json",
        lambda x: x["float32_vs_float64"]["after3"]["per_tensor_all"].update({"discriminator.lin6.bias": 1.8123e-8}),
    ),
}


@pytest.mark.parametrize(("loss", "kind"), OUTCOMES)
def test_one_changed_outcome_is_seen(cached, copy, capsys, loss, kind):
    file, change = OUTCOMES[loss, kind]
    folder = copy(loss)
    edit(folder / file, change)
    assert parity.main([str(folder), "--failures"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loss", "file", "tensor"),
    [
        ("betaH", "forward", "logvar"),
        ("betaH", "forward", "train_recon"),
        ("betaB", "after1/all_nets", "vae.encoder.mu_logvar_gen.weight"),
        ("betaB", "after3/all_nets", "vae.decoder.convT3.weight"),
        ("btcvae", "forward", "log_qz"),
        ("btcvae", "forward", "log_iw_mat"),
        ("factor", "forward", "d_z"),
        ("factor", "after3/all_nets", "discriminator.lin6.weight"),
        ("factor", "grads1", "optimizer_d:discriminator.lin1.weight"),
        ("factor", "grads1", "vae_optimizer:vae.encoder.conv1.weight"),
    ],
)
def test_one_changed_tensor_is_seen(cached, copy, loss, file, tensor):
    folder = copy(loss)
    edit_tensor(folder / f"{file}.safetensors", tensor, lambda x: x * 1.002)
    assert parity.main([str(folder), "--failures"]) == 1


MISTAKES = {
    ("betaH", "beta"): {"betaH_B": 4.001},
    ("betaH", "ramp"): {"reg_anneal": 9.0},
    ("betaH", "rate"): {"lr": 0.000501},
    ("betaH", "likelihood"): {"rec_dist": "laplace"},
    ("betaH", "vae"): {"loss": "VAE"},
    ("betaB", "gamma"): {"betaB_G": 100.01},
    ("betaB", "capacity"): {"betaB_finC": 25.001},
    ("betaB", "start"): {"betaB_initC": 0.01},
    ("btcvae", "alpha"): {"btcvae_A": 1.001},
    ("btcvae", "beta"): {"btcvae_B": 6.001},
    ("btcvae", "gamma"): {"btcvae_G": 1.01},
    ("factor", "gamma"): {"factor_G": 6.401},
    ("factor", "rate"): {"lr_disc": 5.01e-05},
}


@pytest.mark.parametrize(("loss", "kind"), MISTAKES)
def test_one_changed_hyper_parameter_is_seen(copy, loss, kind):
    folder = copy(loss)
    edit(folder / "config.json", lambda x: x["args"].update(MISTAKES[loss, kind]))
    assert failures(folder) != []


def test_the_number_of_images_is_seen(copy):
    folder = copy("btcvae")
    edit(folder / "config.json", lambda x: x.update(n_data=101))
    assert any("forward log_iw_mat" in line for line in failures(folder))


def test_another_order_of_one_coordinate_is_seen(copy):
    folder = copy("factor")
    edit_tensor(folder / "batch.safetensors", "iter1.perm", lambda x: torch.cat((x[:4], x[4:].flip(1))))
    assert any("iter2 disentangling.discrim_loss" in line for line in failures(folder))


def test_our_own_mathematics_is_seen(copy, monkeypatch):
    """Where the run takes the release's, ours would differ: nothing of that is spent for nothing."""
    monkeypatch.setattr(parity_disvae.released, "leak", lambda d_z: 0.0 * d_z.sum())
    found = failures(copy("factor"))
    assert any("vae.encoder" in line for line in found)
    assert not any("after1 discriminator" in line or "after1 vae.decoder" in line for line in found)
    monkeypatch.setitem(parity_disvae.RECORDED, "btcvae", OurBetaTCVAE)
    assert any("mi_loss" in line for line in failures(copy("btcvae")))


def failures(folder: Path) -> list[str]:
    """Names of what does not agree in float64."""
    case = Case(folder)
    lines = parity.float64_lines(case, parity_disvae, RUN(case, torch.float64))
    return [line.name for line in lines if not line.ok]


@pytest.mark.parametrize(
    ("loss", "change", "words"),
    [
        ("betaH", configure("args", "loss", value="gamma"), "the loss is 'gamma', but there are: VAE, betaH"),
        ("betaH", configure("args", "rec_dist", value="cauchy"), "rec_dist is 'cauchy'"),
        ("betaH", configure("args", "reg_anneal", value=2.5), "reg_anneal is 2.5"),
        ("betaH", configure("args", "latent_dim", value=6), "has latent_dim 5, but the arguments beside it say 6"),
        ("betaH", configure("args", "img_size", value=[1, 64, 64]), "has img_size [1, 32, 32]"),
        ("betaH", configure("args", "batch_size", value=3), "iter0.x is [4, 1, 32, 32], but config.json says [3, 1"),
        ("betaH", configure("sizes", "hidden", value=25), "has widths [8, 24, 24, 24, 24], but config.json says 8 and"),
        ("factor", configure("sizes", "disc", value=21), "lin1.weight is (20, 5)"),
        ("betaB", lambda folder: (folder / "init" / "all_nets.safetensors.xz").unlink(), "lacks init/all_nets"),
        ("factor", lambda folder: no_order(folder, "iter2.perm"), "iter2.perm is no order of 4 codes for 5"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(copy, capsys, loss, change, words):
    folder = copy(loss)
    change(folder)
    assert parity.main([str(folder)]) == 2
    printed = capsys.readouterr().out
    assert words in printed
    assert len(printed.splitlines()) == 1


def no_order(folder, name):
    edit_tensor(folder / "batch.safetensors", name, torch.zeros_like)


def test_official_containers_give_the_same_start(copy):
    """A case as recorded holds model.pt where the compact one packs all tensors."""
    folder = copy("factor")
    packed = parity_disvae.recorded(Case(folder), "init")
    edit_tensor(folder / "init" / "all_nets.safetensors", "vae.encoder.lin2.bias", torch.zeros_like)
    vae = parity_disvae.of_network(packed.weights, "vae")
    torch.save(vae, folder / "init" / "model.pt")
    read = parity_disvae.recorded(Case(folder), "init")
    assert set(read.weights) == set(packed.weights)
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in packed.weights.items())


@pytest.mark.slow
@EACH
def test_the_whole_case_agrees(capsys, loss):
    """With every weight, where it is at hand."""
    whole = Path(__file__).parents[3] / "shared" / "parity" / f"beta_vae_{loss}" / "open"
    if not whole.is_dir():
        pytest.skip("the whole case is not here")
    assert parity.main([str(whole), "--failures"]) == 0
    assert "FAIL" not in capsys.readouterr().out
