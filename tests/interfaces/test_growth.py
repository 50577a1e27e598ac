import pytest

from interfaces.growth import Growth, Phase

GROWTH = Growth((4, 8, 16), batches=(8, 4), first=16, fade=10, stable=8)


def test_phases_one_after_the_other():
    found = [GROWTH.at(k) for k in range(14)]
    assert [phase.level for phase in found] == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert [phase.batch for phase in found] == [8] * 2 + [4] * 12
    assert [phase.resolution for phase in found] == [4] * 2 + [8] * 5 + [16] * 7
    shares = [1, 1, 0, 0.4, 0.8, 1, 1, 0, 0.4, 0.8, 1, 1, 1, 1]
    assert [phase.share for phase in found] == pytest.approx(shares)
    assert [phase.images for phase in found] == [0, 8, *range(16, 64, 4)]


def test_a_level_begins_where_its_number_changes():
    assert [k for k in range(30) if GROWTH.grows_at(k)] == [2, 7]


def test_images_of_all_processes_count():
    found = [GROWTH.at(k, processes=2) for k in range(8)]
    assert [phase.level for phase in found] == [0, 1, 1, 1, 2, 2, 2, 2]
    assert [phase.share for phase in found] == pytest.approx([1, 0, 0.8, 1, 0, 0.8, 1, 1])
    assert [phase.batch for phase in found] == [8] + [4] * 7
    assert [phase.images for phase in found] == [0, *range(16, 72, 8)]


def test_the_last_level_stays():
    assert GROWTH.at(10**9) == Phase(2, 16, 4, 1.0, 36 + 4 * (10**9 - 7))
    assert Growth((32,)).at(5) == Phase(0, 32, 16, 1.0, 80)


def test_iterations_until_all_is_seen():
    assert GROWTH.iterations() == 12
    assert GROWTH.iterations(2) == 1 + 3 + 3
    assert GROWTH.at(GROWTH.iterations() - 1).level == 2


def test_without_a_fade_a_level_is_there_at_once():
    growth = Growth((4, 8), (4,), first=8, fade=0, stable=8)
    assert [growth.at(k)[:4] for k in (1, 2)] == [(0, 4, 4, 1.0), (1, 8, 4, 1.0)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolutions": ()}, "resolutions are"),
        ({"resolutions": (4, 16)}, "each twice the last"),
        ({"batches": ()}, "batches are"),
        ({"batches": (4, 0)}, "1 image or more"),
        ({"fade": -1}, "0 or more"),
        ({"first": 0}, "1 or more of the first"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Growth(**{"resolutions": (4, 8), **changes})
