"""ALAE, of MLPs: what it keeps of the contract, its three steps, and that two processes are one."""

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import mse_loss, softplus

from interfaces.batch import ImageBatch
from interfaces.model import Decoder, Encoder
from lightning_modules.alae import ALAE
from lightning_modules.base import ManualModule
from networks.prepared import weights_changed
from tests.ddp import run_ddp
from tests.lightning_modules import test_contract as contract
from tests.lightning_modules.cases import ALAE_CASES, Batches, Case, alae, digits, fit, style_alae, weights

BOTH = pytest.mark.parametrize("case", ALAE_CASES, ids=lambda case: case.name)


@BOTH
@pytest.mark.parametrize(
    "kept", [contract.test_max_steps_counts_batches, contract.test_each_player_moves_its_own_weights]
)
def test_the_contract_is_kept(case: Case, kept: Callable[[Case], None]) -> None:
    kept(case)


@BOTH
def test_checkpoints_are_read_back_and_name_their_class(case: Case, tmp_path) -> None:
    contract.test_checkpoint_round_trip(case, tmp_path)
    contract.test_a_checkpoint_names_its_class(case, tmp_path)


@BOTH
def test_images_that_are_not_finite_stop_e_and_d_alone(case: Case) -> None:
    torch.manual_seed(0)
    module = case.build()
    before, poisoned = weights(module), case.batch(2, 0)
    poisoned.image[..., 0, 0] = float("nan")
    data = Batches(case, 1, 2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([poisoned], batch_size=None)
    module.descend = counted(module)
    fit(module, data, steps=1)
    after = weights(module)
    assert int(module.skipped) == 1  # of four steps
    assert all(value.isfinite().all() for value in after.values())
    assert torch.equal(before["d.layers.0.weight"], after["d.layers.0.weight"])
    assert not torch.equal(before["f.layers.0.weight"], after["f.layers.0.weight"])


def counted(module: ManualModule) -> Callable[..., None]:
    """``descend``, which must be called four times."""
    descend, calls = module.descend, []

    def watched(opt, *losses, clip=None):
        calls.append(opt)
        assert len(calls) <= 4
        descend(opt, *losses, clip=clip)

    return watched


def steps_of(module: ManualModule, batch: ImageBatch) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Loss and gradients of each of the four steps of the first iteration, none of which is taken."""
    found = []

    def descend(opt, loss, clip=None):
        for p in module.parameters():
            p.grad = None
        torch.autograd.backward(loss)
        weights_changed(module.parameters())  # whose graphs are gone
        gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))

    module.descend, module.log_terms, module.end_iteration = descend, lambda *_: None, lambda: None
    module.optimizers = lambda use_pl_optimizer=True: module.configure_optimizers()[0]
    module.training_step(batch, 0)
    return found


def test_the_objectives_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    model, batch = alae().double(), ImageBatch(digits(3, 0).image.double())
    draws = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    kept = list(draws)
    model.noise_like = lambda x: kept.pop(0)
    one, two, three, again = steps_of(model, batch)
    f, g, e, d = model.f, model.g, model.e, model.d
    x = ((batch.image + 1) / 2).requires_grad_()
    real, fake = d(e(x)), d(e(g(f(draws[0]))))
    (slope,) = torch.autograd.grad(real.sum(), x)
    r1 = slope.square().sum((1, 2, 3)).mean()
    assert one[0] == pytest.approx((softplus(fake).mean() + softplus(-real).mean() + 5 * r1).item(), rel=1e-12)
    assert two[0] == pytest.approx(softplus(-d(e(g(f(draws[1]))))).mean().item(), rel=1e-12)
    w = f(draws[2])
    loss = mse_loss(e(g(w)), w.detach())
    assert three[0] == pytest.approx(loss.item(), rel=1e-12)
    assert [{name[0] for name in step[1]} for step in (one, two, three, again)] == [
        {"e", "d"},
        {"g", "f"},
        {"e"},
        {"g", "f"},
    ]
    nets = {"e": e, "g": g, "f": f}
    named = {f"{k}.{name}": p for k, net in nets.items() for name, p in net.named_parameters()}
    expected = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    for name, gradient in (three[1] | again[1]).items():
        torch.testing.assert_close(gradient, expected[name])
    assert set(three[1] | again[1]) == set(expected)


@pytest.mark.parametrize("build", [alae, style_alae])
def test_the_paper_s_third_step_leaves_f_alone(build) -> None:
    torch.manual_seed(0)
    model = build(reciprocity_moves_f=False)
    batch = digits(2, 0) if build is alae else ImageBatch(torch.rand(2, 3, 4, 4))
    *_, again = steps_of(model, batch)
    assert {name[0] for name in again[1]} == {"g"}


def test_the_mean_of_w_follows_three_times_an_iteration_and_the_average_by_images() -> None:
    torch.manual_seed(0)
    model = alae()
    z = torch.ones(2, 4)
    model.noise_like = lambda x: z
    model.f.requires_grad_(False)
    w, first = model.f(z)[0], weights(model)
    steps_of(model, digits(2, 0))
    torch.testing.assert_close(model.w_avg, w * (1 - 0.995**3))
    assert all(torch.equal(first[n], v) for n, v in weights(model).items() if n.startswith("averaged"))
    with torch.no_grad():
        model.e.layers[0].bias += 1
    steps_of(model, digits(2, 0))
    moved = model.averaged["e"].layers[0].bias - first["averaged.e.layers.0.bias"]
    torch.testing.assert_close(moved, torch.full((8,), 1 - 0.5 ** (2 / 10_000)), rtol=1e-2, atol=0)


@pytest.mark.parametrize("last", [False, True])
def test_codes_and_images_have_their_shapes_and_samples_their_seed(last: bool) -> None:
    torch.manual_seed(0)
    size = {"image_size": 32, "unit_range": False, "encoder_slopes": (0.2,) * 3, "generator_slopes": (0.2,) * 2}
    model = alae(**(size if last else {})).eval()
    assert isinstance(model, Encoder)
    assert isinstance(model, Decoder)
    side = 32 if last else 28
    x = torch.rand(3, 1, side, side) * 2 - 1
    w = model.encode(x)
    assert w.shape == (3, 4)
    image = model.predict_step(ImageBatch(x), 0)
    assert image.shape == x.shape
    assert image.abs().max() <= 1
    drawn = model.latent_spec.draw(5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        drawn, model.averaged["f"](torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
    )
    one, two = (model.sample(2, torch.Generator().manual_seed(k)) for k in (3, 3))
    assert torch.equal(one, two)
    near = alae(**(size if last else {}), psi=0.0)
    near.load_state_dict(model.state_dict())
    same = near.sample(2)
    assert torch.equal(same[0], same[1])


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="set model.image_size to 28 or 32"):
        ALAE(image_size=64)
    with pytest.raises(ValueError, match=r"grey images of 28 x 28, not \(3, 28, 28\)"):
        alae().check_batch(ImageBatch(torch.zeros(2, 3, 28, 28)))


def trained(rank: int, world: int, name: str) -> dict[str, torch.Tensor]:
    """After seven iterations in float64, with the same noise for all images; growth is by images of all processes."""
    case = next(case for case in ALAE_CASES if case.name == name)
    torch.manual_seed(rank)
    module = case.build() if name == "alae" else style_alae(batches=(2 // world,))
    draws: list[int] = []

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        draws.append(0)
        rng = torch.Generator().manual_seed(len(draws))
        return torch.randn(x.shape[1:], generator=rng).to(x).expand_as(x)

    module.noise_like = noise_like
    if name == "style_alae":
        module.crossover = lambda level: 1
        # A constant of ones is normalised to nothing but rounding, of which the optimizer makes steps.
        torch.nn.init.normal_(module.g.const, generator=torch.Generator().manual_seed(0))
    pl.seed_everything(5)
    processes = {"strategy": contract.ddp(), "devices": world} if world > 1 else {}
    fit(module, Batches(case, 7, 2), steps=7, precision="64-true", **processes)
    return weights(module)


@pytest.mark.ddp
@BOTH
def test_two_processes_are_one_with_the_doubled_batch(case: Case) -> None:
    """Through two growths."""
    (first, second), alone = run_ddp(trained, case.name), trained(0, 1, case.name)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
