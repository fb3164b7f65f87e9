"""Placement: the shard of each listed file, by where an earlier run has put it, or by its key if it is new."""

from __future__ import annotations

import json
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

    If so, what lies in their shards stays there, whatever its key.
    """
    former = _read_spans(run)
    known = read_known(run.examples, files, former, limits)
    stay = keeps_spans(former, len(files), shards)
    if stay:
        newest = sum(lies.place is not None and lies.place.span == len(former) - 1 for lies in known)
        spans = plan_spans(former, newest, sum(lies.place is None for lies in known))
    else:
        spans = [shards or choose_shards(len(files))]
    planned: Planned = {shard: [] for shard in list_shards(spans)}
    for file, lies in zip(files, known, strict=True):
        place = lies.place if stay and lies.place else place_key(file.key, spans)
        planned[place].append(Row(file, lies.facts))
    for rows in planned.values():
        rows.sort(key=lambda row: encode_text(row.file.key))
    return planned, spans, stay


def _read_spans(run: RunDir) -> list[int]:
    try:
        spans: list[int] = json.loads(run.spans.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DamagedFile(str(run.spans)) from error
    return spans
