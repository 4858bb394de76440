"""What is listed of inputs and read from archives, as tests of all kinds look at it."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from packing import pack

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.records import Status

STATUSES = {status.value for status in Status}
FILES = [(f"class-{i % 3}/{i:03d}.jpg", bytes([i]) * (50 + 37 * i)) for i in range(20)]


def listed(*inputs, **kwargs) -> list[dict]:
    batches = list(list_images(tuple(map(str, inputs)), **kwargs))
    return [row for batch in batches for row in batch.to_pylist()]


def uris(*inputs, **kwargs) -> list[str]:
    return [row["uri"] for row in listed(*inputs, **kwargs)]


def read(row, max_bytes=1 << 20, place=None):
    """The bytes of a reference, or its status."""
    try:
        return read_image(ImageRef.of(row), max_bytes, place)
    except ImageError as error:
        assert error.status in STATUSES
        return error.status


def contents(path, named=True, **kwargs) -> dict:
    """Name in the archive → bytes or status, of all that is listed."""
    rows = listed(path if named else os.path.dirname(path), **kwargs)
    assert len({row["uri"] for row in rows}) == len(rows)
    with Place() as place:
        return {row["uri"].removeprefix(f"{path}#"): read(row, place=place) for row in rows}


@functools.cache
def packed(kind) -> bytes:
    """FILES in an archive; packed once, as gzip and protobuf do it differently each time."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(pack(kind, FILES, f"{folder}/x")).read_bytes()


def found_in(path, **options) -> dict:
    """Name in the archive ("": itself) → bytes, or status and message."""
    found = {}
    rows = [row for batch in list_images((str(path),), **options) for row in batch.to_pylist()]
    with Place() as place:
        for row in rows:
            try:
                got = read_image(ImageRef.of(row), 1 << 20, place)
            except ImageError as error:
                got = f"{error.status}: {error}"
            found[row["uri"][len(str(path)) + 1 :]] = got
    return found
