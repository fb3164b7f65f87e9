"""Notes of ingest for the user, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.data.image_list import Listing
from components.features import LEAK
from components.ingest.duplicates import Copy
from components.ingest.placement import Planned


def describe_findings(planned: Planned, listing: Listing, copies: Sequence[Copy]) -> list[str]:
    """Return a sentence on each finding about the kept images of a listing and about its copies, [] for none."""
    facts, kept = planned.facts, planned.splits.codes != planned.splits.find("")

    def find(mask: np.ndarray) -> tuple[int, str]:
        rows = np.flatnonzero(mask & kept)
        return len(rows), planned.files[int(rows[0])].key if len(rows) else ""

    def take(found: Sequence[str]) -> tuple[int, str]:
        return len(found), found[0] if found else ""

    conflicts = [f"{copy.key}' and '{copy.copy_of}" for copy in copies if copy.label != copy.copy_of_label]
    leaks = [copy.key for copy in copies if copy.kind == LEAK]
    formats = "topgraft predict reads such files, the served model takes JPEG, PNG, GIF and BMP of 24 or 32 bits"
    notes = [
        _describe(take(conflicts), "image also appears", "images also appear", "in another class (see duplicates.csv)"),
        _describe(
            take(leaks), "image was", "images were", "left out for a copy in another given split (see duplicates.csv)"
        ),
        _describe(
            find(facts.orientations != 1), "image is", "images are", "turned as the orientation in the file says"
        ),
        _describe(find(facts.uniform), "image has", "images have", "only one colour"),
        _describe(
            find(facts.find_format("webp", "tiff")),
            "WebP or TIFF file is",
            "WebP or TIFF files are",
            f"stored as PNG ({formats})",
        ),
        _describe(
            take(listing.unlabelled), "image has", "images have", "no class and can be given to topgraft predict"
        ),
    ]
    for split in ("val", "test"):
        present = planned.count_classes(split)
        empty = [text for text in listing.labels if text not in present]
        notes.append(_describe(take(empty), "class has", "classes have", f"too few groups for the {split} split"))
    return list(filter(None, notes))


def _describe(found: tuple[int, str], singular: str, plural: str, rest: str) -> str:
    """Return a sentence on a number of findings, of which one is named; '' without any."""
    count, example = found
    return f"{count} {singular if count == 1 else plural} {rest}, for example '{example}'." if count else ""
