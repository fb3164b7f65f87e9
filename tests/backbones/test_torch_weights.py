import collections
import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.backbones.torch_weights import MAGIC, parse_state_dict, read_state_dict
from components.errors import UserError


class Reference:
    """Pickles as torch pickles a storage: by persistent id."""

    def __init__(self, key, count):
        self.id = ("storage", Opaque("torch", "FloatStorage"), key, "cpu", count, None)


class Opaque:
    def __init__(self, module, name):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    """Writes names of modules that are not installed."""

    def persistent_id(self, value):
        return value.id if isinstance(value, Reference) else None

    def memoize(self, value):
        if not isinstance(value, tuple):  # torch.save makes a new tuple each time
            super().memoize(value)

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Opaque):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, tuple) and value and value[0] == "tensor":
            self.save(Opaque("torch._utils", "_rebuild_tensor_v2"))
            self.save(value[1:])
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def dump(value):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def legacy_file(tensors, storages):
    parts = [MAGIC, dump(1001), dump({"little_endian": True}), dump(tensors), dump(list(storages))]
    data = [struct.pack("<q", len(v)) + np.asarray(v, "<f4").tobytes() for v in storages.values()]
    return b"".join([*parts, *data])


VALUES = np.arange(12, dtype=np.float32)


def tensor(offset, shape, stride, count=12):
    return ("tensor", Reference("0", count), offset, shape, stride, False, collections.OrderedDict())


def test_tensors_with_offset_and_stride_come_back():
    content = legacy_file({"a": tensor(0, (3, 4), (4, 1)), "b": tensor(4, (2, 2), (1, 4))}, {"0": VALUES})
    tensors = parse_state_dict(content, "file")
    np.testing.assert_array_equal(tensors["a"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(tensors["b"], VALUES.reshape(3, 4)[1:, :2].T)


def test_a_pickle_that_imports_anything_else_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "trap"

    class Evil:
        def __reduce__(self):
            return (open, (str(trap), "w"))

    content = MAGIC + dump(1001) + dump({}) + pickle.dumps({"a": Evil()}, 2)
    with pytest.raises(UserError, match=r"imports .*open"):
        parse_state_dict(content, "file")
    assert not trap.exists()


@pytest.mark.parametrize("shape", [(4, 4), (13,), (-1,)])
def test_a_tensor_beyond_its_storage_is_refused(shape):
    with pytest.raises(UserError, match="beyond its storage"):
        parse_state_dict(legacy_file({"a": tensor(0, shape, (4, 1)[-len(shape) :])}, {"0": VALUES}), "file")


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": tensor(0, (2**20, 2**20), (0, 0))},
        {str(number): tensor(0, (1000,), (1,), 1000) for number in range(100)},
    ],
)
def test_tensors_that_are_larger_than_their_file_are_refused(tensors):
    values = np.zeros(tensors[next(iter(tensors))][1].id[4], np.float32)
    with pytest.raises(UserError, match="larger than the file"):
        parse_state_dict(legacy_file(tensors, {"0": values}), "file")


HEADER = MAGIC + dump(1001) + dump({})
# A tuple that holds itself twice, a hundred deep: whoever computes its hash does so 2 ** 100 times.
NESTED = b"\x80\x02})" + b"q\x00h\x00\x86" * 100


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7fNs.", "."),  # a memo of 2 ** 31 places
        (NESTED + b"K\x01s.", "it repeats an object"),  # as a key
        (b"\x80\x02X\x07\0\0\0storage" + NESTED[3:] + b"K\x01K\x01K\x01tQ.", "."),  # as a storage's type
        (b"\x80\x02\x96" + b"\xff" * 7 + b"\x0f.", "."),  # an array of an exbibyte
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "in place of a dict"),  # sets attributes
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "not callable"),
    ],
)
def test_pickles_that_take_memory_or_time_or_change_classes_are_refused_at_once(pickled, words):
    with pytest.raises(UserError, match=words):
        parse_state_dict(HEADER + pickled + dump([]), "file")


@given(st.integers(0, 10**6))
def test_a_truncated_file_is_refused(cut):
    content = legacy_file({"a": tensor(0, (12,), (1,))}, {"0": VALUES})
    with pytest.raises(UserError, match="file"):
        parse_state_dict(content[: cut % len(content)], "file")


@given(st.binary(max_size=200))
def test_anything_else_is_refused(content):
    with pytest.raises(UserError):
        parse_state_dict(content, "file")


def test_a_file_with_another_sum_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"SHA-256 2d71.* expected 00"):
        read_state_dict(tmp_path / "w.pth", "00")
