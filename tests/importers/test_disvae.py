"""disvae's official container, both ways, on numbers of its layout."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from importers import __main__ as command
from importers import disvae
from interfaces.batch import ImageBatch
from lightning_modules.beta_tcvae import BetaTCVAE
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.dip_vae import DIPVAE
from lightning_modules.factor_vae import FactorVAE
from tests.hashed import filled, hashed


def layout(channels=1, side=32, latent=3, width=4, hidden=6):
    """Names and shapes of a state dict, written out from their description."""
    flat, code = width * 16, 2 * latent
    shapes = {"encoder.conv1": (width, channels, 4, 4)}
    shapes |= {f"encoder.{name}": (width, width, 4, 4) for name in ("conv2", "conv3", "conv_64")[: 3 - (side == 32)]}
    shapes |= {"encoder.lin1": (hidden, flat), "encoder.lin2": (hidden, hidden), disvae.HEAD: (code, hidden)}
    shapes |= {"decoder.lin1": (hidden, latent), "decoder.lin2": (hidden, hidden), "decoder.lin3": (flat, hidden)}
    shapes |= {f"decoder.{name}": (width, width, 4, 4) for name in ("convT_64", "convT1", "convT2")[side == 32 :]}
    shapes |= {"decoder.convT3": (width, channels, 4, 4)}
    result = {}
    for name, shape in shapes.items():
        out = shape[1] if ".convT" in name else shape[0]
        result |= {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(out)}
    return result


ARGS = {
    "model_type": "Burgess", "rec_dist": "bernoulli", "lr": 5e-4, "reg_anneal": 10.0, "betaH_B": 4, "betaB_initC": 0,
    "betaB_finC": 25, "betaB_G": 100, "factor_G": 6.4, "lr_disc": 5e-5, "btcvae_A": 2, "btcvae_B": 6, "btcvae_G": 1,
    "dataset": "mnist",
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes the container of a loss, with some arguments or tensors changed, and gives its folder."""

    def write(loss="betaH", change=lambda tensors, specs: None, **sizes):
        empty = layout(**sizes)
        tensors = {name: filled(empty)[name].float() for name in empty}  # in official order
        stem, code = tensors["encoder.conv1.weight"], tensors["decoder.lin1.weight"]
        side = 64 if "encoder.conv_64.weight" in tensors else 32
        specs = ARGS | {"loss": loss, "img_size": [stem.shape[1], side, side], "latent_dim": code.shape[1]}
        change(tensors, specs)
        folder = tmp_path / "official"
        folder.mkdir(exist_ok=True)
        torch.save(tensors, folder / "model.pt")
        (folder / "specs.json").write_text(json.dumps(specs))
        return folder

    return write


KINDS = {"VAE": BetaVAE, "betaH": BetaVAE, "betaB": BetaVAE, "btcvae": BetaTCVAE, "factor": FactorVAE}


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 64)])
@pytest.mark.parametrize("loss", KINDS)
def test_round_trip_is_exact(write, tmp_path, loss, channels, side):
    folder = write(loss, channels=channels, side=side)
    disvae.load(folder, tmp_path / "x.ckpt")
    disvae.save(tmp_path / "x.ckpt", tmp_path / "again")
    before, after = (torch.load(path / "model.pt", weights_only=True) for path in (folder, tmp_path / "again"))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    old, new = (json.loads((path / "specs.json").read_text()) for path in (folder, tmp_path / "again"))
    if loss == "VAE":  # is beta-VAE with beta 1
        old |= {"loss": "betaH", "betaH_B": 1}
    assert {name: old[name] for name in new} == new
    assert set(new) >= {"img_size", "latent_dim", "model_type", "rec_dist", "lr", "reg_anneal", "loss"}
    disvae.load(tmp_path / "again", tmp_path / "z.ckpt")
    ours, again = (torch.load(tmp_path / name, weights_only=True) for name in ("x.ckpt", "z.ckpt"))
    assert ours["hyper_parameters"] == again["hyper_parameters"]


