"""One iteration of Progressive GAN in the textbook order, as ``released.unit`` has UNIT's; also what StyleGAN shares.

Nobody has released this paper for PyTorch, so that this is the plain order of its description
(docs/papers/progressive_gan.md), on the parameters of our own module: both steps start from the same weights and, given
the same draws, end at the same ones. Maps are enlarged before they are convolved, weights are scaled at every use, the
critic's images are made with a graph that nothing uses, the critic collects gradients that nobody reads in G's step,
and Adam and the running average are loops over parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, leaky_relu, linear
from torch.optim import Adam, Optimizer

from interfaces.batch import ImageBatch
from interfaces.growth import Phase
from lightning_modules.progressive_gan import ProgressiveGAN

Noise = Callable[[Tensor], Tensor]


def optimizers(gan: ProgressiveGAN) -> list[Optimizer]:
    """Adam of D and of G, one parameter after the other."""
    nets = gan.discriminator, gan.generator
    return [Adam(net.parameters(), gan.lr, gan.betas, foreach=False, fused=False) for net in nets]


def step(gan: ProgressiveGAN, opts: list[Optimizer], batch: ImageBatch, noise: Noise) -> list[Tensor]:
    """One update of D, one of G; returns their losses."""
    phase, (opt_d, opt_g) = gan.growth.at(gan.iteration), opts
    if gan.growth.grows_at(gan.iteration):
        forget(opts)
    x = faded(batch.image, phase.share)
    opt_d.zero_grad()
    loss_d = critic_loss(gan, x, phase, noise)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    fake = generate(gan.generator, noise(x.new_empty(len(x), gan.latent_spec.size)), phase)
    loss_g = -judge(gan.discriminator, fake, phase).mean()
    loss_g.backward()
    opt_g.step()
    follow_(gan.averaged, gan.generator, 0.5 ** (len(x) / gan.half_life), gan.iteration)
    return [loss_d.detach(), loss_g.detach()]


def critic_loss(gan: ProgressiveGAN, x: Tensor, phase: Phase, noise: Noise) -> Tensor:
    """Of real, of generated and of images between them."""
    fake = generate(gan.generator, noise(x.new_empty(len(x), gan.latent_spec.size)), phase).detach()
    real, generated = judge(gan.discriminator, x, phase), judge(gan.discriminator, fake, phase)
    share = torch.special.ndtr(noise(x.new_empty(len(x), 1)))[:, :, None, None]
    between = (share * x + (1 - share) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(judge(gan.discriminator, between, phase).sum(), between, create_graph=True)
    penalty = ((slopes.flatten(1).norm(2, dim=1) - gan.gamma) ** 2 / gan.gamma**2).mean()
    loss = generated.mean() - real.mean()
    return loss + gan.lambda_gp * penalty + gan.lambda_drift * real.pow(2).mean()


def generate(generator: nn.Module, z: Tensor, phase: Phase) -> Tensor:
    """Code to image."""
    z = z / (z.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    first = generator.first
    h = activated(conv_transpose2d(z[:, :, None, None], (first.weight * first.scale).transpose(0, 1), first.bias))
    h = below = activated(scaled_conv(generator.convs[0], h))
    for k in range(1, phase.level + 1):
        below = h
        h = activated(scaled_conv(generator.up[k - 1], doubled(h)))
        h = activated(scaled_conv(generator.convs[k], h))
    x = scaled_conv(generator.to_rgb[phase.level], h)
    if phase.share < 1:
        x = (1 - phase.share) * doubled(scaled_conv(generator.to_rgb[phase.level - 1], below)) + phase.share * x
    return x


def judge(discriminator: nn.Module, x: Tensor, phase: Phase) -> Tensor:
    """Image to score."""
    h = leaky_relu(scaled_conv(discriminator.from_rgb[phase.level], x), 0.2)
    for k in range(phase.level, 0, -1):
        h = leaky_relu(scaled_conv(discriminator.convs[k - 1], h), 0.2)
        h = avg_pool2d(leaky_relu(scaled_conv(discriminator.down[k - 1], h), 0.2), 2)
        if k == phase.level and phase.share < 1:
            lower = leaky_relu(scaled_conv(discriminator.from_rgb[k - 1], avg_pool2d(x, 2)), 0.2)
            h = (1 - phase.share) * lower + phase.share * h
    return verdict(discriminator.verdict, h)


def activated(h: Tensor) -> Tensor:
    """Leaky ReLU, then features of each pixel at unit size."""
    h = leaky_relu(h, 0.2)
    return h / (h.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def verdict(end: nn.Module, h: Tensor) -> Tensor:
    """Features of 4x4 to score."""
    h = leaky_relu(scaled_conv(end.last, with_deviation(h, end.group)), 0.2)
    h = leaky_relu(scaled_conv(end.dense, h), 0.2).flatten(1)
    return scaled_linear(end.score, h).flatten()


def with_deviation(h: Tensor, group: int) -> Tensor:
    """A channel more, with the mean deviation of each group."""
    n, c, height, width = h.shape
    members = group if n % group == 0 else n
    groups = h.view(members, n // members, c, height, width)
    deviation = ((groups - groups.mean(0)).pow(2).mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat((h, deviation.repeat(members).view(n, 1, 1, 1).repeat(1, 1, height, width)), 1)


def scaled_conv(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution whose weights are scaled for this use."""
    return conv2d(x, conv.weight * conv.scale, conv.bias, padding=conv.padding)


def scaled_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer whose weights are scaled for this use."""
    return linear(x, layer.weight * layer.scale, layer.bias * layer.rate)


def doubled(x: Tensor) -> Tensor:
    """Every pixel four times."""
    return interpolate(x, scale_factor=2, mode="nearest")


def faded(x: Tensor, share: float) -> Tensor:
    """Real images with a share of the details of their own resolution."""
    return x if share >= 1 else (1 - share) * doubled(avg_pool2d(x, 2)) + share * x


def forget(opts: list[Optimizer]) -> None:
    """Begin anew, where a resolution begins."""
    for opt in opts:
        opt.state.clear()


@torch.no_grad()
def follow_(average: nn.Module, module: nn.Module, decay: float, iteration: int) -> None:
    """A running average, one parameter after the other."""
    decay = min(decay, (1 + iteration) / (10 + iteration))
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.mul_(decay).add_(theirs, alpha=1 - decay)
