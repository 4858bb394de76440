"""`imagecensus report`: one self-contained HTML page about a finished table.

The page holds no script, loads nothing, and its policy allows neither, so that a hostile file
name or label stays text. Its size does not grow with the table: everything on it is counted by
DuckDB or is one of a fixed number of examples.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jinja2
import pyarrow.parquet as pq

from jobs.options import argument, option, parse_options
from jobs.table import Table, open_table, read_json, write_text
from jobs.thumbnails import make_thumbnails
from model_export.version import __version__

REPORT_FILE = "report.html"
EVALUATION_FILE = "evaluation/evaluation.json"
LABELS_SHOWN = 40
SCORE_BINS = 20
RATE_BINS = 60
PAUSE_SECONDS = 600  # nothing finished for so long: the run was stopped, not slow
THUMBNAIL_SIDE = 112

STATUS_MEANING = {
    "ok": "classified",
    "not_found": "listed, but gone when it was read",
    "permission_denied": "the file may not be read",
    "empty_file": "the file has no bytes",
    "not_an_image": "the content is no picture",
    "truncated": "the file ends too early",
    "unsupported_format": "a picture format that is not read here",
    "too_large": "more pixels or bytes than the limit",
    "decode_error": "the picture is damaged",
    "decode_timeout": "decoding took too long",
    "decode_crash": "decoding ended the process",
    "read_error": "storage failed after retries",
    "inference_error": "the model failed on this picture",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `imagecensus report`."""

    output: str = argument("the --output folder of a classify run")
    labels: int = option(8, "labels that get a contact sheet, the most frequent first")
    examples: int = option(4, "pictures per row of a contact sheet, and examples per failure")
    sample: int = option(16, "pictures drawn at random")


def main(argv: Sequence[str]) -> int:
    options = parse_options(
        Options, argv, "imagecensus report", "Writes OUTPUT/report.html, for people to look at."
    )
    print(write_report(options.output, options.labels, options.examples, options.sample))
    return 0


def write_report(output: str, labels: int = 8, examples: int = 4, sample: int = 16) -> str:
    """Writes `report.html` into an output folder of `classify`; returns its path.

    Args:
      output: the folder, local or gs://, with at least one part in it.
      labels: labels that get a contact sheet.
      examples: pictures per row of a contact sheet, and examples per failure.
      sample: pictures drawn at random.

    Raises:
      UserError: no such folder, no part in it, or a damaged part.
    """
    with open_table(output) as table:
        facts = gather_facts(table, labels, examples, sample)
    return write_text(output, REPORT_FILE, render(facts))


def gather_facts(table: Table, labels: int, examples: int, sample: int) -> dict:
    """All that the page shows, as plain values; bounded, however long the table is."""
    statuses = count_statuses(table)
    rows = sum(statuses.values())
    predicted = statuses.get("ok", 0)
    sheets = pick_sheets(table, labels, examples)
    random_sample = pick_random(table, sample)
    tiles = [tile for sheet in sheets for tile in sheet["most"] + sheet["least"]] + random_sample
    thumbnails = make_thumbnails([tile["uri"] for tile in tiles], THUMBNAIL_SIDE)
    for tile in tiles:
        if tile["uri"] in thumbnails:
            tile["src"] = _data_uri(thumbnails[tile["uri"]])
    label_counts, label_total = count_labels(table, LABELS_SHOWN)
    return {
        "output": table.output,
        "rows": rows,
        "predicted": predicted,
        "failed": rows - predicted,
        "books": check_books(read_json(table.output, "run_report.json"), rows),
        "made": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "statuses": list(statuses.items()),
        "failures": pick_failures(table, examples),
        "labels": label_counts,
        "label_total": label_total,
        "scores": count_scores(table),
        "rate": measure_rate(part_times(table)),
        "sheets": sheets,
        "sample": random_sample,
        "archive": describe_archive(table),
        "provenance": flatten(read_json(table.output, "_imagecensus/dataset.json")),
        "evaluation": read_json(table.output, EVALUATION_FILE),
    }


def check_books(run: dict, rows: int) -> dict:
    """Whether the table holds as many rows as were listed, where the last run has told."""
    listed = run.get("listed")
    known = isinstance(listed, int)
    return {"known": known, "listed": listed, "balanced": known and listed == rows}


def count_statuses(table: Table) -> dict[str, int]:
    """Rows by status, most frequent first, "ok" ahead of all."""
    counts = table.query(
        "SELECT status, count(*) FROM predictions GROUP BY 1 ORDER BY status != 'ok', 2 DESC, 1"
    )
    return dict(counts)


def count_labels(table: Table, limit: int) -> tuple[list[dict], int]:
    """The most frequent labels with count and mean score, and how many labels there are."""
    rows = table.query(
        "SELECT label, count(*), avg(score) FROM predictions WHERE status = 'ok'"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
        limit,
    )
    [(total,)] = table.query("SELECT count(DISTINCT label) FROM predictions WHERE status = 'ok'")
    return [{"label": name, "count": n, "score": mean} for name, n, mean in rows], total


def count_scores(table: Table, bins: int = SCORE_BINS) -> list[int]:
    """Classified rows by score, in equal bins over [0, 1]."""
    counts = [0] * bins
    for index, count in table.query(
        "SELECT least(greatest(floor(score * ?), 0), ? - 1)::INT, count(*) FROM predictions"
        " WHERE status = 'ok' AND NOT isnan(score) GROUP BY 1",
        bins,
        bins,
    ):
        counts[index] = count
    return counts


