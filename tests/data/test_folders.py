import errno
import os
import socket

import pytest
from toys import fill, keys, refusal

from components.data.listing import list_images
from components.predict.inputs import find_inputs


def broken(text):
    """Return the string that Python has for a file name that is not UTF-8."""
    return os.fsdecode(text)


def test_system_files_are_skipped_and_files_beside_classes_are_rejected(tmp_path):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg", "a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", ".git/x/1", "LICENSE")
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    listing = list_images(root)
    assert keys(listing) == ["a/1.jpg", "b/1.jpg"]
    assert listing.labels == ["a", "b"]
    assert listing.rejects == [("LICENSE", "no_class", "is beside the class folders, not in one")]


def test_folders_between_class_and_file_are_the_source_at_any_depth(tmp_path):
    deep = "/".join(["d"] * 300)
    root = fill(tmp_path, "a/x/y/1.jpg", "b/1.jpg", f"b/{deep}/2.jpg")
    assert {(file.text, file.source) for file in list_images(root).files} == {("a", "x/y"), ("b", ""), ("b", deep)}


def test_a_linked_folder_is_followed_and_a_loop_is_rejected(tmp_path):
    root = fill(tmp_path / "data", "a/1.jpg", "b/x/1.jpg")
    fill(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "b" / "x" / "up").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "root").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "same").symlink_to(".")
    listing = list_images(root)
    assert keys(listing) == ["a/1.jpg", "a/more/2.jpg", "b/x/1.jpg", "c/2.jpg"]
    assert listing.rejects == [
        (key, "unreadable", "a link to a folder above it") for key in ("a/same", "b/root", "b/x/up")
    ]


def test_unreadable_files_are_listed_for_ingest_to_reject(tmp_path):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a" / "s.jpg"))
        listing = list_images(root)
    assert {file.key: file.size for file in listing.files} == {
        "a/1.jpg": 1,
        "a/empty.jpg": 0,
        "a/gone.jpg": 0,
        "a/pipe.jpg": 0,
        "a/s.jpg": 0,
        "a/self.jpg": 0,
        "b/1.jpg": 1,
    }
    assert {file.modified_ns for file in listing.files if file.key in ("a/gone.jpg", "a/self.jpg")} == {0}
    assert listing.rejects == []


@pytest.fixture
def deny(monkeypatch):
    """Let os.scandir refuse folders by their name."""
    scandir = os.scandir

    def forbid(*names):
        def scan(path):
            if os.path.basename(path) in names:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)

    return forbid


def test_a_folder_that_cannot_be_read_is_an_error_unless_it_is_left_out(tmp_path, deny):
    root = fill(tmp_path / "data", "a/1.jpg", "a/shut/1.jpg", "b/1.jpg", "closed/1.jpg")
    deny("shut", "closed")
    for left_out, named in ((["closed"], "a/shut"), (["a/shut"], "closed")):
        message = refusal(list_images, root, left_out)
        assert "(Permission denied)" in message and f"name '{named}' in data.exclude" in message
    listing = list_images(root, ["closed", "a/shut"])
    assert (keys(listing), listing.labels, listing.rejects) == (["a/1.jpg", "b/1.jpg"], ["a", "b"], [])
    deny("data")
    assert "Cannot read" in refusal(list_images, root) and root in refusal(list_images, root)


@pytest.mark.parametrize("name", [broken(b"caf\xe9"), "two\nlines", "two\rlines"])
def test_files_are_rejected_if_their_class_folder_is_not_one_line_of_utf_8(tmp_path, name):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg", f"{name}/x/1.jpg", f"{name}/2.jpg")
    listing = list_images(root)
    assert listing.labels == ["a", "b"]
    assert [(reject.key, reject.reason) for reject in listing.rejects] == [
        (f"{name}/2.jpg", "bad_name"),
        (f"{name}/x/1.jpg", "bad_name"),
    ]
    assert "rename that folder" in listing.rejects[0].detail and repr(name) in listing.rejects[0].detail
    listing.fingerprint()


def test_files_and_inner_folders_may_have_any_name(tmp_path):
    names = [broken(b"\xff\xfe.jpg"), "line\nbreak.jpg", "tab\t.jpg", "back\\slash.jpg", " .jpg", "#?%.jpg"]
    wanted = [*(f"a/{name}" for name in names), "b/in\nside/1.jpg", f"b/{broken(bytes([0xC3]))}/1.jpg"]
    listing = list_images(fill(tmp_path, *wanted))
    assert set(keys(listing)) == set(wanted)
    assert all(os.path.exists(file.path) for file in listing.files)
    assert listing.rejects == []
    listing.fingerprint()


