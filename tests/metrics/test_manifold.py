import pytest
import torch

from metrics import manifold
from metrics.manifold import density_coverage, precision_recall


def sets(n=60, m=50, d=4):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=rng), torch.randn(m, d, generator=rng) * 0.7 + 0.5


def radius(x, i, k):
    return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]


def by_hand(real, fake, k):
    real, fake = real.double(), fake.double()
    radii = [radius(real, i, k) for i in range(len(real))]
    inside = [[(y - x).norm().item() <= r for x, r in zip(real, radii, strict=True)] for y in fake]
    precision = sum(any(row) for row in inside) / len(fake)
    density = sum(sum(row) for row in inside) / (k * len(fake))
    coverage = sum(any(column) for column in zip(*inside, strict=True)) / len(real)
    return precision, density, coverage


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_loops_agree(k, rows, monkeypatch):
    monkeypatch.setattr(manifold, "_ROWS", rows)
    real, fake = sets()
    precision, density, coverage = by_hand(real, fake, k)
    assert [v.item() for v in precision_recall(real, fake, k)] == pytest.approx([precision, by_hand(fake, real, k)[0]])
    assert [v.item() for v in density_coverage(real, fake, k)] == pytest.approx([density, coverage])


def test_torch_fidelity_agrees():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = sets(300, 200)
    theirs = calculate_precision_recall_full(fake, real, neighborhood=3)
    assert [v.item() for v in precision_recall(real, fake)] == pytest.approx(theirs, abs=1e-6)
    assert 0.1 < min(theirs) < 0.95


def test_equal_sets_reach_every_one():
    real, _ = sets(200, d=64)
    values = [v.item() for v in (*precision_recall(real, real), *density_coverage(real, real))]
    assert values == pytest.approx([1.0] * 4, rel=1e-14)


def test_sets_far_apart_share_nothing():
    real, fake = sets()
    assert [v.item() for v in (*precision_recall(real, fake + 100), *density_coverage(real, fake + 100))] == [0.0] * 4


def test_a_collapsed_generator_is_precise_dense_and_covers_little():
    # Real images at 0, 1, .., 9 are 2 from their third neighbour, or 3 at the very ends.
    real = torch.arange(10.0)[:, None]
    fake = torch.full((8, 1), 4.5) + torch.arange(8)[:, None] * 1e-3
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake, k=3)
    # The balls around 4.5 are those of 3, 4, 5 and 6, all of radius 2.
    assert (precision, recall) == (1.0, 0.0)
    assert (density.item(), coverage.item()) == pytest.approx((4 / 3, 0.4))


def test_an_outlier_among_the_real_images_helps_precision_but_hardly_density():
    # The case for density (Naeem et al. 2020): one real outlier has a ball over everything.
    rng = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(100, 2, generator=rng) * 0.1, torch.tensor([[1000.0, 0.0]])])
    fake = torch.randn(100, 2, generator=rng) * 0.1 + torch.tensor([500.0, 0.0])
    assert precision_recall(real, fake).precision == 1.0
    assert density_coverage(real, fake).density.item() == pytest.approx(1 / 5)


def test_order_does_not_matter():
    real, fake = sets()
    there, back = precision_recall(real, fake), precision_recall(real.flip(0), fake.flip(0))
    assert there == back
    there, back = density_coverage(real, fake), density_coverage(real.flip(0), fake.flip(0))
    torch.testing.assert_close(there, back, rtol=1e-14, atol=0)


@pytest.mark.parametrize("function", [precision_recall, density_coverage])
def test_too_few_images_are_refused(function):
    real, fake = sets()
    with pytest.raises(ValueError, match=r"more than \d images in each, got \(3, 4\) and \(50, 4\)"):
        function(real[:3], fake)
    with pytest.raises(ValueError, match="of one D"):
        function(real, fake[:, :3])
