"""New images into a table in a bucket that answers after 50 ms: what is asked, of which files.

`bucket_rerun.py FOLDER` runs the job against fake-gcs-server behind a proxy, which notes each
request, with tables of two sizes. Prints one JSON object; {} where there is no emulator.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import object_servers
from fault_proxy import Fault
from load import MODEL, make_images
from measure import run
from rerun import NEW, make_table

from imagecensus.transforms.dataset.work_plan import UNIT_ROWS, UNITS_PER_FILE
from imagecensus.transforms.storage import store

DELAY_S = 0.05
PLAN_FILES = (1, 5)  # of the two tables, each of 512 parts
_ASKED = {
    "listings": r"GET .*/o\?.*predictions",
    "plan": r"plan-more[^/]*\.(index|parquet)",
    "ledger": r"ledger-",
    "all": "",
}
_JOB = "from imagecensus.jobs.cli import command; command()"


def measured(folder: pathlib.Path) -> dict:
    """How many requests of each kind a rerun makes, and its seconds, by plan files of the table."""
    if object_servers.missing("gs"):
        return {}
    photos = make_images(folder / f"small-{NEW}", NEW, None)
    found = {}
    for files in PLAN_FILES:
        rows = files * UNITS_PER_FILE * UNIT_ROWS
        make_table(rows, folder)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            server = object_servers.SERVERS["gs"]()
            server.start(pathlib.Path(scratch))
            try:
                found[str(files)] = _rerun(server, folder / f"table-{rows}", photos)
            finally:
                server.stop()
        shutil.rmtree(folder / f"table-{rows}")
    return found


def _rerun(server: object_servers.Server, table: pathlib.Path, photos: pathlib.Path) -> dict:
    os.environ.update(server.environment)
    object_servers.forget_clients()
    output = server.uri("out")
    files = [path for path in table.rglob("*") if path.is_file() and path.name != "lock"]
    with ThreadPoolExecutor(16) as pool:
        pool.map(
            lambda path: server.put(f"out/{path.relative_to(table)}", path.read_bytes()), files
        )
    first = make_images(table.parent / "small-64", 64, None)
    _classify(first, output, server)  # reads all parts, as their versions are new, into the ledger
    with server.harm(Fault("", "slow", seconds=DELAY_S)):
        start = time.monotonic()
        _classify(photos, output, server)
        seconds = time.monotonic() - start
        asked = list(server.requests)
    report = json.loads(store.read(store.join(output, "run_report.json")))
    assert report["totals"]["balanced"] and report["totals"]["rows"] > NEW
    counts = {kind: sum(bool(re.search(p, line)) for line in asked) for kind, p in _ASKED.items()}
    return {"wall_s": seconds, "parts": report["totals"]["rows"] / UNIT_ROWS, **counts}


def _classify(photos: pathlib.Path, output: str, server: object_servers.Server) -> None:
    words = ["classify", photos, "--output", output, "--model", MODEL, "--no-report"]
    run([sys.executable, "-c", _JOB, *words], server.environment)


if __name__ == "__main__":
    print(json.dumps(measured(pathlib.Path(sys.argv[1]))))
