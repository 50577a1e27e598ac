"""The official container of PixelSNAIL: a state dict of official names and a Namespace, with known logits, recorded."""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from importers import __main__ as command
from importers import pixel_snail
from interfaces.batch import CodeBatch
from lightning_modules.pixel_snail import PixelSNAIL
from networks.pixel_snail import coordinates
from tests.hashed import filled
from tests.importers.test_unit import assert_equal, trainer

TOP = {
    "shape": (4, 6), "classes": 5, "width": 16, "kernel": 3, "blocks": 2, "res_blocks": 2, "res_width": 6,
    "attention": True, "out_blocks": 1, "cond_blocks": 0, "cond_width": 256, "cond_kernel": 3,
}  # fmt: skip
BOTTOM = TOP | {"attention": False, "out_blocks": 0, "cond_blocks": 2, "cond_width": 6}
GOLDEN = TOP | {"shape": (8, 8), "classes": 16, "width": 32, "kernel": 5, "res_width": 32}
RECORDED = Path(__file__).parents[3] / "shared" / "parity" / "vq_vae_2_pixelsnail" / "open"


def layer(name, *shape, bias=True):
    """Of a layer with weight normalisation."""
    of_bias = {f"{name}.bias": shape[:1]} if bias else {}
    return of_bias | {f"{name}.weight_g": (shape[0], *[1] * (len(shape) - 1)), f"{name}.weight_v": shape}


def gated(name, width, hidden, kernel=1, conv="conv", aux=0, told=0):
    shapes = layer(f"{name}.conv1.{conv}", hidden, width, kernel, kernel)
    shapes |= layer(f"{name}.aux_conv.conv", hidden, aux, 1, 1) if aux else {}
    shapes |= layer(f"{name}.conv2.{conv}", 2 * width, hidden, kernel, kernel)
    return shapes | (layer(f"{name}.condition.conv", 2 * width, told, 1, 1, bias=False) if told else {})


