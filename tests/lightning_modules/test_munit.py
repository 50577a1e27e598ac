"""MUNIT against the paper and the released code, beyond the contract and the recorded numbers."""

import copy

import pytest
import torch
from torch.nn.functional import l1_loss, mse_loss

from benchmarks.released import munit as released_munit
from interfaces.model import ContentCoder, Stylist
from lightning_modules.munit import MUNIT
from tests.lightning_modules.cases import CASES, Batches, fit, munit, unpaired

CASE = next(case for case in CASES if case.name == "munit")


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def contents(model: MUNIT, batch) -> tuple[torch.Tensor, torch.Tensor]:
    return model.content_encoders[0](batch.a), model.content_encoders[1](batch.b)


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = MUNIT()
    assert count(model) == 46_594_716
    assert sum(count(nets[0]) for nets in model.generators()) == 15_026_187
    assert count(model.discriminators[0]) == 8_271_171


@pytest.mark.parametrize("unequal", [False, True])
def test_objectives_are_the_written_sums(unequal: bool) -> None:
    """Every term recomputed plainly, one network call at a time, with distinct draws and domains of unequal number."""
    torch.manual_seed(0)
    weights = {"lambda_gan": 0.5, "lambda_style": 2.0, "lambda_content": 3.0, "lambda_cycle": 4.0}
    model, batch = munit(**weights), unpaired(2, 0)
    if unequal:
        batch = batch._replace(b=batch.b[:1])
    draws = [torch.randn(len(batch.b), 3, 1, 1), torch.randn(len(batch.a), 3, 1, 1)]
    s_a, s_b = (draw.flatten(1) for draw in draws)  # s_a for what becomes an image of a
    door = iter(draws)
    model.noise_like = lambda x: next(door)
    (ec_a, ec_b), (es_a, es_b) = model.content_encoders, model.style_encoders
    (g_a, g_b), (d_a, d_b) = model.decoders, model.discriminators
    c_a, c_b = ec_a(batch.a), ec_b(batch.b)
    x_ab, x_ba = g_b(c_a, s_b), g_a(c_b, s_a)
    own_a, own_b = es_a(batch.a), es_b(batch.b)
    expected = {
        "recon": l1_loss(g_a(c_a, own_a), batch.a) + l1_loss(g_b(c_b, own_b), batch.b),
        "adv": sum(mse_loss(s, torch.ones_like(s)) for s in d_a(x_ba) + d_b(x_ab)),
        "style": l1_loss(es_a(x_ba), s_a) + l1_loss(es_b(x_ab), s_b),
        "content": l1_loss(ec_b(x_ab), c_a) + l1_loss(ec_a(x_ba), c_b),
        "cycle": l1_loss(g_a(ec_b(x_ab), own_a), batch.a) + l1_loss(g_b(ec_a(x_ba), own_b), batch.b),
    }
    total = (
        10 * expected["recon"] + 0.5 * expected["adv"] + 2 * expected["style"] + 3 * expected["content"]
        + 4 * expected["cycle"]
    )  # fmt: skip
    loss, terms = model.generator_loss(batch, c_a, c_b, model.decode(batch, c_a, c_b))
    torch.testing.assert_close(dict(terms), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)

    d_loss, d_terms, _ = model.discriminator_loss(batch, x_ba.detach(), x_ab.detach())
    d_a_plain = sum(mse_loss(s, torch.ones_like(s)) for s in d_a(batch.a)) + sum((s**2).mean() for s in d_a(x_ba))
    d_b_plain = sum(mse_loss(s, torch.ones_like(s)) for s in d_b(batch.b)) + sum((s**2).mean() for s in d_b(x_ab))
    torch.testing.assert_close(dict(d_terms), {"a": d_a_plain, "b": d_b_plain}, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d_loss, 0.5 * (d_terms["a"] + d_terms["b"]))


def test_fakes_for_the_discriminator_have_styles_of_their_own_domain() -> None:
    model, batch = munit(), unpaired(2, 0)
    draws = [torch.randn(2, 3, 1, 1) for _ in range(2)]
    door = iter(draws)
    model.noise_like = lambda x: next(door)
    c_a, c_b = contents(model, batch)
    x_ba, x_ab = model.fakes(batch, c_a, c_b)
    torch.testing.assert_close(x_ba, model.decoders[0](c_b, draws[0].flatten(1)))
    torch.testing.assert_close(x_ab, model.decoders[1](c_a, draws[1].flatten(1)))
    assert not x_ba.requires_grad


