import errno
import io
import os

import google_crc32c
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from toys import fill, keys, paint_images, refusal

from components.data.listing import list_images
from components.data.split_words import SPLIT_WORDS, last_split_word
from components.data.tfrecords import read_record
from components.images.check import RejectedImage


def make_feature(value):
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def write_records(path, *records, compression=""):
    """Write a tf.Example for each dict, and bytes as they are; return the path as a string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            if isinstance(record, dict):
                feature = {name: make_feature(value) for name, value in record.items()}
                record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            writer.write(record)
    return str(path)


def slim(label, text=None, image=b"image"):
    record = {"image/encoded": image, "image/class/label": label, "image/format": b"jpg", "image/height": 3}
    return {**record, "image/class/text": text} if text is not None else record


def tfds(label, image=b"image"):
    return {"image": image, "label": label, "image/filename": b"1.jpg"}


def texts(listing):
    return [file.text for file in listing.files]


def test_files_of_eval_beside_files_of_test_are_refused_in_every_folder(tmp_path):
    folder = tmp_path / "test" / "set"
    for name in ("x-train", "x-eval"):
        write_records(folder / f"{name}.tfrecord", slim(0), slim(1))
    assert {file.split for file in list_images(str(folder)).files} == {"", "test"}
    write_records(folder / "x-test.tfrecord", slim(0), slim(1))
    assert "'eval'" in refusal(list_images, str(folder))


def test_records_are_listed_in_place_and_can_be_read_from_there(tmp_path):
    images = [path.read_bytes() for path in sorted(paint_images(tmp_path / "painted", per_class=2).rglob("*.*"))]
    names = ["flowers_train_00000-of-00002.tfrecord", "flowers_validation_00001-of-00002.tfrecord"]
    for name, part in zip(names, (images[:4], images[4:]), strict=True):
        write_records(tmp_path / "set" / name, *(slim(number % 2, image=image) for number, image in enumerate(part)))
    (tmp_path / "set" / "labels.txt").write_text("0:daisy\n1:roses\n")
    listing = list_images(str(tmp_path / "set"))
    assert keys(listing) == [f"{names[0]}#{n}" for n in range(4)] + [f"{names[1]}#{n}" for n in range(2)]
    assert [read_record(file.path, file.offset) for file in listing.files] == images
    assert [file.size for file in listing.files] == [len(image) for image in images]
    assert texts(listing) == ["daisy", "roses"] * 3
    for file in listing.files:
        assert file.path == str(tmp_path / "set" / file.key.partition("#")[0])
        assert file.modified_ns == (tmp_path / "set" / file.key.partition("#")[0]).stat().st_mtime_ns
        assert (file.source, file.group) == ("", "")
    assert (listing.labels, listing.rejects, listing.unlabelled) == (["daisy", "roses"], [], [])


def test_a_pattern_or_a_single_file_is_listed_like_a_folder(tmp_path):
    for split in ("train", "test"):
        for part in range(2):
            write_records(tmp_path / f"x-{split}.tfrecord-0000{part}-of-00002", tfds(b"a"), tfds(b"b"))
    (tmp_path / "README.md").touch()
    assert len(list_images(str(tmp_path)).files) == 8
    listing = list_images(str(tmp_path / "*train.tfrecord*"))
    assert {file.key.partition("#")[0] for file in listing.files} == {
        f"x-train.tfrecord-0000{part}-of-00002" for part in range(2)
    }
    assert keys(list_images(str(tmp_path / "x-test.tfrecord-00001-of-00002"))) == [
        f"x-test.tfrecord-00001-of-00002#{number}" for number in range(2)
    ]
    both = [str(tmp_path / "x-test.tfrecord-*"), str(tmp_path / "x-train.tfrecord-*")]
    assert len(set(keys(list_images(both)))) == 8


def test_keys_of_files_in_several_folders_contain_the_folder(tmp_path):
    for split in ("train", "val"):
        write_records(tmp_path / split / "1.tfrecord", tfds(0), tfds(1))
    listing = list_images(str(tmp_path / "*" / "*.tfrecord"))
    assert {file.key: file.split for file in listing.files} == {
        "train/1.tfrecord#0": "",
        "train/1.tfrecord#1": "",
        "val/1.tfrecord#0": "val",
        "val/1.tfrecord#1": "val",
    }
    assert listing.open_splits == ("train", "test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("flowers_train_00000-of-00005.tfrecord", "train"),
        ("flowers-train.tfrecord-00000-of-00002", "train"),
        ("train-00000-of-00002.tfrecord", "train"),
        ("x_validation_1.tfrecord", "val"),
        ("x-valid.tfrecord", "val"),
        ("X-VAL.tfrecord", "val"),
        ("stress_test-train.tfrecord", "train"),
        ("test.tfrecord", "test"),
        ("my-training-data.tfrecord", "train"),
        ("mnistTest.tfrecord", "test"),
        ("Dev_0.tfrecord", "val"),
        ("x-eval.tfrecord-00000-of-00001", "test"),
        ("trainees-contest.tfrecord", ""),
        ("0.tfrecord", ""),
    ],
)
def test_the_split_is_a_word_of_the_files_name(name, split):
    assert SPLIT_WORDS.get(last_split_word(name), "") == split


def test_splits_of_the_files_are_kept_where_all_are_there(tmp_path):
    for split in ("train", "validation", "test"):
        write_records(tmp_path / f"x-{split}.tfrecord", tfds(0), tfds(1))
    listing = list_images(str(tmp_path))
    assert [file.split for file in listing.files] == ["test", "test", "train", "train", "val", "val"]
    assert listing.open_splits == ()
    write_records(tmp_path / "more.tfrecord", tfds(0))
    listing = list_images(str(tmp_path))
    assert (listing.files[0].split, listing.files[-1].split) == ("", "val")
    assert listing.open_splits == ("train", "val", "test")


@pytest.mark.parametrize(
    ("records", "files", "labels", "found"),
    [
        ([slim(1, b"b"), slim(0, b"z"), slim(2, b"a")], {}, ["z", "b", "a"], ["b", "z", "a"]),
        ([slim(5, b"b"), slim(1, b"z")], {}, ["z", "b"], ["b", "z"]),
        ([slim(10), slim(9)], {}, ["9", "10"], ["10", "9"]),
        ([slim(1, b""), slim(0)], {"labels.txt": "0:z\n1:a\n2:unused\n"}, ["z", "a"], ["a", "z"]),
        ([slim(1), slim(2)], {"labels.txt": "1:z\n2:a: b\n"}, ["z", "a: b"], ["z", "a: b"]),
        ([slim(1), slim(0)], {"labels.txt": "z\na\n"}, ["z", "a"], ["a", "z"]),
        ([tfds(1), tfds(0)], {"label.labels.txt": "z\na\n", "x.labels.txt": "p\nq\n"}, ["z", "a"], ["a", "z"]),
        ([tfds(1), tfds(0)], {"x.labels.txt": "z\na\n"}, ["z", "a"], ["a", "z"]),
        ([tfds(b"10"), tfds(b"9")], {"labels.txt": "z\na\n"}, ["9", "10"], ["10", "9"]),
        ([{"image": b"i", "image/class/text": b"b"}, tfds(b"a")], {}, ["a", "b"], ["b", "a"]),
        ([slim(1, b"a"), slim(1), slim(0, "\u732b".encode())], {}, ["\u732b", "a"], ["a", "a", "\u732b"]),
        (
            [slim(0, b"in the record"), slim(1)],
            {"labels.txt": "z\na\n"},
            ["in the record", "a"],
            ["in the record", "a"],
        ),
    ],
)
def test_classes_are_named_by_records_or_a_labels_file_and_ordered_by_number(tmp_path, records, files, labels, found):
    write_records(tmp_path / "1.tfrecord", *records)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    listing = list_images(str(tmp_path))
    assert (listing.labels, texts(listing)) == (labels, found)


@pytest.mark.parametrize(
    ("records", "labels", "words"),
    [
        ([slim(0, b"a"), slim(1, b"b"), slim(1, b"c")], None, ["Class 1", "'b'", "'c'", "'1.tfrecord#2'"]),
        ([slim(0, b"a"), slim(1, b"a")], None, ["Classes 0 and 1", "'a'"]),
        ([slim(0, b"a"), slim(1, b"0"), slim(2)], "0:x\n2:a\n", ["Classes 0 and 2", "'a'"]),
        ([slim(0), slim(7)], "a\nb\n", ["Class 7", "'1.tfrecord#1'", "labels.txt"]),
        ([slim(0), slim(1)], "a\n\nb\n", ["Line 2", "labels.txt"]),
        ([slim(0, b"cat"), slim(1, b"Cat")], None, ["'cat'", "'Cat'"]),
        ([slim(0), slim(0)], None, ["single class '0'"]),
    ],
)
def test_names_and_numbers_that_contradict_each_other_are_refused(tmp_path, records, labels, words):
    write_records(tmp_path / "1.tfrecord", *records)
    if labels is not None:
        (tmp_path / "labels.txt").write_text(labels)
    message = refusal(list_images, str(tmp_path))
    assert all(word in message for word in words), message


def test_numbers_that_one_root_of_several_knows_keep_their_order(tmp_path):
    write_records(tmp_path / "train.tfrecord", slim(0, b"z"), slim(1, b"b"), slim(2, b"a"))
    write_records(tmp_path / "test.tfrecord", slim(2, b"a"), slim(0, b"z"))
    assert list_images([str(tmp_path / f"{split}.tfrecord") for split in ("test", "train")]).labels == ["z", "b", "a"]


def test_a_labels_file_of_the_users_goes_before_the_numbers(tmp_path):
    write_records(tmp_path / "1.tfrecord", slim(0, b"a"), slim(1, b"b"))
    (tmp_path / "mine.txt").write_text("b\na\n")
    assert list_images(str(tmp_path), labels_file=str(tmp_path / "mine.txt")).labels == ["b", "a"]


@pytest.mark.parametrize(
    ("record", "reason", "words"),
    [
        ({"image/class/label": 0, "image/height": 1}, "not_an_image", "image/class/label, image/height"),
        ({"image": 3, "label": 0}, "not_an_image", "image, label"),
        ({"image": [b"a", b"b"], "label": 0}, "not_an_image", "image"),
        (b"", "not_an_image", "nothing"),
        ({"image": b"i"}, "no_class", "0 labels"),
        (tfds(-1), "no_class", "-1"),
        (tfds(0.5), "no_class", "0 labels"),
        (tfds([1, 2]), "no_class", "2 labels"),
        (tfds(b""), "no_class", "b''"),
        (tfds(b"caf\xe9"), "bad_name", "caf"),
        (tfds(b"two\nlines"), "bad_name", "line break"),
        (b"no example", "corrupt", "not a tf.Example"),
    ],
)
def test_a_record_without_an_image_of_a_class_is_rejected_and_the_next_is_read(tmp_path, record, reason, words):
    write_records(tmp_path / "1.tfrecord", slim(0), record, slim(1))
    listing = list_images(str(tmp_path))
    assert keys(listing) == ["1.tfrecord#0", "1.tfrecord#2"]
    (reject,) = listing.rejects
    assert reject[:2] == ("1.tfrecord#1", reason) and words in reject.detail


@given(cut=st.integers(0, 200), flip=st.integers(0, 200))
def test_damage_rejects_the_rest_of_its_file(tmp_path_factory, cut, flip):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "1.tfrecord"
    whole = list_images(write_records(path, slim(0, b"a"), slim(1, b"b"), slim(0, b"a")))
    content = path.read_bytes()
    write_records(folder / "2.tfrecord", slim(0, b"a"), slim(1, b"b"))
    ends = [*(file.offset for file in whole.files), len(content)]

    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    listing = list_images(str(folder))
    left = sum(end <= cut for end in ends[1:])
    assert len(listing.files) == 2 + left
    assert [reject[:2] for reject in listing.rejects] == [(f"1.tfrecord#{left}", "corrupt")] * (cut not in ends)

    flip = min(flip, len(content) - 1)
    path.write_bytes(content[:flip] + bytes([content[flip] ^ 1]) + content[flip + 1 :])
    listing = list_images(str(folder))
    left = sum(end <= flip for end in ends[1:])
    assert [reject[:2] for reject in listing.rejects] == [(f"1.tfrecord#{left}", "corrupt")]
    assert "rest of the file" in listing.rejects[0].detail
    assert f"records from number {left} on were not read" in listing.notes[0]
    assert [file for file in listing.files if file.key[0] == "1"] == [
        file._replace(modified_ns=path.stat().st_mtime_ns) for file in whole.files[:left]
    ]


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_files_are_refused(tmp_path, compression):
    path = write_records(tmp_path / "1.tfrecord", slim(0), slim(1), compression=compression)
    assert "decompress it" in refusal(list_images, str(tmp_path)) and path in refusal(list_images, str(tmp_path))


def test_a_first_record_whose_length_reads_like_the_start_of_a_gzip_file_is_listed(tmp_path):
    for size in range(0x8B1F - 200, 0x8B1F):  # how much of the record is image is found by trying
        path = write_records(tmp_path / "1.tfrecord", slim(0, image=b"x" * size), slim(1))
        if (tmp_path / "1.tfrecord").read_bytes().startswith(b"\x1f\x8b"):
            break
    assert (tmp_path / "1.tfrecord").read_bytes().startswith(b"\x1f\x8b")
    assert len(list_images(path).files) == 2


def test_missing_files_and_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "1.tfrecord").write_bytes(b"just some words, nothing else")
    assert "the record is damaged" in refusal(list_images, str(tmp_path))
    (tmp_path / "1.tfrecord").write_bytes(b"")
    assert "no image" in refusal(list_images, str(tmp_path))
    assert "no TFRecord file" in refusal(list_images, str(tmp_path / "*train*.tfrecord"))
    (tmp_path / "1.tfrecord").unlink()
    (tmp_path / "1.tfrecord").symlink_to("nowhere")
    assert "no TFRecord file" in refusal(list_images, str(tmp_path))


def test_a_file_that_cannot_be_opened_is_an_error_as_its_images_would_be_missing(tmp_path):
    write_records(tmp_path / "1.tfrecord", slim(0), slim(1))
    (tmp_path / "2.tfrecord").mkdir()
    message = refusal(list_images, str(tmp_path / "*.tfrecord"))
    assert "2.tfrecord' (Is a directory): correct that, or name '2.tfrecord' in data.exclude" in message


def test_a_read_that_fails_half_way_is_an_error_as_the_rest_would_be_missing(tmp_path, monkeypatch):
    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() > 100:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    path = write_records(tmp_path / "1.tfrecord", slim(0), slim(1), slim(0), slim(1))
    monkeypatch.setattr("components.data.tfrecords._open", Failing)
    assert f"Cannot read '{path}' (Input/output error)" in refusal(list_images, path)


def test_a_length_that_the_file_does_not_have_is_damage(tmp_path):
    path = tmp_path / "1.tfrecord"
    good = list_images(write_records(path, slim(0), slim(1)))
    length = (2**62).to_bytes(8, "little")
    value = google_crc32c.value(length)
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(path.read_bytes() + length + masked.to_bytes(4, "little"))
    listing = list_images(str(path))
    assert keys(listing) == keys(good)
    assert [reject[:2] for reject in listing.rejects] == [("1.tfrecord#2", "corrupt")]


def test_the_files_name_need_not_be_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff-train.tfrecord")
    write_records(tmp_path / "1", slim(0), slim(1))
    (tmp_path / "1").rename(path)
    (first, _) = list_images(str(tmp_path)).files
    assert read_record(first.path, first.offset) == b"image"


def test_class_folders_go_before_tfrecord_files_beside_them(tmp_path):
    write_records(tmp_path / "1.tfrecord", slim(0), slim(1))
    listing = list_images(fill(tmp_path, "a/1.jpg", "b/1.jpg"))
    assert keys(listing) == ["a/1.jpg", "b/1.jpg"]
    assert [reject[:2] for reject in listing.rejects] == [("1.tfrecord", "no_class")]


def test_files_and_records_can_be_excluded(tmp_path):
    for name in ("a", "b", "c"):
        write_records(tmp_path / f"{name}.tfrecord", slim(0), slim(1))
    assert keys(list_images(str(tmp_path), ["b.*", "c.tfrecord#1"])) == ["a.tfrecord#0", "a.tfrecord#1", "c.tfrecord#0"]


@pytest.mark.parametrize(
    ("damage", "offset", "reason"),
    [
        (lambda path: None, 5, "corrupt"),
        (lambda path: None, 10**6, "corrupt"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), 0, "corrupt"),
        (lambda path: path.unlink(), 0, "unreadable"),
        (lambda path: write_records(path, {"label": 1}), 0, "not_an_image"),
        (lambda path: write_records(path, b"no example"), 0, "corrupt"),
    ],
)
def test_a_record_that_has_changed_since_it_was_listed_is_rejected(tmp_path, damage, offset, reason):
    path = tmp_path / "1.tfrecord"
    write_records(path, slim(0))
    damage(path)
    with pytest.raises(RejectedImage) as raised:
        read_record(str(path), offset)
    assert raised.value.args[0] == reason and raised.value.args[1]
