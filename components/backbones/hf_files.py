"""Folders of published weights at hf://owner/name or hf://owner/name@revision, through the cache of downloads."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from components.errors import UserError
from components.storage.downloads import Remote, cache_folder, fetch
from components.storage.places import as_path
from components.terminal.progress import Progress

SCHEME = "hf://"
ADDRESS = re.compile(SCHEME + r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?")
FILES = re.compile(r"(preprocessor_)?config\.json|README\.md|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def locate(place: str) -> Path:
    """Return the folder of a place, for hf:// the one in the cache; raises UserError for a bad address."""
    if not place.startswith(SCHEME):
        return as_path(place)
    found = ADDRESS.fullmatch(place)
    if not found:
        raise UserError(f"The address '{place}' is not a model: expected hf://owner/name or hf://owner/name@revision.")
    return cache_folder() / "downloads" / "hf" / found[1] / (found[2] or "main")


def fetch_folder(place: str, progress: Progress) -> tuple[Path, str]:
    """Return the folder of a place, downloaded on first use, and the place with the revision of the first use.

    HF_ENDPOINT is the address of the hub, HF_TOKEN the token for gated models. Raises UserError.
    """
    folder, found = locate(place), ADDRESS.fullmatch(place)
    if not found:
        return folder, place
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    def get(path: str, file: str, size: int | None = None, sha256: str | None = None) -> Path:
        cached = (folder / file).relative_to(cache_folder() / "downloads").as_posix()
        remote = Remote(f"{endpoint}/{path}", cached, size, sha256, os.environ.get("HF_TOKEN"))
        return fetch(remote, progress.report_bytes)

    answer = get(f"api/models/{found[1]}/revision/{folder.name}?blobs=true", "revision.json")
    try:
        values = json.loads(answer.read_bytes())
        (commit,) = re.findall("^[0-9a-f]{40}$", values["sha"])
        files = {
            entry["rfilename"]: (entry["size"], (entry.get("lfs") or {}).get("sha256")) for entry in values["siblings"]
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{answer}' does not list the files of '{place}': delete '{folder}' and run again.") from error
    for file, (size, sha256) in files.items():
        if FILES.fullmatch(file):
            get(f"{found[1]}/resolve/{commit}/{file}", file, size, sha256)
    return folder, f"{SCHEME}{found[1]}@{commit}"
