"""The official container of UFDN, a pickled module of its own classes, on random weights of its layout."""

import sys
import types

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from importers import ufdn
from interfaces.batch import DomainBatch
from lightning_modules.ufdn import UFDN


def layer(kind, i, o, act, norm):
    parts = [kind(i, o, 4, 2, 1)] + [nn.BatchNorm2d(o)] * norm + [act]
    return nn.Sequential(*[part for part in parts if part is not None])


class Official(nn.Module):
    """Encoder and decoder under official names; its forward pass is written out from their description."""

    def __init__(self, widths=(4, 6), code=5, domains=3):
        super().__init__()
        self.enc_layers, self.attr_dim = [], domains
        self.depth = len(widths)
        for k, (i, o) in enumerate(zip((3, *widths), widths, strict=False)):
            setattr(self, f"enc_{k}", layer(nn.Conv2d, i, o, nn.LeakyReLU(0.2), True))
        self.enc_mu = layer(nn.Conv2d, widths[-1], code, None, False)
        self.enc_logvar = layer(nn.Conv2d, widths[-1], code, None, False)
        for k, (i, o) in enumerate(zip((code + domains, *widths[::-1]), widths[::-1], strict=False)):
            setattr(self, f"dec_{k}", layer(nn.ConvTranspose2d, i, o, nn.LeakyReLU(0.2), True))
        setattr(self, f"dec_{len(widths)}", layer(nn.ConvTranspose2d, widths[0], 3, nn.Tanh(), False))

    def forward(self, x, v):
        for k in range(self.depth):
            x = getattr(self, f"enc_{k}")(x)
        h = torch.cat((self.enc_mu(x), v[:, :, None, None]), 1)
        for k in range(self.depth + 1):
            h = getattr(self, f"dec_{k}")(h)
        return h


class OfficialHead(nn.Module):
    def __init__(self, code=5):
        super().__init__()
        self.layer_out_0 = nn.Sequential(nn.Linear(code, 10))


@pytest.fixture
def official(monkeypatch):
    """The official module path, for pickles to name while they are written, and no longer."""
    module = types.ModuleType("src.ufdn")
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.ufdn", module)
    for name, kind in (("UFDN", Official), ("Discriminator", OfficialHead)):
        setattr(module, name, type(name, (kind,), {"__module__": "src.ufdn"}))
    return module


def build(kind, **sizes):
    torch.manual_seed(0)
    net = kind(**sizes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


def write(module, path):
    torch.save(module, path)
    return path


def forget(monkeypatch):
    monkeypatch.delitem(sys.modules, "src.ufdn")
    monkeypatch.delitem(sys.modules, "src")


@torch.no_grad()
def test_ours_computes_what_the_file_does(official, monkeypatch, tmp_path, capsys):
    theirs = build(official.UFDN)
    src = write(theirs, tmp_path / "5.vae")
    forget(monkeypatch)
    ufdn.load(src, tmp_path / "x.ckpt")
    assert "no discriminators" in capsys.readouterr().out
    ours = UFDN.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
    assert (ours.domains, ours.image_size, int(ours.iterations)) == (("photo", "sketch", "paint"), 8, 5)
    assert len(ours.lambda_feat) > 10_000
    x, v = torch.rand(2, 3, 8, 8) * 2 - 1, torch.tensor([[0.0, 1.0, 0.0], [-0.2, 0.0, 1.2]])
    torch.testing.assert_close(ours.blend(x, 0, v), theirs(x, v))


def test_training_goes_on(official, monkeypatch, tmp_path):
    src = write(build(official.UFDN), tmp_path / "5.vae")
    forget(monkeypatch)
    ufdn.load(src, tmp_path / "x.ckpt")
    model = UFDN.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    batch = DomainBatch(torch.rand(3, 3, 8, 8) * 2 - 1, torch.arange(3))
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=-1, max_steps=7,
    )  # fmt: skip
    trainer.fit(model, DataLoader([batch] * 9, batch_size=None), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert int(model.iterations) == 7
    assert int(model.skipped) == 0


@torch.no_grad()
def test_a_classifier_of_digits_beside_it_is_read(official, monkeypatch, tmp_path):
    src = write(build(official.UFDN, domains=2), tmp_path / "best.vae")
    head = build(official.Discriminator)
    write(head, tmp_path / "best.dnet")
    forget(monkeypatch)
    ufdn.load(src, tmp_path / "x.ckpt")
    ours = UFDN.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
    assert (ours.domains, ours.classes, ours.critic) == (("a", "b"), 10, None)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(ours.classify(x), head.layer_out_0(ours.content_of(x, 0).flatten(1)))


def test_files_of_pytorch_0_4_lack_counters(official, monkeypatch, tmp_path):
    theirs = build(official.UFDN)
    for part in theirs.modules():
        part._buffers.pop("num_batches_tracked", None)
    src = write(theirs, tmp_path / "vae")
    forget(monkeypatch)
    ufdn.load(src, tmp_path / "x.ckpt")
    assert (
        int(UFDN.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).encoder.norms[0].num_batches_tracked) == 0
    )


def without(name):
    return lambda net: delattr(net, name)


def replaced(name, part):
    return lambda net: setattr(net, name, part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("enc_mu"), "lacks the convolution enc_mu.0.weight"),
        (without("enc_logvar"), "lacks enc_logvar.0.weight"),
        (replaced("extra", nn.Sequential(nn.Linear(2, 2))), "does not have: extra.0.weight"),
        (replaced("dec_1", layer(nn.ConvTranspose2d, 6, 7, nn.LeakyReLU(0.2), True)), "dec_1.0.weight is"),
        (replaced("enc_2", nn.Sequential(nn.Upsample())), "Upsample"),
    ],
)
def test_what_is_not_exactly_that_is_refused(official, monkeypatch, tmp_path, change, words):
    theirs = build(official.UFDN)
    change(theirs)
    src = write(theirs, tmp_path / "5.vae")
    forget(monkeypatch)
    with pytest.raises(ValueError, match=words):
        ufdn.load(src, tmp_path / "x.ckpt")


def test_other_files_are_refused(official, monkeypatch, tmp_path):
    src = write(build(official.Discriminator), tmp_path / "5.vae")
    forget(monkeypatch)
    with pytest.raises(ValueError, match=r"src\.ufdn\.Discriminator"):
        ufdn.load(src, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"end in \.ckpt"):
        ufdn.load(src, tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        ufdn.load(tmp_path / "none.vae", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="There is no way back"):
        ufdn.save(tmp_path / "x.ckpt", tmp_path / "5.vae")
