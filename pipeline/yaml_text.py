"""Parse untrusted YAML into plain values of YAML 1.2, with limits on size, depth and aliases, and write such values."""

from __future__ import annotations

import re
from typing import Any

import yaml

# A config has about a hundred keys, and one more per class with a weight of its own.
MAX_CHARACTERS = 2**20
MAX_VALUES = 100_000
MAX_NESTING = 50

# YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution). PyYAML implements 1.1, where the class no
# is false, 1:30 is 90 and 2024-01-01 is a date.
PLAIN_VALUES = {
    "null": ("~|null|Null|NULL|", [*"~nN", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),  # of 1.1, for anchors
}
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the values of YAML 1.2; keys of mappings stay text, such as 1.0 or no."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag.startswith(TAG):
                    key.tag = f"{TAG}str"
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text[1:2] in ("o", "x") else int(text)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes text that is another value in YAML 1.1 or in 1.2."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # In other styles PyYAML writes some line breaks so that they are read as blanks.
        return self.represent_scalar(f"{TAG}str", text, None if text.isprintable() else '"')


for _name, (_pattern, _first) in PLAIN_VALUES.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"{TAG}{_name}", re.compile(f"(?:{_pattern})$"), list(_first))
_Dumper.add_representer(str, _Dumper.represent_text)
_Loader.add_constructor(f"{TAG}int", _Loader.construct_integer)


class InvalidYaml(Exception):
    """Invalid YAML, or YAML with other than plain values; the message is one line."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document; raises InvalidYaml, also for a repeated key of a mapping.

    Nested aliases can multiply: nine aliases on each of nine lines make a billion values.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidYaml(f"{len(text):,} characters, more than the {MAX_CHARACTERS:,} that a config may have")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise InvalidYaml("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise InvalidYaml(str(error).replace("\n", " ")) from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # PyYAML raises these for a wrong tag, such as !!timestamp x, and for a number of 5,000 digits.
        raise InvalidYaml(f"a value that does not fit its type: {str(error)[:100]}") from error


def dump_key(key: str, value: Any) -> str:
    """Return a key with its plain value as YAML, on one line, with lists and sections in brackets."""
    dumped: str = yaml.dump(
        {key: value}, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return dumped.strip()[1:-1]


def _check_nodes(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return the number of values in a node, with every alias expanded; raises InvalidYaml for too many."""
    if depth > MAX_NESTING:  # or a node contains itself
        raise InvalidYaml("it is nested too deeply")
    if isinstance(node, yaml.ScalarNode) and re.search("[\0\ud800-\udfff]", node.value):
        raise InvalidYaml("a null character or half a surrogate pair, which no path can contain")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = 0 if isinstance(node, yaml.ScalarNode) else sum(_check_nodes(part, known, depth + 1) for part in parts)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        known[id(node)] = 1 + inner
    if known[id(node)] > MAX_VALUES:
        raise InvalidYaml(f"more than {MAX_VALUES:,} values, counting those that aliases repeat")
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if key.value in lines:
                places = f"lines {lines[key.value]} and {line}" if lines[key.value] != line else f"line {line}, twice"
                raise InvalidYaml(f"the key '{key.value}' is in {places}: keep one of them")
            lines[key.value] = line
