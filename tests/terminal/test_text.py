import pytest

from components.terminal.text import join_names, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a/b c.jpg", "a/b c.jpg"),
        ("Größe 日本 😀", "Größe 日本 😀"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("one\ntwo\r\t\x7f\x9b", "one\\ntwo\\r\\t\\x7f\\x9b"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("line\u2028end", "line\\u2028end"),
        ("\udcff.png", "\\udcff.png"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_as_its_escape(text, shown):
    assert printable(text) == shown


def test_of_many_names_ten_are_told_and_the_rest_counted():
    assert join_names([*"abcdefghij"]) == "a, b, c, d, e, f, g, h, i, j"
    assert join_names([*"abcdefghijkl"]) == "a, b, c, d, e, f, g, h, i, j and 2 more"
