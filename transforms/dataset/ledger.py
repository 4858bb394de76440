"""What parts were found to hold when they were last read, so that a rerun reads only others.

A part is known by its unit, revision, size and version (generation, ETag, modification time): where
one of these differs, it is read again. Each run appends one file to `_imagecensus/`; a run that is
killed appends none, and the next one reads its parts. A ledger that is lost or damaged costs time.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.transforms.dataset import checksum
from imagecensus.transforms.dataset.parts import PartFile
from imagecensus.transforms.records import Unit
from imagecensus.transforms.storage import store

_NAMES_KEY = b"imagecensus.names"
_FILES = 8  # more are written as one
_BATCH = 1024  # parts that are counted at a time
_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string()),
        pa.field("revision", pa.int32()),
        pa.field("size", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("digest", pa.string()),  # of the references that its rows reproduce
        pa.field("rows", pa.int32()),
        pa.field("failed", pa.int32()),
        # How many rows have each status and label: numbers of names, which the footer lists.
        pa.field("names", pa.list_(pa.int32())),
        pa.field("counts", pa.list_(pa.int32())),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What one part holds: how many rows, and how many of each status and label."""

    file: PartFile
    digest: str
    rows: int
    failed: int
    not_images: int  # of the failed ones
    statuses: dict[str, int]
    labels: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """What is known of parts: a row each. A status is named `s:ok`, a label `l:cat`.

    Rows whose names say that they are no images are named `n:not_images`.
    """

    table: pa.Table = dataclasses.field(default_factory=_SCHEMA.empty_table)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> Ledger:
        """Some of the rows. All of them are not copied: they may be large."""
        wanted = np.asarray(rows, np.int64)
        if np.array_equal(wanted, np.arange(len(self))):
            return self
        at = pa.array(wanted)
        return Ledger(table=self.table.take(at).combine_chunks(), names=self.names)

    def find(self, asked: Iterable[tuple[Unit, PartFile]]) -> list[int]:
        """The row of each part that is asked for; -1: it is not known, or another one now."""
        columns = [self.table.column(name).to_pylist() for name in _SCHEMA.names[:6]]
        known = {entry: at for at, entry in enumerate(zip(*columns, strict=True))}
        return [
            known.get((f.unit, f.revision, f.size, f.version, unit.expected, unit.rows), -1)
            for unit, f in asked
        ]

    def rows_and_failed(self) -> list[tuple[int, int]]:
        """Of each part."""
        columns = (self.table.column(name).to_pylist() for name in ("rows", "failed"))
        return list(zip(*columns, strict=True))

    def totals(self) -> tuple[int, int, collections.Counter[str], collections.Counter[str]]:
        """Rows, those that are no images, statuses and labels, of all parts together."""
        sums = np.zeros(len(self.names), np.int64)
        for batch in self.table.select(["names", "counts"]).to_batches(_BATCH):
            names, counts = (batch.column(at).flatten().to_numpy() for at in (0, 1))
            np.add.at(sums, names, counts)
        found: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in "sln"}
        for name, count in zip(self.names, sums.tolist(), strict=True):
            if count:
                found[name[0]][name[2:]] = count
        rows = int(np.sum(self.table.column("rows").to_numpy()))
        return rows, found["n"]["not_images"], found["s"], found["l"]


def ledger_of(found: Iterable[Found]) -> Ledger:
    """A ledger of parts that were read."""
    numbers: dict[str, int] = {}
    rows = []
    for part in found:
        named = {f"s:{name}": count for name, count in part.statuses.items()}
        named |= {f"l:{name}": count for name, count in part.labels.items()}
        named |= {"n:not_images": part.not_images} if part.not_images else {}
        file = part.file
        rows.append(
            {
                "unit": file.unit, "revision": file.revision, "size": file.size,
                "version": file.version, "digest": part.digest, "rows": part.rows,
                "failed": part.failed, "counts": list(named.values()),
                "names": [numbers.setdefault(name, len(numbers)) for name in named],
            }
        )  # fmt: skip
    return Ledger(table=pa.Table.from_pylist(rows, _SCHEMA), names=tuple(numbers))


