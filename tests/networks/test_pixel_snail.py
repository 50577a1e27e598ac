"""PixelSNAIL: outputs of the release that the specification has recorded, sizes, and what each place may know."""

import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy, elu, interpolate

from networks.pixel_snail import CausalAttention, GatedResBlock, PixelSNAILNetwork, coordinates
from networks.pixel_snail_layers import CausalConv, WeightNormConv, WeightNormLinear
from tests.hashed import filled

SMALL = {"classes": 5, "width": 16, "kernel": 5, "blocks": 2, "res_blocks": 1, "res_width": 6, "cond_width": 6}
GOLDEN = {"classes": 16, "width": 32, "kernel": 5, "blocks": 2, "res_blocks": 2, "res_width": 32, "cond_width": 32}


def small(shape=(8, 8), **arguments) -> PixelSNAILNetwork:
    """In float64 and evaluation mode, far from its initial weights."""
    torch.manual_seed(0)
    net = PixelSNAILNetwork(shape, **(SMALL | arguments)).double().eval()
    for p in net.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    return net


def by_release(net: PixelSNAILNetwork) -> dict[str, str]:
    """The release's name of each of our tensors: ours, in the order of registration."""
    wrapped = {WeightNormConv: 1, WeightNormLinear: 0}
    names = {"background": "background"}
    for name, layer in net.named_modules():
        for parameter, _ in layer.named_parameters(recurse=False):
            parts = name.split(".")
            twice = isinstance(layer, CausalConv) or parts[0] in ("horizontal", "vertical")
            times = 2 if twice else wrapped.get(type(layer), 1)
            names[".".join([*parts, *["conv"] * times, parameter])] = f"{name}.{parameter}"
    return names