def test_outputs_are_those_that_the_release_gives(tmp_path, write):
    """At its own size, from weights by integer arithmetic: recorded sums of reconstruction, means and variances."""
    folder = write(side=64, latent=10, width=32, hidden=256)
    disvae.load(folder, tmp_path / "x.ckpt")
    model = BetaVAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).double()
    x = (hashed((4, 1, 64, 64), 1000) + 1) / 2
    with torch.no_grad():
        mu, logvar = model.encoder(x)
        recon = (model.decode(model.encode(2 * x - 1)) + 1) / 2
    assert recon.sum().item() == pytest.approx(8214.587626, abs=1e-2)  # weights went through float32
    assert mu.sum().item() == pytest.approx(0.6232259498, abs=1e-5)
    assert mu.abs().sum().item() == pytest.approx(2.058560748, abs=1e-5)
    assert logvar.sum().item() == pytest.approx(-0.5878058949, abs=1e-5)


def test_means_are_even_rows_and_variances_odd_ones(write, tmp_path):
    folder = write(latent=3)
    disvae.load(folder, tmp_path / "x.ckpt")
    head = torch.load(folder / "model.pt")[f"{disvae.HEAD}.weight"]
    ours = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(ours["encoder.mu.weight"], head[[0, 2, 4]])
    assert torch.equal(ours["encoder.logvar.weight"], head[[1, 3, 5]])


ARGUMENTS = {
    "VAE": {"beta": 1.0, "anneal": 10, "gamma": 0.0},
    "betaH": {"beta": 4.0, "anneal": 10, "gamma": 0.0},
    "betaB": {"gamma": 100.0, "c_max": 25.0, "c_steps": 10},
    "btcvae": {"beta": 6.0, "alpha": 2.0, "anneal": 10, "stratified": True, "data_size": 60_000},
    "factor": {"factor_gamma": 6.4, "anneal": 10, "halves": True, "dis_lr": 5e-5, "beta": 1.0},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", KINDS)
def test_the_checkpoint_loads_and_training_starts_from_it(write, tmp_path, loss):
    disvae.load(write(loss), tmp_path / "x.ckpt")
    model = KINDS[loss].load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    for name, value in ARGUMENTS[loss].items():
        assert repr(getattr(model, name)) == repr(value)  # the command line takes no 10.0 for iterations
    before = {name: p.clone() for name, p in model.named_parameters()}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
    batch = ImageBatch(hashed((4, 1, 32, 32), 1).float())
    trainer.fit(model, DataLoader([batch] * 2, batch_size=None), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert int(model.iterations) == 2
    groups = [opt.param_groups[0] for opt in trainer.optimizers]
    expected = [(5e-4, (0.9, 0.999)), (5e-5, (0.5, 0.9))][: len(groups)]
    assert [(group["lr"], tuple(group["betas"])) for group in groups] == expected
    assert len(groups) == 1 + (loss == "factor")
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters() if "bias" in name)


def test_a_discriminator_starts_afresh_as_the_release_makes_it(write, tmp_path, capsys):
    disvae.load(write("factor", latent=10), tmp_path / "x.ckpt")
    assert "no discriminator: it starts afresh" in capsys.readouterr().out
    model = FactorVAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert sum(p.numel() for p in model.discriminator.parameters()) == 4_017_002
    assert model.discriminator.layers[1].weight.abs().max().item() == pytest.approx(math.sqrt(6 / 1000), rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "args", "words"),
    [
        ("betaH", {"rec_dist": "laplace"}, "trained with rec_dist laplace"),
        ("betaB", {"betaB_initC": 5}, "started at 5: ours starts at 0"),
        ("btcvae", {}, "ours counts it once"),
        ("btcvae", {"btcvae_G": 3}, "had the weight 3: ours has 1"),
        ("btcvae", {"dataset": "mine"}, "How many images it saw is not known"),
    ],
)
def test_what_goes_on_otherwise_is_said(write, tmp_path, capsys, loss, args, words):
    disvae.load(write(loss, lambda tensors, specs: specs.update(args)), tmp_path / "x.ckpt")
    assert words in capsys.readouterr().out
    KINDS[loss].load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)


