"""Files and folders that appear whole or not at all, whatever stops the program."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """The name for a new file beside `path`, which takes its place when the block ends.

    The folder is made. Where the block raises, nothing is left behind.
    """
    partial = _beside(path)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


@contextlib.contextmanager
def atomic_folder(path: str, *, replace: bool = True) -> Iterator[str]:
    """A new empty folder beside `path`, which takes its place when the block ends.

    What was at `path` is removed then, or kept with `replace` false: caches, where another process
    may have been faster. Where the block raises, it stays as it was.
    """
    partial = _beside(path)
    former = f"{partial}-former"
    os.mkdir(partial)
    try:
        yield partial
        if replace and os.path.lexists(path):
            os.rename(path, former)
        with contextlib.nullcontext() if replace else contextlib.suppress(OSError):
            os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _beside(path: str) -> str:
    """An unused name in the folder of `path`, which is made; no listing shows it."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f".partial-{uuid.uuid4().hex[:12]}")
