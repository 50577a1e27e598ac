"""Networks of ALAE: the release's sizes, outputs that the specification has recorded, and what each layer does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, instance_norm, leaky_relu, linear, mse_loss, pad

from importers.alae import BLUR, MLPSizes, StyleSizes, complete, tables
from importers.mapping import to_official, to_ours
from losses.adversarial import log_discriminator, log_generator, r1_penalty, slope
from networks.alae import (
    Conv2d,
    Encoder,
    Generator,
    Linear,
    MappingD,
    MappingF,
    MLPEncoder,
    MLPGenerator,
    bump,
    checked_half_life,
    follow_images_,
    groups_by_rate,
)
from networks.ema import frozen_copy
from networks.style import doubled
from tests.hashed import filled, hashed

SMALL = {"channels": 3, "levels": 5, "latent": 32, "width": 16, "max_width": 64}
SMALL_SIZES = StyleSizes(64, 3, 32, 16, 64, 4)
FUSED = {"channels": 3, "levels": 7, "latent": 16, "width": 4, "max_width": 16}
FUSED_SIZES = StyleSizes(256, 3, 16, 4, 16, 2)
MLP_SIZES = MLPSizes(50, 1024, 6)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def by_hash(nets: nn.ModuleDict, sizes: StyleSizes | MLPSizes) -> nn.ModuleDict:
    """Weights of the specification, which are made by official names; filters of the blur stay what they are."""
    state = nets.double().state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for table in tables(sizes).values():
        official = filled(complete(to_official(state, table), norms=False))
        official = {name: BLUR.expand_as(t) if "blur" in name else t for name, t in official.items()}
        state |= to_ours(official, table, shapes, "the specification")
    nets.load_state_dict(state)
    return nets


@pytest.fixture(scope="module")
def style() -> nn.ModuleDict:
    nets = {"f": MappingF(32, 4), "d": MappingD(32, 64, 32), "g": Generator(**SMALL), "e": Encoder(**SMALL)}
    return by_hash(nn.ModuleDict(nets), SMALL_SIZES).requires_grad_(False)


@pytest.fixture(scope="module")
def mlp() -> nn.ModuleDict:
    nets = {"f": MappingF(50, 6), "d": MappingD(50, 50, 0)}
    nets |= {"g": MLPGenerator(50, 1024, (0.2,) * 2, 28), "e": MLPEncoder(50, 1024, (0.2,) * 3)}
    return by_hash(nn.ModuleDict(nets), MLP_SIZES).requires_grad_(False)


def rows(w: torch.Tensor, levels: int) -> torch.Tensor:
    return w[:, None].expand(-1, 2 * levels, -1)


@pytest.mark.parametrize(
    ("levels", "width", "max_width", "latent", "layers", "channels", "expected"),
    [
        (9, 16, 512, 512, 8, 3, (24_118_379, 26_974_352, 2_101_248, 1_050_624)),
        (7, 64, 512, 512, 8, 3, (23_984_981, 26_789_952, 2_101_248, 1_050_624)),
        (7, 32, 512, 512, 8, 3, (18_305_717, 21_145_888, 2_101_248, 1_050_624)),
        (6, 64, 256, 256, 8, 3, (5_944_402, 6_625_600, 526_336, 263_168)),
        (4, 64, 256, 32, 4, 1, (2_422_980, 3_017_920, 4_224, 4_224)),
    ],
)
def test_parameters_are_the_release_s(monkeypatch, levels, width, max_width, latent, layers, channels, expected):
    for kind in (Conv2d, Linear):  # a first normal draw of nothing takes seconds
        monkeypatch.setattr(kind, "reset_parameters", lambda self: None)
    with torch.device("meta"):
        g, e = (kind(channels, levels, latent, width, max_width) for kind in (Generator, Encoder))
        f, d = MappingF(latent, layers), MappingD(latent, 2 * latent, latent)
    assert tuple(map(count, (g, e, f, d))) == expected


def test_parameters_of_the_mlps_are_the_release_s(mlp):
    assert [count(mlp[name]) for name in "gefd"] == [1_905_424, 1_904_690, 15_300, 7_650]
    assert count(mlp) == 3_833_064


def close(found, expected):
    assert found.item() == pytest.approx(expected, rel=2e-9)


def test_f_and_g_and_e_compute_what_was_recorded(style):
    f, g, e = style["f"], style["g"], style["e"]
    w, x = f(hashed((4, 32), 1100)), hashed((4, 3, 64, 64), 1000)
    styles = rows(w, 5)
    close(styles.sum(), 124.1990926)
    close(styles.abs().sum(), 197.731141)
    y = g(styles, 4)
    close(y.sum(), 3584.99064)
    close(y.abs().sum(), 38233.91016)
    close(y.flatten()[0], -0.8930018161)
    close(y.flatten()[-1], 0.9951938048)
    y = g(styles, 2, 0.3)
    close(y.sum(), -269.9200174)
    close(y.abs().sum(), 2041.461806)
    close(g(styles, 0).sum(), 11.48243569)
    code = e(x, 4)
    close(code.sum(), -9.288596422)
    close(code.abs().sum(), 94.63830628)
    logits = style["d"](code)
    close(logits.sum(), 0.8264501255)
    close(logits[0], 0.2869547165)
    code = e(x, 4, 0.3)
    close(code.sum(), -8.82785989)
    close(code.abs().sum(), 77.32549671)


def test_noise_goes_where_it_was_recorded_to_go(style):
    asked = []

    def noise(x):
        asked.append(tuple(x.shape))
        return hashed(tuple(x.shape), 3000 + len(asked))

    y = style["g"](rows(style["f"](hashed((4, 32), 1100)), 5), 4, noise=noise)
    assert asked[:4] == [(1, 1, 4, 4), (4, 1, 4, 4), (4, 1, 8, 8), (4, 1, 8, 8)]
    assert len(asked) == 10
    close(y.abs().sum(), 43831.2291)
    close(y.flatten()[0], -1.734369082)
    close(y.flatten()[-1], 0.3917285427)


def test_the_three_objectives_are_as_recorded(style):
    f, g, e, d = (style[name] for name in "fged")
    x = hashed((4, 3, 64, 64), 1000).requires_grad_()
    fake = g(rows(f(hashed((4, 32), 1101)), 5), 4)
    real_logits, fake_logits = d(e(x, 4)), d(e(fake, 4))
    adversarial = log_discriminator([real_logits], [fake_logits])
    close(adversarial, 1.3432359537494922)
    close(adversarial + 10 * r1_penalty(slope(real_logits, x)), 5.8426514094015305)
    close(log_generator([fake_logits]), 0.6470710484159466)
    w = f(hashed((4, 32), 1100))
    close(mse_loss(e(g(rows(w, 5), 4), 4), w), 1.1511409707979778)


def test_resolutions_with_fused_kernels_compute_what_was_recorded():
    nets = {"f": MappingF(16, 2), "d": MappingD(16, 32, 16), "g": Generator(**FUSED), "e": Encoder(**FUSED)}
    nets = by_hash(nn.ModuleDict(nets), FUSED_SIZES).requires_grad_(False)
    y = nets["g"](rows(nets["f"](hashed((2, 16), 1100)), 7), 6)
    close(y.sum(), -92405.86473)
    close(y.abs().sum(), 323378.7736)
    code = nets["e"](hashed((2, 3, 256, 256), 1000), 6)
    close(code.sum(), -20.49817257)
    close(code.abs().sum(), 30.38045932)


def test_the_mlps_compute_what_was_recorded(mlp):
    x = (hashed((4, 1, 28, 28), 1000) + 1) / 2
    code, w = mlp["e"](x), mlp["f"](hashed((4, 50), 1100))
    close(code.sum(), 14.86745871)
    close(code.abs().sum(), 25.20578161)
    close(w.sum(), 11.72630169)
    y = mlp["g"](w)
    assert y.shape == (4, 1, 28, 28)
    close(y.sum(), 9.575265368)
    close(y.abs().sum(), 241.4029596)
    expected = torch.tensor([-0.22130850379, -0.0260739347781, -0.17250663894, -0.127689065718], dtype=torch.float64)
    torch.testing.assert_close(mlp["d"](code), expected, rtol=1e-10, atol=0)


def test_slopes_and_sizes_of_the_mlps_are_arguments():
    torch.manual_seed(0)
    e, g = MLPEncoder(3, 5, (0.2, 0.3, 0.01)).double(), MLPGenerator(3, 5, (0.1, 0.2), 32).double()
    x, w = torch.randn(2, 1, 32, 32).double(), torch.randn(2, 3).double()
    h, kept = x, torch.arange(28) * 32 // 28  # nearest pixels
    h = h[:, 0, kept][:, :, kept].flatten(1)
    for layer, s in zip(e.layers, (0.2, 0.3, 0.01), strict=True):
        h = leaky_relu(linear(h, layer.weight, layer.bias), s)
    torch.testing.assert_close(e(x), h)
    y, taken = w, torch.arange(32) * 28 // 32
    for layer, s in zip(g.layers, (0.1, 0.2, 1.0), strict=True):
        y = leaky_relu(linear(y, layer.weight, layer.bias), s)
    torch.testing.assert_close(g(w), y.view(2, 1, 28, 28)[:, :, taken][..., taken])


def test_both_fused_convolutions_are_the_release_s():
    """Four shifted copies of the kernel in one of 4x4, of a transposed and of a strided convolution."""
    torch.manual_seed(0)
    conv, x = Conv2d(3, 4, 3, bias=False).double(), torch.randn(2, 3, 6, 8).double()
    torch.testing.assert_close(conv.halved(x), avg_pool2d(conv(x), 2))
    torch.testing.assert_close(conv.enlarged(x), conv(doubled(x)))
    stored = conv.weight.flip(2, 3).transpose(0, 1)
    wide = pad(stored, (1, 1, 1, 1))
    kernel = wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]
    torch.testing.assert_close(conv.enlarged(x), conv_transpose2d(x, kernel, stride=2, padding=1))


def test_a_block_of_e_by_hand():
    """Means and deviations speak before they are taken out; two LeakyReLUs in a row after the image."""
    torch.manual_seed(0)
    e = Encoder(3, 2, 5, 4, 8).double()
    for p in e.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 3, 8, 8).double()

    def statistics(h):
        return torch.cat((h.mean((2, 3)), h.var((2, 3), correction=0).sqrt()), 1)

    h = leaky_relu(leaky_relu(e.from_rgb[0](x), 0.2), 0.2)
    w = 0
    for block in e.blocks:
        h = leaky_relu(conv2d(h, block.conv_1.weight, padding=1) + block.bias_1, 0.2)
        w = w + block.style_1(statistics(h))
        h = instance_norm(h, eps=1e-5)
        h = avg_pool2d(conv2d(block.blur(h), block.conv_2.weight, padding=1), 2)
        h = leaky_relu(h + block.bias_2, 0.2)
        w = w + block.style_2(statistics(h))
        h = instance_norm(h, eps=1e-5)
    torch.testing.assert_close(e(x, 1), w)


def test_a_fade_that_is_over_is_the_plain_path_and_one_that_begins_is_the_resolution_below(style):
    styles = rows(style["f"](hashed((2, 32), 1)), 5)
    x = hashed((2, 3, 16, 16), 2)
    nearly, over = 1 - 1e-12, 1.0
    torch.testing.assert_close(style["g"](styles, 2, nearly), style["g"](styles, 2, over), rtol=0, atol=1e-9)
    torch.testing.assert_close(style["e"](x, 2, nearly), style["e"](x, 2, over), rtol=0, atol=1e-9)
    torch.testing.assert_close(style["g"](styles, 2, 0.0), doubled(style["g"](styles, 1)))
    torch.testing.assert_close(style["e"](x, 2, 0.0), style["e"](avg_pool2d(x, 2), 1))


def test_no_noise_is_a_bump():
    x = torch.tensor([0.0, 2.0, -2.0])
    torch.testing.assert_close(bump(x, 2.0), 1.6 / (2 * torch.pi) ** 0.5 * torch.tensor([1.0, 0.60653066, 0.60653066]))


def test_a_constant_channel_is_a_kink_that_an_epsilon_heals():
    torch.manual_seed(0)
    x = torch.zeros(1, 3, 8, 8)
    for eps, finite in ((0.0, False), (1e-12, True)):
        e = Encoder(3, 2, 5, 4, 8, eps)
        gradients = torch.autograd.grad(e(x, 1).sum(), list(e.blocks.parameters()))
        assert all(g.isfinite().all() for g in gradients) == finite


def test_rates_are_what_equalises_and_survive_a_copy(style):
    nets = [copy.deepcopy(style[name]) for name in "fged"]
    names = {
        id(p): f"{net}.{name}" for net, one in zip("fged", nets, strict=True) for name, p in one.named_parameters()
    }
    found = {names[id(p)]: group["rate"] for group in groups_by_rate(*nets) for p in group["params"]}
    assert set(found) == set(names.values())
    assert found["f.layers.3.weight"] == pytest.approx(0.1 * (2 / 32) ** 0.5)
    assert found["d.layers.2.bias"] == found["f.layers.0.bias"] == 0.1
    assert found["g.blocks.1.style_2.weight"] == pytest.approx(32**-0.5)
    assert found["e.blocks.0.style_2.weight"] == pytest.approx((2 / 64) ** 0.5)
    assert found["g.to_rgb.0.weight"] == pytest.approx(0.03 / 8)
    assert found["e.from_rgb.0.weight"] == pytest.approx((2 / 3) ** 0.5)
    assert found["g.blocks.4.conv_1.weight"] == pytest.approx((2 / (9 * 32)) ** 0.5)
    ones = {name for name, rate in found.items() if rate == 1 and "bias" not in name}
    assert ones == {"g.const"} | {f"g.blocks.{k}.noise_weight_{n}" for k in range(5) for n in (1, 2)}
    assert found["e.blocks.2.bias_1"] == found["g.blocks.0.style_1.bias"] == 1


def test_weights_start_as_he_has_them():
    torch.manual_seed(0)
    f, conv = MappingF(300, 1).layers[0], Conv2d(50, 40, 3)
    assert f.weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)  # the rate is none of its business
    assert conv.weight.std().item() == pytest.approx((2 / 450) ** 0.5, rel=0.02)
    g = Generator(**SMALL)
    assert bool((g.const == 1).all())
    assert not any(p.any() for name, p in g.named_parameters() if "bias" in name or "noise" in name)


def test_the_average_has_a_half_life_in_images():
    net = nn.Linear(2, 3)
    average = frozen_copy(net)
    before = average.weight.clone()
    nn.init.ones_(net.weight)
    for _ in range(20):
        follow_images_(average, net, 500)
    torch.testing.assert_close(average.weight, (before + 1) / 2)


def test_styles_and_statistics_are_of_32_bits_under_autocast():
    torch.manual_seed(0)
    g, e = Generator(3, 2, 5, 4, 8), Encoder(3, 2, 5, 4, 8)
    seen = []
    for net in (g, e):
        for part in net.modules():
            if isinstance(part, nn.Linear):
                part.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        e(g(torch.randn(2, 4, 5), 1, noise=torch.randn_like).float(), 1)
    assert seen == [torch.float32] * 8


@pytest.mark.parametrize("images", [0, -1.0, float("nan")])
def test_an_average_without_memory_is_refused(images):
    with pytest.raises(ValueError, match="half_life is .* images: give more than 0"):
        checked_half_life(images)
