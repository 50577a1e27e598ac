"""Multi-domain DRIT++ against paper and release, beyond the contract and the recorded numbers."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.released import mdmm as released_mdmm
from interfaces.batch import DomainBatch, ImageBatch
from interfaces.model import Blender, ContentCoder, Sized, Stylist
from lightning_modules.drit_multidomain import MultiDomainDRIT, recognition, swap
from losses.diversity import mode_seeking
from tests.lightning_modules.cases import Batches, Case, fit, halves, halves_of_five, seasons, shapes, weights

CASE = Case("seasons", seasons, halves)
SHAPES = Case("shapes", shapes, halves_of_five)
BOTH = pytest.mark.parametrize("concat", [True, False], ids=["concat", "mixing"])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def train(model: MultiDomainDRIT, steps: int, **options) -> None:
    fit(model, Batches(CASE, steps, 2), steps=steps, **options)


def codes(batch: DomainBatch) -> torch.Tensor:
    return torch.eye(3, dtype=batch.image.dtype)[batch.domain]


def double(batch: DomainBatch) -> DomainBatch:
    return batch._replace(image=batch.image.double())


class Draws:
    """Noise by the number of the draw, each draw another."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.shapes = torch.Generator().manual_seed(seed), []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return torch.randn(x.shape, generator=self.rng, dtype=torch.float64).to(x)


@pytest.mark.parametrize(("domains", "concat", "total"), [(3, True, 54_070_668), (4, True, 54_124_965)])
def test_published_sizes(domains: int, concat: bool, total: int) -> None:
    with torch.device("meta"):
        model = MultiDomainDRIT(tuple("abcd"[:domains]), concat)
    assert count(model) == total
    assert count(model.discriminator) == 15_737_472 + (domains - 3) * 9216


@BOTH
def test_the_textbook_order_gives_the_same_numbers(concat: bool) -> None:
    """One content-only and one full iteration, each draw another, float64: equal where gradients are real."""
    torch.manual_seed(0)
    model = seasons(concat=concat, lambda_ms=0.0, d_iter=2, lr=1e-4, blocks=2, init_std=0.3).double()
    plain = copy.deepcopy(model)
    before, draws = weights(model), Draws()
    model.noise_like = draws
    losses: list[torch.Tensor] = []
    descend = model.descend

    def watch(opt, *of_step, clip=None):
        losses.extend(loss.detach() for loss in of_step)
        descend(opt, *of_step, clip=clip)

    model.descend = watch
    fit(model, Batches(CASE, 2, 2), steps=2, precision="64-true")
    opts, noise = released_mdmm.optimizers(plain), Draws()
    batches = [double(halves(2, seed)) for seed in range(2)]
    alone = released_mdmm.content_step(plain, opts, batches[0], noise)
    full = released_mdmm.step(plain, opts, batches[1], noise)
    assert draws.shapes == noise.shapes
    torch.testing.assert_close(torch.stack([losses[0], *losses[2:]]), torch.stack([alone, *full]), rtol=1e-12, atol=0)
    moved = 0
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None or theirs.grad.abs().max() > 1e-10 or "discriminator" in name:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-9, msg=lambda m, n=name: f"{n}: {m}")
            moved += not torch.equal(ours, before[name])
    assert moved > 30


def test_the_release_has_no_mode_seeking() -> None:
    with pytest.raises(ValueError, match="set lambda_ms to 0"):
        released_mdmm.optimizers(seasons())


def test_six_players_of_the_release_are_three() -> None:
    model = seasons()
    train(model, 1)
    d, makers, content = ({id(p) for g in opt.param_groups for p in g["params"]} for opt in model.trainer.optimizers)
    assert d == {id(p) for net in (model.discriminator, model.random_discriminator) for p in net.parameters()}
    assert makers == {id(p) for net in model.makers() for p in net.parameters()}
    assert content == {id(p) for p in model.content_discriminator.parameters()}
    rates = [opt.param_groups[0]["lr"] for opt in model.trainer.optimizers]
    assert rates == pytest.approx([1e-3, 1e-3, 4e-4])


