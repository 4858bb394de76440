"""What every store can do, and the errors that all of them raise.

A location is a local path, a `file://` uri (names that are not UTF-8), or a uri of a store. Reads
raise what files raise: FileNotFoundError (nothing there, or another version), PermissionError,
OSError. Writes raise StorageError, a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.storage.listing_ranges import Range

RETRY_SECONDS = 120.0  # a request that fails for a passing reason is repeated for so long
RETRY_PAUSE = (0.2, 20.0)  # seconds: the first, the longest
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without one byte of an answer
POOL_CONNECTIONS = 64  # at least as many as threads that read
# A whole object that differs from its checksum is asked for so often.
CORRUPT_TRIES = 3

_REMEDIES = {
    2: "check the name of the bucket",
    13: "ask for the permission",
    95: "choose another --output",
}


class StorageError(UserError):
    """A location cannot be read or written. The message names it and the remedy."""


class ConflictError(StorageError):
    """Somebody else wrote first: the object is there already, or is of another version.

    A request that was repeated because its answer was lost may meet what it wrote itself: where
    that matters, write bytes that name the writer, and compare.
    """


class ChangedError(OSError):
    """The file or object is not the one that was listed."""


class Stored(NamedTuple):
    """A file or object as a store describes it."""

    uri: str
    size: int
    version: str  # generation, ETag, or mtime in nanoseconds; what `read` takes as `version`
    modified: float  # seconds since 1970 by the store's clock
    checksum: str = ""  # of the bytes, where a listing gives one


class Store(Protocol):
    """One kind of place for bytes. Every method takes whole uris and may be called by any thread.

    Every write is whole or not at all: a reader sees the old bytes or the new ones.
    """

    def check(self, location: str) -> str:
        """Says in a few words how the store is reached. Raises StorageError: no credentials."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Every object whose uri begins with the prefix, as a stream. Raises StorageError."""

    def list_folder(self, folder: str) -> Iterator[Stored]:
        """The objects directly in a folder; none where there is none. Raises StorageError."""

    def stat(self, uri: str) -> Stored:
        """What is there now. Raises like `read`."""

    def read(self, uri: str, version: str = "") -> bytes:
        """The whole object, of that version where one is given.

        Raises FileNotFoundError, PermissionError or OSError.
        """

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end. Raises like `read`."""

    def write(self, uri: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
        """Writes the object whole and returns its version.

        Args:
          create_only: nothing may be there.
          if_match: what is there must be of this version.

        Raises:
          ConflictError: a condition does not hold; nothing was written.
          StorageError: it cannot be written.
        """

    def upload(self, uri: str, path: str) -> None:
        """Writes the object from a local file. Raises StorageError."""

    def copy(self, uri: str, target: str) -> None:
        """Makes an object a second time in its own store, without its bytes coming here.

        On disk it is a link, so it is for what is never changed. Raises StorageError.
        """

    def delete(self, uri: str) -> None:
        """Removes an object; it may be gone already. Raises StorageError."""


class RangedStore(Store, Protocol):
    """A store that lists in the order of names, and begins at a given name."""

    def first_name(self, root: str, stem: str, start: str) -> str | None:
        """The first name, at or after `start`, of those that begin with `stem`; None: none."""

    def list_range(self, root: str, names: Range) -> Iterator[Sequence[Stored]]:
        """The objects of a range of names, page by page, in order. Raises StorageError.

        `root`: `scheme://bucket/`.
        """


@contextlib.contextmanager
def as_sentence(uri: str, what: str) -> Iterator[None]:
    """An OSError of the uri as a StorageError that says what could not be done."""
    try:
        yield
    except OSError as error:
        if error.filename != uri:
            raise
        remedy = _REMEDIES.get(error.errno or 0, "check the network and run the same command again")
        raise StorageError(f"{uri}: cannot be {what}: {error.strerror}; {remedy}") from None


def conflict(uri: str) -> ConflictError:
    return ConflictError(f"{uri}: another run wrote there first; run the same command again")
