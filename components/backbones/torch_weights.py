"""Read a legacy PyTorch state dict without PyTorch and without running anything that the file asks for."""

from __future__ import annotations

import hashlib
import io
import math
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from components.errors import UserError

# The legacy format (torch.serialization, before 1.6): three pickles of header, the state dict's pickle with storages by
# reference, a pickle of the storage keys, then each storage as int64 count and little-endian values.
MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"

# What the opcodes of a pickle that push a new value push; VALUES push what stands behind them.
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}


class NotAStateDict(Exception):
    """A file that is something else."""


class _Name(NamedTuple):
    """A name that a pickle asks to have imported; it never is."""

    text: str


class _Tensor(NamedTuple):
    """A view of a storage that is filled after the pickle has been read."""

    storage: dict[str, Any]
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        values = self.storage["values"]
        strides = [step * values.itemsize for step in self.stride]
        reach = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)) + 1
        if reach > len(values) or min([self.offset, *self.stride, *self.shape], default=0) < 0:
            raise NotAStateDict("a tensor reaches beyond its storage")
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


def _read_pickle(file: BinaryIO, storages: dict[str, dict[str, Any]]) -> Any:
    """Return what one pickle holds, by the opcodes that torch.save writes and no other; fills storages.

    Not pickle.Unpickler with a find_class that refuses: it still allocates whatever memory an opcode names, computes
    hashes of tuples nested to take for ever, and sets attributes.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    name: str
    argument: Any
    for name, argument in ((opcode.name, value) for opcode, value, _ in pickletools.genops(file)):
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                _only(stack[-1], list).extend(items)
            else:
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _only(stack[-1], dict)[_only(key, str)] = value
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPEND":
            value = stack.pop()
            _only(stack[-1], list).append(value)
        elif name == "SETITEM":
            key, value = stack[-2:]
            del stack[-2:]
            _only(stack[-1], dict)[_only(key, str)] = value
        elif name == "GLOBAL":
            if argument not in (DICT, TENSOR, *DTYPES):
                raise NotAStateDict(f"it asks for {argument.replace(' ', '.')}")
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments = _only(stack.pop(), tuple)
            stack.append(_call(_only(stack.pop(), _Name), arguments))
        elif name == "BINPERSID":
            stack.append(_refer(_only(stack.pop(), tuple), storages))
        elif name == "BUILD":  # the _metadata of torch's OrderedDict
            stack.pop()
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise NotAStateDict(f"it has the opcode {name}")
    raise NotAStateDict("it ends early")


def _only(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise NotAStateDict(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _call(name: _Name, arguments: tuple) -> Any:
    if name.text == DICT:
        return {}
    if name.text != TENSOR:
        raise NotAStateDict(f"it calls {name.text.replace(' ', '.')}")
    storage, offset, shape, stride = arguments[:4]
    for number in (offset, *_only(shape, tuple), *_only(stride, tuple)):
        _only(number, int)
    return _Tensor(_only(storage, dict), offset, shape, stride)


def _refer(reference: tuple, storages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kind, dtype, key, _, count, *_ = reference
    if kind != "storage":
        raise NotAStateDict("it refers to something else than a storage")
    return storages.setdefault(_only(key, str), {"dtype": DTYPES[_only(dtype, _Name).text], "count": count})


def read_state_dict(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Return the tensors of a legacy state dict by name; raises UserError for a file with another SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the weights '{path}' ({error.strerror}): install their package again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"The weights '{path}' have SHA-256 {found}, expected {sha256}: install the package that holds them again."
        )
    return parse_state_dict(content, str(path))


def parse_state_dict(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Parse a legacy state dict; raises UserError for anything else, such as a pickle that imports other names."""
    try:
        file = io.BytesIO(content)
        storages: dict[str, dict[str, Any]] = {}
        if _read_pickle(file, {}) != MAGIC:
            raise NotAStateDict("it lacks the magic number")
        for _ in ("protocol version", "system"):
            _read_pickle(file, {})
        tensors = _only(_read_pickle(file, storages), dict)
        for key in _only(_read_pickle(file, {}), list):
            storage = storages[_only(key, str)]
            count = int.from_bytes(file.read(8), "little")
            data = file.read(count * storage["dtype"].itemsize)
            if count != storage["count"] or len(data) != count * storage["dtype"].itemsize:
                raise NotAStateDict("it is truncated")
            storage["values"] = np.frombuffer(data, storage["dtype"])
        found = [_only(tensor, _Tensor) for tensor in tensors.values()]
        # A stride of 0 would make terabytes of one number, as would many tensors of one storage.
        if sum(abs(math.prod(tensor.shape)) * tensor.storage["dtype"].itemsize for tensor in found) > len(content):
            raise NotAStateDict("its tensors are larger than the file")
        return {key: tensor.array() for key, tensor in zip(tensors, found, strict=True)}
    # Hostile bytes can raise nearly anything; whatever it is, the file is not a state dict.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"'{name}' is not a legacy PyTorch state dict ({reason}): expected tensors and nothing else."
        ) from error
