"""One MUNIT iteration in the order of computation of the 2018 release, as ``released.unit`` has UNIT's.

Written from the description of that release (docs/papers/munit.md), on the parameters of our own module, so that
both steps start from the same weights and, given the same draws, end at the same ones. Every forward pass that the
release repeats is repeated, every layer is the textbook one, and Adam is the loop over parameters.
"""

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, interpolate, linear
from torch.optim import Adam, Optimizer

from benchmarks.released.unit import Noise, distance, encode, layer_norm, padded_conv, scores
from interfaces.batch import UnpairedBatch
from lightning_modules.munit import MUNIT


def optimizers(munit: MUNIT) -> tuple[Adam, Adam]:
    """Adam for D and for E and G, one parameter after the other as in 2018."""
    generators = [net for nets in zip(*munit.generators(), strict=True) for net in nets]  # all of a, then all of b
    return tuple(
        Adam(
            [p for net in nets for p in net.parameters()],
            munit.lr,
            munit.betas,
            weight_decay=munit.weight_decay,
            foreach=False,
            fused=False,
        )
        for nets in (munit.discriminators, generators)
    )  # type: ignore[return-value]


def step(munit: MUNIT, opt_d: Optimizer, opt_g: Optimizer, batch: UnpairedBatch, noise: Noise) -> tuple[Tensor, Tensor]:
    """One update of D, one of E and G; returns their losses."""
    opt_d.zero_grad()
    loss_d = discriminator_loss(munit, batch.a, batch.b, noise)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = generator_loss(munit, batch.a, batch.b, noise)
    loss_g.backward()
    opt_g.step()
    return loss_d.detach(), loss_g.detach()


def styles(munit: MUNIT, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """s_a and s_b of the prior, (N, size), one for each image."""
    empty = x.new_empty(len(x), munit.style_spec.size, 1, 1)
    return noise(empty).flatten(1), noise(empty).flatten(1)


def discriminator_loss(munit: MUNIT, x_a: Tensor, x_b: Tensor, noise: Noise) -> Tensor:
    """The images are encoded, with styles that nothing uses, and decoded with a graph that nothing uses."""
    s_a, s_b = styles(munit, x_a, noise)
    (_, c_a), (_, c_b) = both_codes(munit, 0, x_a), both_codes(munit, 1, x_b)
    x_ba, x_ab = decode(munit.decoders[0], c_b, s_a), decode(munit.decoders[1], c_a, s_b)
    d_a, d_b = munit.discriminators
    loss_a = distance(scores(d_a, x_ba.detach()), 0) + distance(scores(d_a, x_a), 1)
    loss_b = distance(scores(d_b, x_ab.detach()), 0) + distance(scores(d_b, x_b), 1)
    return munit.lambda_gan * loss_a + munit.lambda_gan * loss_b


def generator_loss(munit: MUNIT, x_a: Tensor, x_b: Tensor, noise: Noise) -> Tensor:
    """The images are encoded again, each code is decoded alone, and D's weights collect gradients."""
    (g_a, g_b), (d_a, d_b) = munit.decoders, munit.discriminators
    s_a, s_b = styles(munit, x_a, noise)
    (own_a, c_a), (own_b, c_b) = both_codes(munit, 0, x_a), both_codes(munit, 1, x_b)
    x_aa, x_bb = decode(g_a, c_a, own_a), decode(g_b, c_b, own_b)
    x_ba, x_ab = decode(g_a, c_b, s_a), decode(g_b, c_a, s_b)
    (s_ba, c_bab), (s_ab, c_aba) = both_codes(munit, 0, x_ba), both_codes(munit, 1, x_ab)
    adversarial = distance(scores(d_a, x_ba), 1) + distance(scores(d_b, x_ab), 1)
    loss = (
        munit.lambda_gan * adversarial
        + munit.lambda_recon * ((x_aa - x_a).abs().mean() + (x_bb - x_b).abs().mean())
        + munit.lambda_style * ((s_ba - s_a).abs().mean() + (s_ab - s_b).abs().mean())
        + munit.lambda_content * ((c_aba - c_a).abs().mean() + (c_bab - c_b).abs().mean())
    )
    if munit.lambda_cycle > 0:
        x_aba, x_bab = decode(g_a, c_aba, own_a), decode(g_b, c_bab, own_b)
        loss = loss + munit.lambda_cycle * ((x_aba - x_a).abs().mean() + (x_bab - x_b).abs().mean())
    return loss


def both_codes(munit: MUNIT, domain: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Image to style and content: the release always computes both."""
    return encode_style(munit.style_encoders[domain], x), encode(munit.content_encoders[domain], x)


def encode_style(encoder: nn.Module, x: Tensor) -> Tensor:
    """Image to style."""
    x = padded_conv(x, encoder.stem, 3).relu()
    for down in encoder.downs:
        x = padded_conv(x, down, 1).relu()
    return conv2d(adaptive_avg_pool2d(x, 1), encoder.head.weight, encoder.head.bias).flatten(1)


def decode(decoder: nn.Module, c: Tensor, s: Tensor) -> Tensor:
    """Content and style to image."""
    for layer in (decoder.mlp.first, decoder.mlp.second):
        s = linear(s, layer.weight, layer.bias).relu()
    parameters = linear(s, decoder.mlp.last.weight, decoder.mlp.last.bias)
    start = 0
    for block in decoder.blocks:
        h = c
        for conv in (block.conv1, block.conv2):
            end = start + 2 * c.shape[1]
            h = adaptive(padded_conv(h, conv, 1), parameters[:, start:end])
            h = h.relu() if conv is block.conv1 else h
            start = end
        c = c + h
    for up, norm in zip(decoder.ups, decoder.norms, strict=True):
        c = layer_norm(padded_conv(interpolate(c, scale_factor=2, mode="nearest"), up, 2), norm).relu()
    return padded_conv(c, decoder.head, 3).tanh()


def adaptive(x: Tensor, parameters: Tensor) -> Tensor:
    """AdaIN as batch normalisation of one image that has the channels of all: biases first, then weights."""
    n, c = x.shape[:2]
    bias, weight = parameters[:, :c].reshape(-1), parameters[:, c:].reshape(-1)
    y = batch_norm(x.reshape(1, n * c, *x.shape[2:]), None, None, weight, bias, training=True, eps=1e-5)
    return y.view(x.shape)
