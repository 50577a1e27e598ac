"""The seam between models and callbacks: capabilities, checked by structure.

No paper inherits from these. A callback asks ``isinstance(pl_module, Translator)`` in its ``setup``
and fails there, naming the missing member (``require``); shapes and ranges are held by the contract
tests. A model returns what it would ship: averaged weights where it keeps some, posterior means.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor


def seed_of(seed: int, number: int) -> int:
    """A seed for one of many draws, such as that of an image of this number; of seed 0 it is the number.

    Of a seed PyTorch's generator on the CPU takes the lower 32 bits, so that ``seed << 32`` would say nothing.
    """
    return (number + seed * 2_654_435_761) % 2**32


@dataclass(frozen=True)
class LatentSpec:
    """A flat code that can be drawn, traversed and interpolated.

    Args:
        size: number of coordinates.
        prior: ``normal`` is N(0, I); ``uniform`` is U(-1, 1); ``mapped`` is what ``mapping`` makes of N(0, I), a
            distribution without a formula, in whose space straight lines are the natural paths.
        span: half-width of a traversal, in prior standard deviations; of ``mapped`` in units of the code.
        names: one name per coordinate, or empty.
        mapping: (N, size) normal draws on the CPU to codes on the CPU, for ``mapped`` alone.

    Raises:
        ValueError: there is a mapping for another prior, or none for ``mapped``.
    """

    size: int
    prior: Literal["normal", "uniform", "mapped"] = "normal"
    span: float = 3.0
    names: tuple[str, ...] = ()
    mapping: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.prior == "mapped") != (self.mapping is not None):
            raise ValueError(f"LatentSpec has prior {self.prior} and mapping {self.mapping}: only 'mapped' has one.")

    def draw(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` codes on the CPU, so that one seed gives the same codes on any device.

        Returns:
            (n, size) float32.
        """
        if self.prior == "normal":
            return torch.randn(n, self.size, generator=rng)
        if self.mapping is not None:
            return self.mapping(torch.randn(n, self.size, generator=rng))
        return torch.rand(n, self.size, generator=rng) * 2 - 1


@runtime_checkable
class Translator(Protocol):
    """Takes an image of one domain into another."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of the indices below."""
        ...

    @property
    def style_spec(self) -> LatentSpec | None:
        """The style code that ``translate`` takes; None where translation is deterministic."""
        ...

    def translate(self, x: Tensor, source: int, target: int, style: Tensor | None = None) -> Tensor:
        """(N, C, H, W) in [-1, 1] of domain ``source`` to the same shape in domain ``target``."""
        ...


@runtime_checkable
class Sized(Protocol):
    """Says which images its ``translate`` and ``style_of`` take, so that others can be padded or cut into tiles."""

    @property
    def size_multiple(self) -> int:
        """Heights and widths are multiples of this."""
        ...

    @property
    def smallest_size(self) -> int:
        """Heights and widths are at least this, which need not be such a multiple itself."""
        ...


@runtime_checkable
class ContentCoder(Protocol):
    """Has a code of what a translation should keep, from which probes try to read what it should not hold."""

    def content_of(self, x: Tensor, source: int) -> Tensor:
        """(N, C, H, W) in [-1, 1] of domain ``source`` to its code, (N, D) or (N, C, h, w)."""
        ...


@runtime_checkable
class Stylist(Translator, Protocol):
    """A ``Translator`` whose ``style_spec`` is not None and that can read the style of an image."""

    def style_of(self, x: Tensor, domain: int) -> Tensor:
        """(N, C, H, W) in [-1, 1] of ``domain`` to the (N, size) that ``translate`` takes towards it."""
        ...


@runtime_checkable
class Blender(Translator, Protocol):
    """A ``Translator`` whose target is a real vector, so that it also makes what lies between and beyond domains."""

    def blend(self, x: Tensor, source: int, mixture: Tensor, style: Tensor | None = None) -> Tensor:
        """As ``translate``, to a (N, D) ``mixture`` of the domains, one row an image.

        A one-hot row is that domain and gives what ``translate`` gives; rows need not be positive or sum to 1.
        """
        ...


