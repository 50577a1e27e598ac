"""VQ-VAE-2 beyond the contract: its objective, what levels say alone, and that it learns."""

import math

import pytest
import torch
from torch.nn.functional import mse_loss

from lightning_modules.vq_vae2 import VQVAE2
from tests.lightning_modules.cases import small, vq_vae2


def test_the_objective_is_that_of_the_paper():
    torch.manual_seed(0)
    model = vq_vae2().double().eval()
    x = small(1, 0).image.double()
    found = model.nets.encode(x)
    said = {}
    model.log_terms = lambda player, terms: said.update({f"{player}/{name}": term for name, term in terms.items()})
    model.descend = lambda opt, loss: said.update(loss=loss)
    model.optimizers, model.end_iteration = lambda: None, lambda: None
    model.training_step(type(small(1, 0))(x), 0)
    recon = mse_loss(model.nets.decode([level.codes for level in found]), x)
    commit = sum(level.commitment for level in found)
    torch.testing.assert_close(said["loss"], recon + 0.25 * commit)
    torch.testing.assert_close(said["vq/recon"], recon)
    assert 1 <= said["codebook/perplexity_0"] <= 6


def test_an_image_comes_back_from_its_indices_and_levels_speak_alone():
    torch.manual_seed(0)
    model = vq_vae2().eval()
    x = small(1, 0).image
    indices = model.indices_of(x)
    assert [tuple(level.shape) for level in indices] == [(4, 2, 2), (4, 4, 4)]
    image = model.image_of(indices)
    torch.testing.assert_close(image, model.nets(x)[0].clamp(-1, 1))
    top, bottom = model.image_of(indices, (0,)), model.image_of(indices, (1,))
    assert not torch.equal(top, bottom)
    torch.testing.assert_close(model.image_of(indices, (0, 1)), image)


def test_it_learns_to_tell_images_apart():
    """Four plain colours: a grey image would be off by 0.2 or more."""
    torch.manual_seed(0)
    model = VQVAE2(width=16, res_blocks=1, res_width=8, dim=8, codes=8, decay=0.9, restart_below=0.05)
    x = torch.tensor([[-0.8, 0.0, 0.8], [0.8, -0.8, 0.0], [0.0, 0.8, -0.8], [0.5, 0.5, 0.5]])[:, :, None, None]
    x = x.expand(4, 3, 16, 16).contiguous()
    opt = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(300):
        recon, commitment = model.nets(x)
        opt.zero_grad()
        torch.autograd.backward(mse_loss(recon, x) + 0.25 * commitment)
        opt.step()
    assert mse_loss(model.eval().image_of(model.indices_of(x)), x) < 0.03
    assert len(torch.unique(model.indices_of(x)[1][:, 2, 2])) + len(torch.unique(model.indices_of(x)[0][:, 1, 1])) > 2


def test_the_rate_goes_up_straight_and_down_by_a_cosine_over_and_over():
    model = VQVAE2(width=4, res_blocks=0, res_width=2, dim=2, codes=4, lr=3e-4, cycle=100)
    rates = [3e-4 * model.rate(k) for k in range(200)]
    assert rates[0] == pytest.approx(1.2e-5 + 2.88e-4 / 5)
    assert rates[4] == max(rates) == pytest.approx(3e-4)
    middle = 1.2e-9 + (3e-4 - 1.2e-9) / 2 * (math.cos(math.pi * 38 / 95) + 1)
    assert rates[42] == pytest.approx(middle)
    assert rates[99] == pytest.approx(1.2e-9)
    assert rates[100:] == rates[:100]
    (opt,), (schedule,) = model.configure_optimizers()
    assert opt.param_groups[0]["lr"] == pytest.approx(rates[0])
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(rates[1])
    assert VQVAE2(width=4, res_blocks=0, res_width=2, dim=2, codes=4).configure_optimizers()[1] == []
