"""What a user can mend: errors that a program prints in one line, without a traceback."""

from collections.abc import Sequence
from typing import Any

from precompute.base.markup import one_line


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible combination.

    The message names the value or file, the valid ones and the remedy. `program.main` prints it and exits with 1.
    """


class UsageError(UserError):
    """A value on the command line that no run could accept; printed like `UserError`, but with exit status 2."""


class BadFile(UserError):
    """An image file that is missing, unreadable or not the one that was cached."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{one_line(path, 4096)}: {reason}")  # a file's name may hold line breaks
        self.path = path
        self.reason = reason


class BadValue(UserError, ValueError):
    """A setting whose value cannot be: its name, the value, what is valid, and what to do instead.

    Libraries raise it with the name of the argument or field. A program prints it with the name of its flag
    (`options.as_flag`), so no message has to be rewritten.
    """

    def __init__(self, name: str, value: Any, valid: str | Sequence[Any], remedy: str = "") -> None:
        """`valid`: the end of "must be ...", or the values there are to choose from."""
        self.name, self.value, self.remedy = name, value, remedy
        self.valid = valid if isinstance(valid, str) else "one of " + ", ".join(map(str, valid))
        super().__init__(self.described(f"{name}={value!r}"))

    def described(self, what: str) -> str:
        """The message about `what`, which says the setting and its value."""
        return f"{what}: must be {self.valid}" + (f". {self.remedy}" if self.remedy else "")
