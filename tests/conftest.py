"""The whole suite runs without a network: this process, and every Python process that a test starts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
# W&B looks for its server in a thread of its own, also where it logs offline; it takes no for an answer.
TAKES_NO = ("api.forge.coreweave.com", "api.wandb.ai")


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
    asked = [line for line in refused.read_text().splitlines() if not line.startswith(TAKES_NO)]
    assert not asked, "something asked for the network"
