import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.columns import Words

texts = st.text(st.characters(codec=None), max_size=5)


@given(st.lists(texts))
def test_words_are_counted_found_and_changed(column):
    words = Words.collect(column)
    assert [*words] == column and len(words.count()) == len({*column}) and sum(words.count().values()) == len(column)
    assert words.find_first() == {text: column.index(text) for text in column}
    assert [*words.map(lambda text: text[:1])] == [text[:1] for text in column]
    assert [*Words.join([words, words])] == column + column
    assert words.recode([*reversed(words.words)]).tolist() == [[*reversed(words.words)].index(text) for text in column]


def test_a_word_that_another_list_of_words_lacks_is_an_error():
    with pytest.raises(ValueError, match="'b'"):
        Words.collect("ab").recode(["a"])
