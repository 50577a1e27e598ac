"""Networks of multi-domain DRIT++: the release's sizes, and its layers one after the other as the reference."""

import pytest
import torch
from torch.nn.functional import conv2d, pad

from benchmarks.released import mdmm as released_mdmm
from networks.blocks import reflect
from networks.drit import ContentTrunk
from networks.drit_multidomain import (
    ContentClassifier,
    DomainAttributeEncoder,
    DomainConcatGenerator,
    DomainDiscriminator,
    DomainGaussianAttributeEncoder,
    DomainMixingGenerator,
    coded,
)
from tests.lightning_modules.test_drit_multidomain import seasons


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_releases():
    with torch.device("meta"):
        assert count(ContentTrunk(64, 2, 4)) == 5_099_136
        found = [
            [count(net(k)) for k in (3, 4)]
            for net in (
                DomainGaussianAttributeEncoder,
                DomainAttributeEncoder,
                DomainConcatGenerator,
                DomainMixingGenerator,
                DomainDiscriminator,
                ContentClassifier,
            )
        ]
    assert found == [
        [1_347_152, 1_348_176],
        [2_774_344, 2_777_480],
        [5_465_273, 5_499_857],
        [8_573_955, 8_574_211],
        [15_737_472, 15_746_688],
        [10_684_163, 10_684_420],
    ]


def test_channels_halve_by_integer_division():
    with torch.device("meta"):
        ups = [[up.conv.out_channels for up in DomainConcatGenerator(k).renderer.ups] for k in (3, 4)]
    assert ups == [[137, 72], [138, 73]]


@pytest.fixture(params=[True, False], ids=["concat", "mixing"])
def model(request):
    torch.manual_seed(0)
    return seasons(concat=request.param, blocks=2, downsamplings=2, init_std=0.3).double()


def mixtures():
    return torch.tensor([[0, 1, 0], [0.3, -0.5, 1.5]], dtype=torch.float64)


def test_the_generator_is_the_plain_one_with_all_its_gradients(model):
    """Domain and attribute added behind the residual blocks change nothing; soft domain codes neither."""
    g, width = model.generator, 8
    c, z = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, width, 7, 6), (2, 8)))
    k, weight = mixtures().requires_grad_(), torch.randn(2, 3, 28, 24, dtype=torch.float64)
    named = {"c": c, "z": z, "k": k, **dict(g.named_parameters())}
    results = []
    for image in (g(c, z, k), released_mdmm.generate(model, c, z, k)):
        results.append((image, torch.autograd.grad((image * weight).sum(), list(named.values()))))
    (fast, fast_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-10)
    seen = 0
    for name, ours, theirs in zip(named, fast_gradients, plain_gradients, strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}")
        seen += ours.abs().max() > 1e-6 * scale
        if model.concat and name == "trunk.0.conv1.weight":
            assert ours[:, width:].abs().max() == 0, "what reads domain and attribute there has no gradient"
    assert seen > 10


def test_one_content_serves_all_domains_and_attributes(model):
    g, c = model.generator, torch.randn(1, 8, 6, 6).double()
    k, z = torch.eye(3).double().repeat_interleave(2, 0), torch.randn(6, 8).double()
    with torch.no_grad():
        many = g.render(g.content(c).expand(6, -1, -1, -1), z, k)
        alone = torch.cat([g(c, z[j : j + 1], k[j : j + 1]) for j in range(6)])
    torch.testing.assert_close(many, alone, rtol=0, atol=1e-10)
    assert all((many[i] - many[j]).abs().max() > 1e-3 for i in range(6) for j in range(i))


def test_encoders_are_the_plain_ones(model):
    x, k = torch.randn(2, 3, 44, 36, dtype=torch.float64), mixtures()
    plain = released_mdmm.encode_content(model, x, torch.zeros_like)
    torch.testing.assert_close(model.content_encoder(x), plain, rtol=0, atol=1e-10)
    mu, logvar = released_mdmm.posterior(model, x, k)
    encoded = model.attribute_encoder(x, k)
    torch.testing.assert_close(encoded, (mu, logvar) if model.concat else mu, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.attribute_encoder.mean(x, k), mu, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (7, 1)])
def test_a_code_of_one_number_a_channel_is_the_convolution_of_appended_maps(kernel, stride):
    conv = torch.nn.Conv2d(5, 4, kernel, stride).double()
    x, k = torch.randn(2, 3, 9, 12).double(), torch.randn(2, 2).double()
    appended = torch.cat((x, k[:, :, None, None].expand(-1, -1, 9, 12)), 1)
    plain = conv2d(reflect(appended, 3), conv.weight, conv.bias, stride)
    torch.testing.assert_close(coded(reflect(x, 3), k, conv), plain, rtol=0, atol=1e-12)


def test_scores_have_a_ring_of_zeros_at_the_releases_size():
    x = torch.randn(2, 3, 216, 216)
    net = DomainDiscriminator(3, 2)
    scores, logits = net(x)
    assert scores.shape == (2, 1, 6, 6)
    assert logits.shape == (2, 3)
    inside = scores[:, :, 1:-1, 1:-1]
    assert torch.equal(pad(inside, (1, 1, 1, 1)), scores)
    assert inside.abs().min() > 0
    bare = DomainDiscriminator(3, 2, ring=False)
    bare.load_state_dict(net.state_dict())
    torch.testing.assert_close(bare(x)[0], inside)
    for fast, plain in zip((scores, logits), released_mdmm.scores(net, x), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_the_last_convolution_of_a_discriminator_keeps_the_width():
    with torch.device("meta"):
        widths = {layers: [c.out_channels for c in DomainDiscriminator(3, 2, layers).layers] for layers in (1, 2, 3, 6)}
    assert widths == {1: [2], 2: [2, 2], 3: [2, 4, 4], 6: [2, 4, 8, 16, 32, 32]}


@pytest.mark.parametrize(("layers", "kernel", "least"), [(6, 3, 129), (3, 2, 9), (2, 1, 3)])
def test_least_image_of_a_discriminator(layers, kernel, least):
    net = DomainDiscriminator(3, 2, layers, kernel)
    assert net.smallest() == least
    net(torch.zeros(1, 3, least, least))
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 3, least - 1, least - 1))


def test_a_content_has_one_logit_a_domain_whatever_its_size():
    net = ContentClassifier(4, 2, 2)
    assert net(torch.zeros(3, 2, 54, 54)).shape == (3, 4)
    assert net(torch.zeros(1, 2, 64, 64)).shape == (1, 4)
    assert net.smallest() == 53