def pick_sheets(table: Table, labels: int, examples: int) -> list[dict]:
    """For the most frequent labels, the rows the model is most and least certain of."""
    # The uri breaks ties, so that the same table gives the same page.
    rows = table.query(
        f"""
        SELECT label, count(*) AS n,
          max_by({_TILE}, {{s: score, u: uri}}, {int(examples)}),
          min_by({_TILE}, {{s: score, u: uri}}, {int(examples)})
        FROM predictions WHERE status = 'ok'
          AND label IN (SELECT label FROM predictions WHERE status = 'ok'
                        GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {int(labels)})
        GROUP BY 1 ORDER BY 2 DESC, 1
        """
    )
    sheets = []
    for label, count, most, least in rows:
        shown = {tile["uri"] for tile in most}
        least = [tile for tile in least if tile["uri"] not in shown]
        sheets.append({"label": label, "count": count, "most": most, "least": least})
    return sheets


def pick_random(table: Table, sample: int) -> list[dict]:
    """Classified rows drawn at random; the same ones each time, whatever the parts' order."""
    rows = table.query(
        f"SELECT {_TILE} FROM predictions WHERE status = 'ok' ORDER BY md5(uri), uri LIMIT ?",
        sample,
    )
    return [tile for (tile,) in rows]


def pick_failures(table: Table, examples: int) -> list[dict]:
    """Per status other than "ok": its count and examples."""
    rows = table.query(
        f"""
        SELECT status, count(*),
          min_by({{uri: uri, error: error, bytes: bytes}}, {{h: md5(uri), u: uri}}, {int(examples)})
        FROM predictions WHERE status != 'ok' GROUP BY 1 ORDER BY 2 DESC, 1
        """
    )
    return [{"status": name, "count": n, "examples": found} for name, n, found in rows]


def describe_archive(table: Table) -> dict:
    """What the files themselves are: formats, sizes."""
    formats = table.query(
        "SELECT coalesce(format, 'unknown'), count(*), sum(bytes) FROM predictions"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8"
    )
    [(total, largest, pixels, most_pixels)] = table.query(
        "SELECT sum(bytes), max(bytes), approx_quantile(width::BIGINT * height, 0.5),"
        " max(width::BIGINT * height) FROM predictions"
    )
    return {
        "formats": formats,
        "bytes": total,
        "largest": largest,
        "median_pixels": pixels,
        "most_pixels": most_pixels,
    }


def part_times(table: Table) -> list[tuple[float, int]]:
    """When each part was written (seconds since the epoch), and its rows; in order of time."""
    with ThreadPoolExecutor() as pool:
        rows = pool.map(lambda part: pq.read_metadata(part).num_rows, table.parts)
        times = map(os.path.getmtime, table.parts)
        return sorted(zip(times, rows, strict=True))


def measure_rate(times: list[tuple[float, int]], bins: int = RATE_BINS) -> dict | None:
    """Images per second over the time the job worked.

    Args:
      times: (second, rows) of each finished part, in order of time.

    Returns:
      `seconds` worked, `pauses` cut out, and `rates`: images/s in equal bins of that time; None
      where there are too few parts to tell. The first part has no start, so its rows do not count.
    """
    pauses, clock, marks = 0, 0.0, []
    for (before, _), (now, count) in zip(times, times[1:], strict=False):
        if now - before > PAUSE_SECONDS:
            pauses += 1
            continue
        clock += now - before
        marks.append((clock, now - before, count))
    if len(marks) < 3 or clock <= 0:
        return None
    bins = min(bins, len(marks))
    width = clock / bins
    totals = [0.0] * bins
    for end, length, count in marks:
        # A part's rows were made during the whole of its interval: spread them over its bins.
        start = end - length
        if length <= 0:
            totals[min(int(end / width), bins - 1)] += count
            continue
        index = min(int(start / width), bins - 1)
        while start < end and index < bins:
            stop = end if index == bins - 1 else min(end, (index + 1) * width)
            totals[index] += count * max(0.0, stop - start) / length
            start, index = stop, index + 1
    rates = [total / width for total in totals]
    return {"seconds": clock, "pauses": pauses, "rates": rates, "mean": sum(totals) / clock}


def flatten(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A JSON object as (dotted name, text) pairs."""
    pairs = []
    for name, value in tree.items():
        if isinstance(value, dict):
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", "" if value is None else str(value)))
    return pairs


def render(facts: dict) -> str:
    """The page. Every value is escaped by Jinja; none is marked safe."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,.0f}",
        "share": lambda part, whole: f"{part / whole:.1%}" if whole else "–",
        "size": format_bytes,
        "clip": clip,
        "basename": lambda uri: uri.rstrip("/").rsplit("/", 1)[-1] or uri,
        "duration": format_seconds,
    }
    environment.globals["meaning"] = STATUS_MEANING
    return environment.get_template("report.html.j2").render(facts)


def clip(text, length: int = 160) -> str:
    """A long text with its middle left out: a name tells most at its two ends."""
    text = "" if text is None else str(text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2]} … {text[-length // 2 :]}"


def format_bytes(count: float | None) -> str:
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def format_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


_TILE = "{uri: uri, label: label, score: score}"

if __name__ == "__main__":
    from jobs.cli import run_job

    sys.exit(run_job("jobs.report", sys.argv[1:]))
