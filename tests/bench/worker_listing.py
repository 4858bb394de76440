"""A prefix listed by workers, and what they listed merged by a launcher: two pieces.

`worker_listing.py list URI FOLDER I/N` lists the I-th of N shares of the ranges, as one worker of N
does. `worker_listing.py merge COUNT FOLDER` plans so many objects from such files, which a first
call makes. Each prints one JSON object.
"""

from __future__ import annotations

import functools
import json
import pathlib
import resource
import sys
import time

import dedup
import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.transforms.dataset.plan_units import plan_units
from imagecensus.transforms.inputs import object_ranges
from imagecensus.transforms.inputs.object_ranges import Group, Spool
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images, may_be_opened
from imagecensus.transforms.storage.listing_ranges import Range

_A_FILE = 500_000
_TEXT = "gs://archive/"


def list_share(uri: str, folder: pathlib.Path, share: str) -> dict:
    at, count = map(int, share.split("/"))
    spool = _spool(folder)
    spool.is_opened("")
    start = time.monotonic(), time.process_time()
    groups = object_ranges.cut_input(uri)  # of which a worker is told: it is timed apart
    cut = time.monotonic() - start[0]
    start = time.monotonic(), time.process_time()
    todo, names = groups[at::count], []
    while todo:
        names += [group.name for group in todo]
        todo = [
            rest
            for group in todo
            for rest in object_ranges.list_group(group, spool, object_ranges.MOST_OBJECTS)
        ]
    answer = {"wall": time.monotonic() - start[0], "cpu": time.process_time() - start[1]}
    rows = sum(pq.read_metadata(spool.location(name)).num_rows for name in names)
    return {**answer, "images": rows, "cut_s": cut}


def merge(count: int, folder: pathlib.Path) -> dict:
    listed = folder / f"listed-{count}"
    groups = [Group(text=_TEXT, ranges=(Range(str(at)),)) for at in range(-(-count // _A_FILE))]
    spool = _spool(listed)
    if not listed.exists():
        listed.mkdir(parents=True)
        for at, group in enumerate(groups):
            _write(spool.location(group.name), min(_A_FILE, count - at * _A_FILE), at)
        return {}  # measured by another process: this one's peak is of making them
    state = folder / "merged"
    state.mkdir(exist_ok=True)
    start = time.monotonic(), time.process_time()
    read = functools.partial(object_ranges.read_groups, groups=groups, spool=spool)
    batches = list_images((_TEXT,), by_workers=lambda text: read(text, selection=Selection()))
    planned = plan_units(batches, str(state), "fingerprint", passthrough=pa.schema([]))
    assert planned.added == count
    for path in state.iterdir():
        path.unlink()
    return {
        "wall_s": time.monotonic() - start[0],
        "cpu_s": time.process_time() - start[1],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "listed_mb": sum(path.stat().st_size for path in listed.iterdir()) / 1e6,
    }


def _spool(folder: pathlib.Path) -> Spool:
    opened = functools.partial(may_be_opened, all_pages=False)
    return Spool(start=f"{folder}/listing-", exclude=(), include=(), is_opened=opened)


def _write(location: str, count: int, seed: int) -> None:
    schema = object_ranges._SCHEMA
    with pq.ParquetWriter(location, schema, compression="zstd") as writer:
        for rows in dedup.references("gs://archive", count, 1 << 16, seed=seed):
            columns = [rows.column(at) for at in range(len(schema) - 2)]
            more = [
                pa.nulls(rows.num_rows, pa.string()),
                pa.repeat(pa.scalar(False), rows.num_rows),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays([*columns, *more], schema=schema))
        said = {"left_out": {}, "own": [], "rest": []}
        writer.add_key_value_metadata({object_ranges._METADATA: json.dumps(said).encode()})


if __name__ == "__main__":
    if sys.argv[1] == "list":
        print(json.dumps(list_share(sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4])))
    else:
        print(json.dumps(merge(int(sys.argv[2]), pathlib.Path(sys.argv[3]))))
