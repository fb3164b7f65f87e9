"""Images for the tests of splits and copies, as rows instead of columns and in any order."""

import hashlib
from typing import NamedTuple

import numpy as np

from components.data.image_file import ImageFile
from components.data.image_list import ImageList
from components.features import SPLIT_CODES, SPLITS
from components.ingest import duplicates, split


class Member(NamedTuple):
    key: str
    text: str
    group: str
    sha256: str  # any text: it stands for the content
    split: str
    former: str


def to_columns(members):
    """Return the columns of members, sorted by key."""
    members = sorted(members)
    digests = np.array([hashlib.sha256(member.sha256.encode()).digest() for member in members], "S32")
    return duplicates.Members(
        files=ImageList.collect(
            ImageFile(member.key, member.key, member.text, "", member.group, member.split, 0, 0) for member in members
        ),
        digests=digests,
        contents=duplicates.number_contents(digests, np.ones(len(members), bool)),
        fixed=np.array([SPLIT_CODES.index(member.split) for member in members], np.int32),
        formers=np.array([SPLIT_CODES.index(member.former) for member in members], np.int32),
    )


def assign_splits(members, plan, open_splits=SPLITS):
    """Return the split of each key."""
    columns = to_columns(members)
    codes = split.assign_splits(columns, np.arange(len(members)), plan, open_splits)
    return {file.key: SPLIT_CODES[code] for file, code in zip(columns.files, codes, strict=True)}


def find_copies(members, policy):
    """Return the rows of the copies, sorted, with the texts that stand for the contents."""
    texts = {hashlib.sha256(member.sha256.encode()).hexdigest(): member.sha256 for member in members}
    copies = duplicates.find_copies(to_columns(members), np.arange(len(members)), policy)
    return sorted(copy._replace(sha256=texts[copy.sha256]) for copy in copies.values())


def count_components(members):
    """Return the number of components in which each class has an image."""
    columns = to_columns(members)
    words = columns.files.texts.words
    counts = dict.fromkeys(words, 0)
    for sizes in duplicates.link_members(columns, np.arange(len(members))).sizes:
        for text in sizes:
            counts[words[text]] += 1
    return counts
