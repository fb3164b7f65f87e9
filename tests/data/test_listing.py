import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import fill, keys, paint_images, refusal, shared_data

from components.data.class_names import check_spelling, natural_key
from components.data.keys import name_roots
from components.data.listing import list_images


def test_every_file_is_listed_with_its_class_source_size_and_time(tmp_path):
    root = paint_images(tmp_path / "data", per_class=3)
    listing = list_images(str(root))
    assert listing.labels == ["cyan", "magenta", "yellow"]
    assert (listing.rejects, listing.unlabelled, listing.open_splits) == ([], [], ("train", "val", "test"))
    assert {(file.key, file.source) for file in listing.files if file.text == "cyan"} == {
        ("cyan/camera/000.jpg", "camera"),
        ("cyan/phone/001.png", "phone"),
        ("cyan/002.gif", ""),
    }
    for file in listing.files:
        status = (root / file.key).stat()
        assert file.path == str(root / file.key)
        assert (file.size, file.modified_ns, file.offset) == (status.st_size, status.st_mtime_ns, -1)
        assert (file.group, file.split) == ("", "")


def test_a_path_object_lists_as_its_string(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    assert list_images(tmp_path) == list_images(str(tmp_path))


@pytest.mark.parametrize("name", ["data.zip", "data.tar", "data.TGZ", "data.tar.gz", "data.7z"])
def test_an_archive_is_to_be_unpacked(tmp_path, name):
    fill(tmp_path, name)
    assert "is an archive: unpack it" in refusal(list_images, str(tmp_path / name))


def test_classes_are_in_natural_order(tmp_path):
    root = fill(tmp_path, *(f"{name}/x.png" for name in ("10", "9", "b2", "b10", "a")))
    assert list_images(root).labels == ["9", "10", "a", "b2", "b10"]


@given(st.lists(st.text(), min_size=1))
def test_any_names_can_be_sorted_into_one_order(names):
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_numbers_in_names_are_ordered_by_value(one, other):
    assert (natural_key(f"x{one}") < natural_key(f"x{other}")) == (one < other)


def test_a_very_long_number_is_a_name_like_any_other():
    assert natural_key("9" * 10_000) > natural_key("8" * 10_000)


NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/."), min_size=1, max_size=8)


@given(st.sets(NAMES, min_size=3, max_size=6), st.randoms())
def test_a_listing_depends_neither_on_the_order_of_creation_nor_on_the_path_of_the_root(
    tmp_path_factory, names, random
):
    wanted = [f"{name}/{image}" for name in ("a", "b") for image in sorted(names)]
    folder = tmp_path_factory.mktemp("order")
    first = fill(folder / "one", *wanted)
    random.shuffle(wanted)
    second = fill(folder / "two" / "deeper", *wanted)
    one, two = list_images(first), list_images(second)
    assert [file._replace(path="", modified_ns=0) for file in one.files] == [
        file._replace(path="", modified_ns=0) for file in two.files
    ]
    assert one[1:] == two[1:]


def test_the_fingerprint_sees_a_changed_a_new_and_a_removed_file_and_strays(tmp_path):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg")
    seen = [list_images(root).fingerprint()]
    assert list_images(root).fingerprint() == seen[0]
    for change in (
        lambda: (tmp_path / "a" / "1.jpg").write_bytes(b"other"),
        lambda: fill(tmp_path, "b/2.jpg"),
        lambda: fill(tmp_path, "README"),
        lambda: (tmp_path / "README").unlink() or (tmp_path / "b" / "1.jpg").unlink(),
    ):
        change()
        seen.append(list_images(root).fingerprint())
    assert len(set(seen)) == 5


def test_the_fingerprint_sees_groups_and_the_order_of_labels(tmp_path):
    root = fill(tmp_path / "data", "a/1_1.jpg", "b/1_2.jpg")
    (tmp_path / "labels.txt").write_text("b\na\n")
    assert (
        len(
            {
                list_images(root).fingerprint(),
                list_images(root, labels_file=str(tmp_path / "labels.txt")).fingerprint(),
                list_images(root, group_pattern="[0-9]_").fingerprint(),
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "There is no folder"),
        (lambda root: root.touch(), "is a file, not a folder"),
        (lambda root: root.mkdir(), "no image in any sub-folder"),
        (lambda root: fill(root, "1.jpg"), "the first '1.jpg', is beside the class folders"),
        (lambda root: (root / "empty").mkdir(parents=True), "no image in any sub-folder"),
        (lambda root: fill(root, "cat/1.jpg"), "the single class 'cat'"),
        (lambda root: fill(root, "cats.zip", "dogs.TAR.GZ"), "contains only archives, the first 'cats.zip'"),
    ],
)
def test_an_unusable_root_is_named(tmp_path, make, words):
    root = tmp_path / "data"
    make(root)
    message = refusal(list_images, str(root))
    assert words in message and str(root) in message


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"), ("\xc9", "e\u0301")],
)
def test_classes_that_differ_only_in_case_or_unicode_form_are_refused_in_every_layout(tmp_path, first, second):
    both = fill(tmp_path / "both", f"{first}/1.jpg", f"{second}/1.jpg")
    one, two = fill(tmp_path / "one", f"{first}/1.jpg"), fill(tmp_path / "two", f"{second}/1.jpg")
    manifest = tmp_path / "list.csv"
    fill(tmp_path, "1.jpg")
    manifest.write_text(f"path,label\n1.jpg,{first}\n2.jpg,{second}\n", encoding="utf-8")
    for place in (both, [one, two], str(manifest)):
        message = refusal(list_images, place)
        assert all(repr(text) in message or ascii(text) in message for text in (first, second))
    assert "both/" not in refusal(list_images, both)  # keys, not paths


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cat", "cat "),
        ("cat", " cat"),
        ("big cat", "big  cat"),
        ("big cat", "big\N{NO-BREAK SPACE}cat"),
        ("big cat", "Big\N{IDEOGRAPHIC SPACE}cat "),
        ("cat", "ca\N{SOFT HYPHEN}t"),
        ("cat", "c\N{ZERO WIDTH SPACE}at"),
        ("cat", "cat\N{ZERO WIDTH NO-BREAK SPACE}"),
        ("cat", "cat\N{VARIATION SELECTOR-16}"),
        ("cat", "c\N{COMBINING GRAPHEME JOINER}at"),
        ("cat", "\N{FULLWIDTH LATIN SMALL LETTER C}at"),
        ("fish", "\N{LATIN SMALL LIGATURE FI}sh"),
        ("Kelvin", "\N{KELVIN SIGN}elvin"),
        ("кот", "кот "),
    ],
)
def test_classes_with_invisible_differences_are_refused_and_shown_differently(tmp_path, first, second):
    message = refusal(list_images, fill(tmp_path, f"{first}/1.jpg", f"{second}/1.jpg"))
    shown = [show for text in (first, second) for show in (repr(text), ascii(text)) if f" {show} (of" in message]
    assert len({*shown}) >= 2, message
    assert "blanks, invisible characters or Unicode form" in message


