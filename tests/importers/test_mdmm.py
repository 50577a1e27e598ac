"""The official container of multi-domain DRIT++, both ways, on random tensors of its layout."""

import pytest
import torch
from torch.utils.data import DataLoader

from importers import mdmm
from importers.mdmm import NETS
from interfaces.batch import DomainBatch
from lightning_modules.drit_multidomain import MultiDomainDRIT
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


def layout(concat, k=4, n=2, w=3, d=2, z=8, kernel=3):
    """Names and shapes of all networks, written out from their description; contents have 4 n channels."""
    c = 4 * n
    enc_c = conv("conv.0.model.1", n, 3, 7) | conv("conv.1.model.1", 2 * n, n, 3) | conv("conv.2.model.1", c, 2 * n, 3)
    enc_c |= {name: shape for j in (3, 4, 5, 6) for name, shape in residual(f"conv.{j}", c).items()}
    if concat:
        enc_a, gen = gaussian_attribute_encoder("", 3 + k, w, z), residual("dec_share.0", c)
        gen |= {name: shape for j in (0, 1, 2) for name, shape in residual(f"dec1.{j}", c + k + z).items()}
        half = (c + k + 2 * z) // 2
        gen |= up("dec2.0", c + k + 2 * z, half) | up("dec3.0", half + z, (half + z) // 2)
        gen |= head("dec4.0", (half + z) // 2 + z)
    else:
        enc_a, gen = attribute_encoder("", 3 + k, w, z), {}
        for j in (1, 2, 3, 4):
            gen |= mixing_block(f"dec{j}", c)
        gen |= up("decA5.0", c, c // 2) | up("decA5.1", c // 2, c // 4) | head("decA5.2", c // 4)
        gen |= linear("mlp.0", 5, k + z) | linear("mlp.2", 5, 5) | linear("mlp.4", 4 * c, 5)
    dis, widths = {}, (3, d, 2 * d, 4 * d, 8 * d, 16 * d, 16 * d)
    for j, (i, o) in enumerate(zip(widths, widths[1:], strict=False)):
        dis |= conv(f"model.{j}.model.1", o, i, 3)
    dis |= {"conv1.weight": (1, 16 * d, 1, 1), "conv2.weight": (k, 16 * d, kernel, kernel)}
    content = content_discriminator(c, k)
    return {"dis1": dis, "dis2": dis, "disContent": content, "enc_c": enc_c, "enc_a": enc_a, "gen": gen}


def random_release(concat=True, idle=(), **sizes):
    return random_container(layout(concat, **sizes), idle)


@pytest.fixture(params=[True, False], ids=["concat", "mixing"])
def file(request, tmp_path):
    torch.save(random_release(request.param), tmp_path / "00004.pth")
    return tmp_path / "00004.pth"


def test_round_trip_is_exact(file, tmp_path):
    mdmm.load(file, tmp_path / "x.ckpt")
    mdmm.save(tmp_path / "x.ckpt", tmp_path / "again.pth")
    assert_equal_files(file, tmp_path / "again.pth", NETS)


@pytest.mark.parametrize(("k", "kernel"), [(2, 3), (5, 4)])
def test_domains_and_kernel_are_read_off_the_tensors(tmp_path, k, kernel):
    torch.save(random_release(k=k, kernel=kernel), tmp_path / "x.pth")
    mdmm.load(tmp_path / "x.pth", tmp_path / "x.ckpt")
    model = MultiDomainDRIT.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert model.domains == tuple("abcde"[:k])
    assert model.discriminator.domain.weight.shape == (k, 32, kernel, kernel)
    assert model.lambda_ms == 0


def test_the_checkpoint_loads_and_training_goes_on(file, tmp_path):
    mdmm.load(file, tmp_path / "x.ckpt")
    model = MultiDomainDRIT.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    official = torch.load(file, weights_only=True)
    assert int(model.iterations) == 12
    assert model.hparams["content_lr"] == pytest.approx(0.4)
    assert torch.equal(model.random_discriminator.score.weight, official["dis2"]["conv1.weight"])
    batch = DomainBatch(torch.rand(2, 3, 212, 212) * 2 - 1, torch.tensor([3, 1]))
    trainer = trainer_of_three_more(tmp_path)
    trainer.fit(model, DataLoader([batch] * 3, batch_size=None), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert int(model.iterations) == 15
    assert int(model.skipped) == 0
    steps = [{int(s["step"]) for s in opt.state.values()} for opt in trainer.optimizers]
    assert steps == [{2}, {2, 3}, {3}]  # one full iteration, two of the content discriminator


def test_makers_alone_will_do(file, tmp_path, capsys):
    release = torch.load(file, weights_only=True)
    torch.save({net: release[net] for net in ("enc_c", "enc_a", "gen")}, tmp_path / "y.pth")
    mdmm.load(tmp_path / "y.pth", tmp_path / "y.ckpt")
    assert "start afresh" in capsys.readouterr().out
    model = MultiDomainDRIT.load_from_checkpoint(tmp_path / "y.ckpt", weights_only=True)
    assert model.discriminator.layers[4].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.content_encoder.blocks[3].conv2.bias, release["enc_c"]["conv.6.model.5.bias"])


def test_a_content_discriminator_that_never_stepped_is_named(tmp_path, capsys):
    torch.save(random_release(idle=("disContent",)), tmp_path / "x.pth")
    mdmm.load(tmp_path / "x.pth", tmp_path / "x.ckpt")
    assert "disContent has never stepped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("gen"), "is not the official container"),
        (lambda r: r.update(disA=1), "does not have: disA"),
        (lambda r: r.pop("dis2_opt"), "some optimizers only"),
        (lambda r: r["enc_c"].update(more=torch.zeros(1)), r"\('enc_c'\) has tensors .*: more"),
        (lambda r: r["gen"].pop("dec1.1.model.5.bias"), r"\('gen'\) lacks dec1.1.model.5.bias"),
        (lambda r: r["enc_a"].pop("conv.1.weight"), "lacks the convolution conv.1.weight"),
        (lambda r: r["dis2"].update({"conv2.weight": torch.zeros(4, 32, 2, 2)}), "but the sizes of the other"),
        (lambda r: r["dis1"].update({"conv2.weight": torch.zeros(3, 32, 3, 3)}), "conv2.weight is .* ask for"),
        (lambda r: r.update(enc_a=random_release(False)["enc_a"]), r"\('gen'\) lacks mlp.0.weight"),
        (lambda r: r["gen_opt"]["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg of dec_share.0.model.1.weight is"),
        (lambda r: r["enc_a"].update({"conv.1.weight": torch.zeros(3, 3, 4, 4)}), "there are 0 domains"),
    ],
)
def test_one_sentence_for_each_mistake(tmp_path, change, words):
    release = random_release()
    change(release)
    torch.save(release, tmp_path / "00001.pth")
    with pytest.raises(ValueError, match=words) as raised:
        mdmm.load(tmp_path / "00001.pth", tmp_path / "x.ckpt")
    assert "00001.pth" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["state_dict"].update({"averaged.0.stem.bias": torch.zeros(1)}), "running average .* MDMM has no"),
        (lambda c: c["state_dict"].update(more=torch.zeros(1)), "does not have: more"),
        (lambda c: c["state_dict"].pop("content_discriminator.last.weight"), "with a content discriminator: it lacks"),
        (lambda c: c["hyper_parameters"].update(dis_ring=False), "without the ring of zeros"),
        (lambda c: c.pop("state_dict"), "not a Lightning checkpoint"),
    ],
)
def test_what_has_no_place_in_the_container_is_not_lost_in_silence(tmp_path, change, words):
    torch.save(random_release(), tmp_path / "x.pth")
    mdmm.load(tmp_path / "x.pth", tmp_path / "x.ckpt")
    ours = torch.load(tmp_path / "x.ckpt", weights_only=True)
    change(ours)
    torch.save(ours, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=words):
        mdmm.save(tmp_path / "x.ckpt", tmp_path / "y.pth")


def test_a_folder_or_another_ending_is_no_place(tmp_path):
    torch.save(random_release(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"end in \.ckpt"):
        mdmm.load(tmp_path / "x.pth", tmp_path / "x.pt")
    mdmm.load(tmp_path / "x.pth", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="is a file"):
        mdmm.save(tmp_path / "x.ckpt", tmp_path)
