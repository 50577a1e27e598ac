"""DRIT's networks: the release's sizes, and its layers one after the other as the reference."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from benchmarks.released import drit as released_drit
from networks import drit
from networks.blocks import reflect
from networks.content_discriminator import ContentDiscriminator
from networks.init import normal_convolutions_
from networks.patch_discriminator import MultiScaleDiscriminator
from tests.lightning_modules.cases import drit as tiny


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_releases():
    with torch.device("meta"):
        assert count(drit.ContentEncoder()) == 9_018_112
        assert count(drit.ContentEncoder().trunks[0]) == 3_918_976
        assert 2 * count(drit.GaussianAttributeEncoder()) == 2_688_160
        assert 2 * count(drit.AttributeEncoder()) == 5_529_872
        assert count(drit.ConcatGenerator()) == 9_564_710
        assert count(drit.MixingGenerator()) == 17_146_374
        assert count(MultiScaleDiscriminator(3)) == 8_271_171
        assert count(ContentDiscriminator()) == 10_683_649


@pytest.fixture(params=[True, False], ids=["concat", "mixing"])
def model(request):
    torch.manual_seed(0)
    return tiny(concat=request.param, blocks=2, downsamplings=2, init_std=0.3).double()


def blind_columns(model):
    """Where an attribute enters a convolution in front of an instance norm, its weights have no gradient."""
    if not model.concat:
        return set()
    return {f"trunks.{k}.0.conv1.weight" for k in (0, 1)}


def test_the_generator_is_the_plain_one_with_all_its_gradients(model):
    """The attribute added behind the residual blocks, and 1x1 convolutions of it on 1x1 maps, change nothing."""
    g, width = model.generator, model.content_encoder.share.conv1.out_channels
    c = torch.randn(2, width, 7, 6, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 28, 24, dtype=torch.float64)
    inputs = (c, z, *g.parameters())
    results = []
    for image in (g(c, z, 1), released_drit.generate(model, c, z, 1)):
        gradients = torch.autograd.grad((image * weight).sum(), inputs, allow_unused=True)
        results.append((image, gradients))
    (fast, fast_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-10)
    names = ["c", "z", *(name for name, _ in g.named_parameters())]
    seen = 0
    for name, ours, theirs in zip(names, fast_gradients, plain_gradients, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is None:
            continue
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}")
        real = ours[:, :width] if name in blind_columns(model) else ours
        seen += real.abs().max() > 1e-6 * scale
        if name in blind_columns(model):
            assert ours[:, width:].abs().max() == 0
    assert seen > 10


def test_one_content_serves_several_attributes(model):
    g, width = model.generator, model.content_encoder.share.conv1.out_channels
    c, z = torch.randn(1, width, 6, 6).double(), torch.randn(3, 8).double()
    with torch.no_grad():
        h = g.content(g.share(c), 0)
        many = g.render(h.expand(3, -1, -1, -1), z, 0)
        alone = torch.cat([g(c, z[k : k + 1], 0) for k in range(3)])
    torch.testing.assert_close(many, alone, rtol=0, atol=1e-10)
    assert (many[0] - many[1]).abs().max() > 1e-3


def test_encoders_are_the_plain_ones(model):
    x = torch.randn(2, 3, 44, 36, dtype=torch.float64)
    nothing = torch.zeros_like
    for k in (0, 1):
        plain = released_drit.encode_content(model, x, k, nothing)
        torch.testing.assert_close(model.content_encoder(x, k), plain, rtol=0, atol=1e-10)
        mu, logvar = released_drit.posterior(model, x, k)
        encoded = model.attribute_encoders[k](x)
        torch.testing.assert_close(encoded if model.concat else encoded[0], (mu, logvar) if model.concat else mu[0])


def test_discriminators_are_the_plain_ones(model):
    x, c = torch.randn(2, 3, 44, 36, dtype=torch.float64), torch.randn(2, 8, 21, 14, dtype=torch.float64)
    for net in (model.discriminators[1], model.random_discriminators[0]):
        for fast, plain in zip(net(x), released_drit.scores(net, x), strict=True):
            torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    net = model.content_discriminator
    torch.testing.assert_close(net(c), released_drit.content_scores(net, c), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (13, 27)])
def test_pooling_in_the_convolution(size):
    block, x = drit.PoolingBlock(3, 5).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    h = torch.nn.functional.leaky_relu(x, 0.2)
    h = torch.nn.functional.leaky_relu(block.conv1(reflect(h, 1)), 0.2)
    plain = avg_pool2d(block.conv2(reflect(h, 1)), 2) + block.shortcut(avg_pool2d(x, 2))
    torch.testing.assert_close(block(x), plain, rtol=0, atol=1e-12)


def test_pointwise_is_the_convolution_of_appended_maps():
    conv = torch.nn.Conv2d(5, 4, 1).double()
    x, z = torch.randn(2, 3, 4, 6).double(), torch.randn(2, 2).double()
    plain = conv2d(torch.cat((x, z[:, :, None, None].expand(-1, -1, 4, 6)), 1), conv.weight, conv.bias)
    torch.testing.assert_close(drit.pointwise(x, z, conv), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("layers", "least"), [(1, 11), (2, 25), (3, 53)])
def test_least_content(layers, least):
    net = ContentDiscriminator(2, 2, layers)
    assert net.smallest() == least
    assert net(torch.zeros(1, 2, least, least + 1)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 2, least - 1, least))


def test_one_logit_at_216_and_four_at_256():
    net = ContentDiscriminator(2, 2)
    assert net(torch.zeros(3, 2, 54, 54)).shape == (3, 1, 1, 1)
    assert net(torch.zeros(1, 2, 64, 64)).shape == (1, 1, 2, 2)
    scores = MultiScaleDiscriminator(3, 2, slope=0.01)(torch.zeros(1, 3, 216, 216))
    assert [s.shape[-1] for s in scores] == [13, 6, 3]


def test_least_image_of_a_domain_discriminator():
    net = MultiScaleDiscriminator(3, 2, 3, 2, slope=0.01)
    assert net.smallest() == 15
    net(torch.zeros(1, 3, 15, 15))
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 3, 14, 14))


def test_initial_weights():
    net = drit.ConcatGenerator(32)
    biases = {name: p.clone() for name, p in net.named_parameters() if name.endswith("bias")}
    normal_convolutions_(net, 0.02)
    for name, p in net.named_parameters():
        if name.endswith("weight"):
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name
        elif name.endswith("bias"):
            assert torch.equal(p, biases[name])
            assert p.abs().max() > 0
