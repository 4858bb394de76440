"""Training data wherever the batch job reads images: disks, buckets, and packed archives.

A manifest of a training may so be what `imagecensus browse` exported, or be made from any output
table: its uris are those of the table.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace

from imagecensus.jobs.training_data.class_folders import read_class_folders
from imagecensus.jobs.training_data.manifest import read_manifest
from imagecensus.jobs.training_data.tfds import read_tfds
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.training.labelled_data import (
    LabelledData,
    SplitFractions,
    check,
    complete,
    unjudged,
)
from imagecensus.model_export.training.splits import DataError
from imagecensus.transforms.archives.reading import is_sequential
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.look_into import read_reference
from imagecensus.transforms.decoders.pool import Pool
from imagecensus.transforms.image_ref import MAX_BYTES, ImageRef
from imagecensus.transforms.inputs.locate import locate
from imagecensus.transforms.inputs.manifests import base_of
from imagecensus.transforms.inputs.packed_members import PackedMembers, split_member
from imagecensus.transforms.inputs.read_list import KINDS, kind_of
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import store

Read = Callable[[], bytes]


def read_training_data(
    source: str,
    fractions: SplitFractions,
    label_column: str = "label",
    path_column: str = "",
    split_column: str = "split",
    *,
    decoders: Pool | None = None,
) -> LabelledData:
    """Finds the images, labels and splits of any supported source.

    Args:
      source: a folder of class folders (or of `train`, `val`, `test` with class folders), a
        manifest (local or in a store), or `tfds:NAME`.
      fractions: of the splits cut where the source has none.
      label_column, path_column, split_column: of a manifest; the path column is found by name
        where empty, the split column may be missing.
      decoders: processes that decode the images; they must outlive the data.

    Raises:
      DataError: with everything that keeps the data from being trained on.
    """
    columns = (label_column, path_column, split_column)
    notes: list[str] = []
    if source.startswith("tfds:"):
        labels, found = read_tfds(source.removeprefix("tfds:"))
    elif os.path.isdir(source):
        labels, found, notes = read_class_folders(source)
    elif kind_of(source):
        base = base_of(source)
        labels, found, notes = read_manifest(
            source, *columns, lambda names: locate_images(names, base)
        )
    else:
        raise DataError(_refusal(source))
    splits = complete(found, fractions)
    check(source, labels, splits)
    notes = [*notes, *unjudged(labels, splits)]
    if decoders:
        splits = {name: replace(split, decode=decoders.decode) for name, split in splits.items()}
    return LabelledData(source=source, labels=tuple(labels), splits=splits, notes=tuple(notes))


def _refusal(source: str) -> str:
    kinds = ", ".join(KINDS)
    if store.is_remote(source):
        return (
            f"{source}: class folders in a bucket are not read; copy them to a disk, or list the"
            f" images with their labels ({kinds})"
        )
    if os.path.exists(source):
        return f"{source}: neither a folder of class folders nor a list with labels ({kinds})"
    return f"{source}: no such folder or list"


def locate_images(locations: list[str], base: str) -> list[tuple[str, Read]]:
    """The uri of each image, as the batch job writes it, and a function that reads it.

    That function raises ImageError, with the status that the batch job's row would have.
    """
    uris: list[str] = []
    packed: dict[str, set[str]] = {}
    for location in locations:
        member = split_member(location, base)
        if member:
            packed.setdefault(member.container, set()).add(member.uri)
        uris.append(member.uri if member else locate(location, base)[0])
    members: dict[str, Read] = {}
    for archive, wanted in packed.items():
        members |= _members(archive, wanted)
    return [
        (uri, members.get(uri) or functools.partial(read_image, ImageRef(uri=uri))) for uri in uris
    ]


def _members(archive: str, wanted: set[str]) -> dict[str, Read]:
    """Readers of an archive's members.

    Kinds that can only be read front to back are read here, once, and kept in temporary files:
    the training takes its images in another order.
    """
    found: dict[str, Read] = {}
    folder = None
    with lease():
        try:
            references = PackedMembers().find(archive, wanted)
        except OSError:  # reading each of them will say why
            return {}
        for ref in (one.ref for one in references.values()):
            read: Read = functools.partial(read_reference, ref, MAX_BYTES)
            if is_sequential(ref.member or ""):
                folder = folder or tempfile.TemporaryDirectory(prefix="imagecensus-")
                read = _keep(read, folder, str(len(found)))
            found[ref.uri] = read
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