def test_the_discriminator_learns_from_its_own_draws_unless_told_to_reuse() -> None:
    for reuse, draws in ((False, 4), (True, 2)):
        model, seen = munit(reuse_fakes=reuse, lambda_cycle=1.0), []
        model.noise_like = lambda x, seen=seen: seen.append(x.shape) or torch.zeros_like(x)
        fit(model, Batches(CASE, 1, 1), steps=1)
        assert seen == [(1, 3, 1, 1)] * draws


@pytest.mark.parametrize(
    ("zero", "left"),
    [
        ({}, {"recon", "adv", "style", "content"}),
        ({"lambda_style": 0.0}, {"recon", "adv", "content"}),
        ({"lambda_content": 0.0}, {"recon", "adv", "style"}),
        ({"lambda_content": 0.0, "lambda_cycle": 1.0}, {"recon", "adv", "style", "cycle"}),
    ],
)
def test_terms_of_weight_zero_are_not_computed(zero: dict, left: set) -> None:
    model, batch = munit(**zero), unpaired(1, 0)
    c_a, c_b = contents(model, batch)
    _, terms = model.generator_loss(batch, c_a, c_b, model.decode(batch, c_a, c_b))
    assert set(terms) == left


@pytest.mark.parametrize("reuse", [False, True])
def test_nothing_is_computed_twice(reuse: bool) -> None:
    """Images through the networks of one domain in one iteration."""
    model, images = munit(reuse_fakes=reuse, lambda_cycle=1.0), {}
    networks = {
        "content": model.content_encoders[0], "style": model.style_encoders[0], "decoder": model.decoders[0],
        "discriminator": model.discriminators[0],
    }  # fmt: skip
    for name, net in networks.items():
        net.register_forward_hook(
            lambda net, args, out, name=name: images.__setitem__(name, images.get(name, 0) + len(args[0]))
        )
    fit(model, Batches(CASE, 1, 1), steps=1)
    # content and style: the image and the translation into its domain; decoder: own, foreign, cycle, and D's own fake;
    # discriminator: real and fake, then fake
    assert images == {"content": 2, "style": 2, "decoder": 3 + (not reuse), "discriminator": 3}


def test_content_targets_are_not_constants() -> None:
    """The release lets the gradient of recon^c reach the encoder from the target's side too."""
    weights = {"lambda_recon": 0.0, "lambda_gan": 0.0, "lambda_style": 0.0}
    model, batch = munit(**weights).double(), unpaired(1, 0)
    batch = batch._replace(a=batch.a.double(), b=batch.b.double())
    model.noise_like = torch.ones_like
    c_a, c_b = contents(model, batch)
    targets = [c.detach().requires_grad_() for c in (c_a, c_b)]
    loss, _ = model.generator_loss(batch, *targets, model.decode(batch, c_a.detach(), c_b.detach()))
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(loss, targets))


