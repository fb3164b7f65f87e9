"""The facts read from image files, one by one and in columns."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np


class Facts(NamedTuple):
    """The facts read from a file: the reason why it is not a usable image ('' if it is one), else its SHA-256, format,
    height and width in pixels, EXIF orientation, and 1 if all its pixels have one colour."""

    reason: str
    detail: str
    sha256: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1
    uniform: int = 0


class FactColumns:
    """The facts of N images, None for those that have not been read, in 50 bytes of memory each."""

    def __init__(self, count: int):
        self.is_read = np.zeros(count, bool)
        self.rejects: dict[int, Facts] = {}  # by row: few images are unusable
        self.digests = np.zeros(count, "S32")  # SHA-256 of the file
        self.orientations = np.ones(count, np.int8)
        self.uniform = np.zeros(count, bool)
        self._sizes = np.zeros((count, 2), np.int32)
        self._formats = np.zeros(count, np.int8)
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self.is_read)

    def __getitem__(self, row: int) -> Facts | None:
        if not self.is_read[row]:
            return None
        if row in self.rejects:
            return self.rejects[row]
        sha256 = self.digests[row].ljust(32, b"\0").hex()  # numpy drops zeros at the end
        height, width = self._sizes[row].tolist()
        numbers = (height, width, int(self.orientations[row]), int(self.uniform[row]))
        return Facts("", "", sha256, self._names[self._formats[row]], *numbers)

    def __setitem__(self, row: int, facts: Facts) -> None:
        self.is_read[row] = True
        if facts.reason:
            self.rejects[row] = facts
            return
        self.rejects.pop(row, None)
        self.digests[row] = bytes.fromhex(facts.sha256)
        self._sizes[row] = facts.height, facts.width
        self.orientations[row], self.uniform[row] = facts.orientation, facts.uniform
        if facts.format not in self._names:
            self._names.append(facts.format)
        self._formats[row] = self._names.index(facts.format)

    def find_usable(self) -> np.ndarray:
        """Return bool[N]: whether each image is usable or has not been read."""
        usable = np.ones(len(self), bool)
        usable[[*self.rejects]] = False
        return usable

    def find_format(self, *names: str) -> np.ndarray:
        """Return bool[N]: whether each image is usable and has one of these formats."""
        wanted = [number for number, name in enumerate(self._names) if name in names]
        return self.is_read & self.find_usable() & np.isin(self._formats, wanted)

    def find_changed(self, later: FactColumns) -> np.ndarray:
        """Return bool[N]: whether each image has other facts in a later state of a copy of these."""
        changed = self.is_read != later.is_read
        for name in ("digests", "orientations", "uniform", "_formats"):
            changed |= getattr(self, name) != getattr(later, name)
        changed |= (self._sizes != later._sizes).any(axis=1)
        rows = [row for row in self.rejects.keys() | later.rejects.keys() if self[row] != later[row]]
        changed[rows] = True
        return changed

    def copy(self) -> FactColumns:
        """Return facts that change independently."""
        return copy.deepcopy(self)
