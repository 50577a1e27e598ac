"""Networks of Fader Networks: sizes, numbers of the release, and that planes of attributes need no convolution."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from networks.batch_norm import BatchNorm2d
from networks.fader import (
    AutoEncoder,
    Classifier,
    LatentDiscriminator,
    PatchDiscriminator,
    mode_,
    reached,
    up_with_planes,
)
from tests.hashed import fill, hashed


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        ae = AutoEncoder(2)
        assert (count(ae), count(ae.enc_layers), count(ae.dec_layers)) == (14_000_512, 6_985_568, 7_014_944)
        assert count(LatentDiscriminator(2)) == 8_655_362
        assert count(PatchDiscriminator()) == 695_137
        assert (count(Classifier(2)), count(Classifier(80))) == (15_640_930, 15_680_944)
        assert count(AutoEncoder(2, skips=1)) == 16_097_664
        assert count(LatentDiscriminator(2, skips=1)) == 12_851_202


@pytest.mark.slow
@torch.no_grad()
def test_numbers_of_the_release_at_its_own_size() -> None:
    """Recorded in float64 with hashed weights and images, four of 256x256."""
    ae, lat, ptc, clf = map(fill, (AutoEncoder(2), LatentDiscriminator(2), PatchDiscriminator(), Classifier(2)))
    for net in (ae, lat, ptc, clf):
        net.eval()
    x, y = hashed((4, 3, 256, 256), 1000), torch.eye(2, dtype=torch.float64).repeat(2, 1)
    maps = ae.encode(x)
    code, recon, slid = maps[-1], ae.decode(maps, y), ae.decode(maps, torch.tensor([[-1.0, 2.0]]).double().expand(4, 2))
    probabilities, read = ptc(x), lat(code)
    found = [
        code.sum(), code.abs().sum(), code.flatten()[0],
        recon.sum(), recon.abs().sum(), recon.flatten()[0], recon.flatten()[-1],
        read.sum(), read.flatten()[0], probabilities.sum(), probabilities[0], clf(x).sum(),
        slid.sum(), slid.flatten()[0],
    ]  # fmt: skip
    expected = [
        1697.358287, 2496.713571, -0.008775182032,
        68777.09134, 200220.5439, -0.2940498871, -0.1293284563,
        -0.858855279, -0.05709443661, 2.069718157, 0.5179856538, 0.8386793356,
        156614.833, 0.6557627637,
    ]  # fmt: skip
    assert torch.stack(found).tolist() == pytest.approx(expected, rel=1e-9)


def concatenated(h: Tensor, y: Tensor, weight: Tensor, skip: Tensor | None = None) -> Tensor:
    """As the release has it."""
    parts = [h, y[:, :, None, None].expand(-1, -1, *h.shape[2:])] + ([] if skip is None else [skip])
    return conv_transpose2d(torch.cat(parts, 1), weight, stride=2, padding=1)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 5), (8, 1)], ids=str)
@pytest.mark.parametrize("attributes", [1, 2, 80])
@pytest.mark.parametrize("skips", [0, 3])
def test_planes_without_their_convolution_give_the_same_numbers_and_gradients(size, attributes, skips) -> None:
    torch.manual_seed(0)
    h = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, skips, *size, dtype=torch.float64, requires_grad=True) if skips else None
    y = torch.randn(2, attributes, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3 + attributes + skips, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    inputs = [t for t in (h, y, weight, skip) if t is not None]
    ours, theirs = up_with_planes(h, y, weight, skip), concatenated(h, y, weight, skip)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    given = torch.randn_like(ours)
    for mine, textbook in zip(
        torch.autograd.grad(ours, inputs, given), torch.autograd.grad(theirs, inputs, given), strict=True
    ):
        torch.testing.assert_close(mine, textbook, rtol=0, atol=1e-11)


def test_what_validation_has_made_serves_training() -> None:
    reached.cache_clear()
    weight = nn.Parameter(torch.randn(5, 2, 4, 4))
    with torch.inference_mode():
        up_with_planes(torch.randn(1, 3, 2, 2), torch.randn(1, 2), weight)
    up_with_planes(torch.randn(1, 3, 2, 2), torch.randn(1, 2), weight).sum().backward()
    assert weight.grad is not None


def test_positions_that_taps_reach() -> None:
    """Row 0 has tap 1 alone, the last row tap 2; between, even rows have 1 and 3, odd ones 0 and 2."""
    assert reached(2, torch.float32, torch.device("cpu")).tolist() == [
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 1, 0, 1],
        [0, 0, 1, 0],
    ]


@pytest.mark.parametrize("skips", [0, 1, 2])
def test_skips_go_to_the_layer_of_their_size(skips) -> None:
    ae = AutoEncoder(2, width=4, max_width=8, layers=3, skips=skips).eval()
    maps = ae.encode(torch.randn(2, 3, 16, 16))
    assert [tuple(h.shape[1:]) for h in maps] == [(4, 8, 8), (8, 4, 4), (8, 2, 2)]
    assert [len(layer[0].weight) for layer in ae.dec_layers] == [10, 10 + 8 * (skips > 0), 6 + 4 * (skips > 1)]
    maps = [h.detach().requires_grad_() for h in maps]
    ae.decode(maps, torch.zeros(2, 2)).sum().backward()
    assert [h.grad is not None for h in maps[:-1]] == [skips > 1, skips > 0]
    read = LatentDiscriminator(3, 16, width=4, max_width=8, layers=3, skips=skips, hidden=5).eval()
    assert read(maps[-1 - skips]).shape == (2, 3)
    assert len(read.conv_layers) == 1 + skips


def test_layers_are_as_in_the_release() -> None:
    ae = AutoEncoder(2, width=4, layers=4, dropout=0.1)
    kinds = [[type(layer).__name__ for layer in block] for block in ae.enc_layers]
    assert kinds == [["Conv2d", "LeakyReLU"]] + 3 * [["Conv2d", "BatchNorm2d", "LeakyReLU"]]
    kinds = [[type(layer).__name__ for layer in block] for block in ae.dec_layers]
    assert kinds == 3 * [["ConvTranspose2d", "BatchNorm2d", "Dropout", "ReLU"]] + [["ConvTranspose2d", "Tanh"]]
    assert all(block[0].bias is None for block in ae.dec_layers)
    deep = AutoEncoder(2, width=2, max_width=4, layers=6, dropout=0.1)
    assert [len(block) for block in deep.dec_layers] == [4, 4, 4, 3, 3, 2]
    kinds = [[type(layer).__name__ for layer in block] for block in LatentDiscriminator(2, 64, 4, layers=4).conv_layers]
    assert kinds == 2 * [["Conv2d", "BatchNorm2d", "LeakyReLU", "Dropout"]]
    assert len(Classifier(2, 64, 4).conv_layers[0]) == 2


def test_patches_are_probabilities_and_so_is_their_mean() -> None:
    net, shapes = PatchDiscriminator(2).eval(), []
    net.layers[-1].register_forward_hook(lambda layer, args, out: shapes.append(tuple(out.shape)))
    p = net(torch.randn(2, 3, 256, 256).mul(50))
    assert shapes == [(2, 1, 30, 30)]
    assert p.shape == (2,)
    assert ((p > 0) & (p < 1)).all()
    assert net(torch.randn(1, 3, PatchDiscriminator.smallest, PatchDiscriminator.smallest)).shape == (1,)
    low = net.bfloat16()(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16))
    assert low.dtype == torch.float32


def test_modes_are_switched_where_they_matter() -> None:
    net = nn.Sequential(AutoEncoder(2, width=2, layers=2, dropout=0.5), LatentDiscriminator(2, 8, 2, layers=2))
    matter = [layer for layer in net.modules() if isinstance(layer, BatchNorm2d | nn.Dropout)]
    for training in (False, True):
        mode_(net, training)
        assert [layer.training for layer in matter] == [training] * 5
