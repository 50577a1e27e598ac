"""The official container of ALAE, with the object that its tracker pickles, on random weights of its layout."""

import sys
import types
from collections import OrderedDict

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import conv2d, conv_transpose2d, pad
from torch.utils.data import DataLoader

from importers import alae
from importers.__main__ import main
from lightning_modules.alae import ALAE
from lightning_modules.style_alae import StyleALAE
from tests.lightning_modules.cases import ImageBatch, digits, fit, style_alae
from tests.lightning_modules.cases import alae as mlp

FUSED = {"resolution": 128, "latent": 3, "width": 2, "max_width": 4, "channels": 1, "mapping_layers": 2}


class RunningMeanTorch:
    """Of the official tracker; the file names its module, which nobody has."""

    def __init__(self):
        self.values = [torch.tensor(1.0)]


@pytest.fixture
def tracked(monkeypatch):
    """What the official code writes beside the models."""
    module = types.ModuleType("tracker")
    module.RunningMeanTorch = RunningMeanTorch
    monkeypatch.setattr(RunningMeanTorch, "__module__", "tracker")
    monkeypatch.setitem(sys.modules, "tracker", module)
    return {"scheduler": {}, "tracker": {"tracks": OrderedDict(lae=RunningMeanTorch()), "epochs": []}}


def filled(model):
    """Random numbers everywhere, so that no two tensors are alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
        model.w_avg.normal_()
    return model.eval()


def release_of(model):
    return alae.official({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, "here")


def write(models, auxiliary, path):
    torch.save({"models": models, "auxiliary": auxiliary}, path)
    sys.modules.pop("tracker", None)
    return path


@torch.no_grad()
def test_a_style_alae_comes_back_and_computes_the_same(tracked, tmp_path, capsys):
    model = filled(StyleALAE(**FUSED))
    src = write(release_of(model), tracked, tmp_path / "model_final.pth")
    main(["alae", "load", str(src), str(tmp_path / "x.ckpt")])
    assert "resolution 128, channels 1, latent 3, width 2, max_width 4, mapping_layers 2" in capsys.readouterr().out
    ours = StyleALAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
    assert ours.reached == (5, 1.0)
    model.shown.copy_(ours.shown)
    x = torch.rand(2, 1, 128, 128) * 2 - 1
    assert torch.equal(ours.predict_step(ImageBatch(x), 0), model.predict_step(ImageBatch(x), 0))
    main(["alae", "save", str(tmp_path / "x.ckpt"), str(tmp_path / "back.pth")])
    again, first = alae.read_release(tmp_path / "back.pth"), alae.read_release(src)
    assert list(again) == list(first)
    for net, tensors in first.items():
        assert list(again[net]) == list(tensors)
        assert all(torch.equal(again[net][name], tensor) for name, tensor in tensors.items())


def test_names_and_shapes_are_the_release_s():
    """Of the 128 pixels from which G's first convolutions are transposed ones, and of the filters."""
    models = release_of(filled(StyleALAE(**FUSED)))
    names = ["discriminator", "generator", "mapping_tl", "mapping_fl"]
    assert list(models) == [*names, "dlatent_avg", *(f"{name}_s" for name in names)]
    g, e = models["generator"], models["discriminator"]
    block = [name.removeprefix("decode_block.5.") for name in g if name.startswith("decode_block.5.")]
    assert block == [
        "noise_weight_1", "bias_1", "noise_weight_2", "bias_2", "conv_1.weight", "blur.weight", "style_1.weight",
        "style_1.bias", "conv_2.weight", "style_2.weight", "style_2.bias",
    ]  # fmt: skip
    block = [name.removeprefix("encode_block.0.") for name in e if name.startswith("encode_block.0.")]
    assert block == [
        "bias_1", "bias_2", "conv_1.weight", "blur.weight", "conv_2.weight", "style_1.weight", "style_1.bias",
        "style_2.weight", "style_2.bias",
    ]  # fmt: skip
    assert g["decode_block.5.conv_1.weight"].shape == (4, 2, 3, 3)
    assert g["decode_block.5.blur.weight"].shape == g["decode_block.5.bias_1"].transpose(0, 1).expand(2, 1, 3, 3).shape
    assert g["decode_block.4.conv_1.weight"].shape == (4, 4, 3, 3)
    assert e["encode_block.0.blur.weight"].shape == (2, 1, 3, 3)
    assert models["dlatent_avg"]["buff"].shape == (12, 3)
    assert models["mapping_tl"]["map_blocks.2.weight"].shape == (6, 3)


