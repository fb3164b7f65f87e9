"""Download files once into the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import UserError
from components.storage.files import PARTIAL, append_suffix, locked, write_json

TRIES = 5
FIRST_DELAY = 1.0  # seconds before the second try, doubled before each later one
TIMEOUTS = (10.0, 30.0)  # seconds to connect, seconds without a byte
CHUNK_BYTES = 2**16
VALIDATOR = PARTIAL + ".validator"  # suffix of the file with the ETag or date of a partial file


@dataclass(frozen=True)
class Remote:
    """A file on the network: its name in the cache, size in bytes and SHA-256 if published, a token for its server."""

    url: str
    file: str
    size: int | None
    sha256: str | None
    token: str | None = field(default=None, repr=False)


def cache_folder() -> Path:
    """Return the cache folder: TOPGRAFT_CACHE, else topgraft in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("TOPGRAFT_CACHE") or Path(home) / "topgraft")


def fetch(remote: Remote, report: Callable[[int, int | None], None]) -> Path:
    """Return the cached copy, downloaded on first use; report is called with bytes so far and total bytes, if known.

    Raises UserError if the file is not available, or has another size or SHA-256 than expected.
    """
    path = cache_folder() / "downloads" / remote.file
    try:
        with locked(path):
            if path.exists():
                _check(path, path, remote)
            else:
                _download(remote, path, report)
                _check(append_suffix(path, PARTIAL), path, remote)
                os.replace(append_suffix(path, PARTIAL), path)
    except OSError as error:
        raise UserError(
            f"Cannot write '{path}' ({error.strerror}): free space and check the permissions there, "
            "or set TOPGRAFT_CACHE to another folder."
        ) from error
    return path


def _check(file: Path, path: Path, remote: Remote) -> None:
    """Check the size and SHA-256 of a file that is or will be at `path`; if wrong, delete it and raise UserError.

    The SHA-256 is recorded with size and time of change, and computed again only if these differ.
    """
    record, recorded, status = append_suffix(path, ".sha256"), {}, file.stat()
    with suppress(FileNotFoundError, ValueError, TypeError):  # ** of a list, where it is damaged
        recorded = dict(**json.loads(record.read_bytes()))
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    expected = remote.sha256 or recorded.get("sha256")
    wrong = ""
    if remote.size not in (None, status.st_size):
        wrong = f"{status.st_size} bytes, expected {remote.size}"
    elif recorded != {"sha256": expected, **stamp}:
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if expected in (None, found):
            write_json(record, {"sha256": found, **stamp})
        else:
            wrong = f"SHA-256 {found}, expected {expected}"
            if remote.sha256 is None:
                wrong += f" as on first use (delete '{record}' if it was replaced on purpose)"
    if wrong:
        file.unlink()
        subject = f"'{path}'" if file == path else f"The answer of '{remote.url}'"
        raise UserError(
            f"{subject} has {wrong}, and was deleted: run again to download it from '{remote.url}', "
            f"or put the right file at '{path}' by hand."
        )


def _download(remote: Remote, path: Path, report: Callable[[int, int | None], None]) -> None:
    import requests
    import urllib3

    cause: BaseException
    for attempt in range(TRIES):
        try:
            _receive(remote, path, report)
            return append_suffix(path, VALIDATOR).unlink(missing_ok=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failure = cause = error
        if attempt < TRIES - 1:
            time.sleep(FIRST_DELAY * 2**attempt)
    while inner := cause.__cause__ or cause.__context__:  # the outer errors are about connection pools
        cause = inner
    raise UserError(
        f"Cannot fetch '{remote.url}' ({getattr(cause, 'strerror', None) or cause}, in {TRIES} tries): "
        f"check the network and run again, or put the file at '{path}' by hand."
    ) from failure


def _receive(remote: Remote, path: Path, report: Callable[[int, int | None], None]) -> None:
    """Download the rest of the partial file; raises UserError for a final error, else errors of requests or urllib3."""
    import requests

    partial, validator_file = append_suffix(path, PARTIAL), append_suffix(path, VALIDATOR)
    offset = partial.stat().st_size if partial.exists() else 0
    validator = validator_file.read_text("latin-1") if validator_file.exists() else ""
    if offset == remote.size:
        return
    # Without validator and SHA-256, parts of two versions could be joined unnoticed.
    if not (validator or remote.sha256):
        offset = 0
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {remote.token}"} if remote.token else {})}
    if offset:
        headers |= {"Range": f"bytes={offset}-", **({"If-Range": validator} if validator else {})}
    with requests.get(remote.url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        status, answer = response.status_code, response.headers
        if status == 200:
            offset = 0
        length = answer.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else remote.size
        # Some servers ignore If-Range, or send less than requested.
        whole_rest = answer.get("Content-Range") == f"bytes {offset}-{(total or 0) - 1}/{total}"
        resumes = whole_rest and _validator(answer) in ("", validator)
        if offset and (status == 416 or status == 206 and not resumes):
            partial.unlink()
            _receive(remote, path, report)
            return
        if 400 <= status < 500:
            raise UserError(
                f"'{remote.url}' answered with status {status} ({response.reason}) instead of the file: "
                f"check the address{', HF_TOKEN' if status in (401, 403) else ''}, or put the file at '{path}' by hand."
            )
        if status != (206 if offset else 200):
            raise requests.HTTPError(f"it answered with status {status}")
        done = offset
        with open(partial, "ab" if offset else "wb") as file:
            if not offset:
                validator_file.write_text(_validator(answer), "latin-1")
            report(done, total)
            # Not iter_content: some servers declare the gzip of a .tgz as its encoding, and it would be decoded.
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                done += len(chunk)
                report(done, total)
                if remote.size is not None and done > remote.size:
                    return  # _check refuses it; more would only fill the disk
    if total is not None and done < total:
        raise requests.ConnectionError(f"it sent {done} of {total} bytes")


def _validator(headers: Mapping[str, str]) -> str:
    """Return the ETag or date for If-Range, which excludes weak ETags, '' without any."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")
