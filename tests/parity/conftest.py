"""What files about one recorded case share; each says ``CASE``, its folder, and ``PAPER``, the paper's runner."""

import shutil
from pathlib import Path

import pytest

from tests.parity.cases import once


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the case, to be changed."""
    return Path(shutil.copytree(request.module.CASE, tmp_path / request.module.CASE.name))


@pytest.fixture
def cached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner takes runs of the untouched case, since changes of recorded outcomes do not change ours."""
    case, paper, run = request.module.CASE, request.module.PAPER, request.module.PAPER.run
    monkeypatch.setattr(paper, "run", lambda _, dtype: once(run, case, dtype))
