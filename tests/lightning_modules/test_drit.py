"""DRIT and DRIT++ against papers and release, beyond the contract and the recorded numbers."""

import copy

import pytest
import torch

from benchmarks.released import drit as released_drit
from interfaces.batch import UnpairedBatch
from interfaces.model import ContentCoder, Stylist
from lightning_modules.drit import DRIT
from tests.lightning_modules.cases import Batches, Case, drit, fit, half_encoded, weights

CASE = Case("drit", drit, half_encoded)
BOTH = pytest.mark.parametrize("concat", [True, False], ids=["concat", "mixing"])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def train(model: DRIT, steps: int, **options) -> None:
    fit(model, Batches(CASE, steps, 2), steps=steps, **options)


class Draws:
    """Noise by the number of the draw, each draw another."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.shapes = torch.Generator().manual_seed(seed), []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return torch.randn(x.shape, generator=self.rng, dtype=torch.float64).to(x)


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert count(DRIT()) == 65_039_315
        assert count(DRIT(concat=False)) == 75_462_691


@BOTH
@pytest.mark.parametrize(("ms", "width"), [(0.0, 2), (1.0, 2), (0.0, 64)], ids=["drit", "dritpp", "wide"])
def test_the_textbook_order_gives_the_same_numbers(concat: bool, ms: float, width: int) -> None:
    """One content-only and one full iteration, each draw another, float64: equal where gradients are real.

    Wide networks transform their kernels once an iteration, and two backward passes go through that.
    """
    torch.manual_seed(0)
    changes = {"blocks": 1 if width > 2 else 2, "init_std": 0.02 if width > 2 else 0.3}
    model = drit(concat=concat, lambda_ms=ms, width=width, d_iter=2, lr=1e-4, **changes).double()
    plain = copy.deepcopy(model)
    before, draws = weights(model), Draws()
    model.noise_like = draws
    fit(model, Batches(CASE, 2, 2), steps=2, precision="64-true")
    opts, noise = released_drit.optimizers(plain), Draws()
    batches = [UnpairedBatch(*(x.double() for x in half_encoded(2, seed))) for seed in range(2)]
    released_drit.content_step(plain, opts, batches[0], noise)
    released_drit.step(plain, opts, batches[1], noise)
    assert draws.shapes == noise.shapes
    moved = 0
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        real = theirs.grad is None or theirs.grad.abs().max() > 1e-10
        if real or name.startswith(("discriminators", "random")):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-9, msg=lambda m, n=name: f"{n}: {m}")
            moved += not torch.equal(ours, before[name])
    assert moved > 50


def test_eight_players_of_the_release_are_three() -> None:
    model = drit()
    train(model, 1)
    d, makers, content = ({id(p) for g in opt.param_groups for p in g["params"]} for opt in model.trainer.optimizers)
    assert d == {id(p) for net in (model.discriminators, model.random_discriminators) for p in net.parameters()}
    assert content == {id(p) for p in model.content_discriminator.parameters()}
    assert makers == {id(p) for net in model.makers() for p in net.parameters()}
    rates = [opt.param_groups[0]["lr"] for opt in model.trainer.optimizers]
    assert rates == pytest.approx([1e-3, 1e-3, 4e-4])


def test_what_the_papers_have_otherwise_are_arguments() -> None:
    torch.manual_seed(0)
    model, batch = drit(one_discriminator=True, l1_contents=True), half_encoded(2, 0)
    drawn = model.draw(batch.a[:2], batch.b[:2])
    _, terms = model.encoded_loss(batch.a[:2], batch.b[:2], drawn)
    torch.testing.assert_close(terms["content_norm"], drawn.c_a.abs().mean() + drawn.c_b.abs().mean())

    assert model.random_discriminators is None
    same = drawn._replace(x_ba_random=drawn.x_ba.repeat(2, 1, 1, 1))  # random attributes that give what encoded ones do
    _, judged, _ = model.discriminator_loss(batch._replace(a=batch.a[:2].repeat(2, 1, 1, 1)), same)
    torch.testing.assert_close(judged["a_random"], 2 * judged["a"])  # both draws, by the one judge
    train(model, 1)
    d = {id(p) for group in model.trainer.optimizers[0].param_groups for p in group["params"]}
    assert d == {id(p) for p in model.discriminators.parameters()}


def test_attribute_encoders_take_one_step_and_the_others_two() -> None:
    model = drit()
    train(model, 3)
    _, makers, content = model.trainer.optimizers
    steps = {id(p): int(state["step"]) for p, state in makers.state.items()}
    assert {steps[id(p)] for p in model.attribute_encoders.parameters()} == {3}
    assert {steps[id(p)] for net in (model.content_encoder, model.generator) for p in net.parameters()} == {6}
    assert {int(state["step"]) for state in content.state.values()} == {3}


@BOTH
def test_the_random_objective_leaves_attribute_encoders_and_discriminators_alone(concat: bool) -> None:
    torch.manual_seed(0)
    model, batch = drit(concat=concat, init_std=0.3), half_encoded(2, 0)
    drawn = model.draw(batch.a[:2], batch.b[:2])
    loss, terms = model.random_loss(drawn)
    assert set(terms) == {"adv_random", "latent", "ms"}
    loss.backward()
    assert all(p.grad is None for p in model.attribute_encoders.parameters())
    assert all(p.requires_grad for p in model.attribute_encoders.parameters())
    for net in (model.content_encoder, model.generator):
        assert sum(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters()) > 10


def test_players_see_only_what_is_theirs() -> None:
    model, batch = drit(init_std=0.3), half_encoded(2, 0)
    drawn = model.draw(batch.a[:2], batch.b[:2])
    model.discriminator_loss(batch, drawn)[0].backward()
    assert all(p.grad is None for net in model.makers() for p in net.parameters())
    assert all(p.grad is not None for net in model.discriminators for p in net.parameters())
    assert all(p.grad is not None for net in model.random_discriminators for p in net.parameters())
    assert all(p.grad is None for p in model.content_discriminator.parameters())


def test_random_attributes_are_shared_by_directions_and_differ_from_each_other() -> None:
    torch.manual_seed(0)
    model, batch, draws = drit(init_std=0.3).double(), half_encoded(2, 0), Draws()
    model.noise_like = draws
    a, b = batch.a[:2].double(), batch.b[:2].double()
    drawn = model.draw(a, b)
    z_1, z_2 = drawn.z.split(2)
    assert (z_1 - z_2).abs().min() > 1e-3
    for c, fakes, domain in ((drawn.c_b, drawn.x_ba_random, 0), (drawn.c_a, drawn.x_ab_random, 1)):
        for z, fake in zip((z_1, z_2), fakes.split(2), strict=True):
            torch.testing.assert_close(model.generator(c, z, domain), fake, rtol=0, atol=1e-10)
    content, attribute = (2, 4, 16, 16), (2, 8)
    assert draws.shapes == [content] * 2 + [attribute] * 4
    model.encoded_loss(a, b, drawn)
    assert draws.shapes[6:] == [content] * 2 + [attribute] * 2


def test_without_mode_seeking_one_attribute_is_drawn() -> None:
    model, batch, draws = drit(lambda_ms=0.0, concat=False), half_encoded(2, 0), Draws()
    model.noise_like = draws
    drawn = model.draw(batch.a[:2], batch.b[:2])
    assert drawn.z.shape == (2, 8)
    assert drawn.x_ab_random.shape == (2, 3, 32, 32)
    assert draws.shapes == [(2, 4, 16, 16)] * 2 + [(2, 8)]
    assert "ms" not in model.random_loss(drawn)[1]


def test_only_every_third_iteration_moves_more_than_the_content_discriminator() -> None:
    model, moved = drit(d_iter=3, ema=0.5), []
    descend = model.descend

    def watch(opt, *losses, clip=None):
        moved.append((model.iteration, model.trainer.optimizers.index(opt.optimizer), len(losses), clip))
        descend(opt, *losses, clip=clip)

    model.descend = watch
    train(model, 4)
    assert moved == [(0, 2, 1, 5.0), (1, 2, 1, 5.0), (2, 0, 1, None), (2, 2, 1, 5.0), (2, 1, 2, None), (3, 2, 1, 5.0)]


def test_without_a_content_discriminator_every_iteration_is_full() -> None:
    model = drit(lambda_content=0.0, d_iter=3)
    assert model.content_discriminator is None
    train(model, 1)
    assert len(model.trainer.optimizers) == 2
    assert all(int(state["step"]) > 0 for state in model.trainer.optimizers[1].state.values())


def test_encoded_and_real_rows() -> None:
    """Random reals only reach the second discriminators; encoded images only the rest."""
    model, batch = drit(encoded_rows=1, init_std=0.3), half_encoded(2, 0)
    model.iterations += 2
    assert model.check_batch(batch) == 1
    drawn = model.draw(batch.a[:1], batch.b[:1])
    assert drawn.c_a.shape[0] == 1
    _, terms, scores = model.discriminator_loss(batch, drawn)
    changed = UnpairedBatch(torch.cat((batch.a[:3], batch.b[3:])), batch.b)
    _, other, others = model.discriminator_loss(changed, drawn)
    assert [name for name in terms if not torch.equal(terms[name], other[name])] == ["a_random"]
    assert [name for name in scores if not torch.equal(scores[name], others[name])] == ["real_a_random"]


def test_batches_that_cannot_be_parted() -> None:
    model = drit()
    with pytest.raises(ValueError, match=r"so 1 of each domain are too few: set data\.batch_size"):
        model.check_batch(UnpairedBatch(*(torch.zeros(1, 3, 32, 32) for _ in range(2))))
    with pytest.raises(ValueError, match="too few"):
        drit(encoded_rows=4).check_batch(half_encoded(2, 0))


@BOTH
def test_protocols_odd_sizes_and_the_sentence_that_names_the_multiple(concat: bool) -> None:
    model, x = drit(concat=concat, init_std=0.3).eval(), torch.rand(2, 3, 34, 46) * 2 - 1
    assert isinstance(model, Stylist)
    assert isinstance(model, ContentCoder)
    assert model.style_spec.size == 8
    model.noise_like = lambda x: pytest.fail("translation draws no noise")
    with torch.no_grad():
        style = model.style_of(x, 1)
        assert style.shape == (2, 8)
        assert model.content_of(x, 0).shape == (2, 4, 17, 23)
        with_style = model.translate(x, 0, 1, style)
        assert with_style.shape == x.shape
        assert (with_style - model.translate(x, 0, 1)).abs().max() > 1e-4
        torch.testing.assert_close(model.translate(x, 0, 1), model.translate(x, 0, 1, torch.zeros(2, 8)))
        torch.testing.assert_close(model.translate(x[1:], 0, 1, style[1:]), with_style[1:], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 2 and at least 4, not 34 x 45"):
        model.translate(x[..., :45], 0, 1)
    with pytest.raises(ValueError, match="multiples of 2 and at least 16, not 34 x 14"):
        model.style_of(x[..., :14], 1)


def test_training_sizes_are_refused_before_they_crash() -> None:
    with torch.device("meta"):
        model = DRIT()
        model.check_batch(UnpairedBatch(*(torch.empty(2, 3, 212, 240) for _ in range(2))))
        with pytest.raises(ValueError, match="at least 212, not 208 x 208"):
            model.check_batch(UnpairedBatch(*(torch.empty(2, 3, 208, 208) for _ in range(2))))


def test_translations_come_from_the_average_where_there_is_one() -> None:
    model = drit(ema=0.9, init_std=0.3)
    train(model, 2)
    x = half_encoded(1, 0).a
    with torch.no_grad():
        for p in model.averaged.parameters():
            p.zero_()
        assert model.translate(x, 0, 1).abs().max() == 0
        assert model.content_of(x, 0).abs().max() == 0
        assert model.style_of(x, 0).abs().max() == 0


@pytest.mark.parametrize(("iteration", "rate"), [(0, 1), (369_000, 1), (553_500, 0.5), (738_000, 0), (10**6, 0)])
def test_the_learning_rate_falls_over_the_second_half(iteration: int, rate: float) -> None:
    assert drit().rate(iteration) == pytest.approx(rate)


@pytest.mark.parametrize("changes", [{"d_iter": 0}, {"decay_from": 5, "decay_to": 5}])
def test_schedules_that_are_none(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="DRIT needs d_iter >= 1 and decay_to > decay_from"):
        drit(**changes)


def test_a_posterior_that_has_run_away_still_gives_a_finite_draw() -> None:
    model = drit()
    with torch.no_grad():
        model.attribute_encoders[0].logvar.bias.fill_(400.0)
    attribute, _ = model.attribute(half_encoded(2, 0).a, 0)
    assert attribute.isfinite().all()
    assert 50 < attribute.abs().max() < 1000, "the deviation is e^5"
