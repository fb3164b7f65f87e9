from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st
from members import Member, assign_splits, count_components
from toys import refusal

from components.features import SPLITS
from components.ingest.split import SplitPlan, apportion
from components.shards.spans import assign_shard

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
PLAN = SplitPlan(FRACTIONS, None, 0)
keys = st.text(st.characters(), min_size=1)
seeds = st.integers(0, 2**31)
weights = st.integers(1, 20)
plans = st.builds(
    lambda train, val, test, seed: SplitPlan(
        {split: weight / (train + val + test) for split, weight in zip(SPLITS, (train, val, test), strict=True)},
        None,
        seed,
    ),
    weights,
    weights,
    weights,
    seeds,
)


def image(text, number, group="", copy="", split="", former=""):
    """A member whose bytes are its own unless it is a copy."""
    key = f"{text}/{number}.jpg"
    return Member(key, text, group, copy or f"checksum of {key}", split, former)


def single_images(classes, per_class, start=0):
    return [image(f"class {text}", number) for text in range(classes) for number in range(start, start + per_class)]


@st.composite
def linked_images(draw, spanning):
    """Images of a few classes with groups and copies, which span classes or not."""
    members = []
    for text in "abcde"[: draw(st.integers(1, 5))]:
        place = "" if spanning else text
        links = st.tuples(st.integers(0, 12), st.integers(0, 12))
        for number, (group, copy) in enumerate(draw(st.lists(links, min_size=1, max_size=25))):
            copy_of = f"{place}{copy}" if 0 < copy < 4 else ""
            members.append(image(text, number, f"{place}{group}" if group else "", copy_of))
    return members


def with_former(members, splits):
    return [member._replace(former=splits.get(member.key, "")) for member in members]


def count_images(members, splits):
    """Number of images of each (class, split)."""
    return Counter((member.text, splits[member.key]) for member in members)


def find_unserved(members, splits):
    """(class, split) without an image although the class has three components or more."""
    components = count_components(members)
    present = count_images(members, splits)
    return [
        (text, split) for text in components for split in SPLITS if components[text] >= 3 and not present[text, split]
    ]


def find_straddling(members, splits):
    """Groups and checksums whose unfixed images are not all in one split."""
    places = defaultdict(set)
    for member in members:
        places["checksum", member.sha256].add(splits[member.key])
        if member.group and not member.split:
            places["group", member.group].add(splits[member.key])
    return [link for link, found in places.items() if len(found) > 1]


@given(linked_images(spanning=True), plans)
def test_every_image_gets_a_split(members, plan):
    splits = assign_splits(members, plan)
    assert set(splits) == {member.key for member in members}
    assert set(splits.values()) <= set(SPLITS)


def test_no_images_have_no_splits():
    assert assign_splits([], PLAN) == assign_splits([], SplitPlan(FRACTIONS, 5, 0)) == {}


@given(linked_images(spanning=True), plans, st.none() | st.integers(1, 4))
def test_groups_and_copies_never_straddle_splits(members, plan, train_per_class):
    smallest = min(Counter(member.text for member in members).values())
    if train_per_class is None or smallest > train_per_class:
        splits = assign_splits(members, SplitPlan(plan.fractions, train_per_class, plan.seed))
        assert not find_straddling(members, splits)


@given(linked_images(spanning=False), plans)
def test_a_class_of_three_components_has_all_splits(members, plan):
    assert not find_unserved(members, assign_splits(members, plan))


@given(st.integers(1, 2), plans)
def test_a_class_of_one_or_two_images_has_train_then_test(images, plan):
    splits = assign_splits(single_images(1, images), plan)
    assert sorted(splits.values()) == [["train"], ["test", "train"]][images - 1]


@given(st.integers(1, 60), plans)
def test_each_class_is_divided_by_the_fractions(images, plan):
    members = single_images(2, images)
    counts = count_images(members, assign_splits(members, plan))
    for text in ("class 0", "class 1"):
        for split, fraction in plan.fractions.items():
            if min(plan.fractions.values()) * images >= 1:
                assert abs(counts[text, split] - fraction * images) < 1
            elif images >= 3 and fraction * images < 1:
                assert counts[text, split] == 1


def test_sixty_twenty_twenty_of_thirty_is_exact():
    members = single_images(3, 30)
    counts = count_images(members, assign_splits(members, PLAN))
    assert {split: counts["class 1", split] for split in SPLITS} == {"train": 18, "val": 6, "test": 6}