def together(ledgers: Sequence[Ledger]) -> Ledger:
    """Several ledgers as one."""
    ledgers = [ledger for ledger in ledgers if len(ledger)]
    if len(ledgers) == 1:
        return ledgers[0]
    numbers: dict[str, int] = {}
    tables = []
    for ledger in ledgers:
        renumbered = [numbers.setdefault(name, len(numbers)) for name in ledger.names]
        if renumbered == list(range(len(renumbered))):  # as the first one always
            tables.append(ledger.table)
            continue
        names = ledger.table.column("names").combine_chunks()
        values = np.asarray(renumbered, np.int32)[names.flatten().to_numpy()]
        lists = pa.ListArray.from_arrays(_offsets(names), pa.array(values, pa.int32()))
        at = _SCHEMA.get_field_index("names")
        tables.append(ledger.table.set_column(at, _SCHEMA.field(at), lists))
    table = pa.concat_tables([_SCHEMA.empty_table(), *tables])
    return Ledger(table=table, names=tuple(numbers))


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Where each list begins in its flattened values."""
    lengths = lists.value_lengths().to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def read_ledger(folder: str) -> Ledger:
    """All that earlier runs wrote. A file that is damaged counts for nothing."""
    found = []
    for name in _files(folder):
        with contextlib.suppress(Exception):  # Arrow raises a dozen types for damaged files
            data = checksum.check(store.read(store.join(folder, name)))
            file = pq.ParquetFile(io.BytesIO(data))
            names = tuple(json.loads(file.schema_arrow.metadata[_NAMES_KEY]))
            # Some at a time: the reader takes several times what it gives.
            batches = file.iter_batches(_BATCH, columns=_SCHEMA.names, use_threads=False)
            table = pa.Table.from_batches(
                [pa.RecordBatch.from_arrays(batch.columns, schema=_SCHEMA) for batch in batches],
                _SCHEMA,
            )
            found.append(Ledger(table=table, names=names))
    return together(sorted(found, key=len, reverse=True))  # the largest is not copied then


def to_trust(ledger: Ledger, verify: str) -> Ledger:
    """What of a ledger is believed: `changed` is all of it, `all` nothing, a share the others."""
    if verify == "changed":
        return ledger
    share = 1.0 if verify == "all" else float(verify)
    return ledger.take(np.flatnonzero(np.random.default_rng().random(len(ledger)) >= share))


def write_ledger(folder: str, run_id: str, new: Ledger, whole: Ledger | None) -> None:
    """Appends what a run found.

    Args:
      folder: of the dataset's state.
      run_id: names the file.
      new: parts that no file has yet.
      whole: all parts, to take the place of many files; None: other runs are at work beside.
    """
    if whole is not None and len(_files(folder)) >= _FILES:
        replace_ledger(folder, run_id, whole)
    elif len(new):
        _write(folder, run_id, new)


def replace_ledger(folder: str, run_id: str, whole: Ledger) -> None:
    """Writes what is known of all parts, and removes what was known before."""
    before = _files(folder)
    _write(folder, run_id, whole)
    for name in before:
        if name != _name(run_id):
            store.delete(store.join(folder, name))


def _write(folder: str, run_id: str, new: Ledger) -> None:
    schema = _SCHEMA.with_metadata({_NAMES_KEY: json.dumps(new.names).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        writer.write_table(new.table.cast(schema))
        writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
    location = store.join(folder, _name(run_id))
    store.write(location, checksum.add_checksum(buffer.getvalue()))


def _name(run_id: str) -> str:
    return f"ledger-{run_id}.parquet"


def _files(folder: str) -> list[str]:
    return [
        name
        for name in store.list_names(folder)
        if name.startswith("ledger-") and name.endswith(".parquet")
    ]
