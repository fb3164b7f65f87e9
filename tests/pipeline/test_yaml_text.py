import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.yaml_text import InvalidYaml, parse_yaml


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "a: &x [1, {b: 2.5}]\nc: *x", "a: {<<: {b: 1}, c: 2}", "- ~\n- true\n- 'no'\n- null", "!!set {a, b}"],
)
def test_plain_values_are_those_of_pyyaml(text):
    assert parse_yaml(text) == yaml.safe_load(text)


# The tables of https://yaml.org/spec/1.2.2/#1032-tag-resolution, and words that only YAML 1.1 knows.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, None) for word in ("~", "null", "Null", "NULL", "")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, word) for word in ("yes", "No", "on", "OFF", "y", "N", "nULL", "2024-01-01", "1:30", "1_000", "0b1")),
        *(("0", 0), ("-12", -12), ("+7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31)),
        *(("1e-4", 1e-4), ("1.", 1.0), ("-.5", -0.5), ("+12e03", 12e3), ("-2E+05", -2e5), (".inf", math.inf)),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(text, value):
    (found,) = parse_yaml(f"[{text}]") or [None] if text else parse_yaml("a:").values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("key", ["yes", "no", "1", "1.0", "010", "~", "null", "true", "2024-01-01", "1:30", "1e3"])
def test_keys_are_text_as_it_is_written(key):
    assert parse_yaml(f"{{{key}: 2}}") == {key: 2} == parse_yaml(f"? {key}\n: 2")


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text("ab01.:-~eE+ yno"))
VALUES = st.recursive(
    PLAIN, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("ab1.~yno", min_size=1), inner))
)


@given(VALUES)
@example({"no": ["1e5", "0o7", 1e300, "01", "-.5", "."]})
def test_what_pyyaml_writes_is_read_as_it_was(values):
    # Quoted, as PyYAML leaves some texts as they are that are numbers in 1.2 alone, such as 1e5.
    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'"))
    assert parse_yaml(yaml.dump(values, Dumper=Dumper)) == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is in lines 1 and 3"),
        ("x:\n  a: 1\n  'a': 2", "the key 'a' is in lines 2 and 3"),
        ("- {1: x, '1': y}", "the key '1' is in line 1, twice"),
        ("a: &x {b: 1,\n b: 2}\nc: *x", "the key 'b' is in lines 1 and 2"),
    ],
)
def test_a_key_that_a_mapping_holds_twice_is_refused_with_both_lines(text, words):
    with pytest.raises(InvalidYaml, match=words):
        parse_yaml(text)


def test_a_key_of_its_own_goes_before_one_that_is_merged():
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}")["d"] == {"b": 3, "c": 2}


LEVELS = [f"l{level}: &l{level} %s" for level in range(1, 10)]


def bomb(first, inner):
    """Ten lines, each but the first nine times the one before it."""
    lines = [line % inner.replace("*", f"*l{number}") for number, line in enumerate(LEVELS)]
    return "\n".join([f"l0: &l0 {first}", *lines])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb("x", "[*, *, *, *, *, *, *, *, *]"), "more than 100,000 values"),
        (bomb("{a: 1}", "{<<: [*, *, *, *, *, *, *, *, *]}"), "more than 100,000 values"),
        ("a: &a [*a]", "nested too deeply"),
        ("&a {<<: *a}", "nested too deeply"),
        ("[" * 2000, "nested too deeply"),
        ("a" * 2**20 + "a", "characters"),
        ("a: !!timestamp 2001-99-99", "does not fit its type"),
        ("a: " + "1" * 5000, "does not fit its type"),
        ("a: !!int ''", "does not fit its type"),
        ("a: !!bool x", "does not fit its type"),
        ("a: !!timestamp x", "does not fit its type"),
        ('a: "b\\0"', "null character"),
        ('a: "\\ud800"', "surrogate"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [", "expected the node content"),
    ],
)
def test_all_else_is_refused_in_a_line(text, words):
    with pytest.raises(InvalidYaml, match=words) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
