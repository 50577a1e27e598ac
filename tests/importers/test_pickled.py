"""Files that are whole pickled modules: what is read of them, and that nothing else is."""

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from importers.pickled import LAYERS, MAGIC, read_module

NAME = "src.model.Stub"
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def stub(monkeypatch):
    """An official class where a pickle would look for it, with every layer that official modules have."""

    class Stub(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Dropout(0.3))
            up = nn.Sequential(nn.ConvTranspose2d(4, 3, 2, bias=False), nn.ReLU(), nn.Tanh(), nn.Sigmoid())
            self.layers, self.head = nn.ModuleList((conv, up)), nn.Linear(4, 2)
            self.absent, self.img_sz, self.attr, self.rate = None, 16, [("Male", 2), ("Smiling", 3)], 0.5

    Stub.__module__, Stub.__qualname__ = "src.model", "Stub"
    module = types.ModuleType("src.model")
    module.Stub = Stub
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.model", module)
    torch.manual_seed(0)
    return Stub()


def save(model, path: Path, zipped: bool = True) -> Path:
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    return path


def rewritten(path: Path, record: str, change) -> Path:
    """The same zip with one record changed."""
    with zipfile.ZipFile(path) as source:
        held = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in held.items():
            target.writestr(name, change(data) if name.endswith(record) else data)
    return path


