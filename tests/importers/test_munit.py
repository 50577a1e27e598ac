from collections import OrderedDict

import pytest
import torch

from importers import __main__ as command
from importers import munit, unit
from lightning_modules.munit import MUNIT
from tests.importers.test_unit import adam, assert_equal, conv, draw, loader, ms_image_dis, trainer


def adain_gen(width, downs, blocks, style, mlp):
    """Names and shapes of the parameters of the official AdaINGen, written out from its layout."""
    shapes = conv("enc_style.model.0.conv", width, 3, 7)
    for k, (i, o) in enumerate(((1, 2), (2, 4), (4, 4), (4, 4))):
        shapes |= conv(f"enc_style.model.{k + 1}.conv", o * width, i * width, 4)
    shapes |= conv("enc_style.model.6", style, 4 * width, 1)
    shapes |= conv("enc_content.model.0.conv", width, 3, 7)
    c = width
    for k in range(downs):
        shapes |= conv(f"enc_content.model.{k + 1}.conv", 2 * c, c, 4)
        c *= 2
    for part, index in (("enc_content", downs + 1), ("dec", 0)):
        for i in range(blocks):
            for j in (0, 1):
                shapes |= conv(f"{part}.model.{index}.model.{i}.model.{j}.conv", c, c, 3)
    parameters = 4 * c * blocks
    for k in range(downs):
        shapes |= {f"dec.model.{2 * k + 2}.norm.{p}": (c // 2,) for p in ("gamma", "beta")}
        shapes |= conv(f"dec.model.{2 * k + 2}.conv", c // 2, c, 5)
        c //= 2
    shapes |= conv(f"dec.model.{2 * downs + 1}.conv", 3, width, 7)
    for k, (i, o) in enumerate(((style, mlp), (mlp, mlp), (mlp, parameters))):
        shapes |= {f"mlp.model.{k}.fc.weight": (o, i), f"mlp.model.{k}.fc.bias": (o,)}
    return shapes


def with_statistics(parameters, blocks):
    """The official state dict: AdaIN has statistics that nothing reads, before the convolution of its layer."""
    state = OrderedDict()
    for name, tensor in parameters.items():
        if name.endswith("conv.weight") and name.startswith("dec.model.0."):
            for statistic, value in (("mean", 0.0), ("var", 1.0)):
                state[name.replace("conv.weight", f"norm.running_{statistic}")] = torch.full((len(tensor),), value)
        state[name] = tensor
    assert len(state) == len(parameters) + 4 * blocks
    return state


SIZES = [(4, 2, 2, 5, 6, 2, 3, 2), (3, 1, 3, 8, 7, 5, 2, 1)]


@pytest.fixture(params=SIZES, ids=str)
def folder(request, tmp_path):
    """An official-shaped folder at iteration 7, with an older snapshot beside it."""
    torch.manual_seed(0)
    *sizes, dis_width, dis_layers, dis_scales = request.param
    gen = {d: draw(adain_gen(*sizes)) for d in "ab"}
    dis = {d: draw(ms_image_dis(dis_width, dis_layers, dis_scales)) for d in "ab"}
    torch.save({d: with_statistics(gen[d], sizes[2]) for d in "ab"}, tmp_path / "gen_00000007.pt")
    torch.save(dis, tmp_path / "dis_00000007.pt")
    torch.save({"gen": adam(*gen.values()), "dis": adam(*dis.values())}, tmp_path / "optimizer.pt")
    torch.save({}, tmp_path / "gen_00000006.pt")
    return tmp_path


def test_official_ours_official_is_equal_bit_by_bit(folder):
    munit.load(folder, folder / "ours" / "x.ckpt")
    munit.save(folder / "ours" / "x.ckpt", folder / "back")
    assert {p.name for p in (folder / "back").iterdir()} == {"gen_00000007.pt", "dis_00000007.pt", "optimizer.pt"}
    for path in (folder / "back").iterdir():
        assert_equal(torch.load(folder / path.name), torch.load(path))


def test_the_official_sizes_have_the_official_number_of_tensors():
    sizes = munit.Sizes(64, 2, 4, 8, 256, 64, 4, 3)
    layout = munit.layout(sizes)
    assert len(layout.tables["gen"][0]) - 1 == len(adain_gen(64, 2, 4, 8, 256)) == 66
    assert len(layout.tables["dis"][0]) == 30
    assert sum(shape.numel() for shape in layout.parameters("gen").values()) == 2 * 15_026_187
    names = [row.official for row in layout.tables["gen"][1] if row.ours is not None]
    assert names == list(adain_gen(64, 2, 4, 8, 256))  # the order in which the official Adam numbers them


def test_our_munit_loads_it_with_sizes_and_rates_of_the_files(folder):
    munit.load(folder, folder / "x.ckpt")
    model = MUNIT.load_from_checkpoint(folder / "x.ckpt")
    gen, dis = torch.load(folder / "gen_00000007.pt"), torch.load(folder / "dis_00000007.pt")
    a, b, n = gen["a"], gen["b"], model.hparams.downsamplings
    assert model.hparams.width == len(a["enc_content.model.0.conv.bias"])
    assert model.hparams.style_size == model.style_spec.size == len(a["enc_style.model.6.bias"])
    assert model.hparams.mlp_width == len(a["mlp.model.0.fc.bias"])
    assert int(model.iterations) == 7
    assert (model.lr, model.betas, model.weight_decay) == (2e-4, (0.4, 0.99), 1e-3)
    assert torch.equal(model.content_encoders[1].stem.weight, b["enc_content.model.0.conv.weight"])
    assert torch.equal(model.style_encoders[0].downs[3].weight, a["enc_style.model.4.conv.weight"])
    assert torch.equal(model.decoders[0].norms[0].beta, a["dec.model.2.norm.beta"])
    assert torch.equal(model.decoders[1].head.bias, b[f"dec.model.{2 * n + 1}.conv.bias"])
    assert torch.equal(model.decoders[1].blocks[1].conv1.bias, b["dec.model.0.model.1.model.0.conv.bias"])
    assert torch.equal(model.decoders[0].mlp.last.weight, a["mlp.model.2.fc.weight"])
    assert torch.equal(model.discriminators[1].scales[0].layers[1].bias, dis["b"]["cnns.0.1.conv.bias"])


@pytest.mark.filterwarnings("ignore")
def test_trainer_goes_on_training_from_it(folder):
    munit.load(folder, folder / "x.ckpt")
    model = MUNIT.load_from_checkpoint(folder / "x.ckpt")
    fit = trainer(max_steps=9)
    fit.fit(model, loader(), ckpt_path=folder / "x.ckpt")
    assert int(model.iterations) == fit.global_step == 9
    steps = {int(state["step"]) for opt in fit.optimizers for state in opt.state.values()}
    assert steps == {9}
    # The moments belong to their parameters: an import that mixed them up would differ in shape or value here.
    fit.save_checkpoint(folder / "y.ckpt")
    munit.save(folder / "y.ckpt", folder / "on")
    munit.load(folder / "on", folder / "z.ckpt")
    again, before = torch.load(folder / "z.ckpt"), torch.load(folder / "y.ckpt")
    assert_equal(again["state_dict"], dict(before["state_dict"]))
    for ours, theirs in zip(again["optimizer_states"], before["optimizer_states"], strict=True):
        assert_equal(ours["state"], dict(sorted(theirs["state"].items())))


def test_each_moment_goes_to_its_parameter(folder):
    munit.load(folder, folder / "x.ckpt")
    model = MUNIT.load_from_checkpoint(folder / "x.ckpt")
    gen, moments = torch.load(folder / "gen_00000007.pt"), torch.load(folder / "optimizer.pt")["gen"]["state"]
    names = [name for name in gen["a"] if "running_" not in name]
    ours = torch.load(folder / "x.ckpt")["optimizer_states"][1]["state"]
    places = {name: n for n, (name, _) in enumerate(model.generators().named_parameters())}
    official = moments[len(names) + names.index("enc_style.model.6.bias")]["exp_avg"]  # of domain b
    assert torch.equal(ours[places["1.1.head.bias"]]["exp_avg"], official)
    official = moments[names.index("mlp.model.1.fc.weight")]["exp_avg_sq"]
    assert torch.equal(ours[places["2.0.mlp.second.weight"]]["exp_avg_sq"], official)


def test_a_released_file_alone_starts_the_rest_afresh(folder, capsys):
    (folder / "gen_00000007.pt").rename(folder / "edges2shoes.pt")
    munit.load(folder / "edges2shoes.pt", folder / "x.ckpt")
    told = capsys.readouterr().out
    assert "discriminators start afresh" in told
    assert "moments of Adam start afresh" in told
    model = MUNIT.load_from_checkpoint(folder / "x.ckpt")
    assert int(model.iterations) == 0
    assert model.discriminators[0].scales[2].layers[3].weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_statistics_of_old_files_are_left_out(folder):
    gen = torch.load(folder / "gen_00000007.pt")
    old = {d: dict(state) for d, state in gen.items()}
    added = 0
    for name in list(old["a"]):
        if name.endswith("conv.weight") and name.startswith("enc_content"):
            for d in "ab":
                statistic = torch.zeros(len(old[d][name]))
                old[d] |= {name.replace("conv.weight", f"norm.running_{s}"): statistic for s in ("mean", "var")}
            added += 2
    torch.save(old, folder / "gen_00000008.pt")
    munit.load(folder / "gen_00000008.pt", folder / "x.ckpt")
    sizes = torch.load(folder / "x.ckpt")["hyper_parameters"]
    assert added == 2 * (1 + sizes["downsamplings"] + 2 * sizes["blocks"])  # 22 for the official sizes
    for stray in ("enc_style.model.1.norm.running_mean", "dec.model.2.norm.running_mean"):  # never had any
        torch.save({"a": old["a"] | {stray: torch.zeros(2)}, "b": old["b"]}, folder / "gen_00000008.pt")
        with pytest.raises(ValueError, match=stray):
            munit.load(folder / "gen_00000008.pt", folder / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda gen: gen.pop("b"), "is not the official container"),
        (lambda gen: gen["a"].update(more=torch.zeros(1)), "does not have: more"),
        (lambda gen: gen["b"].pop("mlp.model.1.fc.bias"), r"\('b'\) lacks mlp.model.1.fc.bias"),
        (lambda gen: gen["a"].pop("mlp.model.0.fc.weight"), r"\('a'\) lacks mlp.model.0.fc.weight"),
        (lambda gen: gen["a"].pop("enc_style.model.6.weight"), "not a generator of MUNIT"),
        (lambda gen: gen["b"].update({"mlp.model.2.fc.bias": torch.zeros(99)}), r"mlp.model.2.fc.bias is \(99,\)"),
        (lambda gen: gen["a"].update({"enc_content.model.0.conv.weight": torch.zeros(4, 1, 7, 7)}), "have 1 channels"),
    ],
)
def test_one_sentence_for_each_mistake(folder, change, words):
    gen = torch.load(folder / "gen_00000007.pt")
    change(gen)
    torch.save(gen, folder / "gen_00000007.pt")
    with pytest.raises(ValueError, match=words) as raised:
        munit.load(folder, folder / "x.ckpt")
    assert "gen_00000007.pt" in str(raised.value)


def test_the_two_papers_do_not_take_each_others_files(folder):
    with pytest.raises(ValueError, match="not a generator of UNIT"):
        unit.load(folder, folder / "x.ckpt")
    munit.load(folder, folder / "x.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of our UNIT"):
        unit.save(folder / "x.ckpt", folder / "out")
    checkpoint = torch.load(folder / "x.ckpt")
    checkpoint["state_dict"]["averaged.0.0.stem.weight"] = torch.zeros(1)
    torch.save(checkpoint, folder / "x.ckpt")
    with pytest.raises(ValueError, match="running average .* official MUNIT has no place"):
        munit.save(folder / "x.ckpt", folder / "out")


def test_padding_is_asked_for_since_no_file_says_it(folder, capsys):
    command.main(["munit", "load", str(folder), str(folder / "x.ckpt"), "--zero-padding"])
    assert "zero_padding True" in capsys.readouterr().out
    command.main(["munit", "load", str(folder), str(folder / "y.ckpt")])
    zeros, reflected = (
        MUNIT.load_from_checkpoint(folder / f"{name}.ckpt", weights_only=True).double() for name in "xy"
    )
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    assert not torch.equal(zeros.translate(x, 0, 1), reflected.translate(x, 0, 1))
    munit.save(folder / "x.ckpt", folder / "back")
    assert_equal(torch.load(folder / "gen_00000007.pt"), torch.load(folder / "back" / "gen_00000007.pt"))


def test_command_line(folder, capsys):
    command.main(["munit", "load", str(folder), str(folder / "x.ckpt")])
    assert "iteration 7" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="There is no"):
        command.main(["munit", "load", str(folder / "none"), str(folder / "x.ckpt")])