SEEN = st.text(
    # Without the full stop: refusal() takes one before a blank for the end of a sentence.
    st.characters(whitelist_categories=("Ll", "Nd", "Po"), max_codepoint=0x24F, blacklist_characters="."),
    min_size=1,
    max_size=4,
)
UNSEEN = st.sampled_from(["", " ", "  ", "\u00a0", "\u200b", "\u00ad", "\ufeff", "\ufe0f", "\u2060"])


@given(st.lists(SEEN, min_size=1, max_size=4), st.lists(UNSEEN, min_size=5, max_size=5), st.randoms())
def test_a_name_with_anything_unseen_around_its_words_is_the_same_name(words, unseen, random):
    plain = " ".join(words)
    odd = (
        unseen[-1] + " ".join(word + mark for word, mark in zip(words, unseen, strict=False)) + random.choice([" ", ""])
    )
    if odd != plain:
        assert repr(plain) in refusal(check_spelling, {plain: "1", odd: "2"})


@pytest.mark.parametrize(
    "names", [("m2", "m²"), ("1", "①"), ("a-b", "a_b"), ("a b", "ab"), ("naive", "naïve"), ("ß", "ss")]
)
def test_names_with_visible_differences_are_different_classes(tmp_path, names):
    assert {*list_images(fill(tmp_path, *(f"{name}/1.jpg" for name in names))).labels} == {*names}


def test_unicode_and_punctuation_are_kept_as_spelt(tmp_path):
    names = ["Caf\xe9 (cr\xe8me), 50%", "\u732b", "a'b\"c", " x"]
    root = fill(tmp_path, *(f"{name}/\u732b & co.jpg" for name in names))
    assert set(list_images(root).labels) == set(names)


def test_excluded_files_and_folders_are_left_out_without_a_word(tmp_path):
    root = fill(
        tmp_path, "a/1.jpg", "a/2.gif", "a/drafts/1.jpg", "b/1.jpg", "b/x/drafts/y/1.jpg", "drafts/1.jpg", "c.gif"
    )
    listing = list_images(root, ["drafts", "*/drafts", "*.gif"])
    assert keys(listing) == ["a/1.jpg", "b/1.jpg"]
    assert (listing.labels, listing.rejects) == (["a", "b"], [])
    assert keys(list_images(root, ["drafts/", "a/?.gif", "*/x"]))[-1] == "b/1.jpg"


