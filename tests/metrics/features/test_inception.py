import hashlib
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from torchmetrics.image.fid import FrechetInceptionDistance

from callbacks.media import to_uint8, write_png
from metrics.features.extractor import FeatureExtractor, Features
from metrics.features.inception import Inception
from metrics.frechet import FrechetDistance
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance

AGREEMENT = 1e-4


def random_weights():
    """Tensors with the names and shapes of the published file, drawn so that 90 layers keep the signal's size."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = {}

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, tensors):
            names.update(self.state_dict())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        Unloaded("unloaded", ["2048"])
    rng = torch.Generator().manual_seed(0)
    for name, tensor in names.items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.8, 1.2, generator=rng)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1, generator=rng)
    return names


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_weights(), path)
    yield path, hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()  # 95 MB, and pytest keeps the folders of three runs


@pytest.fixture(scope="module")
def inception(file):
    return Inception(*file)


def images(n=2, height=35, width=50, seed=1, contrast=1.0):
    rng = torch.Generator().manual_seed(seed)
    coarse = interpolate(torch.rand(n, 3, 5, 5, generator=rng), (height, width), mode="bicubic")
    return (coarse + 0.2 * torch.rand(n, 3, height, width, generator=rng)) * 2 * contrast - 1.2


def two_sets(n):
    return images(n, seed=1), images(n, seed=2, contrast=0.7)


@pytest.fixture
def folders(tmp_path):
    """Saves sets of images and returns their folders and what is in the files, as uint8."""

    def save(*sets):
        paths = [tmp_path / str(i) for i in range(len(sets))]
        for path, x in zip(paths, sets, strict=True):
            for i, image in enumerate(to_uint8(x)):
                write_png(path / f"{i:03}.png", image)
        pixels = [np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())]) for path in paths]
        return [str(path) for path in paths], [torch.from_numpy(p).permute(0, 3, 1, 2) for p in pixels]

    return save


def ours(extract, real, fake):
    """FID and KID, in batches of two sizes."""
    metric = FrechetDistance(extract.size)
    seen = []
    for x, which in ((real, True), (fake, False)):
        seen.append(torch.cat([extract(part).embedding for part in x.split(7 if which else 5)]))
        metric.update(seen[-1], real=which)
    return metric.compute().item(), kernel_distance(*seen).item()


def torch_fidelity(folders, n, **options):
    import torch_fidelity

    with torch.random.fork_rng(devices=[]):
        return torch_fidelity.calculate_metrics(
            input1=folders[0],
            input2=folders[1],
            fid=True,
            kid=True,
            kid_subsets=1,
            kid_subset_size=n,
            cuda=False,
            cache=False,
            save_cpu_ram=True,  # no worker processes
            verbose=False,
            **options,
        )


def torchmetrics(real, fake, **options):
    metric = FrechetInceptionDistance(**options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


class Tiny(nn.Module):
    """Six numbers per image of bytes, in float64: what may differ is then the metrics."""

    num_features = 6

    def forward(self, pixels):
        x = pixels.double().flatten(2) / 255
        return torch.cat([x.mean(2), x.square().std(2)], dim=1)


class TinyExtractor:
    name, size, classes, protocol = "tiny", 6, 6, {}

    def __call__(self, x):
        embedding = Tiny()(torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2))
        return Features(embedding, embedding)


@pytest.fixture
def registered():
    """The name under which torch-fidelity knows ``Tiny``, for one test."""
    from torch_fidelity import registry
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class TheirTiny(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        def forward(self, pixels):
            return (Tiny()(pixels),)

        @staticmethod
        def get_provided_features_list():
            return ("six",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "six"

    registry.register_feature_extractor("tiny", TheirTiny)
    yield "tiny"
    del registry.FEATURE_EXTRACTORS_REGISTRY["tiny"]


def test_three_libraries_agree_on_a_tiny_network(folders, registered):
    n = 40
    real, fake = two_sets(n)
    paths, pixels = folders(real, fake)
    fid, kid = ours(TinyExtractor(), real, fake)
    theirs = torch_fidelity(paths, n, feature_extractor=registered)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=AGREEMENT)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=AGREEMENT)
    assert fid == pytest.approx(torchmetrics(*pixels, feature=Tiny()), rel=AGREEMENT)


@pytest.mark.slow
def test_three_libraries_agree_on_inception(file, inception, folders):
    n = 16
    real, fake = two_sets(n)
    paths, pixels = folders(real, fake)
    weights = {"feature_extractor_weights_path": str(file[0])}
    fid, kid = ours(inception, real, fake)
    theirs = torch_fidelity(paths, n, isc=True, isc_splits=1, **weights)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=AGREEMENT)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=AGREEMENT)
    score = inception_score(inception(real).logits).item()
    assert score - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=AGREEMENT)  # 1 is the least
    # With antialiasing, its default, torchmetrics leaves the published protocol.
    assert fid == pytest.approx(torchmetrics(*pixels, antialias=False, **weights), rel=AGREEMENT)


def test_it_is_an_extractor_whose_protocol_names_the_file(file, inception):
    assert isinstance(inception, FeatureExtractor)
    assert inception.protocol["weights"] == f"weights.pth sha256 {file[1][:16]}"
    assert inception.protocol.keys() == {"weights", "resize", "layer"}
    x = images(3)
    embedding, logits = inception(x)
    assert embedding.shape == (3, inception.size)
    assert logits.shape == (3, inception.classes)
    assert embedding.dtype == logits.dtype == torch.float32
    assert not inception(x.requires_grad_()).embedding.requires_grad
    assert inception(x[:0]).logits.shape == (0, 1008)
    head = torch.load(file[0], weights_only=True)["fc.weight"]
    torch.testing.assert_close(logits, embedding @ head.T)  # without the bias


def test_autocast_changes_nothing(inception):
    x = images()
    expected = inception(x)
    with torch.autocast("cpu", torch.bfloat16):
        seen = inception(x)
    assert torch.equal(seen.embedding, expected.embedding)
    assert torch.equal(seen.logits, expected.logits)


def test_an_image_and_its_file_have_the_same_features(inception):
    x = images() * 1.5  # beyond the range
    saved = torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) / 127.5 - 1
    assert not torch.equal(saved, x.clamp(-1, 1))
    assert torch.equal(inception(x).embedding, inception(saved).embedding)


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (299, 299), (301, 33)])
def test_of_an_even_colour_the_size_does_not_matter(inception, size):
    colour = torch.tensor([-0.5, 0.1, 0.9]).view(1, 3, 1, 1)
    expected = inception(colour.expand(1, 3, 35, 50)).embedding
    torch.testing.assert_close(inception(colour.expand(1, 3, *size)).embedding, expected, rtol=1e-4, atol=1e-5)


def test_an_image_that_is_not_finite_has_no_features(inception):
    x = images(3)
    expected = inception(x).embedding
    x[0, 1, 2, 3], x[2, 0, 0, 0] = torch.nan, torch.inf
    embedding, logits = inception(x)
    assert embedding[[0, 2]].isnan().all()
    assert logits[[0, 2]].isnan().all()
    assert torch.equal(embedding[1], expected[1])


def test_other_images_are_refused_with_the_cure(inception):
    with pytest.raises(ValueError, match=r"got \(2, 1, 35, 50\) torch.float32: repeat the channel of gray images"):
        inception(images()[:, :1])
    with pytest.raises(ValueError, match=r"needs float images \(N, 3, H, W\) in \[-1, 1\], got .* torch.uint8"):
        inception(images().byte())
    with pytest.raises(ValueError, match=r"got \(3, 35, 50\)"):
        inception(images()[0])


def test_a_missing_file_is_one_sentence_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    sentence = (
        rf"^Inception needs weights-inception-2015-12-05-6726825d.pth \(sha256 6726825d..., from https://\S+\), "
        rf"but there is no file at {place}: put it there or give its path, or \D+ fid_scenes\.$"
    )
    with pytest.raises(FileNotFoundError, match=sentence):
        Inception()


def test_another_checksum_is_refused(file):
    path, checksum = file
    with pytest.raises(ValueError, match=rf"weights.pth has sha256 {checksum[:16]}... where 6726825d... is expected"):
        Inception(path)


class Intruder:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


def test_a_file_of_something_else_is_refused_and_never_executed(tmp_path):
    path, trace = tmp_path / "other.pth", tmp_path / "trace"
    for content in ({"fc.weight": torch.zeros(2, 2)}, torch.zeros(3), Intruder(str(trace))):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"other.pth does not hold the network of weights-inception"):
            Inception(path, sha256="")
    assert not trace.exists()


def test_neither_network_nor_global_random_state_is_touched(file, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    before = torch.get_rng_state()
    Inception(*file)(images())
    with pytest.raises(FileNotFoundError):
        Inception("elsewhere.pth")
    assert torch.equal(torch.get_rng_state(), before)
