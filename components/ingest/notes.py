"""What ingest found that a person should know: one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.image_file import Listing
from components.ingest.duplicates import Copy
from components.shards.index import Row


def describe_copies(copies: Sequence[Copy]) -> list[str]:
    """Return a sentence on label conflicts and one on images that were in two of the given splits."""
    sentences = []
    conflicts = [copy for copy in copies if copy.label != copy.copy_of_label]
    if conflicts:
        sentences.append(
            f"{_count(len(conflicts), 'image')} also stands under another class, such as '{conflicts[0].key}' and "
            f"'{conflicts[0].copy_of}': see duplicates.csv."
        )
    leaks = [copy for copy in copies if copy.kind == "leak"]
    if leaks:
        sentences.append(
            f"{_count(len(leaks), 'image')} of one given split lay in another too, such as '{leaks[0].key}', and was "
            f"left out there: see duplicates.csv."
        )
    return sentences


def describe_files(rows: Sequence[Row], listing: Listing) -> list[str]:
    """Return sentences on images that are stored or read in another way than their bytes alone would say."""
    sentences = []
    facts = [row.facts for row in rows if row.facts]
    turned = sum(fact.orientation != 1 for fact in facts)
    if turned:
        sentences.append(f"{_count(turned, 'image')} is turned as the orientation in its file says.")
    uniform = [row.file.key for row in rows if row.facts and row.facts.uniform]
    if uniform:
        sentences.append(
            f"{_count(len(uniform), 'image')} has one colour everywhere and shows nothing: '{uniform[0]}' is the first."
        )
    stored = sum(fact.format in ("webp", "tiff") for fact in facts)
    if stored:
        sentences.append(
            f"{_count(stored, 'WebP or TIFF file')} is stored as PNG: topgraft predict reads such files, the served "
            f"model takes JPEG, PNG, GIF and BMP of 24 or 32 bits."
        )
    if listing.unlabelled:
        sentences.append(
            f"{_count(len(listing.unlabelled), 'image')} without a class is left to topgraft predict: "
            f"'{listing.unlabelled[0]}' is the first."
        )
    return sentences


def describe_splits(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """Return a sentence on the classes that have no validation image, and one on those without a test image."""
    sentences = []
    for split in ("val", "test"):
        there = {row.file.text for row in rows if row.split == split}
        missing = [text for text in labels if text not in there]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            sentences.append(f"Class '{missing[0]}'{more} has no image in the {split} split: it has too few groups.")
    return sentences


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"Each of {number} {noun}s"
