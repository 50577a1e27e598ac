import pytest

from metrics.better import better_end


@pytest.mark.parametrize(
    ("measure", "better"),
    [
        ("psnr", "higher"),
        ("pixel_accuracy", "higher"),
        ("l1", "lower"),
        ("fid", "lower"),
        ("fid_scenes", "lower"),  # of a feature network
        ("content_r2_number_of_cars", "higher"),  # of a factor
        ("is", "higher"),
        ("diversity_pixels", "higher"),
        ("leak_style", "lower"),
        ("odd", ""),
        ("fidelity", ""),  # a beginning ends at an underscore
        ("", ""),
    ],
)
def test_which_end_is_better(measure: str, better: str) -> None:
    assert better_end(measure) == better
