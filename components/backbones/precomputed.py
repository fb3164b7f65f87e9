"""Ready-made bottlenecks in place of extraction: one text file per image, or an array with a list of keys."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from components.backbones.spec import Spec
from components.errors import UserError
from components.storage.files import fingerprint_file
from components.storage.places import as_path, is_remote


class ImportedBottlenecks:
    """The vectors of a folder of <key>.txt files (comma-separated floats), or of a .npy file with its list of keys."""

    def __init__(self, spec: Spec):
        assert spec.bottlenecks
        self._path = as_path(spec.bottlenecks)
        self._keys: Path | None = None
        if self._path.is_file():
            self._array = read_array(self._path)
            self._keys = as_path(spec.keys) if spec.keys else self._path.with_suffix(".txt")
            self._rows = {key: row for row, key in enumerate(read_keys(self._keys, self._path, len(self._array)))}
            self.dim = self._array.shape[1]
        else:
            first = min(self._path.rglob("*.txt"), default=None)
            if first is None:
                raise UserError(
                    f"'{self._path}' has no .txt file: expected <class>/<image>.txt with the floats of each."
                )
            self.dim = len(read_vector(first))

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times of change of the files."""
        return fingerprint_file(self._path) + fingerprint_file(self._keys)

    def find_vectors(self, keys: list[str]) -> np.ndarray:
        """Return the bottlenecks float32[N, dim] of N keys; raises UserError for a key without one."""
        return np.stack([self._find(key) for key in keys])

    def _find(self, key: str) -> np.ndarray:
        if self._keys:
            if key not in self._rows:
                raise UserError(f"'{self._path}' has no row for the image '{key}': expected every image in its list.")
            return np.asarray(self._array[self._rows[key]], np.float32)
        vector = read_vector(self._path / f"{key}.txt")
        if len(vector) != self.dim:
            raise UserError(
                f"'{self._path / key}.txt' has {len(vector)} numbers: expected {self.dim}, as in the first file."
            )
        return vector


def read_vector(path: Path) -> np.ndarray:
    """Return float32[D] from a file of comma-separated floats; raises UserError for another or a missing file."""
    try:
        return np.array([float(value) for value in path.read_text().split(",")], np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the bottleneck '{path}' ({error}): expected comma-separated floats.") from error


def read_array(path: Path) -> np.ndarray:
    """Return float[N, D] from a .npy file, mapped into memory if it is local; raises UserError for anything else."""
    try:
        if is_remote(path):
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the bottlenecks '{path}' ({error}): expected a .npy file of floats.") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"'{path}' has {array.dtype}{list(array.shape)}: expected floats of shape [images, width].")
    return array


def read_keys(keys: Path, array: Path, rows: int) -> list[str]:
    """Return the keys in a file, one per line; raises UserError if they are not as many as the rows of an array."""
    try:
        lines = keys.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(
            f"Cannot read the keys '{keys}' ({error.strerror}): set backbone.keys to a list of images."
        ) from error
    if len(lines) != rows:
        raise UserError(f"'{keys}' names {len(lines)} images, '{array}' has {rows} rows: expected one line per row.")
    return lines
