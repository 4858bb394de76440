"""What a location says: which store it is in, and how it is split and joined."""

from __future__ import annotations

import functools
import os
import re

from imagecensus.transforms.storage.protocol import StorageError, Store

WEB = ("http://", "https://")  # read only
BUCKETS = ("gs://",)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_bucket(location: str) -> bool:
    """Whether it is in an object store."""
    return location.startswith(BUCKETS)


def is_address(location: str) -> bool:
    """Whether it names a scheme, `x://`, and so is never a path of this machine."""
    return bool(_ADDRESS.match(location))


def split(location: str) -> tuple[str, str]:
    """('scheme://bucket/', 'name/of/object') of a location in an object store.

    Raises StorageError where it names no bucket.
    """
    scheme, _, rest = location.partition("://")
    bucket, _, name = rest.partition("/")
    if not bucket:
        raise StorageError(f"{location}: names no bucket; write {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{bucket}/", name


def join(base: str, *names: str) -> str:
    return "/".join([base.rstrip("/"), *names]) if is_bucket(base) else os.path.join(base, *names)


def store_of(location: str) -> Store:
    """The store that a location is in."""
    return _store(location.partition("://")[0] if is_bucket(location) else "file")


@functools.cache
def _store(scheme: str) -> Store:
    if scheme == "gs":
        from imagecensus.transforms.storage.gcs import GoogleStore

        return GoogleStore()
    from imagecensus.transforms.storage.local import LocalStore

    return LocalStore()
