import hashlib
import socket

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from metrics.features.lpips import LPIPS

# Index in torchvision's `features`, output channels, kernel, stride, padding, pooled before.
ALEX = [(0, 64, 11, 4, 2, 0), (3, 192, 5, 1, 2, 3), (6, 384, 3, 1, 1, 3), (8, 256, 3, 1, 1, 0), (10, 256, 3, 1, 1, 0)]
# Of every block of VGG-16, the last convolution is a level of the distance.
VGG = [(0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (17, 512), (19, 512), (21, 512)]
VGG += [(24, 512), (26, 512), (28, 512)]
LEVELS = {"alex": {0, 3, 6, 8, 10}, "vgg": {2, 7, 14, 21, 28}}


def layers(net):
    return ALEX if net == "alex" else [(n, o, 3, 1, 1, 2 if n in (5, 10, 17, 24) else 0) for n, o in VGG]


def random_weights(net):
    rng = torch.Generator().manual_seed(0)
    tensors, i = {"classifier.1.weight": torch.zeros(2, 2)}, 3
    for n, o, kernel, *_ in layers(net):
        tensors[f"features.{n}.weight"] = (
            torch.randn(o, i, kernel, kernel, generator=rng) * (2 / (i * kernel**2)) ** 0.5
        )
        tensors[f"features.{n}.bias"] = torch.randn(o, generator=rng) * 0.1
        i = o
    return tensors


@pytest.fixture(scope="module", params=["alex", "vgg"])
def case(request, tmp_path_factory):
    net = request.param
    path = tmp_path_factory.mktemp(net) / "weights.pth"
    torch.save(random_weights(net), path)
    return net, path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def lpips(case):
    return LPIPS(*case)


def images(n=3, size=40):
    rng = torch.Generator().manual_seed(1)
    return [torch.rand(n, 3, size, size, generator=rng) * 2 - 1 for _ in range(2)]


def by_hand(net, x):
    """Unit-length features of each level (Zhang et al. 2018, Eq. 1)."""
    tensors = random_weights(net)
    # ImageNet's mean and deviation on [-1, 1], rounded as published.
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    h = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for n, _, _, stride, padding, pool in layers(net):
        h = max_pool2d(h, pool, 2) if pool else h
        h = conv2d(h, tensors[f"features.{n}.weight"], tensors[f"features.{n}.bias"], stride, padding).relu()
        if n in LEVELS[net]:
            yield h / (h.square().sum(1, keepdim=True) + 1e-8).sqrt()


def test_the_formula_of_the_paper(case, lpips):
    net, (x, y) = case[0], images()
    heads = [lin.model[-1].weight for lin in lpips._net.lins]
    assert all((head >= 0).all() and head.sum() > 0 for head in heads)  # loaded: trained under that constraint
    levels = zip(heads, by_hand(net, x), by_hand(net, y), strict=True)
    expected = sum((head * (p - q).square()).sum(1).mean((1, 2)) for head, p, q in levels)
    values = lpips(x, y)
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, expected.double(), rtol=1e-5, atol=0)


def test_a_distance_per_pair(lpips):
    x, y = images()
    assert lpips(x, x).tolist() == [0.0] * 3
    torch.testing.assert_close(lpips(x, y), lpips(y, x))
    torch.testing.assert_close(lpips(x, y)[1:2], lpips(x[1:2], y[1:2]), rtol=1e-5, atol=0)
    expected = lpips(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lpips(x, y), expected)
    assert not lpips(x.requires_grad_(), y).requires_grad


def test_neither_network_nor_global_random_state_is_touched(case, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = torch.get_rng_state()
    LPIPS(*case)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_protocol_names_file_and_checksum(case, lpips):
    net, _, checksum = case
    assert lpips.name == f"lpips-{net}"
    assert lpips.protocol["backbone"] == f"weights.pth sha256 {checksum[:16]}"


def test_a_missing_file_is_named_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    with pytest.raises(FileNotFoundError, match=rf"vgg16-397923af.pth \(sha256 397923af.*there is no file at {place}"):
        LPIPS("vgg")
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-7be5be79.pth .*at elsewhere.pth"):
        LPIPS("alex", "elsewhere.pth")


def test_another_checksum_is_refused(case):
    net, path, checksum = case
    with pytest.raises(ValueError, match=rf"weights.pth has sha256 {checksum[:16]}... where .* is expected"):
        LPIPS(net, path)
    LPIPS(net, path, checksum[:8])


def test_the_other_backbone_is_refused(case):
    net, path, checksum = case
    with pytest.raises(ValueError, match=r"weights.pth lacks features\.\d+\.(weight|bias)"):
        LPIPS({"alex": "vgg", "vgg": "alex"}[net], path, checksum)


def test_images_too_small_for_the_network_are_refused(case, lpips):
    least = {"alex": 31, "vgg": 16}[case[0]]
    assert lpips(*images(1, least)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {least}x{least} pixels"):
        lpips(*images(1, least - 1))
    with pytest.raises(ValueError, match="of one shape"):
        lpips(images()[0], images(2)[0])
