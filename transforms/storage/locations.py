"""What a location says: what kind of store it is in, and how it is split and joined."""

from __future__ import annotations

import os
import posixpath
import re
import urllib.parse

from imagecensus.transforms.storage.protocol import StorageError

WEB = ("http://", "https://")  # read only
GOOGLE = ("gs://",)
S3 = ("s3://", "s3a://")
UNORDERED = "--x-s3"  # how names of S3's directory buckets end
AZURE = ("az://", "azure://", "abfs://", "abfss://")
HUB = ("hf://datasets/",)  # read only
BUCKETS = GOOGLE + S3 + AZURE + HUB
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_bucket(location: str) -> bool:
    """Whether it is in an object store."""
    return location.startswith(BUCKETS)


def is_writable(location: str) -> bool:
    """Whether an output may be there: on disk, or in a store that is not only read."""
    if location.startswith(HUB):
        return False
    return is_bucket(location) or not is_address(location)


def is_web(location: str) -> bool:
    """Whether it is a web address, which is only read."""
    return location[:8].lower().startswith(WEB)


def scheme_of(location: str) -> str:
    """The scheme of a location's store, "https" for all of the web, "file" for this machine."""
    if is_web(location):
        return "https"
    return location.partition("://")[0] if is_bucket(location) else "file"


def is_remote(location: str) -> bool:
    """Whether it is somewhere else than on disk: each read is a request."""
    return is_bucket(location) or is_web(location)


def is_address(location: str) -> bool:
    """Whether it names a scheme, `x://`, and so is never a path of this machine."""
    return bool(_ADDRESS.match(location))


def lists_ranges(location: str) -> bool:
    """Whether it is in a store that lists ranges of names; S3's directory buckets have no order."""
    root = location.partition("://")[2].partition("/")[0]
    return location.startswith((*GOOGLE, *S3)) and not root.endswith(UNORDERED)


def split(location: str) -> tuple[str, str]:
    """('scheme://bucket/', 'name/of/object') of a location in an object store.

    Raises StorageError where it names no bucket.
    """
    scheme, _, rest = location.partition("://")
    bucket, _, name = rest.partition("/")
    if location.startswith(HUB):
        parts = rest.split("/", 3)
        if len(parts) < 3 or not (parts[1] and parts[2]):
            raise StorageError(f"{location}: names no dataset; write hf://datasets/OWNER/NAME")
        bucket, name = "/".join(parts[:3]), "".join(parts[3:])
    if not bucket:
        raise StorageError(f"{location}: names no bucket; write {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{bucket}/", name


def resolve(base: str, text: str) -> str:
    """A relative name in a list as the list's folder in a store sees it: `..` leads upwards."""
    if is_web(base):
        return urllib.parse.urljoin(base + "/", text)
    root, folder = split(base + "/")
    if {".", ".."}.isdisjoint(text.split("/")):  # else as it is: names may hold "//"
        return root + folder + text
    name = posixpath.normpath(folder + text)
    return root + (folder + text if name.startswith("../") else name)


def join(base: str, *names: str) -> str:
    return "/".join([base.rstrip("/"), *names]) if is_remote(base) else os.path.join(base, *names)
