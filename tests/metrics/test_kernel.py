import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from metrics import kernel
from metrics.kernel import kernel_distance, kernel_distance_subsets


def sets(n=40, m=40, d=6):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=rng), torch.randn(m, d, generator=rng) * 1.5 + 0.5


def by_hand(x, y):
    x, y = x.tolist(), y.tolist()

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(v):
        values = [k(a, b) for i, a in enumerate(v) for j, b in enumerate(v) if i != j]
        return sum(values) / len(values)

    across = [k(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(across) / len(across)


def test_two_constant_sets_have_a_closed_form():
    # k(0, .) = 1 and k(a, a) = (1 + 1)^3 for a of ones.
    assert kernel_distance(torch.zeros(3, 5), torch.ones(4, 5)).item() == pytest.approx(1 + 8 - 2, rel=1e-12)


@pytest.mark.parametrize("rows", [3, 4096])
def test_double_loop_over_sets_of_unequal_size(rows, monkeypatch):
    monkeypatch.setattr(kernel, "_ROWS", rows)
    real, fake = sets(7, 10)
    assert kernel_distance(real, fake).item() == pytest.approx(by_hand(real, fake), rel=1e-5)


def test_torchmetrics_and_torch_fidelity_agree():
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = (v.double() for v in sets())
    assert kernel_distance(real, fake).item() == pytest.approx(poly_mmd(real, fake).item(), rel=1e-10)
    whole = kid_features_to_metric(real, fake, kid_subsets=1, kid_subset_size=40, verbose=False)
    assert kernel_distance(real, fake).item() == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-10)


def test_the_estimate_is_unbiased():
    # Of equal distributions the mean over many draws is 0, where the biased estimate (with i = j) would be 0.93.
    rng = torch.Generator().manual_seed(0)
    values = torch.stack(
        [kernel_distance(torch.randn(20, 4, generator=rng), torch.randn(20, 4, generator=rng)) for _ in range(400)]
    )
    error = values.std() / 20
    assert error < 0.02
    assert abs(values.mean()) < 4 * error


def test_subsets_are_a_function_of_the_seed_alone():
    real, fake = sets(60, 50)
    first = kernel_distance_subsets(real, fake, subsets=5, subset_size=20)
    torch.manual_seed(1)
    assert first == kernel_distance_subsets(real, fake, subsets=5, subset_size=20)
    assert first != kernel_distance_subsets(real, fake, subsets=5, subset_size=20, seed=1)


def test_many_subsets_average_to_the_whole():
    real, fake = sets(60, 50)
    mean, std = kernel_distance_subsets(real, fake, subsets=400, subset_size=20)
    assert mean.item() == pytest.approx(kernel_distance(real, fake).item(), abs=4 * std.item() / 20)


def test_subsets_of_everything_do_not_vary():
    real, fake = sets()
    mean, std = kernel_distance_subsets(real, fake, subsets=3, subset_size=40)
    assert mean.item() == pytest.approx(kernel_distance(real, fake).item(), rel=1e-10)
    assert std.item() == pytest.approx(0, abs=1e-12)


def test_bad_input_is_named():
    real, fake = sets()
    with pytest.raises(ValueError, match=r"at least 2 images, got \(1, 6\) and \(40, 6\)"):
        kernel_distance(real[:1], fake)
    with pytest.raises(ValueError, match="of one D"):
        kernel_distance(real, fake[:, :5])
    with pytest.raises(ValueError, match="Subsets of 1000 images need as many in both sets, not 40 and 40"):
        kernel_distance_subsets(real, fake)
