"""Lists that come through a pipe: standard input, and what a shell puts in a command's place.

A pipe can be read once, a list is read twice: it is kept in a temporary file as long as this
process lives.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import sys
import tempfile

STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def is_pipe(text: str) -> bool:
    """Whether an input is standard input, or a pipe."""
    if text in STDIN:
        return True
    try:
        return stat.S_ISFIFO(os.stat(text).st_mode)
    except (OSError, ValueError):
        return False


def spooled(text: str) -> str:
    """A location that can be read twice: the text itself, or where its pipe's content is kept."""
    return _spool(text).name if is_pipe(text) else text


@functools.cache
def _spool(text: str) -> tempfile._TemporaryFileWrapper[bytes]:
    file = tempfile.NamedTemporaryFile(prefix="imagecensus-list-")  # noqa: SIM115
    if text in STDIN:
        shutil.copyfileobj(sys.stdin.buffer, file)
    else:
        with open(text, "rb") as pipe:
            shutil.copyfileobj(pipe, file)
    file.flush()
    return file
