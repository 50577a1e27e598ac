from collections import OrderedDict

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from importers import __main__ as command
from importers import unit
from interfaces.batch import UnpairedBatch
from lightning_modules.unit import UNIT


def conv(name, o, i, k):
    return {f"{name}.weight": (o, i, k, k), f"{name}.bias": (o,)}


def vae_gen(width, downs, blocks):
    """Names and shapes of the official VAEGen, written out from its layout."""
    shapes, c = conv("enc.model.0.conv", width, 3, 7), width
    for k in range(downs):
        shapes |= conv(f"enc.model.{k + 1}.conv", 2 * c, c, 4)
        c *= 2
    for part, index in (("enc", downs + 1), ("dec", 0)):
        for i in range(blocks):
            for j in (0, 1):
                shapes |= conv(f"{part}.model.{index}.model.{i}.model.{j}.conv", c, c, 3)
    for k in range(downs):
        shapes |= {f"dec.model.{2 * k + 2}.norm.{p}": (c // 2,) for p in ("gamma", "beta")}
        shapes |= conv(f"dec.model.{2 * k + 2}.conv", c // 2, c, 5)
        c //= 2
    return shapes | conv(f"dec.model.{2 * downs + 1}.conv", 3, width, 7)


def ms_image_dis(width, layers, scales):
    shapes = {}
    for s in range(scales):
        i = 3
        for k in range(layers):
            shapes |= conv(f"cnns.{s}.{k}.conv", width * 2**k, i, 4)
            i = width * 2**k
        shapes |= conv(f"cnns.{s}.{layers}", 1, i, 1)
    return shapes


def draw(shapes):
    return OrderedDict((name, torch.randn(shape)) for name, shape in shapes.items())


def adam(*state_dicts, lr=2e-4):
    tensors = [t for state_dict in state_dicts for t in state_dict.values()]
    state = {
        n: {"step": torch.tensor(7.0), "exp_avg": torch.randn_like(t), "exp_avg_sq": torch.rand_like(t)}
        for n, t in enumerate(tensors)
    }
    empty = torch.optim.Adam([torch.zeros(1)], lr=lr, betas=(0.4, 0.99), weight_decay=1e-3).state_dict()
    group = empty["param_groups"][0]
    return {"state": state, "param_groups": [{**group, "initial_lr": lr, "params": [*range(len(tensors))]}]}


@pytest.fixture(params=[(4, 2, 2, 2, 3, 2), (3, 1, 3, 5, 2, 1)], ids=str)
def folder(request, tmp_path):
    """An official-shaped folder at iteration 7, with an older snapshot beside it."""
    torch.manual_seed(0)
    width, downs, blocks, *dis = request.param
    gen = {d: draw(vae_gen(width, downs, blocks)) for d in "ab"}
    dis = {d: draw(ms_image_dis(*dis)) for d in "ab"}
    torch.save(gen, tmp_path / "gen_00000007.pt")
    torch.save(dis, tmp_path / "dis_00000007.pt")
    torch.save({"gen": adam(*gen.values()), "dis": adam(*dis.values())}, tmp_path / "optimizer.pt")
    torch.save({}, tmp_path / "gen_00000006.pt")
    return tmp_path


def assert_equal(x, y):
    assert type(x) is type(y)
    if isinstance(x, torch.Tensor):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
    elif isinstance(x, dict):
        assert list(x) == list(y)
        for key in x:
            assert_equal(x[key], y[key])
    elif isinstance(x, list | tuple):
        assert len(x) == len(y)
        for a, b in zip(x, y, strict=True):
            assert_equal(a, b)
    else:
        assert x == y


def test_official_ours_official_is_equal_bit_by_bit(folder):
    unit.load(folder, folder / "ours" / "x.ckpt")
    unit.save(folder / "ours" / "x.ckpt", folder / "back")
    assert {p.name for p in (folder / "back").iterdir()} == {"gen_00000007.pt", "dis_00000007.pt", "optimizer.pt"}
    for path in (folder / "back").iterdir():
        assert_equal(torch.load(folder / path.name), torch.load(path))


def test_our_unit_loads_it_with_sizes_and_rates_of_the_files(folder):
    unit.load(folder, folder / "x.ckpt")
    model = UNIT.load_from_checkpoint(folder / "x.ckpt")
    gen, dis = torch.load(folder / "gen_00000007.pt"), torch.load(folder / "dis_00000007.pt")
    assert model.hparams.width == gen["a"]["enc.model.0.conv.bias"].shape[0]
    assert model.hparams.dis_width == dis["a"]["cnns.0.0.conv.bias"].shape[0]
    assert int(model.iterations) == 7
    assert (model.lr, model.betas, model.weight_decay) == (2e-4, (0.4, 0.99), 1e-3)
    n = model.hparams.downsamplings
    assert torch.equal(model.encoders[1].stem.weight, gen["b"]["enc.model.0.conv.weight"])
    assert torch.equal(model.decoders[0].norms[0].beta, gen["a"]["dec.model.2.norm.beta"])
    assert torch.equal(model.decoders[1].head.bias, gen["b"][f"dec.model.{2 * n + 1}.conv.bias"])
    second = gen["a"][f"enc.model.{n + 1}.model.1.model.1.conv.weight"]
    assert torch.equal(model.encoders[0].blocks[1].conv2.weight, second)
    assert torch.equal(model.discriminators[1].scales[0].layers[1].bias, dis["b"]["cnns.0.1.conv.bias"])


def trainer(**options):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return pl.Trainer(accelerator="cpu", max_epochs=-1, **quiet, **options)


def loader():
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    return DataLoader([UnpairedBatch(x, x.flip(-1))] * 3, batch_size=None)


@pytest.mark.filterwarnings("ignore")
def test_trainer_validates_it_and_goes_on_training_from_it(folder):
    unit.load(folder, folder / "x.ckpt")
    model = UNIT.load_from_checkpoint(folder / "x.ckpt")
    weight = model.encoders[0].stem.weight.clone()
    with torch.no_grad():
        model.encoders[0].stem.weight.zero_()
    trainer().validate(model, loader(), ckpt_path=folder / "x.ckpt", verbose=False)
    assert torch.equal(model.encoders[0].stem.weight, weight)
    fit = trainer(max_steps=9)
    fit.fit(model, loader(), ckpt_path=folder / "x.ckpt")
    assert int(model.iterations) == fit.global_step == 9
    steps = {int(state["step"]) for opt in fit.optimizers for state in opt.state.values()}
    assert steps == {9}
    # The moments belong to their parameters: an import that mixed them up would differ in shape or value here.
    fit.save_checkpoint(folder / "y.ckpt")
    unit.save(folder / "y.ckpt", folder / "on")
    assert {p.name for p in (folder / "on").iterdir()} == {"gen_00000009.pt", "dis_00000009.pt", "optimizer.pt"}
    unit.load(folder / "on", folder / "z.ckpt")
    again, before = torch.load(folder / "z.ckpt"), torch.load(folder / "y.ckpt")
    assert_equal(again["state_dict"], dict(before["state_dict"]))
    for ours, theirs in zip(again["optimizer_states"], before["optimizer_states"], strict=True):
        assert_equal(ours["state"], dict(sorted(theirs["state"].items())))
    for ours, theirs in zip(again["lr_schedulers"], before["lr_schedulers"], strict=True):
        assert ours["last_epoch"] == theirs["last_epoch"]
        assert ours["base_lrs"] == theirs["base_lrs"]


@pytest.mark.filterwarnings("ignore")
def test_shared_blocks_are_written_once_for_each_domain(tmp_path):
    model = UNIT(width=3, blocks=2, shared_blocks=1, dis_width=2, dis_layers=2, dis_scales=1)
    fit = trainer(max_steps=1)
    fit.fit(model, loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    unit.save(tmp_path / "x.ckpt", tmp_path / "official")
    gen = torch.load(tmp_path / "official" / "gen_00000001.pt")
    adams = torch.load(tmp_path / "official" / "optimizer.pt")
    name = "enc.model.3.model.1.model.0.conv.weight"  # the last block of the encoder
    place = list(gen["a"]).index(name)
    assert torch.equal(gen["a"][name], gen["b"][name])
    assert not torch.equal(gen["a"][name.replace("model.1.model", "model.0.model", 1)], gen["b"][name])
    state = adams["gen"]["state"]
    assert len(state) == 2 * len(gen["a"])
    assert torch.equal(state[place]["exp_avg"], state[place + len(gen["a"])]["exp_avg"])
    own = {id(p): fit.optimizers[1].state[p]["exp_avg"] for p in model.decoders[1].parameters()}
    head = list(gen["b"]).index("dec.model.5.conv.weight") + len(gen["a"])
    assert torch.equal(state[head]["exp_avg"], own[id(model.decoders[1].head.weight)])
    unit.load(tmp_path / "official", tmp_path / "back.ckpt")
    assert_equal(torch.load(tmp_path / "back.ckpt")["state_dict"], dict(model.state_dict()))


def test_a_released_file_alone_starts_the_rest_afresh(folder, capsys):
    (folder / "gen_00000007.pt").rename(folder / "unit_gta2city.pt")
    unit.load(folder / "unit_gta2city.pt", folder / "x.ckpt")
    told = capsys.readouterr().out
    assert "discriminators start afresh" in told
    assert "moments of Adam start afresh" in told
    model = UNIT.load_from_checkpoint(folder / "x.ckpt")
    assert int(model.iterations) == 0
    weight = model.discriminators[0].scales[2].layers[3].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(weight, model.discriminators[1].scales[2].layers[3].weight)
    assert model.discriminators[0].scales[0].score.bias.abs().sum() == 0


def test_statistics_of_old_files_are_left_out(folder):
    gen = torch.load(folder / "gen_00000007.pt")
    old = {d: dict(state) for d, state in gen.items()}
    for state in old.values():
        for name in list(state):
            if name.endswith("conv.weight") and (name.startswith("enc") or "model.0.model" in name):
                state[name.replace("conv.weight", "norm.running_mean")] = torch.zeros(len(state[name]))
    torch.save(old, folder / "gen_00000008.pt")
    unit.load(folder / "gen_00000008.pt", folder / "x.ckpt")
    assert torch.load(folder / "x.ckpt")["state_dict"]["iterations"] == 8
    old["a"]["dec.model.2.norm.running_mean"] = torch.zeros(2)  # a layer norm never had one
    torch.save(old, folder / "gen_00000008.pt")
    with pytest.raises(ValueError, match=r"dec\.model\.2\.norm\.running_mean"):
        unit.load(folder / "gen_00000008.pt", folder / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda gen: gen.pop("b"), "is not the official container"),
        (lambda gen: gen["a"].update(more=torch.zeros(1)), "does not have: more"),
        (lambda gen: gen["b"].pop("enc.model.0.conv.bias"), r"\('b'\) lacks enc.model.0.conv.bias"),
        (lambda gen: gen["a"].pop("enc.model.0.conv.weight"), "not a generator of UNIT"),
        (lambda gen: gen["b"].update({"dec.model.2.norm.beta": torch.zeros(99)}), r"dec.model.2.norm.beta is \(99,\)"),
        (lambda gen: gen["a"].update({"enc.model.0.conv.weight": torch.zeros(4, 1, 7, 7)}), "images have 1 channels"),
    ],
)
def test_one_sentence_for_each_mistake(folder, change, words):
    gen = torch.load(folder / "gen_00000007.pt")
    change(gen)
    torch.save(gen, folder / "gen_00000007.pt")
    with pytest.raises(ValueError, match=words) as raised:
        unit.load(folder, folder / "x.ckpt")
    assert "gen_00000007.pt" in str(raised.value)


def test_command_line_reports_instead_of_raising(tmp_path, capsys):
    for args, words in (
        (["load", str(tmp_path / "none"), "x.ckpt"], "There is no"),
        (["load", str(tmp_path), "x.ckpt"], "holds no gen_"),
        (["load", str(tmp_path), "x.pt"], "end in .ckpt"),
        (["save", str(tmp_path / "none.ckpt"), "x"], "There is no file"),
    ):
        with pytest.raises(SystemExit) as raised:
            command.main(["unit", *args])
        assert words in str(raised.value.code)
    torch.save({"a": 1}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a Lightning checkpoint"):
        unit.save(tmp_path / "x.ckpt", tmp_path / "out")
    torch.save({"state_dict": {"encoders.0.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of our UNIT"):
        unit.save(tmp_path / "x.ckpt", tmp_path / "out")