def split_of(listing):
    return {file.key: file.split for file in listing.files}


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Train", "VALIDATION", "Test"), ("TRAIN", "valid", "test")]
)
def test_ready_made_splits_are_kept_with_their_folder_in_the_key(tmp_path, train, val, test):
    wanted = {f"{train}/a/1.jpg": "train", f"{train}/b/x/2.jpg": "train", f"{val}/a/1.jpg": "val"}
    wanted |= {f"{test}/a/1.jpg": "test", f"{test}/b/1.jpg": "test"}
    root = fill(tmp_path, *wanted, "README", f"{train}/stray.jpg")
    (tmp_path / "empty").mkdir()
    listing = list_images(root)
    assert split_of(listing) == wanted
    assert (listing.labels, listing.open_splits, listing.unlabelled) == (["a", "b"], (), [])
    assert {file.source for file in listing.files} == {"", "x"}
    assert sorted(reject[:2] for reject in listing.rejects) == sorted(
        [("README", "no_class"), (f"{train}/stray.jpg", "no_class")]
    )


@pytest.mark.parametrize(
    ("given", "open_splits"),
    [([], ("train", "val", "test")), (["val"], ("train", "test")), (["test"], ("train", "val"))],
)
def test_a_missing_split_opens_those_of_train_alone(tmp_path, given, open_splits):
    root = fill(tmp_path, *(f"{split}/{text}/1.jpg" for split in ("train", *given) for text in "ab"))
    listing = list_images(root)
    assert listing.open_splits == open_splits
    assert split_of(listing) == {
        f"{split}/{text}/1.jpg": "" if split == "train" else split for split in ("train", *given) for text in "ab"
    }


@pytest.mark.parametrize("inside", ["", "unknown/", "test1/"])
def test_a_test_folder_without_classes_is_for_prediction(tmp_path, inside):
    images = [f"test/{inside}{number}.jpg" for number in (10, 9, 1)]
    root = fill(tmp_path, *(f"{split}/{text}/1.jpg" for split in ("train", "val") for text in "ab"), *images)
    listing = list_images(root)
    assert listing.unlabelled == [str(tmp_path / image) for image in reversed(images)]
    assert (listing.rejects, listing.open_splits, listing.labels) == ([], ("train", "test"), ["a", "b"])
    assert len(list_images(root, ["test/*9.jpg"]).unlabelled) == 2


def test_loose_files_beside_classes_of_test_are_rejected(tmp_path):
    root = fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg", "test/loose.jpg")
    listing = list_images(root)
    assert [reject[:2] for reject in listing.rejects] == [("test/loose.jpg", "no_class")]
    assert listing.unlabelled == []
    one_class = fill(tmp_path / "one", "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/loose.jpg")
    assert [reject.key for reject in list_images(one_class).rejects] == ["test/loose.jpg"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks_is_refused(tmp_path, split):
    root = fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{split}/a/1.jpg", f"{split}/new/1.jpg")
    message = refusal(list_images, root)
    assert "'new'" in message and repr(str(tmp_path / split)) in message
    assert list_images(root, [f"{split}/new"]).labels == ["a", "b"]


def test_a_class_that_train_spells_otherwise_is_refused_with_both(tmp_path):
    for split in ("val", "test"):
        root = fill(tmp_path / split, "train/cat/1.jpg", "train/dog/1.jpg", f"{split}/Cat/1.jpg")
        message = refusal(list_images, root)
        assert "'cat'" in message and "'Cat'" in message


def test_val_must_hold_class_folders(tmp_path):
    message = refusal(list_images, fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"))
    assert repr(str(tmp_path / "val")) in message and "no readable class folder" in message


def test_a_split_folder_that_cannot_be_read_is_an_error(tmp_path, deny):
    root = fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg")
    deny("test")
    assert repr(str(tmp_path / "test")) in refusal(list_images, root)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("TRAINING", "Dev", "Evaluation"),
        ("trn", "valid", "tst"),
        ("trainset", "valset", "testset"),
        ("training_set", "validation set", "Test-Set"),
        ("train_images", "val_images", "test_images"),
        ("01_train", "02_val", "03_test"),
        ("seg_train", "seg_dev", "seg_holdout"),
        ("TrainImages", "ValImages", "TestImages"),
    ],
)
def test_common_words_for_splits_are_splits(tmp_path, train, val, test):
    wanted = {
        f"{train}/a/1.jpg": "train",
        f"{train}/b/1.jpg": "train",
        f"{val}/a/1.jpg": "val",
        f"{test}/b/1.jpg": "test",
    }
    listing = list_images(fill(tmp_path, *wanted))
    assert split_of(listing) == wanted and listing.labels == ["a", "b"]


