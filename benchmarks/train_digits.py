"""Train the network that compares sets of digits: ``make features`` (``python -m benchmarks.train_digits``).

It learns, from scikit-learn's digits drawn anew, as they were written and in another hand, to read the label and to
measure the ink: how much there is, where its centre lies, how far it spreads and which way it leans. Half of the
images are blurred, half are noisy, and it learns how grainy what it sees is, since a distance that speckle does not
move would praise generators for it. The glyphs are those that train ``datamodules.factor_digits.SmallDigits``, in
other draws; those that evaluate it are never seen, and measure what the card says. Weights go to
``metrics/features/digits.safetensors`` in half precision, the card beside them to ``digits.md``. Everything is seeded,
and one thread does the sums, so that a second run gives the same file; compare only numbers of one checksum.
"""

import argparse
import datetime
import time
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, mse_loss
from torchvision.transforms.v2.functional import gaussian_blur

from datamodules.procedural.digit_variants import VERSION, planes
from metrics.features.digits import SIDE, WEIGHTS, Digits
from metrics.truth import r2
from networks.digits import DigitNet

WORLD = 1  # draws that no DataModule serves
TRAINED = 1287  # glyphs; the others are of other writers
LOOKS = ("plain", "warped")
MOMENTS = ("ink", "centre x", "centre y", "spread x", "spread y", "slant")  # of the image as it was drawn
GRAIN = "grain"  # of what the network sees


class Drawn(NamedTuple):
    """Digits with all that is known of them, look after look."""

    image: Tensor  # (N, 1, 28, 28) uint8
    label: Tensor  # (N,) int64
    moments: Tensor  # (N, 6) float32


