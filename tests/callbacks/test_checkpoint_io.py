import pytest
import torch

from callbacks.checkpoint_io import AtomicIO


def test_a_checkpoint_is_read_back(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicIO().save_checkpoint({"x": torch.arange(3)}, path)
    assert AtomicIO().load_checkpoint(path)["x"].tolist() == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicIO().save_checkpoint({"x": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicIO().save_checkpoint({"x": torch.zeros(1000), "y": lambda: None}, path)
    assert AtomicIO().load_checkpoint(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicIO().save_checkpoint({"x": 1}, path)
    seen, save = [], torch.save

    def save_and_look(checkpoint, file):
        save(checkpoint, file)
        seen.append(torch.load(path))

    monkeypatch.setattr(torch, "save", save_and_look)
    AtomicIO().save_checkpoint({"x": 2}, path)
    assert seen == [{"x": 1}]