def test_the_content_discriminators_rate_never_falls() -> None:
    model = seasons(d_iter=2, decay_from=0, decay_to=4)
    train(model, 4)
    rates = [opt.param_groups[0]["lr"] for opt in model.trainer.optimizers]
    assert rates == pytest.approx([0, 0, 4e-4])


def test_only_every_third_iteration_moves_more_than_the_content_discriminator() -> None:
    """Which then rests, unlike DRIT's."""
    model, moved = seasons(d_iter=3), []
    descend = model.descend

    def watch(opt, *losses, clip=None):
        moved.append((model.iteration, model.trainer.optimizers.index(opt.optimizer), len(losses), clip))
        descend(opt, *losses, clip=clip)

    model.descend = watch
    train(model, 4)
    assert moved == [(0, 2, 1, 5.0), (1, 2, 1, 5.0), (2, 0, 1, None), (2, 1, 2, None), (3, 2, 1, 5.0)]


def test_attribute_encoder_takes_one_step_and_the_others_two() -> None:
    model = seasons()
    train(model, 3)
    _, makers, content = model.trainer.optimizers
    steps = {id(p): int(state["step"]) for p, state in makers.state.items()}
    assert {steps[id(p)] for p in model.attribute_encoder.parameters()} == {3}
    assert {steps[id(p)] for net in (model.content_encoder, model.generator) for p in net.parameters()} == {6}
    assert {int(state["step"]) for state in content.state.values()} == {3}


def test_without_a_content_discriminator_every_iteration_is_full() -> None:
    model = shapes(d_iter=3)
    assert model.content_discriminator is None
    fit(model, Batches(SHAPES, 1, 2), steps=1)
    assert len(model.trainer.optimizers) == 2
    assert all(int(state["step"]) > 0 for state in model.trainer.optimizers[1].state.values())


@pytest.fixture
def drawn():
    """A model, a batch with its codes, what was drawn of it, and the draws."""
    torch.manual_seed(0)
    model, batch, draws = seasons(init_std=0.3).double(), double(halves(2, 0)), Draws()
    model.noise_like = draws
    k = codes(batch)
    return model, batch.image, k, model.draw(batch.image, k), draws


def test_contents_change_places_and_attributes_stay(drawn) -> None:
    """Each row against the plain generator: own or other content, two draws that both halves share."""
    model, _, k, seen, draws = drawn
    content, attribute = (4, 4, 16, 16), (4, 8)
    assert draws.shapes == [content, attribute, (2, 8), (2, 8)]
    g, other = model.generator, torch.cat((seen.c[2:], seen.c[:2]))
    z_1, again, z_2, again_2 = seen.z.split(2)
    assert torch.equal(z_1, again)
    assert torch.equal(z_2, again_2)
    assert (z_1 - z_2).abs().min() > 1e-3
    for z, fakes in zip(seen.z.split(4), seen.x_random.split(4), strict=True):
        torch.testing.assert_close(g(other, z, k), fakes, rtol=0, atol=1e-10)
    assert (seen.x_self - seen.x_cross).abs().max() > 1e-2
    assert torch.equal(swap(seen.c), other)


def test_sums_and_means(drawn) -> None:
    """Adversarial terms and the KL are sums over images, everything else is a mean."""
    model, x, k, seen, _ = drawn
    _, terms = model.encoded_loss(x, k, seen)
    score, domain = model.discriminator(seen.x_cross)
    rows = -torch.nn.functional.logsigmoid(score).mean((1, 2, 3))
    torch.testing.assert_close(terms["adv"], rows.sum())
    p = domain.sigmoid()
    torch.testing.assert_close(terms["cls"], -(k * p.log() + (1 - k) * (1 - p).log()).mean())
    p = model.content_discriminator(seen.c).sigmoid()
    torch.testing.assert_close(terms["content"], -((1 - k) * p.log() + k * (1 - p).log()).mean())
    mu, logvar = model.attribute_encoder(x, k)
    torch.testing.assert_close(terms["kl"], -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum())
    torch.testing.assert_close(terms["content_norm"], seen.c.square().mean())

    _, terms, means = model.discriminator_loss(x, k, seen)
    real, fake = (model.random_discriminator(y)[0] for y in (x, seen.x_random))
    assert fake.shape[0] == 8, "both draws"
    p_real, p_fake = -torch.nn.functional.logsigmoid(real), -torch.nn.functional.logsigmoid(-fake)
    torch.testing.assert_close(terms["random"], 2 * p_real.mean((1, 2, 3)).sum() + p_fake.mean((1, 2, 3)).sum())
    torch.testing.assert_close(means["fake_random"], fake.mean())


