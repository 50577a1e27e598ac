import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch.distributions import MultivariateNormal

from benchmarks import rotation as command
from benchmarks.rotation import (
    DEGREES,
    draw,
    load,
    look,
    main,
    measure,
    opened,
    plane_of,
    report,
    turned,
    weight_of_rate,
)
from datamodules.factors import FactorDataModule
from interfaces.model import Variational
from lightning_modules.beta_vae import BetaVAE
from lightning_modules.factor_vae import FactorVAE
from lightning_modules.vq_vae2 import VQVAE2
from metrics.rotation import kl_to_rotated, random_rotation, same_precisions, same_variances

HADAMARD = 0.5 * np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
DIAGONALS = same_variances, same_precisions
AMPLITUDES = np.array([100.0, 60.0, 35.0, 8.0])  # bytes; the last is noise to a code of three


class Sums:
    """Images of 2 x 2 whose principal components are their factors."""

    names: tuple[str, ...] = ("one", "position x", "position y", "noise")
    sizes: tuple[int, ...] = (11, 10, 9, 8)
    image_shape: tuple[int, int, int] = (1, 2, 2)

    def images(self, factors: np.ndarray) -> np.ndarray:
        levels = 2 * np.asarray(factors) / (np.array(self.sizes) - 1) - 1
        return (127.5 + levels * AMPLITUDES @ HADAMARD).round().astype(np.uint8).reshape(-1, 1, 2, 2)

    def fingerprint(self) -> str:
        return "sums"


class Plain(pl.LightningDataModule):
    """Without factors."""

    def __init__(self, source: Sums | None = None) -> None:
        super().__init__()


