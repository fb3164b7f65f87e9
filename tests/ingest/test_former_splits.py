import numpy as np
import pytest

from components.data.image_file import ImageFile
from components.data.image_list import ImageList
from components.errors import DamagedFile
from components.features import SPLIT_CODES
from components.ingest.former_splits import read_former
from components.ingest.ingest import IMAGES_COLUMNS
from components.run_dir import RunDir
from components.shards.facts import FactColumns, Facts
from components.storage.tables import write_csv


def find(run, rule, images):
    """Return the former split of each (key, checksum), where '' has not been read."""
    facts = FactColumns(len(images))
    for row, (_, sha256) in enumerate(images):
        if sha256:
            facts[row] = Facts("", "", sha256, "png", 1, 1)
    files = ImageList.collect(ImageFile(key, key, "a", "", "", "", 1, 1) for key, _ in images)
    return [SPLIT_CODES[code] for code in read_former(run, rule).find(files, facts)]


def write(run, rows):
    write_csv(
        run.images, IMAGES_COLUMNS, [(key, "a", "", split, rule, "png", 1, 1, sha) for key, split, rule, sha in rows]
    )


def test_an_image_keeps_its_split_by_key_and_a_renamed_one_by_content(tmp_path):
    run = RunDir(tmp_path)
    one, two, other, zeros = "1a" * 32, "2b" * 32, "ff" * 32, "00" * 32
    write(run, [("a/1", "train", "r", one), ("a/2", "val", "r", two), ("a/3", "test", "r", zeros)])
    assert find(run, "r", [("a/1", ""), ("a/2", one), ("new", two), ("newer", ""), ("x", other), ("z", zeros)]) == [
        "train",
        "val",
        "val",
        "",
        "",
        "test",
    ]


def test_of_two_rows_with_one_content_the_later_counts(tmp_path):
    run = RunDir(tmp_path)
    write(run, [("a/1", "train", "r", "1a" * 32), ("a/2", "val", "r", "1a" * 32)])
    assert find(run, "r", [("new", "1a" * 32)]) == ["val"]


def test_the_splits_of_another_rule_and_of_no_run_tell_nothing(tmp_path):
    run = RunDir(tmp_path)
    assert find(run, "r", [("a/1", "1a" * 32)]) == [""]
    write(run, [("a/1", "train", "other", "1a" * 32)])
    assert find(run, "r", [("a/1", "1a" * 32)]) == [""]
    assert find(run, "other", []) == [] and np.array_equal(find(run, "other", [("a/1", "")]), ["train"])


@pytest.mark.parametrize(("split", "sha256"), [("train", "no checksum"), ("other", "1a" * 32)])
def test_a_damaged_table_is_named(tmp_path, split, sha256):
    run = RunDir(tmp_path)
    write(run, [("a/1", split, "r", sha256)])
    with pytest.raises(DamagedFile, match="images.csv"):
        read_former(run, "r")
