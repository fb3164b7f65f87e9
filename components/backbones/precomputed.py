"""Ready-made bottlenecks in place of extraction: a text file for each image, or an array with a list of keys."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from components.backbones.spec import Spec
from components.errors import UserError
from components.storage.places import as_path, is_remote, list_files, measure


class ImportedBottlenecks:
    """The vectors of a folder of <key>.txt files (comma-separated floats), or of a .npy file with its list of keys."""

    def __init__(self, spec: Spec):
        assert spec.bottlenecks
        self._path = as_path(spec.bottlenecks)
        self._rows: dict[str, int] = {}
        if self._path.is_file():
            self._array = read_array(self._path)
            self._rows = {key: row for row, key in enumerate(read_keys(self._path, spec.keys, len(self._array)))}
            self.dim = self._array.shape[1]
        else:
            first = min(self._path.rglob("*.txt"), default=None)
            if first is None:
                raise UserError(
                    f"'{self._path}' holds no .txt file: expected <class>/<image>.txt with the floats of each."
                )
            self.dim = len(read_vector(first))

    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and times of change."""
        if self._path.is_file():
            files = {self._path.name: measure(self._path)}
        else:
            files = {name: status for name, status in list_files(self._path).items() if name.endswith(".txt")}
        digest = hashlib.sha256()
        for name, (size, changed) in files.items():
            digest.update(f"{name}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def find_vectors(self, keys: list[str]) -> np.ndarray:
        """Return float32[N, dim] for image keys; raises UserError for an image without its bottleneck."""
        return np.stack([self._find(key) for key in keys])

    def _find(self, key: str) -> np.ndarray:
        if self._path.is_file():
            if key not in self._rows:
                raise UserError(f"'{self._path}' has no row for the image '{key}': expected every image in its list.")
            return np.asarray(self._array[self._rows[key]], np.float32)
        vector = read_vector(self._path / f"{key}.txt")
        if len(vector) != self.dim:
            raise UserError(
                f"'{self._path / key}.txt' holds {len(vector)} numbers: expected {self.dim}, as in the first."
            )
        return vector


def read_vector(path: Path) -> np.ndarray:
    """Read comma-separated floats; raises UserError for anything else, and for a missing file."""
    try:
        return np.array([float(value) for value in path.read_text().split(",")], np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the bottleneck '{path}' ({error}): expected comma-separated floats.") from error


def read_array(path: Path) -> np.ndarray:
    """Map a .npy file of shape [N, D] into memory, or read a remote one; raises UserError for anything else."""
    try:
        if is_remote(path):
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the bottlenecks '{path}' ({error}): expected a .npy file of floats.") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"'{path}' holds {array.dtype}{list(array.shape)}: expected floats of shape [images, width].")
    return array


def read_keys(path: Path, keys: str | None, rows: int) -> list[str]:
    """Return the keys of an array's rows, a line each; the list stands beside it as .txt unless it is named."""
    file = as_path(keys) if keys else path.with_suffix(".txt")
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(
            f"Cannot read the keys '{file}' ({error.strerror}): set backbone.keys to a list of images."
        ) from error
    if len(lines) != rows:
        raise UserError(f"'{file}' names {len(lines)} images, '{path}' holds {rows} rows: expected one line a row.")
    return lines