def attention(name, c):
    shapes = gated(f"{name}.key_resblock", 2 * c + 2, c) | gated(f"{name}.query_resblock", c + 2, c)
    for part, inputs in (("query", c + 2), ("key", 2 * c + 2), ("value", 2 * c + 2)):
        shapes |= layer(f"{name}.causal_attention.{part}", c // 2, inputs)
    return shapes | gated(f"{name}.out_resblock", c, c, aux=c // 2)


def official(sizes):
    """Names and shapes of the official PixelSNAIL, written out from its layout."""
    c, k, n, r = (sizes[name] for name in ("width", "kernel", "classes", "res_width"))
    told = sizes["cond_width"] if sizes["cond_blocks"] else 0
    shapes = {"background": (1, 2, *sizes["shape"])}
    shapes |= layer("horizontal.conv.conv", c, n, k // 2, k) | layer("vertical.conv.conv", c, n, (k + 1) // 2, k // 2)
    for i in range(sizes["blocks"]):
        for j in range(sizes["res_blocks"]):
            shapes |= gated(f"blocks.{i}.resblocks.{j}", c, r, k, "conv.conv", told=told)
        shapes |= attention(f"blocks.{i}", c) if sizes["attention"] else layer(f"blocks.{i}.out.conv", c, c + 2, 1, 1)
    if told:
        shapes |= layer("cond_resnet.blocks.0.conv", told, n, *[sizes["cond_kernel"]] * 2)
        for j in range(sizes["cond_blocks"]):
            shapes |= gated(f"cond_resnet.blocks.{j + 1}", told, told, sizes["cond_kernel"])
    for j in range(sizes["out_blocks"]):
        shapes |= gated(f"out.{j}", c, r)
    return shapes | layer(f"out.{sizes['out_blocks'] + 1}.conv", n, c, 1, 1)


def arguments(sizes, **changes):
    bottom = sizes["cond_blocks"] > 0
    told = {
        "batch": 32, "epoch": 420, "hier": "bottom" if bottom else "top", "lr": 2e-4, "channel": sizes["width"],
        "n_res_block": sizes["res_blocks"], "n_res_channel": sizes["res_width"], "n_out_res_block": sizes["out_blocks"],
        "n_cond_res_block": sizes["cond_blocks"], "dropout": 0.25, "amp": "O0", "sched": None, "ckpt": None, "path": "",
    }  # fmt: skip
    return Namespace(**told | changes)


def draw(sizes):
    """Of a file whose coordinates are the release's and whose masked taps hold anything."""
    tensors = OrderedDict((name, 0.3 * torch.randn(shape)) for name, shape in official(sizes).items())
    tensors["background"] = coordinates(*sizes["shape"])
    return tensors


def write(path, sizes, model=None, **changes):
    torch.save({"model": draw(sizes) if model is None else model, "args": arguments(sizes, **changes)}, path)
    return path


def read(path):
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)


def logits_of(path, codes, condition=None):
    """Of the imported network, in float64."""
    pixel_snail.load(path, path.with_name("golden.ckpt"))
    ours = torch.load(path.with_name("golden.ckpt"))
    model = PixelSNAIL(**{k: v for k, v in ours["hyper_parameters"].items() if k != "_class_path"}).double().eval()
    model.load_state_dict(ours["state_dict"])
    with torch.no_grad():
        return model.net(codes, condition)


@pytest.fixture
def file(tmp_path):
    """An official-shaped file of a top level."""
    torch.manual_seed(0)
    return write(tmp_path / "pixelsnail_top_420.pt", TOP)


@pytest.mark.parametrize(
    "sizes",
    [
        TOP,
        BOTTOM,
        TOP | {"attention": False, "kernel": 5, "blocks": 1, "res_blocks": 1, "out_blocks": 2},
        BOTTOM | {"attention": True, "cond_width": 4, "cond_kernel": 1, "out_blocks": 1},
        TOP | {"res_blocks": 0, "out_blocks": 0, "res_width": 256},
    ],
    ids=str,
)
def test_official_ours_official_is_equal_bit_by_bit(tmp_path, capsys, sizes):
    torch.manual_seed(1)
    write(tmp_path / "pixelsnail.pt", sizes)
    pixel_snail.load(tmp_path / "pixelsnail.pt", tmp_path / "ours" / "x.ckpt")
    assert "the moments of Adam start afresh" in capsys.readouterr().out
    pixel_snail.save(tmp_path / "ours" / "x.ckpt", tmp_path / "back" / "pixelsnail.pt")
    assert "The release's scripts do not build shape (4, 6), classes 5" in capsys.readouterr().out
    back, there = read(tmp_path / "back" / "pixelsnail.pt"), read(tmp_path / "pixelsnail.pt")
    assert_equal(back["model"], there["model"])
    assert_equal(vars(back["args"]), vars(there["args"]))
    hparams = PixelSNAIL.load_from_checkpoint(tmp_path / "ours" / "x.ckpt", weights_only=True).hparams
    assert {name: hparams[name] for name in sizes} == sizes
    assert (hparams.dropout, hparams.side_dropout, hparams.lr) == (0.25, 0.1, 2e-4)


def test_the_release_has_as_many_numbers_as_ours():
    full = {"classes": 512, "width": 256, "kernel": 5, "blocks": 4, "res_blocks": 4, "res_width": 256, "out_blocks": 0}
    for sizes, numbers in (
        (TOP | full | {"shape": (32, 32)}, 84_873_280),
        (BOTTOM | full | {"shape": (64, 64), "cond_blocks": 3, "cond_width": 256}, 89_762_816),
    ):
        shapes = official(sizes)
        background = torch.Size(shapes.pop("background")).numel()
        assert sum(torch.Size(shape).numel() for shape in shapes.values()) == numbers
        assert background == 2 * sizes["shape"][0] * sizes["shape"][1]


@pytest.mark.parametrize(
    ("sizes", "step", "total", "absolute", "first", "nll"),
    [
        (GOLDEN, 7, -55.01547554, 498.7032541, -0.01080981411, 2.8067115590771086),
        (
            GOLDEN | {"shape": (16, 16), "attention": False, "out_blocks": 0, "cond_blocks": 2, "cond_width": 32},
            5, -387.5398897, 2364.456003, -0.2562635008, 2.8687435834609754,
        ),
    ],
    ids=["top", "bottom"],
)  # fmt: skip
def test_logits_are_those_of_the_release_from_its_own_names(tmp_path, sizes, step, total, absolute, first, nll):
    model = filled({name: torch.zeros(shape) for name, shape in official(sizes).items()})
    model["background"] = coordinates(*sizes["shape"]).double()
    write(tmp_path / "golden.pt", sizes, model)
    codes = (torch.arange(2 * sizes["shape"][0] * sizes["shape"][1]) * step % 16).view(2, *sizes["shape"])
    condition = (torch.arange(128) * 7 % 16).view(2, 8, 8) if sizes["cond_blocks"] else None
    logits = logits_of(tmp_path / "golden.pt", codes, condition)
    assert logits.sum().item() == pytest.approx(total, rel=1e-9)
    assert logits.abs().sum().item() == pytest.approx(absolute, rel=1e-9)
    assert logits[0, 0, 0, 0].item() == pytest.approx(first, rel=1e-8)
    assert cross_entropy(logits, codes).item() == pytest.approx(nll, abs=1e-12)


@pytest.mark.parametrize("sizes", [TOP, BOTTOM], ids=["top", "bottom"])
def test_it_draws_the_same_codes_with_masked_taps_at_zero_as_the_release_uses_them(tmp_path, sizes):
    torch.manual_seed(3)
    model = draw(sizes)
    zeroed = OrderedDict((name, tensor.clone()) for name, tensor in model.items())
    for name in (name for name in zeroed if "resblocks" in name and name.endswith("conv.conv.weight_v")):
        zeroed[name][:, :, -1, sizes["kernel"] // 2 :] = 0
    condition = torch.arange(12).remainder(5).view(2, 2, 3) if sizes["cond_blocks"] else None
    drawn = []
    for k, each in enumerate((model, zeroed)):
        pixel_snail.load(write(tmp_path / f"{k}.pt", sizes, each), tmp_path / f"{k}.ckpt")
        prior = PixelSNAIL.load_from_checkpoint(tmp_path / f"{k}.ckpt", weights_only=True).eval()
        drawn.append(prior.sample(2, condition, rng=torch.Generator().manual_seed(4)))
    assert drawn[0].shape == (2, 4, 6)
    assert len(drawn[0].unique()) > 2
    assert torch.equal(*drawn)


def test_names_of_a_wrapped_model_are_those_of_a_plain_one(file):
    wrapped = {f"module.{name}": tensor for name, tensor in read(file)["model"].items()}
    write(file.with_name("ddp.pt"), TOP, wrapped)
    for name in ("ddp.pt", file.name):
        pixel_snail.load(file.with_name(name), file.with_name(f"{name}.ckpt"))
    plain, wrapped = (torch.load(file.with_name(f"{name}.ckpt")) for name in (file.name, "ddp.pt"))
    assert_equal(wrapped["state_dict"], plain["state_dict"])


def test_a_bottom_trained_without_the_level_above_is_read(tmp_path):
    write(tmp_path / "alone.pt", TOP | {"attention": False}, hier="bottom", n_out_res_block=7)
    pixel_snail.load(tmp_path / "alone.pt", tmp_path / "x.ckpt")
    assert torch.load(tmp_path / "x.ckpt")["hyper_parameters"]["cond_blocks"] == 0


def test_what_the_arguments_do_not_say_is_the_release_s_default(file):
    release = read(file)
    release["args"] = Namespace(hier="top")
    torch.save(release, file)
    pixel_snail.load(file, file.with_name("x.ckpt"))
    ours = torch.load(file.with_name("x.ckpt"))["hyper_parameters"]
    assert (ours["dropout"], ours["lr"]) == (0.1, 3e-4)


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_with_a_fresh_optimizer(file):
    pixel_snail.load(file, file.with_name("x.ckpt"))
    (adam,) = torch.load(file.with_name("x.ckpt"), weights_only=True)["optimizer_states"]
    model = PixelSNAIL.load_from_checkpoint(file.with_name("x.ckpt"), weights_only=True)
    (group,), (own,) = adam["param_groups"], model.configure_optimizers().state_dict()["param_groups"]
    assert adam["state"] == {}
    assert group == own
    before = model.net.blocks[1].resblocks[0].conv2.weight_v.clone()
    torch.manual_seed(2)
    batches = DataLoader([CodeBatch(torch.randint(5, (2, 4, 6)), None) for _ in range(3)], batch_size=None)
    fit = trainer(max_steps=2)
    fit.fit(model, batches, ckpt_path=file.with_name("x.ckpt"))
    assert (fit.global_step, int(model.iterations), int(model.skipped)) == (2, 2, 0)
    moved = model.net.blocks[1].resblocks[0].conv2.weight_v != before
    assert moved[:, :, :-1].all()
    assert not moved[:, :, -1, 1:].any()
    fit.save_checkpoint(file.with_name("y.ckpt"))
    pixel_snail.save(file.with_name("y.ckpt"), file.with_name("on.pt"))
    pixel_snail.load(file.with_name("on.pt"), file.with_name("z.ckpt"))
    again, kept = torch.load(file.with_name("z.ckpt"))["state_dict"], model.state_dict()
    assert all(torch.equal(again[name], kept[name]) for name in kept if name.startswith("net."))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x["model"].update(more=torch.zeros(1)), "does not have: more"),
        (lambda x: x["model"].pop("out.0.conv1.conv.weight_g"), "lacks out.0.conv1.conv.weight_g"),
        (lambda x: x["model"].pop("horizontal.conv.conv.weight_v"), "lacks the convolution horizontal"),
        (lambda x: x["model"].pop("background"), "lacks the map of coordinates, background"),
        (lambda x: x["model"].update(background=torch.zeros(1, 3, 4, 6)), r"background is \(1, 3, 4, 6\), but"),
        (lambda x: x["model"].update({"module.out.2.conv.bias": torch.zeros(5)}), "not have: module.out.2.conv.bias"),
        (lambda x: x["model"].update(epoch=420), "not the official container"),
        (lambda x: x.pop("model"), "not the official container"),
        (lambda x: x.update(args=vars(x["args"])), "not the official container"),
        (lambda x: setattr(x["args"], "channel", 17), "args of another network than its tensors: channel 17 for 16"),
        (lambda x: setattr(x["args"], "n_res_channel", 16), "n_res_channel 16 for 6"),
        (lambda x: setattr(x["args"], "n_out_res_block", 0), "n_out_res_block 0 for 1"),
        (lambda x: setattr(x["args"], "hier", "bottom"), "n_cond_res_block 3 for 0"),
        (lambda x: setattr(x["args"], "dropout", "0.1"), "dropout is '0.1', not a number"),
        (lambda x: setattr(x["args"], "dropout", 1.5), r"no PixelSNAIL of ours: dropout and side_dropout must be in"),
        (lambda x: setattr(x["args"], "path", PurePosixPath("codes")), "was not loaded: .*pathlib.PurePosixPath"),
    ],
)
def test_one_sentence_for_each_mistake(file, change, words):
    release = read(file)
    release["args"].n_cond_res_block = 3  # the command line's default, which says nothing of a top
    change(release)
    torch.save(release, file)
    with pytest.raises(ValueError, match=words) as raised:
        pixel_snail.load(file, file.with_name("x.ckpt"))
    assert file.name in str(raised.value)
    assert not file.with_name("x.ckpt").exists()


