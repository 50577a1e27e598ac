import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, instance_norm, leaky_relu

from networks.style import doubled
from networks.stylegan import Discriminator, Generator, Mapping, Noise, Synthesis, mixed, truncated

WIDTHS = (512, 512, 512, 512, 256, 128, 64, 32, 16)


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loud(net):
    """Biases and noises that matter."""
    for name, p in net.named_parameters():
        if name.endswith("bias") or "noises" in name:
            p.data.normal_()
    return net


def draws():
    """The same noise for each layer at every use."""
    rng = torch.Generator().manual_seed(1)
    return lambda x: torch.randn(x.shape, generator=rng)


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_published_sizes():
    with torch.device("meta"):
        g, d = Generator(512, 8, WIDTHS), Discriminator(WIDTHS)
    assert count(g.mapping) == 2_101_248
    assert count(g.synthesis) == 24_117_867
    assert count(g) == 26_219_115
    assert count(d) == 25_444_737


def test_the_mapping_starts_as_any_layer_and_moves_a_hundred_times_less():
    f = Mapping(256, 2)
    z = 3 * torch.randn(500, 256)
    w = f(z).detach()
    assert float(w.square().mean()) == pytest.approx(1.0, rel=0.15)  # sqrt(2) for half of what is left
    torch.testing.assert_close(f(7 * z), w, rtol=1e-6, atol=1e-6)
    before = f.layers[-1](z).detach()
    with torch.no_grad():
        f.layers[-1].bias += 1
    torch.testing.assert_close(f.layers[-1](z) - before, torch.full_like(before, 0.01))
    assert [layer.rate for layer in Generator(8, 2, (4,), mapping_rate=0.1).mapping.layers] == [0.1, 0.1]


def test_noise_is_scaled_by_its_channels():
    layer, x, noise = Noise(8), torch.randn(2, 8, 3, 3), torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(layer(x, noise), x)
    layer.weight.data.normal_()
    torch.testing.assert_close(layer(x, noise), x + layer.weight * (2 / 8) ** 0.5 * noise)


def test_layer_by_layer_as_the_walk_says():
    g, d = loud(Synthesis(6, (5, 4))), loud(Discriminator((5, 4), group=2))
    w, noise = torch.randn(4, 4, 6), draws()
    line = torch.tensor([1.0, 2.0, 1.0])

    def blurred(x):
        kernel = (torch.outer(line, line) / 16).expand(x.shape[1], 1, 3, 3)
        return conv2d(x, kernel, padding=1, groups=x.shape[1])

    def finished(h, layer):
        n, c = h.shape[:2]
        h = h + g.noises[layer].weight * (2 / c) ** 0.5 * noise(h[:, :1])
        scale, shift = g.styles[layer](w[:, layer])[..., None, None].chunk(2, 1)
        return instance_norm(leaky_relu(h, 0.2), eps=1e-5) * (1 + scale) + shift

    h = finished(g.constant.expand(4, -1, -1, -1), 0)
    h = finished(g.convs[0](h), 1)
    h = finished(blurred(g.up[0](doubled(h))), 2)
    h = finished(g.convs[1](h), 3)
    x = g.to_rgb[1](h)
    torch.testing.assert_close(g(w, 1, 1.0, draws()), x)

    h = blurred(leaky_relu(d.convs[0](leaky_relu(d.from_rgb[1](x), 0.2)), 0.2))
    h = leaky_relu(avg_pool2d(d.down[0](h), 2), 0.2)
    groups = [h[[0, 2]].std(0, correction=0).mean(), h[[1, 3]].std(0, correction=0).mean()]
    deviation = torch.stack(groups * 2).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    h = leaky_relu(d.verdict.last(torch.cat((h, deviation), 1)), 0.2)
    h = leaky_relu(d.verdict.dense(h).flatten(1), 0.2)
    torch.testing.assert_close(d(x, 1), d.verdict.score(h)[:, 0], rtol=1e-6, atol=1e-6)


def test_a_level_that_has_not_faded_in_is_the_one_below():
    g, d = loud(Synthesis(6, (5, 4, 3))), loud(Discriminator((5, 4, 3)))
    w, x = torch.randn(4, 6, 6), torch.randn(4, 3, 16, 16)
    for level in (1, 2):
        assert torch.equal(g(w, level, 0.0, draws()), doubled(g(w, level - 1, 1.0, draws())))
        small = avg_pool2d(x, 2) if level == 1 else x
        assert torch.equal(d(small, level, 0.0), d(avg_pool2d(small, 2), level - 1))


def test_a_level_fades_in_along_a_line():
    g, d = loud(Synthesis(6, (5, 4))), loud(Discriminator((5, 4)))
    w, x = torch.randn(4, 4, 6), torch.randn(4, 3, 8, 8)
    ends = g(w, 1, 0.0, draws()), g(w, 1, 1.0, draws())
    torch.testing.assert_close(g(w, 1, 0.3, draws()), 0.7 * ends[0] + 0.3 * ends[1])
    torch.testing.assert_close(d(x, 1, 1 - 1e-12), d(x, 1), rtol=0, atol=1e-9)


def test_a_style_reaches_its_layer_and_those_above_alone():
    g = loud(Synthesis(6, (5, 4)))
    w = torch.randn(2, 4, 6)
    changed = w.clone()
    changed[:, 2:] += 1
    assert torch.equal(g(w, 0, 1.0, draws()), g(changed, 0, 1.0, draws()))
    assert not torch.allclose(g(w, 1, 1.0, draws()), g(changed, 1, 1.0, draws()), atol=1e-3)


def test_where_two_codes_meet():
    first, second = torch.zeros(3, 2), torch.ones(3, 2)

    def from_second(level, *luck):
        found = mixed(first, second, level, 8, torch.tensor(luck), 0.9)
        assert found.shape == (3, 8, 2)
        assert (found == found[:1, :, :1]).all()
        return found[0, : 2 * (level + 1), 0].tolist()

    assert from_second(3, 0.95, 0.1) == [0] * 8
    assert from_second(3, 0.1, 0.1) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert from_second(3, 0.1, 0.5) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert from_second(3, 0.1, 0.99) == [0, 0, 0, 0, 0, 0, 1, 1]
    assert from_second(3, 0.1, 1.0) == [0, 0, 0, 0, 0, 0, 1, 1]
    assert from_second(1, 0.1, 0.99) == [0, 0, 1, 1]
    assert from_second(0, 0.1, 0.5) == [0, 0]


def test_truncation():
    w, mean = torch.randn(2, 4, 3), torch.randn(3)
    assert truncated(w, mean, 1.0, 4) is w
    torch.testing.assert_close(truncated(w, mean, 0.7, 4), mean + 0.7 * (w - mean))
    half = truncated(w, mean, 0.0, 2)
    assert torch.equal(half[:, 2:], w[:, 2:])
    assert torch.equal(half[:, :2], mean.expand(2, 2, 3))
    torch.testing.assert_close(truncated(w, mean, 0.5, 99), (w + mean) / 2)


def test_r1_passes():
    d, x = loud(Discriminator((3, 2), group=2)), torch.randn(2, 3, 8, 8, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x, 1, 0.4), x, fast_mode=True)
