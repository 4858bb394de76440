"""A million references without their images: listed, planned, resumed. `scale.py COUNT FOLDER`.

Real empty files are listed; the rows "already done" are real parts. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import shutil
import sys
import time

import pyarrow as pa

from imagecensus.transforms.dataset import inventory, parts, plan_units, work_plan
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.records import STATUS_TYPE, prediction_schema

PER_FOLDER = 1000


def main(count: int, folder: pathlib.Path) -> dict:
    files, state, done = folder / f"files-{count}", folder / "state", folder / "parts"
    for used in (state, done):
        shutil.rmtree(used, ignore_errors=True)
        used.mkdir(parents=True)
    _make_files(files, count)
    answer = {}
    with _Timed(answer, "list+plan"):
        planned = _plan(files, state)
    assert planned.added == count
    for unit in planned.units:
        write_rows(done, unit, work_plan.read_unit(unit), "fingerprint")
    with _Timed(answer, "resume"):  # list again, plan again, and look through a finished output
        again = _plan(files, state)
        found = inventory.take_inventory(str(done), work_plan.read_plan(str(state)), "fingerprint")
    assert again.known == count and found.totals.rows == count and not found.pending
    answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return answer


def _plan(files: pathlib.Path, state: pathlib.Path):
    return plan_units.plan_units(
        list_images((str(files),)), str(state), "fingerprint", passthrough=pa.schema([])
    )


def _make_files(folder: pathlib.Path, count: int) -> None:
    if folder.exists():
        return
    for start in range(0, count, PER_FOLDER):
        below = folder / f"{start // PER_FOLDER:04d}"
        below.mkdir(parents=True)
        for index in range(start, min(start + PER_FOLDER, count)):
            os.close(os.open(below / f"{index:07d}.jpg", os.O_CREAT, 0o644))


def write_rows(folder: pathlib.Path, unit, refs: pa.RecordBatch, fingerprint: str) -> None:
    """The part of a unit with made-up rows."""
    schema = prediction_schema()
    rows = refs.num_rows
    columns = {
        "uri": refs.column("uri"),
        "status": pa.array(["ok"] * rows).dictionary_encode().cast(STATUS_TYPE),
        "label": pa.array([f"label {i % 1000}" for i in range(rows)]),
        "class_id": pa.array([i % 1000 for i in range(rows)], pa.int32()),
        "score": pa.array([i / rows for i in range(rows)], pa.float32()),
        "top_k": pa.array(
            [[{"label": "a", "class_id": k, "score": 0.1} for k in range(5)]] * rows,
            schema.field("top_k").type,
        ),
        "etag_or_mtime": refs.column("etag_or_mtime"),
    }
    arrays = [columns.get(f.name, pa.nulls(rows, f.type)) for f in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    parts.write_part(str(folder), unit, table, {"run": "bench", "fingerprint": fingerprint})


class _Timed:
    def __init__(self, answer: dict, name: str):
        self._answer, self._name = answer, name

    def __enter__(self):
        self._start = time.monotonic(), time.process_time()

    def __exit__(self, *_):
        self._answer[self._name + " wall_s"] = time.monotonic() - self._start[0]
        self._answer[self._name + " cpu_s"] = time.process_time() - self._start[1]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))))
