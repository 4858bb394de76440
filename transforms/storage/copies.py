"""Copies on this machine of what lies in a store."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

from imagecensus.model_export.common.atomic import atomic_folder
from imagecensus.model_export.common.cache import cache_folder
from imagecensus.transforms.storage.locations import is_bucket, is_web
from imagecensus.transforms.storage.protocol import StorageError, Stored, as_sentence
from imagecensus.transforms.storage.store import store_of

_AT_ONCE = 8


def local_folder(location: str) -> str:
    """A local path of a folder; one in a store is copied into the cache (`IMAGECENSUS_CACHE`).

    The copy's name is a digest of the objects' names and versions: what changed is fetched anew,
    and processes that fetch at the same time end with one copy.

    Raises StorageError: nothing there, or it cannot be read.
    """
    if is_web(location):
        raise StorageError(
            f"{location}: a folder cannot be read from the web; download it, or copy it to a store"
        )
    if not is_bucket(location):
        return location
    prefix = location.rstrip("/") + "/"
    objects = [found for found in store_of(prefix).list(prefix) if not found.uri.endswith("/")]
    if not objects:
        raise StorageError(f"{location}: no objects there; check the prefix")
    listed = json.dumps([location, sorted((found.uri, found.version) for found in objects)])
    name = hashlib.sha256(listed.encode()).hexdigest()[:16]
    target = os.path.join(cache_folder("bucket"), name)
    if not os.path.isdir(target):
        with atomic_folder(target, replace=False) as partial:
            paths = [_path_below(partial, found.uri, prefix) for found in objects]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(download, objects, paths))
    return target


def download(found: Stored, path: str) -> None:
    """Writes a listed object to a local path, its time with it. Raises StorageError."""
    with as_sentence(found.uri, "read"):
        data = store_of(found.uri).read(found.uri, found.version)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, (found.modified, found.modified))


def _path_below(folder: str, uri: str, prefix: str) -> str:
    path = os.path.normpath(os.path.join(folder, uri[len(prefix) :]))
    if not path.startswith(folder + os.sep):
        raise StorageError(f"{uri}: a name that leaves its folder; rename it")
    return path
