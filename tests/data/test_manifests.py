import csv
import json
import os

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toys import fill, keys, refusal

from components.data.listing import list_images
from components.data.manifests import find_key, list_manifest, read_rows

SUFFIXES = ("csv", "tsv", "jsonl")


def write_manifest(path, rows, columns=("path", "label")):
    """Write rows as the suffix says, and return the path as a string."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        else:
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writerows([columns, *rows])
    return str(path)


@pytest.fixture(autouse=True)
def files(tmp_path):
    """Some files: a manifest of which none exists is refused."""
    fill(tmp_path, "a", "1.jpg", "a.jpg")


def write_text(path, text):
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return str(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, "CSV"])
def test_the_images_of_a_manifest_are_listed_with_all_it_says(tmp_path, suffix):
    root = fill(tmp_path / "data", "x/1.jpg", "2.jpg", content=b"four")
    rows = [
        ("x/1.jpg", "cat", "train", "web", "g1", "ignored"),
        ("2.jpg", "dog 2", "VALIDATION", "", "", ""),
        ("gone.jpg", "dog 10", "Test", "", "g1", ""),
        ("x/unlabelled.jpg", "", "test", "", "", ""),
    ]
    place = write_manifest(
        tmp_path / f"data/list.{suffix}", rows, ("path", "label", "split", "source", "group", "note")
    )
    listing = list_images(place)
    assert [(*file[:1], *file[2:7]) for file in listing.files] == [
        ("2.jpg", "dog 2", "", "", "val", 4),
        ("gone.jpg", "dog 10", "", "g1", "test", 0),
        ("x/1.jpg", "cat", "web", "g1", "train", 4),
    ]
    assert [file.path for file in listing.files] == [f"{root}/{file.key}" for file in listing.files]
    assert listing.files[0].modified_ns == os.stat(listing.files[0].path).st_mtime_ns
    assert listing.labels == ["cat", "dog 2", "dog 10"]
    assert listing.unlabelled == [f"{root}/x/unlabelled.jpg"]
    assert (listing.rejects, listing.open_splits) == ([], ("train", "val", "test"))


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=20)
WORDS = TEXT.filter(str.strip)
LABELS = WORDS.filter(lambda text: not set("\r\n") & set(text))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=st.lists(st.tuples(WORDS, LABELS, st.sampled_from(["", "train", "val", "test"]), TEXT, TEXT)))
def test_values_are_read_back_without_blanks_around_them_and_paths_unchanged(tmp_path_factory, suffix, rows):
    place = write_manifest(
        tmp_path_factory.mktemp("rows") / f"list.{suffix}", rows, ("path", "label", "split", "source", "group")
    )
    assert [row[1:] for row in read_rows(place)] == [(row[0], *(value.strip() for value in row[1:])) for row in rows]


@given(
    st.dictionaries(
        st.lists(st.text("ab\xe9 \n", min_size=1), min_size=1).map("/".join).filter(str.strip), LABELS, min_size=1
    )
)
def test_the_three_formats_list_the_same_images(tmp_path_factory, labels):
    assume(not any(f"{one}/".startswith(f"{other}/") for one in labels for other in labels if one != other))
    folder = tmp_path_factory.mktemp("formats")
    fill(folder / "there", *labels)
    places = [write_manifest(folder / "there" / f"list.{suffix}", labels.items()) for suffix in SUFFIXES]
    csv_listing, *others = [list_manifest(place, lambda key: False) for place in places]
    assert {file.key: file.text for file in csv_listing.files} == {key: text.strip() for key, text in labels.items()}
    assert all(other == csv_listing for other in others)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("./a//b/../1.jpg", "a/1.jpg"),
        ("../data/a/1.jpg", "a/1.jpg"),
        ("/top/data/a/1.jpg", "a/1.jpg"),
        ("../other/1.jpg", "/top/other/1.jpg"),
        ("/top/data2/1.jpg", "/top/data2/1.jpg"),
        ("gs://bucket/a//1.jpg", "gs://bucket/a//1.jpg"),
        ("https://host/1.jpg?x=1", "https://host/1.jpg?x=1"),
        ("a:/1.jpg", "a:/1.jpg"),
        ("..a/1.jpg", "..a/1.jpg"),
    ],
)
def test_a_key_is_the_path_below_the_manifests_folder_or_else_absolute(path, key):
    assert find_key(path, "/top/data") == key


def test_a_key_below_the_root_of_the_file_system_is_relative_too():
    assert find_key("/a/1.jpg", "/") == find_key("a/1.jpg", "/") == "a/1.jpg"


def test_paths_lead_to_the_files_from_wherever_the_manifest_is_named(storage, tmp_path, monkeypatch):
    outside = fill(tmp_path / "other", "2.jpg")
    fill(tmp_path / "data", "a/1.jpg")
    rows = [("a/1.jpg", "x"), ("../other/2.jpg", "y"), ("gs://bucket/3.jpg", "z")]
    place = write_manifest(tmp_path / "data" / "list.csv", rows)
    monkeypatch.chdir(tmp_path / "data")
    for name in (place, "list.csv", "./list.csv", "../data/list.csv"):
        listing = list_images(name)
        assert keys(listing) == [f"{outside}/2.jpg", "a/1.jpg", "gs://bucket/3.jpg"]
        assert [file.size for file in listing.files] == [1, 1, 0]
        assert listing.files[2].path == "gs://bucket/3.jpg"


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,x\nb.jpg,y\n",
        "\ufeffpath,label\r\na.jpg,x\r\nb.jpg,y\r\n",
        "\ufeff path , LABEL\r\n\r\na.jpg,x\r\n\r\nb.jpg,y",
        'label,"path"\n"x",a.jpg\ny,"b.jpg"\n',
        "path,label\ra.jpg,x\rb.jpg,y\r",
    ],
)
def test_bytes_order_marks_line_ends_quotes_and_blank_lines_do_not_matter(tmp_path, text):
    listing = list_images(write_text(tmp_path / "list.csv", text))
    assert [(file.key, file.text) for file in listing.files] == [("a.jpg", "x"), ("b.jpg", "y")]


def test_a_quoted_path_may_hold_line_breaks_commas_and_quotes(tmp_path):
    root = fill(tmp_path, 'a\n, "b".jpg')
    place = write_text(tmp_path / "list.csv", 'path,label\n"a\n, ""b"".jpg",x\nb.jpg,\n')
    assert "Line 4 " in refusal(list_images, place)
    listing = list_images(write_text(tmp_path / "list.csv", 'path,label\n"a\n, ""b"".jpg",x\nb.jpg,y\n'))
    assert [(file.path, file.size) for file in listing.files] == [(f'{root}/a\n, "b".jpg', 1), (f"{root}/b.jpg", 0)]


def test_a_path_that_is_not_utf_8_is_the_files_name(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    fill(tmp_path, name)
    listing = list_images(write_text(tmp_path / "list.csv", f"path,label\n{name},a\nb.jpg,b\n"))
    assert [(file.key, file.size) for file in listing.files] == [("b.jpg", 0), (name, 1)]


def test_json_numbers_are_labels_as_they_are_written(tmp_path):
    lines = (
        '{"path": "a", "label": 3}',
        '{"path": "b", "label": 10.50}',
        '{"path": "c", "label": "3", "group": 7, "split": null}',
    )
    listing = list_images(write_text(tmp_path / "list.jsonl", "\n".join(lines)))
    assert [(file.text, file.group) for file in listing.files] == [("3", ""), ("10.50", ""), ("3", "7")]


def test_a_repeated_row_counts_once(tmp_path):
    place = write_manifest(tmp_path / "list.csv", [("1.jpg", "a"), ("2.jpg", "b"), ("./1.jpg", "a")])
    assert keys(list_images(place)) == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("a", "train"), ("b", "train"), ["the label 'b'", "'a'"]),
        (("a", "train"), ("a", "test"), ["the split 'test'", "'train'"]),
        (("a", "test"), ("", "test"), ["the label ''", "'a'"]),
    ],
)
def test_two_rows_that_contradict_each_other_are_both_named(tmp_path, first, second, words):
    rows = [("1.jpg", *first), ("2.jpg", "b", ""), ("./1.jpg", *second)]
    place = write_manifest(tmp_path / "list.csv", rows, ("path", "label", "split"))
    message = refusal(list_images, place)
    assert all(word in message for word in ["Line 4 of", "line 2", "'1.jpg'", place, *words])


def test_a_class_may_be_named_for_some_splits_only(tmp_path):
    rows = [("1.jpg", "a", "train"), ("2.jpg", "b", ""), ("3.jpg", "b", "valid")]
    listing = list_images(write_manifest(tmp_path / "list.tsv", rows, ("path", "label", "split")))
    assert [file.split for file in listing.files] == ["train", "", "val"]
    assert listing.open_splits == ("train", "val", "test")


def test_excluded_rows_are_neither_listed_nor_compared(tmp_path):
    rows = [("1.jpg", "a"), ("drafts/1.jpg", "a"), ("drafts/1.jpg", "b"), ("2.jpg", "b")]
    assert keys(list_images(write_manifest(tmp_path / "list.csv", rows), ["drafts"])) == ["1.jpg", "2.jpg"]


def test_unlabelled_images_are_in_natural_order(tmp_path):
    rows = [(f"{number}.jpg", "", "test") for number in (10, 9, 1)] + [("a.jpg", "a", ""), ("b.jpg", "b", "")]
    listing = list_images(write_manifest(tmp_path / "list.csv", rows, ("path", "label", "split")))
    assert [os.path.basename(path) for path in listing.unlabelled] == ["1.jpg", "9.jpg", "10.jpg"]


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        ("csv", "", ["Line 1", "the column 'path' 0 times"]),
        ("csv", "file,label\na,b\n", ["Line 1", "the column 'path' 0 times"]),
        ("csv", "path,class\na,b\n", ["Line 1", "the column 'label' 0 times"]),
        ("csv", "path\tlabel\na\tb\n", ["the column 'path' 0 times"]),
        ("csv", "path,label,Label\na,b,c\n", ["Line 1", "the column 'label' 2 times"]),
        ("csv", "path,label\na,b\nc\n", ["Line 3", "1 value", "2, as in the header"]),
        ("csv", "path,label\na,b\nc,d,e\n", ["Line 3", "3 value"]),
        ("csv", "path,label\na,b\n,d\n", ["Line 3", "no path"]),
        ("csv", "path,label\na,b\nc,\n", ["Line 3", "no label"]),
        ("csv", "path,label\na,b\nc,  \n", ["Line 3", "no label"]),
        ("csv", "path,label,split\na,b,fold1\n", ["Line 2", "the split 'fold1'", "train, val or test"]),
        ("csv", "path,label,split\na,,val\n", ["Line 2", "no label"]),
        ("csv", 'path,label\na,b\n"c,d\ne,f\n', ["Line 3", "quotes"]),
        ("csv", 'path,label\na,"b\nc"\n', ["Line 2", r"'b\nc'", "on one line"]),
        ("csv", "path,label\na,caf\udce9\n", ["Line 2", "UTF-8"]),
        ("tsv", "path,label\na,b\n", ["Line 1", "the column 'path' 0 times"]),
        ("tsv", "path\tlabel\nx\n", ["Line 2", "1 value"]),
        ("jsonl", '{"path": "a", "label": "b"}\n{"path": \n', ["Line 2", "not valid JSON"]),
        ("jsonl", "[1]\n", ["Line 1", "not a JSON object"]),
        ("jsonl", "[" * 100_000, ["Line 1", "not valid JSON"]),
        ("jsonl", '{"label": "b"}\n', ["Line 1", "no path"]),
        ("jsonl", '{"path": 3.5, "label": null}\n', ["Line 1", "no label"]),
        ("jsonl", '{"path": "a"}\n', ["Line 1", "no label"]),
        ("jsonl", '{"path": "a", "label": ["b"]}\n', ["Line 1", 'the label ["b"]', "a string or a number"]),
        ("jsonl", '{"path": "a", "label": true}\n', ["Line 1", "the label true"]),
        ("jsonl", '{"path": "a", "label": "\\ud800"}\n', ["Line 1", "UTF-8"]),
        ("jsonl", '{"path": "\\u0000", "label": "b"}\n', ["Line 1", "null characters"]),
        ("jsonl", '{"path": "\\ud800", "label": "b"}\n', ["Line 1", "lone surrogates"]),
        ("jsonl", '{"path": "a", "label": "b", "split": "fold1"}\n', ["Line 1", "the split 'fold1'"]),
        ("csv", "path,label\n", ["no image"]),
        ("jsonl", "\n", ["no image"]),
        ("csv", "path,label,split\na,,test\n", ["no image of a class"]),
        ("csv", "path,label\na,b\n", ["single class 'b'"]),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_line(tmp_path, suffix, text, words):
    place = write_text(tmp_path / f"list.{suffix}", text)
    message = refusal(list_images, place)
    assert all(word in message for word in [place, *words]), message


def test_the_words_for_splits_are_those_of_folders_in_any_case(tmp_path):
    words = {"Training": "train", "TRN ": "train", "Dev": "val", " valid": "val", "Testing": "test", "holdout": "test"}
    rows = [(f"{number}.jpg", "ab"[number % 2], word) for number, word in enumerate(words)]
    listing = list_images(write_manifest(tmp_path / "list.csv", rows, ("path", "label", "split")))
    assert [file.split for file in listing.files] == list(words.values())


def test_eval_is_test_unless_another_split_is(tmp_path):
    def listed(other):
        rows = [("1.jpg", "a", "train"), ("2.jpg", "b", "Eval"), ("3.jpg", "b", other)]
        return list_images(write_manifest(tmp_path / "list.csv", rows, ("path", "label", "split")))

    assert [file.split for file in listed("val").files] == ["train", "test", "val"]
    message = refusal(listed, "Testing")
    assert "'eval'" in message and "'testing'" in message and "write val" in message


def test_blanks_around_fields_do_not_count_but_those_of_a_files_own_name_do(tmp_path):
    fill(tmp_path, "x.jpg", "y.jpg ", " z.jpg", "z.jpg")
    rows = [
        (" x.jpg ", " cat", "train ", "web "),
        ("y.jpg ", "dog\N{NO-BREAK SPACE}", " test", " g"),
        (" z.jpg", "cat", "", ""),
    ]
    listing = list_images(write_manifest(tmp_path / "list.csv", rows, (" Path ", "label ", " split", "source")))
    assert [(file.key, file.text, file.split, file.source, file.size) for file in listing.files] == [
        (" z.jpg", "cat", "", "", 1),
        ("x.jpg", "cat", "train", "web", 1),
        ("y.jpg ", "dog", "test", "g", 1),
    ]


def test_backslashes_separate_folders_where_no_file_has_them_in_its_name(tmp_path):
    fill(tmp_path, "cat/1.jpg", "cat\\2.jpg")
    place = write_manifest(tmp_path / "list.csv", [("cat\\1.jpg", "a"), ("cat\\2.jpg", "b"), (".\\cat\\1.jpg", "a")])
    assert keys(list_images(place)) == ["cat/1.jpg", "cat\\2.jpg"]


def test_a_path_that_no_file_can_have_is_listed_all_the_same(tmp_path):
    long = " " + "x" * 5000
    listing = list_images(write_manifest(tmp_path / "list.csv", [(long, "a"), ("1.jpg", "b")]))
    assert [(file.key, file.size) for file in listing.files] == [("1.jpg", 1), (long.strip(), 0)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_manifest_of_which_no_file_exists_is_refused_with_the_place_looked_at(tmp_path, suffix):
    rows = [(f"images/{number}.png", "ab"[number % 2]) for number in range(5)]
    message = refusal(list_images, write_manifest(tmp_path / f"list.{suffix}", rows))
    assert "None of the 5 files" in message and "'images/0.png'" in message
    assert repr(str(tmp_path / "images" / "0.png")) in message and "relative to the folder of the manifest" in message
    fill(tmp_path, "images/4.png")
    assert [file.size for file in list_images(str(tmp_path / f"list.{suffix}")).files] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["cat", "nan"], ["'nan'"]),
        (["N/A", "cat"], ["'N/A'"]),
        (["None", "Null", "cat"], ["'None'"]),
        (["1", "1.0", "2"], ["'1' and '1.0'"]),
        (["01", "1", "nan"], ["'nan'", "'01' and '1'"]),
        (["1", "10", "1e1", "1.5", "one"], []),
    ],
)
def test_labels_that_are_no_values_or_one_number_are_noted(tmp_path, labels, words):
    rows = [(f"{number}.jpg", label) for number, label in enumerate(labels)]
    listing = list_images(write_manifest(tmp_path / "list.csv", rows))
    assert len(listing.notes) == len(words)
    assert all(word in note for word, note in zip(words, listing.notes, strict=True)), listing.notes


def test_a_utf_16_manifest_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na,b\n", encoding="utf-16")
    assert "the column 'path' 0 times" in refusal(list_images, str(tmp_path / "list.csv"))


def test_a_missing_manifest_is_named(tmp_path):
    assert str(tmp_path / "list.csv") in refusal(list_images, str(tmp_path / "list.csv"))


def test_a_folder_with_a_manifests_suffix_is_a_folder(tmp_path):
    assert list_images(fill(tmp_path / "data.csv", "a/1.jpg", "b/1.jpg")).labels == ["a", "b"]
