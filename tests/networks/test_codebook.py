"""Codebook: nearest entries, gradients, running averages by a loop, its cold start and cure, processes, usage."""

import math

import pytest
import torch

from networks import codebook as file
from networks.codebook import Codebook, count, perplexity, usage
from tests.ddp import run_ddp


def book(dim=3, codes=6, scale=1.0, **arguments) -> Codebook:
    """Float64, with statistics as if entries had been used, each otherwise."""
    torch.manual_seed(0)
    result = Codebook(dim, codes, **arguments).double()
    result.embed.mul_(scale)
    result.cluster_size.copy_(1 + torch.arange(codes) / codes)
    result.embed_avg.copy_(result.embed * result.cluster_size)
    return result


def vectors(*shape, seed=1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def buffers(codebook: Codebook) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in codebook.state_dict().items()}


def same(codebook: Codebook, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


def test_starts_as_the_release_does():
    torch.manual_seed(0)
    codebook = Codebook(64, 512)
    shapes = {name: tuple(value.shape) for name, value in codebook.state_dict().items()}
    assert shapes == {"embed": (64, 512), "cluster_size": (512,), "embed_avg": (64, 512)}
    assert list(codebook.parameters()) == []
    assert torch.equal(codebook.embed, codebook.embed_avg)
    assert codebook.embed.data_ptr() != codebook.embed_avg.data_ptr()
    assert codebook.cluster_size.eq(0).all()
    assert codebook.embed.std().item() == pytest.approx(1, abs=0.02)  # of 32768 draws: 5 standard errors
    assert (codebook.decay, codebook.eps, codebook.restart_below) == (0.99, 1e-5, 0)


@pytest.mark.parametrize("rows", [file.ROWS, 7])
def test_nearest_entries_of_a_map(monkeypatch, rows):
    monkeypatch.setattr(file, "ROWS", rows)
    codebook, z = book().eval(), vectors(2, 3, 4, 5)
    codes, commitment, indices = codebook.quantise(z)
    assert indices.shape == (2, 4, 5)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                lengths = (codebook.embed - z[n, :, i, j, None]).square().sum(0)
                assert indices[n, i, j] == lengths.argmin()
                torch.testing.assert_close(codes[n, :, i, j], codebook.embed[:, indices[n, i, j]])
    assert commitment.item() == pytest.approx((codes - z).square().mean().item(), rel=1e-14)
    assert torch.equal(codebook.lookup(indices), codebook.embed.T[indices].permute(0, 3, 1, 2))


def test_of_entries_as_near_the_first():
    codebook = book(codes=5).eval()
    codebook.embed[:, 3] = codebook.embed[:, 1]
    assert codebook.quantise(codebook.embed.T[[3, 1, 4]]).indices.tolist() == [1, 1, 4]


def test_gradient_passes_and_commitment_adds_its_own():
    codebook, z = book(), vectors(2, 3, 4).requires_grad_()
    weights = vectors(2, 3, 4, seed=2)
    before = codebook.embed.clone()
    codes, commitment, indices = codebook.quantise(z)
    ((codes * weights).sum() + 0.25 * commitment).backward()
    nearest = before.T[indices].movedim(-1, 1)
    torch.testing.assert_close(z.grad, weights + 0.25 * 2 * (z.detach() - nearest) / z.numel())
    torch.testing.assert_close(codes, nearest)  # as it was before the step
    assert not torch.equal(codebook.embed, before)


@pytest.mark.parametrize(("decay", "eps"), [(0.99, 1e-5), (0.7, 0.01)])
def test_running_averages_are_those_of_a_loop(decay, eps):
    codebook = book(decay=decay, eps=eps)
    size, mean = codebook.cluster_size.tolist(), codebook.embed_avg.T.tolist()
    entry = codebook.embed.T.tolist()
    for step in range(3):
        z = vectors(4, 3, 2, 2, seed=step)
        codebook.quantise(z)
        n, s = [0] * 6, [[0.0] * 3 for _ in range(6)]
        for row in z.permute(0, 2, 3, 1).reshape(-1, 3).tolist():
            j = min(range(6), key=lambda k: math.dist(row, entry[k]))
            n[j] += 1
            s[j] = [a + b for a, b in zip(s[j], row, strict=True)]
        for j in range(6):
            size[j] = decay * size[j] + (1 - decay) * n[j]
            mean[j] = [decay * a + (1 - decay) * b for a, b in zip(mean[j], s[j], strict=True)]
        for j in range(6):
            smooth = (size[j] + eps) / (sum(size) + 6 * eps) * sum(size)
            entry[j] = [a / smooth for a in mean[j]]
        expected = {"embed": entry, "embed_avg": mean}
        for name, value in expected.items():
            assert getattr(codebook, name).T.flatten().tolist() == pytest.approx(sum(value, []), rel=1e-12, abs=1e-13)
        assert codebook.cluster_size.tolist() == pytest.approx(size, rel=1e-12)


def test_follows_in_training_mode_only_with_gradients_or_without():
    codebook, z = book().eval(), vectors(4, 3, 2, 2)
    before = buffers(codebook)
    codebook.quantise(z)
    assert same(codebook, before)
    codebook.train()
    with torch.no_grad():
        codebook.quantise(z)
    assert not any(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


@pytest.mark.parametrize("restart_below", [0.0, 1.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_moves_nothing(bad, restart_below):
    codebook, z = book(restart_below=restart_below), vectors(4, 3, 2, 2)
    before = buffers(codebook)
    z[1, 2, 0, 1] = bad
    codes, commitment, indices = codebook.quantise(z)
    assert not codes.isfinite().all()
    assert not commitment.isfinite()
    assert ((indices >= 0) & (indices < 6)).all()
    assert same(codebook, before)
    codebook.quantise(vectors(4, 3, 2, 2))
    assert not same(codebook, before)


def test_a_cold_start_makes_unused_entries_long_for_1200_steps():
    torch.manual_seed(0)
    codebook = Codebook(64, 512)
    start = codebook.embed.clone()
    unused = count(codebook.quantise(0.1 * torch.randn(256, 64)).indices, 512) == 0
    assert 500 <= unused.sum() < 512
    n = 0.01 * 256
    torch.testing.assert_close(codebook.embed[:, unused], 0.99 * start[:, unused] / (1e-5 / (n + 512e-5) * n))
    assert codebook.embed[:, unused].norm(dim=0).mean().item() == pytest.approx(8e5, rel=0.02)

    used = {}
    codebook = Codebook(8, 32)
    for step in range(1501):
        used[step] = usage(codebook.quantise(0.1 * torch.randn(64, 8)).indices, 32).used.item()
    assert [used[step] for step in (1, 500, 1000)] == [1, 1, 1]
    assert used[1500] > 16
    assert codebook.embed.norm(dim=0).max() < 1


def test_restarts_end_a_cold_start():
    torch.manual_seed(0)
    codebook = Codebook(8, 32, restart_below=0.1)
    used = [usage(codebook.quantise(0.1 * torch.randn(64, 8)).indices, 32).used.item() for _ in range(200)]
    assert min(used[5:]) > 16
    assert codebook.embed.norm(dim=0).max() < 1  # also of what was used once, at the start, and lived on for a while


def test_a_restart_is_a_drawn_vector_and_leaves_the_others_alone():
    plain, codebook = book(), book(restart_below=1.25)
    z = vectors(4, 3, 2, 2)
    drawn = torch.tensor([3, 0, 15, 7, 7, 9])
    asked = []
    codebook.draw = lambda rows: (asked.append(rows), drawn)[1]
    plain.draw = None  # never asked
    plain.quantise(z)
    codebook.quantise(z)
    dead = plain.cluster_size < 1.25
    assert 0 < dead.sum() < 6
    assert asked == [16]
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(codebook.embed.T[dead], rows[drawn][dead], rtol=1e-4, atol=0)  # but for smoothing
    torch.testing.assert_close(codebook.embed_avg.T[dead], 1.25 * rows[drawn][dead])
    assert codebook.cluster_size[dead].eq(1.25).all()
    for name in ("cluster_size", "embed_avg"):
        assert torch.equal(getattr(codebook, name)[..., ~dead], getattr(plain, name)[..., ~dead])
    torch.testing.assert_close(codebook.embed.T[~dead], plain.embed.T[~dead], rtol=1e-4, atol=0)
    torch.testing.assert_close(codebook.eval().quantise(rows[drawn][dead]).codes, rows[drawn][dead], rtol=1e-4, atol=0)


def test_draws_are_rows_of_the_batch_and_repeat_with_the_seed():
    codebook = book(codes=2000)
    torch.manual_seed(3)
    drawn = codebook.draw(10)
    assert drawn.shape == (2000,)
    assert set(drawn.tolist()) == set(range(10))
    torch.manual_seed(3)
    assert torch.equal(codebook.draw(10), drawn)


def test_distances_are_float32_under_autocast():
    torch.manual_seed(0)
    codebook = Codebook(64, 512).eval()
    codebook.embed.mul_(0.05).add_(3)  # far from 0 and near each other: 16 bits cannot tell them apart
    z = (codebook.embed.T[:200] + 0.01 * torch.randn(200, 64)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        codes, commitment, indices = codebook.quantise(z)
    exact = torch.cdist(z.detach().double(), codebook.embed.T.double()).argmin(1)
    assert torch.equal(indices, exact)
    rounded = (z.detach() @ codebook.embed.bfloat16()).float()
    assert not torch.equal((codebook.embed.square().sum(0) - 2 * rounded).argmin(1), exact)
    assert codes.dtype == commitment.dtype == torch.float32
    (codes.sum() + commitment).backward()
    assert z.grad.dtype == torch.bfloat16


def test_usage():
    few = torch.tensor([[0, 0], [0, 2]])
    assert count(few, 4).tolist() == [3, 0, 1, 0]
    assert usage(few, 4).perplexity.item() == pytest.approx(4 / 3**0.75)
    assert usage(few, 4).used.item() == 2
    assert usage(torch.arange(512).repeat(3), 512).perplexity.item() == pytest.approx(512, rel=1e-5)
    assert usage(torch.full((7,), 5), 512).perplexity.item() == 1
    more = torch.tensor([1, 1, 3])
    assert torch.equal(count(few, 4) + count(more, 4), count(torch.cat((few.flatten(), more)), 4))
    assert perplexity(torch.zeros(4, dtype=torch.int64)).isnan()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"codes": 0}, "dim and codes"),
        ({"dim": 0}, "dim and codes"),
        ({"decay": 1.0}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"eps": 0.0}, "eps"),
        ({"restart_below": -1.0}, "restart_below"),
        ({"decay": math.nan}, "decay"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Codebook(**({"dim": 2, "codes": 3} | arguments))


def test_wrong_vectors_and_indices_are_refused():
    codebook = book()
    before = buffers(codebook)
    with pytest.raises(ValueError, match=r"z must be \(N, 3, ...\), not \(2, 4, 4, 3\)"):
        codebook.quantise(torch.zeros(2, 4, 4, 3))
    for indices in ([-1, 2], [0, 6]):
        with pytest.raises(ValueError, match=rf"\[0, 6\).*from {indices[0]} to {indices[1]}"):
            codebook.lookup(torch.tensor(indices))
    with pytest.raises(ValueError, match=r"int64 or int32.*float32"):
        codebook.lookup(torch.zeros(2))
    assert same(codebook, before)
    assert torch.equal(codebook.lookup(torch.tensor([5], dtype=torch.int32)), codebook.embed.T[5:])


def on_a_rank(rank: int, world: int, restart_below: float) -> tuple[dict, dict, list, int]:
    """Buffers after three steps on the whole batch's parts, and after one more in which one vector is not finite."""
    if world > 1:
        torch.distributed.init_process_group("gloo")
    codebook = book(codes=12, restart_below=restart_below)
    commitments, restarts = [], 0
    for step in range(3):
        # What later processes draw counts for nothing.
        codebook.draw = lambda rows, step=step: (7 * torch.arange(12) + step + 5 * rank) % rows
        z = vectors(8, 3, 2, 2, seed=step).chunk(world)[rank]
        commitments.append(codebook.quantise(z).commitment)
        restarts += int(codebook.cluster_size.eq(restart_below).sum())
    before = buffers(codebook)
    z = z.clone()
    if rank == world - 1:
        z[-1, 0, 0, 0] = math.nan
    codebook.quantise(z)
    return before, buffers(codebook), commitments, restarts


@pytest.mark.ddp
@pytest.mark.parametrize("restart_below", [0.0, 1.2])
def test_two_processes_follow_the_whole_batch(restart_below):
    alone, _, commitments, restarts = on_a_rank(0, 1, restart_below)
    assert (restarts > 3) == (restart_below > 0)
    (first, *_, of_first, _), (second, *_, of_second, _) = results = run_ddp(on_a_rank, restart_below)
    for before, after, _, number in results:
        torch.testing.assert_close(before, alone, rtol=1e-10, atol=1e-10)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert number == restarts
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(
        [(a + b) / 2 for a, b in zip(of_first, of_second, strict=True)], commitments, rtol=1e-12, atol=0
    )