def test_groups_are_divided_by_their_images_not_their_number():
    sizes = [30, 20, 10, 10, 10, 5, 5, 5, 3, 1, 1]
    members = [
        image("a", f"{size} {group} {number}", f"{group}") for group, size in enumerate(sizes) for number in range(size)
    ]
    counts = count_images(members, assign_splits(members, PLAN))
    assert {split: counts["a", split] for split in SPLITS} == {"train": 60, "val": 20, "test": 20}


def test_a_session_of_all_classes_stays_whole_and_every_class_has_all_splits():
    members = [image(f"class {number % 7}", number, f"session {number // 70}") for number in range(700)]
    splits = assign_splits(members, PLAN)
    assert not find_straddling(members, splits)
    assert Counter(splits.values()) == {"train": 420, "val": 140, "test": 140}
    assert not find_unserved(members, splits)


@given(linked_images(spanning=True), plans, st.randoms())
def test_the_order_of_images_does_not_matter(members, plan, random):
    shuffled = random.sample(members, len(members))
    assert assign_splits(shuffled, plan) == assign_splits(members, plan)


def test_another_seed_gives_another_split():
    members = single_images(1, 1000)
    first, second = (assign_splits(members, SplitPlan(FRACTIONS, None, seed)) for seed in (0, 1))
    tests = {key for key, split in first.items() if split == "test"}
    assert len([key for key in tests if second[key] == "test"]) < 0.5 * len(tests)


@given(linked_images(spanning=True), plans)
def test_the_same_images_again_stay_where_they_are(members, plan):
    splits = assign_splits(members, plan)
    assert assign_splits(with_former(members, splits), plan) == splits


@st.composite
def grown_images(draw):
    """Images, and images added to them: alone, in old or new groups, as copies, in old and new classes."""
    members = draw(linked_images(spanning=False))
    added = []
    for number in range(draw(st.integers(1, 30))):
        like = draw(st.sampled_from(members))
        link = draw(st.sampled_from(["none", "group", "new group", "copy", "new class"]))
        added.append(
            image(
                "new" if link == "new class" else like.text,
                f"added {number}",
                {"group": like.group, "copy": like.group, "new group": f"{like.text} added"}.get(link, ""),
                like.sha256 if link == "copy" else "",
            )
        )
    return members, added


@given(grown_images(), plans)
def test_adding_images_moves_none(images, plan):
    members, added = images
    before = assign_splits(members, plan)
    grown = with_former(members, before) + added
    after = assign_splits(grown, plan)
    assert {key: after[key] for key in before} == before
    assert not find_unserved(grown, after)
    assert not find_straddling(grown, after)


@given(linked_images(spanning=False), plans, st.data())
def test_removing_images_moves_only_images_that_fill_an_empty_split(members, plan, data):
    before = assign_splits(members, plan)
    left = data.draw(st.lists(st.sampled_from(members), unique=True))
    after = assign_splits(with_former(left, before), plan)
    assert not find_unserved(left, after)
    assert assign_splits(with_former(sorted(left), before), plan) == after
    moved = {(member.text, after[member.key]) for member in left if after[member.key] != before[member.key]}
    assert moved == set(find_unserved(left, before))


def test_a_removed_test_split_is_filled_with_new_images_before_old_ones_move():
    members = single_images(1, 30)
    before = assign_splits(members, PLAN)
    left = [member for member in members if before[member.key] != "test"]
    moved = [key for key, split in assign_splits(with_former(left, before), PLAN).items() if split != before[key]]
    assert [before[key] for key in moved] == ["train"]
    refilled = assign_splits([*with_former(left, before), *single_images(1, 6, start=30)], PLAN)
    assert Counter(refilled.values()) == {"train": 18, "val": 6, "test": 6}
    assert all(refilled[member.key] == before[member.key] for member in left)


def test_an_empty_split_is_filled_from_the_one_with_the_largest_surplus():
    members = [image("a", number, former="val" if number < 9 else "train") for number in range(19)]
    splits = assign_splits(members, PLAN)
    assert Counter(splits.values()) == {"train": 10, "val": 8, "test": 1}
    assert assign_splits(members[::-1], PLAN) == splits


def test_new_sessions_move_before_old_images_do():
    old = [image("c", number) for number in (1, 2)]
    before = assign_splits(old, PLAN)
    sessions = [image(text, number, f"{number}") for number, classes in [(3, "ac"), (4, "ab")] for text in classes]
    after = assign_splits(with_former(old, before) + sessions, PLAN)
    assert {key: after[key] for key in before} == before
    assert not find_unserved(old + sessions, after)


