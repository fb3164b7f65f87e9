import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.shards.facts import FactColumns, Facts

usable = st.builds(
    Facts,
    st.just(""),
    st.just(""),
    st.binary(min_size=32, max_size=32).map(bytes.hex) | st.just("00" * 32),
    st.sampled_from(["jpeg", "png", "webp"]),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(1, 8),
    st.integers(0, 1),
)
unusable = st.builds(Facts, st.sampled_from(["corrupt", "too_large"]), st.text())
lists = st.lists(st.none() | usable | unusable)


def to_columns(rows):
    facts = FactColumns(len(rows))
    for number, row in enumerate(rows):
        if row:
            facts[number] = row
    return facts


@given(lists)
def test_columns_give_back_the_facts_that_they_got(rows):
    facts = to_columns(rows)
    assert [facts[number] for number in range(len(facts))] == rows
    assert facts.find_usable().tolist() == [not (row and row.reason) for row in rows]
    assert facts.find_format("png", "webp").tolist() == [bool(row and row.format in ("png", "webp")) for row in rows]


@given(lists, st.data())
def test_a_change_of_any_fact_is_found(rows, data):
    facts = to_columns(rows)
    later = facts.copy()
    changed = {}
    for number in range(len(rows)):
        if data.draw(st.booleans()):
            later[number] = changed[number] = data.draw(usable | unusable)
    assert [facts[number] for number in range(len(facts))] == rows
    expected = [number in changed and changed[number] != row for number, row in enumerate(rows)]
    assert facts.find_changed(later).tolist() == expected


def test_facts_that_become_usable_are_no_reject_any_more():
    facts = to_columns([Facts("corrupt", "cut")])
    facts[0] = Facts("", "", "ff" * 32, "png", 1, 2)
    assert facts.find_usable().all() and facts[0] == Facts("", "", "ff" * 32, "png", 1, 2)
    assert not facts.find_changed(facts.copy()).any() and np.all(facts.is_read)
