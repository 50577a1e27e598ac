"""Encoder and decoder: the release's sizes, and its layers one after the other as the reference."""

import pytest
import torch

from benchmarks.released import unit as released_order
from networks.translator import ContentDecoder, ContentEncoder


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_releases():
    assert count(ContentEncoder(3)) == 5_385_856
    assert count(ContentDecoder(3)) == 5_754_627


@pytest.mark.parametrize("downsamplings", [1, 2, 3])
def test_shapes_mirror_each_other(downsamplings):
    encoder, decoder = ContentEncoder(3, 4, downsamplings, 1), ContentDecoder(3, 4, downsamplings, 1)
    x = torch.randn(2, 3, 16, 24)
    z = encoder(x)
    assert z.shape == (2, 4 * 2**downsamplings, 16 >> downsamplings, 24 >> downsamplings)
    y = decoder(z)
    assert y.shape == x.shape
    assert y.abs().max() <= 1


@pytest.mark.parametrize("n", [1, 3])
def test_encoder_and_decoder_are_the_releases_layers(n):
    torch.manual_seed(0)
    encoder, decoder = ContentEncoder(3, 4, 2, 2).double(), ContentDecoder(3, 4, 2, 2).double()
    x = torch.randn(n, 3, 12, 20, dtype=torch.float64, requires_grad=True)
    fast = decoder(encoder(x))
    plain = released_order.decode(decoder, released_order.encode(encoder, x))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-11)
    wanted = (x, *encoder.parameters(), *decoder.parameters())
    direction = torch.randn(fast.shape, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(fast, wanted, direction), torch.autograd.grad(plain, wanted, direction), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def test_images_of_a_batch_do_not_mix():
    encoder, decoder = ContentEncoder(3, 4, 2, 1).double(), ContentDecoder(3, 4, 2, 1).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    together = decoder(encoder(x))
    alone = torch.cat([decoder(encoder(one[None])) for one in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