@BOTH
def test_tensors_are_those_of_the_state_dict_in_its_order(stub, tmp_path, zipped):
    with torch.no_grad():
        stub.layers[0][1].num_batches_tracked += 7
    read = read_module(save(stub, tmp_path / "x.pth", zipped), [NAME])
    tensors, expected = read.tensors(), stub.state_dict()
    assert list(tensors) == list(expected)
    assert all(
        torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    assert read.class_name == NAME
    assert read.settings == {"absent": None, "img_sz": 16, "attr": [("Male", 2), ("Smiling", 3)], "rate": 0.5}


@BOTH
def test_views_and_transposes_come_out_as_they_were(stub, tmp_path, zipped):
    whole = torch.arange(24.0)
    stub.head.weight = nn.Parameter(whole[4:12].view(4, 2).t())
    stub.head.bias = nn.Parameter(whole[20:22])
    stub.register_buffer("none", torch.empty(0, 3))
    tensors = read_module(save(stub, tmp_path / "x.pth", zipped), [NAME]).tensors()
    assert torch.equal(tensors["head.weight"], whole[4:12].view(4, 2).t())
    assert torch.equal(tensors["head.bias"], whole[20:22])
    assert tensors["none"].shape == (0, 3)
    assert tensors["head.bias"].untyped_storage().nbytes() == 8


class OldParameter:
    """As PyTorch 0.2 pickled parameters: a call of the class, then (requires_grad, volatile, hooks)."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return nn.Parameter, (self.tensor,), (True, False, OrderedDict())


@BOTH
def test_parameters_of_pytorch_0_2(stub, tmp_path, zipped):
    weight = torch.randn(2, 4)
    stub.head._parameters["weight"] = OldParameter(weight)
    tensors = read_module(save(stub, tmp_path / "x.pth", zipped), [NAME]).tensors()
    assert torch.equal(tensors["head.weight"], weight)


@BOTH
@pytest.mark.parametrize("inside", [True, False])
def test_what_would_run_a_command_is_refused_by_name_and_does_not_run(stub, tmp_path, zipped, inside):
    class Command:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    stub.note = Command()
    path = save(stub if inside else Command(), tmp_path / "x.pth", zipped)
    with pytest.raises(ValueError, match=r"x\.pth was refused: it holds posix\.system, which is not among"):
        read_module(path, [NAME])
    assert not (tmp_path / "ran").exists()


@BOTH
@pytest.mark.parametrize("dangerous", [eval, getattr, torch.load, pickle.loads, nn.Module.apply])
def test_no_other_name_is_looked_up(stub, tmp_path, zipped, dangerous):
    stub.note = dangerous
    with pytest.raises(ValueError, match="which is not among the names"):
        read_module(save(stub, tmp_path / "x.pth", zipped), [NAME])


def test_a_class_that_was_not_named_is_refused_and_so_is_a_layer_as_the_whole(stub, tmp_path):
    with pytest.raises(ValueError, match=r"src\.model\.Stub, which is not among"):
        read_module(save(stub, tmp_path / "x.pth"), ["src.model.Other"])
    with pytest.raises(ValueError, match=r"Linear, not a module of class src\.model\.Stub"):
        read_module(save(nn.Linear(2, 2), tmp_path / "y.pth"), [NAME])
    with pytest.raises(ValueError, match=r"holds a dict, not a module"):
        read_module(save({"a": torch.zeros(2)}, tmp_path / "z.pth"), [NAME])


@BOTH
def test_damaged_files_are_said_to_be(stub, tmp_path, zipped):
    whole = save(stub, tmp_path / "x.pth", zipped).read_bytes()
    for k in (0, 1, 100, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:k])
        with pytest.raises(ValueError, match=r"cut\.pth (is no pickled module|was refused)"):
            read_module(tmp_path / "cut.pth", [NAME])
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.pth"):
        read_module(tmp_path / "nowhere.pth", [NAME])


class Lying:
    """A tensor that is said to lie elsewhere in its storage."""

    def __init__(self, offset, size, stride):
        self.arguments = offset, size, stride

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (torch.zeros(8).storage(), *self.arguments, False, OrderedDict())


@BOTH
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(1, (8,), (1,)), (10**9, (1,), (1,)), (0, (2, 2), (7, 2)), (0, (9,), (0,)), (2**61, (8,), (2**61,))],
)
def test_a_tensor_beyond_its_storage_is_refused(stub, tmp_path, zipped, offset, size, stride):
    stub.head._parameters["weight"] = Lying(offset, size, stride)
    with pytest.raises(ValueError, match=r"holds head\.weight, which reaches beyond its storage of 8 numbers"):
        read_module(save(stub, tmp_path / "x.pth", zipped), [NAME])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(-1, (1,), (1,)), (0, (-8,), (1,)), (0, (1,), (-1,)), (0, (True,), (1,)), (0, (1, 1), (1,))],
)
def test_sizes_that_cannot_be_are_refused(stub, tmp_path, offset, size, stride):
    stub.head._parameters["weight"] = Lying(offset, size, stride)
    with pytest.raises(ValueError, match="which cannot be"):
        read_module(save(stub, tmp_path / "x.pth"), [NAME])


def test_a_storage_that_is_shorter_than_it_says_is_refused(stub, tmp_path):
    path = rewritten(save(stub, tmp_path / "x.pth"), "/data/0", lambda data: data[:-4])
    with pytest.raises(ValueError, match=r"188 bytes for layers\.0\.0\.weight, whose storage has 48 numbers"):
        read_module(path, [NAME])
    path = rewritten(save(stub, tmp_path / "x.pth"), "/byteorder", lambda data: b"big")
    with pytest.raises(ValueError, match="another byte order"):
        read_module(path, [NAME])


def test_other_protocols_and_operations_are_refused(stub, tmp_path):
    torch.save(stub, tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="pickle protocol 4, not 2"):
        read_module(tmp_path / "x.pth", [NAME])
    for data, word in ((b"\x80\x02c__builtin__\nset\n(i__builtin__\nset\n.", "INST"), (b"\x80\x02\x82\x01.", "EXT1")):
        path = rewritten(save(stub, tmp_path / "x.pth"), "/data.pkl", lambda _, data=data: data)
        with pytest.raises(ValueError, match=f"the pickle operation {word}"):
            read_module(path, [NAME])


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        (b"csrc.model\nStub\n(K\x01t\x81.", r"a new src\.model\.Stub with arguments"),
        (b"c__builtin__\nset\n)\x81.", r"a new __builtin__\.set with arguments"),
        (b"csrc.model\nStub\n)R.", r"a call of src\.model\.Stub"),
        (b"csrc.model\nStub\n)\x81K\x01b.", "an? int where a module has a dict"),
        (b"]K\x01b.", "a list where a module has a tensor"),
        (b"(X\x04\x00\x00\x00fileX\x01\x00\x00\x00at\x51.", "an external object of kind 'file'"),
    ],
)
def test_what_modules_do_not_do_is_refused(stub, tmp_path, operations, words):
    path = rewritten(save(stub, tmp_path / "x.pth"), "/data.pkl", lambda _: b"\x80\x02" + operations)
    with pytest.raises(ValueError, match=words):
        read_module(path, [NAME])


class OldStorage:
    """A storage of which, in old files, two tensors could each be a part: four numbers from the third on."""

    fields = "storage", torch.cuda.FloatStorage, "7", "cuda:0", 8, ("8", 2, 4)


class OldPickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.fields if isinstance(value, OldStorage) else None


class OldTensor:
    def __init__(self, *place):
        self.place = place

    def __reduce__(self):
        return torch._utils._rebuild_tensor, (OldStorage(), *self.place)


def old_file(stub, path, place) -> Path:
    """Written by hand: a part of a storage that lay on a GPU."""
    stub.layers, stub.head = nn.ModuleList(), nn.Linear(1, 1)
    stub.head._parameters = OrderedDict(weight=OldTensor(*place))
    with path.open("wb") as file:
        for each in (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(each, file, 2)
        OldPickler(file, 2).dump(stub)
        pickle.dump(["7"], file, 2)
        file.write((8).to_bytes(8, "little") + torch.arange(8.0).numpy().tobytes())
    return path


def test_a_part_of_an_old_storage(stub, tmp_path):
    tensors = read_module(old_file(stub, tmp_path / "x.pth", (1, (3,), (1,))), [NAME]).tensors()
    assert tensors["head.weight"].tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="beyond its storage of 4 numbers"):
        read_module(old_file(stub, tmp_path / "x.pth", (2, (3,), (1,))), [NAME])


def test_a_module_within_itself_is_refused(stub, tmp_path):
    stub.layers[0]._modules["loop"] = stub
    with pytest.raises(ValueError, match="a module twice"):
        read_module(save(stub, tmp_path / "x.pth"), [NAME])


def test_layers_are_those_of_torch():
    for name in LAYERS:
        module, _, cls = name.rpartition(".")
        assert issubclass(getattr(sys.modules[module], cls), nn.Module)
