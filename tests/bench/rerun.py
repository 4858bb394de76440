"""New images into a table of millions: `rerun.py ROWS FOLDER` makes the table, once.

Its rows beyond the first are made up: nobody looks at their images, as nothing lists them.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys

import numpy as np
import pyarrow as pa
from load import MODEL, make_images
from measure import job, run
from scale import write_rows

from imagecensus.transforms.dataset.work_plan import UNIT_ROWS, PlanWriter, unit_name
from imagecensus.transforms.records import REF_FIELDS, SOURCE_COLUMN, Unit
from imagecensus.transforms.storage import local

NEW = 1000


def figures(rows: int, folder: pathlib.Path) -> dict:
    """What `NEW` images take in a table of so many rows, and in one of their own."""
    photos = make_images(folder / f"small-{NEW}", NEW, None)
    table = folder / f"table-{rows}"
    answer = {}
    for name in ("alone", "in the table", "in the table, page too"):
        output = _copy(folder, table if name != "alone" else None)
        done = job(photos, output, MODEL, *([] if "page" in name else ["--no-report"]))
        answer[name] = {"wall_s": done["wall"], "cpu_s": done["cpu"], "peak_mb": done["peak_mb"]}
    return answer


def compacted(rows: int, folder: pathlib.Path) -> dict:
    """What merging the table takes."""
    code = "from imagecensus.jobs.cli import command; command()"
    output = _copy(folder, folder / f"table-{rows}")
    done = run([sys.executable, "-c", code, "compact", output])
    return {"wall_s": done.wall, "cpu_s": done.cpu, "peak_mb": done.peak_mb}


def _copy(folder: pathlib.Path, table: pathlib.Path | None) -> pathlib.Path:
    """An output for one run: a copy of a table, or none yet."""
    output = folder / "table-now"
    shutil.rmtree(output, ignore_errors=True)
    if table:
        shutil.copytree(table, output, copy_function=shutil.copy2)
    return output


def make_table(rows: int, folder: pathlib.Path) -> None:
    """A table of so many rows, with the ledger that a run has left."""
    table, partial = folder / f"table-{rows}", folder / "table-partial"
    if table.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    first = make_images(folder / "small-64", 64, None)
    job(first, partial, MODEL, "--no-report")
    state, parts = partial / "_imagecensus", partial / "predictions"
    fingerprint = json.loads((state / "dataset.json").read_text())["fingerprint"]
    local._sync = lambda path: None  # of thousands of files
    writer = PlanWriter(str(state), tag="more-")
    random = np.random.default_rng(0)
    for number in range(rows // UNIT_ROWS):
        refs = _references(number, random)
        unit = Unit(name=unit_name(refs, fingerprint), plan="", row_group=0, rows=UNIT_ROWS)
        writer.add(unit, refs)
        write_rows(parts, unit, refs, fingerprint)
    writer.flush()
    job(first, partial, MODEL, "--no-report")  # puts all parts into the ledger
    partial.rename(table)


def _references(number: int, random: np.random.Generator) -> pa.RecordBatch:
    nothing = pa.nulls(UNIT_ROWS, pa.string())
    uris = [f"/nowhere/{number:06d}/{name:08x}.jpg" for name in range(UNIT_ROWS)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(uris),
            pa.array(random.integers(10_000, 200_000, UNIT_ROWS)),
            pa.array(random.integers(16 * 10**17, 18 * 10**17, UNIT_ROWS)).cast(pa.string()),
            nothing, nothing, pa.repeat(pa.scalar("/nowhere"), UNIT_ROWS),
        ],
        schema=pa.schema([*REF_FIELDS, pa.field(SOURCE_COLUMN, pa.string())]),
    )  # fmt: skip


if __name__ == "__main__":
    make_table(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
