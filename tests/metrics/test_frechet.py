import pytest
import torch
from torch import nn
from torch.distributed import init_process_group
from torchmetrics.image.fid import FrechetInceptionDistance

from metrics.frechet import FrechetDistance, frechet_distance, frechet_distance_of_sets, moments
from tests.ddp import run_ddp


def sets(n=60, m=50, d=8):
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=rng)
    return torch.randn(n, d, generator=rng) @ mix + 3, torch.randn(m, d, generator=rng) * 2


def measured(real, fake, batch=1000, metric=None):
    metric = metric or FrechetDistance(real.shape[1])
    for x, which in ((real, True), (fake, False)):
        for part in x.split(batch):
            metric.update(part, real=which)
    return metric.compute().item()


def test_diagonal_gaussians_have_a_closed_form():
    mean1, mean2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    var1, var2 = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 0.0])
    # |m1 - m2|^2 + sum (s1 - s2)^2
    expected = (4 + 9) + (1 + 0 + 9)
    assert frechet_distance(mean1, var1.diag(), mean2, var2.diag()).item() == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute():
    # For 2x2, tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2))).
    c1, c2 = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 4.0]]).double()
    root = ((c1 @ c2).trace() + 2 * torch.linalg.det(c1 @ c2).sqrt()).sqrt()
    zero = torch.zeros(2)
    expected = c1.trace() + c2.trace() - 2 * root
    assert frechet_distance(zero, c1, zero, c2).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("n", [60, 5])  # 5 images in 8 dimensions: singular covariances
def test_equal_sets_are_at_distance_zero(n):
    real, _ = sets(n)
    assert frechet_distance_of_sets(real, real).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [60, 5])
def test_torchmetrics_and_torch_fidelity_agree(n):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, fake = (v.double() for v in sets(n, 50))
    identity = nn.Identity()
    identity.num_features = 8
    theirs = FrechetInceptionDistance(feature=identity)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = frechet_distance_of_sets(real, fake).item()
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)
    fidelity = fid_statistics_to_metric(fid_features_to_statistics(real), fid_features_to_statistics(fake), False)
    assert ours == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-6)


def test_moments_are_unbiased():
    real, _ = sets()
    mean, cov = moments(real)
    torch.testing.assert_close(mean, real.double().mean(0))
    torch.testing.assert_close(cov, real.double().T.cov())


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_neither_batch_size_nor_order_matters(batch):
    real, fake = sets()
    whole = frechet_distance_of_sets(real, fake).item()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert measured(real[order], fake, batch) == pytest.approx(whole, rel=1e-10)


def test_empty_batches_are_welcome():
    real, fake = sets()
    metric = FrechetDistance(8)
    metric.update(real[:0], real=True)
    assert measured(real, fake, metric=metric) == measured(real, fake)


def test_reset_keeps_the_real_images_where_told():
    real, fake = sets()
    keeps, forgets = FrechetDistance(8, keep_real=True), FrechetDistance(8)
    for metric in (keeps, forgets):
        measured(real, real, metric=metric)
        metric.reset()
        metric.update(fake, real=False)
    assert keeps.compute().item() == measured(real, fake)
    with pytest.raises(ValueError, match="at least 2 real images, not 0"):
        forgets.compute()


def test_states_of_inference_mode_go_on_outside_it():
    real, fake = sets()
    metric = FrechetDistance(8)
    with torch.inference_mode():
        metric.update(real, real=True)
        metric.reset()
        metric.update(real[:10], real=True)
    assert measured(real[10:], fake, metric=metric) == pytest.approx(measured(real, fake), rel=1e-12)


def test_bad_input_is_named():
    real, fake = sets()
    with pytest.raises(ValueError, match=r"embeddings \(N, 8\), got \(60, 7\)"):
        FrechetDistance(8).update(real[:, :7], real=True)
    with pytest.raises(ValueError, match="at least 2 fake images, not 1"):
        measured(real, fake[:1])
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        moments(real[:1])
    with pytest.raises(ValueError, match="of one D, got"):
        frechet_distance_of_sets(real, fake[:, :7])
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_distance_of_sets(real, fake * torch.inf)


def _shard(rank, world, n):
    init_process_group("gloo", rank=rank, world_size=world)
    real, fake = sets(n)
    metric = FrechetDistance(8)
    metric.update(real[rank::world], real=True)
    if rank == 0:  # the other has no generated image
        metric.update(fake, real=False)
    return metric.compute().item()


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one():
    first, second = run_ddp(_shard, 61)
    assert first == second == pytest.approx(measured(*sets(61)), rel=1e-10)
