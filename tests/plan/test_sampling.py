import collections

from hypothesis import given
from hypothesis import strategies as st

from components.data.image_file import ImageFile
from components.plan.sampling import FEWEST, draw_sample


def listing(*sizes):
    """Return files of classes with so many images each."""
    return [
        ImageFile(f"c{number}/{image}", "", f"c{number}", "", "", "", 0, 0)
        for number, size in enumerate(sizes)
        for image in range(size)
    ]


def count(files):
    return collections.Counter(file.text for file in files)


def test_each_class_has_its_share():
    assert count(draw_sample(listing(1000, 500, 500), 200)) == {"c0": 100, "c1": 50, "c2": 50}


def test_small_classes_keep_enough_for_three_splits():
    assert count(draw_sample(listing(1000, 10), 50)) == {"c0": 50, "c1": FEWEST}


def test_of_very_many_classes_the_largest_stand_for_all():
    sample = count(draw_sample(listing(*range(10, 110)), 90))
    assert len(sample) == 30
    assert set(sample) == {f"c{number}" for number in range(70, 100)}


def test_classes_too_small_for_three_splits_are_left_out():
    assert set(count(draw_sample(listing(30, 2, 30), 30))) == {"c0", "c2"}


@given(st.lists(st.integers(3, 40), min_size=2, max_size=10), st.integers(6, 200), st.integers(0, 5))
def test_a_sample_is_a_part_of_the_files_in_their_order(sizes, wanted, seed):
    files = listing(*sizes)
    sample = draw_sample(files, wanted, seed)
    places = [files.index(file) for file in sample]
    assert places == sorted(set(places))
    assert sample == draw_sample(files, wanted, seed)
    if wanted >= len(files):
        assert sample == files