def logits_of(net: PixelSNAILNetwork, codes: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
    """Of weights filled by the release's names, the coordinates as they are."""
    net.double().eval()
    own, names = net.state_dict(), by_release(net)
    assert sorted(names.values()) == sorted(own)
    hashes = filled({official: own[name] for official, name in names.items()})
    net.load_state_dict({names[k]: own[names[k]] if k == "background" else value for k, value in hashes.items()})
    with torch.no_grad():
        return net(codes, condition)


TOP = (torch.arange(128) * 7 % 16).view(2, 8, 8)


def test_logits_of_a_top_level_are_the_release_s():
    logits = logits_of(PixelSNAILNetwork((8, 8), **GOLDEN, out_blocks=1), TOP)
    assert logits.sum().item() == pytest.approx(-55.01547554, rel=1e-9)
    assert logits.abs().sum().item() == pytest.approx(498.7032541, rel=1e-9)
    assert logits[0, 0, 0, 0].item() == pytest.approx(-0.01080981411, rel=1e-8)
    assert cross_entropy(logits, TOP).item() == pytest.approx(2.8067115590771086, abs=1e-12)


def test_logits_of_a_bottom_level_are_the_release_s():
    codes = (torch.arange(512) * 5 % 16).view(2, 16, 16)
    logits = logits_of(PixelSNAILNetwork((16, 16), **GOLDEN, attention=False, cond_blocks=2), codes, TOP)
    assert logits.sum().item() == pytest.approx(-387.5398897, rel=1e-9)
    assert logits.abs().sum().item() == pytest.approx(2364.456003, rel=1e-9)
    assert logits[0, 0, 0, 0].item() == pytest.approx(-0.2562635008, rel=1e-8)
    assert cross_entropy(logits, codes).item() == pytest.approx(2.8687435834609754, abs=1e-12)


def test_names_shapes_and_numbers_of_parameters_are_the_release_s():
    with torch.device("meta"):
        top = PixelSNAILNetwork()
        bottom = PixelSNAILNetwork((64, 64), attention=False, cond_blocks=3)
    assert sum(p.numel() for p in top.parameters()) == 84_873_280
    assert sum(p.numel() for p in bottom.parameters()) == 89_762_816
    of_top, of_bottom = (
        {official: tuple(net.state_dict()[name].shape) for official, name in by_release(net).items()}
        for net in (top, bottom)
    )
    block = "blocks.3.resblocks.3."
    both = {
        "horizontal.conv.conv.bias": (256,),
        "horizontal.conv.conv.weight_g": (256, 1, 1, 1),
        "horizontal.conv.conv.weight_v": (256, 512, 2, 5),
        "vertical.conv.conv.weight_v": (256, 512, 3, 2),
        block + "conv1.conv.conv.weight_v": (256, 256, 5, 5),
        block + "conv2.conv.conv.weight_v": (512, 256, 5, 5),
        "out.1.conv.weight_v": (512, 256, 1, 1),
    }
    assert both.items() <= of_top.items()
    assert both.items() <= of_bottom.items()
    assert of_top["background"] == (1, 2, 32, 32)
    attention = "blocks.0.causal_attention."
    assert {
        "blocks.0.key_resblock.conv1.conv.weight_v": (256, 514, 1, 1),
        "blocks.0.key_resblock.conv2.conv.weight_v": (1028, 256, 1, 1),
        "blocks.0.query_resblock.conv1.conv.weight_v": (256, 258, 1, 1),
        "blocks.0.query_resblock.conv2.conv.weight_v": (516, 256, 1, 1),
        attention + "query.bias": (128,),
        attention + "query.weight_g": (128, 1),
        attention + "query.weight_v": (128, 258),
        attention + "key.weight_v": (128, 514),
        attention + "value.weight_v": (128, 514),
        "blocks.0.out_resblock.conv1.conv.weight_v": (256, 256, 1, 1),
        "blocks.0.out_resblock.aux_conv.conv.weight_v": (256, 128, 1, 1),
        "blocks.0.out_resblock.conv2.conv.weight_v": (512, 256, 1, 1),
    }.items() <= of_top.items()
    assert {
        block + "condition.conv.weight_g": (512, 1, 1, 1),
        block + "condition.conv.weight_v": (512, 256, 1, 1),
        "blocks.0.out.conv.weight_v": (256, 258, 1, 1),
        "cond_resnet.blocks.0.conv.weight_v": (256, 512, 3, 3),
        "cond_resnet.blocks.3.conv1.conv.weight_v": (256, 256, 3, 3),
        "cond_resnet.blocks.3.conv2.conv.weight_v": (512, 256, 3, 3),
    }.items() <= of_bottom.items()
    assert block + "condition.conv.bias" not in of_bottom
    assert sum(name.startswith("out.") for name in of_top) == 3


@pytest.mark.parametrize(("attention", "cond_blocks", "kernel"), [(True, 0, 5), (False, 1, 5), (True, 1, 3)])
@torch.no_grad()
def test_a_place_knows_what_is_before_it_and_nothing_else(attention, cond_blocks, kernel):
    net = small(attention=attention, cond_blocks=cond_blocks, kernel=kernel, out_blocks=1)
    rng = torch.Generator().manual_seed(1)
    codes = torch.randint(5, (1, 8, 8), generator=rng)
    condition = torch.randint(5, (1, 4, 4), generator=rng).expand(64, -1, -1) if cond_blocks else None
    changed = codes.expand(64, -1, -1).clone()
    changed.view(64, 64).diagonal().copy_((codes.flatten() + 1) % 5)  # map k has another code at place k
    moved = (net(changed, condition) - net(codes.expand(64, -1, -1), condition)).abs().amax(1).flatten(1)
    assert moved.triu(1).any()
    assert moved.tril().max() < 1e-12  # row k: places up to k
    for i in range(8):
        for j in range(8):
            near = [(i, j + 1), (i + 1, j), (i + 1, j + 1), (i + 1, j - 1)]
            assert all(moved[8 * i + j, 8 * a + b] > 1e-9 for a, b in near if 0 <= a < 8 and 0 <= b < 8)
    if attention:  # whoever comes after one that knows, however far; (i + 1, 0) need not know the end of its row above
        assert all((moved[8 * i : 8 * i + 8, 8 * i + 16 :] > 1e-12).all() for i in range(6))


@torch.no_grad()
def test_every_place_knows_the_level_above():
    net = small(attention=False, cond_blocks=1)
    codes, above = torch.zeros(16, 8, 8, dtype=torch.int64), torch.zeros(16, 4, 4, dtype=torch.int64)
    changed = above.clone()
    changed.view(16, 16).fill_diagonal_(3)
    moved = (net(codes, changed) - net(codes, above)).abs().amax(1)
    for k in range(16):
        i, j = divmod(k, 4)
        assert moved[k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].min() > 1e-6


def test_attention_is_a_softmax_of_earlier_places():
    torch.manual_seed(0)
    attention = CausalAttention(6, 10, 16, 0.1).double().eval()
    query, key = torch.randn(2, 6, 2, 3, dtype=torch.float64), torch.randn(2, 10, 2, 3, dtype=torch.float64)
    q, k, v = (layer(x.flatten(2).mT) for layer, x in zip(
        (attention.query, attention.key, attention.value), (query, key, key), strict=True
    ))  # fmt: skip
    wanted = torch.zeros(2, 6, 16, dtype=torch.float64)
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        scores = q[..., part] @ k[..., part].mT / 2**0.5
        scores = scores.masked_fill(torch.ones(6, 6).triu().bool(), -1e4)
        shares = scores.softmax(2)
        shares[:, 0] = 0
        wanted[..., part] = shares @ v[..., part]
    torch.testing.assert_close(attention(query, key), wanted.mT.reshape(2, 16, 2, 3))
    assert attention(query[..., :1, :1], key[..., :1, :1]).tolist() == torch.zeros(2, 16, 1, 1).tolist()


@pytest.mark.parametrize("causal", [False, True])
def test_gated_block(causal):
    torch.manual_seed(0)
    block = GatedResBlock(4, 3, 3, causal, aux_width=2, cond_width=5).double().eval()
    x, aux = torch.randn(2, 4, 6, 8, dtype=torch.float64), torch.randn(2, 2, 6, 8, dtype=torch.float64)
    condition = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    h = block.conv2(elu(block.conv1(elu(x)) + block.aux_conv(elu(aux))))
    h = h + conv2d(interpolate(condition, scale_factor=2), block.condition.weight())  # larger first, as the release
    value, gate = h.chunk(2, 1)
    torch.testing.assert_close(block(x, aux, condition), x + value * gate.sigmoid())
    torch.testing.assert_close(block(x), x + torch.nn.functional.glu(block.conv2(elu(block.conv1(elu(x)))), 1))
    assert isinstance(block.conv1, CausalConv) == isinstance(block.conv2, CausalConv) == causal


def test_dropout_is_where_it_is_said_and_in_training_only():
    net = small(cond_blocks=1, out_blocks=1, dropout=0.3, side_dropout=0.2)
    p = {name: layer.p for name, layer in net.named_modules() if hasattr(layer, "p")}
    side = {name for name in p if name.startswith(("out.", "cond_resnet."))}
    assert len(side) == 2
    assert {p[name] for name in side} == {0.2}
    assert {p[name] for name in p.keys() - side} == {0.3}
    assert len(p) == 2 + 2 * 5  # of each block one causal, key, query, attention, out
    codes, condition = torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64)
    assert torch.equal(net(codes, condition), net(codes, condition))
    net.train()
    assert not torch.equal(net(codes, condition), net(codes, condition))
    for layer in net.modules():
        if hasattr(layer, "p"):
            layer.p = 0.0
    torch.testing.assert_close(net(codes, condition), net.eval()(codes, condition))


