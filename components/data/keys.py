"""The keys of images: names of roots, patterns that leave keys out, files of the system, and groups."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise

from components.errors import UserError

# Files that Windows, macOS, Linux and NAS systems write beside images, beyond names that begin with a dot. Sources:
# templates of github.com/github/gitignore (Windows, macOS, Linux), manuals of Synology (@eaDir, #recycle), QNAP
# (@Recycle, @Recently-Snapshot, .@__thumb) and netatalk (:2e). WSL and archives name a stream of NTFS Zone.Identifier.
SYSTEM_FILES = re.compile(
    r"thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|picasa\.ini|\$recycle\.bin|system volume information"
    r"|found\.\d{3}|.*[:\uf03a]zone\.identifier|~\$.*|__macosx|icon\r|network trash folder|temporary items|:2e.*"
    r"|lost\+found|@eadir|.*@syno(eastream|resource)|#recycle|#snapshot|@recycle|@recently-snapshot|@__thumb|__pycache__",
    re.IGNORECASE | re.DOTALL,
)

# The convention of retrain.py: images are variants of one if their keys are equal up to '_nohash_' in the file name.
VARIANTS = r"(?s)\A((?:.*/)?[^/]*?)_nohash_[^/]*\Z"


def name_roots(roots: Sequence[str]) -> list[str]:
    """Return a unique name per root: its base name, or more of its path if another root has that name too.

    Raises UserError for overlapping roots and for an empty list.
    """
    if not roots:
        raise UserError("The list of data.path is empty: name one folder or manifest, or more.")
    paths = [os.path.abspath(root).strip("/").split("/") for root in roots]
    lengths = [1] * len(roots)
    while True:
        names = ["/".join(path[-length:]) for path, length in zip(paths, lengths, strict=True)]
        # Two names clash if they are equal, or if one is a folder of the other: both could have the same key.
        order = sorted(range(len(names)), key=lambda number: f"{names[number]}/")
        clashes = [(a, b) for a, b in pairwise(order) if f"{names[b]}/".startswith(f"{names[a]}/")]
        if not clashes:
            return names
        longer: set[int] = set()
        for first, second in clashes:
            extensible = [number for number in (first, second) if lengths[number] < len(paths[number])]
            if not extensible:
                raise UserError(
                    f"The roots {roots[first]!r} and {roots[second]!r} of data.path overlap: name each folder or "
                    f"manifest once."
                )
            longer.update(extensible if names[first] == names[second] else extensible[:1])
        for number in longer:
            lengths[number] += 1


def find_patterns(key: str, patterns: Sequence[str]) -> list[str]:
    """Return the patterns, such as '*.gif' or 'drafts', that match a key or a folder above it.

    '*' matches '/' too. A pattern that equals the name, such as 'birds [v2]', matches it.
    """
    parts = [*accumulate(key.split("/"), "{}/{}".format)] if patterns else []
    return [
        pattern
        for pattern in patterns
        for bare in [pattern.rstrip("/")]
        if bare in parts or any(fnmatchcase(part, bare) for part in parts)
    ]


def is_system_file(name: str) -> bool:
    """Return whether a name is that of a file or folder that systems and archives write beside a person's own files."""
    return name.startswith(".") or SYSTEM_FILES.fullmatch(name) is not None


def group_finder(pattern: str | None) -> Callable[[str], str]:
    """Return a function from a key to its group, '' for none; raises UserError for an invalid pattern.

    The group is the first group of the pattern in the key, or the whole match. The default pattern is VARIANTS.
    """
    try:
        compiled = re.compile(VARIANTS if pattern is None else pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"The group pattern {pattern!r} is not a regular expression ({error}): expected one that finds the group "
            f"in a path, such as '([^/]+)_[0-9]+'."
        ) from error

    def find_group(key: str) -> str:
        match = compiled.search(key)
        return (match[min(compiled.groups, 1)] or "") if match else ""

    return find_group
