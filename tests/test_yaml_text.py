import pytest
import yaml

from pipeline.yaml_text import InvalidYaml, parse_yaml


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "a: &x [1, {b: 2.5}]\nc: *x", "a: {<<: {b: 1}, c: 2}", "- ~\n- yes\n- 2001-09-09", "!!set {a, b}"],
)
def test_plain_values_are_those_of_pyyaml(text):
    assert parse_yaml(text) == yaml.safe_load(text)


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
        ("a: 2001-99-99", "does not fit its type"),
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
