"""What every paper keeps, whatever it computes."""

from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from interfaces.model import Sized, Stylist, Translator
from tests.ddp import run_ddp
from tests.lightning_modules.cases import CASES, Batches, Case, fader, fit, unit, weights

ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
TRANSLATORS = pytest.mark.parametrize(
    "case", [case for case in CASES if isinstance(case.build(), Translator)], ids=lambda case: case.name
)


def ddp() -> DDPStrategy:
    return DDPStrategy(find_unused_parameters=True, process_group_backend="gloo", timeout=timedelta(seconds=60))


@ALL
def test_max_steps_counts_batches(case: Case) -> None:
    torch.manual_seed(0)
    module = case.build()
    trainer = fit(module, Batches(case, 5, 1), steps=5)
    assert (trainer.global_step, int(module.iterations), module.iteration) == (5, 5, 5)


@ALL
def test_each_player_moves_its_own_weights(case: Case) -> None:
    """Every parameter belongs to one optimizer; that player's objective alone gives it a gradient and changes it."""
    torch.manual_seed(0)
    module = case.build()
    fit(module, Batches(case, 1, 2), steps=1)
    owned = [{id(p) for group in opt.param_groups for p in group["params"]} for opt in module.trainer.optimizers]
    assert sum(map(len, owned)) == len(set.union(*owned)) == sum(1 for p in module.parameters() if p.requires_grad)

    moved: list[set[int]] = []
    strangers: list[set[int]] = []
    descend = module.descend

    def watch(opt, *losses, clip=None):
        before = {id(p): p.detach().clone() for p in module.parameters()}
        for p in module.parameters():
            p.grad = None
        descend(opt, *losses, clip=clip)
        own = {id(p) for group in opt.param_groups for p in group["params"]}
        strangers.append({id(p) for p in module.parameters() if p.grad is not None} - own)
        moved.append({id(p) for p in module.parameters() if not torch.equal(before[id(p)], p)})

    module.descend = watch
    fit(module, Batches(case, 1, 2), steps=1)
    owned = [{id(p) for group in opt.param_groups for p in group["params"]} for opt in module.trainer.optimizers]
    assert not any(strangers)
    assert len(moved) >= len(owned)
    assert all(any(m <= o for o in owned) and m for m in moved)


@ALL
def test_checkpoint_round_trip(case: Case, tmp_path) -> None:
    torch.manual_seed(0)
    module = case.build()
    trainer = fit(module, Batches(case, 2, 1), steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    loaded = type(module).load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert int(loaded.iterations) == 2
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())


def test_a_checkpoint_of_other_networks_is_refused_with_the_arguments_that_differ() -> None:
    trained, wide = unit(ema=0.9), unit(width=8)
    found = {"state_dict": trained.state_dict(), "hyper_parameters": dict(trained.hparams)}
    trained.on_load_checkpoint(found)
    with pytest.raises(ValueError, match=r"than this UNIT \(model.width is 4 there and 8 here; model.ema is 0.9 there"):
        wide.on_load_checkpoint(found)
    trained.on_save_checkpoint(found)
    with pytest.raises(ValueError, match=r"than this Fader \(it is of UNIT\)"):
        fader().on_load_checkpoint(found)


@ALL
def test_a_gradient_that_is_not_finite_changes_nothing(case: Case) -> None:
    torch.manual_seed(0)
    module = case.build()
    before = weights(module)
    data = Batches(case, 2, 1)
    clean, poisoned = case.batch(1, 0), case.batch(1, 1)
    poisoned[0][..., 0, 0] = float("nan")
    data.train_dataloader = lambda: torch.utils.data.DataLoader([poisoned, clean], batch_size=None)
    fit(module, data, steps=1)
    after = weights(module)
    kept = [n for n, p in module.named_parameters() if torch.equal(before[n], after[n])]
    assert len(kept) == len(list(module.named_parameters()))
    assert int(module.skipped) >= len(module.trainer.optimizers)  # some step twice in an iteration
    fit(module, data, steps=2)
    assert all(p.isfinite().all() for p in module.parameters())
    assert not all(torch.equal(before[n], p) for n, p in module.named_parameters())


@TRANSLATORS
def test_translator_shapes_range_and_batch_independence(case: Case) -> None:
    module = case.build().eval()
    x = case.batch(4, 0)[0]
    with torch.no_grad():
        for source in range(len(module.domains)):
            for target in range(len(module.domains)):
                y = module.translate(x, source, target)
                assert y.shape == x.shape
                assert y.abs().max() <= 1
                torch.testing.assert_close(y, module.translate(x, source, target), rtol=0, atol=0)
                alone = torch.cat([module.translate(image[None], source, target) for image in x])
                torch.testing.assert_close(y, alone, rtol=0, atol=1e-5)


@TRANSLATORS
def test_translator_takes_the_sizes_that_it_says(case: Case) -> None:
    module = case.build().eval()
    assert isinstance(module, Sized)
    multiple = module.size_multiple
    least = -(-module.smallest_size // multiple) * multiple
    with torch.no_grad():
        for height, width in ((least, least), (least + multiple, least + 3 * multiple)):
            x = torch.rand(1, 3, height, width) * 2 - 1
            assert module.translate(x, 0, 1).shape == x.shape
            assert not isinstance(module, Stylist) or module.style_of(x, 1).shape == (1, module.style_spec.size)


@ALL
def test_a_checkpoint_names_its_class(case: Case, tmp_path) -> None:
    module = case.build()
    fit(module, Batches(case, 1, 1), steps=1).save_checkpoint(tmp_path / "x.ckpt")
    held = torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
    assert held["_class_path"] == f"lightning_modules.{type(module).__module__.split('.')[-1]}.{type(module).__name__}"


def train_on_a_rank(rank: int, world: int, name: str, same_noise: bool) -> dict:
    case = next(c for c in CASES if c.name == name)
    torch.manual_seed(rank)  # ranks must agree in spite of it
    if world == 1:
        torch.manual_seed(0)
    module = case.build()
    draws: list[torch.Tensor] = []

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(len(draws))
        one = torch.randn(x.shape[1:], generator=rng) if same_noise else None
        draw = one.to(x).expand_as(x) if one is not None else torch.randn_like(x)
        draws.append(draw.flatten()[:8].clone())
        return draw

    module.noise_like = noise_like
    pl.seed_everything(5)
    # In float64: in float32 one ReLU at its kink turns a difference in the last digit into one of a percent.
    processes = {"strategy": ddp(), "devices": world} if world > 1 else {}
    fit(module, Batches(case, 3, 2), steps=3, precision="64-true", **processes)
    return {"weights": weights(module), "noise": torch.cat([torch.zeros(0), *draws])}


@pytest.mark.ddp
@ALL
def test_two_processes_are_one_with_the_doubled_batch(case: Case) -> None:
    first, second = run_ddp(train_on_a_rank, case.name, True)
    alone = train_on_a_rank(0, 1, case.name, True)
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), f"{name} differs between ranks"
        torch.testing.assert_close(value, alone["weights"][name], rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.ddp
def test_each_rank_has_its_own_noise() -> None:
    first, second = run_ddp(train_on_a_rank, "unit", False)
    assert not torch.isclose(first["noise"], second["noise"]).any()
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
