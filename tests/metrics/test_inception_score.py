import math

import pytest
import torch
from torch import nn
from torchmetrics.image.inception import InceptionScore

from metrics.inception_score import conditional_inception_score, inception_score, inception_score_splits


def some_logits(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2


def sure(classes, count):
    """Class scores of a classifier without doubt: softmax is 1 to the last bit."""
    return nn.functional.one_hot(torch.tensor(classes), count).float() * 1000


def test_a_classifier_that_knows_nothing_scores_one():
    assert inception_score(torch.zeros(10, 7)).item() == pytest.approx(1.0, rel=1e-12)
    assert conditional_inception_score(torch.zeros(3, 10, 7)).item() == pytest.approx(1.0, rel=1e-12)


def test_classes_sharply_and_evenly_hit_score_their_number():
    assert inception_score(sure([0, 1, 2, 3] * 5, 9)).item() == pytest.approx(4.0, rel=1e-12)


def test_two_doubtful_images_have_a_closed_form():
    p = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    mean = [0.6, 0.4]
    kl = [sum(a * math.log(a / m) for a, m in zip(row, mean, strict=True)) for row in p.tolist()]
    assert inception_score(p.log() + 3).item() == pytest.approx(math.exp(sum(kl) / 2), rel=1e-6)


def test_torchmetrics_and_torch_fidelity_agree():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = some_logits(50, 6)
    theirs = InceptionScore(feature=nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits).item() == pytest.approx(theirs.compute()[0].item(), rel=1e-5)
    fidelity = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert inception_score(logits).item() == pytest.approx(fidelity, rel=1e-12)


def test_order_does_not_matter():
    logits = some_logits(50, 6)
    assert inception_score(logits.flip(0)).item() == pytest.approx(inception_score(logits).item(), rel=1e-12)


def test_splits_shuffle_first_and_by_the_seed_alone():
    logits = sure(sorted([0, 1] * 100), 2)  # in order, the parts would hold one class each and score 1
    mean, std = inception_score_splits(logits, splits=4)
    assert mean > 1.9
    assert 0 < std < 0.1
    torch.manual_seed(5)
    assert (mean, std) == inception_score_splits(logits, splits=4)
    whole, none = inception_score_splits(logits, splits=1)
    assert whole.item() == pytest.approx(inception_score(logits).item(), rel=1e-12)
    assert none == 0


def test_conditional_score_counts_classes_within_an_input_only():
    # Two inputs, of which one comes out in two classes and the other in one: exp((ln 2 + 0) / 2).
    logits = sure([[0, 1, 0, 1], [2, 2, 2, 2]], 4)
    assert conditional_inception_score(logits).item() == pytest.approx(2**0.5, rel=1e-12)
    assert inception_score(logits.flatten(0, 1)).item() == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-12)


def test_conditional_score_of_one_output_each_is_one():
    assert conditional_inception_score(some_logits(5, 1, 3)).item() == pytest.approx(1.0, rel=1e-12)


def test_conditional_score_of_one_input_is_the_score():
    logits = some_logits(1, 20, 5)
    assert conditional_inception_score(logits).item() == pytest.approx(inception_score(logits[0]).item(), rel=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"at least one image, got \(0, 5\)"):
        inception_score(torch.zeros(0, 5))
    with pytest.raises(ValueError, match="10 splits need as many images at least, not 9"):
        inception_score_splits(torch.zeros(9, 5))
    with pytest.raises(ValueError, match=r"\(inputs, outputs, classes\), got \(4, 5\)"):
        conditional_inception_score(torch.zeros(4, 5))
