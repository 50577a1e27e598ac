"""One iteration of Fader Networks in the order of computation of the release, as ``released.unit`` has UNIT's.

Written from the description of that release (docs/papers/fader.md), on the parameters of our own module, so that both
steps start from the same weights and, given the same draws, end at the same ones. The attributes are planes that every
layer of the decoder convolves, discriminators collect gradients that nobody reads in the auto-encoder's step, the norm
of the gradients is a number on the host, and Adam is the loop over parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    batch_norm,
    binary_cross_entropy,
    conv2d,
    conv_transpose2d,
    cross_entropy,
    dropout,
    leaky_relu,
    linear,
    mse_loss,
    one_hot,
)
from torch.optim import Adam, Optimizer

from interfaces.batch import AttributeBatch
from lightning_modules.fader import Fader

Noise = Callable[[Tensor], Tensor]


def players(fader: Fader) -> dict[str, nn.Module]:
    """Networks that there are, in the order of their first steps."""
    nets = {"lat": fader.lat_dis, "ptc": fader.ptc_dis, "clf": fader.clf_dis, "ae": fader.ae}
    return {name: net for name, net in nets.items() if net is not None}


def optimizers(fader: Fader) -> list[Optimizer]:
    """Adam of each player, one parameter after the other as in 2018."""
    return [
        Adam(net.parameters(), fader.lr, fader.betas, foreach=False, fused=False) for net in players(fader).values()
    ]


def step(fader: Fader, opts: list[Optimizer], batch: AttributeBatch, noise: Noise | None = None) -> list[Tensor]:
    """The steps of each discriminator, then the auto-encoder's; returns the last loss of each player.

    Args:
        fader: drawn categories come from its ``integers``.
        opts: of ``optimizers``.
        batch: images of all steps.
        noise: not used; the paper draws none.
    """
    opt, losses = dict(zip(players(fader), opts, strict=True)), {}
    steps = ["lat"] * fader.lat_steps + ["ptc"] * fader.ptc_steps + ["clf"] * fader.clf_steps + ["ae"]
    objectives = {"lat": latent_loss, "ptc": patch_loss, "clf": classifier_loss, "ae": autoencoder_loss}
    for name, x, y in zip(steps, batch.image.chunk(len(steps)), batch.attributes.chunk(len(steps)), strict=True):
        fader.ae.train(name == "ae")
        for net in (fader.lat_dis, fader.ptc_dis, fader.clf_dis):
            if net is not None:
                net.train(name != "ae")
        for each in opt.values():
            each.zero_grad()
        loss = objectives[name](fader, x, y)
        loss.backward()
        clip_(list(players(fader)[name].parameters()), fader.clip)
        opt[name].step()
        losses[name] = loss.detach()
    fader.iterations += 1
    return list(losses.values())


def clip_(parameters: list[nn.Parameter], largest: float) -> None:
    """Scale gradients to a norm of ``largest``, parameter by parameter and on the host."""
    norm = sum(float(p.grad.norm()) ** 2 for p in parameters) ** 0.5
    if largest / (norm + 1e-6) < 1:
        for p in parameters:
            p.grad.mul_(largest / (norm + 1e-6))


def latent_loss(fader: Fader, x: Tensor, y: Tensor) -> Tensor:
    """Of the latent discriminator."""
    with torch.no_grad():
        code = encode(fader.ae, x)[-1 - fader.skips]
    return attribute_loss(fader, logits(fader.lat_dis, code), y)


def patch_loss(fader: Fader, x: Tensor, y: Tensor) -> Tensor:
    """Of the patch discriminator."""
    with torch.no_grad():
        edited = decode(fader.ae, encode(fader.ae, x), planes(fader, fader.any_category(y)))
    real, edited = probability(fader.ptc_dis, x), probability(fader.ptc_dis, edited)
    low = torch.full_like(real, fader.smooth)
    return binary_cross_entropy(real, 1 - low) + binary_cross_entropy(edited, low)


def classifier_loss(fader: Fader, x: Tensor, y: Tensor) -> Tensor:
    """Of the classifier."""
    return attribute_loss(fader, logits(fader.clf_dis, x), y)


def autoencoder_loss(fader: Fader, x: Tensor, y: Tensor) -> Tensor:
    """Of the auto-encoder."""
    maps = encode(fader.ae, x)
    loss = fader.lambda_ae * mse_loss(decode(fader.ae, maps, planes(fader, y)), x)
    t, whole = fader.iteration, fader.ramp_iterations
    ramp = min(t, whole) / whole if whole > 0 else 1.0
    if fader.lambda_lat > 0:
        read = logits(fader.lat_dis, maps[-1 - fader.skips])
        loss = loss + ramp * fader.lambda_lat * attribute_loss(fader, read, fader.other_category(y))
    if fader.lambda_ptc > 0 or fader.lambda_clf > 0:
        wanted = fader.any_category(y)
        edited = decode(fader.ae, maps, planes(fader, wanted))
    if fader.lambda_ptc > 0:
        p = probability(fader.ptc_dis, edited)
        loss = loss + ramp * fader.lambda_ptc * binary_cross_entropy(p, torch.full_like(p, 1 - fader.smooth))
    if fader.lambda_clf > 0:
        loss = loss + ramp * fader.lambda_clf * attribute_loss(fader, logits(fader.clf_dis, edited), wanted)
    return loss


def attribute_loss(fader: Fader, read: Tensor, y: Tensor) -> Tensor:
    """One cross-entropy an attribute."""
    own = read.split(list(fader.categories), 1)
    return torch.stack([cross_entropy(each, y[:, k]) for k, each in enumerate(own)]).sum()


def planes(fader: Fader, y: Tensor) -> Tensor:
    """Categories as concatenated one-hot vectors."""
    hot = [one_hot(y[:, k], n) for k, n in enumerate(fader.categories)]
    return torch.cat(hot, 1).to(fader.ae.enc_layers[0][0].weight.dtype)


def encode(ae: nn.Module, x: Tensor) -> list[Tensor]:
    """Maps of all layers."""
    maps = []
    for layer in ae.enc_layers:
        x = down(layer, x)
        maps.append(x)
    return maps


def decode(ae: nn.Module, maps: list[Tensor], y: Tensor) -> Tensor:
    """y as planes of every layer's size."""
    h, last = maps[-1], len(ae.dec_layers) - 1
    for k, layer in enumerate(ae.dec_layers):
        parts = [h, y[:, :, None, None].expand(-1, -1, *h.shape[2:])]
        parts += [maps[-1 - k]] if 1 <= k <= ae.skips else []
        h = conv_transpose2d(torch.cat(parts, 1), layer[0].weight, stride=2, padding=1)
        if k == last:
            return h.tanh()
        h = norm(layer[1], h)
        h = dropouts(layer, h).relu()
    return h


