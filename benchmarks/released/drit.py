"""One DRIT iteration in the order of computation of the release: what speed is measured against.

Written from the description of that release (docs/papers/drit.md), on the parameters of our own module, so that both
start from the same weights and, given the same noise, end at the same ones wherever a weight has a real gradient. The
generator runs on every row at once with the attribute appended as maps from its first block on, both backward passes go
through all rows, real images are judged once for each set of fakes, every layer is the textbook one, and each network
has an Adam that loops over parameters. Only the gradients of the second pass are taken before the first step, as ours.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    avg_pool2d,
    binary_cross_entropy,
    conv2d,
    instance_norm,
    layer_norm,
    leaky_relu,
    pad,
)
from torch.optim import Adam, Optimizer

from interfaces.batch import UnpairedBatch
from lightning_modules.drit import DRIT

Noise = Callable[[Tensor], Tensor]


def optimizers(drit: DRIT) -> dict[str, Adam]:
    """One Adam a network, one parameter after the other as in 2018 (ValueError without a content discriminator)."""
    if drit.content_discriminator is None:
        raise ValueError("The release always has a content discriminator: lambda_content must not be 0.")
    nets: dict[str, nn.Module] = {
        "disA": drit.discriminators[0], "disA2": drit.random_discriminators[0],
        "disB": drit.discriminators[1], "disB2": drit.random_discriminators[1],
        "disContent": drit.content_discriminator,
        "enc_c": drit.content_encoder, "enc_a": drit.attribute_encoders, "gen": drit.generator,
    }  # fmt: skip
    return {
        name: Adam(
            net.parameters(),
            drit.lr * (drit.content_lr if name == "disContent" else 1),
            drit.betas,
            weight_decay=drit.weight_decay,
            foreach=False,
            fused=False,
        )
        for name, net in nets.items()
    }


def content_step(drit: DRIT, opts: dict[str, Optimizer], batch: UnpairedBatch, noise: Noise) -> Tensor:
    """An iteration that trains the content discriminator alone; the encoders build a graph that nothing uses."""
    n = len(batch.a) // 2
    c_a, c_b = (encode_content(drit, x[:n], k, noise) for k, x in enumerate(batch[:2]))
    return step_content(drit, opts["disContent"], c_a, c_b)


def step(drit: DRIT, opts: dict[str, Optimizer], batch: UnpairedBatch, noise: Noise) -> list[Tensor]:
    """A full iteration; returns the losses of both passes of encoders and generators."""
    n = len(batch.a) // 2
    x, reals = [x[:n] for x in batch[:2]], [x[n:] for x in batch[:2]]
    seen = forward(drit, x, noise)
    for k, domain in enumerate("AB"):
        step_discriminator(opts[f"dis{domain}"], drit.discriminators[k], x[k], [seen["encoded"][k]])
        step_discriminator(opts[f"dis{domain}2"], drit.random_discriminators[k], reals[k], seen["random"][k])
    step_content(drit, opts["disContent"], *seen["content"])

    makers = [opts[name] for name in ("enc_c", "enc_a", "gen")]
    losses = [encoded_loss(drit, x, seen), random_loss(drit, seen)]
    gradients = []
    for k, loss in enumerate(losses):
        for opt in makers:
            opt.zero_grad()
        loss.backward(retain_graph=k == 0)
        gradients.append([[p.grad for p in opt.param_groups[0]["params"]] for opt in makers])
    for of_pass, stepping in zip(gradients, (makers, [makers[0], makers[2]]), strict=True):
        for opt, of_network in zip(makers, of_pass, strict=True):
            for p, gradient in zip(opt.param_groups[0]["params"], of_network, strict=True):
                p.grad = gradient
        for opt in stepping:
            opt.step()
    return [loss.detach() for loss in losses]


def forward(drit: DRIT, x: Sequence[Tensor], noise: Noise) -> dict[str, list]:
    """Everything that any loss uses, by domain; each generator takes all its rows at once."""
    content = [encode_content(drit, x[k], k, noise) for k in (0, 1)]
    posteriors, attributes = zip(*(encode_attribute(drit, x[k], k, noise) for k in (0, 1)), strict=True)
    z = [noise(attributes[0]) for _ in range(2 if drit.lambda_ms > 0 else 1)]
    encoded, recon, randoms = [], [], []
    for k, other in ((0, 1), (1, 0)):
        contents = torch.cat((content[other], content[k], *[content[other]] * len(z)))
        images = generate(drit, contents, torch.cat((attributes[k], attributes[k], *z)), k).split(len(x[k]))
        encoded.append(images[0])
        recon.append(images[1])
        randoms.append(list(images[2:]))
    recovered = [encode_content(drit, encoded[k], k, noise) for k in (0, 1)]
    again = [encode_attribute(drit, encoded[k], k, noise)[1] for k in (0, 1)]
    cycle = [generate(drit, recovered[1 - k], again[k], k) for k in (0, 1)]
    drawn = [posterior(drit, randoms[k][0], k)[0] for k in (0, 1)]
    return {
        "content": content, "posteriors": list(posteriors), "z": z, "encoded": encoded, "recon": recon,
        "random": randoms, "cycle": cycle, "drawn": drawn,
    }  # fmt: skip


def step_discriminator(opt: Optimizer, net: nn.Module, x: Tensor, fakes: Sequence[Tensor]) -> None:
    """A backward pass for each set of fakes, each with the real images anew; one step."""
    opt.zero_grad()
    for fake in fakes:
        terms = zip(scores(net, x), scores(net, fake.detach()), strict=True)
        sum(entropy(real, 1) + entropy(fake, 0) for real, fake in terms).backward()
    opt.step()


def step_content(drit: DRIT, opt: Optimizer, c_a: Tensor, c_b: Tensor) -> Tensor:
    """One step of the content discriminator, its gradient clipped."""
    net = drit.content_discriminator
    opt.zero_grad()
    loss = entropy(content_scores(net, c_a.detach()), 0) + entropy(content_scores(net, c_b.detach()), 1)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), drit.content_clip)
    opt.step()
    return loss.detach()


def encoded_loss(drit: DRIT, x: Sequence[Tensor], seen: dict[str, list]) -> Tensor:
    """Of the first pass."""
    loss = torch.zeros((), dtype=x[0].dtype, device=x[0].device)
    for k in (0, 1):
        loss = loss + drit.lambda_adv * sum(entropy(s, 1) for s in scores(drit.discriminators[k], seen["encoded"][k]))
        guess = content_scores(drit.content_discriminator, seen["content"][k])
        loss = loss + drit.lambda_content * entropy(guess, 0.5)
        loss = loss + drit.lambda_recon * (seen["recon"][k] - x[k]).abs().mean()
        loss = loss + drit.lambda_cycle * (seen["cycle"][k] - x[k]).abs().mean()
        mu, logvar = seen["posteriors"][k]
        kl = mu.square().mean()
        if drit.concat:
            kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(mu)
        loss = loss + drit.lambda_kl * kl
        loss = loss + drit.lambda_content_norm * seen["content"][k].square().mean()
    return loss


def random_loss(drit: DRIT, seen: dict[str, list]) -> Tensor:
    """Of the second pass."""
    z = seen["z"]
    loss = torch.zeros((), dtype=z[0].dtype, device=z[0].device)
    for k in (0, 1):
        for fake in seen["random"][k]:
            loss = loss + drit.lambda_adv * sum(entropy(s, 1) for s in scores(drit.random_discriminators[k], fake))
        loss = loss + drit.lambda_latent * (seen["drawn"][k] - z[0]).abs().mean()
        if len(z) == 2:
            first, second = seen["random"][k]
            ratio = (second - first).abs().mean() / (z[1] - z[0]).abs().mean()
            loss = loss + drit.lambda_ms / (ratio + 1e-5)
    return loss


def encode_content(drit: DRIT, x: Tensor, domain: int, noise: Noise) -> Tensor:
    """Image to content, with noise."""
    trunk = drit.content_encoder.trunks[domain]
    x = leaky_relu(padded_conv(x, trunk.stem, 3), 0.01)
    for down in trunk.downs:
        x = instance_norm(padded_conv(x, down, 1)).relu()
    for block in (*trunk.blocks, drit.content_encoder.share):
        x = residual(x, block)
    return x + noise(x)


def encode_attribute(drit: DRIT, x: Tensor, domain: int, noise: Noise) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Image to posterior and attribute."""
    mu, logvar = posterior(drit, x, domain)
    return (mu, logvar), mu + (0.5 * logvar).exp() * noise(mu) if drit.concat else mu


