"""The autoencoder beyond the contract: its objective, its average, and the codes that it draws."""

import pytest
import torch

from interfaces.batch import ImageBatch
from interfaces.model import Decoder, FeatureEncoder, Generator
from tests.lightning_modules.cases import Batches, Case, autoencoder, digits, fit, weights

CASE = Case("autoencoder", autoencoder, digits)


def test_the_objective_is_the_squared_error_of_pixels_in_0_to_1() -> None:
    torch.manual_seed(0)
    model, batch = autoencoder().double(), ImageBatch(digits(3, 0).image.double())
    losses = []
    model.descend = lambda opt, loss: losses.append(loss)  # type: ignore[method-assign]
    model.optimizers, model.log_terms, model.end_iteration = lambda: None, lambda *_: None, lambda: None
    model.training_step(batch, 0)
    x = (batch.image + 1) / 2
    expected = (model.g(model.e(x)) - x).square().sum((1, 2, 3)).mean()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(model.code_mean, 0.005 * model.e(x).mean(0))
    torch.testing.assert_close(model.code_square, 0.995 + 0.005 * model.e(x).square().mean(0))


def test_codes_are_any_real_numbers_and_serve_from_the_average() -> None:
    torch.manual_seed(0)
    model = autoencoder(lr=0.02)
    fit(model, Batches(CASE, 20, 4), steps=20)
    model.eval()
    for protocol in (FeatureEncoder, Decoder, Generator):
        assert isinstance(model, protocol)
    x = digits(40, 1).image
    with torch.no_grad():
        hidden, code = model.features_of(x)
        assert (hidden.shape, code.shape) == ((40, 8), (40, 4))
        assert torch.equal(model.encode(x), code)
        assert torch.equal(code, model.averaged["e"]((x + 1) / 2))
        assert not torch.allclose(code, model.e((x + 1) / 2), atol=1e-3)
        image = model.predict_step(ImageBatch(x), 0)
    assert image.shape == x.shape
    assert image.abs().max() <= 1
    # A LeakyReLU in the end, as ALAE's, would make the negative half a fifth or less as long.
    assert -code.min() > 0.5 * code.max()


def test_drawn_codes_have_the_mean_and_variance_of_those_of_training() -> None:
    model = autoencoder().eval()
    mean, deviation = torch.tensor([0.0, 1.0, -2.0, 5.0]), torch.tensor([1.0, 0.5, 3.0, 0.0])
    model.code_mean.copy_(mean)
    model.code_square.copy_(mean**2 + deviation**2)
    codes = model.latent_spec.draw(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(codes.std(0), deviation, rtol=0.05, atol=1e-2)
    one, two = (model.sample(3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(one, model.decode(model.latent_spec.draw(3, torch.Generator().manual_seed(1))))


def test_an_image_that_is_not_finite_leaves_the_codes_that_are_drawn_alone() -> None:
    model, batch = autoencoder(), digits(2, 0)
    before = weights(model)
    batch.image[..., 0, 0] = float("nan")
    data = Batches(CASE, 1, 2)
    data.train_dataloader = lambda: torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[method-assign]
    fit(model, data, steps=1)
    assert all(torch.equal(before[name], weights(model)[name]) for name in ("code_mean", "code_square"))


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Autoencoder takes grey images of 28 x 28, not \(3, 28, 28\)"):
        autoencoder().check_batch(ImageBatch(torch.zeros(2, 3, 28, 28)))