@pytest.mark.parametrize("reuse", [False, True])
def test_released_order_gives_the_same_numbers(reuse: bool) -> None:
    """With the same draw in both players' steps, reusing D's translations changes nothing either.

    Biases are not zero: before a normalisation their true gradient is, and without a decay beside it Adam would divide
    rounding by rounding.
    """
    torch.manual_seed(0)
    model = munit(lambda_cycle=2.0, reuse_fakes=reuse, weight_decay=1e-2).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    released = copy.deepcopy(model)
    batches = [unpaired(2, seed) for seed in range(2)]
    batches = [b._replace(a=b.a.double(), b=b.b.double()) for b in batches]

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)

    model.noise_like = noise
    losses = []
    descend = model.descend
    model.descend = lambda opt, loss: losses.append(loss.detach()) or descend(opt, loss)
    data = Batches(CASE, 2, 2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader(batches, batch_size=None)
    fit(model, data, steps=2, precision="64-true")
    opts = released_munit.optimizers(released)
    theirs = [loss for batch in batches for loss in released_munit.step(released, *opts, batch, noise)]
    torch.testing.assert_close(torch.stack(losses), torch.stack(theirs), rtol=1e-10, atol=0)
    for p, q in zip(model.parameters(), released.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("iteration", "lr"), [(99_998, 1e-4), (99_999, 5e-5), (199_999, 2.5e-5)])
def test_learning_rate_of_the_release(iteration: int, lr: float) -> None:
    _, schedules = MUNIT(width=2, dis_width=2, blocks=1).configure_optimizers()
    for schedule in schedules:
        assert schedule.base_lrs[0] * schedule.lr_lambdas[0](iteration) == pytest.approx(lr)


def test_odd_sizes_and_the_sentence_that_names_the_multiple() -> None:
    model = munit()
    x = torch.zeros(1, 3, 36, 52)
    assert model.translate(x, 0, 1).shape == x.shape
    assert model.style_of(x, 0).shape == (1, 3)
    with pytest.raises(ValueError, match="multiples of 4 and at least 8, not 34 x 52"):
        model.translate(torch.zeros(1, 3, 34, 52), 0, 1)
    with pytest.raises(ValueError, match="multiples of 4 and at least 16, not 12 x 52"):
        model.style_of(torch.zeros(1, 3, 12, 52), 0)
    with pytest.raises(ValueError, match="multiples of 4 and at least 61, not 32 x 32"):
        fit(munit(dis_layers=4, dis_scales=3), Batches(CASE, 1, 1), steps=1)


def test_perceptual_term_needs_weights() -> None:
    with pytest.raises(ValueError, match="lambda_vgg > 0 needs vgg_weights"):
        munit(lambda_vgg=1.0)


def test_perceptual_term_pairs_a_translation_with_its_source() -> None:
    model, batch = munit(lambda_style=0.0, lambda_content=0.0), unpaired(1, 0)
    model.vgg, model.lambda_vgg = lambda x: x, 2.0
    c_a, c_b = contents(model, batch)
    decoded = model.decode(batch, c_a, c_b)
    loss, terms = model.generator_loss(batch, c_a, c_b, decoded)

    def distance(x, y):
        normal = torch.nn.functional.instance_norm
        return (normal(x) - normal(y)).square().mean()

    torch.testing.assert_close(terms["vgg"], distance(decoded.x_ba, batch.b) + distance(decoded.x_ab, batch.a))
    torch.testing.assert_close(loss, 10 * terms["recon"] + terms["adv"] + 2 * terms["vgg"])


def test_styles_steer_translations_and_are_read_per_image() -> None:
    torch.manual_seed(0)
    model, x = munit().eval(), unpaired(3, 0).a
    assert isinstance(model, Stylist)
    assert isinstance(model, ContentCoder)
    model.noise_like = lambda x: pytest.fail("translation draws no noise")
    with torch.no_grad():
        styles = model.style_of(x, 1)
        assert styles.shape == (3, model.style_spec.size)
        torch.testing.assert_close(styles[1:2], model.style_of(x[1:2], 1))
        y = model.translate(x, 0, 1, styles)
        torch.testing.assert_close(y[2:], model.translate(x[2:], 0, 1, styles[2:]))
        assert (model.translate(x, 0, 1, 3 + styles) - y).abs().mean() > 1e-3
        torch.testing.assert_close(model.translate(x, 0, 1), model.translate(x, 0, 1, torch.zeros(3, 3)))
        torch.testing.assert_close(y, model.decoders[1](model.content_of(x, 0), styles))


def test_a_translation_starts_as_a_reconstruction() -> None:
    model, x = munit(same_start=True, ema=0.5).eval(), unpaired(1, 0).a
    with torch.no_grad():
        assert torch.equal(model.translate(x, 0, 1), model.translate(x, 0, 0))
        assert torch.equal(model.style_of(x, 0), model.style_of(x, 1))
    assert model.decoders[0].mlp.first.weight is not model.decoders[1].mlp.first.weight
    assert not torch.equal(munit().decoders[0].head.weight, munit().decoders[1].head.weight)


def test_the_average_serves_outside_training() -> None:
    torch.manual_seed(0)
    model = munit(ema=0.5, lr=0.1)
    before = [p.detach().clone() for p in model.averaged.parameters()]
    fit(model, Batches(CASE, 1, 1), steps=1)
    # Early on the decay is (1 + k) / (10 + k), lower than asked for.
    for average, p, start in zip(model.averaged.parameters(), model.generators().parameters(), before, strict=True):
        torch.testing.assert_close(average, 0.1 * start + 0.9 * p)
        assert not average.requires_grad
    x = unpaired(1, 0).a
    with torch.no_grad():
        contents_, styles, decoders = model.averaged
        torch.testing.assert_close(model.content_of(x, 0), contents_[0](x))
        torch.testing.assert_close(model.style_of(x, 1), styles[1](x))
        torch.testing.assert_close(
            model.translate(x, 0, 1, torch.ones(1, 3)), decoders[1](contents_[0](x), torch.ones(1, 3))
        )


def test_half_precision_gives_the_same_picture() -> None:
    model = munit().eval()
    x = unpaired(1, 0).a
    with torch.no_grad():
        y = model.translate(x, 0, 1, torch.ones(1, 3))
        with torch.autocast("cpu", torch.bfloat16):
            half = model.translate(x, 0, 1, torch.ones(1, 3)).float()
    assert (y - half).abs().mean() < 0.03
