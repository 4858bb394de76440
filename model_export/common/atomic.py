"""Files and folders that appear whole or not at all, whatever stops the program."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator

from imagecensus.model_export.common import fault_injection

TEMPORARY_PREFIX = ".tmp-"  # no listing shows such names


@contextlib.contextmanager
def atomic_path(
    path: str, put: Callable[[str, str], None] = os.replace, point: str = ""
) -> Iterator[str]:
    """The name for a new file beside `path`, which takes its place when the block ends.

    Where the block raises, nothing is left behind. What is written is on the disk when it is seen.

    Args:
      path: the file; its folder is there.
      put: gives the first path the name of the second; by default whatever has that name is
        replaced.
      point: where tests stop it: at "POINT.partial" (written), "POINT.synced", "POINT.renamed".
    """
    partial = _beside(path)
    open(partial, "xb").close()  # what forbids it is said before anything is computed
    try:
        yield partial
        fault_injection.reached(f"{point}.partial")
        _sync(partial)
        fault_injection.reached(f"{point}.synced")
        put(partial, path)
        _sync(os.path.dirname(partial))  # the new name itself
        fault_injection.reached(f"{point}.renamed")
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


@contextlib.contextmanager
def atomic_folder(path: str, *, replace: bool = True) -> Iterator[str]:
    """A new empty folder beside `path`, which takes its place when the block ends.

    The folder around it is made.

    What was at `path` is removed then, or kept with `replace` false: caches, where another process
    may have been faster. Where the block raises, it stays as it was.
    """
    partial = _beside(path)
    os.makedirs(os.path.dirname(partial), exist_ok=True)
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
    """An unused name in the folder of `path`."""
    folder = os.path.dirname(os.path.abspath(path))
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}")


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