@runtime_checkable
class AttributeEditor(Protocol):
    """Makes an image have an attribute, or more or less of it."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, in the order of the sliders below."""
        ...

    def edit(self, x: Tensor, sliders: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to the same shape with the attributes of (N, K) real sliders: 0 without, 1 with."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """Says of which class an image of any domain is."""

    def classify(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to (N, classes) logits."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Makes an image of a code."""

    @property
    def latent_spec(self) -> LatentSpec:
        """The code that ``decode`` takes."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """(N, size) to (N, C, H, W) in [-1, 1]."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Makes images of nothing but chance."""

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """``n`` new images, (n, C, H, W) in [-1, 1], for which ``rng``, a generator on the CPU, draws the codes."""
        ...


@runtime_checkable
class StyledGenerator(Generator, Protocol):
    """A ``Generator`` that maps a normal code z to w, of which every layer takes its style."""

    @property
    def latent(self) -> int:
        """Coordinates of z, and of w."""
        ...

    @property
    def layers(self) -> int:
        """How many layers take a style, from the lowest resolution on."""
        ...

    @property
    def w_mean(self) -> Tensor:
        """(latent,) mean of w."""
        ...

    def map(self, z: Tensor) -> Tensor:
        """(N, latent) normal draws to w, (N, latent)."""
        ...

    def synthesize(self, w: Tensor) -> Tensor:
        """One w for all layers, (N, latent), or one for each, (N, layers, latent), to (N, C, H, W) in [-1, 1].

        What is left to chance beside w is the same at every call.
        """
        ...


@runtime_checkable
class Encoder(Protocol):
    """Finds the code of an image.

    Where it also has ``kl_per_dim() -> (size,) | None``, in nats and without asking other processes,
    callbacks show it; and where it has ``kl_target() -> float | None``, the nats at which its objective
    holds the KL of all coordinates at the moment.
    """

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to (N, size), the mean of the posterior."""
        ...


@runtime_checkable
class FeatureEncoder(Encoder, Protocol):
    """An ``Encoder`` that also shows what it makes its code of."""

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [-1, 1] to the activations of the last hidden layer, (N, F), and to what ``encode`` gives."""
        ...


@runtime_checkable
class Quantiser(Protocol):
    """Makes maps of numbers of an image, one a level, the coarsest first, and an image of such maps.

    A number is that of an entry of the level's codebook.
    """

    @property
    def codes(self) -> int:
        """Entries of each codebook."""
        ...

    def indices_of(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) in [-1, 1] to (N, h, w) int64 of each level, in [0, codes)."""
        ...

    def image_of(self, indices: list[Tensor], levels: tuple[int, ...] | None = None) -> Tensor:
        """Maps of all levels to (N, C, H, W) in [-1, 1]: what all of them say, or what some levels say alone."""
        ...


@runtime_checkable
class CodePrior(Protocol):
    """Knows the probability of every code of a map given those before it, and the map of the level above."""

    def nll_of_codes(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, H, W) int64 and the map of the level above, where there is one, to (N, H, W) in nats."""
        ...


@runtime_checkable
class CodeSampler(CodePrior, Protocol):
    """A ``CodePrior`` of which maps can be drawn."""

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        given: Tensor | None = None,
        temperature: float = 1.0,
        rng: torch.Generator | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """(n, H, W) int64, which begin with the rows ``given``; ``progress`` hears of each finished row."""
        ...


@runtime_checkable
class Variational(Encoder, Protocol):
    """An ``Encoder`` that gives a distribution of codes: normal, of independent coordinates, with the prior N(0, I)."""

    @property
    def latent_spec(self) -> LatentSpec:
        """The code, whose prior is ``normal``."""
        ...

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [-1, 1] to means and logarithms of the variances of q(z|x), (N, size) each."""
        ...

    def nll_of_each(self, z: Tensor, x: Tensor) -> Tensor:
        """- log p(x|z) of each of N images in [-1, 1] for its code, (N,) nats summed over pixels."""
        ...


def check_names(model: object, data: object) -> None:
    """Fail where model and data call their domains, or their attributes, by other names or have not as many.

    Raises:
        ValueError: both have them and they differ.
    """
    for what in ("domains", "attributes"):
        ours, theirs = (getattr(each, what, None) for each in (model, data))
        if ours is not None and theirs is not None and tuple(ours) != tuple(theirs):
            raise ValueError(
                f"model.{what} is {list(ours)} ({len(ours)}), but data.{what} is {list(theirs)} ({len(theirs)}): "
                "give both the same names in the same order."
            )


def require(model: object, protocol: type[Any], asker: object) -> None:
    """Fail with the names of the members that ``model`` lacks for ``asker`` to work.

    Raises:
        TypeError: ``model`` does not have the members of ``protocol``.
    """
    missing = [name for name in dir(protocol) if not name.startswith("_") and not hasattr(model, name)]
    if missing:
        article = "an" if protocol.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{type(asker).__name__} needs {article} {protocol.__name__}, but {type(model).__name__} has no "
            f"{', '.join(missing)}: remove the callback from this experiment or add what is missing."
        )
