"""YAML from anywhere: plain values, and no more of them than its own text could hold without tricks."""

from __future__ import annotations

import re
from typing import Any

import yaml

# A config of Topgraft has a hundred keys, and one more for each class that has its own weight.
MAX_CHARACTERS = 2**20
MAX_VALUES = 100_000
MAX_DEPTH = 50


class InvalidYaml(Exception):
    """Text that is not YAML, or not of plain values; says where and why, on one line."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document; raises InvalidYaml.

    An alias stands for all that it names: nine in each of nine lines make a billion values, which the first message
    that shows them would write out.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidYaml(f"{len(text):,} characters, more than the {MAX_CHARACTERS:,} of any config")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise InvalidYaml("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise InvalidYaml(str(error).replace("\n", " ")) from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # PyYAML's own of a day such as 2001-99-99, of a tag that does not fit, of a number of 5,000 digits.
        raise InvalidYaml(f"a value that does not fit its type: {str(error)[:100]}") from error


def _count_values(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node stands for, every alias counted in full; raises InvalidYaml for too many."""
    if depth > MAX_DEPTH:  # also of one that is part of itself
        raise InvalidYaml("it is nested too deeply")
    if isinstance(node, yaml.ScalarNode) and re.search("[\0\ud800-\udfff]", node.value):
        raise InvalidYaml("a null character or half a surrogate pair, which can be part of no path")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = 0 if isinstance(node, yaml.ScalarNode) else sum(_count_values(part, known, depth + 1) for part in parts)
        known[id(node)] = 1 + inner
    if known[id(node)] > MAX_VALUES:
        raise InvalidYaml(f"more than {MAX_VALUES:,} values, those counted that aliases repeat")
    return known[id(node)]
