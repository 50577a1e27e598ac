"""The memory of a step without values is that of a real one, and ``--print`` says it and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

import plan as planned
from interfaces.batch import ImageBatch
from lightning_modules.base import ManualModule
from plan import Living, aligned, footprint, in_words, iterations_of, millions, plan
from tests.lightning_modules.cases import (
    growing_to_8,
    growing_to_16,
    grown,
    of_domains,
    progressive_gan,
    style_alae,
    stylegan,
    ufdn,
)  # fmt: skip

ROOT = Path(__file__).parent.parent
FLOAT = 4
MODEL: dict[str, Any] = {"resolution": 16, "latent": 4, "width": 4, "max_width": 6, "mapping_layers": 2, "batches": [2]}
DATA = {"class_path": "datamodules.growing.GrowingFaces", "init_args": {"size": 16, "faces": 8, "val_faces": 4}}


class Square(ManualModule):
    """x -> (w x)^2, of which both factors are kept for backward, in a network of 10 x 10."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(10, 10, bias=False), nn.Linear(10, 10)
        self.at: list[int] = []

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """One."""
        self.at.append(self.iteration)
        loss = self.layer(batch.image).pow(2).mean()
        self.descend(self.optimizers(), loss)
        self.log_terms("g", {"square": loss})
        self.end_iteration()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), fused=True)


def test_what_lives_is_counted_once_and_until_it_is_freed() -> None:
    with Living() as living:
        x = torch.zeros(100)
        view = x[:50].view(5, 10)
        assert (living.now, living.peak) == (400, 400)
        y = x + 1
        assert living.now == 800
        del x
        assert living.now == 800  # the view holds it
        del view, y
        assert (living.now, living.peak) == (0, 800)


@pytest.mark.parametrize("fake", [True, False])
def test_a_step_takes_what_can_be_added_up(fake: bool) -> None:
    model, batch = Square(), ImageBatch(torch.zeros(1000, 10))
    found = footprint(model, batch, [0, 0], "32-true", fake)
    weights, images = 100, 10_000
    assert found.moved == weights
    kept = FLOAT * (210 + images + 3 * weights + 1) + 8 * 2  # two moments, a gradient, a step count; two counters
    assert 0 <= found.kept - kept <= 100  # and scalars
    # The output, its square and its gradient, and up to three more on the way to that.
    assert 3 <= (found.peak - found.kept) / (FLOAT * images) < 6.1
    assert not model.at
    assert model._trainer is None
    assert int(model.iterations) == 0


CASES = [
    pytest.param(progressive_gan, growing_to_8(1, 1), [1, 1], id="progressive_gan"),
    pytest.param(stylegan, growing_to_16(1, 1), [1, 1], id="stylegan"),
    pytest.param(style_alae, grown(2, 4), [5, 5], id="style_alae"),
    pytest.param(ufdn, of_domains(1, 0), [0], id="ufdn"),  # asks for the largest number of a domain
]


@pytest.mark.parametrize(("build", "batch", "iterations"), CASES)
def test_a_step_without_values_takes_what_a_real_one_takes(build: Any, batch: Any, iterations: list[int]) -> None:
    torch.manual_seed(0)
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fake, real = (footprint(model, batch, iterations, "32-true", fake) for fake in (True, False))
    assert fake == real
    weights = sum(p.numel() for p in model.parameters())
    assert fake.peak > fake.kept > FLOAT * (weights + fake.moved)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def trainer(steps: int = 12, device: str = "cpu", processes: int = 1) -> Any:
    return SimpleNamespace(
        num_devices=processes, num_nodes=1, max_steps=steps, precision="32-true",
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )  # fmt: skip


class Data(pl.LightningDataModule):
    image_shape = (3, 8, 8)

    def fingerprint(self) -> str:
        return "noise"


def test_a_stage_is_a_row() -> None:
    text = plan(trainer(7), progressive_gan(first=8, fade=6, stable=4), Data(), "runs/x/last.ckpt")
    lines = text.splitlines()
    assert lines[1].split() == ["data", "Data:", "noise"]
    assert lines[3] == "length   7 iterations; 5 until the last resolution has had its stable images"
    assert lines[4].split() == ["goes", "on", "from", "runs/x/last.ckpt"]
    assert lines[6].startswith("resolution")
    assert lines[7].split()[:5] == ["4x4", "4", "0", "8", "2"]
    assert lines[8].split()[:5] == ["8x8", "4", "6", "4", "5"]
    (small, large) = (float(line.split()[6]) for line in lines[7:9])
    assert 0 < small < large


def test_iterations_of_stages_are_those_of_the_run() -> None:
    growth = style_alae().growth
    assert [iterations_of(trainer(10), growth, k) for k in range(3)] == [1, 3, 6]
    assert [iterations_of(trainer(3), growth, k) for k in range(3)] == [1, 2, 0]
    assert [iterations_of(trainer(-1), growth, k) for k in range(3)] == [1, 3, 3]
    assert [iterations_of(trainer(10, processes=2), growth, k) for k in range(3)] == [1, 2, 7]


def test_a_gpu_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Tiny", total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    peaks = {"4x4": 2**20, "8x8": 3 * 2**29}
    (line,) = planned.too_large(trainer(device="cuda"), peaks)
    assert line == "warning: 8x8 takes 1.50 GiB, but Tiny has 1.00 GiB: give fewer images."
    assert planned.too_large(trainer(), peaks) == []


def test_a_step_that_asks_for_values_is_no_guess() -> None:
    class Asking(type(progressive_gan())):  # type: ignore[misc]
        def critic_loss(self, x: Any, phase: Any) -> Any:
            float(x.mean())

    model = Asking(resolution=4, widths=(4,), latent=4, batches=(4,))
    assert "memory   not known: a step of Asking asks for values (aten._local_scalar_dense" in plan(
        trainer(), model, Data()
    )


def test_words() -> None:
    assert (in_words(3 * 2**19), in_words(3 * 2**29)) == ("1.5 MiB", "1.50 GiB")
    assert (millions(1234), millions(25_430_000)) == ("1,234", "25.4 M")
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]


def said(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    growth = {"first": 2, "fade": 4, "stable": 2}
    model = {"class_path": "lightning_modules.style_alae.StyleALAE", "init_args": MODEL | growth}
    (folder / "x.yaml").write_text(yaml.safe_dump({"model": model, "data": DATA, "trainer": {"max_steps": 9}}))
    command = [sys.executable, str(ROOT / "main.py"), args[0]]
    command += ["--config", str(ROOT / "experiments/_base/trainer.yaml"), "--config", "x.yaml", *args[1:]]
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow  # a process of its own
def test_print_says_it_and_leaves_no_run_behind(tmp_path: Path) -> None:
    done = said(tmp_path, "fit", "--print")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("model    StyleALAE, ")
    assert lines[1].startswith("data     GrowingFaces: faces version ")
    assert [line.split()[0] for line in lines[6:9]] == ["4x4", "8x8", "16x16"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.slow
def test_print_is_for_fit(tmp_path: Path) -> None:
    done = said(tmp_path, "validate", "--print")
    assert done.returncode == 1
    assert "--print says what fit would train: leave it out of validate." in done.stderr
