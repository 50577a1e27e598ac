"""Networks of auto-encoders: sizes that the specification counts, and outputs that it has recorded."""

import pytest
import torch
from torch import nn

from networks.vae import Burgess, Convolutional, FullyConnected, Lecture, PermutationDiscriminator, glorot_
from tests.hashed import filled, hashed


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "encoder", "decoder"),
    [
        (Lecture(), 330_040, 322_784),
        (Lecture(hidden=512), 422_440, 412_944),
        (FullyConnected(), 6_381_620, 7_814_896),
        (Convolutional(), 309_204, 381_313),
        (Convolutional(kernels=(4, 4, 4, 4)), 382_932, 381_313),
        (Convolutional(channels=3), 310_228, 382_339),
        (Burgess(), 502_005 - count(Burgess().decoder), count(Burgess().decoder)),
        (Burgess((1, 32, 32)), 469_173 - count(Burgess((1, 32, 32)).decoder), count(Burgess((1, 32, 32)).decoder)),
        (Burgess((3, 64, 64)), 504_055 - count(Burgess((3, 64, 64)).decoder), count(Burgess((3, 64, 64)).decoder)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_parameters_and_shapes(net, encoder, decoder):
    assert (count(net.encoder), count(net.decoder)) == (encoder, decoder)
    x = torch.rand(2, *net.image_shape)
    mu, logvar = net.encoder(x)
    assert mu.shape == logvar.shape == (2, net.latent)
    assert net.decoder(mu).shape == x.shape


def test_discriminators():
    assert count(PermutationDiscriminator(10)) == 5_018_002
    assert count(PermutationDiscriminator(10, layers=5)) == 4_017_002
    assert PermutationDiscriminator(10, 8)(torch.randn(3, 10)).shape == (3, 2)


def test_burgess_takes_two_sizes_only():
    with pytest.raises(ValueError, match="32 x 32 or 64 x 64, not \\(28, 28\\)"):
        Burgess((1, 28, 28))


def test_glorots_weights_have_their_variance_and_biases_are_zero():
    layer = nn.Linear(300, 200)
    glorot_(layer)
    assert layer.bias.abs().max() == 0
    assert layer.weight.var().item() == pytest.approx(2 / 500, rel=0.05)


NAMES = {  # the release's, by which the recorded weights are laid out
    "encoder.conv1": "encoder.convs.0", "encoder.conv2": "encoder.convs.1", "encoder.conv3": "encoder.convs.2",
    "encoder.conv_64": "encoder.convs.3", "encoder.lin1": "encoder.fc1", "encoder.lin2": "encoder.fc2",
    "encoder.mu_logvar_gen": "encoder.head", "decoder.lin1": "decoder.fc1", "decoder.lin2": "decoder.fc2",
    "decoder.lin3": "decoder.fc3", "decoder.convT_64": "decoder.convs.0", "decoder.convT1": "decoder.convs.1",
    "decoder.convT2": "decoder.convs.2", "decoder.convT3": "decoder.convs.3",
}  # fmt: skip


def test_outputs_of_the_release_at_its_own_size():
    net = Burgess().double()
    ours = {f"{name}.{kind}": f"{own}.{kind}" for name, own in NAMES.items() for kind in ("weight", "bias")}
    state = net.state_dict()
    official = filled({name: state[own] for name, own in ours.items()})
    net.load_state_dict({own: official[name] for name, own in ours.items()})
    x = (hashed((4, 1, 64, 64), 1000) + 1) / 2
    mu, logvar = net.encoder(x)
    recon = net.decoder(mu).sigmoid()
    assert recon.sum().item() == pytest.approx(8214.587626, abs=1e-6)
    assert recon.flatten()[[0, -1]].tolist() == pytest.approx([0.5026982967, 0.4998259659], abs=1e-10)
    assert mu.sum().item() == pytest.approx(0.6232259498, abs=1e-9)
    assert mu.abs().sum().item() == pytest.approx(2.058560748, abs=1e-9)
    assert logvar.sum().item() == pytest.approx(-0.5878058949, abs=1e-9)
