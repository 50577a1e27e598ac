"""The seam between data and models: what one batch holds.

Images are float32 tensors (N, C, H, W) in [-1, 1] by the time a module sees them; a DataModule may
carry uint8 up to the device and scale there (``datamodules.loaders.to_signed_unit``).
"""

from typing import NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class TwoDomainData(Protocol):
    """What callbacks may ask of a two-domain DataModule."""

    @property
    def domains(self) -> tuple[str, str]:
        """Names of domains a and b."""
        ...

    @property
    def true_pairs(self) -> bool:
        """Whether validation batches are ``PairedBatch``."""
        ...


@runtime_checkable
class NamesImages(Protocol):
    """A DataModule that can say which images a training batch held."""

    def image_names(self, iteration: int, rank: int) -> dict[str, list[str]]:
        """One name per row for each field of the batch of ``rank`` in 0-based ``iteration``; all from numbers."""
        ...


class SceneFacts(NamedTuple):
    """What is known of the evaluation scenes of two-domain data, in the order of their numbers."""

    content: Tensor  # (N, F) float32, factors that all renders of a scene share, in units of their ranges: 0 to 1
    content_names: tuple[str, ...]
    styles: tuple[Tensor, Tensor]  # (N, S) float32, 0 to 1: style factors of images a and b; S differs by domain
    style_names: tuple[tuple[str, ...], tuple[str, ...]]  # of the factors of images a and b
    semantic: Tensor  # (N, H, W) uint8, class of each pixel, the same in both domains


@runtime_checkable
class KnowsScenes(Protocol):
    """A two-domain DataModule whose scenes are drawn by formula."""

    def scene_facts(self, stage: str) -> SceneFacts:
        """Of the images that ``validate`` or ``test`` serves."""
        ...
