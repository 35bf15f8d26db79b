"""What a user can mend: every error of this project that a program prints without a traceback."""


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible combination.

    The message names the value or file, the valid ones and the remedy; `main` prints it without a traceback, exit 1.
    """


class UsageError(UserError):
    """A value on the command line that no run could accept; printed like `UserError`, but with exit status 2."""


class BadFile(UserError):
    """An image file that is missing, unreadable or not the one that was cached."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
