"""The network of published FID, KID and IS: Inception of December 2015, from weights on this machine only."""

from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from metrics.features.extractor import Features
from metrics.features.weights import Published, find

PUBLISHED = Published(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
)


class Inception:
    """Inception as torch-fidelity ported it from TensorFlow: a ``FeatureExtractor`` (Szegedy et al. 2016).

    Images are rounded to 8 bits first, as if they had been saved as PNG, because published numbers are of files. A
    plain object and not an ``nn.Module``, so that checkpoints do not hold it; it follows its input from device to
    device.

    Args:
        weights: the file; by default that in the cache of ``torch.hub``.
        sha256: first digits that the file's checksum must have; by default the published ones.

    Raises:
        FileNotFoundError: there is no such file; nothing is ever downloaded.
        ValueError: the file has another checksum or does not hold this network.
    """

    name = "inception"
    size = 2048
    classes = 1008

    def __init__(self, weights: str | Path | None = None, sha256: str | None = None) -> None:
        instead = "compare by the `scenes` features of this repository, whose numbers are named fid_scenes"
        found = find(PUBLISHED, "Inception", weights, sha256, instead)
        self._net = _build(found.path)
        self.protocol = {
            "weights": str(found),
            "resize": "8-bit RGB to 299x299, bilinear as in TensorFlow 1, no antialiasing",
            "layer": "2048 after the last pooling; 1008 logits without bias",
        }

    def __call__(self, x: Tensor) -> Features:
        """What the network sees in each image, without gradients, in float32 under autocast too.

        Args:
            x: (N, 3, H, W) in [-1, 1], of any size; values outside are cut off.

        Returns:
            (N, 2048) embeddings and (N, 1008) logits; NaN for an image that is not finite.

        Raises:
            ValueError: not (N, 3, H, W) or not floating point.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(
                f"Inception needs float images (N, 3, H, W) in [-1, 1], got {tuple(x.shape)} {x.dtype}: "
                "repeat the channel of gray images three times, as in x.expand(-1, 3, -1, -1)."
            )
        self._net.to(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.float()
            pixels = x.add(1).mul(127.5).round().clamp(0, 255).byte()
            embedding, logits = self._net(pixels)
            # Bytes have no NaN: without this term a diverged model would have a FID.
            poison = (0 * x).sum((1, 2, 3)).unsqueeze(1)
            return Features(embedding + poison, logits + poison)


def _build(path: Path) -> nn.Module:
    """The network with the weights at ``path``.

    torch-fidelity unpickles whatever is in a file, and downloads without one; so it is given a copy, in memory, of the
    tensors that the safe loader found.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = BytesIO()
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):  # the layers are initialised at random before they are loaded
            return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], copy)
    except (UnpicklingError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} does not hold the network of {PUBLISHED.file}.") from error
