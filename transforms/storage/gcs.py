"""Objects of Google Cloud Storage: `gs://bucket/name`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.gcs_client import (
    SCHEME,
    bucket_client,
    bucket_object,
    plain_errors,
    replaced,
    retry,
    split_bucket,
    storage_errors,
)
from imagecensus.transforms.storage.gcs_listing import (
    first_name,
    list_objects,
    list_pages,
    range_pages,
)
from imagecensus.transforms.storage.gcs_reading import CorruptError, read_object, read_object_range
from imagecensus.transforms.storage.listing_ranges import Range
from imagecensus.transforms.storage.protocol import TIMEOUT, Stored, conflict


class GoogleStore:
    """Objects of Google Cloud Storage. A version is a generation."""

    def check(self, location: str) -> str:
        bucket_client()
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        return f"emulator at {emulator}" if emulator else "credentials found"

    def list(self, prefix: str) -> Iterator[Stored]:
        bucket, name = split_bucket(prefix)
        for blob in list_objects(bucket, name):
            yield _stored(f"{SCHEME}{bucket}/{blob.name}", blob)

    def first_name(self, root: str, stem: str, start: str) -> str | None:
        return first_name(split_bucket(root)[0], stem, start)

    def list_range(self, root: str, names: Range) -> Iterator[Sequence[Stored]]:
        for page in range_pages(split_bucket(root)[0], names):
            yield [_stored(f"{root}{blob.name}", blob) for blob in page]

    def list_folder(self, folder: str) -> Iterator[Stored]:
        bucket, name = split_bucket(folder.rstrip("/") + "/")
        for page, _ in list_pages(bucket, name, "/"):
            for blob in page:
                yield _stored(f"{SCHEME}{bucket}/{blob.name}", blob)

    def stat(self, uri: str) -> Stored:
        with plain_errors(uri):
            blob = bucket_object(uri)
            blob.reload(retry=retry(), timeout=TIMEOUT)
            return _stored(uri, blob)

    def read(self, uri: str, version: str = "") -> bytes:
        """The whole object, of that generation, as its checksum says."""
        with plain_errors(uri):
            for _ in range(protocol.CORRUPT_TRIES):
                with contextlib.suppress(CorruptError):
                    return read_object(uri, version)
            raise OSError(5, "other bytes come than its checksum says", uri)

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        from google.api_core import exceptions

        with plain_errors(uri):
            try:
                return read_object_range(uri, offset, length, version)
            except exceptions.RequestRangeNotSatisfiable:
                return b""
            except exceptions.PreconditionFailed:
                raise replaced(uri) from None

    def write(self, uri: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
        from google.api_core import exceptions

        generation = 0 if create_only else int(if_match) if if_match else None
        blob = bucket_object(uri)
        with storage_errors(uri, "written"):
            try:
                blob.upload_from_string(
                    data,
                    "application/octet-stream",
                    if_generation_match=generation,
                    checksum="crc32c",
                    retry=retry(),
                    timeout=TIMEOUT,
                )
            except exceptions.PreconditionFailed:
                raise conflict(uri) from None
        return str(blob.generation)

    def upload(self, uri: str, path: str) -> None:
        with storage_errors(uri, "written"):
            bucket_object(uri).upload_from_filename(
                path, checksum="crc32c", retry=retry(), timeout=TIMEOUT
            )

    def copy(self, uri: str, target: str) -> None:
        source, made = bucket_object(uri), bucket_object(target)
        with storage_errors(uri, "copied"), plain_errors(uri):
            token = None
            while True:  # where the classes or places of two buckets differ it takes several
                token, _, _ = made.rewrite(source, token, retry=retry(), timeout=TIMEOUT)
                if token is None:
                    return

    def delete(self, uri: str) -> None:
        with (
            storage_errors(uri, "deleted"),
            contextlib.suppress(FileNotFoundError),
            plain_errors(uri),
        ):
            bucket_object(uri).delete(retry=retry(), timeout=TIMEOUT)


def _stored(uri: str, blob: Any) -> Stored:
    modified = blob.updated.timestamp() if blob.updated else 0.0
    # 66 bits of the MD5, or all of the CRC32C of what was put together of parts.
    checksum = (blob.md5_hash or blob.crc32c or "")[:11]
    return Stored(uri, blob.size, str(blob.generation), modified, checksum)