@pytest.mark.parametrize("test", ["Testing", "eval", "holdout"])
def test_train_and_test_by_other_words_leave_val_open(tmp_path, test):
    listing = list_images(fill(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg", f"{test}/a/1.jpg"))
    assert listing.open_splits == ("train", "val")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["train/cat/1.jpg", "train/dog/1.jpg", "cat/2.jpg"], ["'train'", "'cat' beside", "data.exclude"]),
        (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], ["'test'", "'cat' beside", "data.exclude"]),
        (["train/1.jpg", "test/1.jpg", "bus/1.jpg"], ["'test', 'train'", "'bus' beside"]),
        (["Training/a.jpg", "Testing/b.jpg"], ["'Testing', 'Training'", "no class folders", "for each class"]),
        (["train/1.jpg", "test/1.jpg"], ["'train' has no class folders"]),
        (["val/a/1.jpg", "test/a/1.jpg"], ["none of them as the train split", "rename"]),
        (["train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"], ["several of them as the val split"]),
        (["train/a/1.jpg", "eval/a/1.jpg", "test/a/1.jpg"], ["several of them as the test split"]),
        (["train1/a/1.jpg", "train2/a/1.jpg"], ["several of them as the train split"]),
        (["train/a/1.jpg", "test_images/a/1.jpg", "val/a/1.jpg"], ["'test_images' beside"]),
        (["x_train/a/1.jpg", "x_test/a/1.jpg", "extra/1.jpg"], ["'x_test', 'x_train'", "'extra' beside"]),
        (["trainval/a/1.jpg", "test/a/1.jpg"], ["'test'", "'trainval' beside"]),
    ],
)
def test_names_of_splits_in_doubt_are_refused_with_both_readings(tmp_path, found, words):
    root = fill(tmp_path, *found)
    message = refusal(list_images, root)
    assert all(word in message for word in [root, "if they are splits", "data.layout to classes", *words]), message
    listing = list_images(root, layout="classes")
    assert {file.text for file in listing.files} == {key.split("/")[0] for key in found}
    assert not any(split_of(listing).values())


def test_folders_that_name_splits_each_in_its_own_way_are_splits_where_the_layout_says_so(tmp_path):
    wanted = {
        "train/a/1.jpg": "train",
        "train/b/1.jpg": "train",
        "test_images/a/1.jpg": "test",
        "my dev/b/1.jpg": "val",
    }
    root = fill(tmp_path, *wanted)
    assert "data.layout to classes" in refusal(list_images, root)
    assert split_of(list_images(root, layout="splits")) == wanted
    plain = fill(tmp_path / "plain", "a/1.jpg", "b/1.jpg")
    assert "no folder in" in refusal(list_images, plain, (), None, None, "splits")
    fill(tmp_path / "plain", "train/a/1.jpg")
    assert "'a' beside them is not" in refusal(list_images, plain, (), None, None, "splits")


def test_a_class_of_trains_and_names_that_hold_such_a_word_are_classes(tmp_path):
    for names in (("train", "bus"), ("Train", "bus"), ("bullet_train", "bus"), ("test tube", "flask")):
        root = fill(tmp_path / names[0], *(f"{name}/1.jpg" for name in names))
        assert set(list_images(root).labels) == {*names}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"], ["cat/train", "above the classes"]),
        (["set/Training/a/1.jpg", "set/Testing/a/1.jpg"], ["set/Training", "set data.path to"]),
    ],
)
def test_splits_below_classes_are_refused_with_both_readings(tmp_path, found, words):
    root = fill(tmp_path, *found)
    message = refusal(list_images, root)
    assert all(word in message for word in ["data.layout to classes", *words]), message
    if len({key.split("/")[0] for key in found}) > 1:
        assert {file.source for file in list_images(root, layout="classes").files} == {"train", "test"}
    assert list_images(fill(tmp_path / "other", "a/train/1.jpg", "b/phone/1.jpg")).labels == ["a", "b"]


# From the documentation of Windows, macOS, WSL, Synology, QNAP, netatalk, e2fsck, Python and Jupyter.
SYSTEM_FILES = [
    *("Thumbs.db", "thumbs.db", "Thumbs.db:encryptable", "ehthumbs.db", "Desktop.ini", "Icon\r", "picasa.ini"),
    *("1.jpg:Zone.Identifier", "1.jpg\uf03aZone.Identifier", "._1.jpg", ".DS_Store", "~$1.jpg"),
    *("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/._1.jpg", "$RECYCLE.BIN/x/1.jpg", "#recycle/1.jpg"),
    *("System Volume Information/1.jpg", "@Recycle/1.jpg", ".@__thumb/1.jpg", "@__thumb/1.jpg", ".Trash-1000/1.jpg"),
    *("lost+found/1.jpg", "found.000/1.jpg", "__pycache__/1.jpg", ".ipynb_checkpoints/1.jpg", "#snapshot/1.jpg"),
    *("1.jpg@SynoEAStream", ":2eDS_Store", "Network Trash Folder/1.jpg", "Temporary Items/1.jpg"),
]


@pytest.mark.parametrize("file", SYSTEM_FILES)
def test_system_files_are_never_images_classes_or_rejects(tmp_path, file):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg", f"a/{file}", f"b/x/{file}", file)
    listing = list_images(root)
    assert (keys(listing), listing.labels, listing.rejects) == (["a/1.jpg", "b/1.jpg"], ["a", "b"], [])
    assert list(find_inputs([tmp_path])) == [f"{root}/a/1.jpg", f"{root}/b/1.jpg"]
    assert list(find_inputs([tmp_path / "**" / "*"])) == [f"{root}/a/1.jpg", f"{root}/b/1.jpg"]


@pytest.mark.parametrize("name", ["recycle", "lost", "thumbs", "desktop", "icon", "macosx", "found", "zone.identifier"])
def test_class_names_may_resemble_system_files(tmp_path, name):
    assert name in list_images(fill(tmp_path, f"{name}/1.jpg", "z/1.jpg")).labels
