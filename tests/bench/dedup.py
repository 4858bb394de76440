"""A listing compared with a plan of millions: `dedup.py KNOWN NEW FOLDER`.

The plan is made once and kept in the folder. Prints one JSON object: the seconds of reading the
plan and of comparing, without those of making up the names, and the peak resident size.
"""

from __future__ import annotations

import json
import pathlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from imagecensus.transforms.dataset.compare import Comparison
from imagecensus.transforms.dataset.raw_pairs import COLUMN
from imagecensus.transforms.dataset.work_plan import UNIT_ROWS, PlanWriter, read_plan
from imagecensus.transforms.records import REF_FIELDS, SOURCE_COLUMN, Unit

SCHEMA = pa.schema(
    [*REF_FIELDS, pa.field(COLUMN, pa.string()), pa.field(SOURCE_COLUMN, pa.string())]
)
_CHUNK = 8192  # of a listing


def main(known: int, new: int, folder: pathlib.Path) -> dict:
    state = folder / f"plan-of-{known}"
    if not state.exists():
        make_plan(known, state)
        return {}  # measured by another process: this one's peak is of making the plan
    start = time.monotonic(), time.process_time()
    plan = read_plan(str(state))
    answer = {
        "read plan wall_s": time.monotonic() - start[0],
        "read plan cpu_s": time.process_time() - start[1],
    }
    start, made = (time.monotonic(), time.process_time()), [0.0, 0.0]
    with Comparison(plan, SCHEMA) as comparison:
        for batch in _apart(references("gs://new", new, _CHUNK, seed=1), made):
            comparison.add(batch, ())
        compared = comparison.judge(("gs://new",))
    answer["compare wall_s"] = time.monotonic() - start[0] - made[0]
    answer["compare cpu_s"] = time.process_time() - start[1] - made[1]
    assert (compared.listed, compared.known, compared.duplicates) == (new, 0, 0)
    assert not compared.gone
    answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return answer


def make_plan(count: int, folder: pathlib.Path) -> None:
    """A plan of so many images with names like hashes, all of them in one folder."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writer = PlanWriter(str(partial))
    for number, rows in enumerate(references("gs://archive", count, UNIT_ROWS, seed=0)):
        unit = Unit(name=f"{number:024x}", plan="", row_group=0, rows=rows.num_rows)
        writer.add(unit, rows)
    writer.flush()
    partial.rename(folder)


def references(source: str, count: int, size: int, seed: int) -> Iterator[pa.RecordBatch]:
    """So many references in batches, of random names, sizes and times."""
    random = np.random.default_rng(seed)
    for start in range(0, count, size):
        rows = min(size, count - start)
        times = random.integers(16 * 10**17, 18 * 10**17, rows)
        yield pa.RecordBatch.from_arrays(
            [
                _random_names(f"{source}/scans/", rows, random),
                pa.array(random.integers(10_000, 200_000, rows)),
                pa.array(times).cast(pa.string()),
                *[pa.nulls(rows, pa.string())] * 3,
                pa.repeat(pa.scalar(source), rows),
            ],
            schema=SCHEMA,
        )


def _random_names(folder: str, rows: int, random: np.random.Generator) -> pa.Array:
    """Names of 32 hex digits in a folder, made at once: there are many million."""
    beginning, ending = folder.encode(), b".jpg"
    length = len(beginning) + 32 + len(ending)
    text = np.empty((rows, length), np.uint8)
    text[:, : len(beginning)] = np.frombuffer(beginning, np.uint8)
    digits = random.integers(0, 256, (rows, 16), np.uint8)
    named = np.repeat(digits, 2, axis=1)
    named[:, ::2] >>= 4
    text[:, len(beginning) : -len(ending)] = np.frombuffer(b"0123456789abcdef", np.uint8)[
        named & 15
    ]
    text[:, -len(ending) :] = np.frombuffer(ending, np.uint8)
    ends = np.arange(0, (rows + 1) * length, length, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text))


def _apart(batches: Iterator[pa.RecordBatch], seconds: list[float]) -> Iterator[pa.RecordBatch]:
    """The batches; adds the wall and CPU seconds of making them."""
    while True:
        start = time.monotonic(), time.process_time()
        batch = next(batches, None)
        seconds[0] += time.monotonic() - start[0]
        seconds[1] += time.process_time() - start[1]
        if batch is None:
            return
        yield batch


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))))