def posterior(drit: DRIT, x: Tensor, domain: int) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the attribute; without ``concat`` the attribute, and itself again for no use."""
    encoder = drit.attribute_encoders[domain]
    if not drit.concat:
        x = padded_conv(x, encoder.stem, 3).relu()
        for down in encoder.downs:
            x = padded_conv(x, down, 1).relu()
        a = encoder.head(adaptive_avg_pool2d(x, 1)).flatten(1)
        return a, a
    x = padded_conv(x, encoder.stem, 1)
    for block in encoder.blocks:
        h = padded_conv(leaky_relu(x, 0.2), block.conv1, 1)
        h = avg_pool2d(padded_conv(leaky_relu(h, 0.2), block.conv2, 1), 2)
        x = h + block.shortcut(avg_pool2d(x, 2))
    x = adaptive_avg_pool2d(leaky_relu(x, 0.2), 1).flatten(1)
    return encoder.mu(x), encoder.logvar(x)


def generate(drit: DRIT, c: Tensor, z: Tensor, domain: int) -> Tensor:
    """Content and attribute to image."""
    g = drit.generator
    renderer = g.renderers[domain]
    if drit.concat:
        x = append(residual(c, g.share), z)
        for block in g.trunks[domain]:
            x = residual(x, block)
        for up in renderer.ups:
            x = upsampled(append(x, z), up)
        return renderer.head(append(x, z)).tanh()
    x, codes = c, renderer.mlp(z).chunk(len(renderer.blocks), 1)
    for conv, block, code in zip((g.firsts[domain], *renderer.convs), renderer.blocks, codes, strict=True):
        h = mixed(instance_norm(padded_conv(x, conv, 1)), code, block.mix1)
        x = x + mixed(instance_norm(padded_conv(h, block.conv, 1)), code, block.mix2)
    for up in renderer.ups:
        x = upsampled(x, up)
    return renderer.head(x).tanh()


def scores(discriminator: nn.Module, x: Tensor) -> list[Tensor]:
    """Image to one map of scores a scale."""
    logits = []
    for scale in discriminator.scales:
        h = x
        for conv in scale.layers:
            h = leaky_relu(padded_conv(h, conv, 1), 0.01)
        logits.append(scale.score(h))
        x = avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    return logits


def content_scores(discriminator: nn.Module, c: Tensor) -> Tensor:
    """Content to scores."""
    for conv in discriminator.layers:
        c = leaky_relu(padded_conv(c, conv, 1), 0.01)
    return discriminator.score(leaky_relu(padded_conv(c, discriminator.last, 0), 0.01))


def entropy(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of probabilities."""
    p = logits.sigmoid()
    return binary_cross_entropy(p, torch.full_like(p, target))


def append(x: Tensor, z: Tensor) -> Tensor:
    """A vector as constant maps behind the channels of x."""
    return torch.cat((x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])), 1)


def mixed(h: Tensor, z: Tensor, mixing: nn.Module) -> Tensor:
    """Two 1x1 convolutions of features and vector."""
    return mixing.narrow(mixing.wide(append(h, z)).relu()).relu()


def upsampled(x: Tensor, up: nn.Module) -> Tensor:
    """Transposed convolution, layer norm, ReLU."""
    x = up.conv(x)
    gamma, beta = (weight[:, None, None].expand(x.shape[1:]) for weight in (up.gamma, up.beta))
    return layer_norm(x, x.shape[1:], gamma, beta, 1e-5).relu()


def residual(x: Tensor, block: nn.Module) -> Tensor:
    """Two convolutions and the input."""
    h = instance_norm(padded_conv(x, block.conv1, 1)).relu()
    return x + instance_norm(padded_conv(h, block.conv2, 1))


def padded_conv(x: Tensor, conv: nn.Module, margin: int) -> Tensor:
    """Reflection padding, then the convolution."""
    x = pad(x, (margin,) * 4, mode="reflect") if margin else x
    return conv2d(x, conv.weight, conv.bias, conv.stride)
