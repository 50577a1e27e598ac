"""StyleALAE: how it grows, what it mixes and truncates, and that a run that was cut in a fade goes on as it would."""

import math
import random

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader

from interfaces.batch import ImageBatch
from interfaces.growth import Grows
from interfaces.model import Decoder, Encoder, StyledGenerator
from lightning_modules.style_alae import StyleALAE, constant_noise, weight_of
from networks.style import doubled, faded
from tests.lightning_modules.cases import fit, grown, style_alae, weights


class Growing(pl.LightningDataModule):
    """Batches from iteration ``start`` on."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def train_dataloader(self) -> DataLoader:
        return DataLoader([grown(2, k) for k in range(self.start, self.start + 20)], batch_size=None)


def test_weights_of_a_fade_are_the_release_s():
    """From 0.0, exactly, over 1/2 to 1; the shares are those of a recorded run."""
    assert weight_of(0.0) == 0.0
    assert weight_of(1.0) == 1.0
    found = [weight_of(share) for share in (0.5, 0.5625, 0.625)]
    assert found == pytest.approx([0.5, 0.5975451610080641, 0.6913417161825449], rel=1e-14)


@pytest.mark.parametrize(
    ("size", "epochs", "levels"), [(60_000, 16, 9), (29_000, 30, 7), (758_260, 2, 7), (182_637, 6, 6), (60_000, 10, 4)]
)
def test_phases_are_the_release_s_epochs(size, epochs, levels):
    """(epoch, images) to level and share, at every change; batches of one image."""
    fade = epochs // 2 * size
    growth = style_alae(
        resolution=2 * 2**levels, width=1, max_width=1, batches=(1,), first=epochs * size, fade=fade,
        stable=(epochs - epochs // 2) * size,
    ).growth  # fmt: skip
    for epoch, images in ((0, 0), (epochs - 1, size - 1), (epochs, 0), (epochs, 5), (epochs + epochs // 2 - 1, 7),
                          (epochs + epochs // 2, 0), ((levels - 1) * epochs, 0), (levels * epochs + 3, 9)):  # fmt: skip
        level = min(levels - 1, epoch // epochs)
        fading = level > 0 and epoch // epochs == level and epoch % epochs < epochs // 2
        share = ((epoch % epochs) * size + images) / fade if fading else 1.0
        phase = growth.at(epoch * size + images)
        assert (phase.level, phase.share) == (level, pytest.approx(share, rel=1e-12))


def test_real_images_fade_as_the_generated_ones_do():
    x = torch.randn(2, 3, 8, 8)
    assert faded(x, 1.0) is x
    torch.testing.assert_close(faded(x, 0.3), 0.3 * x + 0.7 * doubled(avg_pool2d(x, 2)))


def test_optimizers_begin_anew_at_each_resolution_and_have_its_rate():
    torch.manual_seed(0)
    model = style_alae(lrs=(0.001, 0.002, 0.003))
    seen = []
    end = model.end_iteration

    def watched():
        seen.append([(opt.param_groups[0]["lr"], opt.param_groups[0]["t"]) for opt in model.trainer.optimizers])
        end()

    model.end_iteration = watched
    fit(model, Growing(), steps=7)
    assert [steps[0] for steps in seen] == [
        (0.001, 2), (0.002, 2), (0.002, 4), (0.002, 6), (0.003, 2), (0.003, 4), (0.003, 6),
    ]  # fmt: skip
    assert all(one == two for one, two in seen)


def test_what_a_fade_leaves_behind_decays_and_stands_still(tmp_path):
    """The image of the resolution below is part of the fade of iterations 1 and 2, and of nothing in 3."""
    torch.manual_seed(0)
    model = style_alae()
    fit(model, Growing(), steps=3, default_root_dir=tmp_path)
    (opt, _), rgb = model.trainer.optimizers, model.e.from_rgb[2].weight
    before, moment = rgb.detach().clone(), opt.state[rgb]["exp_avg_sq"].clone()
    assert moment.any()
    again = style_alae()
    again.load_state_dict(model.state_dict())
    fit_on(again, model.trainer, 3, 4)
    rgb = again.e.from_rgb[2].weight
    torch.testing.assert_close(again.trainer.optimizers[0].state[rgb]["exp_avg_sq"], moment * 0.99**2)
    assert torch.equal(rgb, before)


def fit_on(model, trainer, start, steps):
    """Go on from a checkpoint of ``trainer``."""
    path = f"{trainer.default_root_dir}/x.ckpt"
    trainer.save_checkpoint(path)
    other = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=-1, max_steps=steps,
    )  # fmt: skip
    other.fit(model, Growing(start), ckpt_path=path, weights_only=True)


def left_after(model, iterations):
    """As a run leaves the model after so many iterations."""
    phase = model.growth.at(max(iterations - 1, 0))
    model.shown.copy_(torch.tensor([phase.level, phase.share]))
    return model


@pytest.mark.parametrize("cut", [2, 4])
def test_a_run_that_was_cut_goes_on_as_if_it_was_not(tmp_path, cut):
    """In the middle of a fade, and where the next resolution begins."""
    found = []
    for steps in ([6], [cut, 6]):
        torch.manual_seed(0)
        pl.seed_everything(5)
        model = style_alae()
        trainer = fit(model, Growing(), steps=steps[0], default_root_dir=tmp_path)
        if len(steps) > 1:
            torch.manual_seed(1)
            model = style_alae()
            fit_on(model, trainer, cut, 6)
        found.append(weights(model))
    whole, parts = found
    assert int(parts["iterations"]) == 6
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_images_of_another_resolution_are_refused():
    model = style_alae()
    with pytest.raises(
        ValueError, match=r"at images of shape \(3, 4, 4\) in iteration 0, but the batch has \(3, 8, 8\)"
    ):
        model.check_batch(ImageBatch(torch.zeros(2, 3, 8, 8)), model.phase())
    with pytest.raises(ValueError, match="resolution 12 and 8 lrs"):
        StyleALAE(resolution=12)
    with pytest.raises(ValueError, match="and 0 lrs"):
        style_alae(lrs=())


def test_other_batches_are_refused_where_they_change_the_phase(tmp_path):
    trainer = fit(style_alae(), Growing(), steps=3, default_root_dir=tmp_path)
    assert trainer.lightning_module.shown.tolist() == [1, 0.5]
    with pytest.raises(
        ValueError, match=r"reached level 1 and a share of 0.50, .* and 1 processes would be 1 and 1.00"
    ):
        fit_on(style_alae(batches=(4,)), trainer, 3, 4)


def test_styles_of_two_codes_are_mixed_from_a_row_on():
    torch.manual_seed(0)
    model = style_alae()
    one, two = torch.randn(2, 3, 4)
    x = torch.zeros(3, 3, 8, 8)
    for crossover in (None, 1, 3, 4):
        draws = [one, two]
        model.noise_like = lambda x, draws=draws: draws.pop(0)
        model.crossover = lambda level, crossover=crossover: crossover
        styles = model.mixed(x, 1)
        cut = 4 if crossover is None else crossover
        expected = [model.f(one if row < cut else two) for row in range(4)]
        torch.testing.assert_close(styles, torch.stack(expected, 1))
        assert len(draws) == (1 if crossover is None else 0)


def test_rows_from_which_styles_are_mixed():
    model = style_alae()
    drawn = [model.crossover(1) for _ in range(4000)]
    assert set(drawn) == {None, 1, 2, 3, 4}
    assert drawn.count(None) / 4000 == pytest.approx(0.1, abs=0.02)
    assert drawn.count(4) / 4000 == pytest.approx(0.225, abs=0.03)
    never = style_alae(mixing=0.0)
    assert {never.crossover(1) for _ in range(100)} == {None}


def test_what_others_draw_from_python_s_own_generator_changes_nothing(monkeypatch):
    found, step = [], StyleALAE.training_step

    def disturbed(self, batch, batch_idx):
        random.random()
        step(self, batch, batch_idx)

    for each in (step, disturbed):
        monkeypatch.setattr(StyleALAE, "training_step", each)
        torch.manual_seed(0)
        pl.seed_everything(5)
        model = style_alae()
        fit(model, Growing(), steps=4)
        found.append(weights(model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_mean_of_w_attracts_the_first_styles():
    model = style_alae(psi=0.7, cutoff=3)
    torch.manual_seed(0)
    model.w_avg.normal_()
    styles = torch.randn(2, 4, 4)
    near = model.truncated(styles)
    torch.testing.assert_close(near[:, :3], 0.7 * styles[:, :3] + 0.3 * model.w_avg[:3])
    assert torch.equal(near[:, 3:], styles[:, 3:])


@pytest.mark.parametrize("iterations", [0, 1, 2, 4, 5, 6, 9])
def test_codes_and_images_are_of_the_last_resolution_at_any_time(iterations):
    torch.manual_seed(0)
    model = style_alae().eval()
    assert isinstance(model, Encoder)
    assert isinstance(model, Decoder)
    assert isinstance(model, Grows)
    assert isinstance(model, StyledGenerator)
    level, blend = left_after(model, iterations).reached
    assert (level, blend == 1) == {
        0: (0, True), 1: (0, True), 2: (1, False), 4: (1, True), 5: (2, False), 6: (2, False), 9: (2, True),
    }[iterations]  # fmt: skip
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    w = model.encode(x)
    small = avg_pool2d(x, 4 // 2**level) if level < 2 else x
    torch.testing.assert_close(w, model.averaged["e"](faded(small, blend), level, blend))
    image = model.decode(w)
    assert (w.shape, image.shape) == ((3, 4), x.shape)
    assert image.abs().max() <= 1
    assert torch.equal(image, model.decode(w))
    torch.testing.assert_close(image[:1], model.decode(w[:1]))
    assert torch.equal(
        image,
        image[..., :: 4 // 2**level, :: 4 // 2**level]
        .repeat_interleave(4 // 2**level, 2)
        .repeat_interleave(4 // 2**level, 3),
    )
    samples = [model.sample(2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert samples[0].shape == (2, 3, 16, 16)


def test_constant_noise_is_one_map_a_place():
    noise, x = constant_noise(), torch.zeros(3, 1, 8, 8)
    first, second = noise(x), noise(x)
    assert first.shape == (1, 1, 8, 8)
    assert not torch.equal(first, second)
    assert torch.equal(first, constant_noise()(x[:1]))


def test_a_penalty_under_autocast_is_that_of_32_bits():
    torch.manual_seed(0)
    model, x = style_alae(), torch.rand(2, 3, 8, 8)
    found = []
    for enabled in (False, True):
        model.noise_like = lambda x: torch.ones_like(x)
        model.crossover = lambda level: None
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, terms = model.discriminator_loss(x, 1, 1.0)
        found.append(terms)
    assert math.isfinite(found[1]["fake"].item())
    assert torch.equal(found[0]["r1"], found[1]["r1"])
    assert torch.equal(found[0]["real"], found[1]["real"])
    assert not torch.equal(found[0]["fake"], found[1]["fake"])


def test_every_layer_takes_its_own_w():
    torch.manual_seed(0)
    model = left_after(style_alae(first=1, fade=0, stable=1), 5)
    w = model.map(torch.randn(2, 4))
    assert model.layers == 6
    torch.testing.assert_close(model.synthesize(w[:, None].expand(-1, 6, -1)), model.decode(w))
    other = torch.cat((w[:, None].expand(-1, 4, -1), w.flip(0)[:, None].expand(-1, 2, -1)), 1)
    assert not torch.allclose(model.synthesize(other), model.decode(w))
    model.w_avg.copy_(torch.randn(4).expand(6, -1))
    assert torch.equal(model.w_mean, model.w_avg[3])