def test_the_transposed_convolution_of_the_file_is_ours_of_the_enlarged_image():
    model = filled(StyleALAE(**FUSED))
    kernel = pad(release_of(model)["generator"]["decode_block.5.conv_1.weight"], (1, 1, 1, 1))
    kernel = kernel[..., 1:, 1:] + kernel[..., :-1, 1:] + kernel[..., 1:, :-1] + kernel[..., :-1, :-1]
    x = torch.randn(2, 4, 5, 5)
    enlarged = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = conv2d(enlarged, model.g.blocks[5].conv_1.weight, padding=1)
    torch.testing.assert_close(conv_transpose2d(x, kernel, stride=2, padding=1), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
def test_mlps_of_both_configurations_come_back(tracked, tmp_path, last):
    """The one of 28 pixels has an unused batch normalisation; what it holds is not kept."""
    arguments = alae.LAST if last else {}
    model = filled(mlp(**arguments))
    models = release_of(model)
    norms = [name for name in models["generator"] if "bn_2" in name]
    assert len(norms) == (0 if last else 3)
    for name in norms:
        models["generator"][name] = models["generator"][name] + 1
    src = write(models, tracked, tmp_path / "model.pth")
    alae.load(src, tmp_path / "x.ckpt")
    ours = ALAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
    assert (ours.image_size, ours.unit_range) == ((32, False) if last else (28, True))
    x = torch.rand(2, 1, 32 if last else 28, 32 if last else 28) * 2 - 1
    assert torch.equal(ours.predict_step(ImageBatch(x), 0), model.predict_step(ImageBatch(x), 0))
    assert torch.equal(ours.w_avg, model.w_avg)


def test_training_goes_on_from_a_file(tracked, tmp_path):
    src = write(release_of(filled(style_alae())), tracked, tmp_path / "model.pth")
    alae.load(src, tmp_path / "x.ckpt")
    model = StyleALAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=-1, max_steps=5,
    )  # fmt: skip
    batch = ImageBatch(torch.rand(2, 3, 16, 16) * 2 - 1)
    trainer.fit(model, DataLoader([batch] * 9, batch_size=None), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert int(model.iterations) == 5  # of which three are its growth
    assert int(model.skipped) == 0
    assert model.trainer.optimizers[0].param_groups[0]["t"] == 4


def test_a_trained_model_is_written(tmp_path):
    model = mlp()
    trainer = fit(model, Digits(), steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    alae.save(tmp_path / "x.ckpt", tmp_path / "model.pth")
    models = alae.read_release(tmp_path / "model.pth")
    assert torch.equal(models["generator_s"]["fc_2.weight"], model.averaged["g"].layers[1].weight)
    assert torch.equal(models["dlatent_avg"]["buff"], model.w_avg.expand(8, -1))


class Digits(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([digits(2, k) for k in range(2)], batch_size=None)


def without(net, name):
    return lambda models: models[net].pop(name)


def replaced(net, name, change):
    return lambda models: models[net].update({name: change(models[net].get(name))})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("generator", "const"), r"\(generator\) lacks const"),
        (without("mapping_tl_s", "map_blocks.1.bias"), r"\(mapping_tl_s\) lacks map_blocks.1.bias"),
        (without("mapping_fl", "map_blocks.0.fc.weight"), "lacks the matrix map_blocks.0.fc.weight"),
        (without("discriminator", "from_rgb.0.from_rgb.weight"), "lacks the convolution from_rgb.0"),
        (replaced("discriminator", "new", lambda _: torch.zeros(1)), "does not have: new"),
        (replaced("generator", "const", lambda t: t[:, :1]), r"const is \(1, 1, 4, 4\)"),
        (replaced("generator_s", "decode_block.1.blur.weight", lambda t: 2 * t), "decode_block.1.blur.weight is not"),
        (replaced("dlatent_avg", "buff", lambda t: t[:4]), "not one tensor, buff, of 12 x 3"),
        (lambda models: models.pop("dlatent_avg"), "is not the official container"),
        (lambda models: models.update(generator=7), "generator is no state dict"),
    ],
)
def test_what_is_not_exactly_that_is_refused(tracked, tmp_path, change, words):
    models = release_of(filled(StyleALAE(**FUSED)))
    change(models)
    src = write(models, tracked, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=words):
        alae.load(src, tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()


def test_rows_of_an_mlp_s_mean_are_alike(tracked, tmp_path):
    models = release_of(filled(mlp()))
    models["dlatent_avg"]["buff"][3, 0] += 1
    with pytest.raises(ValueError, match="the rows of dlatent_avg differ"):
        alae.load(write(models, tracked, tmp_path / "model.pth"), tmp_path / "x.ckpt")


class Stranger:
    pass


def test_other_files_are_refused(tmp_path):
    torch.save({"models": {}, "auxiliary": Stranger()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="Stranger"):
        alae.load(tmp_path / "model.pth", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"end in \.ckpt"):
        alae.load(tmp_path / "model.pth", tmp_path / "x.pt")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "y.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of our ALAE or StyleALAE"):
        alae.save(tmp_path / "y.ckpt", tmp_path / "z.pth")