def logits(reader: nn.Module, h: Tensor) -> Tensor:
    """Of latent discriminator and classifier."""
    for layer in reader.conv_layers:
        h = down(layer, h)
    first, _, second = reader.proj_layers
    h = leaky_relu(linear(h.flatten(1), first.weight, first.bias), 0.2)
    return linear(h, second.weight, second.bias)


def probability(discriminator: nn.Module, x: Tensor) -> Tensor:
    """Mean over patches of the patch discriminator's probabilities."""
    layers = list(discriminator.layers)
    x = leaky_relu(conv2d(x, layers[0].weight, layers[0].bias, 2, 1), 0.2)
    for conv, normalise in zip(layers[2:-1:3], layers[3:-1:3], strict=True):
        x = leaky_relu(norm(normalise, conv2d(x, conv.weight, conv.bias, conv.stride, 1)), 0.2)
    return conv2d(x, layers[-1].weight, layers[-1].bias, 1, 1).sigmoid().mean((1, 2, 3))


def down(layer: nn.Sequential, x: Tensor) -> Tensor:
    """Convolution, batch normalisation where there is one, LeakyReLU, dropout where there is one."""
    x = conv2d(x, layer[0].weight, layer[0].bias, 2, 1)
    x = norm(layer[1], x) if isinstance(layer[1], nn.BatchNorm2d) else x
    return dropouts(layer, leaky_relu(x, 0.2))


def norm(layer: nn.Module, x: Tensor) -> Tensor:
    """Batch normalisation, in training with the statistics of the batch."""
    layer.get_buffer("num_batches_tracked").add_(int(layer.training))
    return batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.training, 0.1, 1e-5)


def dropouts(layer: nn.Sequential, x: Tensor) -> Tensor:
    """The layer's dropout."""
    for each in layer:
        if isinstance(each, nn.Dropout):
            x = dropout(x, each.p, each.training)
    return x
