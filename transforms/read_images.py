"""The bytes of one image, or the typed reason why there are none."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from imagecensus.model_export.decoding.errors import too_many_bytes
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import MAX_BYTES, ImageRef
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web.iiif import unsized

if TYPE_CHECKING:
    from imagecensus.transforms.archives.reading import Place


def read_image(ref: ImageRef, max_bytes: int = MAX_BYTES, place: Place | None = None) -> bytes:
    """The whole file or object, or one member of a packed archive.

    Args:
      ref: the image; that very version of an object is read.
      max_bytes: a larger file is refused unread.
      place: for members without random access; see `archives.reading`.

    Raises:
      ImageError: not_found, permission_denied, too_large or read_error; for members, others too.
    """
    try:
        uri = ref.uri
        if ref.container is not None:
            # Without Arrow, decoder processes start in half the time.
            from imagecensus.transforms.archives.reading import Place, read_member

            if place:
                return read_member(ref, max_bytes, place)
            with Place() as place:
                return read_member(ref, max_bytes, place)
        if store.is_web(uri):
            return _read_address(uri, ref.etag, max_bytes)
        if store.is_address(uri) and not uri.startswith("file://") and not store.is_bucket(uri):
            scheme = uri.partition("://")[0]
            raise ImageError(
                "read_error", f"{scheme}:// is not read here; copy the image to a folder or bucket"
            )
        if ref.size > max_bytes:
            raise too_many_bytes(ref.size, max_bytes)
        if store.is_bucket(uri):
            return _read_object(ref, max_bytes)
        return _read_file(store.path_of_uri(uri), max_bytes)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("not_found", "there is no such file") from None
    except PermissionError as error:
        raise ImageError("permission_denied", error.strerror or str(error)) from None
    except store.StorageError as error:  # a sentence with its remedy
        raise ImageError("read_error", str(error)) from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError("read_error", f"{type(error).__name__}: {reason}") from None


def _read_file(path: bytes, max_bytes: int) -> bytes:
    # Not blocking: a pipe put in an image's place must not hang the job.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        if stat.S_ISDIR(info.st_mode):
            raise ImageError("not_an_image", "a folder")
        if not stat.S_ISREG(info.st_mode):
            raise ImageError("not_an_image", "not a regular file")
        if info.st_size > max_bytes:
            raise too_many_bytes(info.st_size, max_bytes)
        with open(handle, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(handle)


def _read_object(ref: ImageRef, max_bytes: int) -> bytes:
    if ref.size < 0:  # of a manifest: nobody has looked yet
        size = store.stat(ref.uri).size
        if size > max_bytes:
            raise too_many_bytes(size, max_bytes)
    return store.read(ref.uri, ref.etag)


def _read_address(uri: str, etag: str, max_bytes: int) -> bytes:
    from imagecensus.transforms.storage.web.fetch import PageError, TooLargeError
    from imagecensus.transforms.storage.web.store import WebStore

    try:
        while True:
            try:
                return WebStore().read(uri, etag, max_bytes)
            except OSError as error:
                whole = unsized(uri)  # a IIIF server may not make the size that is asked for
                if not whole or error.errno not in (errno.ENOENT, errno.EPROTO):
                    raise
                uri = whole
    except PageError as error:
        raise ImageError("not_an_image", str(error.strerror)) from None
    except TooLargeError as error:
        raise ImageError(
            "too_large", f"{error.strerror}, limit {max_bytes:,} (raise it with --max-bytes)"
        ) from None
    except FileNotFoundError as error:
        raise ImageError("not_found", str(error.strerror)) from None
