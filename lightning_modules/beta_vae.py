"""VAE (Kingma and Welling 2014), beta-VAE (Higgins et al., ICLR 2017) and Burgess et al. 2018, one objective:

    L = E_q(z|x) [- log p(x|z)] + beta KL(q(z|x) || N(0, I))                  (Higgins et al., Eq. 4, to be descended)
    L = E_q(z|x) [- log p(x|z)] + gamma |KL(q(z|x) || N(0, I)) - C(t)|        (Burgess et al., Eq. 8)

q(z|x) is N(mu, diag(exp(logvar))), of which one z is drawn. Pixels are in [0, 1] here, sums go over pixels and
coordinates, means over images: a mean over pixels would be another beta. beta = 1 is the VAE. C grows from 0 to
``c_max`` in ``c_steps`` iterations, and with ``gamma`` > 0 takes the place of beta. p is a Bernoulli distribution of
each pixel or, with ``gaussian``, a normal one whose mean and variance the decoder gives (the lecture's text).

Defaults are those of Locatello et al. 2019 (``disentanglement_lib``). disvae (Dubois et al.) lets beta KL grow over the
first iterations, ``anneal``, and has the networks of Burgess et al.: ``convs: [32, 32, 32, 32]``, ``kernels: [4, 4, 4,
4]``, ``hidden`` and ``dec_hidden`` ``[256, 256]``, ``glorot: false``. Higgins et al. on dSprites: ``convs: []``,
``kernels: []``, ``hidden: [1200, 1200]``, ``dec_hidden: [1200, 1200, 1200]``, ``tanh: true``. The lecture:
``image_shape: [1, 28, 28]``, ``latent: 20``, ``convs: []``, ``kernels: []``, ``hidden`` and ``dec_hidden`` ``[400]``,
``beta: 1``.

FactorVAE, beta-TCVAE and DIP-VAE change one term of it: what stands beside the likelihood, ``prior_loss``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from interfaces.batch import ImageBatch
from interfaces.model import LatentSpec
from lightning_modules.base import ManualModule, Terms
from losses.divergence import kl_normal_of_each
from losses.reconstruction import bernoulli_nll, gaussian_nll
from networks.init import glorot_, he_uniform_
from networks.precision import wide
from networks.vae import Decoder, Encoder


class BetaVAE(ManualModule):
    """One code of independent coordinates, if all goes well.

    Args:
        image_shape: (C, H, W) of the images; with n convolutions H and W are 4 2^n.
        latent: coordinates of the code.
        convs: channels after each convolution of the encoder; the decoder mirrors them.
        kernels: of the encoder's convolutions.
        hidden: units of the encoder's linear layers.
        dec_hidden: units of the decoder's, from the code on.
        tanh: in the decoder's linear layers, not ReLU.
        glorot: initial weights by Glorot, biases zero; False: He's uniform weights.
        gaussian: pixels are normal with mean and variance by the decoder, not Bernoulli.
        beta: weight of the KL.
        anneal: iterations in which that weight grows from 0; 0 starts with it.
        gamma: weight of the distance between KL and capacity C; 0 has none, and above it beta is not used.
        c_max: C in the end, in nats.
        c_steps: iterations until then.
        lr: of Adam.
        betas: of Adam.

    Raises:
        ValueError: an image size that the convolutions cannot halve down to 4, or a size below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 64, 64),
        latent: int = 10,
        convs: tuple[int, ...] = (32, 32, 64, 64),
        kernels: tuple[int, ...] = (4, 4, 2, 2),
        hidden: tuple[int, ...] = (256,),
        dec_hidden: tuple[int, ...] = (256,),
        tanh: bool = False,
        glorot: bool = True,
        gaussian: bool = False,
        beta: float = 4.0,
        anneal: int = 0,
        gamma: float = 0.0,
        c_max: float = 25.0,
        c_steps: int = 100_000,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_shape, self.latent_spec = tuple(image_shape), LatentSpec(latent)
        self.gaussian, self.beta, self.anneal = gaussian, beta, anneal
        self.gamma, self.c_max, self.c_steps = gamma, c_max, c_steps
        self.lr, self.betas = lr, tuple(betas)
        self.check_arguments(len(convs), len(kernels), hidden, dec_hidden)

        channels, *size = image_shape
        self.encoder = Encoder(image_shape, latent, convs, kernels, hidden)
        self.decoder = Decoder(latent, ((1 + gaussian) * channels, *size), convs, dec_hidden, tanh)
        (glorot_ if glorot else he_uniform_)(self)
        self.kl_of_batch: Tensor | None = None  # (latent,) nats

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One step."""
        opt = self.optimizers()
        loss, terms = self.loss(self.pixels(batch.image))
        self.descend(opt, loss)
        self.log_terms("vae", terms)
        self.end_iteration()

    def loss(self, x: Tensor) -> tuple[Tensor, Terms]:
        """The objective for (N, C, H, W) in [0, 1], and its terms before their weights."""
        mu, logvar = self.encoder(x)
        z = self.draw(mu, logvar)
        recon = self.nll(self.decoder(z), x)
        with torch.autocast(x.device.type, enabled=False):  # of 16 bits a KL of 20 nats has steps of an eighth
            prior, terms = self.prior_loss(wide(z), wide(mu), wide(logvar))
        return recon + prior, {"recon": recon} | terms

    def prior_loss(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Terms]:
        """What stands beside the likelihood, and its terms."""
        kl = self.kl(mu, logvar)
        if self.gamma > 0:
            return self.gamma * (kl - self.capacity()).abs(), {"kl": kl}
        return self.ramp() * self.beta * kl, {"kl": kl}

    def kl(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """KL(q(z|x) || N(0, I)) in nats, mean over images; that of each coordinate is kept for ``kl_per_dim``."""
        kl = kl_normal_of_each(mu, logvar)
        self.kl_of_batch = kl.detach()
        return kl.sum()

    def capacity(self) -> float:
        """C(t) in nats: min(c_max, c_max t / c_steps) in iteration t = 1, 2, ..."""
        return min(self.c_max, self.c_max * (self.iteration + 1) / self.c_steps)

    def kl_target(self) -> float | None:
        """C(t) in nats; None where beta weighs the KL."""
        return self.capacity() if self.gamma > 0 else None

    def ramp(self) -> float:
        """min(1, t / anneal) in iteration t = 1, 2, ...; 1 without a ramp."""
        return min(1.0, (self.iteration + 1) / self.anneal) if self.anneal > 0 else 1.0

    def draw(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """z ~ q(z|x)."""
        return mu + (logvar / 2).exp() * self.noise_like(mu)

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """- log p(x|z) in nats for what the decoder gives, summed over pixels, mean over images."""
        if not self.gaussian:
            return bernoulli_nll(out, x)
        mean, logvar = out.chunk(2, 1)
        return gaussian_nll(mean, logvar, x)

    @staticmethod
    def pixels(image: Tensor) -> Tensor:
        """[-1, 1] to [0, 1]."""
        return (image + 1) / 2

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to mu, (N, latent) (Encoder protocol)."""
        mu, _ = self.posterior(x)
        return mu

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [-1, 1] to mu and logvar, (N, latent) each (Variational protocol)."""
        return self.encoder(self.pixels(x))

    def nll_of_each(self, z: Tensor, x: Tensor) -> Tensor:
        """``nll`` of each image (N, C, H, W) in [-1, 1] for its code, (N,) (Variational protocol)."""
        return torch.vmap(lambda out, x: self.nll(out[None], x[None]))(self.decoder(z), self.pixels(x))

    def decode(self, z: Tensor) -> Tensor:
        """(N, latent) to the mean of p(x|z), (N, C, H, W) in [-1, 1] (Decoder protocol)."""
        out = self.decoder(z)
        p = out.chunk(2, 1)[0].clamp(0, 1) if self.gaussian else out.sigmoid()
        return 2 * p - 1

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw (n, C, H, W) in [-1, 1], means of p(x|z) of codes of the prior (Generator protocol)."""
        return self.decode(self.latent_spec.draw(n, rng).to(self.device))

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder's last hidden layer says of images, (N, hidden), and mu (FeatureEncoder protocol)."""
        h = self.encoder.features(self.pixels(x))
        return h, self.encoder.mu(h)

    def edit(self, x: Tensor, changes: Mapping[int, float]) -> Tensor:
        """Encode, put other numbers into some coordinates, decode: (N, C, H, W) in [-1, 1] to the same."""
        z = self.encode(x).clone()
        for coordinate, value in changes.items():
            z[:, coordinate] = value
        return self.decode(z)

    def kl_per_dim(self) -> Tensor | None:
        """(latent,) nats of the last batch of this process, None before the first."""
        return self.kl_of_batch

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstruct."""
        return self.decode(self.encode(batch.image))

    def check_arguments(self, convs: int, kernels: int, *hidden: tuple[int, ...]) -> None:
        """Refuse what cannot be built (ValueError says what to change)."""
        if convs != kernels:
            raise ValueError(
                f"{type(self).__name__} has {convs} convs but {kernels} kernels: give one kernel for each."
            )
        if convs > 0 and tuple(self.image_shape[1:]) != (4 * 2**convs,) * 2:
            raise ValueError(
                f"{type(self).__name__} with {convs} convs takes images of {4 * 2**convs} x {4 * 2**convs}, not "
                f"{self.image_shape[1]} x {self.image_shape[2]}: change model.image_shape, or model.convs and kernels."
            )
        if not all(hidden):
            raise ValueError(f"{type(self).__name__} needs one layer or more in model.hidden and model.dec_hidden.")

    def configure_optimizers(self):
        """Adam at a constant rate."""
        return Adam([*self.encoder.parameters(), *self.decoder.parameters()], self.lr, self.betas, fused=True)


def drop_labels(others: dict[str, Any]) -> None:
    """Leave arguments of ``BetaVAE`` only: a checkpoint's are labelled too, with ``_class_path`` for example."""
    for name in [name for name in others if name.startswith("_")]:
        del others[name]
