"""The one error type that reaches the user as a sentence instead of a traceback."""

import errno

# Why a disk takes nothing more. Libraries name the reason in errors of their own.
TAKES_NOTHING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class UserError(Exception):
    """Something the user can fix. The message says what, which file, and what to do."""

    exit_code = 2


class BackboneError(UserError):
    """A backbone cannot be built as asked. The message names the flag or file to change."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
