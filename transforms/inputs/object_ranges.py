"""A prefix of a store, listed by many at once: ranges of names, each listed into a file.

A launcher cuts the prefix, workers list groups of ranges (`list_group`), and the launcher reads
their files (`read_groups`). What a range has beyond some number of objects is further groups.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.ignored_names import DATASET_ENTRY
from imagecensus.transforms.inputs.files import (
    File,
    OwnFolders,
    Version,
    checksum_column,
    chosen_objects,
    nothing_there,
    prefix_of,
    reference_batch,
)
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.records import CHECKSUM_COLUMN, REF_FIELDS
from imagecensus.transforms.storage import byte_ranges, store
from imagecensus.transforms.storage.listing_ranges import (
    LISTERS,
    Range,
    cut_range,
    list_ranges,
    stem_end,
)
from imagecensus.transforms.storage.protocol import Stored

ENOUGH_RANGES = 200  # of a prefix: more than there are workers, whose shares differ
MOST_OBJECTS = 500_000  # of a range; what it has more is given to other workers
OPENED = "opened"  # column: the file may be an archive, or have pages
FILES = "listing-"
_GROUP = 8  # ranges that a worker lists at once
_ROWS = 1 << 16
_METADATA = b"imagecensus"
_SCHEMA = pa.schema([*REF_FIELDS, (CHECKSUM_COLUMN, pa.string()), (OPENED, pa.bool_())])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Ranges of the names of an input, which are listed into one file."""

    text: str
    ranges: tuple[Range, ...]

    @property
    def name(self) -> str:
        said = json.dumps([self.text, self.ranges])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spool:
    """How groups are listed: the same on every worker.

    Attributes:
      start: of the locations of the files.
      exclude, include: see `Selection`.
      is_opened: whether a file is looked into, by its uri.
    """

    start: str
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    is_opened: Callable[[str], bool]

    def location(self, name: str) -> str:
        return f"{self.start}{name}.parquet"


