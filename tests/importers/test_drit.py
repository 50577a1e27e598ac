"""The official DRIT container, both ways, on random tensors of its layout."""

import pytest
import torch
from torch.utils.data import DataLoader

from importers import __main__ as command
from importers import drit
from importers.drit_names import NETS
from interfaces.batch import UnpairedBatch
from lightning_modules.drit import DRIT
from tests.importers.hsinyinglee import (
    assert_equal_files,
    attribute_encoder,
    content_discriminator,
    conv,
    gaussian_attribute_encoder,
    head,
    linear,
    mixing_block,
    random_container,
    residual,
    trainer_of_three_more,
    up,
)


def layout(concat, n=2, w=3, d=2, z=8):
    """Names and shapes of all networks, written out from their description; contents have 4 n channels."""
    c = 4 * n
    enc_c, enc_a, gen = residual("conv_share.0", c), {}, residual("dec_share.0", c) if concat else {}
    for domain in "AB":
        enc_c |= conv(f"conv{domain}.0.model.1", n, 3, 7)
        enc_c |= conv(f"conv{domain}.1.model.1", 2 * n, n, 3) | conv(f"conv{domain}.2.model.1", c, 2 * n, 3)
        enc_c |= {k: v for j in (3, 4, 5) for k, v in residual(f"conv{domain}.{j}", c).items()}
        if concat:
            enc_a |= gaussian_attribute_encoder(f"_{domain}", 3, w, z)
            gen |= {k: v for j in (0, 1, 2) for k, v in residual(f"dec{domain}1.{j}", c + z).items()}
            half = (c + 2 * z) // 2
            gen |= up(f"dec{domain}2.0", c + 2 * z, half) | up(f"dec{domain}3.0", half + z, (half + z) // 2)
            gen |= head(f"dec{domain}4.0", (half + z) // 2 + z)
        else:
            enc_a |= attribute_encoder(f"_{domain.lower()}", 3, w, z)
            for k in (1, 2, 3, 4):
                gen |= mixing_block(f"dec{domain}{k}", c)
            gen |= up(f"dec{domain}5.0", c, c // 2) | up(f"dec{domain}5.1", c // 2, c // 4)
            gen |= head(f"dec{domain}5.2", c // 4)
    if not concat:
        for domain in "AB":
            gen |= linear(f"mlp{domain}.0", 5, z) | linear(f"mlp{domain}.2", 5, 5) | linear(f"mlp{domain}.4", 4 * c, 5)
    dis = {}
    for s in range(3):
        widths = (3, d, 2 * d, 4 * d, 8 * d)
        for k, (i, o) in enumerate(zip(widths, widths[1:], strict=False)):
            dis |= conv(f"Diss.{s}.{k}.model.1", o, i, 4)
        dis |= conv(f"Diss.{s}.4", 1, 8 * d, 1)
    makers = {"enc_c": enc_c, "enc_a": enc_a, "gen": gen}
    return dict.fromkeys(NETS[:4], dis) | {"disContent": content_discriminator(c, 1)} | makers


def random_release(concat):
    return random_container(layout(concat))


@pytest.fixture(params=[True, False], ids=["concat", "mixing"])
def file(request, tmp_path):
    torch.save(random_release(request.param), tmp_path / "00004.pth")
    return tmp_path / "00004.pth"


def test_round_trip_is_exact(file, tmp_path):
    drit.load(file, tmp_path / "x.ckpt")
    drit.save(tmp_path / "x.ckpt", tmp_path / "again.pth")
    assert_equal_files(file, tmp_path / "again.pth", NETS)


def test_a_running_average_is_not_lost_in_silence(file, tmp_path):
    drit.load(file, tmp_path / "x.ckpt")
    ours = torch.load(tmp_path / "x.ckpt", weights_only=True)
    ours["state_dict"]["averaged.0.share.conv1.bias"] = torch.zeros(1)
    torch.save(ours, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="running average .* official DRIT has no place"):
        drit.save(tmp_path / "x.ckpt", tmp_path / "y.pth")


def test_the_checkpoint_loads_and_training_goes_on(file, tmp_path):
    drit.load(file, tmp_path / "x.ckpt")
    model = DRIT.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    official = torch.load(file, weights_only=True)
    assert int(model.iterations) == 12
    assert model.hparams["lr"] == 1e-4
    assert model.hparams["content_lr"] == pytest.approx(0.4)
    assert torch.equal(model.random_discriminators[1].scales[2].score.bias, official["disB2"]["Diss.2.4.bias"])
    image = torch.rand(2, 3, 212, 212) * 2 - 1
    data = DataLoader([UnpairedBatch(image, -image)] * 3, batch_size=None)
    trainer = trainer_of_three_more(tmp_path)
    trainer.fit(model, data, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert int(model.iterations) == 15
    assert int(model.skipped) == 0
    steps = [{int(s["step"]) for s in opt.state.values()} for opt in trainer.optimizers]
    assert steps == [{2}, {2, 3}, {4}]  # one full iteration, three of the content discriminator


def test_makers_alone_will_do(file, tmp_path, capsys):
    release = torch.load(file, weights_only=True)
    torch.save({net: release[net] for net in ("enc_c", "enc_a", "gen")}, tmp_path / "y.pth")
    drit.load(tmp_path / "y.pth", tmp_path / "y.ckpt")
    assert "start afresh" in capsys.readouterr().out
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = DRIT.load_from_checkpoint(tmp_path / "y.ckpt", weights_only=True)
    weight = model.discriminators[0].scales[0].layers[3].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.content_encoder.share.conv2.bias, release["enc_c"]["conv_share.0.model.5.bias"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("gen"), "is not the official container"),
        (lambda r: r.update(disC=1), "does not have: disC"),
        (lambda r: r.pop("disB_opt"), "some optimizers only"),
        (lambda r: r["enc_c"].update(more=torch.zeros(1)), r"\('enc_c'\) has tensors .*: more"),
        (lambda r: r["gen"].pop("decB1.1.model.5.bias"), r"\('gen'\) lacks decB1.1.model.5.bias"),
        (lambda r: r["enc_a"].pop("conv_A.1.weight"), "lacks conv_A.1.weight"),
        (
            lambda r: r["disA"].update({"Diss.0.0.model.1.weight": torch.zeros(9, 3, 4, 4)}),
            "but the sizes of",
        ),
        (lambda r: r.update(enc_a=random_release(False)["enc_a"]), r"\('gen'\).*lacks mlpA.0.weight"),
        (lambda r: r.update(disA={"model.0.model.1.weight": torch.zeros(4, 3, 3, 3)}), "lacks Diss.0.0.model.1.weight"),
        (lambda r: r["gen_opt"]["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg of dec_share.0.model.1.weight is"),
    ],
)
def test_one_sentence_for_each_mistake(tmp_path, change, words):
    release = random_release(True)
    change(release)
    torch.save(release, tmp_path / "00001.pth")
    with pytest.raises(ValueError, match=words) as raised:
        drit.load(tmp_path / "00001.pth", tmp_path / "x.ckpt")
    assert "00001.pth" in str(raised.value)


def test_what_is_no_checkpoint_of_ours(tmp_path):
    torch.save({"a": 1}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a Lightning checkpoint"):
        drit.save(tmp_path / "x.ckpt", tmp_path / "y.pth")
    torch.save({"state_dict": {"encoders.0.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of our DRIT"):
        drit.save(tmp_path / "x.ckpt", tmp_path / "y.pth")
    with pytest.raises(SystemExit, match="There is no file"):
        command.main(["drit", "load", str(tmp_path / "none"), str(tmp_path / "x.ckpt")])
    with pytest.raises(SystemExit, match=r"end in \.ckpt"):
        command.main(["drit", "load", str(tmp_path / "none"), str(tmp_path / "x.pt")])