def test_sums_are_of_all_processes(drawn) -> None:
    """Gradients are averaged over processes: each scales its mean by the rows of all."""
    model, x, k, seen, _ = drawn
    alone = model.encoded_loss(x, k, seen)[1]["adv"]
    model._trainer = SimpleNamespace(world_size=3)
    torch.testing.assert_close(model.encoded_loss(x, k, seen)[1]["adv"], 3 * alone)


def test_both_draws_count_and_the_first_is_read_back(drawn) -> None:
    model, _, k, seen, _ = drawn
    _, terms = model.random_loss(k, seen)
    (a_1, b_1, a_2, b_2), (z_1, _, z_2, _) = seen.x_random.split(2), seen.z.split(2)
    torch.testing.assert_close(terms["ms"], mode_seeking(a_1, a_2, z_1, z_2) + mode_seeking(b_1, b_2, z_1, z_2))
    read = model.attribute_encoder.mean(torch.cat((a_1, b_1)), k)
    torch.testing.assert_close(terms["latent"], (read[:2] - z_1).abs().mean() + (read[2:] - z_1).abs().mean())
    logits = [model.random_discriminator(fakes)[1] for fakes in seen.x_random.split(4)]
    torch.testing.assert_close(terms["cls_random"], recognition(logits[0], k) + recognition(logits[1], k))


def test_a_fresh_discriminator_knows_nothing() -> None:
    """The release's numbers: 2 ln 2 an image, ln 2 a domain."""
    torch.manual_seed(0)
    model, batch = seasons(init_std=0.02, lambda_ms=0.0), halves(1, 0)
    seen = model.draw(batch.image, codes(batch))
    _, terms, _ = model.discriminator_loss(batch.image, codes(batch), seen)
    assert terms["encoded"].item() == pytest.approx(2.773, abs=2e-3)
    assert terms["cls_encoded"].item() == pytest.approx(0.693, abs=2e-3)


def test_the_random_objective_leaves_attribute_encoder_and_discriminators_alone(drawn) -> None:
    model, _, k, seen, _ = drawn
    loss, terms = model.random_loss(k, seen)
    assert set(terms) == {"adv_random", "cls_random", "latent", "ms"}
    loss.backward()
    assert all(p.grad is None for p in model.attribute_encoder.parameters())
    assert all(p.requires_grad for p in model.attribute_encoder.parameters())
    for net in (model.content_encoder, model.generator):
        assert sum(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters()) > 8


def test_without_mode_seeking_one_attribute_is_drawn() -> None:
    model, batch, draws = seasons(lambda_ms=0.0, concat=False), halves(2, 0), Draws()
    model.noise_like = draws
    seen = model.draw(batch.image, codes(batch))
    assert seen.z.shape == (4, 8)
    assert seen.x_random.shape == (4, 3, 32, 32)
    assert draws.shapes == [(4, 4, 16, 16), (2, 8)]
    assert "ms" not in model.random_loss(codes(batch), seen)[1]


