import pytest
import torch

from metrics.truth import confusion, map_accuracy, mean_iou, places, pooled, probe_accuracy, probe_hits, probe_r2, r2


def test_confusion_iou_and_accuracy_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 1, 2]])
    guess = torch.tensor([[0, 1, 1], [1, 0, 2]])
    counts = confusion(guess, truth, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert map_accuracy(counts) == pytest.approx(4 / 6)
    assert mean_iou(counts) == pytest.approx((1 / 3 + 2 / 4 + 1 / 1) / 3)  # class 3 does not occur
    with pytest.raises(ValueError, match="one shape"):
        confusion(guess, truth[:1], 4)


def test_a_perfect_map_scores_one_and_batches_add_up():
    maps = torch.randint(0, 5, (6, 8, 8), generator=torch.Generator().manual_seed(0))
    counts = confusion(maps, maps, 5)
    assert torch.equal(sum(confusion(part, part, 5) for part in maps.split(4)), counts)
    assert (mean_iou(counts), map_accuracy(counts)) == (1, 1)


def test_r2_of_perfect_mean_and_worse():
    truth = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    guess = torch.stack((truth[:, 0], truth[:, 1].mean().expand(50), -truth[:, 2]), 1)
    values = r2(guess, truth)
    assert values[0] == 1
    assert values[1] == pytest.approx(0, abs=1e-12)
    assert values[2] < -2


def test_probes_read_what_is_there_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(400, 10, generator=rng)
    there = codes @ torch.randn(10, 2, generator=rng)
    nowhere = torch.randn(400, 1, generator=rng)
    values = probe_r2(codes, torch.cat((there, nowhere), 1))
    assert values[:2].min() > 0.999
    assert -0.2 < values[2] < 0.1
    labels = (codes[:, 0] > 0).long()
    assert probe_accuracy(codes, labels) > 0.9
    assert probe_accuracy(codes, torch.randint(0, 2, (400,), generator=rng)) == pytest.approx(0.5, abs=0.1)


def test_two_views_of_a_scene_are_left_out_together_so_that_chance_is_chance():
    rng = torch.Generator().manual_seed(0)
    labels, scenes = torch.arange(2).repeat_interleave(100), torch.arange(100).repeat(2)
    same = torch.randn(100, 10, generator=rng).repeat(2, 1)  # the same code under both labels
    assert probe_accuracy(same, labels, scenes) == 0.5
    assert probe_accuracy(same, labels) < 0.45, "what is mended by the scenes"
    noise = [torch.randn(200, 10, generator=rng) for _ in range(20)]
    assert sum(probe_accuracy(codes, labels, scenes) for codes in noise) / 20 == pytest.approx(0.5, abs=0.03)
    hits = probe_hits(same + labels[:, None], labels, scenes)
    assert hits.shape == (200,)
    assert set(hits.tolist()) <= {0.0, 1.0}


def test_probes_survive_more_coordinates_than_images():
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(60, 500, generator=rng)
    assert probe_r2(codes, torch.randn(60, 1, generator=rng))[0] < 0.2
    spread = codes[:, :1].expand(-1, 500) + 0.1 * codes
    assert probe_r2(spread, codes[:, :1])[0] > 0.9
    with pytest.raises(ValueError, match="at least 20 codes"):
        probe_r2(codes[:10], codes[:10, :1])


def test_order_of_the_images_hardly_matters_and_the_result_repeats():
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(200, 5, generator=rng)
    factor = codes[:, :1] + torch.randn(200, 1, generator=rng)
    assert torch.equal(probe_r2(codes, factor), probe_r2(codes, factor))
    assert probe_r2(codes, factor)[0] == pytest.approx(0.5, abs=0.15)
    assert probe_r2(codes.flip(0), factor.flip(0))[0] == pytest.approx(probe_r2(codes, factor)[0].item(), abs=0.05)


def test_pooled_means_and_deviations():
    code = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    values = pooled(code, cells=2)
    assert values.shape == (2, 3 * 4 + 3)
    assert values[1, 0] == code[1, 0, :4, :4].mean()
    assert values[0, -1] == pytest.approx(code[0, 2].std().item())
    assert torch.equal(pooled(values), values)
    assert torch.equal(pooled(values[:, :, None, None]), values)  # no deviations of one position, which would be NaN


def test_places_are_a_quarter_away_from_the_corners():
    code = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    found = places(code)
    assert found.shape == (4, 2, 3)
    for place, (i, j) in zip(found, ((2, 3), (2, 8), (5, 3), (5, 8)), strict=True):
        assert torch.equal(place, code[:, :, i, j].double())
    assert places(code[:, :, :1, :1]).shape == (4, 2, 3)
