"""Placement: the shard of each listed file is that of an earlier run, or follows from the key of a new file."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence

from components.data.image_file import ImageFile
from components.errors import DamagedFile
from components.images.formats import Limits
from components.run_dir import RunDir
from components.shards.index import Row, encode_text, read_known
from components.shards.names import Shard
from components.shards.spans import choose_shards, keeps_spans, list_shards, place_key, plan_spans

# The rows of each shard, sorted by key.
Planned = dict[Shard, list[Row]]


def place_files(
    files: Sequence[ImageFile], run: RunDir, shards: int | None, limits: Limits
) -> tuple[Planned, list[int], bool]:
    """Return the rows of files in their shards, the shards of each span, and whether the spans of an earlier run stay.

    If they stay, every file that has a record stays in its shard. Raises DamagedFile for a damaged index.
    """
    former = _read_spans(run)
    known = read_known(run.examples, files, former, limits)
    stay = keeps_spans(former, len(files), shards)
    if stay:
        in_span = Counter(before.place.span if before.place else None for before in known)
        spans = plan_spans(former, in_span[len(former) - 1], in_span[None])
    else:
        spans = [shards or choose_shards(len(files))]
    planned: Planned = {shard: [] for shard in list_shards(spans)}
    for file, before in zip(files, known, strict=True):
        place = before.place if stay and before.place else place_key(file.key, spans)
        planned[place].append(Row(file, before.facts))
    for rows in planned.values():
        rows.sort(key=lambda row: encode_text(row.file.key))
    return planned, spans, stay


def list_rows(planned: Planned) -> list[Row]:
    """Return the rows of all shards."""
    return [*itertools.chain(*planned.values())]


def _read_spans(run: RunDir) -> list[int]:
    try:
        spans: list[int] = json.loads(run.spans.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DamagedFile(str(run.spans)) from error
    return spans
