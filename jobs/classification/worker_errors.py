"""What a worker raised, as the launcher should report it.

Every runner hands a worker's exception back as text with its traceback inside. A `UserError` among
them is raised again as what it is, so that a full disk on a worker ends in a sentence, too.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from imagecensus.model_export.common.errors import UserError

# The last line of a traceback: `package.module.SomeError: message [while running 'Stage']`.
_RAISED = re.compile(
    r"^(?:\w+\.)*(\w+): (.+?)(?: \[while running '[^']*'\])*\s*$", re.MULTILINE | re.DOTALL
)

# How Beam's own errors begin that are no defect of ours, and what to do.
_REMEDIES = {
    "Unable to fetch remote prism binary": "name one that is here with --prism_location=PATH",
}


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raises UserError in place of a runner's exception that carries the text of one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = user_error_in(str(error))
        if sentence is None:
            raise
        raise UserError(sentence) from error


def user_error_in(text: str) -> str | None:
    """The message of the last UserError whose traceback ends in `text`, if there is one.

    Or of an error of Beam for which there is a remedy.
    """
    for start, remedy in _REMEDIES.items():
        if text.startswith(start):
            return f"{text.splitlines()[0]}; {remedy}"
    names = {cls.__name__ for cls in _subclasses(UserError)}
    found = None
    for line in text.replace("\\n", "\n").splitlines():
        match = _RAISED.match(line)
        if match and match[1] in names:
            found = match[2]
    return found


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [cls, *(deeper for sub in cls.__subclasses__() for deeper in _subclasses(sub))]
