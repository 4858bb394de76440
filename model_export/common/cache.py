"""The one folder where what was downloaded or made once is kept between runs."""

from __future__ import annotations

import os

from imagecensus.model_export.common.errors import UserError

CACHE_VARIABLE = "IMAGECENSUS_CACHE"


def cache_path(*below: str) -> str:
    """Where a folder of the cache lies, be it there or not.

    That is in `IMAGECENSUS_CACHE`, else in `XDG_CACHE_HOME`, else in `~/.cache/imagecensus`.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(home, "imagecensus")
    return os.path.join(folder, *below)


def cache_folder(*below: str) -> str:
    """A folder of the cache that can be written, made where it is missing.

    Raises:
      UserError: it cannot be written.
    """
    folder = cache_path(*below)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(folder, PermissionError(0, "Permission denied"))
    return folder


def unwritable(path: str, error: OSError) -> UserError:
    """The refusal where the cache cannot be written."""
    return UserError(
        f"{path}: the cache cannot be written ({error.strerror or error}); name a folder that can"
        f" with {CACHE_VARIABLE}=FOLDER"
    )
