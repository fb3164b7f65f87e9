"""The splits of an earlier run, which its images keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import batched
from components.data.image_list import ImageList, encode_key
from components.errors import DamagedFile
from components.features import SPLIT_CODES
from components.run_dir import RunDir
from components.shards.facts import FactColumns
from components.storage.tables import scan_csv


@dataclass(frozen=True, eq=False)
class Former:
    """M images of an earlier run in columns."""

    keys: pa.LargeBinaryArray  # [M]
    digests: np.ndarray  # S32[M], SHA-256, sorted
    splits: np.ndarray  # int32[M], codes of the splits by key
    splits_by_digest: np.ndarray  # int32[M]

    def find(self, files: ImageList, facts: FactColumns) -> np.ndarray:
        """Return the codes of the former splits of files, int32[N]: by key, or by content for a renamed file."""
        if not len(self.keys):
            return np.broadcast_to(np.int32(0), len(files))
        places = pc.index_in(files.keys, value_set=self.keys).fill_null(-1).to_numpy()
        found = np.where(places >= 0, self.splits[places], 0)
        rows = np.flatnonzero((found == 0) & facts.is_read)
        # The last of equal ones: a later row of the table counts.
        nearest = np.maximum(np.searchsorted(self.digests, facts.digests[rows], side="right") - 1, 0)
        same = self.digests[nearest] == facts.digests[rows]
        found[rows[same]] = self.splits_by_digest[nearest[same]]
        return found


def read_former(run: RunDir, rule: str) -> Former:
    """Return the images of an earlier run that were split by the same rule; raises DamagedFile."""
    rows = (row for row in scan_csv(run.images) if row["rule"] == rule) if run.images.exists() else ()
    keys, digests, splits = [pa.array([], pa.large_binary())], [np.zeros(0, "S32")], [np.zeros(0, np.int32)]
    try:
        for batch in batched(rows):
            keys.append(pa.array([encode_key(row["path"]) for row in batch], pa.large_binary()))
            digests.append(np.array([bytes.fromhex(row["sha256"]) for row in batch], "S32"))
            splits.append(np.array([SPLIT_CODES.index(row["split"]) for row in batch], np.int32))
    except ValueError as error:  # of a checksum, a split, or a row that is cut
        raise DamagedFile(str(run.images)) from error
    sums, codes = np.concatenate(digests), np.concatenate(splits)
    order = np.argsort(sums, kind="stable")
    return Former(pa.concat_arrays(keys), sums[order], codes, codes[order])