def principal(x, latent=3):
    """Weights, noise and mean of the pixels (N, 4) of probabilistic PCA (Tipping and Bishop 1999), in closed form."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[:-latent].mean()
    return vectors[:, -latent:] * (values[-latent:] - noise).sqrt(), noise, x.mean(0)


def linear_vae(beta=1.0):
    """A VAE whose networks are that model and its posterior for 5000 images: ReLU passes pixels, and z beside -z."""
    rng = np.random.RandomState(7)
    factors = np.stack([rng.randint(size, size=5000) for size in Sums.sizes], 1)
    weight, noise, centre = principal(torch.from_numpy(Sums().images(factors).reshape(-1, 4) / 255.0))
    gram = weight.T @ weight / (noise * beta)  # diagonal
    variance = 1 / (1 + gram.diagonal())
    model = BetaVAE((1, 2, 2), 3, (), (), (4,), (6,), gaussian=True, beta=beta)
    to_mu = variance[:, None] * weight.T / (noise * beta)
    eye, zero = torch.eye(3), torch.zeros(3)
    both = torch.cat((weight, -weight), 1)
    weights = {
        "encoder.layers.0": (torch.eye(4), torch.zeros(4)),
        "encoder.mu": (to_mu, -to_mu @ centre),
        "encoder.logvar": (torch.zeros(3, 4), variance.log()),
        "decoder.layers.0": (torch.cat((eye, -eye)), torch.cat((zero, zero))),
        "decoder.layers.1": (
            torch.cat((both, torch.zeros(4, 6))),
            torch.cat((centre, noise.log().expand(4))),
        ),
    }
    state = {
        f"{name}.{part}": t for name, ts in weights.items() for part, t in zip(("weight", "bias"), ts, strict=True)
    }
    model.load_state_dict(model.state_dict() | state)
    return model.eval(), MultivariateNormal(centre, weight @ weight.T + noise * torch.eye(4))


def run_of(folder, model, data="datamodules.factors.FactorDataModule"):
    """The folder that a training leaves."""
    (folder / "checkpoints").mkdir(parents=True)
    path = f"{type(model).__module__}.{type(model).__name__}"
    arguments = {"_class_path": path, **model.hparams}
    held = {"state_dict": model.state_dict(), "hyper_parameters": arguments, "pytorch-lightning_version": "2.6.6"}
    torch.save(held, folder / "checkpoints" / "last.ckpt")
    source = {"class_path": "tests.benchmarks.test_rotation.Sums"}
    config = {"model": {"class_path": path}, "data": {"class_path": data, "init_args": {"source": source}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def linear():
    model, evidence = linear_vae()
    known = look(model, FactorDataModule(Sums()), 4000)
    return measure(model, known, Sums.names, 2), known, evidence


def test_the_full_covariance_keeps_the_bound_which_here_is_the_evidence(linear):
    found, known, evidence = linear
    log_p = evidence.log_prob(known.images.flatten(1) / 255.0).mean()
    for curve in (*found.random, found.plane):
        for each in curve:
            assert each.full.rate == pytest.approx(curve[0].full.rate, abs=1e-9)
            assert each.full.elbo == pytest.approx(curve[0].full.elbo, abs=1e-4)  # weights are float32
    # One draw a pixel image: half a chi-square of three has a deviation of 1.2 nats.
    assert found.plane[0].full.elbo == pytest.approx(float(log_p), abs=4 * 1.3 / math.sqrt(4000))


@pytest.mark.parametrize("name", ["variances", "precisions"])
def test_either_diagonal_loses_what_the_closed_form_says(linear, name):
    found, _, _ = linear
    for curve in (*found.random, found.plane):
        for each in curve[1:-1]:
            lost, expected = each.full.elbo - getattr(each, name).elbo, each.expected[name == "precisions"]
            assert expected > 0
            assert lost == pytest.approx(expected, rel=0.1, abs=0.02)
    assert found.plane[0].variances == found.plane[0].precisions
    assert found.plane[DEGREES.index(45.0)].expected[0] > 0.1


def test_the_variances_lower_the_rate_and_the_precisions_lose_less(linear):
    found, _, _ = linear
    for curve in (*found.random, found.plane):
        for each in curve[1:-1]:
            assert each.variances.rate < each.full.rate - 1e-3
            assert each.variances.distortion > each.full.distortion + 1e-3
            assert each.precisions.elbo > each.variances.elbo


def test_the_plane_is_that_of_the_positions_and_a_quarter_turn_exchanges_them(linear):
    found, _, _ = linear
    assert {name[2:] for name in found.names} == {" (position x)", " (position y)"}
    start, half, last = (found.plane[DEGREES.index(degrees)] for degrees in (0.0, 45.0, 90.0))
    assert last.precisions.elbo == pytest.approx(start.precisions.elbo, abs=1e-4)
    assert last.mig == pytest.approx(start.mig, abs=0.05)  # a bin has another edge closed
    assert half.mig < start.mig - 0.2
    assert half.modularity < start.modularity - 0.05
    assert [curve[-1].mig < start.mig - 0.1 for curve in found.random] == [True] * 2


def test_a_beta_vae_loses_more_of_its_bound_as_expected():
    model, _ = linear_vae(beta=3.0)
    known = look(model, FactorDataModule(Sums()), 40_000)
    rotation = random_rotation(3, torch.Generator().manual_seed(0))
    each = turned(model, known, rotation, weight_of_rate(model))
    plain = [float(kl_to_rotated(v(known.variance, rotation), known.variance, rotation).mean()) for v in DIAGONALS]
    for bound, expected, kl in zip((each.variances, each.precisions), each.expected, plain, strict=True):
        assert each.full.elbo - bound.elbo == pytest.approx(expected, rel=0.05, abs=0.02)
        assert expected > 1.1 * kl


def test_the_weight_of_the_rate_is_known_of_a_beta_vae_alone():
    small = {"image_shape": (1, 2, 2), "convs": (), "kernels": ()}
    models = BetaVAE(**small), BetaVAE(gamma=10.0, **small), FactorVAE(beta=2.0, **small)
    assert [weight_of_rate(model) for model in models] == [4.0, 1.0, 1.0]


def test_without_positions_any_two_factors_have_a_plane():
    share = np.array([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.0, 0.9, 0.1], [0.5, 0.5, 0.9]])
    assert plane_of(share, ("a", "b", "c"), np.array([0, 1, 3])) == ((0, 3), (0, 2))
    assert plane_of(share, ("position a", "position b", "c"), np.array([0, 1, 3])) == ((0, 1), (0, 1))


def test_the_command_prints_tables_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "DEGREES", (0.0, 45.0, 90.0))
    monkeypatch.setattr("benchmarks.rotation_picture.DEGREES", (0.0, 45.0, 90.0))
    folder = run_of(tmp_path / "run", linear_vae()[0])
    assert main([str(folder), "--rotations", "2", "--images", "600", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "600 images, 3 of 3 coordinates active, trained with beta 1" in said
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == ["| angle", "| 0", "| 45", "| 90"] * 2
    assert all(len(line.split(" | ")) == 10 for line in lines)
    assert "±" in lines[2]
    assert "±" not in lines[6]
    picture = folder / "pictures" / "rotation.png"
    assert np.asarray(Image.open(picture)).std() > 1
    assert main([str(folder / "checkpoints" / "last.ckpt"), "--images", "600", "--out", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").is_file()


def test_curves_of_the_picture_fall(linear, tmp_path):
    found, _, _ = linear
    draw(found, tmp_path / "new" / "rotation.png")
    image = np.asarray(Image.open(tmp_path / "new" / "rotation.png").convert("RGB")).astype(int)[:370, :430]
    orange = np.argwhere((np.abs(image - np.array((255, 127, 14))) < 12).all(-1))
    blue = np.argwhere((np.abs(image - np.array((31, 119, 180))) < 12).all(-1))
    assert orange[:, 0].max() > blue[:, 0].min() + 100, "the diagonal's bound lies below that of the full covariance"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rotation.png"]
    assert "The ELBO falls at 45 degrees" in report(found, 4000)


def test_only_a_vae_of_ours_on_known_factors_serves(tmp_path, capsys):
    model = linear_vae()[0]
    assert isinstance(load(run_of(tmp_path / "good", model) / "checkpoints" / "last.ckpt"), Variational)
    (tmp_path / "empty").mkdir()
    plain = run_of(tmp_path / "plain", model, "tests.benchmarks.test_rotation.Plain")
    code = run_of(tmp_path / "code", VQVAE2())
    other = run_of(tmp_path / "other", model)
    held = torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)
    held["hyper_parameters"]["latent"] = 5
    torch.save(held, other / "checkpoints" / "last.ckpt")
    lost = run_of(tmp_path / "lost", model)
    (lost / "config.yaml").unlink()
    for folder, words in (
        (tmp_path / "empty", "There is no .*last.ckpt: give the folder of a trained run"),
        (plain, "whose factors are not known"),
        (code, "VQVAE2, which has no posterior to turn"),
        (other, "does not fit the BetaVAE that it describes"),
        (lost, "There is no .*config.yaml"),
    ):
        with pytest.raises((OSError, ValueError), match=words):
            opened(folder)
    assert main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith("error: There is no ")
    assert main([str(other), "--rotations", "0"]) == 2
    assert "--rotations is 1 or more" in capsys.readouterr().err


def test_a_code_that_collapsed_cannot_turn():
    model, _ = linear_vae()
    known = look(model, FactorDataModule(Sums()), 100)
    collapsed = known._replace(mu=known.mu * torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="Of 3 coordinates 1 varies and a rotation needs two"):
        measure(model, collapsed, Sums.names, 1)
