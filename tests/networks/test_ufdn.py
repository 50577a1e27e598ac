"""UFDN's networks: sizes, shortcuts that change no number, and the golden numbers of the official ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from importers.mapping import to_official, to_ours
from importers.ufdn import classifier_table, critic_table, vae_table
from interfaces.batch import DomainBatch
from lightning_modules.ufdn import UFDN
from networks.ufdn import Critic, Decoder, DomainClassifier, Doubling, Encoder, Halving
from tests.hashed import filled, hashed


@pytest.mark.parametrize(("ours", "theirs", "size"), [(Halving, nn.Conv2d, 2), (Doubling, nn.ConvTranspose2d, 1)])
def test_taps_that_meet_nothing_are_left_out(ours, theirs, size):
    torch.manual_seed(0)
    a, b = ours(3, 5).double(), theirs(3, 5, 4, 2, 1).double()
    b.load_state_dict(a.state_dict())
    for height, width in ((size, size), (2 * size, size), (4, 6)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        y = b(x)
        torch.testing.assert_close(a(x), y, rtol=0, atol=1e-14)
        for layer in (a, b):
            layer.zero_grad()
            layer(x).square().sum().backward()
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.bias.grad, b.bias.grad, rtol=0, atol=1e-13)


def test_shapes():
    encoder, decoder = Encoder((4, 6), 5), Decoder(3, 5, (6, 4))
    for height, width, code in ((8, 8, (1, 1)), (16, 24, (2, 3))):
        x = torch.rand(2, 3, height, width)
        mu, logvar = encoder(x)
        assert mu.shape == logvar.shape == (2, 5, *code)
        assert encoder.trunk(x).shape == (2, 6, height // 4, width // 4)
        y = decoder(mu, torch.tensor([[0.0, 1.0, 0.0], [-0.2, 1.2, 0.5]]))
        assert y.shape == x.shape
        assert y.abs().max() <= 1
    assert DomainClassifier(20, (7, 5), 3)(torch.randn(2, 5, 2, 2)).shape == (2, 3)
    assert len(list(DomainClassifier(20, (), 10).parameters())) == 2
    score, domain = Critic(16, (4, 6), 8, 3)(torch.rand(2, 3, 16, 16))
    assert (score.shape, domain.shape) == ((2, 1), (2, 3))


def test_the_decoder_sees_the_domain_at_every_position():
    torch.manual_seed(0)
    decoder, z = Decoder(2, 3, (4,)).eval(), torch.randn(1, 3, 2, 2)
    a, b = decoder(z, torch.tensor([[1.0, 0.0]])), decoder(z, torch.tensor([[0.0, 1.0]]))
    assert ((a - b).abs().flatten(2).amin((0, 1)) > 0).all()


def test_no_network_of_judges_mixes_images():
    torch.manual_seed(0)
    x = torch.rand(3, 3, 16, 16)
    for net, rows in ((Critic(16, (4, 6), 8, 3), x), (DomainClassifier(12, (5,), 3), torch.randn(3, 12))):
        together, alone = net(rows), net(rows[:1])
        first = together[0] if isinstance(together, tuple) else together
        torch.testing.assert_close(first[:1], alone[0] if isinstance(alone, tuple) else alone)


@pytest.mark.slow
def test_golden_numbers():
    """Of the official networks for faces, float64, weights by formula."""
    with torch.device("meta"):
        model = UFDN(lambda_feat=(1.0, 1.0, 1))
    model = model.double().to_empty(device="cpu")
    model.iterations.zero_()
    for table in (vae_table(5), classifier_table("domain_classifier", 4), critic_table(5)):
        official = filled(to_official(model.state_dict(), table))
        shapes = {name: t.shape for name, t in model.state_dict().items()}
        model.load_state_dict(to_ours(official, table, shapes, "hash"), strict=False, assign=True)
    x, domain = hashed((6, 3, 64, 64), 1000), torch.tensor([0, 0, 1, 1, 2, 2])
    v = one_hot(domain, 3).double()
    v_t = model.targets(v)
    assert v_t.argmax(1).tolist() == [1, 1, 2, 2, 0, 0]
    check_evaluation(model.eval(), x, v, v_t)
    check_training(model.train(), x, v, v_t)


@torch.no_grad()
def check_evaluation(model, x, v, v_t):
    mu, logvar = model.encoder(x)
    recon, translated, logits = model.decoder(mu, v), model.blend(x, 0, v_t), model.domain_classifier(mu)
    score, domain = model.critic(x)
    found = [
        recon.sum(), recon.abs().sum(), recon.flatten()[0], recon.flatten()[-1], mu.sum(), mu.abs().sum(),
        logvar.sum(), logits.sum(), logits.abs().sum(), score.sum(), domain.sum(), translated.sum(),
        translated.flatten()[0],
    ]  # fmt: skip
    expected = [
        3564.623336, 9159.072004, -0.1346424177, 0.05413365161, 8.186028654, 404.5407426, 6.678416634, -0.2861500515,
        1.088113319, 0.5560579443, -1.027300787, 3564.588065, -0.1346234671,
    ]  # fmt: skip
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-9)


def check_training(model, x, v, v_t):
    model.noise_like = lambda like: hashed((6, 1024), 2000).view(like.shape)
    model.shares = lambda like: (hashed((6, 1, 1, 1), 2100) + 1) / 2
    with torch.no_grad():
        q = model.encoder(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.domain_classifier(model.draw(*q)), v)
        _, makers = model.makers_loss(DomainBatch(x, v.argmax(1)), q, v, v_t, None)
        fake = model.fakes(q, v_t)
    _, critic, scores = model.critic_loss(x, v, fake)
    found = [loss, critic["cls"], scores["real"], scores["fake"], critic["gp"], makers["recon"], makers["kl"]]
    found += [makers["adv_e"], -makers["adv"], makers["cls"]]
    expected = [
        0.6798172268228982, 0.6841228129057605, 0.09267632404851651, 0.13415367299875522, 0.9975728207457699,
        0.8490188373086274, 630.9888177828493, 0.7260868065917064, 0.13415367299875522, 0.6799409480213287,
    ]  # fmt: skip
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-8)
