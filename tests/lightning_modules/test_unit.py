"""UNIT against the paper and the released code, beyond the contract and the recorded numbers."""

import pytest
import torch
from torch.nn.functional import l1_loss, mse_loss

from lightning_modules.unit import UNIT
from tests.lightning_modules.cases import CASES, Batches, fit, unit, unpaired


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = UNIT()
    assert count(model.encoders[0]) == 5_385_856
    assert count(model.decoders[0]) == 5_754_627
    assert count(model.discriminators[0]) == 8_271_171
    assert count(model) == 38_823_308


def test_shared_blocks_are_one_and_nearest_to_the_code() -> None:
    model = unit(blocks=3, shared_blocks=2)
    (e_a, e_b), (g_a, g_b) = model.encoders, model.decoders
    assert [x is y for x, y in zip(e_a.blocks, e_b.blocks, strict=True)] == [False, True, True]
    assert [x is y for x, y in zip(g_a.blocks, g_b.blocks, strict=True)] == [True, True, False]
    assert count(model) == count(unit(blocks=3)) - count(e_a.blocks[1:]) - count(g_a.blocks[:2])
    fit(model, Batches(CASES[0], 2, 1), steps=2)
    assert all(torch.equal(x, y) for x, y in zip(e_a.blocks[2].parameters(), e_b.blocks[2].parameters(), strict=True))


def test_a_translation_starts_as_a_reconstruction() -> None:
    model, x = unit(same_start=True).eval(), unpaired(1, 0).a
    with torch.no_grad():
        assert torch.equal(model.translate(x, 0, 1), model.translate(x, 0, 0))
    assert model.encoders[0].stem.weight is not model.encoders[1].stem.weight


@pytest.mark.parametrize("shared", [-1, 3])
def test_more_shared_blocks_than_blocks(shared: int) -> None:
    with pytest.raises(ValueError, match=f"shared_blocks is {shared}, but there are 2"):
        unit(shared_blocks=shared)


def test_objectives_are_the_written_sums() -> None:
    """Every term recomputed plainly, one network call at a time, with distinct noise for every draw."""
    torch.manual_seed(0)
    model, batch = unit(lambda_kl=0.02, lambda_cycle_kl=0.03, lambda_cycle=4.0, lambda_gan=0.5), unpaired(2, 0)
    noise = [torch.randn(2, 16, 8, 8) for _ in range(4)]
    draws = iter(noise)
    model.noise_like = lambda x: next(draws)
    (e_a, e_b), (g_a, g_b), (d_a, d_b) = model.encoders, model.decoders, model.discriminators
    n_a, n_b, n_aba, n_bab = noise
    mu_a, mu_b = e_a(batch.a), e_b(batch.b)
    x_ab, x_ba = g_b(mu_a + n_a), g_a(mu_b + n_b)
    mu_aba, mu_bab = e_b(x_ab), e_a(x_ba)
    expected = {
        "kl": (mu_a**2).mean() + (mu_b**2).mean(),
        "recon": l1_loss(g_a(mu_a + n_a), batch.a) + l1_loss(g_b(mu_b + n_b), batch.b),
        "adv": sum(mse_loss(s, torch.ones_like(s)) for s in d_a(x_ba) + d_b(x_ab)),
        "cycle_kl": (mu_aba**2).mean() + (mu_bab**2).mean(),
        "cycle": l1_loss(g_a(mu_aba + n_aba), batch.a) + l1_loss(g_b(mu_bab + n_bab), batch.b),
    }
    total = (
        0.02 * expected["kl"] + 10 * expected["recon"] + 0.5 * expected["adv"]
        + 0.03 * expected["cycle_kl"] + 4 * expected["cycle"]
    )  # fmt: skip
    decoded = model.decode(mu_a, mu_b)
    loss, terms = model.generator_loss(batch, mu_a, mu_b, decoded)
    torch.testing.assert_close(dict(terms), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)

    d_loss, d_terms, scores = model.discriminator_loss(batch, x_ba.detach(), x_ab.detach())
    d_a_plain = sum(mse_loss(s, torch.ones_like(s)) for s in d_a(batch.a)) + sum((s**2).mean() for s in d_a(x_ba))
    torch.testing.assert_close(d_terms["a"], d_a_plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d_loss, 0.5 * (d_terms["a"] + d_terms["b"]))
    for name, logits in {
        "real_a": d_a(batch.a),
        "fake_a": d_a(x_ba),
        "real_b": d_b(batch.b),
        "fake_b": d_b(x_ab),
    }.items():
        expected_score = sum(scale.mean() for scale in logits) / len(logits)
        torch.testing.assert_close(scores[name], expected_score.detach(), rtol=1e-4, atol=1e-5)
        assert not scores[name].requires_grad


def test_the_discriminator_learns_from_its_own_noise_unless_told_to_reuse() -> None:
    for reuse, draws in ((False, 6), (True, 4)):
        model, seen = unit(reuse_fakes=reuse), []
        model.noise_like = lambda x, seen=seen: seen.append(x.shape) or torch.zeros_like(x)
        fit(model, Batches(CASES[0], 1, 1), steps=1)
        assert seen == [(1, 16, 8, 8)] * draws


def test_terms_of_weight_zero_cost_nothing() -> None:
    model, batch = unit(lambda_cycle=0.0, lambda_cycle_kl=0.0), unpaired(1, 0)
    mu_a, mu_b = model.encoders[0](batch.a), model.encoders[1](batch.b)
    _, terms = model.generator_loss(batch, mu_a, mu_b, model.decode(mu_a, mu_b))
    assert set(terms) == {"kl", "recon", "adv"}


@pytest.mark.parametrize(("iteration", "lr"), [(99_998, 1e-4), (99_999, 5e-5), (199_999, 2.5e-5)])
def test_learning_rate_of_the_release(iteration: int, lr: float) -> None:
    _, schedules = UNIT(width=2, dis_width=2, blocks=1).configure_optimizers()
    for schedule in schedules:
        assert schedule.base_lrs[0] * schedule.lr_lambdas[0](iteration) == pytest.approx(lr)


def test_odd_sizes_and_the_sentence_that_names_the_multiple() -> None:
    model = unit()
    assert model.translate(torch.zeros(1, 3, 36, 52), 0, 1).shape == (1, 3, 36, 52)
    with pytest.raises(ValueError, match="multiples of 4 and at least 8, not 34 x 52"):
        model.translate(torch.zeros(1, 3, 34, 52), 0, 1)
    with pytest.raises(ValueError, match="multiples of 4 and at least 61, not 32 x 32"):
        fit(unit(dis_layers=4, dis_scales=3), Batches(CASES[0], 1, 1), steps=1)


def test_perceptual_term_needs_weights() -> None:
    with pytest.raises(ValueError, match="lambda_vgg > 0 needs vgg_weights"):
        unit(lambda_vgg=1.0)


def test_translation_is_the_posterior_mean_and_precision_does_not_change_shapes() -> None:
    model = unit().eval()
    x = unpaired(1, 0).a
    model.noise_like = lambda x: pytest.fail("translation draws no noise")
    with torch.no_grad():
        y = model.translate(x, 0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.translate(x, 0, 1).float()
    assert (y - half).abs().mean() < 0.03
