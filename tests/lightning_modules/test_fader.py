"""Fader Networks against paper and release, beyond the recorded numbers."""

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from benchmarks.released import fader as released_fader
from benchmarks.timing import bare
from interfaces.batch import AttributeBatch
from interfaces.model import AttributeEditor, ContentCoder, Sized
from lightning_modules.fader import Fader, probability_loss
from networks.fader import AutoEncoder, Classifier, LatentDiscriminator, PatchDiscriminator
from tests.hashed import fill, hashed
from tests.lightning_modules.cases import Batches, Case, fader, fader_of_all_players, fit, of_three, of_two, weights

CASE, ALL = Case("fader", fader, of_two), Case("fader_all", fader_of_all_players, of_three)
MINE = [CASE, ALL]
EACH = pytest.mark.parametrize("case", MINE, ids=lambda case: case.name)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = Fader(("Male",))
    assert (count(model.ae), count(model.lat_dis)) == (14_000_512, 8_655_362)
    assert (model.ptc_dis, model.clf_dis) == (None, None)


@pytest.mark.parametrize("skips", [0, 1, 2])
@EACH
def test_the_textbook_order_gives_the_same_numbers(case: Case, skips: int) -> None:
    """Three iterations in float64: losses, weights, statistics."""
    torch.manual_seed(0)
    model = case.build()
    drawn = model.integers
    model = Fader(**(dict(model.hparams) | {"skips": skips})).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.integers = drawn
    plain = copy.deepcopy(model)
    plain.integers = drawn
    opts = released_fader.optimizers(plain)
    step, before = bare(model), weights(model)
    for k in range(3):
        batch = case.batch(2, k)
        batch = batch._replace(image=batch.image.double())
        plain.iterations.fill_(k)
        model.iterations.fill_(k)
        theirs = released_fader.step(plain, opts, batch)
        ours = [loss for n, loss in enumerate(step(batch)) if n > 0 or case is CASE]  # without its first of two
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-11, atol=0)
    moved = 0
    for name, value in plain.state_dict().items():
        if not name.startswith(("averaged", "iterations", "skipped")):
            torch.testing.assert_close(
                model.state_dict()[name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
            moved += not torch.equal(value, before[name])
    assert moved > 30


@torch.no_grad()
def test_objectives_are_the_written_sums() -> None:
    torch.manual_seed(0)
    model, (x, y) = fader_of_all_players().eval(), of_three(1, 0)
    model.iterations += 1
    model.integers = lambda n, below: (torch.arange(n)[:, None] + torch.arange(3)) % below
    wanted = model.any_category(y)
    channels = lambda y: torch.cat([one_hot(y[:, k], n) for k, n in enumerate((2, 2, 3))], 1).float()  # noqa: E731

    def ce(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return sum(cross_entropy(own, y[:, k]) for k, own in enumerate(logits.split((2, 2, 3), 1)))

    maps = model.ae.encode(x)
    edited, code, s = model.ae.decode(maps, channels(wanted)), maps[-2], 0.2
    p = model.ptc_dis(edited)
    other = torch.stack((1 - y[:, 0], 1 - y[:, 1], (y[:, 2] + 1 + (torch.arange(10) + 2) % 2) % 3), 1)
    expected = {
        "recon": mse_loss(model.ae.decode(maps, channels(y)), x),
        "lat": ce(model.lat_dis(code), other),
        "ptc": -(0.8 * p.log() + 0.2 * (1 - p).log()).mean(),
        "clf": ce(model.clf_dis(edited), wanted),
    }
    loss, terms = model.autoencoder_loss(x, y)
    torch.testing.assert_close(dict(terms), expected)
    ramp = 0.5  # one of two iterations
    total = expected["recon"] + ramp * (0.5 * expected["lat"] + 0.3 * expected["ptc"] + 0.2 * expected["clf"])
    torch.testing.assert_close(loss, total)
    real = model.ptc_dis(x)
    both = -(0.8 * real.log() + 0.2 * (1 - real).log() + s * p.log() + (1 - s) * (1 - p).log()).mean()
    torch.testing.assert_close(model.patch_loss(x, y)[0], both)
    torch.testing.assert_close(model.latent_loss(x, y)[0], ce(model.lat_dis(code), y))
    torch.testing.assert_close(model.classifier_loss(x, y)[0], ce(model.clf_dis(x), y))
    right = [(own.argmax(1) == y[:, k]).float().mean() for k, own in enumerate(model.clf_dis(x).split((2, 2, 3), 1))]
    torch.testing.assert_close(model.classifier_loss(x, y)[1]["accuracy"], torch.stack(right).mean())


@pytest.mark.parametrize("t_and_share", [(0, 0.0), (1, 2e-6), (250_000, 0.5), (500_000, 1.0), (600_000, 1.0)], ids=str)
def test_the_ramp(t_and_share: tuple[int, float]) -> None:
    model, (t, share) = fader(ramp=500_000), t_and_share
    model.iterations.fill_(t)
    assert model.ramp() == share
    assert fader(ramp=0).ramp() == 1.0


def test_the_code_is_first_left_alone() -> None:
    """At t = 0 the weight of the adversarial term is exactly 0, whatever lambda is."""
    results = []
    for lambda_lat in (0.5, 50.0):
        torch.manual_seed(0)
        model = fader(lambda_lat=lambda_lat, clip=1e9)
        fit(model, Batches(CASE, 1, 1), steps=1)
        results.append(weights(model.ae))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_encoder_wants_any_other_category_and_edits_have_any(n: int) -> None:
    model = fader(categories=(n, 2, n), attributes=("a", "b", "c"))
    y = torch.tensor([[0, 1, n - 1]]).expand(3000, 3)
    other, edited = model.other_category(y), model.any_category(y)
    assert not (other == y).any()
    for k, categories in ((0, n), (1, 2), (2, n)):
        left = torch.bincount(other[:, k], minlength=categories).float() / 3000
        assert len(left) == categories
        assert left[y[0, k]] == 0
        assert (left - 1 / (categories - 1)).where(left > 0, 0.0).abs().max() < 0.05
        drawn = torch.bincount(edited[:, k], minlength=categories).float() / 3000
        assert len(drawn) == categories
        assert (drawn - 1 / categories).abs().max() < 0.05
    assert (torch.corrcoef(edited.T.float()) - torch.eye(3)).abs().max() < 0.1


def test_channels_of_attributes() -> None:
    """ "Male" then "Smiling", as the release sorts them: not and has of each."""
    y = fader(attributes=("Male", "Smiling")).planes(torch.tensor([[1, 0], [0, 1]]))
    assert y.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    y = fader(attributes=("a", "b", "c"), categories=(3, 2, 4)).planes(torch.tensor([[2, 0, 3]]))
    assert y.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 1]]


@EACH
def test_who_runs_in_which_mode_and_what_it_leaves_alone(case: Case) -> None:
    """Discriminators step on codes of an auto-encoder outside training, and it on what they say outside training."""
    torch.manual_seed(0)
    model, seen = case.build(), []
    nets = {"ae": model.ae, "lat": model.lat_dis, "ptc": model.ptc_dis, "clf": model.clf_dis}
    nets = {name: net for name, net in nets.items() if net is not None}
    descend = model.descend

    def watch(opt, *losses, clip=None):
        own = {id(p) for group in opt.param_groups for p in group["params"]}
        player = next(name for name, net in nets.items() if id(next(net.parameters())) in own)
        after = {name: weights(net) for name, net in nets.items()}
        others = [name for name in nets if name != player]
        for name in others:
            assert all(torch.equal(value, before[name][key]) for key, value in after[name].items()), (player, name)
        changed = [k for k in after[player] if not torch.equal(after[player][k], before[player][k])]
        assert changed
        assert all("running" in k or "tracked" in k for k in changed)
        descend(opt, *losses, clip=clip)
        before.update({name: weights(net) for name, net in nets.items()})
        seen.append((player, clip))

    before = {name: weights(net) for name, net in nets.items()}
    model.descend = watch
    fit(model, Batches(case, 1, 2), steps=1)
    first = ["lat"] if case is CASE else ["lat", "lat", "ptc", "clf"]
    assert seen == [(player, 5.0) for player in [*first, "ae"]]


def test_every_step_has_its_own_part_of_the_batch() -> None:
    model, batch, seen = fader_of_all_players(), of_three(1, 0), []
    for name in ("latent_loss", "patch_loss", "classifier_loss", "autoencoder_loss"):
        loss = getattr(model, name)
        setattr(model, name, lambda x, y, name=name, loss=loss: seen.append((name, x, y)) or loss(x, y))
    fit(model, Batches(ALL, 1, 1), steps=1)
    assert [name for name, _, _ in seen] == ["latent_loss"] * 2 + ["patch_loss", "classifier_loss", "autoencoder_loss"]
    assert torch.equal(torch.cat([x for _, x, _ in seen]), batch.image)
    assert torch.equal(torch.cat([y for _, _, y in seen]), batch.attributes)


@pytest.mark.parametrize(("lambda_ae", "is_clipped"), [(1e-4, False), (1e4, True)])
def test_gradients_are_clipped_at_five(lambda_ae: float, is_clipped: bool) -> None:
    model, norms = fader(lambda_ae=lambda_ae, lambda_lat=0.0), []
    on_step = model.on_before_optimizer_step

    def watch(optimizer):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        on_step(optimizer)
        norms.append(torch.nn.utils.get_total_norm(grads).item())

    model.on_before_optimizer_step = watch
    fit(model, Batches(CASE, 1, 2), steps=1)
    before, after = norms[-2:]  # the auto-encoder's
    assert (before > 5) is is_clipped
    assert after == pytest.approx(5 * before / (before + 1e-6) if is_clipped else before, rel=1e-6)


def test_a_batch_that_is_not_finite_leaves_no_trace_in_running_statistics() -> None:
    model = fader_of_all_players()
    data = Batches(ALL, 1, 1)
    poisoned = of_three(1, 0)
    poisoned.image[...] = float("nan")
    data.train_dataloader = lambda: torch.utils.data.DataLoader([poisoned], batch_size=None)
    before = weights(model)
    fit(model, data, steps=1)
    after = weights(model)
    assert all(torch.equal(after[n], before[n]) for n in before if "running" in n or "weight" in n)
    assert int(model.skipped) == 5


def test_probabilities_of_0_and_1_have_a_finite_loss() -> None:
    assert probability_loss(torch.tensor([0.0]), 0.8).item() == pytest.approx(0.8 * 87.34, rel=1e-3)
    p = torch.tensor([0.0, 1.0, 0.3], requires_grad=True)
    probability_loss(p, 0.2).backward()
    assert p.grad.isfinite().all()


def test_edits() -> None:
    model = fader().eval()
    assert all(isinstance(model, protocol) for protocol in (AttributeEditor, ContentCoder, Sized))
    x, y = of_two(1, 0)
    with torch.no_grad():
        edited = model.edit(x, y.float())
        torch.testing.assert_close(edited, model.reconstruct(x, y), rtol=0, atol=0)
        maps = model.ae.encode(x)
        slid = torch.tensor([[3.0, -2.0, 0.7, 0.3]]).expand(4, 4)
        torch.testing.assert_close(model.edit(x, torch.tensor([[-2.0, 0.3]]).expand(4, 2)), model.ae.decode(maps, slid))
        assert torch.equal(model.content_of(x), maps[-1])
        assert model.edit(x[:1, :, :16, :24], torch.zeros(1, 2)).shape == (1, 3, 16, 24)
        alone = torch.cat([model.edit(image[None], row[None].float()) for image, row in zip(x, y, strict=True)])
        torch.testing.assert_close(alone, edited, rtol=0, atol=1e-6)
    assert (model.size_multiple, model.smallest_size) == (8, 8)
    with pytest.raises(ValueError, match="multiples of 8, not 32 x 30"):
        model.edit(x[..., :30], y.float())
    with pytest.raises(ValueError, match="multiples of 8, not 0 x 32"):
        model.content_of(x[:, :, :0])


def test_a_slider_goes_between_two_categories_only() -> None:
    model, (x, y) = fader_of_all_players().eval(), of_three(1, 0)
    with pytest.raises(ValueError, match="cannot slide hair, which has more than two"):
        model.edit(x, y.float())
    assert model.reconstruct(x, y).shape == x.shape
    assert torch.equal(model.content_of(x), model.ae.encode(x)[-2])


def test_the_average_serves() -> None:
    model = fader(ema=0.5)
    fit(model, Batches(CASE, 2, 1), steps=2)
    model.eval()
    x, y = of_two(1, 0)
    assert not torch.equal(model.averaged.dec_layers[0][0].weight, model.ae.dec_layers[0][0].weight)
    average = model.averaged
    assert torch.equal(model.edit(x, y.float()), average.decode(average.encode(x), model.planes(y)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributes": ()}, "at least one name"),
        ({"categories": (2,)}, "a number from 2 on for each attribute"),
        ({"categories": (2, 1)}, "a number from 2 on for each attribute"),
        ({"image_size": 48}, "image_size 48 is no power of 2"),
        ({"layers": 6}, "layers 6 is not from 1 to 5, as image_size 32 allows"),
        ({"skips": 3}, "skips 3 is not from 0 to layers - 1"),
        ({"smooth": 0.5}, "smooth 0.5 is not in"),
        ({"ptc_steps": 1, "image_size": 16}, "image_size of at least 32"),
        ({"lambda_ptc": 0.1}, "lambda_ptc needs ptc_steps > 0"),
        ({"lat_steps": 0}, "lambda_lat needs lat_steps > 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fader(**changes)


def test_batches_that_cannot_be_trained_on_are_refused() -> None:
    x, y = of_two(2, 0)
    for model, n, words in (
        (fader(), 7, "2 equal parts"),
        (fader(), 2, "2 equal"),
        (fader_of_all_players(), 8, "5 eq"),
    ):
        with pytest.raises(ValueError, match=f"{words}.*make data.batch_size a multiple of"):
            model.parts(AttributeBatch(x[:n], y[:n]))
    with pytest.raises(ValueError, match="image_size 32 and 2 attributes.*32 x 16"):
        fader().parts(AttributeBatch(x[..., :16], y))
    with pytest.raises(ValueError, match=r"attributes \(8, 1\)"):
        fader().parts(AttributeBatch(x, y[:, :1]))


def test_data_of_other_attributes_are_refused() -> None:
    class Data(Batches):
        attributes = ("smile", "glasses")

    with pytest.raises(ValueError, match="same names in the same order"):
        fit(fader(), Data(CASE, 1, 1), steps=1)


def test_without_discriminators_it_is_an_auto_encoder() -> None:
    model = fader(lat_steps=0, lambda_lat=0.0)
    trainer = fit(model, Batches(CASE, 1, 1), steps=1)
    assert (model.lat_dis, len(trainer.optimizers)) == (None, 1)


@pytest.mark.slow
def test_numbers_of_the_release_in_training_at_its_own_size() -> None:
    """Recorded in float64 with hashed weights and images: the auto-encoder has statistics of the batch."""
    model = Fader(("a",), ptc_steps=1, clf_steps=1, lambda_ptc=1, lambda_clf=1, lambda_lat=1).double()
    nets = (AutoEncoder(2), LatentDiscriminator(2), PatchDiscriminator(), Classifier(2))
    with torch.no_grad():
        for ours, theirs in zip((model.ae, model.lat_dis, model.ptc_dis, model.clf_dis), map(fill, nets), strict=True):
            ours.load_state_dict(theirs.state_dict())
        x, y = hashed((4, 3, 256, 256), 1000), torch.tensor([[0], [1], [0], [1]])
        model.any_category = lambda y: 1 - y
        model.eval()
        code = model.content_of(x)
        assert model.latent_loss(x, y)[0].item() == pytest.approx(0.6944678529736303, rel=1e-10)
        flipped = model.attribute_loss(model.lat_dis(code), model.other_category(y))
        assert flipped.item() == pytest.approx(0.694069891452693, rel=1e-10)
        model.ae.train()
        terms = model.autoencoder_loss(x, y)[1]
        expected = {
            "recon": 0.7307013911285898,
            "lat": 0.6602339892068687,
            "ptc": 0.6598773210705522,
            "clf": 0.691083261679572,
        }
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-10)
        edited = model.ae.decode(model.ae.encode(x), model.planes(1 - y))
        for training, loss in ((False, 1.4026710823133555), (True, 1.3941619192694095)):
            model.ptc_dis.train(training)
            low = probability_loss(model.ptc_dis(x), 0.8) + probability_loss(model.ptc_dis(edited), 0.2)
            assert low.item() == pytest.approx(loss, rel=1e-10)


# The contract of tests/lightning_modules/test_contract.py.
