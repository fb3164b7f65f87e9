from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from members import Member, assign_splits, find_copies

from components.features import SPLITS
from components.ingest.duplicates import Copy
from components.ingest.split import SplitPlan

PLAN = SplitPlan({"train": 0.6, "val": 0.2, "test": 0.2}, None, 0)
policies = st.sampled_from(["drop", "keep"])
copied_images = st.lists(
    st.builds(
        lambda text, name, group, copy, split, former: Member(f"{text}/{name}", text, group, str(copy), split, former),
        st.sampled_from("abc"),
        st.integers(0, 99),
        st.sampled_from(["", "", "g", "h"]),
        st.integers(0, 9),
        st.sampled_from(["", "", *SPLITS]),
        st.sampled_from(["", *SPLITS]),
    ),
    unique_by=lambda member: member.key,
)


def image(key, copy="same", split="", former=""):
    return Member(key, key.split("/")[0], "", copy, split, former)


def leave_out_dropped(members, copies):
    dropped = {copy.key for copy in copies if copy.action == "dropped"}
    return [member for member in members if member.key not in dropped]


def find_straddling(members, place):
    """Return the checksums of images in several places."""
    places = defaultdict(set)
    for member in members:
        places[member.sha256].add(place(member))
    return [sha256 for sha256, found in places.items() if len(found - {""}) > 1]


def test_images_that_differ_are_no_copies():
    assert find_copies([image("a/1", "x"), image("a/2", "y"), image("b/1", "z")], "drop") == []
    assert find_copies([], "keep") == []


def test_all_but_the_smallest_key_of_a_class_are_copies():
    members = [image("a/3"), image("a/1"), image("a/2"), image("a/0", "other")]
    assert find_copies(members, "drop") == [
        Copy("copy", "a/2", "a", "a/1", "a", "dropped", "same"),
        Copy("copy", "a/3", "a", "a/1", "a", "dropped", "same"),
    ]


def test_copies_are_kept_under_that_policy():
    assert find_copies([image("a/1"), image("a/2")], "keep") == [
        Copy("copy", "a/2", "a", "a/1", "a", "kept", "same"),
    ]


@given(policies)
def test_the_first_of_each_further_class_is_a_label_conflict_and_kept(policy):
    action = "dropped" if policy == "drop" else "kept"
    members = [image("a/1"), image("b/1"), image("b/2"), image("c/1")]
    assert find_copies(members, policy) == [
        Copy("copy", "b/2", "b", "b/1", "b", action, "same"),
        Copy("label_conflict", "b/1", "b", "a/1", "a", "kept", "same"),
        Copy("label_conflict", "c/1", "c", "a/1", "a", "kept", "same"),
    ]


def test_the_original_is_the_one_that_an_earlier_run_used():
    (copy,) = find_copies([image("a/1"), image("a/2", former="train")], "drop")
    assert (copy.key, copy.copy_of) == ("a/1", "a/2")


def test_the_original_is_fixed_before_it_was_used_before():
    (copy,) = find_copies([image("a/1", former="test"), image("a/2", split="train")], "drop")
    assert (copy.kind, copy.key, copy.copy_of) == ("copy", "a/1", "a/2")


@given(policies)
def test_the_less_held_out_image_of_a_leak_is_dropped_under_any_policy(policy):
    members = [image("a/1", split="train"), image("a/2", split="val"), image("a/3", split="test")]
    assert find_copies(members, policy) == [
        Copy("leak", "a/1", "a", "a/3", "a", "dropped", "same"),
        Copy("leak", "a/2", "a", "a/3", "a", "dropped", "same"),
    ]


@given(policies)
def test_a_leak_across_classes_shows_both_labels_and_is_dropped(policy):
    assert find_copies([image("a/1", split="train"), image("b/1", split="test")], policy) == [
        Copy("leak", "a/1", "a", "b/1", "b", "dropped", "same")
    ]


def test_copies_in_one_fixed_split_are_no_leak():
    (copy,) = find_copies([image("a/1", split="test"), image("a/2", split="test")], "drop")
    assert (copy.kind, copy.key, copy.action) == ("copy", "a/2", "dropped")


@given(copied_images, policies, st.randoms())
def test_rows_do_not_depend_on_the_order_of_images(members, policy, random):
    copies = find_copies(members, policy)
    assert find_copies(random.sample(members, len(members)), policy) == copies
    assert copies == sorted(copies, key=lambda copy: (copy.kind, copy.key))


@given(copied_images, policies)
def test_each_image_but_the_original_has_one_row(members, policy):
    keys = [copy.key for copy in find_copies(members, policy)]
    assert len(keys) == len(set(keys)) == len(members) - len({member.sha256 for member in members})


@given(copied_images, policies)
def test_originals_are_never_dropped(members, policy):
    left = {member.key for member in leave_out_dropped(members, find_copies(members, policy))}
    assert all(copy.copy_of in left for copy in find_copies(members, policy))


@given(copied_images)
def test_dropping_leaves_one_image_of_each_checksum_and_class(members):
    left = leave_out_dropped(members, find_copies(members, "drop"))
    assert all(copy.kind == "label_conflict" for copy in find_copies(left, "drop"))


@given(copied_images, policies)
def test_the_remaining_copies_straddle_no_splits(members, policy):
    left = leave_out_dropped(members, find_copies(members, policy))
    assert not find_straddling(left, lambda member: member.split)
    splits = assign_splits(left, PLAN)
    assert not find_straddling(left, lambda member: splits[member.key])