def test_a_file_of_an_epoch_will_do(write, tmp_path):
    folder = write()
    (folder / "model.pt").rename(folder / "model-30.pt")
    disvae.load(folder / "model-30.pt", tmp_path / "x.ckpt")
    with pytest.raises(FileNotFoundError, match=r"model\.pt"):
        disvae.load(folder, tmp_path / "x.ckpt")
    (folder / "specs.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"specs\.json"):
        disvae.load(folder / "model-30.pt", tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: s.update(loss="gan"), "the loss is 'gan', but there are: VAE"),
        (lambda t, s: s.pop("betaH_B"), "does not say betaH_B"),
        (lambda t, s: s.update(reg_anneal=2.5), "reg_anneal is 2.5"),
        (lambda t, s: s.update(latent_dim=4), "has latent_dim 3, but the arguments beside it say 4"),
        (lambda t, s: s.update(img_size=[1, 64, 64]), r"has img_size \[1, 32, 32\]"),
        (lambda t, s: s.update(model_type="Other"), "'Other'"),
        (lambda t, s: t.pop("encoder.conv1.weight"), "lacks the convolution encoder.conv1.weight"),
        (lambda t, s: t.pop("decoder.lin2.weight"), "lacks the layer decoder.lin2.weight"),
        (lambda t, s: t.pop(f"{disvae.HEAD}.bias"), r"lacks encoder.mu_logvar_gen.bias\[0::2\]"),
        (lambda t, s: t.update({f"{disvae.HEAD}.bias": torch.zeros(7)}), r"bias\[0::2\] is \(4,\)"),
        (lambda t, s: t.update(more=torch.zeros(1)), "does not have: more"),
        (lambda t, s: t.update(more=1), "is not the official container"),
    ],
)
def test_one_sentence_for_each_mistake(write, tmp_path, change, words):
    folder = write(change=change)
    with pytest.raises(ValueError, match=words):
        disvae.load(folder, tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["hyper_parameters"].update(_class_path="lightning_modules.dip_vae.DIPVAE"), "is of DIPVAE, which"),
        (lambda c: c.pop("hyper_parameters"), "is of no class that it names"),
        (lambda c: c["hyper_parameters"].update(gaussian=True), "has gaussian, which"),
        (lambda c: c["hyper_parameters"].update(tanh=True), "has tanh, which"),
        (lambda c: c["state_dict"].pop("encoder.layers.1.bias"), "with two layers: encoder.layers.1.bias"),
        (lambda c: c["state_dict"].pop("encoder.convs.2.weight"), "has 2 convolutions, but disvae has 3 or 4"),
        (lambda c: c["state_dict"].update({"encoder.convs.2.weight": torch.zeros(4, 4, 2, 2)}), r"is \(4, 4, 2, 2\)"),
        (lambda c: c.pop("state_dict"), "not a Lightning checkpoint"),
    ],
)
def test_what_has_no_place_in_the_container_is_not_lost_in_silence(write, tmp_path, change, words):
    disvae.load(write(), tmp_path / "x.ckpt")
    ours = torch.load(tmp_path / "x.ckpt", weights_only=True)
    change(ours)
    torch.save(ours, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=words):
        disvae.save(tmp_path / "x.ckpt", tmp_path / "y")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BetaVAE, BetaTCVAE, FactorVAE, DIPVAE])
def test_a_checkpoint_of_our_own_training_is_written(tmp_path, kind):
    sizes = {"image_shape": (1, 32, 32), "latent": 2, "convs": (4,) * 3, "kernels": (4,) * 3}
    model = kind(**sizes, hidden=(6, 6), dec_hidden=(6, 6), **({"dis_width": 4} if kind is FactorVAE else {}))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(model, DataLoader([ImageBatch(torch.zeros(2, 1, 32, 32))], batch_size=None))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    if kind is DIPVAE:
        with pytest.raises(ValueError, match="is of DIPVAE"):
            disvae.save(tmp_path / "x.ckpt", tmp_path / "y")
        return
    disvae.save(tmp_path / "x.ckpt", tmp_path / "y")
    disvae.load(tmp_path / "y", tmp_path / "z.ckpt")
    again = torch.load(tmp_path / "z.ckpt", weights_only=True)["state_dict"]
    mine = {name: t for name, t in model.state_dict().items() if name.startswith(("encoder", "decoder"))}
    assert all(torch.equal(again[name], tensor) for name, tensor in mine.items())


def test_command_line_reports_instead_of_raising(write, tmp_path, capsys):
    folder = write()
    for args, words in (
        (["load", str(tmp_path / "none"), "x.ckpt"], "There is no file"),
        (["load", str(folder), "x.pt"], "end in .ckpt"),
        (["save", str(tmp_path / "none.ckpt"), "x"], "There is no file"),
    ):
        with pytest.raises(SystemExit) as raised:
            command.main(["disvae", *args])
        assert words in str(raised.value.code)
    command.main(["disvae", "load", str(folder), str(tmp_path / "x.ckpt")])
    assert "Wrote" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is a file|a file, but"):
        disvae.save(tmp_path / "x.ckpt", folder / "model.pt")
