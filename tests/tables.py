"""Finished tables for tests: written with the job's own schema and part writer."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa

from imagecensus.transforms.dataset.parts import write_part
from imagecensus.transforms.dataset.work_plan import unit_name
from imagecensus.transforms.records import Unit, prediction_schema

# What a name may hold on disk or in a bucket, and what a label may be called.
HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">.jpg',
    "'; DROP TABLE predictions; --.jpg",
    "{{ 7 * 7 }} {% raw %} ${hacked}.jpg",
    "</style></title><svg onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "a\u202egpj.exe",
    "line\nbreak\ttab\x1b[31m.jpg",
    "%00%3Cscript%3E.jpg",
    "L" * 5000,
]


def row(uri: str, answers=(("cat", 0.9), ("dog", 0.1)), **changes) -> dict:
    """A classified row with these (label, score) answers, or a failed one by `status=`."""
    made = {"uri": uri, "status": "ok", "etag_or_mtime": "1", "bytes": 1000}
    if changes.get("status", "ok") == "ok":
        top_k = [
            {"label": label, "class_id": sum(map(ord, label)) % 1000, "score": score}
            for label, score in answers
        ]
        made |= top_k[0] | {"top_k": top_k, "width": 64, "height": 48, "format": "JPEG"}
    return made | changes


def write_table(
    output, rows: list[dict], parts: int = 1, passthrough=(), embedding_size=None, **provenance
) -> str:
    """Writes rows as an output folder of `classify`; returns it as a string."""
    schema = prediction_schema(pa.schema(list(passthrough)), embedding_size)
    folder = pathlib.Path(output) / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        some = pa.Table.from_pylist(rows[part::parts], schema=schema)
        made_by = {"fingerprint": "f", **provenance}
        digest = unit_name(some, made_by["fingerprint"])
        unit = Unit(name=f"{part:024x}", plan="", row_group=0, rows=some.num_rows, digest=digest)
        write_part(str(folder), unit, some, made_by)
    return str(output)


def write_run_report(output, images: int, model: str | None = None) -> None:
    """The run's report, as far as the tests need one."""
    report = {"totals": {"images": images}, "engine": "openvino"}
    if model:
        report["model"] = {"location": model}
    (pathlib.Path(output) / "run_report.json").write_text(json.dumps(report))
