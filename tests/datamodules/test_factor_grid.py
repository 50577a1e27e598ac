import numpy as np
import pytest

from datamodules.factor_grid import factors_of, index_of
from datamodules.procedural.sprites import NAMES, SIZES

RNG = np.random.default_rng(0)


def test_numbers_and_factors_are_inverse():
    index = RNG.integers(np.prod(SIZES), size=500)
    factors = factors_of(index, SIZES)
    assert (factors.dtype, factors.shape) == (np.int64, (500, 5))
    assert np.array_equal(index_of(factors, NAMES, SIZES), index)
    assert np.array_equal(factors_of(range(24), (2, 3, 4)).T, np.indices((2, 3, 4)).reshape(3, -1))
    with pytest.raises(ValueError, match="out of bounds"):
        factors_of(np.array([737_280]), SIZES)
