import pickle

import pytest
import torch

from importers import mapping
from importers.mapping import Row, rows

TABLE = [
    *rows("net.0.conv", "stem", ("weight", "bias")),
    Row("net.1.weight", "up.weight", load=lambda t: t.transpose(0, 1), save=lambda t: t.transpose(0, 1)),
    Row(r"net\.\d+\.running_(mean|var)", None),
]
SHAPES = {"stem.bias": (2,), "up.weight": (3, 2), "stem.weight": (2, 1)}  # another order than the table's
SHAPES = {name: torch.Size(shape) for name, shape in SHAPES.items()}


def released():
    return {
        "net.0.conv.weight": torch.randn(2, 1),
        "net.0.conv.bias": torch.randn(2),
        "net.1.weight": torch.randn(2, 3),
    }


def adam(params=(0, 1, 2)):
    shapes = ((2, 1), (2,), (2, 3))
    state = {
        p: {"step": 3, "exp_avg": torch.randn(s), "exp_avg_sq": torch.rand(s)}
        for p, s in zip(params, shapes, strict=True)
    }
    return {"state": state, "param_groups": [{"lr": 0.1, "fused": None, "params": list(params)}]}


def test_tensors_go_there_and_back():
    tensors = released()
    ours = mapping.to_ours(tensors, TABLE, SHAPES, "file")
    assert set(ours) == set(SHAPES)
    assert torch.equal(ours["up.weight"], tensors["net.1.weight"].T)
    back = mapping.to_official(ours, TABLE)
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_what_is_dropped_on_purpose_is_not_asked_for():
    tensors = released() | {"net.0.running_mean": torch.zeros(2)}
    assert set(mapping.to_ours(tensors, TABLE, SHAPES, "file")) == set(SHAPES)


def test_missing_left_over_and_misshapen_tensors_are_named():
    tensors = released()
    with pytest.raises(ValueError, match=r"file lacks net\.0\.conv\.bias\."):
        mapping.to_ours({k: v for k, v in tensors.items() if "bias" not in k}, TABLE, SHAPES, "file")
    more = {"net.2.weight": torch.zeros(1), "xnet.0.running_mean": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"does not have: net\.2\.weight, xnet\.0\.running_mean\."):
        mapping.to_ours(tensors | more, TABLE, SHAPES, "file")
    with pytest.raises(ValueError, match=r"net\.0\.conv\.bias is \(5,\).* ask for \(2,\)"):
        mapping.to_ours(tensors | {"net.0.conv.bias": torch.zeros(5)}, TABLE, SHAPES, "file")
    with pytest.raises(ValueError, match=r"lacks stem\.weight, stem\.bias"):
        mapping.to_official({"up.weight": torch.zeros(3, 2)}, TABLE)


@pytest.mark.parametrize("params", [(0, 1, 2), (140123, 140007, 139999)])  # torch 0.4 wrote addresses
def test_adam_is_renumbered_and_its_moments_turn_with_the_weights(params):
    official = adam(params)
    ours = mapping.adam_to_ours(official, TABLE, SHAPES, "file")
    assert ours["param_groups"] == [{"lr": 0.1, "fused": True, "params": [0, 1, 2]}]
    assert [ours["state"][n]["exp_avg"].shape for n in range(3)] == list(SHAPES.values())
    assert torch.equal(ours["state"][1]["exp_avg_sq"], official["state"][params[2]]["exp_avg_sq"].T)
    back = mapping.adam_to_official(ours, TABLE, {name: n for n, name in enumerate(SHAPES)})
    assert back["param_groups"] == [{"lr": 0.1, "fused": None, "params": [0, 1, 2]}]
    for n, p in enumerate(params):
        assert back["state"][n].keys() == official["state"][p].keys()
        assert back["state"][n]["step"] == 3
        assert all(torch.equal(back["state"][n][k], official["state"][p][k]) for k in ("exp_avg", "exp_avg_sq"))


def test_adam_of_other_networks_is_refused():
    with pytest.raises(ValueError, match="file has 2 parameters, but the networks have 3"):
        mapping.adam_to_ours({"state": {}, "param_groups": [{"params": [0, 1]}]}, TABLE, SHAPES, "file")
    with pytest.raises(ValueError, match="not the state of an Adam"):
        mapping.adam_to_ours({"state": {}}, TABLE, SHAPES, "file")
    wrong = adam()
    wrong["state"][1]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"exp_avg of net\.0\.conv\.bias is \(7,\)"):
        mapping.adam_to_ours(wrong, TABLE, SHAPES, "file")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_reading_runs_no_code_and_names_the_file(tmp_path, capsys):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.pt"):
        mapping.read(path)
    for content in (b"", b"text", pickle.dumps({"a": 1})[:-3]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.pt") as raised:
            mapping.read(path)
        assert "\n" not in str(raised.value)
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match=r"x\.pt is no file of plain tensors"):
        mapping.read(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"x\.pt cannot be read"):
        mapping.read(path)
    assert "executed" not in capsys.readouterr().out