def main() -> None:
    """Draw, train, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_digits", description="Train the digits network.")
    parser.add_argument("--copies", type=int, default=4, help="draws of each glyph in each look")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, hence every bit of the weights, depends on the number of threads
    began = time.process_time()
    train, test = (drawn(which, given.copies) for which in np.split(np.arange(len(load_digits().target)), [TRAINED]))
    net = trained(train, given.iterations, given.batch, given.seed)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, WEIGHTS)
    card = describe(test, given, (time.process_time() - began) / 60)
    WEIGHTS.with_suffix(".md").write_text(card)
    print(card)


def drawn(which: np.ndarray, copies: int) -> Drawn:
    """``copies`` draws of the glyphs ``which`` in each look."""
    bunch = load_digits()
    glyphs = bunch.images.astype(np.uint8)
    images = [digit(index, glyphs, which, look) for look in LOOKS for index in range(len(which) * copies)]
    image = torch.from_numpy(np.stack(images))
    label = torch.from_numpy(np.tile(bunch.target[which].astype(np.int64), copies * len(LOOKS)))
    return Drawn(image, label, moments_of(image))


def digit(index: int, glyphs: np.ndarray, which: np.ndarray, look: str) -> np.ndarray:
    """(1, 28, 28) uint8: all glyphs of ``which`` in draw 0, then all in draw 1."""
    return cv2.resize(planes(index, look, glyphs, which, WORLD)[0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)[None]


def moments_of(image: Tensor) -> Tensor:
    """``MOMENTS`` of (N, 1, 28, 28) uint8, (N, 6) float32; lengths in halves of the image, a slant as a covariance."""
    ink = image[:, 0].float() / 255
    share = ink / ink.sum((1, 2), keepdim=True)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    centre = [(share * axis).sum((1, 2), keepdim=True) for axis in (x, y)]
    across, down = x - centre[0], y - centre[1]
    spreads = [(share * product).sum((1, 2)) for product in (across**2, down**2, across * down)]
    middle = [each[:, 0, 0] for each in centre]
    return torch.stack([ink.mean((1, 2)), *middle, spreads[0].sqrt(), spreads[1].sqrt(), spreads[2]], 1)


def spoilt(x: Tensor, rng: torch.Generator) -> Tensor:
    """Blur the first half of a batch, and put noise of up to 0.3 on every other image."""
    half = len(x) // 2
    sigma = 0.3 + 0.7 * float(torch.rand((), generator=rng))
    x = torch.cat((gaussian_blur(x[:half], 5, sigma), x[half:]))
    strength = 0.3 * torch.rand(len(x), 1, 1, 1, generator=rng)
    strength[::2] = 0
    return x + strength * torch.randn(x.shape, generator=rng)


def grain_of(x: Tensor) -> Tensor:
    """Root mean square of what (N, 1, 28, 28) differ from their means over 3x3 pixels, (N, 1)."""
    return (x - avg_pool2d(x, 3, 1, 1, count_include_pad=False)).square().mean((1, 2, 3)).sqrt()[:, None]


def trained(data: Drawn, iterations: int, batch: int, seed: int) -> DigitNet:
    """A network after ``iterations`` batches, in evaluation mode; its moments are standardised by the training data."""
    torch.manual_seed(seed)
    net = DigitNet(Digits.classes, len(MOMENTS) + 1, Digits.size)
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, iterations)
    rng = torch.Generator().manual_seed(seed)
    moments = (data.moments - data.moments.mean(0)) / data.moments.std(0)
    grain = grain_of(data.image.float() / 127.5 - 1)
    for _ in track(range(iterations), "Training the digits network"):
        rows = torch.randint(len(data.image), (batch,), generator=rng)
        x = spoilt(data.image[rows].float() / 127.5 - 1, rng)
        known = torch.cat((moments[rows], (grain_of(x) - grain.mean()) / grain.std()), 1)
        seen = net(x)
        opt.zero_grad()
        loss = cross_entropy(seen.label_logits, data.label[rows]) + mse_loss(seen.moments, known)
        torch.autograd.backward(loss)
        opt.step()
        schedule.step()
    return net.eval()


def describe(test: Drawn, given: argparse.Namespace, minutes: float) -> str:
    """The card: how much is read right on glyphs that were not seen, from the weights as they were written."""
    reader, x = Digits(), test.image.float() / 127.5 - 1
    seen = reader.read(x)
    rng = torch.Generator().manual_seed(1)
    order, worse = torch.randperm(len(x), generator=rng), torch.empty_like(x)
    worse[order] = spoilt(x[order], rng)
    seen_worse = reader.read(worse)
    looks = torch.arange(len(LOOKS)).repeat_interleave(len(x) // len(LOOKS))
    lines = [
        "# The digits network",
        "",
        f"Written by `make features` on {datetime.date.today()} in {minutes:.1f} CPU minutes,",
        f"{given.iterations} iterations of {given.batch} images, seed {given.seed}, torch {torch.__version__}, from",
        f"{given.copies} draws of {TRAINED} glyphs in each look (generator version {VERSION}, collection {WORLD}).",
        f"Weights: {reader.protocol['weights']}. Measured on {len(x)} images of other writers' glyphs.",
        "",
        "Labels that are read right, and in brackets where images are blurred or noisy; R2 of the moments, and of the",
        "grain of the latter, each after the line that fits it best, since the network has units of its own:",
        "",
        f"| look | labels | {' | '.join((*MOMENTS, GRAIN))} |",
        "|---|---|" + "---|" * (len(MOMENTS) + 1),
    ]
    for number, look in enumerate(LOOKS):
        rows = looks == number
        right, worse_right = (
            float((y.label_logits[rows].argmax(1) == test.label[rows]).double().mean()) for y in (seen, seen_worse)
        )
        truth = torch.cat((test.moments[rows], grain_of(worse[rows])), 1).double()
        said = torch.cat((seen.moments[rows, :-1], seen_worse.moments[rows, -1:]), 1).double()
        slope = ((said - said.mean(0)) * (truth - truth.mean(0))).mean(0) / said.var(0, correction=0)
        fitted = truth.mean(0) + slope * (said - said.mean(0))
        cells = [f"{value:.2f}" for value in r2(fitted, truth)]
        lines.append(f"| {look} | {right:.1%} ({worse_right:.1%}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
