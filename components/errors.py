"""The one error that a user is meant to see."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence with what was found, what was expected and what to do."""