def test_a_level_that_reads_another_is_no_top(tmp_path):
    write(tmp_path / "x.pt", BOTTOM, hier="top")
    with pytest.raises(ValueError, match="hier 'top' for 'bottom'"):
        pixel_snail.load(tmp_path / "x.pt", tmp_path / "x.ckpt")


def test_reading_allows_no_other_file_a_namespace(file):
    pixel_snail.load(file, file.with_name("x.ckpt"))
    assert Namespace not in torch.serialization.get_safe_globals()
    with pytest.raises(ValueError, match="argparse.Namespace"):
        pixel_snail.save(file, file.with_name("back.pt"))


def test_other_checkpoints_cannot_be_written(tmp_path):
    state = PixelSNAIL(**TOP).state_dict()
    whole = dict(state)
    for changed, words in (
        ({"encoder.weight": torch.zeros(1)}, "not a checkpoint of our PixelSNAIL: it lacks net.background"),
        (whole | {"prior.weight": torch.zeros(1)}, "does not have: prior.weight"),
        ({k: v for k, v in whole.items() if k != "net.out.2.bias"}, r"lacks net\.out\.2\.bias"),
    ):
        torch.save({"state_dict": changed}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=words):
            pixel_snail.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
        assert not (tmp_path / "back.pt").exists()