@given(linked_images(spanning=True), plans, st.data())
def test_filling_an_empty_split_empties_no_other(members, plan, data):
    before = assign_splits(members, plan)
    left = data.draw(st.lists(st.sampled_from(members), unique=True))
    after = assign_splits(with_former(left, before), plan)
    assert set(count_images(left, after)) >= set(count_images(left, before))
    assert not find_straddling(left, after)


def test_an_image_that_one_class_frees_for_another_moves_at_once():
    sessions = {"1": ("val", "bd"), "3": ("test", "da"), "6": ("train", "a"), "7": ("train", "b"), "8": ("val", "db")}
    sessions["9"] = ("test", "ac")
    members = [
        image(text, group, group, former=former) for group, (former, classes) in sessions.items() for text in classes
    ]
    splits = assign_splits(members, PLAN)
    assert any(splits[member.key] != member.former for member in members)
    assert assign_splits(with_former(members, splits), PLAN) == splits


def test_images_that_a_new_one_links_go_where_most_of_them_were():
    old = [image("a", 1, "x", former="test"), image("a", 2, "x", former="test"), image("a", 3, "y", former="train")]
    splits = assign_splits([*old, image("a", 4, "x", copy=old[2].sha256)], PLAN)
    assert set(splits.values()) == {"test"}


def test_257_classes_of_30_have_all_splits_and_none_moves_when_10_are_added_to_each():
    plan = SplitPlan({"train": 0.8, "val": 0.1, "test": 0.1}, None, 0)
    members = single_images(257, 30)
    before = assign_splits(members, plan)
    assert set(count_images(members, before).values()) == {24, 3}
    grown = with_former(members, before) + single_images(257, 10, start=30)
    after = assign_splits(grown, plan)
    assert all(after[key] == split for key, split in before.items())
    assert set(count_images(grown, after).values()) == {32, 4}


@given(linked_images(spanning=True), plans, st.data())
def test_fixed_images_stay_and_their_copies_follow_them(members, plan, data):
    fixed_checksums = data.draw(st.dictionaries(st.sampled_from([m.sha256 for m in members]), st.sampled_from(SPLITS)))
    some = data.draw(st.lists(st.booleans(), min_size=len(members), max_size=len(members)))
    members = [
        m._replace(split=fixed_checksums.get(m.sha256, "") if fixed else "")
        for m, fixed in zip(members, some, strict=True)
    ]
    splits = assign_splits(members, plan)
    assert all(splits[member.key] == member.split for member in members if member.split)
    pinned = {member.sha256 for member in members if member.split}
    straddling = find_straddling([m for m in members if m.sha256 in pinned or not m.group], splits)
    assert not [link for link in straddling if link[0] == "checksum"]


def test_images_in_the_group_of_a_copy_of_a_fixed_image_follow_it():
    members = [image("a", 0, copy="same", split="test"), image("a", 1, "g", copy="same"), image("a", 2, "g")]
    assert set(assign_splits(members, PLAN).values()) == {"test"}
    assert set(assign_splits(members, PLAN, ("train", "val")).values()) == {"test"}


def test_a_group_does_not_draw_images_to_a_fixed_one():
    members = [image("a", 0, "g", split="test"), *(image("a", number, "g") for number in range(1, 10))]
    splits = assign_splits(members, PLAN, ("train", "val"))
    assert Counter(splits.values()) == {"train": 9, "test": 1}


def test_open_splits_share_the_images_that_are_not_fixed():
    fixed = [image("a", number, split="test") for number in range(100, 150)]
    splits = assign_splits([*single_images(1, 80), *fixed], PLAN, ("train", "val"))
    assert Counter(splits.values()) == {"train": 60, "val": 20, "test": 50}


def test_fixed_images_count_into_the_fractions_of_open_splits():
    fixed = [image("class 0", number, split="test") for number in range(100, 115)]
    splits = assign_splits([*single_images(1, 85), *fixed], PLAN)
    assert Counter(splits.values()) == {"train": 60, "val": 20, "test": 20}


