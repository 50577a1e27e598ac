"""albumentations pipelines as YAML lists: built with clear errors, tried before training, seeded per sample."""

import difflib
import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Spec = dict[str, Any]  # {"class_path": "RandomCrop", "init_args": {"height": 256, "width": 256}}


def default_train(size: tuple[int, int], resize: int | None = None) -> list[Spec]:
    """Flip, shrink the shorter side to ``resize``, crop at random: the order of the official UNIT code.

    Args:
        size: height and width of the crop.
        resize: length of the shorter side before the crop; None for the longer side of the crop.
    """
    return [
        {"class_path": "HorizontalFlip", "init_args": {"p": 0.5}},
        _shrunk(resize or max(size)),
        {"class_path": "RandomCrop", "init_args": {"height": size[0], "width": size[1]}},
    ]


def default_eval(size: tuple[int, int], resize: int | None = None) -> list[Spec]:
    """``default_train`` without chance: no flip, the crop from the centre."""
    return [
        _shrunk(resize or max(size)),
        {"class_path": "CenterCrop", "init_args": {"height": size[0], "width": size[1]}},
    ]


def _shrunk(shorter: int) -> Spec:
    """The shorter side to so many pixels: bilinear when it grows, the mean of areas when it shrinks.

    The official codes resize with Pillow, whose bilinear filter widens as it shrinks; OpenCV's does not, and aliases.
    """
    return {"class_path": "SmallestMaxSize", "init_args": {"max_size": shorter, "area_for_downscale": "image"}}


class Pipeline:
    """Transforms of one image, decided by a key alone.

    Args:
        specs: ``class_path`` with or without ``albumentations.``, and optional ``init_args``. Where an
            argument is itself a list of transforms (``OneOf``), write it the same way.

    Raises:
        TypeError: an entry is not such a dictionary.
        ValueError: unknown class or argument (the nearest name is given), or a value albumentations refuses.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._compose = _albumentations().Compose([_build(spec) for spec in specs])

    def __call__(self, image: np.ndarray, key: Sequence[int]) -> Tensor:
        """Transform (H, W, 3) uint8; equal keys (integers >= 0) draw equally.

        Returns:
            (3, h, w) uint8, or float32 where the transforms normalise.
        """
        # The state of albumentations is its own and is copied into every worker: only a seed per
        # sample gives the same images for any number of workers, and after a resume.
        self._compose.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        out = self._compose(image=image)["image"]
        if isinstance(out, Tensor):  # ToTensorV2
            return out
        return torch.from_numpy(np.ascontiguousarray(out.transpose(2, 0, 1)))

    def check(self, files: Sequence[Any], sizes: Sequence[tuple[int, int]], target: tuple[int, int]) -> None:
        """Try the transforms on black and white images of the extreme sizes of a dataset.

        Args:
            files: names for the error.
            sizes: height and width of each file.
            target: height and width that must come out.

        Raises:
            ValueError: an image is too small, or what comes out has another size, type or range.
        """
        for i in _extremes(sizes):
            height, width = sizes[i]
            what = f"{files[i]} ({width}x{height} pixels, width x height)"
            for draw, value in enumerate((0, 255, 0, 255)):  # black and white, two draws each
                try:
                    out = self(np.full((height, width, 3), value, np.uint8), (draw,))
                except Exception as error:  # each transform has its own kinds
                    raise ValueError(
                        f"The transforms cannot take {what} to {target[1]}x{target[0]}: {_first_line(error)}; enlarge "
                        "or remove such images, or put SmallestMaxSize before the crop."
                    ) from error
                _check_output(out, what, target)
                if value == 0 and out.min() >= 0 and out.is_floating_point():
                    raise ValueError(
                        f"The transforms make black {float(out.min()):.3g}, but models take black as -1 and white "
                        "as 1: leave ToFloat or Normalize out (bytes are scaled on the device)."
                    )


def _check_output(out: Tensor, what: str, target: tuple[int, int]) -> None:
    if tuple(out.shape) != (3, *target):
        shape = f"{tuple(out.shape)} (channels, height, width)"
        raise ValueError(
            f"The transforms make {shape} of {what}, but all images of a batch must be {(3, *target)}: end with a crop "
            "or resize to the data's `size`."
        )
    if out.dtype == torch.uint8:
        return
    low, high = float(out.min()), float(out.max())
    if out.dtype != torch.float32 or low < -1 or high > 1:
        raise ValueError(
            f"The transforms give {str(out.dtype)[6:]} from {low:.3g} to {high:.3g}, but models take [-1, 1]: leave "
            "Normalize out (bytes are scaled on the device) or give it mean 0.5 and std 0.5."
        )


def _extremes(sizes: Sequence[tuple[int, int]]) -> set[int]:
    """The lowest, the narrowest, the flattest and the tallest image: if these pass, all do."""
    numbers = range(len(sizes))
    return {
        min(numbers, key=lambda i: sizes[i][0]),
        min(numbers, key=lambda i: sizes[i][1]),
        min(numbers, key=lambda i: sizes[i][0] / sizes[i][1]),
        max(numbers, key=lambda i: sizes[i][0] / sizes[i][1]),
    }


def _albumentations() -> Any:
    """The library, without the look for updates that it does over the network when imported."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import albumentations.pytorch  # brings in ToTensorV2

    return albumentations


def _build(spec: Spec) -> Any:
    if not isinstance(spec, dict) or "class_path" not in spec or spec.keys() - {"class_path", "init_args"}:
        raise TypeError(f"A transform is written {{class_path: RandomCrop, init_args: {{height: 256}}}}, not {spec!r}.")
    cls = _find(str(spec["class_path"]))
    arguments = dict(spec.get("init_args") or {})
    _check_arguments(cls, arguments)
    if isinstance(arguments.get("transforms"), list):
        arguments["transforms"] = [_build(inner) for inner in arguments["transforms"]]
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Transform {cls.__name__} refuses {arguments}: {_first_line(error)}.") from error


def _find(path: str) -> Any:
    library = _albumentations()
    kinds = (library.BasicTransform, library.BaseCompose)
    classes = {n: c for n, c in vars(library).items() if isinstance(c, type) and issubclass(c, kinds)}
    package, _, name = path.rpartition(".")
    if name in classes and package.split(".")[0] in ("", "albumentations"):
        return classes[name]
    raise ValueError(f"There is no albumentations transform {path!r}{_nearest(name, classes)}.")


def _check_arguments(cls: Any, arguments: Spec) -> None:
    """Refuse unknown arguments: albumentations would warn once and go on without them."""
    allowed = inspect.signature(cls).parameters
    for name in arguments:
        if name not in allowed:
            hint = _nearest(name, allowed) or f"; it takes {', '.join(allowed)}"
            raise ValueError(f"Transform {cls.__name__} has no argument {name!r}{hint}.")


def _nearest(name: str, names: Any) -> str:
    # By lower case, since "randomcrop" is a likelier slip than any other.
    lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; the nearest name is {lower[close[0]]}" if close else ""


def _first_line(error: Exception) -> str:
    """One line of an error; of pydantic's, the field and its complaint."""
    lines = str(error).splitlines() or [type(error).__name__]
    if len(lines) > 2 and "validation error" in lines[0]:
        return f"{lines[1]}: {lines[2].split(' [type=')[0].strip()}"
    return lines[0].rstrip(".")
