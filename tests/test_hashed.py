import pytest

from tests.hashed import hashed


def test_the_hash() -> None:
    expected = [-0.123747383710, -0.951990336180, -0.961633752100, -0.532733484637]
    assert hashed((4,), 0).tolist() == pytest.approx(expected, abs=1e-12)