def cut_input(text: str, names: Range | None = None, enough: int = ENOUGH_RANGES) -> list[Group]:
    """The names of an input, or those of a range of them, as groups to list.

    Raises InputError: there are none.
    """
    prefix, ranged = prefix_of(text), store.ranged_store_of(text)
    if names is None and ranged.first_name(prefix.root, prefix.start, prefix.start) is None:
        raise nothing_there(text)
    ranges = cut_range(
        names or Range(prefix.start),
        lambda stem, start: ranged.first_name(prefix.root, stem, start),
        enough,
    )
    # Neighbours may all be large: each group has some from everywhere.
    count = -(-len(ranges) // _GROUP)
    return [Group(text=text, ranges=tuple(ranges[at::count])) for at in range(count)]


def list_group(group: Group, spool: Spool, most: int) -> list[Group]:
    """Lists ranges of names at once, and writes the files chosen, whole or not at all.

    Args:
      group: the ranges.
      spool: where to, and what is chosen.
      most: of one range, about so many objects are listed; 0: all.

    Returns:
      what is still to be listed.

    Raises:
      StorageError: the store cannot be listed, or the file not be written.
    """
    prefix, ranged = prefix_of(group.text), store.ranged_store_of(group.text)
    rest: list[Range] = []
    found: list[tuple[Selection, OwnFolders]] = []

    def chosen(names: Range) -> Iterator[list[File]]:
        selection = Selection(exclude=spool.exclude, include=spool.include)
        own = OwnFolders(prefix.top)
        found.append((selection, own))
        pages = ranged.list_range(prefix.root, names)
        there = _up_to(most, pages, lambda name: rest.append(names._replace(first=name)))
        files = chosen_objects(prefix.files(there), prefix.top, selection, own)
        while some := list(itertools.islice(files, 1000)):
            yield some

    location = spool.location(group.name)
    with (
        store.atomic_path(location) as path,
        pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer,
    ):
        files = list_ranges(list(group.ranges), chosen)
        while some := list(itertools.islice(files, _ROWS)):
            writer.write_batch(_batch(some, spool.is_opened))
        groups = [more for names in sorted(rest) for more in cut_input(group.text, names, _GROUP)]
        left_out = sum((one.left_out for one, _ in found), collections.Counter[str]())
        said: dict[str, Any] = {
            "left_out": {kind: n for kind, n in left_out.items() if kind != "own"},
            "own": sorted({folder for _, own in found for folder in own.found}),
            "rest": [more.name for more in groups],
        }
        writer.add_key_value_metadata({_METADATA: json.dumps(said).encode()})
    return groups


def _up_to(
    most: int, pages: Iterator[Sequence[Stored]], leave: Callable[[str], object]
) -> Iterator[Stored]:
    """The objects; after so many, `leave` gets the name from which on they are left out."""
    count = 0
    for page in pages:
        count += len(page)
        if most and count >= most and page:
            root_end = len(store.split(page[0].uri)[0])
            last = page[-1].uri[root_end:]
            stem = last[: stem_end(last)]  # is not torn from what lies beside it
            kept = [one for one in page if not one.uri.startswith(stem, root_end)]
            yield from kept or page
            leave(stem if kept else last + "\0")
            return
        yield from page


def _batch(files: list[File], is_opened: Callable[[str], bool]) -> pa.RecordBatch:
    batch = reference_batch(files)
    checksums = checksum_column(files)
    opened = pa.array([is_opened(uri) for uri, _, _ in files], pa.bool_())
    return pa.RecordBatch.from_arrays(
        [*batch.columns, pa.nulls(len(files), pa.string()) if checksums is None else checksums]
        + [opened],
        schema=_SCHEMA,
    )


def read_groups(
    text: str, groups: list[Group], spool: Spool, selection: Selection
) -> Iterator[pa.RecordBatch]:
    """What was listed of an input: references, `CHECKSUM_COLUMN` and `OPENED`.

    `selection` counts what was left out.

    Raises:
      UserError: a file is missing, or there are no objects.
    """
    names: list[str] = []
    own: set[str] = set()
    before = selection.left_out.total()
    level = [group.name for group in groups]
    with concurrent.futures.ThreadPoolExecutor(LISTERS) as pool:
        while level:
            names += level
            found = list(pool.map(lambda name: _said(spool.location(name)), level))
            own.update(*(said["own"] for said in found))
            for said in found:
                selection.left_out.update(said["left_out"])
            level = [name for said in found for name in said["rest"]]
    selection.left_out["own"] += len(own)
    # The worker of one range learns of folders that lie in another one, too.
    top = prefix_of(text).top.rstrip("/")
    found_some = False
    for name in names:
        with _open(spool.location(name)) as file:
            for batch in file.iter_batches(_ROWS):
                batch = _without_own(batch, top, own)
                if batch.num_rows:
                    found_some = True
                    yield batch
    if not found_some and selection.left_out.total() == before:
        raise nothing_there(text)


def _without_own(batch: pa.RecordBatch, top: str, own: set[str]) -> pa.RecordBatch:
    """The rows that lie in none of our folders; "": the top is an output."""
    for folder in own:
        if folder:
            ours = pc.starts_with(batch.column("uri"), f"{top}/{folder}/")
        else:
            inside = pc.utf8_slice_codeunits(batch.column("uri"), len(top) + 1)
            ours = pc.match_substring_regex(inside, f"^({DATASET_ENTRY.pattern})(/|$)")
        batch = batch.filter(pc.invert(ours))
    return batch


def _said(location: str) -> dict[str, Any]:
    """What is said in the footer of a file."""
    try:
        with _open(location) as file:
            said: dict[str, Any] = json.loads(file.metadata.metadata[_METADATA])
            return said
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise UserError(
            f"{location}: what a worker listed is not there; run the same command again"
        ) from None


@contextlib.contextmanager
def _open(location: str) -> Iterator[pq.ParquetFile]:
    with byte_ranges.open_stream(location, byte_ranges.size_of(location)) as file:
        yield pq.ParquetFile(file)


def files_of(batch: pa.RecordBatch) -> Iterator[File]:
    """The files of a batch as they were listed."""
    columns = (batch.column(name).to_pylist() for name in ("uri", "size", "etag_or_mtime"))
    checksums = batch.column(CHECKSUM_COLUMN).to_pylist()
    for uri, size, etag, checksum in zip(*columns, checksums, strict=True):
        version = Version(etag)
        version.checksum = checksum or ""
        yield (uri, size, version)
