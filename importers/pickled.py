"""Files that are a whole pickled module, ``torch.save(model)``, read without building or running anything of them.

Such a file names Python objects to call. Here a machine of the operations that pickle's protocol 2 needs for a module
makes plain data of them; no object that a file names is ever looked up, imported or called. Any other name and any
other operation is refused with one sentence.
"""

import pickletools
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAYERS = frozenset(
    f"torch.nn.modules.{name}"
    for name in (
        "container.Sequential", "container.ModuleList", "conv.Conv2d", "conv.ConvTranspose2d", "batchnorm.BatchNorm2d",
        "activation.LeakyReLU", "activation.ReLU", "activation.Tanh", "activation.Sigmoid", "dropout.Dropout",
        "linear.Linear",
    )
)  # fmt: skip
DTYPES = {
    f"torch.{place}{kind}Storage": dtype
    for place in ("", "cuda.")
    for kind, dtype in (("Float", torch.float32), ("Long", torch.int64))
}
# Names whose calls are answered here; the last three are those of PyTorch 0.2 to 1.3.
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
OLD_TENSOR, OLD_PARAMETER = "torch._utils._rebuild_tensor", "torch.nn.parameter.Parameter"
OLD_BACKEND = "torch.nn.backends.thnn._get_thnn_function_backend"
CALLED = frozenset(
    ("collections.OrderedDict", "__builtin__.set", TENSOR, PARAMETER, OLD_TENSOR, OLD_PARAMETER, OLD_BACKEND)
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = frozenset("BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINSTRING SHORT_BINSTRING".split())
MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the container before PyTorch 1.6
MOST = 900  # modules, which may lie within each other


@dataclass
class Node:
    """A module of the file: its class by name, and its attributes."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """A Python object that the file names."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A storage, or ``numel`` elements of one from ``start`` on."""

    key: str
    dtype: torch.dtype
    whole: int  # elements of the storage
    start: int
    numel: int


@dataclass(frozen=True)
class Placed:
    """A tensor: where it lies in its storage."""

    storage: Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class PickledModule:
    """What such a file holds.

    Args:
        class_name: of the module, ``src.model.AutoEncoder``.
        settings: attributes of the module that are numbers, strings, None, or lists and tuples of these.
        placed: where its tensors lie, by name.
        storages: bytes of each storage.
    """

    class_name: str
    settings: dict[str, Any]
    placed: dict[str, Placed]
    storages: dict[str, bytes]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by their names in a state dict and in its order, each with memory of its own.

        Counters of batches, which files before PyTorch 0.4.1 lack, are not made up.
        """
        return {name: self._tensor(placed) for name, placed in self.placed.items()}

    def _tensor(self, placed: Placed) -> Tensor:
        stored = placed.storage
        if not prod(placed.size):
            return torch.empty(placed.size, dtype=stored.dtype)
        flat = torch.frombuffer(bytearray(self.storages[stored.key]), dtype=stored.dtype)
        return flat.as_strided(placed.size, placed.stride, stored.start + placed.offset).clone()


def read_module(path: Path, classes: Collection[str]) -> PickledModule:
    """Read a file of ``torch.save(model)``, in the container of today or in that before PyTorch 1.6.

    Args:
        path: the file.
        classes: dotted names of the classes that may occur beside ``LAYERS``; the module is of one of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or has what is not allowed, or is of no such class; one sentence with the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    allowed = LAYERS | set(classes)
    try:
        root, storages = _read_zip(path, allowed) if zipfile.is_zipfile(path) else _read_legacy(path, allowed)
        if not isinstance(root, Node) or root.class_name not in classes:
            found = root.class_name if isinstance(root, Node) else type(root).__name__
            raise Refused(f"a {found}, not a module of class {' or '.join(sorted(classes))}")
        placed = dict(_walk(root, "", set()))
        _check(placed, storages)
    except Refused as error:
        raise ValueError(f"{path} was refused: it holds {error}.") from error
    except Exception as error:  # damaged bytes can make the readers fail in any way
        raise ValueError(f"{path} is no pickled module: it is damaged or of another kind.") from error
    settings = {k: v for k, v in root.state.items() if not k.startswith("_") and k != "training" and _is_plain(v)}
    return PickledModule(root.class_name, settings, placed, storages)


class Refused(Exception):
    """Says what was refused."""


class Machine:
    """Pickle's protocol 2, as far as modules need it, on plain data.

    Args:
        allowed: names of classes of modules.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Stored] = {}  # that the file mentions, by key

    def run(self, stream: BytesIO) -> Any:
        """The object of the next pickle in the stream, which is left behind it."""
        for op, argument, _ in pickletools.genops(stream):
            if op.name == "STOP":
                (result,) = self.stack
                return result
            if op.name in LITERALS:
                self.stack.append(argument)
            elif op.name in CONSTANTS:
                self.stack.append(CONSTANTS[op.name])
            elif not (self.containers(op.name) or self.memory(op.name, argument) or self.objects(op.name, argument)):
                raise Refused(f"the pickle operation {op.name}, which no module of protocol 2 needs")
        raise EOFError

    def after_mark(self) -> list[Any]:
        """Take what has been pushed since the last mark."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def containers(self, name: str) -> bool:
        """Tuples, lists and dictionaries."""
        match name:
            case "MARK":
                self.marks.append(len(self.stack))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "TUPLE":
                self.stack.append(tuple(self.after_mark()))
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "APPEND" | "APPENDS":
                items = [self.stack.pop()] if name == "APPEND" else self.after_mark()
                _exactly(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [self.stack.pop() for _ in range(2)][::-1] if name == "SETITEM" else self.after_mark()
                _exactly(self.stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
            case _:
                return False
        return True

    def memory(self, name: str, argument: Any) -> bool:
        """What is put by for a second use."""
        match name:
            case "PROTO":
                if argument != 2:
                    raise Refused(f"pickle protocol {argument}, not 2")
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def objects(self, name: str, argument: Any) -> bool:
        """Names, and what a file would have called or built of them."""
        match name:
            case "GLOBAL":
                found = argument.replace(" ", ".", 1)
                if found not in self.allowed and found not in CALLED and found not in DTYPES:
                    raise Refused(f"{found}, which is not among the names that such a file may have")
                self.stack.append(Name(found))
            case "REDUCE":
                arguments, called = _exactly(self.stack.pop(), tuple), _exactly(self.stack.pop(), Name)
                self.stack.append(_called(called.name, arguments))
            case "NEWOBJ":
                arguments, called = self.stack.pop(), _exactly(self.stack.pop(), Name)
                if called.name not in self.allowed or arguments != ():
                    raise Refused(f"a new {called.name} with arguments, which modules do not have")
                self.stack.append(Node(called.name))
            case "BUILD":
                state = self.stack.pop()
                if isinstance(self.stack[-1], Node):
                    self.stack[-1].state = _exactly(state, dict)
                else:
                    _exactly(self.stack[-1], Placed)  # an old parameter, whose state says how it learns
            case "BINPERSID":
                self.stack.append(found := _persistent(_exactly(self.stack.pop(), tuple)))
                if isinstance(found, Stored):
                    self.storages[found.key] = found
            case _:
                return False
        return True


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "collections.OrderedDict":
        return dict(_exactly(arguments[0], list)) if arguments else {}
    if name == "__builtin__.set":
        return set(_exactly(arguments[0], list))
    if name in (TENSOR, OLD_TENSOR):
        return _placed(*arguments[:4])
    if name in (PARAMETER, OLD_PARAMETER):
        return _exactly(arguments[0], Placed)
    if name == OLD_BACKEND and arguments == ():
        return None
    raise Refused(f"a call of {name}, which modules do not need")


def _placed(storage: Any, offset: Any, size: Any, stride: Any) -> Placed:
    numbers = [offset, *_exactly(size, tuple), *_exactly(stride, tuple)]
    if not all(type(n) is int and 0 <= n < 2**62 for n in numbers) or len(size) != len(stride):
        raise Refused(f"a tensor of size {size}, stride {stride} at {offset}, which cannot be")
    return Placed(_exactly(storage, Stored), offset, size, stride)


def _persistent(fields: tuple[Any, ...]) -> Any:
    """A storage; or, in old files, a class with its source text, which is left out."""
    if fields[0] == "module":
        return _exactly(fields[1], Name)
    if fields[0] != "storage" or len(fields) not in (5, 6):
        raise Refused(f"an external object of kind {fields[0]!r}, neither a storage nor a module")
    key, numel, view = fields[2], fields[4], fields[5] if len(fields) == 6 else None
    kind = _exactly(fields[1], Name).name
    start, part = (0, numel) if view is None else view[1:]
    if kind not in DTYPES or not all(type(n) is int and n >= 0 for n in (numel, start, part)) or start + part > numel:
        raise Refused(f"a storage of {kind} with {part} of {numel} numbers from {start} on, which cannot be")
    return Stored(_exactly(key, str), DTYPES[kind], numel, start, part)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused(f"a {_word(type(value))} where a module has a {_word(kind)}")
    return value


def _word(kind: type) -> str:
    return {Placed: "tensor", Stored: "storage", Node: "module"}.get(kind, kind.__name__.lower())


def _read_zip(path: Path, allowed: Collection[str]) -> tuple[Any, dict[str, bytes]]:
    """Of PyTorch 1.6 and later: NAME/data.pkl and NAME/data/KEY."""
    with zipfile.ZipFile(path) as archive:
        (pickle,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
        folder = pickle.removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise Refused("compressed records, which PyTorch does not write")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise Refused("numbers of another byte order than little-endian")
        root = Machine(allowed).run(BytesIO(archive.read(pickle)))
        keys = (name for name in archive.namelist() if name.startswith(f"{folder}data/"))
        return root, {name.removeprefix(f"{folder}data/"): archive.read(name) for name in keys}


def _read_legacy(path: Path, allowed: Collection[str]) -> tuple[Any, dict[str, bytes]]:
    """Before: magic number, version, machine, the module, keys of the storages; then each one's length and bytes."""
    stream = BytesIO(path.read_bytes())
    magic, version, machine = (Machine(()).run(stream) for _ in range(3))
    if (magic, version) != (MAGIC, LEGACY_VERSION) or machine.get("little_endian") is not True:
        raise Refused("another magic number, version or byte order than PyTorch's little-endian files")
    reader = Machine(allowed)
    root = reader.run(stream)
    storages = {}
    for key in Machine(()).run(stream):
        numel = int.from_bytes(stream.read(8), "little")
        storages[key] = stream.read(numel * reader.storages[key].dtype.itemsize)
    return root, storages


def _walk(node: Node, prefix: str, seen: set[int]) -> Iterator[tuple[str, Placed]]:
    """Names and places of a module's tensors."""
    if id(node) in seen or len(seen) > MOST:
        raise Refused(f"a module twice, or more than {MOST} modules")
    seen.add(id(node))
    for kind in ("_parameters", "_buffers"):
        for name, placed in node.state.get(kind, {}).items():
            if placed is not None:
                yield f"{prefix}{name}", _exactly(placed, Placed)
    for name, child in node.state.get("_modules", {}).items():
        if child is not None:
            yield from _walk(_exactly(child, Node), f"{prefix}{name}.", seen)


def _check(placed: dict[str, Placed], storages: dict[str, bytes]) -> None:
    """Every tensor lies within its storage and is no larger, and the storage within the file."""
    for name, tensor in placed.items():
        stored, numel = tensor.storage, prod(tensor.size)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        if numel and (last >= stored.numel or numel > stored.numel):
            raise Refused(f"{name}, which reaches beyond its storage of {stored.numel} numbers")
        found = len(storages.get(stored.key, b""))
        if found != stored.whole * stored.dtype.itemsize:
            raise Refused(f"{found} bytes for {name}, whose storage has {stored.whole} numbers")


def _is_plain(value: Any, deep: int = 4) -> bool:
    if isinstance(value, list | tuple):
        return deep > 0 and all(_is_plain(each, deep - 1) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
