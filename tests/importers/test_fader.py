"""The official container of Fader Networks: modules pickled by stub classes of the official names, and recorded."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from importers import fader
from importers.pickled import read_module
from lightning_modules.fader import Fader
from networks.fader import AutoEncoder, Classifier, LatentDiscriminator, PatchDiscriminator
from tests.importers.test_unit import trainer
from tests.lightning_modules.test_fader import of_two

ATTR = [("Male", 2), ("Smiling", 2)]
SIZES = {"init_fm": 4, "max_fm": 6, "n_layers": 3, "n_skip": 1}
AE: dict[str, Any] = {
    "img_sz": 32, "img_fm": 3, "instance_norm": False, "deconv_method": "convtranspose", "dropout": 0.0, "attr": ATTR,
    "n_attr": 4,
} | SIZES  # fmt: skip
RECORDED = Path(__file__).parents[3] / "shared" / "parity" / "fader" / "open"


@pytest.fixture
def official(monkeypatch):
    """Writes networks as the official code does: by class, settings and tensors."""
    module = types.ModuleType("src.model")
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.model", module)

    def plain(net: nn.Module) -> nn.Module:
        """The net of torch's own layers; ours has a batch normalisation of its own."""
        for name, child in net.named_children():
            setattr(net, name, plain(child))
        if isinstance(net, nn.BatchNorm2d):
            own = nn.BatchNorm2d(net.num_features)
            own.load_state_dict(net.state_dict())
            return own
        return net

    def write(path: Path, kind: str, net: nn.Module, settings: dict[str, Any], old: bool = False) -> dict[str, Any]:
        cls = type(kind, (nn.Module,), {"__module__": "src.model"})
        setattr(module, kind, cls)
        written = cls()
        with torch.no_grad():
            for p in [*net.parameters(), *net.buffers()]:
                p.copy_(torch.rand(p.shape) + 0.5 if p.is_floating_point() else torch.tensor(7))
        for name, child in plain(net).named_children():
            setattr(written, name, child)
        for name, value in settings.items():
            setattr(written, name, value)
        if old:  # before 0.4.1
            for layer in written.modules():
                layer._buffers.pop("num_batches_tracked", None)
        torch.save(written, path, _use_new_zipfile_serialization=not old)
        return written.state_dict()

    return write


def auto_encoder(**changes: Any) -> AutoEncoder:
    return AutoEncoder(**({"attributes": 4, "width": 4, "max_width": 6, "layers": 3, "skips": 1} | changes))


def loaded(path: Path) -> Fader:
    model = Fader.load_from_checkpoint(path, weights_only=True)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["_class_path"] == "lightning_modules.fader.Fader"
    return model.eval()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_an_auto_encoder_alone_edits_as_it_did(official, tmp_path, capsys, old):
    net = auto_encoder()
    state = official(tmp_path / "male.pth", "AutoEncoder", net, AE, old)
    fader.load(tmp_path / "male.pth", tmp_path / "ours" / "x.ckpt")
    assert "latent discriminator" in capsys.readouterr().out
    model = loaded(tmp_path / "ours" / "x.ckpt")
    assert (model.attributes, model.categories, model.image_size) == (("Male", "Smiling"), (2, 2), 32)
    ours = model.ae.state_dict()
    assert set(ours) - set(state) == {n for n in ours if old and n.endswith("num_batches_tracked")}
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())
    assert int(ours["enc_layers.1.1.num_batches_tracked"]) == (0 if old else 7)
    x, net = torch.rand(2, 3, 32, 32) * 2 - 1, net.eval()
    slid = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(2, 4)
    assert torch.equal(model.edit(x, torch.tensor([[0.0, 2.0]]).expand(2, 2)), net.decode(net.encode(x), slid))


