from components.data.image_file import ImageFile, Listing
from components.ingest.duplicates import Copy
from components.ingest.notes import describe_copies, describe_files, describe_splits
from components.shards.index import Facts, Row


def row(key, split="train", image_format="jpeg", orientation=1, uniform=0):
    facts = Facts("", "", "sum", image_format, 5, 5, orientation, uniform)
    return Row(ImageFile(key, key, key.split("/")[0], "", "", "", 5, 7), facts, split)


def listing(unlabelled=()):
    return Listing([], ["a", "b"], [], list(unlabelled))


def test_data_without_findings_says_nothing():
    rows = [row(f"{text}/{split}.jpg", split) for text in "ab" for split in ("train", "val", "test")]
    assert [*describe_copies([]), *describe_files(rows, listing()), *describe_splits(rows, ["a", "b"])] == []


def test_a_label_conflict_names_both_images():
    (sentence,) = describe_copies([Copy("label_conflict", "b/1.jpg", "b", "a/1.jpg", "a", "kept", "sum")])
    assert "'b/1.jpg'" in sentence and "'a/1.jpg'" in sentence


def test_a_leak_is_named():
    (sentence,) = describe_copies([Copy("leak", "train/a/1.jpg", "a", "test/a/1.jpg", "a", "dropped", "sum")])
    assert "'train/a/1.jpg'" in sentence and "left out" in sentence


def test_turned_transcoded_and_unlabelled_images_are_counted():
    rows = [row("a/1.jpg", orientation=6), row("a/2.webp", image_format="webp"), row("a/3.tif", "train", "tiff", 3)]
    turned, stored, unlabelled = describe_files(rows, listing(["test/7.jpg", "test/8.jpg"]))
    assert turned == "Each of 2 images is turned as the orientation in its file says."
    assert stored.startswith("Each of 2 WebP or TIFF files")
    assert "'test/7.jpg'" in unlabelled and "2 images" in unlabelled


def test_images_of_one_colour_are_counted_and_the_first_is_named():
    rows = [row("a/1.jpg"), row("a/2.png", uniform=1)]
    assert describe_files(rows, listing()) == [
        "1 image has one colour everywhere and shows nothing: 'a/2.png' is the first."
    ]
    (sentence,) = describe_files([*rows, row("b/1.png", uniform=1)], listing())
    assert sentence.startswith("Each of 2 images has one colour") and "'a/2.png'" in sentence


def test_classes_that_lack_a_split_are_named():
    val, test = describe_splits([row("a/1.jpg"), row("b/1.jpg"), row("a/2.jpg", "test")], ["a", "b"])
    assert val.startswith("Class 'a' and 1 more has no image in the val split")
    assert test.startswith("Class 'b' has no image in the test split")
