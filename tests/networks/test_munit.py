"""MUNIT's networks: the release's sizes, its layers one after the other as the reference, who reads which parameter."""

import pytest
import torch

from benchmarks.released import munit as released_munit
from benchmarks.released import unit as released_unit
from lightning_modules.munit import MUNIT
from networks.blocks import instance_norm, reflect
from networks.munit import AdaINDecoder, AdaINResBlock, StyleEncoder


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_releases():
    decoder = AdaINDecoder(3)
    assert count(StyleEncoder(3)) == 2_764_936
    assert count(decoder.mlp) == 1_120_768
    assert count(decoder) - count(decoder.mlp) == 5_754_627
    assert decoder.mlp.last.out_features == 4096


def gradients(y, wanted):
    direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(y, wanted, direction)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (32, 44), (19, 70)])
def test_style_encoder_is_the_releases_layers(n, size):
    torch.manual_seed(0)
    encoder = StyleEncoder(3, 4, 5).double()
    x = torch.randn(n, 3, *size, dtype=torch.float64, requires_grad=True)
    fast, plain = encoder(x), released_munit.encode_style(encoder, x)
    assert fast.shape == (n, 5)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    wanted = (x, *encoder.parameters())
    torch.testing.assert_close(gradients(fast, wanted), gradients(plain, wanted), rtol=1e-8, atol=1e-10)


def test_smallest_image_of_a_style():
    StyleEncoder(3, 2)(torch.randn(1, 3, StyleEncoder.smallest, StyleEncoder.smallest))
    with pytest.raises(RuntimeError):
        StyleEncoder(3, 2)(torch.randn(1, 3, StyleEncoder.smallest - 1, StyleEncoder.smallest - 1))


@pytest.mark.parametrize(("n", "upsamplings"), [(1, 2), (3, 1)])
def test_decoder_is_the_releases_layers(n, upsamplings):
    torch.manual_seed(0)
    decoder = AdaINDecoder(3, 4, upsamplings, 2, 5, 7).double()
    c = torch.randn(n, 4 * 2**upsamplings, 3, 5, dtype=torch.float64, requires_grad=True)
    s = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
    fast, plain = decoder(c, s), released_munit.decode(decoder, c, s)
    assert fast.shape == (n, 3, 3 * 2**upsamplings, 5 * 2**upsamplings)
    assert fast.abs().max() <= 1
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-11)
    wanted = (c, s, *decoder.parameters())
    torch.testing.assert_close(gradients(fast, wanted), gradients(plain, wanted), rtol=1e-8, atol=1e-9)


def test_with_zeros_at_the_borders_layers_are_the_releases_too(monkeypatch):
    """The released order, whose one padding is replaced, on a whole model: nothing pads by reflection any more."""
    monkeypatch.setattr(released_unit, "pad", lambda x, margins, mode: torch.nn.functional.pad(x, margins))
    torch.manual_seed(0)
    model = MUNIT(width=4, blocks=1, style_size=3, mlp_width=6, dis_width=4, dis_layers=2, zero_padding=True).double()
    x, s = torch.randn(2, 3, 32, 36, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    content, style, decoder = model.content_encoders[0], model.style_encoders[0], model.decoders[1]
    c = content(x)
    exact = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(c, released_unit.encode(content, x), **exact)
    torch.testing.assert_close(style(x), released_munit.encode_style(style, x), **exact)
    torch.testing.assert_close(decoder(c, s), released_munit.decode(decoder, c, s), **exact)
    logits = model.discriminators[0](x)
    for ours, plain in zip(logits, released_unit.scores(model.discriminators[0], x), strict=True):
        torch.testing.assert_close(ours, plain, **exact)


def test_images_of_a_batch_do_not_mix():
    decoder = AdaINDecoder(3, 4, 1, 2, 5, 7).double()
    c, s = torch.randn(3, 8, 4, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    alone = torch.cat([decoder(one[None], style[None]) for one, style in zip(c, s, strict=True)])
    torch.testing.assert_close(decoder(c, s), alone, rtol=0, atol=1e-12)


def test_each_slice_of_the_parameters_has_one_reader_biases_before_weights():
    """The official vector: block 0 convolution 1 bias, weight, block 0 convolution 2 bias, weight, block 1..."""
    decoder, width, seen = AdaINDecoder(3, 2, 1, 2, 5, 7), 4, []
    for block in decoder.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(args[1]))
    slots = torch.arange(4.0 * width * 2)
    decoder.mlp.forward = lambda s: slots[None]
    decoder(torch.randn(1, width, 4, 4), torch.zeros(1, 5))
    assert [style.flatten().tolist() for style in seen] == slots.view(2, 4 * width).tolist()

    block, x = AdaINResBlock(width), torch.randn(1, width, 6, 6)
    first_bias, first_weight, bias, weight = (slice(k * width, (k + 1) * width) for k in range(4))
    style = torch.zeros(1, 4 * width)
    style[:, bias] = 3.0
    torch.testing.assert_close(block(x, style), x + 3)  # all weights zero: nothing but the last bias
    style[:, weight] = 2.0
    h = block(x, style) - x - 3
    assert h.abs().max() < 1e-4  # what comes in is constant while the first weights are zero
    style[:, first_weight] = 1.0
    style[:, first_bias] = -9.0
    assert (block(x, style) - x - 3).abs().max() < 1e-4  # ReLU closes
    style[:, first_bias] = 9.0
    torch.testing.assert_close(
        (block(x, style) - x).std((2, 3), correction=0), torch.full((1, width), 2.0), rtol=1e-3, atol=0
    )


def test_the_style_survives_to_the_picture():
    """Layer normalisation after the upsamplings keeps what AdaIN set, where instance normalisation would not."""
    torch.manual_seed(0)
    decoder = AdaINDecoder(3, 4, 2, 1, 5, 7)
    c = torch.randn(1, 16, 4, 4)
    one, other = decoder(c, torch.randn(1, 5)), decoder(c, torch.randn(1, 5))
    assert (one - other).abs().mean() > 1e-3


def test_a_calm_decoder_starts_as_plain_normalisation():
    torch.manual_seed(0)
    decoder = AdaINDecoder(3, 4, 1, 2, 5, 8).double()
    torch.nn.init.zeros_(decoder.mlp.last.bias)
    loud = decoder.mlp(torch.ones(1, 5).double())
    decoder.calm_(0.25)
    quiet = decoder.mlp(torch.ones(1, 5).double())
    bias_and_weight = torch.cat((torch.zeros(8), torch.ones(8))).repeat(4).double()
    torch.testing.assert_close(quiet[0] - bias_and_weight, loud[0] / 4)
    decoder.calm_(0)
    c = torch.randn(2, 8, 6, 6).double()
    h = c
    for block in decoder.blocks:
        first = instance_norm(block.conv1(reflect(h, 1))).relu()
        h = h + instance_norm(block.conv2(reflect(first, 1)))
    for up, norm in zip(decoder.ups, decoder.norms, strict=True):
        h = norm(up(h)).relu()
    torch.testing.assert_close(decoder(c, torch.randn(2, 5).double()), torch.tanh(decoder.head(reflect(h, 3))))