@BOTH
def test_protocols_and_what_lies_between_domains(concat: bool) -> None:
    model, x = seasons(concat=concat, init_std=0.3).eval(), torch.rand(2, 3, 34, 46) * 2 - 1
    for protocol in (Stylist, Blender, ContentCoder, Sized):
        assert isinstance(model, protocol)
    model.noise_like = lambda x: pytest.fail("translation draws no noise")
    with torch.no_grad():
        style = model.style_of(x, 2)
        assert style.shape == (2, 8)
        assert (style - model.style_of(x, 0)).abs().max() > 1e-5, "the domain is told"
        assert model.content_of(x, 0).shape == (2, 4, 17, 23)
        y = model.translate(x, 0, 2, style)
        assert y.shape == x.shape
        torch.testing.assert_close(model.blend(x, 0, torch.eye(3)[[2, 2]], style), y)
        between = model.blend(x, 0, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]), style)
        torch.testing.assert_close(between[1], y[1], rtol=0, atol=1e-5)
        assert (between[0] - y[0]).abs().max() > 1e-4
        assert (between[0] - model.translate(x, 0, 1, style)[0]).abs().max() > 1e-4
        assert model.blend(x, 0, torch.tensor([[2.0, 0.0, -1.0]] * 2)).isfinite().all()
        torch.testing.assert_close(model.translate(x, 1, 0), model.translate(x, 2, 0, torch.zeros(2, 8)))
        predicted = [model.predict_step(ImageBatch(x), 0, d) for d in range(3)]
        for d, image in enumerate(predicted):
            torch.testing.assert_close(image, model.translate(x, d, (d + 1) % 3))
    with pytest.raises(ValueError, match="multiples of 2 and at least 4, not 34 x 45"):
        model.translate(x[..., :45], 0, 1)
    with pytest.raises(ValueError, match="multiples of 2 and at least 16, not 34 x 14"):
        model.style_of(x[..., :14], 1)


def test_translations_come_from_the_average_where_there_is_one() -> None:
    model, x = seasons(ema=0.9, init_std=0.3), halves(1, 0).image
    train(model, 2)
    with torch.no_grad():
        for p in model.averaged.parameters():
            p.zero_()
        assert model.translate(x, 0, 1).abs().max() == 0
        assert model.content_of(x, 0).abs().max() == 0
        assert model.style_of(x, 0).abs().max() == 0


def test_batches_that_cannot_be_trained_on() -> None:
    model, batch = seasons(), halves(2, 0)
    with pytest.raises(ValueError, match=r"3 images have none: set data\.batch_size to an even number"):
        model.check_batch(DomainBatch(*(t[:3] for t in batch)))
    with pytest.raises(ValueError, match=r"domain number 3, .* has 3 domains, .* set model\.domains"):
        model.check_batch(batch._replace(domain=torch.tensor([0, 3, 1, 1])))
    with pytest.raises(ValueError, match="multiples of 2 and at least 22, not 16 x 16"):
        model.check_batch(batch._replace(image=batch.image[..., :16, :16]))
    with torch.device("meta"):
        wide = MultiDomainDRIT(("a", "b", "c"))
        assert wide.discriminator.smallest() == 129
        with pytest.raises(ValueError, match="at least 212, not 208 x 208"):
            wide.check_batch(DomainBatch(torch.empty(2, 3, 208, 208), torch.zeros(2, dtype=torch.long)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"d_iter": 0}, "d_iter >= 1"), ({"decay_from": 5, "decay_to": 5}, "decay_to >"), ({"domains": ("a",)}, "has 1")],
)
def test_arguments_that_are_none(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seasons(**changes)


@pytest.mark.parametrize(("iteration", "rate"), [(0, 1), (750_000, 1), (1_125_000, 0.5), (1_500_000, 0), (10**7, 0)])
def test_the_learning_rate_falls_over_the_second_half(iteration: int, rate: float) -> None:
    assert seasons().rate(iteration) == pytest.approx(rate)


def test_a_posterior_that_has_run_away_still_gives_a_finite_draw() -> None:
    model, batch = seasons(), halves(2, 0)
    with torch.no_grad():
        model.attribute_encoder.logvar.bias.fill_(400.0)
    attribute, _ = model.attribute(batch.image, codes(batch))
    assert attribute.isfinite().all()
    assert 50 < attribute.abs().max() < 1000, "the deviation is e^5"
