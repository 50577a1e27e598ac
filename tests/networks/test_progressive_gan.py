import pytest
import torch
from torch.nn.functional import avg_pool2d, leaky_relu

from networks.progressive_gan import Discriminator, FirstMap, Generator, activated
from networks.style import doubled, pixel_norm

WIDTHS = (512, 512, 512, 512, 256, 128, 64, 32, 16)


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loud(net):
    """Biases that matter."""
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            p.data.normal_()
    return net


def count(net, *colours):
    """Parameters, without those that turn the maps of other levels than the last into colours or back."""
    return sum(p.numel() for p in net.parameters()) - sum(
        p.numel() for layers in colours for layer in layers[:-1] for p in layer.parameters()
    )


@pytest.mark.parametrize(
    ("levels", "of_g", "of_d"),
    [
        (9, 23_071_507, 23_077_137),
        (7, 23_036_995, 23_042_625),
        (5, 22_484_227, 22_489_857),
        (4, 20_715_011, 20_720_641),
    ],
)
def test_published_sizes(levels, of_g, of_d):
    with torch.device("meta"):
        g, d = Generator(512, WIDTHS[:levels]), Discriminator(WIDTHS[:levels])
    assert (count(g, g.to_rgb), count(d, d.from_rgb)) == (of_g, of_d)


def test_the_first_map_is_a_kernel_around_one_pixel():
    layer = loud(FirstMap(6, 5))
    z = torch.randn(3, 6)
    expected = layer.bias[:, None, None] + torch.einsum("ni,oiyx->noyx", z, layer.weight) * (2 / (6 * 16)) ** 0.5
    torch.testing.assert_close(layer(z), expected)
    assert layer.scale == pytest.approx(2**0.5 / 4 / 6**0.5)


def test_a_level_that_has_not_faded_in_is_the_one_below():
    g, d = loud(Generator(6, (5, 4, 3))), loud(Discriminator((5, 4, 3)))
    z, x = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    for level in (1, 2):
        assert torch.equal(g(z, level, 0.0), doubled(g(z, level - 1)))
        small = avg_pool2d(x, 2) if level == 1 else x
        assert torch.equal(d(small, level, 0.0), d(avg_pool2d(small, 2), level - 1))


def test_a_level_fades_in_along_a_line():
    g = loud(Generator(6, (5, 4)))
    d, z, x = loud(Discriminator((5, 4))), torch.randn(4, 6), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(g(z, 1, 0.3), 0.7 * g(z, 1, 0.0) + 0.3 * g(z, 1))
    torch.testing.assert_close(d(x, 1, 1 - 1e-12), d(x, 1), rtol=0, atol=1e-9)
    assert not torch.allclose(d(x, 1, 0.5), d(x, 1), atol=1e-3)


def test_layer_by_layer_as_the_table_says():
    g, d = loud(Generator(6, (5, 4))), loud(Discriminator((5, 4), group=2))
    z = torch.randn(4, 6)
    h = activated(g.first(pixel_norm(z)))
    h = activated(g.convs[0](h))
    h = activated(g.up[0](doubled(h)))
    h = activated(g.convs[1](h))
    torch.testing.assert_close(h.square().mean(1), torch.ones(4, 8, 8), rtol=1e-6, atol=0)
    x = g.to_rgb[1](h)
    torch.testing.assert_close(g(z, 1), x)
    h = leaky_relu(d.from_rgb[1](x), 0.2)
    h = leaky_relu(d.down[0](leaky_relu(d.convs[0](h), 0.2)), 0.2)
    assert h.shape == (4, 5, 8, 8)
    h = avg_pool2d(h, 2)
    groups = [h[[0, 2]].std(0, correction=0).mean(), h[[1, 3]].std(0, correction=0).mean()]
    deviation = torch.stack(groups * 2).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    h = leaky_relu(d.verdict.last(torch.cat((h, deviation), 1)), 0.2)
    h = leaky_relu(d.verdict.dense(h).flatten(1), 0.2)
    torch.testing.assert_close(d(x, 1), d.verdict.score(h)[:, 0], rtol=1e-6, atol=1e-6)


def test_codes_count_by_direction_alone():
    g, z = Generator(6, (5,)), torch.randn(2, 6)
    torch.testing.assert_close(g(z, 0), g(7 * z, 0), rtol=1e-6, atol=1e-6)


def test_a_group_of_one_judges_each_image_alone():
    d, x = loud(Discriminator((5, 4), group=1)), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(d(x, 1), torch.cat([d(image[None], 1) for image in x]))


def test_colours_of_other_levels_learn_nothing():
    g = Generator(6, (5, 4, 3))
    g(torch.randn(2, 6), 2, 0.5).sum().backward()
    assert [layer.weight.grad is not None for layer in g.to_rgb] == [False, True, True]
    g.zero_grad()
    g(torch.randn(2, 6), 1).sum().backward()
    assert [layer.weight.grad is not None for layer in g.to_rgb] == [False, True, False]
    assert g.up[1].weight.grad is None


def test_penalties_of_second_order_pass():
    d, x = loud(Discriminator((3, 2), group=2)), torch.randn(2, 3, 8, 8, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x, 1, 0.4), x, fast_mode=True)
