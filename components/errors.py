"""The errors that a user is meant to see."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence with what was found, what was expected and what to do."""


class DamagedFile(UserError):
    """A file that is not as it was written; removed, it is computed again by the stage that wrote it."""

    def __init__(self, path: str):
        super().__init__(f"The file '{path}' is damaged: remove it and run again, which computes it anew.")
        self.path = path


class DamagedShard(DamagedFile):
    """A shard file whose checksums do not match."""
