"""Objects of S3, of what speaks as S3 does, and of Azure Blob Storage, by obstore."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from imagecensus.model_export.common.redact import redact
from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.listing_ranges import Range
from imagecensus.transforms.storage.locations import split
from imagecensus.transforms.storage.object_clients import client
from imagecensus.transforms.storage.object_listing import first_name, list_objects, range_pages
from imagecensus.transforms.storage.protocol import ChangedError, Stored, as_sentence, conflict


class ObjectStore:
    """Objects in buckets and containers. A version is an ETag, without its quotes."""

    def check(self, location: str) -> str:
        _client_of(location)
        return "credentials found"

    def list(self, prefix: str) -> Iterator[Stored]:
        root, start = split(prefix)
        with as_sentence(prefix, "listed"), _plain_errors(prefix):
            for found in list_objects(_client_of(prefix), root, start):
                if not _is_marker(root, found):
                    yield _stored(root + found["path"], found)

    def first_name(self, root: str, stem: str, start: str) -> str | None:
        with as_sentence(root, "listed"), _plain_errors(root):
            return first_name(_client_of(root), stem, start)

    def list_range(self, root: str, names: Range) -> Iterator[Sequence[Stored]]:
        with as_sentence(root, "listed"), _plain_errors(root):
            for page in range_pages(_client_of(root), names):
                there = (found for found in page if not _is_marker(root, found))
                yield [_stored(root + found["path"], found) for found in there]

    def list_folder(self, folder: str) -> Iterator[Stored]:
        import obstore

        root, start = split(folder.rstrip("/") + "/")
        with as_sentence(folder, "listed"), _plain_errors(folder):
            found = obstore.list_with_delimiter(_client_of(folder), start or None)
            objects = sorted(found["objects"], key=lambda item: item["path"])
        for item in objects:
            if item["path"].startswith(start) and not _is_marker(root, item):
                yield _stored(root + item["path"], item)

    def stat(self, uri: str) -> Stored:
        import obstore

        with _plain_errors(uri):
            return _stored(uri, obstore.head(_client_of(uri), _name(uri)))

    def read(self, uri: str, version: str = "") -> bytes:
        import obstore

        with _plain_errors(uri):
            options: Any = {"if_match": _quoted(version)} if version else None
            return obstore.get(_client_of(uri), _name(uri), options=options).bytes().to_bytes()

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        import obstore

        options: Any = {"range": (offset, offset + length)}
        if version:
            options["if_match"] = _quoted(version)
        try:
            with _plain_errors(uri):
                got = obstore.get(_client_of(uri), _name(uri), options=options)
                return got.bytes().to_bytes()
        except _ReplacedError:
            self.stat(uri)  # Azure says the same of what is gone: this raises
            raise ChangedError(116, "the archive was replaced after it was listed", uri) from None
        except _PastEndError:
            return b""

    def write(self, uri: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
        import obstore

        mode: Any = "overwrite"
        if create_only or if_match:
            mode = "create" if create_only else {"e_tag": _quoted(if_match)}
        with as_sentence(uri, "written"):
            # The library repeats what is the same twice; a write on a condition we do, as its
            # caller knows that it may meet itself.
            until, pause = time.monotonic() + protocol.RETRY_SECONDS, protocol.RETRY_PAUSE[0]
            while True:
                try:
                    with _plain_errors(uri):
                        return _version(obstore.put(_client_of(uri), _name(uri), data, mode=mode))
                except _ReplacedError:
                    raise conflict(uri) from None
                except _PassingError:
                    if mode == "overwrite" or time.monotonic() > until:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, protocol.RETRY_PAUSE[1])

    def upload(self, uri: str, path: str) -> None:
        import obstore

        with as_sentence(uri, "written"), _plain_errors(uri), open(path, "rb") as file:
            obstore.put(_client_of(uri), _name(uri), file)

    def copy(self, uri: str, target: str) -> None:
        import obstore

        with as_sentence(uri, "copied"), _plain_errors(uri):
            obstore.copy(_client_of(uri), _name(uri), _name(target))

    def delete(self, uri: str) -> None:
        import obstore

        gone = contextlib.suppress(FileNotFoundError)
        with as_sentence(uri, "deleted"), gone, _plain_errors(uri):
            obstore.delete(_client_of(uri), _name(uri))


class _ReplacedError(FileNotFoundError):
    """What is there is of another version."""


class _PassingError(OSError):
    """The network failed, or the server for a passing reason."""


class _PastEndError(OSError):
    """A range begins where the object has ended."""


def _client_of(uri: str) -> Any:
    root, _ = split(uri)
    scheme, _, bucket = root.rstrip("/").partition("://")
    return client(scheme, bucket)


def _name(uri: str) -> str:
    return split(uri)[1]


def _stored(uri: str, found: Any) -> Stored:
    return Stored(uri, found["size"], _version(found), found["last_modified"].timestamp())


def _version(found: Any) -> str:
    tag = found["e_tag"] or ""
    return tag[1:-1] if tag.startswith('"') and tag.endswith('"') else tag


def _quoted(version: str) -> str:
    return version if version.startswith(("W/", '"')) else f'"{version}"'


def _is_marker(root: str, found: Any) -> bool:
    """Whether it is an empty object `folder/`, as consoles make them: its slash is not listed."""
    import obstore

    if found["size"]:
        return False
    try:
        obstore.head(_client_of(root), found["path"])
    except FileNotFoundError:
        return True
    return False


@contextlib.contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    """The library's errors as FileNotFoundError, PermissionError or OSError of the uri."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise _ReplacedError(2, "no such object, or it was replaced", uri) from None
    except exceptions.NotFoundError:
        raise FileNotFoundError(2, "no such object", uri) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionError(13, _sentence(error), uri) from None
    except exceptions.InvalidPathError as error:
        raise OSError(22, f"a name that is not read: {_sentence(error)}", uri) from None
    except exceptions.BaseError as error:
        raise _by_status(error, uri) from None
    except FileNotFoundError as error:
        if error.filename == uri:
            raise
        raise FileNotFoundError(2, "no such object", uri) from None
    except ValueError as error:  # of a name that the library cannot express
        raise OSError(22, f"a name that is not read: {_sentence(error)}", uri) from None


def _by_status(error: Exception, uri: str) -> OSError:
    text = str(error)
    status = re.search(r"status code: (\d+)", text)
    code = int(status[1]) if status else 0
    if code == 404:
        return FileNotFoundError(2, _sentence(error), uri)
    if code in (401, 403):
        return PermissionError(13, _sentence(error), uri)
    if code == 416 or "Wanted range starting at" in text:
        return _PastEndError(33, _sentence(error), uri)
    if code and code < 500 and code != 429:
        return OSError(5, _sentence(error), uri)
    return _PassingError(5, _sentence(error), uri)


def _sentence(error: Exception) -> str:
    """The first line of an error, in short: what the server says, where it says something."""
    text = str(error).partition("\n\nDebug source")[0]
    status = re.search(r"status code: (\d+ [\w ]+)", text)
    message = re.search(r"<Message>(.*?)</Message>", text, re.S)
    if status:
        text = f"{status[1].strip()}{': ' + message[1] if message else ''}"
    if "redirect without LOCATION" in text:
        text = "the bucket is in another region: set AWS_REGION to it"
    return redact(" ".join(text.split()))[:300]
