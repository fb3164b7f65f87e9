"""The errors that a user sees."""


class UserError(Exception):
    """A mistake that the user can correct: one sentence with the finding, the expectation and the next step."""


class DamagedFile(UserError):
    """A file whose content has changed since a stage wrote it; the stage writes a removed file again."""

    def __init__(self, path: str):
        super().__init__(f"The file '{path}' is damaged: remove it and run again, and the run computes it again.")
        self.path = path


class DamagedShard(DamagedFile):
    """A shard file whose checksums do not match."""
