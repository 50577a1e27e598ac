"""Train the network that judges faces and their edits: ``make features`` (``python -m benchmarks.train_faces``).

It learns, from rendered faces in all three domains, to read the attributes, to tell the domain, to measure the other
factors and the style, and to draw the semantic map. Each attribute is there in half of the faces, whatever the others
are, so that none can be guessed from another; half of the images are mirrored, and half are blurred and noisy.
Weights go to ``metrics/features/faces.safetensors`` in half precision, and what it can do on faces that it has not seen
into the card beside them, ``faces.md``. Everything is seeded, and one thread does the sums, so that a second run gives
the same file; compare only numbers of one checksum.
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
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from benchmarks.train_scenes import degraded
from datamodules.cache import rendered
from datamodules.procedural.faces import (
    ATTRIBUTES,
    CLASSES,
    DOMAINS,
    FACTORS,
    STYLE,
    VERSION,
    Marginals,
    attributes_of,
    facts_of,
    planes_and_classes,
    style,
)
from metrics.features.faces import SIDE, WEIGHTS, FaceReading, Faces
from metrics.truth import confusion, map_accuracy, mean_iou, r2
from networks.scenes import SceneNet

WORLD = 1  # a collection of faces that no DataModule serves
TEST = 100_000  # index of the first test face
STYLES = len(STYLE["photo"])  # as many in every domain
EVEN = Marginals(dict.fromkeys(ATTRIBUTES, 0.5))
# What a mirror turns round, in units of its range; all else stays.
TURNED = torch.tensor([name in ("parting", "yaw", "roll", "x", "gaze_x", "light") for name in FACTORS])
# The hatching of a sketch leans one way, so that in a mirror no angle of its range describes it.
LEANING = torch.tensor([[name == "angle" for name in STYLE[domain]] for domain in DOMAINS])


class Views(NamedTuple):
    """Rendered faces with all that is known of them, domain after domain."""

    image: Tensor  # (N, 3, 64, 64) uint8
    semantic: Tensor  # (N, 64, 64) uint8
    domain: Tensor  # (N,) int64
    attributes: Tensor  # (N, 8) float32, 0 or 1
    factors: Tensor  # (N, 30) float32, 0 to 1
    style: Tensor  # (N, 4) float32, 0 to 1; NaN where a mirror has made it unknown


def main() -> None:
    """Render, train, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_faces", description="Train the faces network.")
    parser.add_argument("--faces", type=int, default=2500, help="training faces per domain")
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, hence every bit of the weights, depends on the number of threads
    began = time.process_time()
    train, test = views(0, given.faces), views(TEST, 400)
    net = trained(train, given.iterations, given.batch, given.seed)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, WEIGHTS)
    card = describe(test, given, (time.process_time() - began) / 60)
    WEIGHTS.with_suffix(".md").write_text(card)
    print(card)


def views(first: int, count: int) -> Views:
    """``count`` faces from ``first`` on in each domain; domains see different faces."""
    parts = []
    for number, domain in enumerate(DOMAINS):
        start = first + number * count
        array = rendered(
            partial(
                planes_and_classes, seed=WORLD, first=start, domain=domain, height=SIDE, width=SIDE, marginals=EVEN
            ),
            count,
            (4, SIDE, SIDE),
            key={"generator": "even faces and classes", "version": VERSION, "domain": domain, "first": start},
            what=f"faces and classes {domain} {SIDE}x{SIDE}",
        )
        planes = torch.from_numpy(np.array(array))
        parts.append(
            Views(
                planes[:, :3],
                planes[:, 3],
                torch.full((count,), number),
                torch.from_numpy(attributes_of(WORLD, start, count, EVEN)).float(),
                torch.from_numpy(facts_of(WORLD, start, count)),
                torch.from_numpy(np.stack([style(WORLD, start + i, domain) for i in range(count)])),
            )
        )
    return Views(*(torch.cat(field) for field in zip(*parts, strict=True)))


def trained(data: Views, iterations: int, batch: int, seed: int) -> SceneNet:
    """A network after ``iterations`` batches, in evaluation mode."""
    torch.manual_seed(seed)
    net = SceneNet(len(DOMAINS), len(ATTRIBUTES) + len(FACTORS), STYLES, len(CLASSES), Faces.size)
    net = net.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, iterations)
    rng = torch.Generator().manual_seed(seed)
    for _ in track(range(iterations), "Training the faces network"):
        rows = torch.randint(len(data.image), (batch,), generator=rng)
        seen = mirrored(Views(*(field[rows] for field in data)), torch.rand(batch, generator=rng) < 0.5)
        x = degraded(seen.image.float() / 127.5 - 1, rng)
        opt.zero_grad()
        torch.autograd.backward(loss(net, x, seen))
        opt.step()
        schedule.step()
    return net.eval()


