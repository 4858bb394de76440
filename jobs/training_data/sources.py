"""Training data wherever the batch job reads images: disks, buckets, and packed archives.

A manifest of a training may so be what `imagecensus browse` exported, or be made from any output
table: its uris are those of the table.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.training.labelled_data import (
    LabelledData,
    SplitFractions,
    read_labelled_data,
)
from imagecensus.transforms.archives import listing
from imagecensus.transforms.archives.reading import Place, is_sequential
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import store

Read = Callable[[], bytes]


def read_training_data(source: str, fractions: SplitFractions, *columns: str) -> LabelledData:
    """Like `read_labelled_data`, for manifests and images in buckets and archives too.

    Args:
      source: a folder, a manifest (local or in a store), or `tfds:NAME`.
      fractions: of the splits cut where the source has none.
      columns: of a manifest: label, path, split.

    Raises:
      UserError: what keeps the data from being trained on.
    """
    if not store.is_remote(source):
        return read_labelled_data(source, fractions, *columns, locate=locate_images)
    if not source.lower().endswith((".csv", ".jsonl", ".ndjson", ".parquet")):
        raise UserError(
            f"{source}: class folders in a bucket are not read; copy them to a disk, or list the"
            " images in a manifest (.csv, .jsonl, .parquet) with a column of labels"
        )
    base = source.rpartition("/")[0]
    try:
        with store.local_copy(source) as path:
            data = read_labelled_data(path, fractions, *columns, locate=locate_images, base=base)
    except FileNotFoundError:
        raise UserError(f"{source}: no such manifest") from None
    return dataclasses.replace(data, source=source)


def locate_images(locations: list[str], base: str) -> list[tuple[str, Read]]:
    """The uri of each image, as the batch job writes it, and a function that reads it.

    That function raises ImageError, with the status that the batch job's row would have.
    """
    uris = [_uri(location, base) for location in locations]
    packed: dict[str, set[str]] = {}
    for uri in uris:
        archive = _archive_of(uri)
        if archive:
            packed.setdefault(archive, set()).add(uri)
    members: dict[str, Read] = {}
    for archive, wanted in packed.items():
        members |= _members(archive, wanted)
    return [(uri, members.get(uri) or functools.partial(read_image, uri)) for uri in uris]


def _uri(location: str, base: str) -> str:
    if store.is_remote(location):
        return location
    if location.startswith("file://"):
        return store.uri_of_path(store.path_of_uri(location))
    if store.is_remote(base) and not location.startswith("/"):
        return store.resolve(base, location)
    return store.uri_of_path(os.fsencode(os.path.abspath(os.path.join(base, location))))


def _archive_of(uri: str) -> str | None:
    """The archive of a member's uri, ARCHIVE#NAME; None for a file of its own."""
    if "#" not in uri or (not store.is_remote(uri) and store.exists(uri)):
        return None
    for end in (index for index, letter in enumerate(uri) if letter == "#"):
        if listing.is_archive_name(uri[:end]) and store.exists(uri[:end]):
            return uri[:end]
    return None


def _members(archive: str, wanted: set[str]) -> dict[str, Read]:
    """Readers of an archive's members.

    Kinds that can only be read front to back are read here, once, and kept in temporary files:
    the training takes its images in another order.
    """
    found: dict[str, Read] = {}
    place, folder = Place(), None
    path = archive if store.is_remote(archive) else os.fsdecode(store.path_of_uri(archive))
    for batch in list_images((path,)):
        for row in batch.to_pylist():
            if row["uri"] not in wanted:
                continue
            read = functools.partial(
                read_image, row["uri"], row["size"], row["etag_or_mtime"],
                container=row["container"], member=row["member"], place=place,
            )  # fmt: skip
            if is_sequential(row["member"]):
                folder = folder or tempfile.TemporaryDirectory(prefix="imagecensus-")
                read = _keep(read, folder, str(len(found)))
            found[row["uri"]] = read
    place.close()
    return found


def _keep(read: Read, folder: tempfile.TemporaryDirectory, name: str) -> Read:
    """Reads an image into a file of a folder that lives as long as the answer's reader does."""
    try:
        with open(os.path.join(folder.name, name), "wb") as file:
            file.write(read())
    except ImageError as error:
        return functools.partial(_fail, error)
    return functools.partial(_kept, folder, name)


def _kept(folder: tempfile.TemporaryDirectory, name: str) -> bytes:
    with open(os.path.join(folder.name, name), "rb") as file:
        return file.read()


def _fail(error: ImageError) -> bytes:
    raise error
