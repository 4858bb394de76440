"""The files of one input: a folder, a file, a glob, or a prefix of a bucket.

Stated rules for a folder: every regular file in it, at any depth, is listed in name order, but
for names that start with a dot, what systems and network disks keep, and folders
that this program wrote (`ignored_names`). Links to
files are listed under their own name; links to folders are followed, each folder once, so that
loops end. Sockets, pipes and devices are not listed. A folder that cannot be listed, or not to its
end, is listed itself: its row says why, and how many entries were seen before.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import stat
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.ignored_names import is_ignored, is_own
from imagecensus.model_export.common.redact import redact_address
from imagecensus.transforms.records import REF_SCHEMA
from imagecensus.transforms.storage import store

CHUNK = 8192
_GLOB_CHARACTERS = re.compile(r"[*?\[]")
File = tuple[str, int, str]  # uri, size, mtime in ns or generation


class Unlisted(str):
    """In place of a folder's time: it could not be listed. The text is the reference's `member`."""


class InputError(UserError):
    """An input cannot be listed. The message names it and the remedy."""


def list_files(text: str) -> Iterator[File]:
    """The files of an input, one after the other. Raises InputError."""
    if store.is_web(text):
        return list_address(text)
    return list_bucket(text) if store.is_bucket(text) else list_local(text)


def is_glob(text: str) -> bool:
    return not store.is_web(text) and bool(_GLOB_CHARACTERS.search(text))


def list_local(text: str) -> Iterator[File]:
    """References of a folder (recursive), a file, or a glob: (uri, size, mtime in ns)."""
    path = absolute(text)
    if os.path.lexists(path):
        paths = [path]
    elif is_glob(text):
        paths = sorted(glob.iglob(path, recursive=True))
        if not paths:
            raise InputError(f"{text}: nothing matches; quote the pattern and check it")
    else:
        raise InputError(f"{text}: no such file or folder")
    visited: set[tuple[int, int]] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, visited)
        else:
            reference = reference_of(path)
            if reference:
                yield reference


def absolute(text: str) -> bytes:
    """The path of a local input."""
    return os.fsencode(os.path.abspath(text))


def _walk(top: bytes, visited: set[tuple[int, int]]) -> Iterator[File]:
    """Depth first, in name order; no recursion, as folders nest deeper than Python's stack."""
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            info = os.stat(path)
        except OSError:
            yield (store.uri_of_path(path), -1, "")
            continue
        if not stat.S_ISDIR(info.st_mode):
            reference = reference_of(path)
            if reference:
                yield reference
            continue
        if (info.st_dev, info.st_ino) in visited:
            continue
        visited.add((info.st_dev, info.st_ino))
        if path != top and is_own(path):
            continue
        names, error = _entries(path)
        if error:
            yield (store.uri_of_path(path), -1, _unlisted(error, len(names)))
        # Files at once; folders go on the stack, last first, so that they come in name order.
        for name, is_folder in names:
            if not is_folder and not is_ignored(name):
                reference = reference_of(os.path.join(path, name))
                if reference:
                    yield reference
        pending.extend(
            os.path.join(path, name)
            for name, is_folder in reversed(names)
            if is_folder and not is_ignored(name)
        )


def _entries(path: bytes) -> tuple[list[tuple[bytes, bool]], OSError | None]:
    """The entries of a folder with whether each is one, in order; and why some are missing."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.append((entry.name, _is_folder(entry)))
    except OSError as error:
        return sorted(names), error
    return sorted(names), None


def _unlisted(error: OSError, seen: int) -> Unlisted:
    denied = isinstance(error, PermissionError)
    code = errno.errorcode.get(error.errno or 0, "")
    text = f"the folder could not be listed: {error.strerror} ({code}) after {seen:,} entries"
    return Unlisted(json.dumps(["failed", "permission_denied" if denied else "read_error", text]))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def reference_of(path: bytes) -> File | None:
    """A local file's reference; None: it is a pipe or a device."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):  # a broken link or a loop of links: its row will say so
        return (store.uri_of_path(path), -1, "")
    if not stat.S_ISREG(info.st_mode):
        return None
    return (store.uri_of_path(path), info.st_size, str(info.st_mtime_ns))


def list_address(text: str) -> Iterator[File]:
    """The reference of one web address. Raises InputError where it does not answer."""
    shown = redact_address(text)
    if shown != text:
        raise InputError(
            f"{shown}: its address holds a signature or key, which is not kept; give one without"
        )
    try:
        found = store.stat(text)
    except OSError as error:
        raise InputError(f"{text}: {error.strerror}; check the address") from None
    yield (text, found.size, found.version)


def list_bucket(text: str) -> Iterator[File]:
    """References of a prefix, object or glob in a store: (uri, size, version), as a stream."""
    root, pattern = store.split(text)
    magic = _GLOB_CHARACTERS.search(pattern)
    prefix = pattern[: magic.start()] if magic else pattern
    matches = re.compile(_translate(pattern)).fullmatch if magic else None
    found = 0
    if not magic and prefix and not prefix.endswith("/") and not _is_object(text):
        prefix += "/"  # a folder; not its neighbours whose names begin alike
    for uri, size, version, _ in store.store_of(text).list(root + prefix):
        name = uri[len(root) :]
        if matches:
            if not matches(name):
                continue
        elif not _under(name, prefix):
            continue
        base = name.rsplit("/", 1)[-1]
        if not base or is_ignored(base):
            continue
        found += 1
        yield (uri, size, version)
    if not found:
        raise InputError(f"{text}: no objects there; check the prefix")


def _is_object(uri: str) -> bool:
    """Whether it is an object's name. Without the right to look, the listing will tell."""
    try:
        return store.exists(uri)
    except store.StorageError:
        return False


def _under(name: str, prefix: str) -> bool:
    """Whether an object is the prefix itself or lies in the folder of that name."""
    return not prefix or prefix.endswith("/") or name == prefix or name.startswith(prefix + "/")


def _translate(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stop at slashes, `**` does not."""
    out = ""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    for part in parts:
        if part == "**/":
            out += "(?:.*/)?"
        elif part == "**":
            out += ".*"
        elif part == "*":
            out += "[^/]*"
        elif part == "?":
            out += "[^/]"
        elif part.startswith("[") and part.endswith("]"):
            out += "[" + part[1:-1].replace("!", "^", 1) + "]"
        else:
            out += re.escape(part)
    return out


def reference_batch(references: list[File]) -> pa.RecordBatch:
    """Files as a batch of `REF_SCHEMA`."""
    uris, sizes, etags = zip(*references, strict=True) if references else ((), (), ())
    failed = [isinstance(etag, Unlisted) for etag in etags]
    containers = [uri if bad else None for uri, bad in zip(uris, failed, strict=True)]
    members = [etag if bad else None for etag, bad in zip(etags, failed, strict=True)]
    known = ["" if bad else etag for etag, bad in zip(etags, failed, strict=True)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(uris, pa.string()),
            pa.array(sizes, pa.int64()),
            pa.array(known, pa.string()),
            pa.array(containers, pa.string()),
            pa.array(members, pa.string()),
        ],
        schema=REF_SCHEMA,
    )
