"""A list of images in columns: about 60 bytes of memory per image, so that ten million fit into one process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import BATCH, Words, batched, compact, join_parts, take_rows
from components.data.image_file import ImageFile
from components.features import SPLITS
from components.rejects import Reject

# The columns of an ImageList beside its keys.
TEXTS = ("prefixes", "texts", "sources", "groups", "splits")
NUMBERS = ("cuts", "sizes", "modified_ns", "offsets")


@dataclass(frozen=True, eq=False)
class ImageList(Sequence[ImageFile]):
    """N images in columns. A path is its prefix and the part of the key from its cut on."""

    keys: pa.LargeBinaryArray  # [N], as encode_key writes them
    prefixes: Words
    cuts: np.ndarray  # int64[N]
    texts: Words
    sources: Words
    groups: Words
    splits: Words
    sizes: np.ndarray  # int64[N]
    modified_ns: np.ndarray  # int64[N]
    offsets: np.ndarray  # int64[N]

    @classmethod
    def collect(cls, files: Iterable[ImageFile]) -> ImageList:
        """Return the list of files, in their order."""
        keys: list[pa.LargeBinaryArray] = []
        numbers: list[list[np.ndarray]] = [[] for _ in NUMBERS]

        def read() -> Iterator[tuple[str, ...]]:
            for batch in batched(files):
                keys.append(pa.array([encode_key(file.key) for file in batch], pa.large_binary()))
                split = [_split_path(file.path, file.key) for file in batch]
                *_, sizes, modified_ns, offsets = zip(*batch, strict=True)
                for part, values in zip(numbers, ([cut for _, cut in split], sizes, modified_ns, offsets), strict=True):
                    part.append(compact(np.array(values, np.int64)))
                for (prefix, _), (_, _, *texts, _, _, _) in zip(split, batch, strict=True):
                    yield prefix, *texts

        words = dict(zip(TEXTS, Words.collect_columns(len(TEXTS), read()), strict=True))
        joined = {name: join_parts(part, np.int64) for name, part in zip(NUMBERS, numbers, strict=True)}
        return cls(**{"keys": _join_keys(keys), **words, **joined})

    @classmethod
    def join(cls, lists: Sequence[ImageList]) -> ImageList:
        """Return lists one after another."""
        words = {name: Words.join([getattr(one, name) for one in lists]) for name in TEXTS}
        numbers = {name: join_parts([getattr(one, name) for one in lists], np.int64) for name in NUMBERS}
        return cls(**{"keys": _join_keys([one.keys for one in lists]), **words, **numbers})

    def __len__(self) -> int:
        return len(self.cuts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == file for one, file in zip(self, other, strict=True))

    def __getitem__(self, row):  # type: ignore[no-untyped-def]  # int -> ImageFile, slice -> list
        if isinstance(row, slice):
            return [*self.read(np.arange(len(self))[row])]
        return next(self.read(np.array([range(len(self))[row]])))

    def __iter__(self) -> Iterator[ImageFile]:
        for start in range(0, len(self), BATCH):
            yield from self._read(slice(start, start + BATCH), self.keys.slice(start, BATCH))

    def read(self, rows: np.ndarray) -> Iterator[ImageFile]:
        """Yield the images of some rows, int64[M], in their order."""
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            yield from self._read(part, self.keys.take(pa.array(part)))

    def _read(self, rows: slice | np.ndarray, keys: pa.LargeBinaryArray) -> Iterator[ImageFile]:
        words = (getattr(self, name).decode(rows) for name in TEXTS)
        numbers = (getattr(self, name)[rows].tolist() for name in NUMBERS)
        for encoded, prefix, *texts, cut, size, modified_ns, offset in zip(
            keys.to_pylist(), *words, *numbers, strict=True
        ):
            key = decode_key(encoded)
            yield ImageFile._make((key, prefix + key[cut:], *texts, size, modified_ns, offset))

    def read_keys(self, rows: np.ndarray | None = None) -> Iterator[str]:
        """Yield the keys of some rows, int64[M], by default of all."""
        for start in range(0, len(self) if rows is None else len(rows), BATCH):
            part = (
                self.keys.slice(start, BATCH) if rows is None else self.keys.take(pa.array(rows[start : start + BATCH]))
            )
            yield from map(decode_key, part.to_pylist())

    def take(self, rows: np.ndarray) -> ImageList:
        """Return the list of some rows, int64[M]."""
        words = {name: getattr(self, name).take(rows) for name in TEXTS}
        numbers = {name: take_rows(getattr(self, name), rows) for name in NUMBERS}
        return ImageList(**{"keys": self.keys.take(pa.array(rows)), **words, **numbers})

    def select(self, mask: np.ndarray) -> ImageList:
        """Return the list of the rows where a mask, bool[N], is true."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def sort(self) -> ImageList:
        """Return the list sorted by key."""
        return self.take(pc.sort_indices(self.keys).to_numpy())

    def put_below(self, name: str) -> ImageList:
        """Return the list with keys below a name."""
        start = encode_key(f"{name}/")
        before, between = (pa.scalar(text, pa.large_binary()) for text in (start, b""))
        keys = pc.binary_join_element_wise(before, self.keys, between)
        sources = self.sources.map(lambda source: f"{name}/{source}" if source else name)
        return replace(self, keys=keys, cuts=compact(self.cuts + len(name) + 1), sources=sources)


class Listing(NamedTuple):
    """The images at one place or several."""

    files: ImageList  # sorted by their keys, which are unique
    labels: list[str]  # in natural order, or in that of labels.txt or of the class numbers of TFRecords
    rejects: list[Reject]  # files that cannot be listed as an image of a class
    unlabelled: list[str]  # paths of images without a class, for prediction only
    open_splits: tuple[str, ...] = SPLITS  # the images without a split are divided among these
    ordered: bool = False  # the labels are in the user's order, not the natural one
    notes: tuple[str, ...] = ()  # sentences for the user

    def fingerprint(self) -> str:
        """Return the SHA-256 of the whole list, as hex digits; a changed path, size or time of a file changes it."""
        digest = hashlib.sha256(ascii(self[1:]).encode())
        for file in self.files:
            digest.update(ascii(file[:]).encode())
        return digest.hexdigest()


def open_train(files: ImageList) -> tuple[ImageList, tuple[str, ...]]:
    """Return files and the open splits; if val or test has no file, files of train lose their split.

    So a data set with train and test gets its val from train, and its test stays unchanged.
    """
    given = files.splits.count()
    missing = [split for split in SPLITS[1:] if split not in given]
    if not missing:
        return files, SPLITS if "" in given else ()
    opened = files.splits.map(lambda split: "" if split == "train" else split)
    return replace(files, splits=opened), ("train", *missing)


def encode_key(key: str) -> bytes:
    """Return bytes whose order is that of the texts; every text has its own, whatever bytes a file name has."""
    return key.encode("utf-8", "surrogatepass")


def decode_key(encoded: bytes) -> str:
    """Return the key that encode_key was given."""
    return encoded.decode("utf-8", "surrogatepass")


def _join_keys(parts: Sequence[pa.LargeBinaryArray]) -> pa.LargeBinaryArray:
    return pa.concat_arrays([pa.array([], pa.large_binary()), *parts])


def _split_path(path: str, key: str) -> tuple[str, int]:
    """Return the prefix of a path and the cut of its key; few prefixes differ, as they are roots or folders."""
    for cut in (0, key.rfind("/") + 1):
        if path.endswith(key[cut:]):
            return path[: len(path) - len(key) + cut], cut
    return path, len(key)
