"""VGG-16 features (Simonyan and Zisserman 2015), frozen: not a module, so that nothing saves, trains or averages it."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of convolutions of each block


class VGG16:
    """Images to relu5_3, without the pooling between blocks 4 and 5, as the official UNIT and MUNIT have it.

    A plain object and not an ``nn.Module``: checkpoints, optimizers, DDP and weight averages do not see it. Its
    weights follow the input from device to device.

    Two layouts of a weights file are known, told apart by their keys. They are different networks with
    different preprocessing, so features of one are not comparable with features of the other.

    * torchvision's ``vgg16-397923af.pth``, ``features.N.weight``: RGB in ImageNet mean and deviation.
    * The official ``vgg16.weight``, ``convX_Y.weight`` (Caffe's): BGR in [0, 255] minus the mean colour.

    Args:
        path: the weights file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has neither layout.
    """

    def __init__(self, path: str | Path) -> None:
        tensors = _read(Path(path))
        self.caffe = "conv1_1.weight" in tensors
        names = _caffe_names() if self.caffe else _torchvision_names()
        missing = [f"{name}.{part}" for name in names for part in ("weight", "bias") if f"{name}.{part}" not in tensors]
        if missing:
            raise ValueError(f"{path} is not a file of VGG-16 weights: it lacks {missing[0]}; {_LAYOUTS}")
        widths = [width for width, count in BLOCKS for _ in range(count)]
        for name, i, o in zip(names, [3, *widths], widths, strict=False):
            if tensors[f"{name}.weight"].shape != (o, i, 3, 3):
                raise ValueError(
                    f"{path}: {name}.weight is {tuple(tensors[f'{name}.weight'].shape)}, "
                    f"but VGG-16 needs {(o, i, 3, 3)}; {_LAYOUTS}"
                )
        self._layers = [(tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()) for name in names]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [-1, 1] to (N, 512, H / 8, W / 8), sizes rounded down; gradients reach ``x`` only.

        Computed in float32 under autocast too, and in float64 where ``x`` is float64.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = self.preprocess(x if x.dtype == torch.float64 else x.float())
            layers = iter(self._on(x))
            for k, (_, count) in enumerate(BLOCKS):
                if 0 < k < 4:
                    x = max_pool2d(x, 2)
                for _ in range(count):
                    x = conv2d(x, *next(layers), padding=1).relu_()
            return x

    def preprocess(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [-1, 1] to the colours with which the loaded weights were trained."""
        if self.caffe:
            mean = x.new_tensor((103.939, 116.779, 123.680)).view(3, 1, 1)
            return (x.flip(1) + 1) * 127.5 - mean
        mean = x.new_tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        std = x.new_tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
        return ((x + 1) / 2 - mean) / std

    def _on(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The layers in the place and type of ``x``; moved once and kept there."""
        here = self._layers[0][0]
        if here.device != x.device or here.dtype != x.dtype:
            with torch.inference_mode(False):  # moved during validation, they would be of no use to training
                self._layers = [(weight.to(x), bias.to(x)) for weight, bias in self._layers]
        return self._layers


_LAYOUTS = "give torchvision's vgg16-397923af.pth (features.N.weight) or the official vgg16.weight (convX_Y.weight)."


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of VGG-16 weights at {path}: {_LAYOUTS}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as PyTorch weights ({type(error).__name__}): {_LAYOUTS}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} does not hold tensors by name: {_LAYOUTS}")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _caffe_names() -> list[str]:
    return [f"conv{k}_{i}" for k, (_, count) in enumerate(BLOCKS, 1) for i in range(1, count + 1)]


def _torchvision_names() -> list[str]:
    """In torchvision's ``features`` a convolution and its ReLU take an index each, a pooling one."""
    names, index = [], 0
    for _, count in BLOCKS:
        names += [f"features.{index + 2 * i}" for i in range(count)]
        index += 2 * count + 1
    return names
