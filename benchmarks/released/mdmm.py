"""One iteration of multi-domain DRIT++ in the order of computation of the release: what speed is measured against.

Written from the description of that release (docs/papers/drit_multidomain.md), on the parameters of our own module, so
that both start from the same weights and, given the same noise, end at the same ones wherever a weight has a real
gradient. The generator runs on every row at once with domain and attribute appended as maps from its first block on,
both backward passes go through all rows, real and generated images are judged in passes of their own, every layer is
the textbook one, and each network has an Adam that loops over parameters. Only the gradients of the second pass are
taken before the first step, as ours.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, leaky_relu, one_hot
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
from interfaces.batch import DomainBatch
from lightning_modules.drit_multidomain import MultiDomainDRIT


def optimizers(mdmm: MultiDomainDRIT) -> dict[str, Adam]:
    """One Adam a network, one parameter after the other as in 2019.

    Raises:
        ValueError: mode seeking, which the release does not have, or no content discriminator.
    """
    if mdmm.content_discriminator is None or mdmm.lambda_ms > 0:
        raise ValueError("The release has a content discriminator and no mode seeking: set lambda_ms to 0.")
    nets: dict[str, nn.Module] = {
        "dis1": mdmm.discriminator, "dis2": mdmm.random_discriminator, "disContent": mdmm.content_discriminator,
        "enc_c": mdmm.content_encoder, "enc_a": mdmm.attribute_encoder, "gen": mdmm.generator,
    }  # fmt: skip
    return adams(nets, mdmm)


def content_step(mdmm: MultiDomainDRIT, opts: dict[str, Optimizer], batch: DomainBatch, noise: Noise) -> Tensor:
    """An iteration that trains the content discriminator alone; the encoder builds a graph that nothing uses."""
    net = mdmm.content_discriminator
    c = encode_content(mdmm, batch.image, noise)
    opts["disContent"].zero_grad()
    loss = binary_cross_entropy_with_logits(content_logits(net, c.detach()), codes(mdmm, batch))
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), mdmm.content_clip)
    opts["disContent"].step()
    return loss.detach()


def step(mdmm: MultiDomainDRIT, opts: dict[str, Optimizer], batch: DomainBatch, noise: Noise) -> list[Tensor]:
    """A full iteration; returns the losses of both passes of encoders and generator."""
    x, k = batch.image, codes(mdmm, batch)
    seen = forward(mdmm, x, k, noise)
    step_discriminator(mdmm, opts["dis1"], mdmm.discriminator, x, k, seen["encoded"])
    step_discriminator(mdmm, opts["dis2"], mdmm.random_discriminator, x, k, seen["random"])

    makers = [opts[name] for name in ("enc_c", "enc_a", "gen")]
    losses = [encoded_loss(mdmm, x, k, seen), random_loss(mdmm, k, seen)]
    gradients = []
    for j, loss in enumerate(losses):
        for opt in makers:
            opt.zero_grad()
        loss.backward(retain_graph=j == 0)
        gradients.append([[p.grad for p in opt.param_groups[0]["params"]] for opt in makers])
    for of_pass, stepping in zip(gradients, (makers, [makers[0], makers[2]]), strict=True):
        for opt, of_network in zip(makers, of_pass, strict=True):
            for p, gradient in zip(opt.param_groups[0]["params"], of_network, strict=True):
                p.grad = gradient
        for opt in stepping:
            opt.step()
    return [loss.detach() for loss in losses]


def codes(mdmm: MultiDomainDRIT, batch: DomainBatch) -> Tensor:
    """One-hot rows."""
    return one_hot(batch.domain, len(mdmm.domains)).to(batch.image.dtype)


def forward(mdmm: MultiDomainDRIT, x: Tensor, k: Tensor, noise: Noise) -> dict[str, Tensor]:
    """Everything that any loss uses; the generator takes three sets of rows for each half at once."""
    n = len(x) // 2
    content = encode_content(mdmm, x, noise)
    (mu, logvar), attribute = encode_attribute(mdmm, x, k, noise)
    z = noise(attribute[:n])
    (c_a, c_b), (a_a, a_b), (k_a, k_b) = content.chunk(2), attribute.chunk(2), k.chunk(2)
    of_a = generate(mdmm, torch.cat((c_b, c_a, c_b)), torch.cat((a_a, a_a, z)), k_a.repeat(3, 1)).chunk(3)
    of_b = generate(mdmm, torch.cat((c_a, c_b, c_a)), torch.cat((a_b, a_b, z)), k_b.repeat(3, 1)).chunk(3)
    encoded, recon, random = (torch.cat(pair) for pair in zip(of_a, of_b, strict=True))
    c_b_again, c_a_again = encode_content(mdmm, encoded, noise).chunk(2)
    a_a_again, a_b_again = encode_attribute(mdmm, encoded, k, noise)[1].chunk(2)
    cycle = generate(mdmm, c_a_again, a_a_again, k_a), generate(mdmm, c_b_again, a_b_again, k_b)
    return {
        "content": content, "mu": mu, "logvar": logvar, "z": z, "encoded": encoded, "recon": recon, "random": random,
        "cycle": torch.cat(cycle), "drawn": posterior(mdmm, random, k)[0],
    }  # fmt: skip


def step_discriminator(
    mdmm: MultiDomainDRIT, opt: Optimizer, net: nn.Module, x: Tensor, k: Tensor, fake: Tensor
) -> None:
    """One step on real and generated images, each in a pass of its own."""
    opt.zero_grad()
    fake_scores, _ = scores(net, fake.detach())
    real_scores, domains = scores(net, x)
    gan = sum(entropy(real, 1) + entropy(fake, 0) for real, fake in zip(real_scores, fake_scores, strict=True))
    (gan + mdmm.lambda_cls * binary_cross_entropy_with_logits(domains, k)).backward()
    opt.step()


def encoded_loss(mdmm: MultiDomainDRIT, x: Tensor, k: Tensor, seen: dict[str, Tensor]) -> Tensor:
    """Of the first pass."""
    judged, domains = scores(mdmm.discriminator, seen["encoded"])
    loss = mdmm.lambda_adv * sum(entropy(score, 1) for score in judged)
    loss = loss + mdmm.lambda_cls_g * binary_cross_entropy_with_logits(domains, k)
    guess = content_logits(mdmm.content_discriminator, seen["content"])
    loss = loss + mdmm.lambda_content * binary_cross_entropy_with_logits(guess, 1 - k)
    loss = loss + mdmm.lambda_recon * (seen["recon"] - x).abs().mean()
    loss = loss + mdmm.lambda_cycle * (seen["cycle"] - x).abs().mean()
    loss = loss + mdmm.lambda_content_norm * seen["content"].square().mean()
    mu, logvar = seen["mu"], seen["logvar"]
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() if mdmm.concat else mu.square().mean()
    return loss + mdmm.lambda_kl * kl


def random_loss(mdmm: MultiDomainDRIT, k: Tensor, seen: dict[str, Tensor]) -> Tensor:
    """Of the second pass."""
    judged, domains = scores(mdmm.random_discriminator, seen["random"])
    loss = mdmm.lambda_adv * sum(entropy(score, 1) for score in judged)
    loss = loss + mdmm.lambda_cls_g * binary_cross_entropy_with_logits(domains, k)
    for drawn in seen["drawn"].chunk(2):
        loss = loss + mdmm.lambda_latent * (drawn - seen["z"]).abs().mean()
    return loss


def encode_content(mdmm: MultiDomainDRIT, x: Tensor, noise: Noise) -> Tensor:
    """Image to content, with noise."""
    c = content_of(x, mdmm.content_encoder, mdmm.content_encoder.blocks)
    return c + noise(c)


def encode_attribute(mdmm: MultiDomainDRIT, x: Tensor, k: Tensor, noise: Noise) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Image to posterior and attribute."""
    mu, logvar = posterior(mdmm, x, k)
    return (mu, logvar), mu + (0.5 * logvar).exp() * noise(mu) if mdmm.concat else mu


def posterior(mdmm: MultiDomainDRIT, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the attribute; without ``concat`` the attribute, and itself again for no use."""
    encoder = mdmm.attribute_encoder
    x = append(x, k)
    if mdmm.concat:
        return posterior_of(x, encoder)
    a = attribute_of(x, encoder)
    return a, a


def generate(mdmm: MultiDomainDRIT, c: Tensor, z: Tensor, k: Tensor) -> Tensor:
    """Content, attribute and domain to image."""
    g = mdmm.generator
    if mdmm.concat:
        x = append(append(residual(c, g.first), k), z)
        return concat_image(x, z, g.trunk, g.renderer)
    return mixing_image(c, torch.cat((k, z), 1), g.first, g.renderer)


def scores(discriminator: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Image to a map of scores and a logit for each domain."""
    for conv in discriminator.layers:
        x = leaky_relu(padded_conv(x, conv, 1), 0.01)
    return discriminator.score(x), adaptive_avg_pool2d(discriminator.domain(x), 1).flatten(1)


def content_logits(discriminator: nn.Module, c: Tensor) -> Tensor:
    """Content to a logit for each domain; the release has one place, to which a mean does nothing."""
    return content_scores(discriminator, c).mean((2, 3))
