import pytest
import torch

from callbacks.path_length import PathLength
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule
from metrics.features.distance import EmbeddingDistance
from metrics.path_length import path_lengths, slerp, trimmed_mean
from tests.callbacks.test_latent_traversal import GAINS, Painter, PictureData
from tests.callbacks.toy import Tinted, Toy, ToyData, ddp_options, toy_trainer
from tests.ddp import run_ddp
from tests.metrics.features.test_distance import Means


class Squared:
    """Mean squared difference; of two outputs of ``Tinted`` for one input, of their styles."""

    protocol = {"weights": "none"}

    def __init__(self, name: str = "l2") -> None:
        self.name = name

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32
        return (x.double() - y.double()).square().mean((1, 2, 3))


class Straight(Tinted):
    style_spec = LatentSpec(3, prior="uniform")


class Unequal(ToyData):
    evaluation_sizes = (5, 2)

    def __init__(self):
        super().__init__(5, paired=False)


class Untruncated(ManualModule):
    """A ``StyledGenerator`` that is no ``Decoder``: w is twice z, and an image is the colour w."""

    latent, layers, w_mean = 3, 1, torch.zeros(3)

    def map(self, z):
        return 2 * z

    def synthesize(self, w):
        assert torch.nn.functional.linear(w, torch.eye(3)).dtype == torch.float32
        return w[:, :, None, None].expand(-1, -1, 4, 4)

    def sample(self, n, rng=None):
        return self.synthesize(self.map(torch.randn(n, 3, generator=rng)))


class Truncated(Untruncated):
    latent_spec = LatentSpec(3)

    def decode(self, z):
        return self.synthesize(0.5 * self.map(z))


def measured(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items() if key.startswith(("val/", "test/"))}


def test_straight_paths_have_the_length_of_their_line(tmp_path):
    """Of the styles alone: |b - a|^2 wherever the step begins."""
    trainer = toy_trainer(tmp_path, [PathLength(Squared(), inputs=4, paths=5)])
    trainer.validate(Straight(), ToyData(), verbose=False)
    lengths = []
    for number in range(4):
        rng = torch.Generator().manual_seed(number)
        a, b = (Straight.style_spec.draw(5, rng) for _ in range(2))
        lengths.append((b - a).square().mean(1))
    expected = float(trimmed_mean(torch.cat(lengths)))
    ways = ("day2night", "night2day")  # the same styles for both
    assert measured(trainer) == pytest.approx({f"val/path_length_l2/{way}": expected for way in ways}, rel=0.01)


def test_codes_of_a_normal_prior_go_round_and_a_decoder_needs_no_images(tmp_path):
    callback = PathLength(Squared("lpips-vgg"), inputs=6, paths=5)
    trainer = toy_trainer(tmp_path, [callback])
    trainer.validate(Painter(), PictureData(), verbose=False)

    def linear(z):
        return (z.double() * GAINS)[:, :, None, None]

    def squared(x, y):
        return (x - y).square().mean((1, 2, 3))

    def draw(n, rng):
        return LatentSpec(3).draw(n, rng).double()

    lengths = [path_lengths(linear, draw, squared, slerp, samples=5, seed=k) for k in range(6)]
    assert measured(trainer) == pytest.approx({"val/ppl/latent": float(trimmed_mean(torch.cat(lengths)))}, rel=0.01)


def test_a_styled_generator_is_measured_in_both_of_its_spaces(tmp_path):
    trainer = toy_trainer(tmp_path, [PathLength(Squared(), inputs=3, paths=4)])
    trainer.validate(Untruncated(), PictureData(), verbose=False)
    lengths = {"z": [], "w": []}
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(4, 3, generator=rng) for _ in range(2))
        lengths["w"].append((2 * (b - a)).square().mean(1))

        def draw(n, rng):
            return torch.randn(n, 3, generator=rng).double()

        def doubled(z):
            return 2 * z.double()[:, :, None, None]

        lengths["z"].append(
            path_lengths(doubled, draw, lambda x, y: (x - y).square().mean((1, 2, 3)), slerp, 4, seed=seed)
        )
    expected = {f"val/path_length_l2/{space}": float(trimmed_mean(torch.cat(lengths[space]))) for space in lengths}
    assert measured(trainer) == pytest.approx(expected, rel=0.01)


def test_a_decoder_that_is_styled_has_three_rows(tmp_path):
    trainer = toy_trainer(tmp_path, [PathLength(Squared(), inputs=3, paths=2)])
    trainer.validate(Truncated(), PictureData(), verbose=False)
    found = {key.rpartition("/")[2]: value for key, value in measured(trainer).items()}
    assert found["latent"] == pytest.approx(found["z"] / 4, rel=0.02)  # of half the size, whose square counts
    assert set(found) == {"latent", "z", "w"}


