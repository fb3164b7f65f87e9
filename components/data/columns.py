"""Columns in memory: numbers and texts of millions of rows, where equal values share one place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

# Rows that exist as Python objects at once.
BATCH = 8192

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Words:
    """A column of N texts of which few differ."""

    codes: np.ndarray  # int32[N], the position of each text in words
    words: Sequence[str]

    @classmethod
    def collect(cls, texts: Iterable[str]) -> Words:
        """Return the column of texts."""
        (column,) = cls.collect_columns(1, ((text,) for text in texts))
        return column

    @classmethod
    def collect_columns(cls, count: int, rows: Iterable[tuple[str, ...]]) -> list[Words]:
        """Return the columns of rows of `count` texts."""
        words: list[dict[str, int]] = [{} for _ in range(count)]
        parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        for batch in batched(rows):
            for texts, known, part in zip(zip(*batch, strict=True), words, parts, strict=True):
                part.append(compact(np.array([known.setdefault(text, len(known)) for text in texts], np.int32)))
        return [cls(join_parts(part, np.int32), (*known,)) for part, known in zip(parts, words, strict=True)]

    @classmethod
    def repeat(cls, text: str, count: int) -> Words:
        """Return the column of one text, count times."""
        return cls(np.broadcast_to(np.int32(0), count), (text,))

    @classmethod
    def join(cls, columns: Sequence[Words]) -> Words:
        """Return columns one after another."""
        numbers: dict[str, int] = {}
        places = [[numbers.setdefault(word, len(numbers)) for word in column.words] for column in columns]
        codes = [map_codes(column.codes, place) for place, column in zip(places, columns, strict=True) if place]
        return cls(join_parts(codes, np.int32), (*numbers,))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.codes), BATCH):
            yield from self.decode(slice(start, start + BATCH))

    def take(self, rows: np.ndarray) -> Words:
        """Return the column of some rows."""
        return Words(take_rows(self.codes, rows), self.words)

    def map(self, function: Callable[[str], str]) -> Words:
        """Return the column of the results of a function of a text."""
        mapped = Words.collect(map(function, self.words))
        return Words(map_codes(self.codes, mapped.codes), mapped.words)

    def find(self, word: str) -> int:
        """Return the code of a text, -1 for one that does not appear."""
        return self.words.index(word) if word in self.words else -1

    def recode(self, words: Sequence[str]) -> np.ndarray:
        """Return the column as int32[N] positions in other words; raises ValueError for a text that is not there."""
        places = {word: place for place, word in enumerate(words)}
        codes = map_codes(self.codes, [places.get(word, -1) for word in self.words])
        if (codes < 0).any():
            raise ValueError(f"{self.words[self.codes[codes < 0][0]]!r} is not among the words")
        return codes

    def decode(self, rows: slice | np.ndarray) -> list[str]:
        """Return the texts of some rows."""
        return [self.words[code] for code in self.codes[rows].tolist()]

    def count(self) -> dict[str, int]:
        """Return how often each text appears, without those that do not."""
        numbers = np.bincount(self.codes, minlength=len(self.words)).tolist()
        return {word: number for word, number in zip(self.words, numbers, strict=True) if number}

    def find_first(self) -> dict[str, int]:
        """Return the first row of each text."""
        first = np.full(len(self.words), -1)
        first[self.codes[::-1]] = np.arange(len(self.codes))[::-1]  # of several rows the last one is kept
        return {word: row for word, row in zip(self.words, first.tolist(), strict=True) if row >= 0}


def batched(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield rows as lists of BATCH; the last one may be shorter."""
    stream = iter(rows)
    while batch := [*itertools.islice(stream, BATCH)]:
        yield batch


def join_parts(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    """Return the column of parts one after another; it is compact if they are."""
    filled = [part for part in parts if len(part)]
    if all(part.strides == (0,) for part in filled) and len({part[0].item() for part in filled}) == 1:
        return np.broadcast_to(filled[0][0], sum(map(len, filled)))
    return np.concatenate([np.zeros(0, kind), *filled])


def compact(column: np.ndarray) -> np.ndarray:
    """Return a column; in one whose values are all the same, they share one place in memory."""
    return np.broadcast_to(column[0], column.shape) if len(column) and (column == column[0]).all() else column


def take_rows(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of a column, which stays compact."""
    return np.broadcast_to(column[0], rows.shape) if len(column) and column.strides == (0,) else column[rows]


def map_codes(codes: np.ndarray, places: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return int32[N], the place of each code; a compact column stays compact."""
    values = np.asarray(places, np.int32)
    if len(codes) and codes.strides == (0,):
        return np.broadcast_to(values[codes[0]], codes.shape)
    return compact(values[codes])
