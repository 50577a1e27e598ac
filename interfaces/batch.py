"""The seam between data and models: what one batch holds.

Images are float32 tensors (N, C, H, W) in [-1, 1] by the time a module sees them; a DataModule may
carry uint8 up to the device and scale there (``datamodules.loaders.to_signed_unit``).
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class ImageBatch(NamedTuple):
    """Images of one domain."""

    image: Tensor  # (N, C, H, W) in [-1, 1]


class UnpairedBatch(NamedTuple):
    """Images of two domains; row i of ``a`` has nothing to do with row i of ``b``."""

    a: Tensor  # (N, C, H, W) in [-1, 1]
    b: Tensor  # (N, C, H, W) in [-1, 1]


class PairedBatch(NamedTuple):
    """The same N scenes in two domains, and each domain once more with another draw of its style.

    ``a`` and ``b`` come first, so that whatever takes an ``UnpairedBatch`` by field name takes this
    too. The second draws give the ceiling of a translation: nobody can guess a style that is drawn.
    """

    a: Tensor  # (N, C, H, W) in [-1, 1]
    b: Tensor  # (N, C, H, W) in [-1, 1]
    a_again: Tensor  # scene of ``a``, domain of ``a``, other style draw
    b_again: Tensor  # scene of ``b``, domain of ``b``, other style draw


class DomainBatch(NamedTuple):
    """Images of any of D domains, in any order."""

    image: Tensor  # (N, C, H, W) in [-1, 1]
    domain: Tensor  # (N,) int64, the place of each image's domain among the names of the data


class LabelledBatch(NamedTuple):
    """Images of any of D domains of which some are labelled: source and target of a domain adaptation."""

    image: Tensor  # (N, C, H, W) in [-1, 1]
    domain: Tensor  # (N,) int64
    label: Tensor  # (N,) int64 class, -1 where training must not know it


class AttributeBatch(NamedTuple):
    """Images with attributes, such as CelebA's."""

    image: Tensor  # (N, C, H, W) in [-1, 1]
    attributes: Tensor  # (N, K) int64 category of each attribute: 0 or 1 where an image has it or has it not


class FactorBatch(NamedTuple):
    """Images with the factors that made them, such as dSprites'."""

    image: Tensor  # (N, C, H, W) in [-1, 1]
    factors: Tensor  # (N, K) int64, value k of 0 .. size - 1 of each factor


class EachDomainBatch(NamedTuple):
    """One image of every domain a row, which have nothing to do with each other: evaluation of D domains."""

    images: Tensor  # (N, D, C, H, W) in [-1, 1]


class AlignedBatch(NamedTuple):
    """The same N scenes in every domain, and once more with another draw of each domain's style."""

    images: Tensor  # (N, D, C, H, W) in [-1, 1]
    again: Tensor  # (N, D, C, H, W) in [-1, 1], as ``PairedBatch.a_again``


class CodeBatch(NamedTuple):
    """Maps of codes, such as VQ-VAE-2's, for a prior of one level."""

    codes: Tensor  # (N, H, W) int64 in [0, K)
    condition: Tensor | None = None  # (N, H / 2, W / 2) int64 in [0, K), of the level above; None for the top


def sides(batch: Any) -> tuple[Tensor, ...]:
    """The images of each domain of an evaluation batch, (N, C, H, W) each; () of any other batch."""
    if isinstance(batch, UnpairedBatch | PairedBatch):
        return batch.a, batch.b
    return batch.images.unbind(1) if isinstance(batch, EachDomainBatch | AlignedBatch) else ()


def second_draws(batch: Any) -> tuple[Tensor, ...]:
    """The scenes of ``sides`` under another draw of their style; () where the sides are not the same scenes."""
    if isinstance(batch, PairedBatch):
        return batch.a_again, batch.b_again
    return batch.again.unbind(1) if isinstance(batch, AlignedBatch) else ()


@runtime_checkable
class DomainData(Protocol):
    """What callbacks may ask of a DataModule of two domains or more."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of ``sides`` and of the numbers in ``DomainBatch.domain``."""
        ...

    @property
    def true_pairs(self) -> bool:
        """Whether validation batches have ``second_draws``, so that sides are the same scenes."""
        ...


@runtime_checkable
class AttributeData(Protocol):
    """What callbacks may ask of a DataModule of images with attributes."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, in the order of the columns of ``AttributeBatch.attributes``."""
        ...


@runtime_checkable
class FactorData(Protocol):
    """What callbacks may ask of a DataModule of images with known factors."""

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the factors, in the order of the columns of ``FactorBatch.factors``."""
        ...

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        ...

    def images(self, factors: Any) -> Any:
        """(N, C, H, W) uint8 array, an image of each row of an (N, K) array of factors."""
        ...


@runtime_checkable
class LabelledData(FactorData, Protocol):
    """``FactorData`` whose training images can be had in order, which some of it has not."""

    def labelled_dataloader(self) -> Any:
        """Batches of this process's share of the training images, in bytes: rank r has every world-th from r on, once.

        Raises:
            ValueError: the data are drawn from a grid, which has no list of training images.
        """
        ...


@runtime_checkable
class CodeData(Protocol):
    """A DataModule of the maps of one level, which knows what made them."""

    @property
    def codes(self) -> int:
        """Entries of each codebook."""
        ...

    @property
    def level(self) -> int:
        """Whose maps they are, the top being 0."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the maps of each level."""
        ...

    def maker(self) -> Path:
        """The checkpoint that made them (OSError, ValueError where it is there no more)."""
        ...


@runtime_checkable
class NamesImages(Protocol):
    """A DataModule that can say which images a training batch held."""

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """One name per row for each field of the batch of ``rank`` in 0-based ``iteration``; all from numbers."""
        ...


@runtime_checkable
class KnowsEdits(AttributeData, Protocol):
    """A DataModule that has the truth of an edit: the same image with an attribute that it has not, or without."""

    def edited(self, stage: str, attribute: int) -> Any:
        """(N, 3, H, W) uint8 array, the images of ``validate`` or ``test`` in order with one attribute swapped."""
        ...


class SceneFacts(NamedTuple):
    """What is known of the evaluation scenes of two or more domains, in the order of their numbers."""

    content: Tensor  # (N, F) float32, factors that all renders of a scene share, in units of their ranges: 0 to 1
    content_names: tuple[str, ...]
    styles: tuple[Tensor, ...]  # (N, S) float32 of each domain, 0 to 1: style factors; S differs by domain
    style_names: tuple[tuple[str, ...], ...]  # of the factors of each domain
    semantic: Tensor  # (N, H, W) uint8, class of each pixel, the same in all domains


@runtime_checkable
class KnowsScenes(Protocol):
    """A DataModule of two or more domains whose scenes are drawn by formula."""

    def scene_facts(self, stage: str) -> SceneFacts:
        """Of the images that ``validate`` or ``test`` serves."""
        ...