@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=4), plans)
def test_train_per_class_is_exact(per_class, extra, plan):
    members = [
        image(text, number) for text, more in zip("abcd", extra, strict=False) for number in range(per_class + more)
    ]
    counts = count_images(members, assign_splits(members, SplitPlan(plan.fractions, per_class, plan.seed)))
    rest = plan.fractions["val"] + plan.fractions["test"]
    for text, more in zip("abcd", extra, strict=False):
        assert counts[text, "train"] == per_class
        assert counts[text, "test"] >= 1
        assert counts[text, "val"] >= min(1, more - 1)
        assert abs(counts[text, "test"] - more * plan.fractions["test"] / rest) <= 1


def test_training_images_are_drawn_anew_with_another_seed():
    members = single_images(1, 100)
    first, second = (assign_splits(members, SplitPlan(FRACTIONS, 15, seed)) for seed in (0, 1))
    drawn = {key for key, split in first.items() if split == "train"}
    assert len([key for key in drawn if second[key] == "train"]) < 10


@given(st.integers(1, 8), grown_images(), seeds)
def test_train_per_class_moves_none_when_images_are_added(per_class, images, seed):
    members, added = images
    plan = SplitPlan(FRACTIONS, per_class, seed)
    padding = [image(text, f"more {number}") for text in "abcde" for number in range(9)]
    members = members + padding
    added = [member for member in added if member.text != "new"]
    before = assign_splits(members, plan)
    after = assign_splits([*with_former(members, before), *added], plan)
    assert {key: after[key] for key in before} == before


def test_train_per_class_is_restored_after_removal_from_val_before_test():
    plan = SplitPlan(FRACTIONS, 10, 0)
    members = single_images(1, 16)
    before = assign_splits(members, plan)
    training = [member for member in members if before[member.key] == "train"]
    left = [member for member in members if member not in training[:2]]
    after = assign_splits(with_former(left, before), plan)
    assert Counter(after.values()) == {"train": 10, "val": 1, "test": 3}
    assert all(after[key] == "test" for key in after if before[key] == "test")
    refilled = assign_splits([*with_former(left, before), *single_images(1, 4, start=16)], plan)
    assert Counter(refilled.values())["train"] == 10
    assert all(refilled[member.key] == before[member.key] for member in left)


def test_fixed_images_count_into_train_per_class():
    fixed = [image("class 0", number, split=split) for number, split in enumerate(["train"] * 4 + ["test"] * 3, 100)]
    members = single_images(1, 20) + fixed
    splits = assign_splits(members, SplitPlan(FRACTIONS, 10, 0))
    assert Counter(splits.values()) == {"train": 10, "val": 8, "test": 9}
    assert all(splits[member.key] == member.split for member in fixed)


def test_groups_are_chosen_for_training_as_far_as_they_fit():
    members = [image("a", f"{group} {number}", f"{group}") for group in range(10) for number in range(4)]
    assert Counter(assign_splits(members, SplitPlan(FRACTIONS, 10, 0)).values())["train"] == 8


def test_a_class_without_an_image_to_spare_from_training_is_refused():
    members = [image("wren", number) for number in range(15)] + [image("robin", number) for number in range(16)]
    message = refusal(assign_splits, members, SplitPlan(FRACTIONS, 15, 0))
    assert "'wren'" in message
    assert "15 of the 16" in message


def test_no_class_is_refused_with_one_image_to_spare():
    members = [image("wren", number) for number in range(16)]
    assert Counter(assign_splits(members, SplitPlan(FRACTIONS, 15, 0)).values()) == {"train": 15, "test": 1}


@given(st.integers(0, 10_000), plans)
def test_apportioned_numbers_sum_to_the_total_and_are_within_one_of_the_fraction(total, plan):
    numbers = apportion(total, plan.fractions)
    assert sum(numbers.values()) == total
    assert all(abs(numbers[split] - plan.fractions[split] * total) < 1 for split in SPLITS)


def test_equal_remainders_go_to_the_first_split():
    assert apportion(4, {"train": 0.4, "test": 0.3, "val": 0.3}) == {"train": 2, "test": 1, "val": 1}
    assert apportion(3, {"train": 1 / 3, "test": 1 / 3, "val": 1 / 3}) == {"train": 1, "test": 1, "val": 1}
    assert apportion(2, {"train": 0.6, "test": 0.2, "val": 0.2}) == {"train": 1, "test": 1, "val": 0}


def test_split_and_shard_are_independent():
    splits = assign_splits(single_images(1, 20_000), PLAN)
    tests = [key for key, split in splits.items() if split == "test"]
    shards = Counter(assign_shard(key, 4) for key in tests)
    assert all(abs(count / len(tests) - 0.25) < 0.03 for count in shards.values())
