"""The official container of VQ-VAE-2's first stage: state dicts of official names, and recorded."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from importers import __main__ as command
from importers import vq_vae2
from interfaces.batch import ImageBatch
from lightning_modules.vq_vae2 import VQVAE2
from tests.importers.test_unit import assert_equal, conv, trainer

SIZES = {"channels": 3, "width": 5, "res_blocks": 2, "res_width": 4, "dim": 3, "codes": 7}
RECORDED = Path(__file__).parents[3] / "shared" / "parity" / "vq_vae_2" / "open"


def residual(start, blocks, width, res_width):
    shapes = {}
    for k in range(blocks):
        shapes |= conv(f"{start[0]}.blocks.{start[1] + k}.conv.1", res_width, width, 3)
        shapes |= conv(f"{start[0]}.blocks.{start[1] + k}.conv.3", width, res_width, 1)
    return shapes


def transposed(name, i, o):
    return {f"{name}.weight": (i, o, 4, 4), f"{name}.bias": (o,)}


def codebook(name, dim, codes):
    return {f"{name}.embed": (dim, codes), f"{name}.cluster_size": (codes,), f"{name}.embed_avg": (dim, codes)}


def vqvae(channels, width, res_blocks, res_width, dim, codes):
    """Names and shapes of the official VQVAE, written out from its layout."""
    c, half, n, inner = width, width // 2, res_blocks, (res_blocks, width, res_width)
    shapes = conv("enc_b.blocks.0", half, channels, 4) | conv("enc_b.blocks.2", c, half, 4)
    shapes |= conv("enc_b.blocks.4", c, c, 3) | residual(("enc_b", 5), *inner)
    shapes |= conv("enc_t.blocks.0", half, c, 4) | conv("enc_t.blocks.2", c, half, 3) | residual(("enc_t", 3), *inner)
    shapes |= conv("quantize_conv_t", dim, c, 1) | codebook("quantize_t", dim, codes)
    shapes |= conv("dec_t.blocks.0", c, dim, 3) | residual(("dec_t", 1), *inner)
    shapes |= transposed(f"dec_t.blocks.{n + 2}", c, dim)
    shapes |= conv("quantize_conv_b", dim, dim + c, 1) | codebook("quantize_b", dim, codes)
    shapes |= transposed("upsample_t", dim, dim)
    shapes |= conv("dec.blocks.0", c, 2 * dim, 3) | residual(("dec", 1), *inner)
    return shapes | transposed(f"dec.blocks.{n + 2}", c, half) | transposed(f"dec.blocks.{n + 4}", half, channels)


def draw(**changes):
    return OrderedDict((name, torch.randn(shape)) for name, shape in vqvae(**SIZES | changes).items())


@pytest.fixture
def file(tmp_path):
    """An official-shaped file."""
    torch.manual_seed(0)
    torch.save(draw(), tmp_path / "vqvae_560.pt")
    return tmp_path / "vqvae_560.pt"


@pytest.mark.parametrize(
    "changes",
    [{}, {"channels": 1, "res_blocks": 0, "res_width": 32}, {"width": 8, "res_blocks": 1, "dim": 8, "codes": 512}],
    ids=str,
)
def test_official_ours_official_is_equal_bit_by_bit(tmp_path, capsys, changes):
    torch.manual_seed(1)
    torch.save(draw(**changes), tmp_path / "vqvae_001.pt")
    vq_vae2.load(tmp_path / "vqvae_001.pt", tmp_path / "ours" / "x.ckpt")
    assert "the moments of Adam start afresh" in capsys.readouterr().out
    vq_vae2.save(tmp_path / "ours" / "x.ckpt", tmp_path / "back" / "vqvae_001.pt")
    assert_equal(torch.load(tmp_path / "back" / "vqvae_001.pt"), torch.load(tmp_path / "vqvae_001.pt"))
    hparams = VQVAE2.load_from_checkpoint(tmp_path / "ours" / "x.ckpt").hparams
    assert {name: hparams[name] for name in SIZES} == SIZES | changes


def test_the_release_has_as_many_numbers_as_ours():
    shapes = vqvae(channels=3, width=128, res_blocks=2, res_width=32, dim=64, codes=512)
    buffers = {name for name in shapes if "quantize_t." in name or "quantize_b." in name}
    numbers = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(numbers[name] for name in buffers) == 132_096
    assert sum(numbers[name] for name in set(shapes) - buffers) == 1_388_867


@torch.no_grad()
def test_each_tensor_has_its_place(file):
    vq_vae2.load(file, file.with_name("x.ckpt"))
    official, model = torch.load(file), VQVAE2.load_from_checkpoint(file.with_name("x.ckpt"), weights_only=True).eval()
    nets = model.nets
    assert torch.load(file.with_name("x.ckpt"))["hyper_parameters"]["_class_path"] == "lightning_modules.vq_vae2.VQVAE2"
    for ours, name in (
        (nets.encoders[1].blocks[6].conv[3].weight, "enc_b.blocks.6.conv.3.weight"),
        (nets.encoders[0].blocks[2].bias, "enc_t.blocks.2.bias"),
        (nets.projections[0].weight, "quantize_conv_t.weight"),
        (nets.projections[1].weight, "quantize_conv_b.weight"),
        (nets.codebooks[0].cluster_size, "quantize_t.cluster_size"),
        (nets.codebooks[1].embed_avg, "quantize_b.embed_avg"),
        (nets.conditioners[0].blocks[4].weight, "dec_t.blocks.4.weight"),
        (nets.upsamples[0].weight, "upsample_t.weight"),
        (nets.decoder.blocks[6].bias, "dec.blocks.6.bias"),
    ):
        assert torch.equal(ours, official[name]), name
    top, bottom = model.indices_of(torch.rand(1, 3, 16, 16))
    assert torch.equal(nets.lookup([top, bottom])[0][0, :, 1, 0], official["quantize_t.embed"][:, top[0, 1, 0]])


def test_names_of_a_wrapped_model_are_those_of_a_plain_one(file):
    torch.save({f"module.{name}": tensor for name, tensor in torch.load(file).items()}, file.with_name("ddp.pt"))
    for name in ("ddp.pt", file.name):
        vq_vae2.load(file.with_name(name), file.with_name(f"{name}.ckpt"))
    plain, wrapped = (torch.load(file.with_name(f"{name}.ckpt")) for name in (file.name, "ddp.pt"))
    assert_equal(wrapped["state_dict"], plain["state_dict"])


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_with_a_fresh_optimizer(file):
    vq_vae2.load(file, file.with_name("x.ckpt"))
    (adam,) = torch.load(file.with_name("x.ckpt"), weights_only=True)["optimizer_states"]
    model = VQVAE2.load_from_checkpoint(file.with_name("x.ckpt"), weights_only=True)
    (opt,), _ = model.configure_optimizers()
    (group,), (own,) = adam["param_groups"], opt.state_dict()["param_groups"]
    assert adam["state"] == {}
    assert group == own
    before = model.nets.decoder.blocks[0].weight.clone()
    torch.manual_seed(2)
    batches = DataLoader([ImageBatch(torch.rand(2, 3, 16, 16) * 2 - 1) for _ in range(3)], batch_size=None)
    fit = trainer(max_steps=2)
    fit.fit(model, batches, ckpt_path=file.with_name("x.ckpt"))
    assert (fit.global_step, int(model.iterations), int(model.skipped)) == (2, 2, 0)
    assert {int(state["step"]) for state in fit.optimizers[0].state.values()} == {2}
    assert not torch.equal(model.nets.decoder.blocks[0].weight, before)
    fit.save_checkpoint(file.with_name("y.ckpt"))
    vq_vae2.save(file.with_name("y.ckpt"), file.with_name("on.pt"))
    vq_vae2.load(file.with_name("on.pt"), file.with_name("z.ckpt"))
    again, kept = torch.load(file.with_name("z.ckpt"))["state_dict"], model.state_dict()
    assert all(torch.equal(again[name], kept[name]) for name in kept if name.startswith("nets."))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.update(more=torch.zeros(1)), "does not have: more"),
        (lambda x: x.pop("quantize_b.embed_avg"), "lacks quantize_b.embed_avg"),
        (lambda x: x.pop("enc_b.blocks.0.weight"), "lacks the convolution enc_b.blocks.0.weight"),
        (lambda x: x.pop("quantize_t.embed"), "lacks the codebook quantize_t.embed"),
        (lambda x: x.update({"quantize_b.embed": torch.zeros(3, 8)}), r"quantize_b.embed is \(3, 8\), but"),
        (lambda x: x.pop("enc_b.blocks.5.conv.1.weight"), r"lacks enc_b.blocks.5.conv.1.weight\.$"),
        (lambda x: x.update({"module.dec.blocks.0.bias": torch.zeros(5)}), "does not have: module.dec.blocks.0.bias"),
        (lambda x: x.update(epoch=560), "not the official container"),
    ],
)
def test_one_sentence_for_each_mistake(file, change, words):
    release = torch.load(file)
    change(release)
    torch.save(release, file)
    with pytest.raises(ValueError, match=words) as raised:
        vq_vae2.load(file, file.with_name("x.ckpt"))
    assert file.name in str(raised.value)
    assert not file.with_name("x.ckpt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"levels": 3}, "has levels 3 and stride 4, but the official VQ-VAE-2 has only 2 and 4"),
        ({"levels": 1}, "has levels 1 and stride 4"),
        ({"stride": 8}, "has levels 2 and stride 8"),
        ({"stride": 2}, "has levels 2 and stride 2"),
    ],
)
def test_what_the_release_does_not_have_cannot_be_written(tmp_path, arguments, words):
    model = VQVAE2(**SIZES, **arguments)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=words):
        vq_vae2.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()


def test_other_checkpoints_cannot_be_written(tmp_path):
    for state, words in (
        ({"encoder.weight": torch.zeros(1)}, "not a checkpoint of our VQVAE2"),
        (VQVAE2(**SIZES).state_dict() | {"prior.weight": torch.zeros(1)}, "does not have: prior.weight"),
    ):
        torch.save({"state_dict": state}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=words):
            vq_vae2.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
    state = VQVAE2(**SIZES).state_dict()
    del state["nets.upsamples.0.bias"]
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"lacks nets\.upsamples\.0\.bias"):
        vq_vae2.save(tmp_path / "x.ckpt", tmp_path / "back.pt")


def test_command_line_reports_instead_of_raising(file):
    for args, words in (
        (["load", str(file.with_name("none.pt")), "x.ckpt"], "There is no file"),
        (["load", str(file), "x.pt"], "end in .ckpt"),
        (["save", str(file), "x.pt"], "not a Lightning checkpoint"),
        (["save", str(file.with_name("none.ckpt")), "x.pt"], "There is no file"),
    ):
        with pytest.raises(SystemExit) as raised:
            command.main(["vq_vae2", *args])
        assert words in str(raised.value.code)
    vq_vae2.load(file, file.with_name("x.ckpt"))
    with pytest.raises(SystemExit) as raised:
        command.main(["vq_vae2", "save", str(file.with_name("x.ckpt")), str(file.parent)])
    assert "a folder, but the official container is a file" in str(raised.value.code)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded files are not in the repository")
@pytest.mark.parametrize("tag", ["init", "after1", "after3"])
def test_files_of_the_official_code_itself(tag, tmp_path):
    tensors = {k.removeprefix("vqvae."): v for k, v in load_file(RECORDED / tag / "all_nets.safetensors").items()}
    (path,) = (RECORDED / tag).glob("vqvae_*.pt")
    vq_vae2.load(path, tmp_path / "x.ckpt")
    vq_vae2.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt")
    assert list(back) == list(torch.load(path))
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