def mirrored(data: Views, turned: Tensor) -> Views:
    """The images of ``turned`` (N,) bool seen in a mirror."""
    image = torch.where(turned[:, None, None, None], data.image.flip(-1), data.image)
    semantic = torch.where(turned[:, None, None], data.semantic.flip(-1), data.semantic)
    factors = torch.where(turned[:, None] & TURNED, 1 - data.factors, data.factors)
    styles = data.style.masked_fill(turned[:, None] & LEANING[data.domain], float("nan"))
    return data._replace(image=image, semantic=semantic, factors=factors, style=styles)


def loss(net: SceneNet, x: Tensor, truth: Views) -> Tensor:
    """Cross-entropies of attributes, domain and map, squared errors of factors and of the true domain's style."""
    seen = net(x.to(memory_format=torch.channels_last))
    attributes, factors = seen.content.split((len(ATTRIBUTES), len(FACTORS)), 1)
    styles, known = seen.style[torch.arange(len(x)), truth.domain], ~truth.style.isnan()
    return (
        2 * binary_cross_entropy_with_logits(attributes, truth.attributes)
        + cross_entropy(seen.semantic_logits, truth.semantic.long())
        + 0.2 * cross_entropy(seen.domain_logits, truth.domain)
        + 10 * mse_loss(factors, truth.factors)
        + 5 * mse_loss(styles[known], truth.style[known])
    )


def describe(test: Views, given: argparse.Namespace, minutes: float) -> str:
    """The card: accuracy on unseen faces, attribute by attribute, from the weights as they were written."""
    reader, x = Faces(), test.image.float() / 127.5 - 1
    seen = FaceReading(*(torch.cat(field) for field in zip(*map(reader.read_all, x.split(200)), strict=True)))
    rng = torch.Generator().manual_seed(1)
    worse = torch.cat([reader.read(degraded(torch.cat((part, part)), rng)[: len(part)]) for part in x.split(50)])
    right, worse_right = ((logits > 0) == (test.attributes > 0.5) for logits in (seen.attribute_logits, worse))
    domains = [test.domain == number for number in range(len(DOMAINS))]
    lines = [
        "# The faces network",
        "",
        f"Written by `make features` on {datetime.date.today()} in {minutes:.0f} CPU minutes,",
        f"{given.iterations} iterations of {given.batch} images, seed {given.seed}, torch {torch.__version__}, from",
        f"{given.faces} faces in each of {len(DOMAINS)} domains (generator version {VERSION}, collection {WORLD}).",
        f"Weights: {reader.protocol['weights']}. Measured on {len(test.image)} images of other faces.",
        "",
        "Attributes that are read right, and in brackets where the images are blurred and noisy:",
        "",
        f"| attribute | {' | '.join(DOMAINS)} |",
        "|---|" + "---|" * len(DOMAINS),
    ]
    for k, name in enumerate(ATTRIBUTES):
        cells = [f"{share(right[rows, k])} ({share(worse_right[rows, k])})" for rows in domains]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| domain | recognised | pixels right | mean IoU | R2 of its style factors |",
        "|---|---|---|---|---|",
    ]
    semantic = seen.semantic_logits.argmax(1).byte()
    for number, (domain, rows) in enumerate(zip(DOMAINS, domains, strict=True)):
        known = share(seen.domain_logits[rows].argmax(1) == number)
        counts = confusion(semantic[rows], test.semantic[rows], len(CLASSES))
        values = r2(seen.style[rows, number], test.style[rows])
        styles = ", ".join(f"{name} {value:.2f}" for name, value in zip(STYLE[domain], values, strict=True))
        lines.append(f"| {domain} | {known} | {map_accuracy(counts):.1%} | {mean_iou(counts):.3f} | {styles} |")
    lines += ["", f"| R2 of factor | {' | '.join(DOMAINS)} |", "|---|" + "---|" * len(DOMAINS)]
    measured = zip(*(r2(seen.factors[rows], test.factors[rows]) for rows in domains), strict=True)
    for name, row in zip(FACTORS, measured, strict=True):
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |")
    return "\n".join(lines) + "\n"


def share(right: Tensor) -> str:
    """Per cent of a bool tensor."""
    return f"{right.double().mean():.1%}"


if __name__ == "__main__":
    main()
