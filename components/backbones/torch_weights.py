"""Read a legacy PyTorch state dict without PyTorch, and without running code that the file names."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.errors import UserError

# The legacy format (torch.serialization, before 1.6): three pickles of header, the state dict's pickle with storages by
# reference, a pickle of the storage keys, then each storage as int64 count and little-endian values.
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle, of the number 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
# Other opcodes, such as BYTEARRAY8, let a file reserve any amount of memory.
OPCODES = re.compile(
    "PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|BINUNICODE|(LONG_)?BIN(GET|PUT)|EMPTY_(TUPLE|LIST|DICT)|TUPLE[123]?|"
    "APPENDS?|SETITEMS?|GLOBAL|REDUCE|BINPERSID|BUILD"
)
MAX_OPCODES = 2**15  # the largest of our weights files has 14,000


class NotAStateDict(Exception):
    """The file is not a legacy state dict."""


class _Storage(NamedTuple):
    key: str
    dtype: str
    length: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and stride count values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, values: np.ndarray) -> np.ndarray:
        strides = [step * values.itemsize for step in self.stride]
        reach = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)) + 1
        if reach > len(values) or min([self.offset, *self.stride, *self.shape], default=0) < 0:
            raise NotAStateDict("a tensor reaches beyond its storage")
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing, and returns only new or immutable objects for names and references."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _Tensor(*arguments[:4])
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise NotAStateDict(f"it imports {module}.{name}")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = reference
        if kind != "storage" or dtype not in DTYPES.values():
            raise NotAStateDict("it refers to an object that is not a storage")
        return _Storage(key, dtype, count)


def _read_pickle(file: io.BytesIO) -> Any:
    """Return the object in one pickle; raises NotAStateDict for opcodes that could take much memory or time."""
    argument: Any
    start, memo, previous = file.tell(), {}, ""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if not OPCODES.fullmatch(opcode.name) or number > MAX_OPCODES:
            raise NotAStateDict(f"it has the opcode {opcode.name} at {number}")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if argument > MAX_OPCODES:  # pickle's memo is an array
                raise NotAStateDict("its memo is too large")
            memo[argument] = previous
        # Nested tuples, each with the next one twice, would take exponential time to hash.
        elif opcode.name in ("BINGET", "LONG_BINGET") and memo.get(argument) not in ("GLOBAL", "BINUNICODE"):
            raise NotAStateDict("it repeats an object that is neither a name nor text")
        previous = opcode.name
    return _Unpickler(io.BytesIO(file.getvalue()[start : file.tell()])).load()


def _only(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise NotAStateDict(f"it has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def read_state_dict(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Return the tensors of a legacy state dict by name; raises UserError for another SHA-256 or an unreadable file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the weights '{path}' ({error.strerror}): install their package again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"The weights '{path}' have SHA-256 {found}, expected {sha256}: install their package again.")
    return parse_state_dict(content, str(path))


def parse_state_dict(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Return the tensors in a legacy state dict by name; raises UserError for anything else."""
    try:
        if not content.startswith(MAGIC):
            raise NotAStateDict("it lacks the magic number")
        file = io.BytesIO(content)
        file.seek(len(MAGIC))
        _protocol, _system, tensors, keys = (_read_pickle(file) for _ in range(4))
        for tensor in _only(tensors, dict).values():
            for number in (_only(tensor, _Tensor).offset, *tensor.shape, *tensor.stride):
                _only(number, int)
        # A stride of 0, or many tensors with one storage, could expand a small file to terabytes.
        sizes = (abs(math.prod(tensor.shape)) * np.dtype(tensor.storage.dtype).itemsize for tensor in tensors.values())
        if sum(sizes) > len(content):
            raise NotAStateDict("its tensors are larger than the file")
        storages, values = {tensor.storage.key: tensor.storage for tensor in tensors.values()}, {}
        for key in _only(keys, list):
            if int.from_bytes(file.read(8), "little") != storages[key].length:
                raise NotAStateDict("it is truncated")
            data = file.read(storages[key].length * np.dtype(storages[key].dtype).itemsize)
            values[key] = np.frombuffer(data, storages[key].dtype, storages[key].length)
        return {_only(key, str): tensor.array(values[tensor.storage.key]) for key, tensor in tensors.items()}
    # Hostile bytes can raise nearly any exception; each means that the file is not a state dict.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"'{name}' is not a legacy PyTorch state dict ({reason}): expected tensors and nothing else."
        ) from error
