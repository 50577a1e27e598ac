"""When a model that grows shows which resolution: a pure function of the iteration, which model and data both ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


class Phase(NamedTuple):
    """What an iteration trains."""

    level: int  # number of the resolution, 0 the lowest
    resolution: int  # height and width of its images
    batch: int  # images an iteration and process
    share: float  # how far the level has faded in: from 0 up to 1, which it is outside fades
    images: int  # seen before this iteration, by all processes


class Stage(NamedTuple):
    """What a resolution takes."""

    resolution: int  # height and width of its images
    batch: int  # images an iteration and process
    begin: int  # iterations before it
    fade: int  # iterations in which it fades in
    stable: int  # iterations after that; of the last resolution those until ``Growth.iterations``
    images: int  # seen before it, by all processes


@dataclass(frozen=True)
class Growth:
    """Resolutions one after the other, each faded in over some images and then kept for some (ProGAN, appendix A).

    The last resolution stays for good. Phases end with whole iterations: where ``fade`` is no multiple of the images
    of an iteration, the last one of a fade is its first beyond it.

    Args:
        resolutions: each twice the one before.
        batches: images an iteration and process at each of them; the last number counts for all that follow.
        first: images at the first resolution, which does not fade in.
        fade: images over which each of the others fades in; 0 for none.
        stable: images after that, before the next begins to fade in.

    Raises:
        ValueError: no or other resolutions, no batches or empty ones, or negative numbers of images.
    """

    resolutions: tuple[int, ...]
    batches: tuple[int, ...] = (16,)
    first: int = 800_000
    fade: int = 800_000
    stable: int = 800_000

    def __post_init__(self) -> None:
        pairs = zip(self.resolutions, self.resolutions[1:], strict=False)
        if not self.resolutions or self.resolutions[0] < 1 or any(b != 2 * a for a, b in pairs):
            raise ValueError(f"resolutions are {list(self.resolutions)}: give such as [4, 8, 16], each twice the last.")
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"batches are {list(self.batches)}: give 1 image or more for each resolution.")
        if min(self.first, self.fade, self.stable) < 0 or (self.first == 0 and len(self.resolutions) > 1):
            raise ValueError(
                f"first, fade and stable are {self.first}, {self.fade} and {self.stable} images: give 0 or more, and "
                "1 or more of the first."
            )

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.resolutions)

    def batch_of(self, level: int) -> int:
        """Images an iteration and process."""
        return self.batches[min(level, len(self.batches) - 1)]

    def stages(self, processes: int = 1) -> list[Stage]:
        """One for each resolution, of as many processes."""
        found: list[Stage] = []
        begin = images = 0
        for level, resolution in enumerate(self.resolutions):
            step = self.batch_of(level) * processes
            fade = 0 if level == 0 else -(-self.fade // step)
            stable = -(-(self.first if level == 0 else self.stable) // step)
            found.append(Stage(resolution, self.batch_of(level), begin, fade, stable, images))
            begin += fade + stable
            images += (fade + stable) * step
        return found

    def at(self, iteration: int, processes: int = 1) -> Phase:
        """The phase of the iteration after ``iteration`` finished ones, of as many processes."""
        stages = self.stages(processes)
        level = next((k for k, later in enumerate(stages[1:]) if iteration < later.begin), len(stages) - 1)
        stage, step = stages[level], self.batch_of(level) * processes
        passed = iteration - stage.begin
        share = min(1.0, passed * step / self.fade) if passed < stage.fade else 1.0
        return Phase(level, stage.resolution, stage.batch, share, stage.images + passed * step)

    def grows_at(self, iteration: int, processes: int = 1) -> bool:
        """Whether a new resolution begins with the iteration after ``iteration`` finished ones."""
        return iteration > 0 and self.at(iteration, processes).level != self.at(iteration - 1, processes).level

    def iterations(self, processes: int = 1) -> int:
        """How many pass until the last resolution has been faded in and kept for ``stable`` images."""
        last = self.stages(processes)[-1]
        return last.begin + last.fade + last.stable


@runtime_checkable
class Grows(Protocol):
    """A model whose images grow while it trains; data serve what its growth asks for."""

    @property
    def growth(self) -> Growth:
        """When it shows which resolution."""
        ...


def check_goes_on(model: object, shown: Sequence[float], phase: Phase, processes: int) -> None:
    """Refuse to go on with a growth, or a number of processes, by which the last iteration was of another phase.

    Args:
        model: for the message.
        shown: level and share of its last iteration.
        phase: of the last iteration, by its growth.
        processes: that train it now.

    Raises:
        ValueError: they differ.
    """
    level, share = shown
    if phase.level != level or abs(phase.share - share) > 0.01:
        raise ValueError(
            f"This {type(model).__name__} had reached level {level:.0f} and a share of {share:.2f}, which by its "
            f"growth and {processes} processes would be {phase.level} and {phase.share:.2f}: go on with as many "
            "processes and the same resolutions, batches, first, fade and stable."
        )