def test_all_that_training_leaves_is_read(official, tmp_path):
    judge = {"img_sz": 32, "hid_dim": 5, "dropout": 0.25, "attr": ATTR}
    states = {
        "ae": official(tmp_path / "best_rec_ae.pth", "AutoEncoder", auto_encoder(dropout=0.5), AE | {"dropout": 0.5}),
        "lat_dis": official(
            tmp_path / "best_rec_lat_dis.pth", "LatentDiscriminator",
            LatentDiscriminator(4, 32, 4, 6, 3, 1, 5, 0.25), judge,
        ),
        "ptc_dis": official(
            tmp_path / "best_rec_ptc_dis.pth", "PatchDiscriminator", PatchDiscriminator(4), {"img_sz": 32, "init_fm": 4}
        ),
        "clf_dis": official(tmp_path / "best_rec_clf_dis.pth", "Classifier", Classifier(4, 32, 4, 6, 5), judge),
    }  # fmt: skip
    fader.load(tmp_path / "best_rec_ae.pth", tmp_path / "x.ckpt")
    model = loaded(tmp_path / "x.ckpt")
    for net, state in states.items():
        assert all(torch.equal(model.state_dict()[f"{net}.{name}"], tensor) for name, tensor in state.items()), net
    assert (model.lat_steps, model.ptc_steps, model.clf_steps) == (1, 1, 1)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5, 0.25, 0.25, 0.25]
    optimizers = torch.load(tmp_path / "x.ckpt", weights_only=True)["optimizer_states"]
    counts = [len(list(net.parameters())) for net in (model.lat_dis, model.ptc_dis, model.clf_dis, model.ae)]
    assert [len(state["param_groups"][0]["params"]) for state in optimizers] == counts


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_from_it(official, tmp_path):
    official(tmp_path / "male.pth", "AutoEncoder", auto_encoder(), AE)
    fader.load(tmp_path / "male.pth", tmp_path / "x.ckpt")
    model = loaded(tmp_path / "x.ckpt").train()
    before = model.ae.dec_layers[0][0].weight.clone()
    batches = DataLoader([of_two(1, k) for k in range(3)], batch_size=None)
    fit = trainer(max_steps=2)
    fit.fit(model, batches, ckpt_path=tmp_path / "x.ckpt")
    assert (fit.global_step, int(model.iterations), int(model.skipped)) == (2, 2, 0)
    assert not torch.equal(model.ae.dec_layers[0][0].weight, before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deconv_method": "upsampling"}, "deconv_method 'upsampling', but our Fader has only 'convtranspose'"),
        ({"instance_norm": True}, "instance_norm True, but"),
        ({"img_fm": 1}, "img_fm 1, but"),
        ({"max_fm": 8}, r"enc_layers\.1\.0\.weight is \(6, 4, 4, 4\), but"),
        ({"n_layers": 4}, r"lacks enc_layers\.3\.0\.weight"),
    ],
)
def test_what_ours_does_not_have_is_refused(official, tmp_path, changes, words):
    official(tmp_path / "x.pth", "AutoEncoder", auto_encoder(), AE | changes)
    with pytest.raises(ValueError, match=words):
        fader.load(tmp_path / "x.pth", tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()


def test_other_mistakes_are_answered_with_a_sentence(official, tmp_path):
    official(tmp_path / "x_ae.pth", "AutoEncoder", auto_encoder(), {k: v for k, v in AE.items() if k != "attr"})
    with pytest.raises(ValueError, match="does not say attr"):
        fader.load(tmp_path / "x_ae.pth", tmp_path / "x.ckpt")
    official(tmp_path / "x_ae.pth", "AutoEncoder", auto_encoder(), AE)
    official(
        tmp_path / "x_clf_dis.pth", "Classifier", Classifier(4, 32, 4, 6, 5), {"attr": [("Male", 2), ("Young", 2)]}
    )
    with pytest.raises(ValueError, match="the clf_dis beside it are of other attributes"):
        fader.load(tmp_path / "x_ae.pth", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"Classifier, which is not among"):
        fader.load(tmp_path / "x_clf_dis.pth", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"end in \.ckpt"):
        fader.load(tmp_path / "x_ae.pth", tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        fader.load(tmp_path / "none_ae.pth", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="no way back"):
        fader.save(tmp_path / "x.ckpt", tmp_path / "back.pth")


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded files are not in the repository")
@pytest.mark.parametrize("tag", ["init", "after1", "after3"])
def test_files_of_the_official_code_itself(tag, tmp_path):
    tensors = load_file(RECORDED / tag / "all_nets.safetensors")
    (path,) = (RECORDED / tag).glob("*_ae.pth")
    fader.load(path, tmp_path / "x.ckpt")
    model = loaded(tmp_path / "x.ckpt")
    assert (model.attributes, model.ae.skips, model.lat_dis.proj_layers[0].out_features) == (("Male", "Smiling"), 0, 12)
    ours = {k: v for k, v in model.state_dict().items() if k not in ("iterations", "skipped")}
    assert set(ours) == set(tensors)
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())
    assert read_module(path, ["src.model.AutoEncoder"]).settings["n_attr"] == 4