def test_what_the_release_s_scripts_build_is_written_without_a_word(tmp_path, capsys):
    full = {"classes": 512, "kernel": 5, "blocks": 4, "res_blocks": 1, "out_blocks": 0}
    for sizes in (TOP | full | {"shape": (32, 32)}, BOTTOM | full | {"shape": (64, 64)}):
        torch.save({"state_dict": PixelSNAIL(**sizes).state_dict()}, tmp_path / "x.ckpt")
        pixel_snail.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
        assert "scripts" not in capsys.readouterr().out


def test_command_line_reports_instead_of_raising(file):
    for args, words in (
        (["load", str(file.with_name("none.pt")), "x.ckpt"], "There is no file"),
        (["load", str(file), "x.pt"], "end in .ckpt"),
        (["save", str(file.with_name("none.ckpt")), "x.pt"], "There is no file"),
    ):
        with pytest.raises(SystemExit) as raised:
            command.main(["pixel_snail", *args])
        assert words in str(raised.value.code)
    command.main(["pixel_snail", "load", str(file), str(file.with_name("x.ckpt"))])
    with pytest.raises(SystemExit) as raised:
        command.main(["pixel_snail", "save", str(file.with_name("x.ckpt")), str(file.parent)])
    assert "a folder, but the official container is a file" in str(raised.value.code)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded files are not in the repository")
@pytest.mark.parametrize("tag", ["init", "after1", "after3"])
def test_files_of_the_official_code_itself(tag, tmp_path):
    tensors = load_file(RECORDED / tag / "all_nets.safetensors")
    (path,) = (RECORDED / tag).glob("pixelsnail_*.pt")
    pixel_snail.load(path, tmp_path / "x.ckpt")
    pixel_snail.save(tmp_path / "x.ckpt", tmp_path / "back.pt")
    back, there = read(tmp_path / "back.pt"), read(path)
    assert list(back["model"]) == list(there["model"])
    assert {f"pixelsnail.{name}" for name in back["model"]} == set(tensors)
    assert all(torch.equal(back["model"][name.removeprefix("pixelsnail.")], tensor) for name, tensor in tensors.items())
    assert list(vars(back["args"])) == list(vars(there["args"]))
