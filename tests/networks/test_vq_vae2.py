"""Networks of VQ-VAE-2: sizes and outputs of the release that the specification has recorded, and levels beyond it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from networks.vq_vae2 import Decoder, Encoder, ResBlock, VQVAE2Networks, only
from tests.ddp import run_ddp
from tests.hashed import filled, hashed

RELEASE = {  # the release's name: ours; what follows it is the same
    "enc_b": "encoders.1",
    "enc_t": "encoders.0",
    "quantize_conv_t": "projections.0",
    "quantize_conv_b": "projections.1",
    "quantize_t": "codebooks.0",
    "quantize_b": "codebooks.1",
    "dec_t": "conditioners.0",
    "upsample_t": "upsamples.0",
    "dec": "decoder",
}
SMALL = {"width": 8, "res_width": 4, "dim": 5, "codes": 7}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def by_release(net: VQVAE2Networks) -> dict[str, str]:
    """The release's name of each of our tensors: ours."""
    back = {own: official for official, own in RELEASE.items()}
    result = {}
    for name in net.state_dict():
        own = next(own for own in back if name.startswith(own + "."))
        result[back[own] + name[len(own) :]] = name
    return result


def small(**arguments) -> VQVAE2Networks:
    """In float64, with entries where the vectors are, so that many are used."""
    torch.manual_seed(0)
    net = VQVAE2Networks(**(SMALL | arguments)).double()
    for codebook in net.codebooks:
        codebook.embed.mul_(0.2)
        codebook.cluster_size.fill_(1)
        codebook.embed_avg.copy_(codebook.embed)
    return net


