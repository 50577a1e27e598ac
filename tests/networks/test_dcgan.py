import pytest
import torch

from networks.batch_norm import BatchNorm2d
from networks.dcgan import Discriminator, Generator


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("latent", "widths", "channels", "of_g", "of_d"),
    [
        (100, [64, 128, 256, 512], 3, 3_576_704, 2_765_568),
        (100, [128, 256, 512, 1024], 3, 12_658_432, 11_036_160),
        (32, [24, 48, 96], 1, 142_032, 94_368),
    ],
)
def test_sizes(latent, widths, channels, of_g, of_d):
    with torch.device("meta"):
        g, d = Generator(latent, widths[::-1], channels), Discriminator(widths, channels)
    assert (count(g), count(d)) == (of_g, of_d)


def test_names_and_shapes_are_those_of_the_example():
    with torch.device("meta"):
        g, d = Generator(100, [512, 256, 128, 64]), Discriminator([64, 128, 256, 512])
    convs = {0: (100, 512), 3: (512, 256), 6: (256, 128), 9: (128, 64), 12: (64, 3)}
    found = g.state_dict()
    assert {f"main.{k}.weight" for k in convs} < set(found)
    assert all(tuple(found[f"main.{k}.weight"].shape) == (*ends, 4, 4) for k, ends in convs.items())
    assert {name.split(".")[1] for name in found if "running_mean" in name} == {"1", "4", "7", "10"}
    found = d.state_dict()
    assert [name for name in found if found[name].ndim == 4] == [f"main.{k}.weight" for k in (0, 2, 5, 8, 11)]
    assert {name.split(".")[1] for name in found if "running_mean" in name} == {"3", "6", "9"}
    assert not [name for name in found if name.endswith("11.bias")]


def test_codes_become_images_and_images_scores():
    torch.manual_seed(0)
    g, d = Generator(5, [16, 8]), Discriminator([8, 16])
    x = g(torch.randn(3, 5))
    assert x.shape == (3, 3, 16, 16)
    assert x.abs().max() < 1
    assert d(x).shape == (3,)


def test_it_starts_near_zero():
    torch.manual_seed(0)
    g = Generator(100, [64, 32])
    assert float(g.main[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    scales = torch.cat([layer.weight.detach() for layer in g.modules() if isinstance(layer, BatchNorm2d)])
    assert float((scales - 1).std()) == pytest.approx(0.02, rel=0.3)
    assert not any(layer.bias.any() for layer in g.modules() if isinstance(layer, BatchNorm2d))


def test_real_and_generated_images_in_one_batch_are_other_statistics():
    torch.manual_seed(0)
    d = Discriminator([8, 16])
    real, fake = torch.randn(4, 3, 16, 16), 3 * torch.randn(4, 3, 16, 16) + 1
    apart = torch.cat((d(real), d(fake)))
    assert not torch.allclose(apart, d(torch.cat((real, fake))), atol=1e-3)


def test_outside_training_no_image_depends_on_the_others():
    torch.manual_seed(0)
    g, z = Generator(5, [16, 8]), torch.randn(4, 5)
    alone = torch.cat([g(row[None]) for row in z])
    assert not torch.allclose(g(z), alone, atol=1e-3)
    g.eval()
    torch.testing.assert_close(g(z), torch.cat([g(row[None]) for row in z]))