def test_patterns_that_leave_nothing_out_are_noted(tmp_path):
    root = fill(tmp_path / "one", "a/1.jpg", "a/2.gif", "b/1.jpg", "b/drafts/3.gif")
    other = fill(tmp_path / "two", "a/1.jpg", "b/2.gif")
    assert list_images(root, ["*.gif", "*/drafts"]).notes == ()
    (note,) = list_images(root, ["drafts", "*.gif"]).notes
    assert "'drafts'" in note and "such as 'a/1.jpg'" in note
    assert len(list_images([root, other], ["one/a/*.gif", "two/b", "one/b/1.gif", "*.png"]).notes) == 2
    listing = list_images(root, ["x"])
    assert listing.fingerprint() != listing._replace(notes=()).fingerprint()


def test_patterns_match_case_and_whole_names(tmp_path):
    root = fill(tmp_path, "a/1.GIF", "a/1.gif.jpg", "b/drafts2/1.jpg")
    assert len(list_images(root, ["*.gif", "*/drafts"]).files) == 3


def test_a_pattern_that_is_a_name_matches_it(tmp_path):
    root = fill(tmp_path, "a [1]/1.jpg", "a 1/1.jpg", "b/1.jpg", "c/1.jpg")
    assert list_images(root, ["a [1]"]).labels == ["b", "c"]  # as a pattern it is the other folder, too
    assert list_images(root, ["a [[]1]/"]).labels == ["a 1", "b", "c"]


def test_patterns_see_the_name_of_the_root_in_a_list(tmp_path):
    roots = [fill(tmp_path / name, "a/1.jpg", "b/1.jpg") for name in ("day", "night")]
    assert roots[1] in refusal(list_images, roots, ["night"])
    assert keys(list_images(roots, ["day/a"])) == ["day/b/1.jpg", "night/a/1.jpg", "night/b/1.jpg"]


