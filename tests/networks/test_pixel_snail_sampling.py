"""Sampling place by place: the numbers of the full pass, at its cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from networks import prepared
from networks.pixel_snail_sampling import cached_logits, chosen, sample
from tests.networks.test_pixel_snail import small

NETS = {
    "top": {"shape": (6, 7), "out_blocks": 1},
    "bottom": {"shape": (8, 6), "attention": False, "cond_blocks": 1, "res_blocks": 2},
    "both": {"shape": (4, 6), "cond_blocks": 2, "kernel": 3},
    "row": {"shape": (1, 9)},
}


def case(name: str, n: int = 2):
    """A network, codes and the map above them."""
    net = small(**NETS[name])
    height, width = net.shape
    rng = torch.Generator().manual_seed(2)
    codes = torch.randint(5, (n, height, width), generator=rng)
    return net, codes, torch.randint(5, (n, height // 2, width // 2), generator=rng) if net.conditional else None


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_logits_are_those_of_the_full_pass(name):
    net, codes, condition = case(name)
    full = net(codes, condition)
    assert full.std() > 0.1
    torch.testing.assert_close(cached_logits(net, codes, condition), full, rtol=0, atol=1e-10)
    net.float()
    torch.testing.assert_close(cached_logits(net, codes, condition), net(codes, condition), rtol=0, atol=1e-5)
    assert prepared._prepared is None


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_codes_are_those_that_full_passes_would_draw(name):
    net, _, condition = case(name)
    height, width = net.shape
    chance = torch.rand(2, height, width, generator=seeded(), dtype=torch.float64)
    wanted = torch.zeros(2, height, width, dtype=torch.int64)
    for i in range(height):
        for j in range(width):
            wanted[:, i, j] = chosen(net(wanted, condition)[:, :, i, j], 0.7, chance[:, i, j])
    assert len(wanted.unique()) > 2
    assert torch.equal(sample(net, 2, condition, temperature=0.7, rng=seeded()), wanted)


@pytest.mark.parametrize(("attention", "cond_blocks"), [(True, 0), (False, 1)])
def test_a_sample_costs_what_one_pass_costs(attention, cond_blocks):
    shares = []
    for size in (4, 10):
        net = small((size, size), attention=attention, cond_blocks=cond_blocks, blocks=1)
        codes = torch.zeros(1, size, size, dtype=torch.int64)
        condition = codes[:, ::2, ::2].contiguous() if cond_blocks else None
        with FlopCounterMode(display=False) as full, torch.no_grad():
            net(codes, condition)
        with FlopCounterMode(display=False) as cached:
            sample(net, 1, condition)
        shares.append(cached.get_total_flops() / full.get_total_flops())
    assert all(0.7 < share < 1.0 for share in shares)
    assert shares[1] < 1.05 * shares[0]


def test_one_seed_gives_the_same_codes_and_maps_do_not_depend_on_each_other():
    net, _, condition = case("both", 3)
    first = sample(net, 3, condition, rng=seeded())
    assert first.dtype == torch.int64
    assert first.shape == (3, 4, 6)
    assert torch.equal(first, sample(net, 3, condition, rng=seeded()))
    assert torch.equal(first[:1], sample(net, 1, condition[:1], rng=seeded()))
    assert not torch.equal(first, sample(net, 3, condition, rng=seeded(4)))
    torch.manual_seed(0)
    drawn = sample(net, 3, condition)
    torch.manual_seed(0)
    assert torch.equal(drawn, sample(net, 3, condition))


def test_given_rows_are_kept_and_the_rest_follows_from_them():
    net, codes, _ = case("top")
    whole = sample(net, 2, rng=seeded())
    assert torch.equal(sample(net, 2, given=whole[:, :3], rng=seeded()), whole)
    other = sample(net, 2, given=codes[:, :3], rng=seeded())
    assert torch.equal(other[:, :3], codes[:, :3])
    assert not torch.equal(other[:, 3:], whole[:, 3:])
    assert torch.equal(sample(net, 2, given=codes), codes)
    assert torch.equal(sample(net, 2, given=codes[:, :0], rng=seeded()), whole)


def test_progress_is_told_after_each_row():
    rows = []
    sample(case("top")[0], 1, progress=rows.append)
    assert rows == [1, 2, 3, 4, 5, 6]


def test_a_code_is_chosen_as_often_as_it_is_likely():
    shares = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0])
    chance = (torch.arange(1000, dtype=torch.float64)) / 1000
    for temperature in (1.0, 0.5):
        codes = chosen(shares.log().expand(1000, 6), temperature, chance)
        wanted = shares ** (1 / temperature)
        torch.testing.assert_close(codes.bincount(minlength=6) / 1000, wanted / wanted.sum(), rtol=0, atol=2e-3)
        assert codes[0] == 1
        assert not codes.bincount(minlength=6)[shares == 0].any()
    above = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert chosen(shares.log()[None], 1.0, above).item() == 4
    assert chosen(torch.zeros(1, 6), 1.0, above).item() == 5


def test_cold_samples_are_the_likeliest_codes():
    net, _, condition = case("both")
    cold = sample(net, 2, condition, temperature=1e-4, rng=seeded())
    with torch.no_grad():
        assert torch.equal(net(cold, condition).argmax(1), cold)


def test_what_cannot_be_sampled_is_refused():
    net, codes, condition = case("both")
    with pytest.raises(ValueError, match=r"training mode.*call eval\(\) first"):
        sample(net.train(), 2, condition)
    net.eval()
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be above 0, not {temperature}"):
            sample(net, 2, condition, temperature=temperature)
    with pytest.raises(ValueError, match="needs the map above"):
        sample(net, 2)
    with pytest.raises(ValueError, match=r"condition must be int64 \(3, 2, 3\)"):
        sample(net, 3, condition)
    with pytest.raises(ValueError, match=r"given must be int64 \(2, 2, 6\), not torch.int64 \(1, 2, 6\)"):
        sample(net, 2, condition, given=codes[:1, :2])
    with pytest.raises(ValueError, match="given has 5 rows, but a map has 4: give the first of them"):
        sample(net, 2, condition, given=torch.zeros(2, 5, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"given must be in \[0, 5\)"):
        sample(net, 2, condition, given=codes + 5)
