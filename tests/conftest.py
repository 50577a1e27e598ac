"""The whole suite runs without a network: this process, and every Python process that a test starts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"


@pytest.fixture(scope="session", autouse=True)
def no_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Refuse sockets, and fail at the end if anything asked for one, however quietly; gives the file that says so."""
    refused = tmp_path_factory.mktemp("offline") / "refused.txt"
    refused.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_REFUSED", str(refused))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH")))))
        patch.syspath_prepend(OFFLINE)
        sys.modules.pop("sitecustomize", None)
        import sitecustomize

        assert Path(sitecustomize.__file__).parent == OFFLINE
        yield refused
    assert refused.read_text() == "", "something asked for the network"
