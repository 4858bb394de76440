"""Files, on disk or in a store, behind one set of functions: what the rest of the code calls.

A location is a local path, a `file://` uri (names that are not UTF-8), or a uri of a store, as
`locations` knows them. Every write is atomic: a reader sees the whole object or none.

A new kind of store is a class that keeps `Store`, named in `_store`. Its module is imported when a
location is in it: its client takes longer to import than most processes that read files to start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import cast

from imagecensus.model_export.common.atomic import TEMPORARY_PREFIX
from imagecensus.transforms.storage import local
from imagecensus.transforms.storage.local import LocalStore, path_of_uri, uri_of_path
from imagecensus.transforms.storage.locations import (
    BUCKETS,
    WEB,
    is_address,
    is_bucket,
    is_remote,
    is_web,
    join,
    resolve,
    scheme_of,
    split,
)
from imagecensus.transforms.storage.objects import ObjectStore
from imagecensus.transforms.storage.protocol import (
    ChangedError,
    ConflictError,
    RangedStore,
    StorageError,
    Store,
    Stored,
    as_sentence,
)

__all__ = [
    "WEB",
    "ConflictError",
    "StorageError",
    "Stored",
    "is_address",
    "is_bucket",
    "is_remote",
    "is_web",
    "join",
    "path_of_uri",
    "resolve",
    "split",
    "uri_of_path",
]

_READ_TRIES = 10


def store_of(location: str) -> Store:
    """The store that a location is in."""
    return _store(scheme_of(location))


def ranged_store_of(location: str) -> RangedStore:
    """The store of a location that `lists_ranges`."""
    return cast(RangedStore, store_of(location))


@functools.cache
def _store(scheme: str) -> Store:
    if scheme == "gs":
        from imagecensus.transforms.storage.gcs import GoogleStore

        return GoogleStore()
    if scheme == "hf":
        from imagecensus.transforms.storage.web.hub import HubStore

        return HubStore()
    if f"{scheme}://" in BUCKETS:
        return ObjectStore()
    if scheme == "https":
        from imagecensus.transforms.storage.web.store import WebStore

        return WebStore()
    return LocalStore()


def check(location: str) -> str:
    """Says in a few words how a location's store is reached.

    Raises StorageError at once where there are no credentials.
    """
    return store_of(location).check(location)


def read(location: str, version: str = "") -> bytes:
    """The whole object. Raises FileNotFoundError, PermissionError or OSError."""
    return store_of(location).read(location, version)


def read_versioned(location: str) -> tuple[bytes, str]:
    """The whole object and its version, for `write(..., if_match=version)`. Raises like `read`."""
    for _ in range(_READ_TRIES):
        found = store_of(location).stat(location).version if is_bucket(location) else ""
        version = found or local.version_of(location)
        with contextlib.suppress(FileNotFoundError, ChangedError):
            return read(location, version), version
    raise OSError(11, "it is written all the time", location)


def stat(location: str) -> Stored:
    """Size, version and time of an object. Raises like `read`."""
    return store_of(location).stat(location)


def write(location: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
    """Writes the object whole: temporary name, sync, rename; one finalised object in a bucket.

    Args:
      create_only: nothing may be there.
      if_match: what is there must be of this version, as `read_versioned` or `write` gave it.

    Returns:
      The version that was written.

    Raises:
      ConflictError: a condition does not hold; nothing was written.
      StorageError: it cannot be written.
    """
    return store_of(location).write(location, data, create_only=create_only, if_match=if_match)


@contextlib.contextmanager
def atomic_path(location: str) -> Iterator[str]:
    """A temporary local path that becomes the object when the block ends without an error.

    On disk it lies beside the target, so that the rename is atomic; to a bucket it is uploaded.

    Raises StorageError where the disk is full, the folder read-only or gone.
    """
    if not is_bucket(location):
        with local.atomic_file(location) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        path = os.path.join(folder, os.path.basename(location))
        yield path
        store_of(location).upload(location, path)


@contextlib.contextmanager
def local_copy(location: str) -> Iterator[str]:
    """A local path of the object while the block lasts: what is elsewhere is downloaded."""
    if not is_remote(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        path = os.path.join(folder, os.path.basename(urllib.parse.urlsplit(location).path))
        with open(path, "wb") as file:
            file.write(read(location))
        yield path


def copy(location: str, target: str) -> None:
    """Makes an object that never changes a second time in its store; on disk a link.

    Raises StorageError.
    """
    store_of(location).copy(location, target)


def exists(location: str) -> bool:
    """Raises StorageError where a store does not say."""
    if not is_remote(location):
        return os.path.exists(path_of_uri(location))
    with as_sentence(location, "looked up"):
        try:
            stat(location)
        except FileNotFoundError:
            return False
    return True


def delete(location: str) -> None:
    """Removes an object; it may be gone already."""
    store_of(location).delete(location)


def list_folder(folder: str) -> Iterator[Stored]:
    """The objects directly in a folder, as a stream, with their sizes and versions.

    Nothing where there is no such folder. Raises StorageError.
    """
    return store_of(folder).list_folder(folder)


def list_names(folder: str) -> list[str]:
    """Names of the objects directly in a folder, sorted; empty where there is none."""
    if is_bucket(folder):
        return sorted(found.uri.rpartition("/")[2] for found in list_folder(folder))
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def make_folders(*folders: str) -> None:
    """Makes local folders; a bucket has none. Raises StorageError."""
    for folder in folders:
        if is_bucket(folder):
            continue
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be made: {error.strerror}; choose another --output"
            ) from None


def remove_temporary(*folders: str) -> None:
    """Removes what an interrupted `atomic_path` left on disk. Call under the lock."""
    for folder in folders:
        if not is_bucket(folder):
            for name in list_names(folder):
                if name.startswith(TEMPORARY_PREFIX):
                    delete(os.path.join(folder, name))
