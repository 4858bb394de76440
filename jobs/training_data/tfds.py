"""TensorFlow Datasets as labelled images. An optional extra: `pip install imagecensus[tfds]`.

The stored files are handed on as they are, so that they are decoded by the one preprocessing
function like any other image. Of TFRecords, ArrayRecord and Parquet each is read by its place, in
any order; sets in another format (Riegeli) from front to back, once: the files go into one on disk.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from imagecensus.model_export.common.errors import first_line
from imagecensus.model_export.training.splits import DataError, Split
from imagecensus.transforms.archives import tfrecord_archive
from imagecensus.transforms.archives.members import ArchiveBroken
from imagecensus.transforms.storage import byte_ranges

if TYPE_CHECKING:  # an extra
    from tensorflow_datasets.core import DatasetBuilder

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def read_tfds(name: str) -> tuple[list[str], dict[str, Split]]:
    """Labels, and a Split for each split of a data set that has an image and a label.

    Args:
      name: of the data set, with its config and version if need be: `imagenette/160px-v2`.

    Raises:
      DataError: no such package, data set, or no image with a class label in it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError(
            f"tfds:{name}: needs TensorFlow Datasets; pip install imagecensus[tfds]"
        ) from None
    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(f"tfds:{name}: cannot be prepared: {first_line(error)[:300]}") from None
    images = [key for key, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    classes = [
        key for key, f in builder.info.features.items() if isinstance(f, tfds.features.ClassLabel)
    ]
    if not images or not classes:
        raise DataError(f"tfds:{name}: has no image with a class label")
    image, label = images[0], "label" if "label" in classes else classes[0]
    labels = builder.info.features[label].names
    found = {
        _SPLITS[split]: _split(tfds, builder, split, image, label)
        for split in builder.info.splits
        if split in _SPLITS
    }
    if "train" not in found:
        raise DataError(f"tfds:{name}: has no train split")
    return labels, found


def _split(tfds: ModuleType, builder: DatasetBuilder, split: str, image: str, label: str) -> Split:
    found = _source(tfds, builder, split, image, label)
    if found:
        return found

    def examples(decoders: Any) -> Iterator[dict[str, Any]]:
        yield from builder.as_dataset(
            split=split, shuffle_files=False, decoders=decoders,
            read_config=tfds.ReadConfig(add_tfds_id=True),
        ).as_numpy_iterator()  # fmt: skip

    ids, places = [], []
    for example in examples(tfds.decode.PartialDecoding({label: True})):
        ids.append(example[label])
        places.append(example["tfds_id"].decode())
    names = tuple(f"tfds:{builder.info.full_name}/{split}/{row}" for row in range(len(ids)))
    labels = np.asarray(ids, np.int32)
    records = _records([str(path) for path in builder.info.splits[split].filepaths], places, image)
    if records:
        return Split(names=names, labels=labels, open=records)

    def files() -> Iterator[bytes]:  # not decoded
        skip = {image: tfds.decode.SkipDecoding()}
        return (bytes(example[image]) for example in examples(skip))

    return Split(names=names, labels=labels, open=_KeptFiles(files).open)


class _KeptFiles:
    """Files that come from front to back, kept in a temporary one so that any order will do."""

    def __init__(self, files: Callable[[], Iterator[bytes]]) -> None:
        self._files = files
        self._kept: list[Callable[[], bytes]] = []

    def open(self) -> Iterator[Callable[[], bytes]]:
        """A reader for each, in order. Raises DataError: the disk is full."""
        return iter(self._kept) if self._kept else self._keep()

    def _keep(self) -> Iterator[Callable[[], bytes]]:
        kept: list[Callable[[], bytes]] = []
        try:
            file = tempfile.TemporaryFile(prefix="imagecensus-")  # noqa: SIM115  # readers keep it
            for content in self._files():
                at = file.tell()
                file.write(content)
                file.flush()
                kept.append(functools.partial(_read_kept, file, at, len(content)))
                yield kept[-1]
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: cannot keep the images of the set: {error.strerror};"
                " name a folder with room in TMPDIR"
            ) from None
        self._kept = kept


def _read_kept(file: BinaryIO, offset: int, length: int) -> bytes:
    return os.pread(file.fileno(), length, offset)


def _source(
    tfds: ModuleType, builder: DatasetBuilder, split: str, image: str, label: str
) -> Split | None:
    """A split whose format tfds reads by number: ArrayRecord, Parquet; None: it is another."""
    formats = tfds.core.file_adapters.FileFormat.with_random_access()
    if builder.info.file_format not in formats:
        return None
    skip = {image: tfds.decode.SkipDecoding()}
    try:
        images = builder.as_data_source(split=split, decoders=skip)
        ids = [images[row][label] for row in range(len(images))]
    except Exception as error:  # of a dozen libraries, some of which may not be installed
        raise DataError(
            f"tfds:{builder.info.full_name}: cannot be read: {first_line(error)[:300]}"
        ) from None

    def read(row: int) -> bytes:
        return bytes(images[row][image])

    return Split(
        names=tuple(f"tfds:{builder.info.full_name}/{split}/{row}" for row in range(len(ids))),
        labels=np.asarray(ids, np.int32),
        open=lambda: (functools.partial(read, row) for row in range(len(ids))),
    )


def _records(
    paths: list[str], places: list[str], feature: str
) -> Callable[[], Iterator[Callable[[], bytes]]] | None:
    """Readers of the images of TFRecords, which may be called in any order; None: they are none.

    Args:
      paths: of the files.
      places: of each image, `FILE__NUMBER`, as tfds calls them: its record's number in the file.
      feature: of the images.
    """
    found: dict[str, tuple[int, np.ndarray]] = {}  # by name: which of the paths, and its records
    for number, path in enumerate(paths):
        try:
            with open(path, "rb") as file:
                frames = list(tfrecord_archive.frames(file))
        except (OSError, ArchiveBroken):  # in another format, or not on this disk
            return None
        found[os.path.basename(path)] = number, np.array(frames, np.int64).reshape(-1, 2)
    where = np.empty((len(places), 3), np.int64)
    for row, place in enumerate(places):
        name, _, record = place.rpartition("__")
        number, frames_of = found[name]
        where[row] = number, *frames_of[int(record)]

    def readers() -> Iterator[Callable[[], bytes]]:
        for number, offset, length in where.tolist():
            yield functools.partial(_read_record, paths[number], offset, length, feature)

    return readers


def _read_record(path: str, offset: int, length: int, feature: str) -> bytes:
    def read_at(start: int, count: int) -> bytes:
        return byte_ranges.read_range(path, start, count)

    return tfrecord_archive.read_member(read_at, (offset, length, feature))
