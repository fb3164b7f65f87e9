"""Notes of ingest for the user, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.image_file import Listing
from components.features import LEAK
from components.ingest.duplicates import Copy
from components.shards.index import Row


def describe_findings(rows: Sequence[Row], listing: Listing, copies: Sequence[Copy]) -> list[str]:
    """Return a sentence on each finding about the kept rows of a listing and about its copies, [] without findings."""
    conflicts = [f"{copy.key}' and '{copy.copy_of}" for copy in copies if copy.label != copy.copy_of_label]
    leaks = [copy.key for copy in copies if copy.kind == LEAK]
    read = [(row.file.key, row.facts) for row in rows if row.facts]
    turned = [key for key, facts in read if facts.orientation != 1]
    uniform = [key for key, facts in read if facts.uniform]
    stored = [key for key, facts in read if facts.format in ("webp", "tiff")]
    formats = "topgraft predict reads such files, the served model takes JPEG, PNG, GIF and BMP of 24 or 32 bits"
    notes = [
        _describe(conflicts, "image also appears", "images also appear", "in another class (see duplicates.csv)"),
        _describe(leaks, "image was", "images were", "left out for a copy in another given split (see duplicates.csv)"),
        _describe(turned, "image is", "images are", "turned as the orientation in the file says"),
        _describe(uniform, "image has", "images have", "only one colour"),
        _describe(stored, "WebP or TIFF file is", "WebP or TIFF files are", f"stored as PNG ({formats})"),
        _describe(listing.unlabelled, "image has", "images have", "no class and can be given to topgraft predict"),
    ]
    for split in ("val", "test"):
        present = {row.file.text for row in rows if row.split == split}
        empty = [text for text in listing.labels if text not in present]
        notes.append(_describe(empty, "class has", "classes have", f"too few groups for the {split} split"))
    return list(filter(None, notes))


def _describe(found: Sequence[str], singular: str, plural: str, rest: str) -> str:
    words = singular if len(found) == 1 else plural
    return f"{len(found)} {words} {rest}, for example '{found[0]}'." if found else ""
