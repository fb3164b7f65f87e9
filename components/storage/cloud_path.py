"""A path in Google Cloud Storage whose questions raise the errors of the storage."""

from __future__ import annotations

from upath.implementations.cloud import GCSPath


class CloudPath(GCSPath):
    """A gs:// path; for the class above a refused request would mean 'no folder' and 'no file'."""

    def is_dir(self) -> bool:
        """Return True for a folder."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Return True for an object."""
        return self._kind() == "file"

    def _kind(self) -> str:
        try:
            return str(self.fs.info(self.path)["type"])
        except FileNotFoundError:
            return ""
