import numpy as np

from components.data.columns import Words
from components.data.image_file import ImageFile
from components.data.image_list import ImageList, Listing
from components.features import SPLITS
from components.ingest.duplicates import Copy
from components.ingest.notes import describe_findings
from components.ingest.placement import Planned
from components.shards.facts import FactColumns, Facts
from components.shards.index import Row


def row(key, split="train", image_format="jpeg", orientation=1, uniform=0):
    facts = Facts("", "", "00" * 32, image_format, 5, 5, orientation, uniform)
    return Row(ImageFile(key, key, key.split("/")[0], "", "", "", 5, 7), facts, split)


ALL_SPLITS = [row(f"{text}/{split}.jpg", split) for text in "ab" for split in SPLITS]


def to_columns(rows):
    facts, files = FactColumns(len(rows)), ImageList.collect(row.file for row in rows)
    for number, row in enumerate(rows):
        facts[number] = row.facts
    return Planned(
        files, facts, [1], np.zeros(len(rows)), Words.collect(row.split for row in rows), np.zeros(len(rows))
    )


def describe(rows=(), copies=(), unlabelled=()):
    """Describe rows beside those of two classes that have images in all splits."""
    return describe_findings(to_columns([*ALL_SPLITS, *rows]), Listing([], ["a", "b"], [], list(unlabelled)), copies)


def test_data_without_findings_has_no_notes():
    assert describe() == []


def test_a_label_conflict_names_both_images():
    (sentence,) = describe(copies=[Copy("label_conflict", "b/1.jpg", "b", "a/1.jpg", "a", "kept", "checksum")])
    assert "'b/1.jpg' and 'a/1.jpg'" in sentence


def test_a_leak_is_named():
    (sentence,) = describe(copies=[Copy("leak", "train/a/1.jpg", "a", "test/a/1.jpg", "a", "dropped", "checksum")])
    assert "'train/a/1.jpg'" in sentence and "left out" in sentence


def test_turned_transcoded_and_unlabelled_images_are_counted():
    rows = [row("a/1.jpg", orientation=6), row("a/2.webp", image_format="webp"), row("a/3.tif", "train", "tiff", 3)]
    turned, stored, unlabelled = describe(rows, unlabelled=["test/7.jpg", "test/8.jpg"])
    assert turned == "2 images are turned as the orientation in the file says, for example 'a/1.jpg'."
    assert stored.startswith("2 WebP or TIFF files are stored as PNG")
    assert "'test/7.jpg'" in unlabelled and "2 images" in unlabelled


def test_images_of_one_colour_are_counted_and_one_is_named():
    rows = [row("a/1.jpg"), row("a/2.png", uniform=1)]
    assert describe(rows) == ["1 image has only one colour, for example 'a/2.png'."]
    assert describe([*rows, row("b/1.png", uniform=1)]) == ["2 images have only one colour, for example 'a/2.png'."]


def test_classes_that_lack_a_split_are_named():
    rows = [row("a/1.jpg"), row("b/1.jpg"), row("a/2.jpg", "test")]
    val, test = describe_findings(to_columns(rows), Listing([], ["a", "b"], [], []), [])
    assert val == "2 classes have too few groups for the val split, for example 'a'."
    assert test == "1 class has too few groups for the test split, for example 'b'."
