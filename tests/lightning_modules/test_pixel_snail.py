"""PixelSNAIL as a prior: its objective, what the contract asks, and that it learns and draws what it has learnt.

Its batches are integers, which cannot be poisoned as the contract's are; so the case stands here.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.data import DataLoader

from interfaces.batch import CodeBatch
from lightning_modules.pixel_snail import PixelSNAIL
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import Batches, Case, fit, weights


def prior(**changes: Any) -> PixelSNAIL:
    tiny: dict[str, Any] = {
        "shape": (4, 6), "classes": 5, "width": 16, "kernel": 3, "blocks": 1, "res_blocks": 1, "res_width": 4,
        "dropout": 0.0, "out_blocks": 1, "cond_blocks": 1, "cond_width": 4, "side_dropout": 0.0, "lr": 1e-3,
    }  # fmt: skip
    return PixelSNAIL(**(tiny | changes))


def maps(n: int, seed: int) -> CodeBatch:
    rng = torch.Generator().manual_seed(seed)
    return CodeBatch(*(torch.randint(5, (2 * n, *shape), generator=rng) for shape in ((4, 6), (2, 3))))


CASE = Case("pixel_snail", prior, maps)


def of_batches(*batches: CodeBatch) -> pl.LightningDataModule:
    data = pl.LightningDataModule()
    data.train_dataloader = lambda: DataLoader(list(batches), batch_size=None)
    return data


def test_max_steps_counts_batches() -> None:
    contract.test_max_steps_counts_batches(CASE)


def test_its_player_moves_its_own_weights() -> None:
    contract.test_each_player_moves_its_own_weights(CASE)


def test_checkpoint_round_trip(tmp_path) -> None:
    contract.test_checkpoint_round_trip(CASE, tmp_path)
    contract.test_a_checkpoint_names_its_class(CASE, tmp_path)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    torch.manual_seed(0)
    module = prior()
    before = weights(module)
    poison = module.net.register_forward_hook(lambda net, inputs, logits: logits * float("nan"))
    fit(module, of_batches(maps(1, 0)), steps=1)
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert int(module.skipped) == 1
    poison.remove()
    fit(module, of_batches(maps(1, 0)), steps=2)
    assert all(p.isfinite().all() for p in module.parameters())
    assert not any(torch.equal(before[name], p) for name, p in module.named_parameters() if "key.bias" not in name)


def train_on_a_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(rank if world > 1 else 0)  # ranks must agree in spite of it
    module = prior()
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(module, Batches(CASE, 3, 2), steps=3, precision="64-true", **processes)
    return weights(module)


@pytest.mark.ddp
def test_two_processes_are_one_with_the_doubled_batch() -> None:
    first, second = run_ddp(train_on_a_rank)
    alone = train_on_a_rank(0, 1)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-8)


def test_the_objective_is_the_mean_of_what_is_said_of_each_code() -> None:
    torch.manual_seed(0)
    module = prior().double().eval()
    batch = maps(2, 0)
    logits = module.net(*batch)
    each = -log_softmax(logits, 1).gather(1, batch.codes[:, None])[:, 0]
    loss, terms = module.loss(batch)
    torch.testing.assert_close(loss, each.mean())
    torch.testing.assert_close(module.nll_of_codes(*batch), each)
    assert terms["nll"] is loss
    right = [logits[n, :, i, j].argmax() == batch.codes[n, i, j] for n in range(4) for i in range(4) for j in range(6)]
    assert terms["accuracy"].item() == pytest.approx(sum(right) / 96)


def test_nats_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    module, batch = prior(), maps(2, 0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module.net(*batch)
        loss, terms = module.loss(batch)
        each = module.nll_of_codes(*batch)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == terms["accuracy"].dtype == each.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.float(), batch.codes))
    torch.testing.assert_close(each, cross_entropy(logits.float(), batch.codes, reduction="none"))


@pytest.mark.parametrize("attention", [False, True])
def test_a_step_asks_nothing_of_the_device(attention: bool) -> None:
    """Tensors on ``meta`` hold no numbers: a question such as ``item()`` has no answer and raises."""
    module = prior(attention=attention, dropout=0.1, side_dropout=0.1).to("meta")
    loss, terms = module.loss(CodeBatch(*(x.to("meta") for x in maps(2, 0))))
    torch.autograd.backward(loss)
    assert {term.device.type for term in terms.values()} == {"meta"}
    assert all(p.grad is not None for p in module.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()


def test_what_is_logged() -> None:
    torch.manual_seed(0)
    trainer = fit(prior(), of_batches(maps(1, 0)), steps=1)
    assert set(trainer.callback_metrics) == {"train/prior/nll", "train/prior/accuracy"}
    assert 1 < trainer.callback_metrics["train/prior/nll"] < 2.5  # log 5 is 1.6


def diagonals(n: int, seed: int) -> torch.Tensor:
    """Stripes of four codes; one in four maps, so a code costs at least log 4 / 36 = 0.04 nats."""
    first = torch.randint(4, (n, 1, 1), generator=torch.Generator().manual_seed(seed))
    return (first + torch.arange(6)[:, None] + torch.arange(6)) % 4


@pytest.mark.parametrize("conditional", [False, True])
def test_it_learns_stripes_and_draws_them(conditional: bool) -> None:
    torch.manual_seed(0)
    module = prior(shape=(6, 6), classes=4, res_width=16, cond_blocks=int(conditional), cond_width=16, lr=1e-2)

    def batch(n: int, seed: int) -> CodeBatch:
        codes = diagonals(n, seed)
        return CodeBatch(codes, codes[:, ::2, ::2].contiguous() if conditional else None)

    fit(module, of_batches(*(batch(16, seed) for seed in range(60))), steps=60)
    module.eval()
    unseen = batch(64, 1000)
    with torch.no_grad():
        nll = module.nll_of_codes(*unseen)
    assert nll.mean() < (0.02 if conditional else 0.08)
    rng = torch.Generator().manual_seed(0)
    drawn = module.sample(64, unseen.condition, rng=rng)
    kinds = torch.stack([diagonals(1, seed)[0] for seed in range(20)]).unique(dim=0)
    assert len(kinds) == 4
    which = (drawn[:, None] == kinds).float().mean((2, 3)).max(1)
    assert (which.values == 1).float().mean() > 0.8
    if conditional:
        assert (drawn == unseen.codes).float().mean() > 0.95
    else:
        assert len(which.indices.unique()) == 4
        rest = module.sample(64, given=unseen.codes[:, :1], rng=rng)
        assert (rest == unseen.codes).float().mean() > 0.95


def test_sampling_takes_what_the_network_takes() -> None:
    torch.manual_seed(0)
    module, rows = prior().eval(), []
    above = maps(1, 0).condition
    first = module.sample(2, above, temperature=0.5, rng=torch.Generator().manual_seed(1), progress=rows.append)
    assert rows == [1, 2, 3, 4]
    again = module.sample(2, above, first[:, :2], 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)


def test_arguments_reach_the_network() -> None:
    given: dict[str, Any] = {
        "shape": (8, 4), "classes": 7, "width": 32, "kernel": 3, "blocks": 2, "res_blocks": 3, "res_width": 5,
        "attention": False, "dropout": 0.3, "out_blocks": 2, "cond_blocks": 1, "cond_width": 6, "cond_kernel": 5,
        "side_dropout": 0.2,
    }  # fmt: skip
    net = PixelSNAIL(**given).net
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert net.shape == (8, 4)
    assert shapes["out.3.weight_v"] == (7, 32, 1, 1)
    assert shapes["blocks.1.resblocks.2.conv1.weight_v"] == (5, 32, 3, 3)
    assert shapes["blocks.1.resblocks.2.condition.weight_v"] == (64, 6, 1, 1)
    assert shapes["cond_resnet.blocks.1.conv2.weight_v"] == (12, 6, 5, 5)
    assert shapes["blocks.1.out.weight_v"] == (32, 34, 1, 1)
    assert (net.blocks[0].resblocks[0].p, net.out[0].p, net.cond_resnet.blocks[1].p) == (0.3, 0.2, 0.2)
    opt = PixelSNAIL(**given, lr=0.1, betas=(0.5, 0.9)).configure_optimizers()
    assert (opt.defaults["lr"], opt.defaults["betas"], opt.defaults["fused"]) == (0.1, (0.5, 0.9), True)
    default = PixelSNAIL(shape=(4, 4), width=16, res_width=2, blocks=1, res_blocks=1).configure_optimizers()
    assert (default.defaults["lr"], default.defaults["betas"]) == (3e-4, (0.9, 0.999))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"shape": (8, 4)}, r"has shape: \(4, 4\), but the codes in folder have \(8, 4\)"),
        ({"codes": 9}, "has classes: 5, but the codes in folder have 9"),
        ({"condition_shape": (2, 2)}, "has a level above: False, but the codes in folder have True"),
    ],
)
def test_maps_of_other_sizes_are_refused_before_anything_is_computed(theirs, words):
    model = PixelSNAIL((4, 4), 5, 16, 3, 1, 1, 4)
    data = {"shape": (4, 4), "codes": 5, "condition_shape": None, "folder": "folder"}
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(**data))
    model.setup("fit")
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(**data | theirs))
    with pytest.raises(ValueError, match=words):
        model.setup("fit")
