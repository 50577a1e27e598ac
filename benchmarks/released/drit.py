"""One DRIT iteration in the order of computation of the release: what speed is measured against.

Written from the description of that release (docs/papers/drit.md), on the parameters of our own module, so that both
start from the same weights and, given the same noise, end at the same ones wherever a weight has a real gradient. The
generator runs on every row at once with the attribute appended as maps from its first block on, both backward passes go
through all rows, real images are judged once for each set of fakes, every layer is the textbook one, and each network
has an Adam that loops over parameters. Only the gradients of the second pass are taken before the first step, as ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu
from torch.optim import Adam, Optimizer

from benchmarks.released.hsinyinglee import (
    Noise,
    adams,
    append,
    attribute_of,
    concat_image,
    content_of,
    content_scores,
    entropy,
    mixing_image,
    padded_conv,
    posterior_of,
    residual,
)
from interfaces.batch import UnpairedBatch
from lightning_modules.drit import DRIT


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
    return adams(nets, drit)


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
    c = content_of(x, trunk, (*trunk.blocks, drit.content_encoder.share))
    return c + noise(c)


def encode_attribute(drit: DRIT, x: Tensor, domain: int, noise: Noise) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Image to posterior and attribute."""
    mu, logvar = posterior(drit, x, domain)
    return (mu, logvar), mu + (0.5 * logvar).exp() * noise(mu) if drit.concat else mu


def posterior(drit: DRIT, x: Tensor, domain: int) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the attribute; without ``concat`` the attribute, and itself again for no use."""
    encoder = drit.attribute_encoders[domain]
    if drit.concat:
        return posterior_of(x, encoder)
    a = attribute_of(x, encoder)
    return a, a


def generate(drit: DRIT, c: Tensor, z: Tensor, domain: int) -> Tensor:
    """Content and attribute to image."""
    g = drit.generator
    renderer = g.renderers[domain]
    if drit.concat:
        x = append(residual(c, g.share), z)
        return concat_image(x, z, g.trunks[domain], renderer)
    return mixing_image(c, z, g.firsts[domain], renderer)


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
