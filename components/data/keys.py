"""What a key tells: which root it is below, whether it is left out or litter, and which group it belongs to."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate

from components.errors import UserError

# What Windows, macOS, Linux and NAS systems put beside images, beyond names that begin with a dot: by the templates of
# github.com/github/gitignore (Windows, macOS, Linux) and the manuals of Synology (@eaDir, #recycle), QNAP (@Recycle,
# @Recently-Snapshot, .@__thumb) and netatalk (:2e). Zone.Identifier is a stream of NTFS, as WSL and archives name it.
LITTER = re.compile(
    r"thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|picasa\.ini|\$recycle\.bin|system volume information"
    r"|found\.\d{3}|.*[:\uf03a]zone\.identifier|~\$.*|__macosx|icon\r|network trash folder|temporary items|:2e.*"
    r"|lost\+found|@eadir|.*@syno(eastream|resource)|#recycle|#snapshot|@recycle|@recently-snapshot|@__thumb|__pycache__",
    re.IGNORECASE | re.DOTALL,
)

# retrain.py's convention: images whose names agree up to this word are variants of one.
VARIANT = "_nohash_"


def name_roots(roots: Sequence[str]) -> list[str]:
    """Return a name for each root: its base name, with more of its path where others have it too.

    Raises UserError for a root that is named twice, or none at all.
    """
    if not roots:
        raise UserError("The list of data.path is empty: name one folder or manifest, or more.")
    paths = [os.path.abspath(root).strip("/").split("/") for root in roots]
    lengths = [1] * len(roots)
    while True:
        names = ["/".join(path[-length:]) for path, length in zip(paths, lengths, strict=True)]
        clashes = _find_clashes(names)
        if not clashes:
            return names
        longer: set[int] = set()
        for first, second in clashes:
            extensible = [number for number in (first, second) if lengths[number] < len(paths[number])]
            if not extensible:
                raise UserError(
                    f"The roots {roots[first]!r} and {roots[second]!r} of data.path cannot be told apart by their "
                    f"paths: name each folder or manifest once."
                )
            longer.update(extensible if names[first] == names[second] else extensible[:1])
        for number in longer:
            lengths[number] += 1


def _find_clashes(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of names of which the first is the second, or a folder of it: one key could come from both."""
    order = sorted(range(len(names)), key=lambda number: f"{names[number]}/")
    return [
        (first, second)
        for first, second in itertools.pairwise(order)
        if f"{names[second]}/".startswith(f"{names[first]}/")
    ]


def find_patterns(key: str, patterns: Sequence[str]) -> list[str]:
    """Return the patterns, such as '*.gif' or 'drafts', that match a key or a folder above it; '*' matches '/' too.

    A pattern that is the name itself, such as 'birds [v2]', matches it.
    """
    parts = [*accumulate(key.split("/"), "{}/{}".format)] if patterns else []
    return [
        pattern
        for pattern in patterns
        for bare in [pattern.rstrip("/")]
        if bare in parts or any(fnmatchcase(part, bare) for part in parts)
    ]


def is_litter(name: str) -> bool:
    """Tell whether a file or folder is named as what systems and archives leave beside a person's own files."""
    return name.startswith(".") or LITTER.fullmatch(name) is not None


def group_finder(pattern: str | None) -> Callable[[str], str]:
    """Return what maps a key to its group, '' for none; raises UserError for an invalid pattern.

    A pattern is searched in the key: its group 1, or else the whole match, is the group. Without a pattern the group is
    what stands before '_nohash_' in the file's name, with its folders.
    """
    if pattern is None:
        return _find_variants
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"The group pattern {pattern!r} is not a regular expression ({error}): expected one that finds the group "
            f"in a path, such as '([^/]+)_[0-9]+'."
        ) from error

    def find_group(key: str) -> str:
        match = compiled.search(key)
        return (match[min(compiled.groups, 1)] or "") if match else ""

    return find_group


def _find_variants(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.partition(VARIANT)[0]}" if VARIANT in name else ""
