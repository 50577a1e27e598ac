"""Networks of auto-encoders: sizes that the specification counts, and outputs that it has recorded."""

import pytest
import torch
from torch import nn

from networks.vae import Decoder, Encoder, PermutationDiscriminator
from tests.hashed import filled, hashed

LOCATELLO = ((32, 32, 64, 64), (4, 4, 2, 2), (256,), (256,))
BURGESS = ((32, 32, 32, 32), (4, 4, 4, 4), (256, 256), (256, 256))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("shape", "latent", "layers", "tanh", "numbers"),
    [
        ((1, 28, 28), 20, ((), (), (400,), (400,)), False, (330_040, 322_784)),
        ((1, 64, 64), 10, ((), (), (1200, 1200), (1200, 1200, 1200)), True, (6_381_620, 7_814_896)),
        ((1, 64, 64), 10, LOCATELLO, False, (309_204, 381_313)),
        ((1, 64, 64), 10, ((32, 32, 64, 64), (4, 4, 4, 4), (256,), (256,)), False, (382_932, 381_313)),
        ((3, 64, 64), 10, LOCATELLO, False, 692_567),
        ((1, 64, 64), 10, BURGESS, False, 502_005),
        ((3, 64, 64), 10, BURGESS, False, 504_055),
        ((1, 32, 32), 10, ((32,) * 3, (4,) * 3, (256, 256), (256, 256)), False, 469_173),
    ],
)
def test_parameters_and_shapes(shape, latent, layers, tanh, numbers):
    convs, kernels, hidden, dec_hidden = layers
    encoder, decoder = Encoder(shape, latent, convs, kernels, hidden), Decoder(latent, shape, convs, dec_hidden, tanh)
    numbers_here = (count(encoder), count(decoder))
    assert numbers_here == numbers if isinstance(numbers, tuple) else sum(numbers_here) == numbers
    x = torch.rand(2, *shape)
    mu, logvar = encoder(x)
    assert mu.shape == logvar.shape == (2, latent)
    assert decoder(mu).shape == x.shape


def test_tanh_is_that_of_the_linear_layers():
    decoder = Decoder(1, (1, 1, 2), (), (1,), tanh=True)
    for p in decoder.parameters():
        nn.init.ones_(p)
    z = torch.tensor([[-3.0]])
    torch.testing.assert_close(decoder(z), (torch.tanh(z + 1) + 1).expand(1, 2).view(1, 1, 1, 2))


def test_discriminators():
    assert count(PermutationDiscriminator(10)) == 5_018_002
    assert count(PermutationDiscriminator(10, layers=5)) == 4_017_002
    assert PermutationDiscriminator(10, 8)(torch.randn(3, 10)).shape == (3, 2)


NAMES = {  # disvae's, by which the recorded weights are laid out
    "encoder.conv1": "encoder.convs.0", "encoder.conv2": "encoder.convs.1", "encoder.conv3": "encoder.convs.2",
    "encoder.conv_64": "encoder.convs.3", "encoder.lin1": "encoder.layers.0", "encoder.lin2": "encoder.layers.1",
    "decoder.lin1": "decoder.layers.0", "decoder.lin2": "decoder.layers.1", "decoder.lin3": "decoder.layers.2",
    "decoder.convT_64": "decoder.convs.0", "decoder.convT1": "decoder.convs.1", "decoder.convT2": "decoder.convs.2",
    "decoder.convT3": "decoder.convs.3",
}  # fmt: skip


def test_outputs_of_disvae_at_its_own_size():
    convs, kernels, hidden, dec_hidden = BURGESS
    net = nn.ModuleDict(
        {
            "encoder": Encoder((1, 64, 64), 10, convs, kernels, hidden),
            "decoder": Decoder(10, (1, 64, 64), convs, dec_hidden),
        }
    ).double()
    state = net.state_dict()
    ours = {f"{name}.{kind}": f"{own}.{kind}" for name, own in NAMES.items() for kind in ("weight", "bias")}
    heads = {kind: torch.empty(20, *state[f"encoder.mu.{kind}"].shape[1:]) for kind in ("weight", "bias")}
    head = {f"encoder.mu_logvar_gen.{kind}": value for kind, value in heads.items()}
    official = filled({name: state[own] for name, own in ours.items()} | head)
    new = {own: official[name] for name, own in ours.items()}
    for kind in heads:  # disvae's one layer gives mean and variance by turns
        both = official[f"encoder.mu_logvar_gen.{kind}"]
        new |= {f"encoder.mu.{kind}": both[::2], f"encoder.logvar.{kind}": both[1::2]}
    net.load_state_dict(new)
    x = (hashed((4, 1, 64, 64), 1000) + 1) / 2
    mu, logvar = net["encoder"](x)
    recon = net["decoder"](mu).sigmoid()
    assert recon.sum().item() == pytest.approx(8214.587626, abs=1e-6)
    assert recon.flatten()[[0, -1]].tolist() == pytest.approx([0.5026982967, 0.4998259659], abs=1e-10)
    assert mu.sum().item() == pytest.approx(0.6232259498, abs=1e-9)
    assert mu.abs().sum().item() == pytest.approx(2.058560748, abs=1e-9)
    assert logvar.sum().item() == pytest.approx(-0.5878058949, abs=1e-9)
