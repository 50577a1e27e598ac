"""Train the network behind our own features: ``make features`` (``python -m benchmarks.train_scenes``).

It learns, from rendered streets in all eight domains, to tell the domain, to measure the content and style factors, and
to draw the semantic map. Weights go to ``metrics/features/scenes.safetensors`` in half precision, and what it can do on
scenes that it has not seen into the card beside them, ``scenes.md``. Everything is seeded, and one thread does the
sums, so that a second run gives the same file; another kind of processor rounds differently, and numbers that stand on
its weights differ too: compare only numbers of one checksum.
"""

import argparse
import datetime
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torchvision.transforms.v2.functional import gaussian_blur

from datamodules.cache import rendered
from datamodules.procedural.streets import CLASSES, CONTENT, CONTENT_RANGES, DOMAINS, STYLE, VERSION, factors
from datamodules.procedural.streets import planes_and_classes as planes
from metrics.features.scenes import SIDE, WEIGHTS, Scenes
from metrics.truth import confusion, map_accuracy, mean_iou, r2
from networks.scenes import SceneNet

WORLD = 1  # a collection of scenes that no DataModule serves
TEST = 100_000  # index of the first test scene
STYLES = max(len(names) for names in STYLE.values())


class Views(NamedTuple):
    """Rendered scenes with all that is known of them, domain after domain."""

    image: Tensor  # (N, 3, 64, 64) uint8
    semantic: Tensor  # (N, 64, 64) uint8
    domain: Tensor  # (N,) int64
    content: Tensor  # (N, factors) float32, 0 to 1
    style: Tensor  # (N, factors) float32, 0 to 1; NaN where the domain has no such factor


def main() -> None:
    """Render, train, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_scenes", description="Train the scenes network.")
    parser.add_argument("--scenes", type=int, default=2000, help="training scenes per domain")
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, hence every bit of the weights, depends on the number of threads
    began = time.process_time()
    train, test = views(0, given.scenes), views(TEST, 200)
    net = trained(train, given.iterations, given.batch, given.seed)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, WEIGHTS)
    card = describe(test, given, (time.process_time() - began) / 60)
    WEIGHTS.with_suffix(".md").write_text(card)
    print(card)


def views(first: int, count: int) -> Views:
    """``count`` scenes from ``first`` on in each domain; domains see different scenes."""
    low, high = np.array(list(CONTENT_RANGES.values()), np.float32).T
    parts = []
    for number, domain in enumerate(DOMAINS):
        start = first + number * count
        array = rendered(
            partial(planes, seed=WORLD, first=start, domain=domain, height=SIDE, width=SIDE),
            count,
            (4, SIDE, SIDE),
            key={"generator": "streets and classes", "version": VERSION, "domain": domain, "first": start},
            what=f"streets and classes {domain} {SIDE}x{SIDE}",
        )
        content, style = zip(*(factors(WORLD, start + i, domain) for i in range(count)), strict=True)
        padded = np.full((count, STYLES), np.nan, np.float32)
        padded[:, : len(STYLE[domain])] = np.stack(style)
        planes_ = torch.from_numpy(np.array(array))
        scaled = torch.from_numpy((np.stack(content) - low) / (high - low))
        parts.append(
            Views(planes_[:, :3], planes_[:, 3], torch.full((count,), number), scaled, torch.from_numpy(padded))
        )
    return Views(*(torch.cat(field) for field in zip(*parts, strict=True)))


def trained(data: Views, iterations: int, batch: int, seed: int) -> SceneNet:
    """A network after ``iterations`` batches, in evaluation mode."""
    torch.manual_seed(seed)
    net = SceneNet(len(DOMAINS), len(CONTENT), STYLES, len(CLASSES), Scenes.size).to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, iterations)
    rng = torch.Generator().manual_seed(seed)
    for _ in track(range(iterations), "Training the scenes network"):
        rows = torch.randint(len(data.image), (batch,), generator=rng)
        x = degraded(data.image[rows].float() / 127.5 - 1, rng)
        opt.zero_grad()
        torch.autograd.backward(loss(net, x, Views(*(field[rows] for field in data))))
        opt.step()
        schedule.step()
    return net.eval()


def degraded(x: Tensor, rng: torch.Generator) -> Tensor:
    """Blur and noise in half of the batch: translations are not as crisp as renders, and must be readable too."""
    half = len(x) // 2
    sigma = 0.3 + 0.7 * float(torch.rand((), generator=rng))
    soft = gaussian_blur(x[:half], 5, sigma)
    return torch.cat((soft + 0.06 * torch.randn(soft.shape, generator=rng), x[half:]))


def loss(net: SceneNet, x: Tensor, truth: Views) -> Tensor:
    """Cross-entropies of domain and map, squared errors of content and of the true domain's style."""
    seen = net(x.to(memory_format=torch.channels_last))
    style = seen.style[torch.arange(len(x)), truth.domain]
    known = ~truth.style.isnan()
    return (
        cross_entropy(seen.semantic_logits, truth.semantic.long())
        + 0.2 * cross_entropy(seen.domain_logits, truth.domain)
        + 10 * mse_loss(seen.content, truth.content)
        + 10 * mse_loss(style[known], truth.style[known])
    )


def describe(test: Views, given: argparse.Namespace, minutes: float) -> str:
    """The card: accuracy on unseen scenes, factor by factor, from the weights as they were written."""
    reader = Scenes()
    readings = [reader.read(part.float() / 127.5 - 1) for part in test.image.split(200)]
    domain_logits, content, style = (
        torch.cat([getattr(r, name) for r in readings]) for name in ("domain_logits", "content", "style")
    )
    semantic = torch.cat([r.semantic_logits.argmax(1).byte() for r in readings])
    own = style[torch.arange(len(style)), test.domain]
    lines = [
        "# The scenes network",
        "",
        f"Written by `make features` on {datetime.date.today()} in {minutes:.0f} CPU minutes,",
        f"{given.iterations} iterations of {given.batch} images, seed {given.seed}, torch {torch.__version__}, from",
        f"{given.scenes} scenes in each of {len(DOMAINS)} domains (generator version {VERSION}, collection {WORLD}).",
        f"Weights: {reader.protocol['weights']}. Measured on {len(test.image)} images of other scenes.",
        "",
        "| domain | recognised | pixels right | mean IoU | R2 of its style factors |",
        "|---|---|---|---|---|",
    ]
    for number, domain in enumerate(DOMAINS):
        rows = test.domain == number
        right = (domain_logits[rows].argmax(1) == number).double().mean()
        counts = confusion(semantic[rows], test.semantic[rows], len(CLASSES))
        styles = [
            f"{name} {value:.2f}" for name, value in zip(STYLE[domain], r2(own[rows], test.style[rows]), strict=False)
        ]
        cells = f"{right:.1%}", f"{map_accuracy(counts):.1%}", f"{mean_iou(counts):.3f}", ", ".join(styles) or "none"
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    lines += ["", "| content factor | R2 |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in zip(CONTENT, r2(content, test.content), strict=True)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
