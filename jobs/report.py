"""`imagecensus report`: one self-contained HTML page about a finished table.

The page holds no script, loads nothing, and its policy allows neither, so that a hostile file
name or label stays text. Its size does not grow with the table: everything on it is counted by
DuckDB or is one of a fixed number of examples.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("report")

import base64
import datetime
import os
import re
from collections.abc import Callable
from typing import Any

import jinja2

from imagecensus.jobs.options.report import ReportOptions
from imagecensus.jobs.results.open_table import (
    Table,
    open_table,
    read_bytes,
    read_json,
    write_bytes,
)
from imagecensus.jobs.results.queries import (
    check_totals,
    count_labels,
    count_no_images,
    count_scores,
    count_statuses,
    describe_archive,
    last_rate,
    list_provenance,
    measure_rate,
    part_times,
    pick_failures,
    pick_random,
    pick_sheets,
)
from imagecensus.jobs.results.thumbnails import (
    DRAWN_STATUSES,
    Images,
    draw_failures,
    make_thumbnails,
)
from imagecensus.jobs.results.training_overlap import describe_overlap
from imagecensus.model_export.common.quantities import format_duration, format_size
from imagecensus.model_export.common.version import __version__

REPORT_FILE = "report.html"
EVALUATION_FILE = "evaluation/evaluation.json"
EVALUATION_FORMAT = 1  # raised when the page needs figures that older files lack
PLOTS = ("confusion", "calibration", "coverage")
THUMBNAIL_SIDE = 112

STATUS_MEANING = {
    "ok": "classified",
    "not_found": "listed, but gone when it was read",
    "permission_denied": "the file may not be read",
    "empty_file": "the file has no bytes",
    "not_an_image": "the content is no image",
    "truncated": "the file ends too early",
    "unsupported_format": "an image format that is not read here",
    "too_large": "more pixels or bytes than the limit",
    "decode_error": "the image is damaged",
    "decode_timeout": "decoding took too long",
    "decode_crash": "decoding ended the process",
    "read_error": "storage failed after retries",
    "inference_error": "the model failed on this image",
}


def main(options: ReportOptions) -> int:
    print(write_report(options.output, options.labels, options.examples, options.sample))
    return 0


def write_report(output: str, labels: int = 8, examples: int = 4, sample: int = 16) -> str:
    """Writes `report.html` into an output folder of `classify`; returns its path.

    Args:
      output: the folder, local or in a store, with at least one part in it.
      labels: labels that get a contact sheet.
      examples: images per row of a contact sheet, and examples per failure.
      sample: images drawn at random.

    Raises:
      UserError: no such folder, no part in it, or a damaged part.
    """
    with open_table(output) as table:
        facts = gather_facts(table, labels, examples, sample)
    return write_bytes(output, REPORT_FILE, render(facts).encode())


def gather_facts(table: Table, labels: int, examples: int, sample: int) -> dict[str, Any]:
    """All that the page shows, as plain values; bounded, however long the table is."""
    run = read_json(table.output, "run_report.json")
    statuses = count_statuses(table)
    rows = sum(statuses.values())
    predicted, not_images = statuses.get("ok", 0), count_no_images(table)
    label_counts, label_total = count_labels(table)
    facts = {
        "output": table.output,
        "rows": rows,
        "predicted": predicted,
        "failed": rows - predicted - not_images,
        "not_images": not_images,
        "totals": check_totals(run, rows),
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "failures": pick_failures(table, examples),
        "labels": label_counts,
        "label_total": label_total,
        "scores": count_scores(table),
        "rate": measure_rate(part_times(table)),
        "last_rate": last_rate(run),
        "sheets": pick_sheets(table, labels, examples),
        "sample": pick_random(table, sample),
        "archive": describe_archive(table),
        "provenance": list_provenance(run, read_json(table.output, "_imagecensus/dataset.json")),
        **_evaluation(table.output),
    }
    images = Images(table.output)
    tiles = [tile for sheet in facts["sheets"] for tile in sheet["most"] + sheet["least"]]
    tiles += facts["sample"] + facts["mistakes"]
    _add_thumbnails(images, tiles, make_thumbnails)
    failures = [f for f in facts["failures"] if f["status"] in DRAWN_STATUSES]
    tiles = [example for failure in failures for example in failure["examples"]]
    _add_thumbnails(images, tiles, draw_failures)
    return facts


def _evaluation(output: str) -> dict[str, Any]:
    """What `imagecensus evaluate` left, if it was run (by a version that wrote the same)."""
    evaluation = read_json(output, EVALUATION_FILE)
    if evaluation.get("format") != EVALUATION_FORMAT:
        return {"evaluation": None, "overlap": "", "plots": {}, "mistakes": []}
    plots = {name: read_bytes(output, f"evaluation/{name}.png") for name in PLOTS}
    return {
        "evaluation": evaluation,
        "overlap": describe_overlap(evaluation["training_overlap"], evaluation["evaluated"])
        if "training_overlap" in evaluation
        else "",
        "plots": {name: _data_uri(png, "png") for name, png in plots.items() if png},
        "mistakes": evaluation["mistakes"],
    }


def _add_thumbnails(
    images: Images,
    tiles: list[dict[str, Any]],
    make: Callable[[Images, list[str], int], dict[str, bytes]],
) -> None:
    thumbnails = make(images, [tile["uri"] for tile in tiles], THUMBNAIL_SIDE)
    for tile in tiles:
        if tile["uri"] in thumbnails:
            tile["src"] = _data_uri(thumbnails[tile["uri"]], "jpeg")


def render(facts: dict[str, Any]) -> str:
    """The page. Every value is escaped by Jinja; none is marked safe."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "results", "pages")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,.0f}",
        "share": lambda part, whole: f"{part / whole:.1%}" if whole else "–",
        "size": lambda count: "–" if count is None else format_size(count),
        "clip": clip,
        "pieces": pieces,
        "basename": lambda uri: uri.rstrip("/").rsplit("/", 1)[-1] or uri,
        "duration": format_duration,
    }
    environment.globals["meaning"] = STATUS_MEANING
    return environment.get_template("report.html.j2").render(facts)


def clip(text: object, length: int = 160) -> str:
    """A long text with its middle left out: the ends of a name say most."""
    text = "" if text is None else str(text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2]} … {text[-length // 2 :]}"


def pieces(text: str) -> list[str]:
    """A name in pieces between which a line may break: browsers break `red_wine` anywhere."""
    return re.findall(r"[^_/.-]*[_/.-]+|[^_/.-]+", text)


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
