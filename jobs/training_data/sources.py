"""Training data wherever the batch job reads images: disks, buckets, and packed archives.

A manifest of a training may so be what `imagecensus browse` exported, or be made from any output
table: its uris are those of the table.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable

from imagecensus.jobs.training_data.class_folders import read_class_folders
from imagecensus.jobs.training_data.manifest import read_manifest
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.training.labelled_data import (
    LabelledData,
    SplitFractions,
    check,
    complete,
)
from imagecensus.model_export.training.splits import DataError, Split
from imagecensus.transforms.archives import listing
from imagecensus.transforms.archives.reading import Place, is_sequential
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import store

Read = Callable[[], bytes]


def read_training_data(
    source: str,
    fractions: SplitFractions,
    label_column: str = "label",
    path_column: str = "",
    split_column: str = "split",
) -> LabelledData:
    """Finds the images, labels and splits of any supported source.

    Args:
      source: a folder of class folders (or of `train`, `val`, `test` with class folders), a
        manifest (local or in a store), or `tfds:NAME`.
      fractions: of the splits cut where the source has none.
      label_column, path_column, split_column: of a manifest; the path column is found by name
        where empty, the split column may be missing.

    Raises:
      DataError: with everything that keeps the data from being trained on.
    """
    columns = (label_column, path_column, split_column)
    notes: list[str] = []
    if source.startswith("tfds:"):
        from imagecensus.jobs.training_data.tfds import read_tfds

        labels, found = read_tfds(source.removeprefix("tfds:"))
    elif store.is_remote(source):
        labels, found = _read_remote(source, columns)
    elif os.path.isdir(source):
        labels, found, notes = read_class_folders(source)
    elif os.path.isfile(source):
        base = os.path.dirname(os.path.abspath(source))
        labels, found = read_manifest(source, *columns, locate_images, base)
    else:
        raise DataError(f"{source}: no such folder or manifest")
    splits = complete(found, fractions)
    check(source, labels, splits)
    return LabelledData(source, tuple(labels), splits, tuple(notes))


def _read_remote(source: str, columns: tuple[str, str, str]) -> tuple[list[str], dict[str, Split]]:
    if not source.lower().endswith((".csv", ".jsonl", ".ndjson", ".parquet")):
        raise DataError(
            f"{source}: class folders in a bucket are not read; copy them to a disk, or list the"
            " images in a manifest (.csv, .jsonl, .parquet) with a column of labels"
        )
    try:
        with store.local_copy(source) as path:
            return read_manifest(path, *columns, locate_images, source.rpartition("/")[0])
    except FileNotFoundError:
        raise DataError(f"{source}: no such manifest") from None


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
            read: Read = functools.partial(
                read_image, row["uri"], row["size"], row["etag_or_mtime"],
                container=row["container"], member=row["member"], place=place,
            )  # fmt: skip
            if is_sequential(row["member"]):
                folder = folder or tempfile.TemporaryDirectory(prefix="imagecensus-")
                read = _keep(read, folder, str(len(found)))
            found[row["uri"]] = read
    place.close()
    return found


def _keep(read: Read, folder: tempfile.TemporaryDirectory[str], name: str) -> Read:
    """Reads an image into a file of a folder that lives as long as the answer's reader does."""
    try:
        with open(os.path.join(folder.name, name), "wb") as file:
            file.write(read())
    except ImageError as error:
        return functools.partial(_fail, error)
    return functools.partial(_kept, folder, name)


def _kept(folder: tempfile.TemporaryDirectory[str], name: str) -> bytes:
    with open(os.path.join(folder.name, name), "rb") as file:
        return file.read()


def _fail(error: ImageError) -> bytes:
    raise error