def test_coordinates():
    rows, columns = coordinates(2, 4)[0]
    assert rows.tolist() == [[-0.5] * 4, [0.0] * 4]
    assert columns.tolist() == [[-0.5, -0.25, 0.0, 0.25]] * 2


def test_all_parameters_get_gradients_and_bfloat16_trains():
    net = small(cond_blocks=1, out_blocks=1).float().train()
    codes, condition = torch.randint(5, (2, 8, 8)), torch.randint(5, (2, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(net(codes, condition), codes)
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 4}, "kernel must be odd from 3 on and cond_kernel odd, not 4 and 3"),
        ({"kernel": 1}, "not 1 and 3"),
        ({"cond_kernel": 2}, "not 5 and 2"),
        ({"width": 24}, "multiple of 16 with attention, not 24"),
        ({"dropout": 1.0}, r"in \[0, 1\), not 1.0 and 0.1"),
        ({"side_dropout": -0.1}, "not 0.1 and -0.1"),
        ({"shape": (8, 0)}, r"not \(8, 0\)"),
        ({"shape": (8, 7), "cond_blocks": 1}, r"with a map above it even, not \(8, 7\)"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelSNAILNetwork(**({"shape": (8, 8)} | SMALL | arguments))


def test_wrong_maps_are_refused():
    top, bottom = small(), small(cond_blocks=1)
    codes, above = torch.zeros(2, 8, 8, dtype=torch.int64), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"codes must be int64 \(2, 8, 8\), not torch.int64 \(2, 8, 7\)"):
        top(codes[..., :7])
    with pytest.raises(ValueError, match=r"codes must be int64 .*not torch.float32"):
        top(codes.float())
    for stranger in (5, -1):
        with pytest.raises(ValueError, match=rf"codes must be in \[0, 5\), but go from .*{stranger}"):
            top(codes.index_fill(1, torch.tensor([3]), stranger))
    with pytest.raises(ValueError, match="without cond_blocks has no map above: give no condition"):
        top(codes, above)
    with pytest.raises(ValueError, match="with cond_blocks needs the map above: give condition"):
        bottom(codes)
    with pytest.raises(ValueError, match=r"condition must be int64 \(2, 4, 4\), not torch.int64 \(1, 4, 4\)"):
        bottom(codes, above[:1])
    with pytest.raises(ValueError, match=r"condition must be in \[0, 5\), but go from 0 to 5"):
        bottom(codes, above.index_fill(1, torch.tensor([3]), 5))