def images(n: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parameters_are_the_release_s():
    net = VQVAE2Networks()
    parts = {official: count(net.get_submodule(own)) for official, own in RELEASE.items()}
    assert parts == {
        "enc_b": 364_160,
        "enc_t": 287_232,
        "quantize_conv_t": 8_256,
        "quantize_conv_b": 12_352,
        "quantize_t": 0,
        "quantize_b": 0,
        "dec_t": 287_232,
        "upsample_t": 65_600,
        "dec": 364_035,
    }
    assert count(net) == 1_388_867
    assert sum(buffer.numel() for buffer in net.buffers()) == 132_096


def test_names_and_shapes_are_the_release_s():
    net = VQVAE2Networks()
    state, names = net.state_dict(), by_release(net)
    shapes = {name: tuple(state[own].shape) for name, own in names.items() if not name.endswith("bias")}
    res = {"conv.1": (32, 128, 3, 3), "conv.3": (128, 32, 1, 1)}
    layers = {
        "enc_b": {0: (64, 3, 4, 4), 2: (128, 64, 4, 4), 4: (128, 128, 3, 3), 5: res, 6: res},
        "enc_t": {0: (64, 128, 4, 4), 2: (128, 64, 3, 3), 3: res, 4: res},
        "dec_t": {0: (128, 64, 3, 3), 1: res, 2: res, 4: (128, 64, 4, 4)},
        "dec": {0: (128, 128, 3, 3), 1: res, 2: res, 4: (128, 64, 4, 4), 6: (64, 3, 4, 4)},
    }
    expected = {"quantize_conv_t.weight": (64, 128, 1, 1), "quantize_conv_b.weight": (64, 192, 1, 1)}
    expected["upsample_t.weight"] = (64, 64, 4, 4)
    for level in "tb":
        expected |= {f"quantize_{level}.{name}": (64, 512) for name in ("embed", "embed_avg")}
        expected[f"quantize_{level}.cluster_size"] = (512,)
    for part, blocks in layers.items():
        for k, shape in blocks.items():
            inner = {"": shape} if isinstance(shape, tuple) else {f".{name}": of for name, of in shape.items()}
            expected |= {f"{part}.blocks.{k}{name}.weight": of for name, of in inner.items()}
    assert shapes == expected
    biases = {name.removesuffix("bias") for name in names if name.endswith("bias")}
    assert biases == {name.removesuffix("weight") for name in expected if name.endswith("weight")}


@pytest.fixture
def recorded() -> tuple[VQVAE2Networks, torch.Tensor]:
    """The networks of the specification's appendix B, and its images."""
    net = VQVAE2Networks().double()
    names, state = by_release(net), net.state_dict()
    official = filled({name: state[own] for name, own in names.items()})
    for k, level in enumerate("tb"):
        size = 1 + hashed((512,), 50 + k).abs()
        embed = 0.2 * hashed((64, 512), 60 + k)
        official[f"quantize_{level}.cluster_size"] = size
        official[f"quantize_{level}.embed"] = embed
        official[f"quantize_{level}.embed_avg"] = embed * size
    net.load_state_dict({own: official[name] for name, own in names.items()})
    return net, hashed((2, 3, 64, 64), 1000)


def numbers(x: torch.Tensor) -> list[float]:
    return [x.sum().item(), x.abs().sum().item()]


@torch.no_grad()
def test_outputs_of_the_release(recorded):
    net, x = recorded
    net.eval()
    top, bottom = found = net.encode(x)
    assert numbers(top.codes) == pytest.approx([39.63011846, 739.7802981], rel=1e-9)
    assert numbers(bottom.codes) == pytest.approx([-25.9606909, 3307.762088], rel=1e-8)
    assert (top.commitment + bottom.commitment).item() == pytest.approx(0.08883954118, abs=1e-11)
    assert (top.indices.shape, bottom.indices.shape) == ((2, 8, 8), (2, 16, 16))
    assert [q.indices.sum().item() for q in found] == [54661, 162497]
    assert top.indices.flatten()[:6].tolist() == [401, 491, 491, 491, 491, 265]
    assert bottom.indices.flatten()[:6].tolist() == [27, 159, 311, 423, 190, 493]
    assert [len(q.indices.unique()) for q in found] == [8, 57]
    recon = net.decode([q.codes for q in found])
    assert numbers(recon) == pytest.approx([-1296.101508, 3311.339977], rel=1e-9)
    assert recon.flatten()[0].item() == pytest.approx(0.06675749483, abs=1e-11)
    torch.testing.assert_close(net.decode_indices([q.indices for q in found]), recon, rtol=0, atol=1e-12)


def test_a_training_pass_of_the_release(recorded):
    net, x = recorded
    recon, commitment = net(x)
    mse = (recon - x).square().mean()
    loss = mse + 0.25 * commitment
    loss.backward()
    assert mse.item() == pytest.approx(0.3652082804797807, rel=1e-12)
    assert commitment.item() == pytest.approx(0.0888395411787089, rel=1e-12)
    assert loss.item() == pytest.approx(0.3874181657744579, rel=1e-12)
    gradient = net.encoders[1].blocks[0].weight.grad
    assert gradient.abs().sum().item() == pytest.approx(0.5123827435, rel=1e-9)
    assert gradient.flatten()[0].item() == pytest.approx(6.940727691e-05, rel=1e-9)
    top, bottom = net.codebooks
    assert numbers(top.embed) == pytest.approx([-7.885253778, 3287.078454], rel=1e-9)
    assert top.cluster_size.sum().item() == pytest.approx(760.6716036, rel=1e-9)
    assert bottom.embed.abs().sum().item() == pytest.approx(3266.668298, rel=1e-9)
    assert bottom.embed_avg.abs().sum().item() == pytest.approx(4824.650469, rel=1e-9)
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_residual_block():
    torch.manual_seed(0)
    block, x = ResBlock(4, 3), torch.randn(2, 4, 5, 6)
    first, second = block.conv[1], block.conv[3]
    before = x.clone()
    h = conv2d(x.clamp(min=0), first.weight, first.bias, padding=1).clamp(min=0)
    torch.testing.assert_close(block(x), x + conv2d(h, second.weight, second.bias))
    assert torch.equal(x, before)


def conv(i: int, o: int, k: int) -> int:
    return i * o * k * k + o


@pytest.mark.parametrize(
    ("stride", "strided"), [(2, [(3, 8)]), (4, [(3, 8), (8, 16)]), (8, [(3, 8), (8, 16), (16, 16)])]
)
def test_encoder_and_decoder_mirror_each_other(stride, strided):
    encoder, decoder = Encoder(3, 16, 2, 4, stride), Decoder(5, 3, 16, 2, 4, stride)
    down = [
        (layer.in_channels, layer.out_channels) for layer in encoder.blocks if getattr(layer, "stride", 0) == (2, 2)
    ]
    up = [(layer.in_channels, layer.out_channels) for layer in decoder.blocks if isinstance(layer, nn.ConvTranspose2d)]
    assert down == strided
    # Half the width stands on the image's side in both; with one convolution the decoder has no place for it.
    assert up == ([(16, 3)] if stride == 2 else [(o, i) for i, o in reversed(strided)])
    res = 2 * (conv(16, 4, 3) + conv(4, 16, 1))
    assert count(encoder) == sum(conv(i, o, 4) for i, o in strided) + conv(strided[-1][1], 16, 3) + res
    assert count(decoder) == conv(5, 16, 3) + res + sum(conv(i, o, 4) for i, o in up)
    h = encoder(torch.randn(1, 3, 16, 24))
    assert h.shape == (1, 16, 16 // stride, 24 // stride)
    assert (h >= 0).all()
    assert decoder(torch.randn(1, 5, 2, 3)).shape == (1, 3, 2 * stride, 3 * stride)


@pytest.mark.parametrize(("levels", "stride"), [(1, 4), (2, 4), (2, 2), (3, 4), (3, 8), (4, 2)])
def test_any_number_of_levels(levels, stride):
    net = small(levels=levels, stride=stride).eval()
    assert net.multiple == stride * 2 ** (levels - 1)
    x = images(2, 2 * net.multiple, 3 * net.multiple)
    found = net.encode(x)
    assert [tuple(q.indices.shape) for q in found] == [(2, 2 * 2**k, 3 * 2**k) for k in range(levels)]
    assert [tuple(q.codes.shape) for q in found] == [(2, 5, 2 * 2**k, 3 * 2**k) for k in range(levels)]
    recon, commitment = net(x)
    assert recon.shape == x.shape
    assert commitment.shape == ()
    assert commitment.item() == pytest.approx(sum(q.commitment.item() for q in found))
    torch.testing.assert_close(net.decode_indices([q.indices for q in found]), recon)
    torch.testing.assert_close(net.encode(x[1:])[-1].indices, found[-1].indices[1:])


def test_sizes_of_the_paper_at_1024():
    net = VQVAE2Networks(width=4, res_blocks=0, res_width=1, dim=2, codes=3, levels=3, stride=8).eval()
    with torch.no_grad():
        found = net.encode(torch.zeros(1, 3, 1024, 1024))
    assert [q.indices.shape[1] for q in found] == [32, 64, 128]


def test_each_level_knows_all_above_it():
    net = small(levels=3)
    for level, knows in enumerate(
        (
            set(),
            {"conditioners.0"},
            {"conditioners.0", "conditioners.1", "upsamples.0"},  # the top reaches the bottom by both ways
        )
    ):
        net.zero_grad()
        net.encode(images(1, 16, 16))[level].codes.sum().backward()
        moved = {".".join(n.split(".")[:2]) for n, p in net.named_parameters() if p.grad is not None}
        assert {n for n in moved if n.startswith(("conditioners", "upsamples"))} == knows
    assert net.conditioners[1].blocks[0].in_channels == 10
    assert net.upsamples[1].in_channels == net.upsamples[1].out_channels == 10
    assert net.decoder.blocks[0].in_channels == 15


def test_conditioning_goes_before_the_features():
    net = small().eval()
    x = images(1, 16, 16)
    top, bottom = net.encode(x)
    below = net.encoders[1](x)
    told = net.conditioners[0](top.codes)
    wanted = net.projections[1](torch.cat((told, below), 1))
    torch.testing.assert_close(bottom.commitment, (net.codebooks[1].lookup(bottom.indices) - wanted).square().mean())
    recon = net.decoder(torch.cat((net.upsamples[0](top.codes), bottom.codes), 1))
    assert torch.equal(recon, net.decode([top.codes, bottom.codes]))


def test_commitment_moves_no_decoder_and_reconstruction_no_codebook():
    net = small()
    net(images(2, 16, 16))[1].backward()
    assert all(p.grad is None for p in (*net.decoder.parameters(), *net.upsamples.parameters()))
    assert all(p.grad is not None for p in (*net.encoders.parameters(), *net.projections.parameters()))
    assert not any(buffer.requires_grad for buffer in net.buffers())


@torch.no_grad()
def test_some_levels_only():
    net = small(levels=3).eval()
    a, b = ([q.codes for q in net.encode(images(1, 16, 16, seed))] for seed in (1, 2))
    top = only(a, {0})
    assert torch.equal(top[0], a[0])
    assert all(not of_level.any() for of_level in top[1:])
    assert [of_level.shape for of_level in top] == [of_level.shape for of_level in a]
    assert torch.equal(net.decode(top), net.decode(only([a[0], *b[1:]], [0])))  # whatever was below
    bottom = only(a, (2,))
    assert [bool(of_level.any()) for of_level in bottom] == [False, False, True]
    assert torch.equal(net.decode(bottom), net.decode(only([*b[:2], a[2]], (2,))))
    assert all(torch.equal(kept, whole) for kept, whole in zip(only(a, range(3)), a, strict=True))
    pictures = [net.decode(only(a, [k])) for k in range(3)] + [net.decode(a)]
    assert all(not torch.allclose(p, q) for i, p in enumerate(pictures) for q in pictures[:i])
    with pytest.raises(ValueError, match="from 0, the top, to 2, the bottom, not 3"):
        only(a, [3, 0])


def test_evaluation_moves_nothing_and_a_batch_that_is_not_finite_no_codebook():
    net = small(restart_below=0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval()(images(2, 16, 16))
    net.train()
    x = images(2, 16, 16)
    x[0, 1, 3, 3] = float("nan")
    assert not net(x)[1].isfinite()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net(images(2, 16, 16))
    assert not any(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_arguments_of_the_codebooks_reach_them():
    net = VQVAE2Networks(**SMALL, levels=3, decay=0.5, eps=1e-3, restart_below=2.0)
    assert [(c.decay, c.eps, c.restart_below) for c in net.codebooks] == [(0.5, 1e-3, 2.0)] * 3


@pytest.mark.parametrize(
    ("argument", "value"), [("levels", 0), ("stride", 3), ("stride", 1), ("stride", 0), ("width", 1)]
)
def test_arguments_out_of_range_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* not {value}"):
        VQVAE2Networks(**(SMALL | {argument: value}))


def test_wrong_images_and_codes_are_refused_before_compute():
    net = small()
    before = {name: value.clone() for name, value in net.named_buffers()}
    for shape in ((1, 3, 12, 16), (1, 3, 16, 20), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"multiples of 8, not .*resize, crop or pad"):
            net.encode(torch.zeros(shape, dtype=torch.float64))
    top, bottom = torch.zeros(1, 5, 2, 3).double(), torch.zeros(1, 5, 4, 6).double()
    for codes in ([top], [top, bottom, bottom], []):
        with pytest.raises(ValueError, match=rf"each of 2 levels, the top first, not {len(codes)}"):
            net.decode(codes)
    with pytest.raises(ValueError, match=r"must double .*\(4, 6\)\], not \[\(2, 3\), \(2, 3\)\]"):
        net.decode([top, top])
    with pytest.raises(ValueError, match="each of 2 levels, the top first, not 1"):
        net.lookup([torch.zeros(1, 2, 3, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"in \[0, 7\)"):
        net.decode_indices([torch.full((1, 2, 3), 7), torch.zeros(1, 4, 6, dtype=torch.int64)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_bfloat16_autocast_trains_with_float32_codes():
    net = small().float()
    with torch.autocast("cpu", torch.bfloat16):
        recon, commitment = net(images(2, 16, 16).float())
    assert recon.dtype == torch.bfloat16
    assert commitment.dtype == net.codebooks[0].embed.dtype == torch.float32
    (recon.float().square().mean() + commitment).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def on_a_rank(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Codebooks after three passes in training, of a batch whose parts the processes have."""
    if world > 1:
        torch.distributed.init_process_group("gloo")
    net = small(levels=3)
    for step in range(3):
        net(images(4, 16, 16, seed=step).chunk(world)[rank])
    return dict(net.named_buffers())


@pytest.mark.ddp
def test_two_processes_have_the_codebooks_of_the_whole_batch():
    alone = on_a_rank(0, 1)
    first, second = run_ddp(on_a_rank)
    torch.testing.assert_close(first, alone, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.allclose(alone["codebooks.0.embed"], small(levels=3).codebooks[0].embed)
