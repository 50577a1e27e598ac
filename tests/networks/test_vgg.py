import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from networks.frozen.vgg import VGG16

WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
TORCHVISION = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
CAFFE = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]


@pytest.fixture(scope="module")
def layers():
    rng = torch.Generator().manual_seed(0)
    sizes = zip([3, *WIDTHS], WIDTHS, strict=False)
    return [
        (torch.randn(o, i, 3, 3, generator=rng) * (2 / (9 * i)) ** 0.5, torch.randn(o, generator=rng) * 0.1)
        for i, o in sizes
    ]


@pytest.fixture(scope="module")
def files(layers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vgg")
    torchvision, caffe = {"classifier.0.weight": torch.zeros(2, 2)}, {}
    for n, name, (weight, bias) in zip(TORCHVISION, CAFFE, layers, strict=True):
        torchvision |= {f"features.{n}.weight": weight, f"features.{n}.bias": bias}
        caffe |= {f"conv{name}.weight": weight, f"conv{name}.bias": bias}
    torch.save(torchvision, folder / "torchvision.pth")
    torch.save(caffe, folder / "caffe.weight")
    return folder


@pytest.fixture(scope="module")
def vgg(files):
    return VGG16(files / "torchvision.pth")


def by_hand(layers, x):
    for k, (weight, bias) in enumerate(layers):
        if k in (2, 4, 7):
            x = max_pool2d(x, 2, 2)
        x = torch.relu(conv2d(x, weight, bias, padding=1))
    return x


def test_relu5_3_at_stride_eight_without_the_fourth_pool(vgg, layers):
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    y = vgg(x)
    assert y.shape == (2, 512, 8, 8)
    assert (y >= 0).all()
    torch.testing.assert_close(y, by_hand(layers, vgg.preprocess(x)))


def test_torchvision_colours(vgg):
    x = torch.stack([torch.full((4, 4), v) for v in (-1.0, 0.0, 1.0)])[None]
    expected = [(0.0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1.0 - 0.406) / 0.225]
    torch.testing.assert_close(vgg.preprocess(x)[0, :, 0, 0], torch.tensor(expected))


def test_caffe_colours_are_blue_first_and_in_bytes(files):
    x = torch.stack([torch.full((4, 4), v) for v in (-1.0, 0.0, 1.0)])[None]
    expected = [255 - 103.939, 127.5 - 116.779, 0 - 123.680]
    torch.testing.assert_close(VGG16(files / "caffe.weight").preprocess(x)[0, :, 0, 0], torch.tensor(expected))


def test_gradient_reaches_the_image_and_nothing_else(vgg):
    x = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    vgg(x).mean().backward()
    assert x.grad.abs().sum() > 0
    assert not any(t.requires_grad for layer in vgg._layers for t in layer)


def test_a_module_does_not_see_it(vgg):
    holder = nn.Linear(1, 1)
    holder.vgg = vgg
    assert list(holder.state_dict()) == ["weight", "bias"]
    assert len(list(holder.parameters())) == 2


def test_float32_under_autocast_and_float64_when_asked(vgg):
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    full = vgg(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vgg(x), full)
        assert vgg(x.bfloat16()).dtype == torch.float32
    double = vgg(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), full)
    assert torch.equal(vgg(x), full)  # back again


def test_trains_after_a_first_call_in_inference_mode(files):
    vgg = VGG16(files / "caffe.weight")
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        vgg(x)  # converts the weights here
    vgg(x.clone().requires_grad_()).mean().backward()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "There is no file of VGG-16 weights"),
        (b"no weights", "cannot be read"),
        ([1, 2], "does not hold tensors by name"),
        ({"layer.weight": torch.zeros(1)}, "lacks features.0.weight"),
        ({"conv1_1.weight": torch.zeros(64, 3, 3, 3)}, "lacks conv1_1.bias"),
    ],
)
def test_one_sentence_names_the_file_and_both_layouts(tmp_path, content, error):
    path = tmp_path / "some.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match=error) as raised:
        VGG16(path)
    assert all(part in str(raised.value) for part in (str(path), "vgg16-397923af.pth", "vgg16.weight"))


def test_wrong_shape_is_named(files, tmp_path):
    tensors = torch.load(files / "caffe.weight")
    tensors["conv3_2.weight"] = torch.zeros(256, 128, 3, 3)
    torch.save(tensors, tmp_path / "narrow.weight")
    with pytest.raises(ValueError, match=r"conv3_2.weight is \(256, 128, 3, 3\)"):
        VGG16(tmp_path / "narrow.weight")
