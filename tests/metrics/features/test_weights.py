import hashlib
import re

import pytest
import torch

from metrics.features.weights import Published, find, verify

PUBLISHED = Published("net-0123.pth", "0123", "https://example.org")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "checkpoints" / PUBLISHED.file
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path, hashlib.sha256(b"weights").hexdigest()


def test_the_cache_is_looked_into_where_no_path_is_given(file, tmp_path, monkeypatch):
    path, checksum = file
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = find(PUBLISHED, "Net", sha256=checksum[:8])
    assert found == (path, checksum) == find(PUBLISHED, "Net", path, checksum)
    assert str(found) == f"net-0123.pth sha256 {checksum[:16]}"
    assert verify(path, "") == checksum
    with pytest.raises(ValueError, match=rf"net-0123.pth has sha256 {checksum[:16]}... where 0123... is expected"):
        find(PUBLISHED, "Net")


def test_a_missing_file_is_one_sentence(tmp_path):
    place = tmp_path / "none.pth"
    sentence = (
        f"Net needs net-0123.pth (sha256 0123..., from https://example.org), but there is no file at {place}: "
        "put it there or give its path"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(sentence)}.$"):
        find(PUBLISHED, "Net", place)
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(sentence)}, or walk.$"):
        find(PUBLISHED, "Net", place, instead="walk")