def test_a_test_has_intervals_and_who_ignores_styles_has_no_length(tmp_path):
    class Ignorant(Tinted):
        def translate(self, x, source, target, style=None):
            return x if source else super().translate(x, source, target, style)

    callback = PathLength(Squared(), inputs=5, paths=4)
    toy_trainer(tmp_path, [callback]).test(Ignorant(), ToyData(), verbose=False)
    there, back = (callback.measurements[f"path_length_l2/{way}"] for way in ("day2night", "night2day"))
    assert there.interval.low < there.value < there.interval.high
    assert (there.n, back.value) == (5, 0.0)


def test_images_that_a_smaller_domain_repeats_count_once(tmp_path):
    class Brighter(Straight):
        """The number of an image cannot be told from its path, but its brightness can."""

        def translate(self, x, source, target, style=None):
            return super().translate(x, source, target, style * (1 + x.mean((1, 2, 3))[:, None]))

    found = []
    for data in (Unequal(), ToyData(2, paired=False)):
        callback = PathLength(Squared(), inputs=9, paths=3)
        toy_trainer(tmp_path, [callback]).test(Brighter(), data, verbose=False)
        found.append(callback.measurements)
    assert found[0]["path_length_l2/day2night"].n == 5
    assert found[0]["path_length_l2/night2day"] == found[1]["path_length_l2/night2day"]


def test_the_protocol_is_under_the_name_of_the_distance():
    protocol = PathLength(EmbeddingDistance(Means(), squared=True), inputs=3).protocol
    assert protocol["means_squared: weights"] == "none"
    assert "as seed; intervals from 200 resamples" in protocol["path length means_squared"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_mixed_precision_changes_nothing(tmp_path, precision):
    class Mixed(Straight):
        def translate(self, x, source, target, style=None):
            assert torch.nn.functional.linear(style, torch.eye(3)).dtype == torch.float32
            return super().translate(x, source, target, torch.nn.functional.linear(style, 2 * torch.eye(3)))

    trainer = toy_trainer(tmp_path, [PathLength(Squared(), inputs=2, paths=3)], precision=precision)
    trainer.validate(Mixed(), ToyData(), verbose=False)
    found = measured(trainer)
    plain = toy_trainer(tmp_path, [PathLength(Squared(), inputs=2, paths=3)])
    plain.validate(Straight(), ToyData(), verbose=False)
    assert found == pytest.approx({key: 4 * value for key, value in measured(plain).items()}, rel=0.01)


def test_arithmetic_is_exact_meanwhile_and_as_before_afterwards(tmp_path):
    parts, during = (torch.backends.cudnn.conv, torch.backends.cuda.matmul), []

    class Watching(Squared):
        def __call__(self, x, y):
            during.append([part.fp32_precision for part in parts])
            return super().__call__(x, y)

    before = [part.fp32_precision for part in parts]
    trainer = toy_trainer(tmp_path, [PathLength(Watching(), inputs=1, paths=1)])
    trainer.validate(Tinted(), ToyData(), verbose=False)
    assert during[0] == ["ieee", "ieee"]
    assert [part.fp32_precision for part in parts] == before


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"needs a Decoder .* or a Translator with a style_spec, but Toy is neither"):
        toy_trainer(tmp_path, [PathLength(Squared())]).validate(Toy(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="EmbeddingDistance with squared: true"):
        PathLength(EmbeddingDistance(Means()))
    PathLength(EmbeddingDistance(Means(), squared=True))
    trainer = toy_trainer(tmp_path, [PathLength(Squared())], precision="bf16-true")
    with pytest.raises(ValueError, match="vanish in precision bf16-true"):
        trainer.validate(Tinted(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="at least one of each"):
        PathLength(Squared(), paths=0)


def _validate(rank, world, folder):
    """Uneven shares, and a rank without any."""
    results = []
    cases = (
        (Tinted(), ToyData(7), 5),
        (Tinted(), ToyData(3), 1),
        (Tinted(), Unequal(), 9),
        (Painter(), PictureData(), 3),
        (Untruncated(), PictureData(), 3),
    )
    for model, data, inputs in cases:
        trainer = toy_trainer(
            folder, [PathLength(Squared(), inputs, paths=3)], **(ddp_options(world) if world > 1 else {})
        )
        trainer.validate(model, data, verbose=False)
        results.append(measured(trainer))
    return results


@pytest.mark.ddp
def test_two_ranks_measure_what_one_measures(tmp_path):
    alone = _validate(0, 1, tmp_path)
    assert [len(values) for values in alone] == [2, 2, 2, 1, 2]
    assert run_ddp(_validate, tmp_path) == [alone, alone]