def test_a_labels_file_orders_the_classes(tmp_path):
    root = fill(tmp_path / "data", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    for content in (b"c\na\nb\n", b"c\na\nb", b"\xef\xbb\xbfc\r\na\r\nb\r\n"):
        (tmp_path / "labels.txt").write_bytes(content)
        assert list_images(root, labels_file=str(tmp_path / "labels.txt")).labels == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cat\n", ["'dogs' with 2 image", "nearest there is 'cat'"]),
        (b"cat\ndog\n", ["'dogs' with 2 image", "nearest there is 'dog'"]),
        (b"cat\ndogs\ncow\n", ["'cow', line 3"]),
        (b"cat\n\ndogs\n", ["Line 2", "blank"]),
        (b"cat\ndogs\n \n", ["Line 3", "blank"]),
        (b"cat\ndogs\ncat\n", ["Line 3", "'cat' of line 1"]),
        (b"", ["empty"]),
        (b"c\xe4t\n", ["not UTF-8"]),
        (None, ["No such file"]),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused(tmp_path, content, words):
    root, labels = fill(tmp_path / "data", "cat/1.jpg", "dogs/1.jpg", "dogs/2.jpg"), tmp_path / "labels.txt"
    if content is not None:
        labels.write_bytes(content)
    message = refusal(list_images, root, (), str(labels))
    assert all(word in message for word in [*words, str(labels)])


def test_a_list_puts_the_name_of_its_root_before_each_key_and_source(tmp_path):
    fill(tmp_path / "day", "a/1.jpg", "b/x/1.jpg", "stray.jpg")
    fill(tmp_path / "night", "a/1.jpg")
    (tmp_path / "more.csv").write_text("path,label,source,group\nday/a/1.jpg,c,web,g\n")
    listing = list_images([str(tmp_path / name) for name in ("night", "day", "more.csv")])
    assert [(file.key, file.source, file.text) for file in listing.files] == [
        ("day/a/1.jpg", "day", "a"),
        ("day/b/x/1.jpg", "day/x", "b"),
        ("more.csv/day/a/1.jpg", "more.csv/web", "c"),
        ("night/a/1.jpg", "night", "a"),
    ]
    assert listing.labels == ["a", "b", "c"]
    assert [reject.key for reject in listing.rejects] == ["day/stray.jpg"]
    assert keys(list_images([str(tmp_path / "day")]))[0] == "day/a/1.jpg"


@pytest.mark.parametrize(
    ("roots", "names"),
    [
        (["/x/day", "/x/night"], ["day", "night"]),
        (["/x/a/day", "/x/b/day/", "/x/night"], ["a/day", "b/day", "night"]),
        (["/x/p/day", "/y/p/day"], ["x/p/day", "y/p/day"]),
        (["/x/a/day", "/x/b/day", "/x/z/a"], ["a/day", "b/day", "z/a"]),
        (["/day", "/x/day"], ["day", "x/day"]),
    ],
)
def test_a_root_name_has_as_much_of_its_path_as_makes_it_unique(roots, names):
    assert name_roots(roots) == names


@given(st.sets(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=5))
def test_no_root_name_is_a_folder_of_another(tmp_path_factory, roots):
    deep = sorted(f"/{number}/top/{root}" for number, root in enumerate(sorted(roots)))
    names = name_roots(deep)
    assert not [(a, b) for a in names for b in names if a is not b and f"{b}/".startswith(f"{a}/")]
    assert all(root.endswith(name) for root, name in zip(deep, names, strict=True))


def test_a_root_named_twice_and_an_empty_list_are_refused(tmp_path):
    root = fill(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    assert "'./x' and 'x'" in refusal(name_roots, ["./x", "x"])
    assert "overlap" in refusal(list_images, [root, f"{root}/"])
    assert "is empty" in refusal(list_images, [])


def test_one_root_of_a_list_without_images_is_named(tmp_path):
    root = fill(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    assert str(tmp_path / "gone") in refusal(list_images, [root, str(tmp_path / "gone")])


def test_splits_of_several_roots_stay_as_each_has_them(tmp_path):
    whole = fill(tmp_path / "whole", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "test/a/1.jpg")
    half = fill(tmp_path / "half", "train/a/1.jpg", "test/a/1.jpg")
    plain = fill(tmp_path / "plain", "a/1.jpg", "b/1.jpg")
    listing = list_images([whole, half])
    assert listing.open_splits == ("train", "val")
    assert {file.key: file.split for file in listing.files} == {
        "half/test/a/1.jpg": "test",
        "half/train/a/1.jpg": "",
        "whole/test/a/1.jpg": "test",
        "whole/train/a/1.jpg": "train",
        "whole/train/b/1.jpg": "train",
        "whole/val/a/1.jpg": "val",
    }
    assert list_images([whole, plain]).open_splits == ("train", "val", "test")


def test_the_key_before_nohash_is_the_group(tmp_path):
    root = fill(tmp_path, "a/x/1_nohash_0.jpg", "a/x/1_nohash_1_nohash_2.jpg", "a/1_nohash_1.jpg", "b_nohash_/2.jpg")
    groups = {file.key: file.group for file in list_images(root).files}
    assert groups == {
        "a/x/1_nohash_0.jpg": "a/x/1",
        "a/x/1_nohash_1_nohash_2.jpg": "a/x/1",
        "a/1_nohash_1.jpg": "a/1",
        "b_nohash_/2.jpg": "",
    }


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"p([0-9]+)_", ["1", "1", "", ""]),
        (r"p[0-9]+", ["p1", "p1", "p2", ""]),
        (r"p(x)?", ["", "", "", ""]),
        (r"(a|b)/p(.)", ["a", "b", "b", ""]),
        (r"", ["", "", "", ""]),
    ],
)
def test_a_pattern_finds_the_group_in_the_key(tmp_path, pattern, groups):
    root = fill(tmp_path, "a/p1_1.jpg", "b/p1_2.jpg", "b/p2.jpg", "c/q_nohash_1.jpg")
    assert [file.group for file in list_images(root, group_pattern=pattern).files] == groups


def test_a_group_column_goes_before_any_pattern(tmp_path):
    manifest = tmp_path / "list.csv"
    fill(tmp_path, "1_nohash_1")
    manifest.write_text("path,label,group\n1_nohash_1,a,mine\n2_nohash_1,b,\n")
    assert [file.group for file in list_images(str(manifest)).files] == ["mine", "2"]
    assert [file.group for file in list_images(str(manifest), group_pattern=".").files] == ["mine", "2"]


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?P<a", "*", "a{99999999999999999999}"])
def test_an_invalid_pattern_is_refused(tmp_path, pattern):
    assert repr(pattern) in refusal(list_images, str(tmp_path), (), None, pattern)


def test_listing_folders_and_manifests_loads_no_tensorflow(tmp_path):
    root = fill(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    (tmp_path / "list.csv").write_text("path,label\ndata/a/1.jpg,c\n")
    code = (
        "import sys; from components.data.listing import list_images; list_images(sys.argv[1:]); "
        "print(*{'tensorflow', 'apache_beam', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, root, str(tmp_path / "list.csv")], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("\n", "")


def test_caltech_101_is_found_whole():
    listing = list_images(str(shared_data("caltech101")))
    assert (len(listing.files), len(listing.labels), listing.rejects) == (9145, 102, [])
