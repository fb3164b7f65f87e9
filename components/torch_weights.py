"""Read a legacy PyTorch state dict without PyTorch and without running anything that the file asks for."""

from __future__ import annotations

import collections
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from components.errors import UserError

# The legacy format (torch.serialization, before 1.6): three pickles of header, the state dict's pickle with storages by
# reference, a pickle of the storage keys, then each storage as int64 count and little-endian values.
MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(str):
    """A storage's element type, standing for torch.FloatStorage and its like."""


class _Tensor:
    """A view of a storage that is filled after the pickle has been read."""

    def __init__(self, storage: dict[str, Any], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any):
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self) -> np.ndarray:
        values = self.storage["values"]
        strides = [step * values.itemsize for step in self.stride]
        reach = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride)) + 1
        if reach > len(values) or min([self.offset, *self.stride, *self.shape], default=0) < 0:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): _Storage("FloatStorage"),
    ("torch", "LongStorage"): _Storage("LongStorage"),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> dict[str, Any]:
        kind, dtype, key, _, count, *_ = reference
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a {kind}")
        return self.storages.setdefault(key, {"dtype": DTYPES[dtype], "count": count})


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
        if _RestrictedUnpickler(file).load() != MAGIC:
            raise pickle.UnpicklingError("it lacks the magic number")
        for _ in ("protocol version", "system"):
            _RestrictedUnpickler(file).load()
        unpickler = _RestrictedUnpickler(file)
        tensors = unpickler.load()
        for key in _RestrictedUnpickler(file).load():
            storage = unpickler.storages[key]
            count = int.from_bytes(file.read(8), "little")
            data = file.read(count * storage["dtype"].itemsize)
            if count != storage["count"] or len(data) != count * storage["dtype"].itemsize:
                raise pickle.UnpicklingError("it is truncated")
            storage["values"] = np.frombuffer(data, storage["dtype"])
        return {key: tensor.array() for key, tensor in tensors.items()}
    # Unpickling hostile bytes can raise nearly anything; whatever it is, the file is not a state dict.
    except Exception as error:
        raise UserError(
            f"'{name}' is not a legacy PyTorch state dict ({error}): expected tensors and nothing else."
        ) from error
