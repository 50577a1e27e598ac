import pytest

from interfaces.growth import Growth, Phase, Stage, check_goes_on

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


def test_stages_are_what_phases_go_through():
    for processes in (1, 2, 3):
        stages = GROWTH.stages(processes)
        for level, stage in enumerate(stages):
            phase = GROWTH.at(stage.begin, processes)
            assert (phase.level, phase.images) == (level, stage.images)
            assert (phase.resolution, phase.batch) == (stage.resolution, stage.batch)
            shares = [GROWTH.at(stage.begin + k, processes).share for k in range(stage.fade + stage.stable)]
            assert [share < 1 for share in shares] == [True] * stage.fade + [False] * stage.stable
        assert [stage.begin for stage in stages[1:]] == [k for k in range(1, 30) if GROWTH.grows_at(k, processes)]
    assert GROWTH.stages() == [Stage(4, 8, 0, 0, 2, 0), Stage(8, 4, 2, 3, 2, 16), Stage(16, 4, 7, 3, 2, 36)]


def test_another_phase_than_the_one_that_was_left_is_refused():
    check_goes_on(GROWTH, [1, 0.4], GROWTH.at(3), 1)
    check_goes_on(GROWTH, [2, 1.0], GROWTH.at(100, 2), 2)
    for shown in ([1, 0.8], [2, 0.4]):
        with pytest.raises(ValueError, match=r"This Growth had reached .* and 1 processes would be 1 and 0.40: go on"):
            check_goes_on(GROWTH, shown, GROWTH.at(3), 1)


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
