import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.data.image_file import ImageFile
from components.data.image_list import ImageList, Listing, open_train

texts = st.text(st.characters(codec=None), max_size=5)
few = st.sampled_from(["", "a", "b\udcff"])
keys = st.text(st.sampled_from("ab/\udcff\ue000\U0001f600"), min_size=1, max_size=8)
files = st.builds(
    lambda key, place, *values: ImageFile(
        key, {0: f"root/{key}", 1: key.rpartition("/")[2]}.get(place, place), *values
    ),
    keys,
    st.sampled_from([0, 1, "records.tfrecord", ""]),
    few,
    few,
    texts,
    st.sampled_from(["", "train", "val", "test"]),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(-1, 2**40),
)
lists = st.lists(files, max_size=30)


@given(lists)
def test_a_list_gives_back_the_images_that_it_got(rows):
    images = ImageList.collect(rows)
    assert images == rows and len(images) == len(rows)
    assert [*images.read_keys()] == [row.key for row in rows]
    assert [images[place] for place in range(-len(rows), len(rows))] == rows + rows
    assert images[1:3] == rows[1:3]


@given(st.lists(files, unique_by=lambda file: file.key))
def test_sorting_orders_the_keys_as_python_does(rows):
    assert ImageList.collect(rows).sort() == sorted(rows)


@given(lists, lists, st.randoms())
def test_joined_and_taken_rows_are_those_of_the_lists(one, other, random):
    joined = ImageList.join([ImageList.collect(one), ImageList.collect([]), ImageList.collect(other)])
    assert joined == one + other
    rows = random.choices(range(len(joined)), k=len(joined)) if len(joined) else []
    assert joined.take(np.array(rows, np.int64)) == [(one + other)[row] for row in rows]
    mask = [random.random() < 0.5 for _ in joined]
    assert joined.select(np.array(mask, bool)) == [row for row, wanted in zip(one + other, mask, strict=True) if wanted]


@given(lists)
def test_below_a_name_keys_and_sources_change_and_paths_stay(rows):
    assert ImageList.collect(rows).put_below("root é") == [
        row._replace(key=f"root é/{row.key}", source=f"root é/{row.source}" if row.source else "root é") for row in rows
    ]


def test_a_listing_without_val_opens_train_and_keeps_test():
    rows = [
        ImageFile(f"{split}{number}", "", "a", "", "", split, 0, 0) for split in ("test", "train") for number in "12"
    ]
    opened, splits = open_train(ImageList.collect(rows))
    assert [file.split for file in opened] == ["test", "test", "", ""] and splits == ("train", "val")


def test_a_changed_size_of_one_file_changes_the_fingerprint():
    rows = [ImageFile(f"a/{number}", f"a/{number}", "a", "", "", "", 5, 7) for number in range(10)]
    one, same, other = (
        Listing(ImageList.collect([*rows[:-1], last]), ["a"], [], []).fingerprint()
        for last in (rows[-1], rows[-1], rows[-1]._replace(size=6))
    )
    assert one == same != other


def test_an_image_takes_few_bytes():
    names = [f"class_{number % 100:04d}/IMG_{number:08d}.jpg" for number in range(100_000)]
    images = ImageList.collect(ImageFile(key, f"/data/{key}", key[:10], "", "", "", 5, 7) for key in names)
    columns = [images.texts.codes, images.prefixes.codes, images.splits.codes, images.cuts, images.sizes]
    own = sum(column.nbytes for column in columns if column.strides != (0,))
    assert (own + images.keys.nbytes) / len(names) < len(names[0]) + 16
