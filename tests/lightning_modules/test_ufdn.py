"""UFDN against paper and release, beyond the contract and the recorded numbers."""

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.released import ufdn as released_ufdn
from benchmarks.timing import bare
from interfaces.batch import ImageBatch
from interfaces.model import Blender, ContentCoder, Sized
from lightning_modules.ufdn import UFDN, labelled_cross_entropy, ramp
from tests.lightning_modules.cases import (
    NONE,
    Batches,
    Case,
    fit,
    images,
    of_digits,
    of_domains,
    of_four_domains,
    ufdn,
    ufdn_of_digits,
    ufdn_of_four_domains,
    weights,
)

CASE = Case("ufdn", ufdn, of_domains)
DIGITS = Case("ufdn_digits", ufdn_of_digits, of_digits)
FOUR = Case("ufdn_four", ufdn_of_four_domains, of_four_domains)


class Draws:
    """Noise by the number of the draw in its iteration, each draw another."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.kept: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(len(self.shapes))
        self.shapes.append(tuple(x.shape))
        self.kept.append(torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x))
        return self.kept[-1]


def train(model: UFDN, steps: int, case: Case = CASE, **options: Any) -> None:
    fit(model, Batches(case, steps, 2), steps=steps, **options)


def count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        faces = UFDN()
        digits = UFDN(
            ("svhn", "mnist"), 32, (128, 256, 512, 1024), 2048, (1024, 256), classes=10, lambda_adv=NONE,
            lambda_clf=NONE,
        )  # fmt: skip
    nets = ("encoder", "decoder", "domain_classifier", "critic", "class_head")
    assert [count(getattr(faces, net)) for net in nets] == [44_706_624, 27_976_515, 697_475, 1_224_436, 0]
    assert [count(getattr(digits, net)) for net in nets] == [78_134_912, 44_609_155, 2_361_090, 0, 20_490]


@pytest.mark.parametrize("case", [CASE, DIGITS], ids=lambda case: case.name)
def test_the_textbook_order_gives_the_same_numbers(case: Case) -> None:
    """Two iterations, each draw another, float64: losses, weights and running statistics."""
    torch.manual_seed(0)
    model = case.build().double()
    plain = copy.deepcopy(model)
    before, step, opts = weights(model), bare(model), released_ufdn.optimizers(plain)
    for k in range(2):
        draws, noise = Draws(), Draws()
        object.__setattr__(model, "noise_like", draws)
        batch = case.batch(2, k)
        batch = batch._replace(image=batch.image.double())
        ours, theirs = step(batch), released_ufdn.step(plain, opts, batch, noise)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=0)
        assert draws.shapes == noise.shapes[: len(draws.shapes)]
        assert len(noise.shapes) - len(draws.shapes) == (model.critic is not None)  # what the release throws away
        for (name, mine), value in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        model.iterations += 1
        plain.iterations += 1
    assert sum(not torch.equal(before[name], p) for name, p in model.named_parameters()) > 20


def test_the_release_encodes_images_five_times_and_translations_once() -> None:
    for changes, encoder, decoder in (
        ({}, 6, 3),
        ({"reuse_fakes": True}, 6, 3),
        ({"bn_compat": False}, 1, 3),
        ({"bn_compat": False, "reuse_fakes": True}, 1, 2),
    ):
        model = ufdn(**changes)
        train(model, 1)
        assert {int(norm.num_batches_tracked) for norm in model.encoder.norms} == {encoder}
        assert {int(norm.num_batches_tracked) for norm in model.decoder.norms} == {decoder}
    digits = ufdn_of_digits()
    train(digits, 1, DIGITS)
    assert {int(norm.num_batches_tracked) for norm in digits.encoder.norms} == {4}
    assert {int(norm.num_batches_tracked) for norm in digits.decoder.norms} == {1}


def test_weights_grow_as_the_release_adds_them_up() -> None:
    recon, feat, adv = ramp(100.0, 1.0, 1000), ramp(0.0, 1.0, 10_000), ramp(0.0, 1e-6, 10_000)
    assert recon[:2] == [100.0, 99.901]
    assert recon[500] == pytest.approx(50.5, abs=1e-9)
    assert (len(recon), recon[-1]) == (1001, pytest.approx(0.99999999999966, abs=1e-14))
    assert (len(feat), feat[-1]) == (10_002, pytest.approx(1.0000999999999, abs=1e-13))
    assert feat[10_000] == pytest.approx(1.0)
    assert (len(adv), adv[-1]) == (10_001, pytest.approx(1.000000000000063e-06, rel=1e-15))
    assert ramp(100.0, 100.0, 1) == [100.0]
    model = ufdn(lambda_feat=(0.0, 1.0, 10_000))
    for k, value in ((0, 0.0), (1, 1e-4), (10_000, 1.0), (20_000, 1.0001)):
        model.iterations.fill_(k)
        assert model.now(model.lambda_feat) == pytest.approx(value)


def test_targets_go_round_and_round() -> None:
    model, v = ufdn(), one_hot(torch.tensor([2, 0, 1]), 3).float()
    assert model.targets(v).argmax(1).tolist() == [0, 1, 2]
    model.iterations.fill_(1)
    assert model.targets(v).argmax(1).tolist() == [1, 2, 0]


def test_random_targets_are_every_other_domain_as_often() -> None:
    torch.manual_seed(0)
    model, domain = ufdn_of_four_domains(), torch.arange(4).repeat(3000)
    targets = model.targets(one_hot(domain, 4).float())
    assert targets.sum(1).eq(1).all()
    counts = torch.bincount(4 * domain + targets.argmax(1), minlength=16).view(4, 4)
    assert counts.diagonal().tolist() == [0, 0, 0, 0]
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1000).abs().max() < 150  # five deviations


def test_shares_are_uniform() -> None:
    torch.manual_seed(0)
    alpha = ufdn().shares(torch.zeros(20_000, 3, 2, 2))
    assert alpha.shape == (20_000, 1, 1, 1)
    sorted_alpha = alpha.flatten().sort().values
    assert (sorted_alpha - torch.linspace(0, 1, 20_000)).abs().max() < 0.015  # Kolmogorov and Smirnov: 1.6 / sqrt(n)


def test_what_judges_say_of_translations_teaches_only_the_decoder() -> None:
    torch.manual_seed(0)
    model, batch = ufdn(lambda_recon=NONE, lambda_kl=NONE, lambda_feat=NONE), of_domains(2, 0)
    v = one_hot(batch.domain, 3).float()
    loss, terms = model.makers_loss(batch, model.encoder(batch.image), v, v.roll(1, 1), None)
    loss.backward()
    assert set(terms) == {"recon", "kl", "adv", "cls"}
    assert not any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad.any() for p in model.decoder.convs[0].parameters())


def test_what_d_v_says_teaches_only_the_encoder() -> None:
    torch.manual_seed(0)
    model = ufdn(lambda_recon=NONE, lambda_kl=NONE, lambda_adv=NONE, lambda_clf=NONE)
    batch = of_domains(2, 0)
    v = one_hot(batch.domain, 3).float()
    loss, _ = model.makers_loss(batch, model.encoder(batch.image), v, v, None)
    loss.backward()
    assert model.encoder.mu.weight.grad.abs().max() > 0
    assert not any(p.grad is not None and p.grad.any() for p in model.decoder.parameters())


def test_every_use_of_a_code_has_a_draw_of_its_own() -> None:
    shapes = [(6, 20), (6, 20), (6, 1), (6, 20), (6, 20), (6, 20)]
    for reuse, expected in ((False, shapes), (True, shapes[:-1])):
        model, draws, judged = ufdn(reuse_fakes=reuse), Draws(), []
        model.noise_like = draws
        model.critic.features = watched(model.critic.features, judged)
        train(model, 1)
        assert draws.shapes == expected
        codes = [draw for draw in draws.kept if draw.shape == (6, 20)]
        assert all(not torch.equal(a, b) for k, a in enumerate(codes) for b in codes[:k])
        assert torch.equal(judged[0][6:], judged[2]) == reuse  # D_x's translations and G's


def watched(function, kept: list[torch.Tensor]):
    """The same function, whose arguments are kept."""

    def call(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.detach().clone())
        return function(x)

    return call


def test_what_the_encoder_asks_of_d_v() -> None:
    logits, v = torch.randn(5, 3, dtype=torch.float64), one_hot(torch.tensor([0, 1, 2, 0, 0]), 3).double()
    p = logits.sigmoid()
    log_likelihood = v * p.log() + (1 - v) * (1 - p).log()
    flipped = (1 - v) * p.log() + v * (1 - p).log()
    uniform = p.log() / 3 + 2 * (1 - p).log() / 3
    torch.testing.assert_close(ufdn().confusion(logits, v), -flipped.mean())
    torch.testing.assert_close(ufdn(negate=True).confusion(logits, v), log_likelihood.mean())
    torch.testing.assert_close(ufdn(uniform=True).confusion(logits, v), -uniform.mean())


def test_the_critic_sees_real_images_as_real() -> None:
    """Of D_x that scores the mean of an image and nothing else, everything is known."""
    model = ufdn(gp_per_sample=True).double()

    def features(x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None].expand(-1, 8)

    model.critic.features = features
    torch.nn.init.ones_(model.critic.score.weight)
    torch.nn.init.zeros_(model.critic.score.bias)
    torch.nn.init.zeros_(model.critic.domain.weight)
    torch.nn.init.zeros_(model.critic.domain.bias)
    x, v = torch.ones(2, 3, 32, 32, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:2]
    loss, terms, scores = model.critic_loss(x, v, -0.5 * x)
    slope = 8 / (3 * 32 * 32) ** 0.5
    expected = {"adv": -12.0, "gp": (slope - 1) ** 2, "cls": 0.6931471805599453}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    assert loss.item() == pytest.approx(-12 + 10 * (slope - 1) ** 2 + 0.6931471805599453)
    assert (scores["real"].item(), scores["fake"].item()) == pytest.approx((8, -4))
    model.penalty = ufdn().penalty
    assert model.critic_loss(x, v, -0.5 * x)[1]["gp"].item() == pytest.approx((slope / 32 - 1) ** 2)


def test_digits_are_learnt_from_labelled_images_only() -> None:
    logits, label = torch.randn(6, 10, dtype=torch.float64), torch.tensor([3, 1, 4, -1, -1, -1])
    torch.testing.assert_close(labelled_cross_entropy(logits, label), cross_entropy(logits[:3], label[:3]))
    assert labelled_cross_entropy(logits, torch.full((6,), -1)) == 0
    model, batch = ufdn_of_digits().eval(), of_digits(2, 0)
    with torch.no_grad():
        torch.testing.assert_close(model.classify(batch.image), model.class_head(model.encoder(batch.image)[0]))


@pytest.mark.parametrize(
    ("changes", "players"),
    [
        ({}, ["dv", "dx", "g"]),
        ({"lambda_feat": NONE}, ["dx", "g"]),
        ({"lambda_adv": NONE, "lambda_clf": NONE}, ["dv", "g"]),
        ({"lambda_adv": NONE}, ["dv", "dx", "g"]),
        ({"lambda_feat": NONE, "lambda_adv": NONE, "lambda_clf": NONE}, ["g"]),
    ],
)
def test_who_has_no_weight_does_not_play(changes: dict[str, Any], players: list[str]) -> None:
    torch.manual_seed(0)
    model = ufdn(**changes)
    before = weights(model)
    train(model, 1)
    assert list(model.players()) == players
    assert len(model.trainer.optimizers) == len(players)
    assert not torch.equal(before["encoder.convs.0.weight"], model.encoder.convs[0].weight)


def test_each_player_has_its_own_adam() -> None:
    model = ufdn(lr=1e-3, dv_lr=2e-3, dx_lr=3e-3, dv_betas=(0.1, 0.9))
    opts, _ = model.configure_optimizers()
    assert [opt.param_groups[0]["lr"] for opt in opts] == [2e-3, 3e-3, 1e-3]
    assert [opt.param_groups[0]["betas"] for opt in opts] == [(0.1, 0.9), (0.5, 0.999), (0.5, 0.999)]


def test_the_release_starts_normalisation_around_zero() -> None:
    torch.manual_seed(0)
    gammas = torch.cat([norm.weight for norm in ufdn(normal_gamma=True, widths=(64, 64, 64)).encoder.norms])
    assert gammas.mean().abs() < 0.01
    assert gammas.std().item() == pytest.approx(0.02, rel=0.3)
    assert all((norm.weight == 1).all() for norm in ufdn().encoder.norms)


def test_a_batch_that_is_not_finite_leaves_no_trace_in_running_statistics() -> None:
    model, batch = ufdn(), of_domains(2, 0)
    batch.image[0, 0, 0, 0] = float("nan")
    data = Batches(CASE, 1, 2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([batch], batch_size=None)
    fit(model, data, steps=1)
    assert int(model.skipped) == 3
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@torch.no_grad()
def test_translations_and_what_lies_between_them() -> None:
    torch.manual_seed(0)
    model, x = ufdn(), images(2, 0)
    train(model, 1)
    model.eval()
    assert isinstance(model, Blender)
    assert isinstance(model, ContentCoder)
    assert isinstance(model, Sized)
    assert model.style_spec is None
    corners = torch.eye(3)
    for target in range(3):
        torch.testing.assert_close(
            model.translate(x, 0, target), model.blend(x, 0, corners[target].expand(2, -1)), rtol=0, atol=0
        )
    mu, _ = model.encoder(x)
    torch.testing.assert_close(model.translate(x, 1, 1), model.decoder(mu, corners[1].expand(2, -1)))
    torch.testing.assert_close(model.content_of(x, 2), mu)
    beyond = model.blend(x, 0, torch.tensor([[-0.2, 1.2, 0.0], [0.3, 0.3, 0.4]]))
    assert beyond.shape == x.shape
    assert not torch.equal(beyond, model.translate(x, 0, 1))
    torch.testing.assert_close(model.predict_step(ImageBatch(x), 0, 2), model.translate(x, 2, 0))


@torch.no_grad()
def test_the_average_serves() -> None:
    torch.manual_seed(0)
    model, x = ufdn_of_digits(), images(2, 0)
    averaging = ufdn_of_digits()
    averaging = UFDN(**(dict(averaging.hparams) | {"ema": 0.9}))
    train(averaging, 2, DIGITS)
    averaging.eval()
    assert len(averaging.averaged) == 3
    for net, average in zip(averaging.makers(), averaging.averaged, strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(net.parameters(), average.parameters(), strict=True))
    served = averaging.translate(x, 0, 1), averaging.classify(x)
    averaging.averaged = None
    assert not torch.equal(served[0], averaging.translate(x, 0, 1))
    assert not torch.equal(served[1], averaging.classify(x))
    assert model.averaged is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domains": ("one",)}, "has 1: set model.domains"),
        ({"domains": ("a", "b", "c", "d")}, "set model.alternate to false"),
        ({"negate": True, "uniform": True}, "set only one of model.negate and uniform"),
        ({"image_size": 40}, "a multiple of 16 and at least 4, not 40"),
        ({"image_size": 16, "dx_widths": (2,) * 5}, "at least 32, not 16"),
        ({"lambda_kl": (1.0, 1.0, 0)}, "takes 0 iterations"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ufdn(**changes)


def test_batches_that_cannot_be_trained_on_are_refused() -> None:
    batch = of_domains(1, 0)
    with pytest.raises(ValueError, match="32 x 32, not 48 x 32"):
        ufdn().check_batch(batch._replace(image=torch.zeros(3, 3, 48, 32)))
    with pytest.raises(ValueError, match="domain number 3, but UFDN has 3 domains"):
        ufdn().check_batch(batch._replace(domain=batch.domain + 1))
    with pytest.raises(ValueError, match="10 classes, but the data gives no labels"):
        ufdn_of_digits().check_batch(batch)
    with pytest.raises(ValueError, match="multiples of 16, not 32 x 40"):
        ufdn().translate(torch.zeros(1, 3, 32, 40), 0, 1)
    with pytest.raises(ValueError, match="does not classify"):
        ufdn().classify(batch.image)
