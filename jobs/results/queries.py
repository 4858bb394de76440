"""What the report shows, asked of the table: counts and a fixed number of examples.

Everything here is bounded, however long the table is: DuckDB counts, and keeps only the best few.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from imagecensus.jobs.results.open_table import Table
from imagecensus.transforms.dataset import inventory
from imagecensus.transforms.dataset.layout import identity_in

LABELS_SHOWN = 40
SCORE_BINS = 20
RATE_BINS = 60
PAUSE_SECONDS = 600  # nothing finished for so long: the run was stopped, not slow
INSTANT_SECONDS = 1e-3  # parts that finished within it give no rate
_PROVENANCE = ("inputs", "started", "finished", "model", "engine", "runner", "run_id", "versions")
_TILE = "{uri: uri, label: label, score: score}"


def check_totals(run: dict[str, Any], rows: int) -> dict[str, Any] | None:
    """Whether the table holds a row for each image ever listed; None where no run has reported it.

    Args:
      run: what run_report.json holds.
      rows: of the table, as counted now.
    """
    totals = run.get("totals") or run.get("books")  # the name until 0.1
    if not isinstance(totals, dict) or not isinstance(totals.get("images"), int):
        return None
    listed = totals["images"]
    return {"listed": listed, "pending": max(listed - rows, 0), "balanced": listed == rows}


def count_statuses(table: Table) -> dict[str, int]:
    """Rows by status, most frequent first, "ok" ahead of all."""
    counts = table.query(
        "SELECT status, count(*) FROM predictions GROUP BY 1 ORDER BY status != 'ok', 2 DESC, 1"
    )
    return dict(counts)


def count_no_images(table: Table, rows: str = "predictions") -> int:
    """Rows of files that did not fail, but are no images, as their names say.

    Args:
      rows: what to count in: a relation with `uri` and `status`.
    """
    answer = table.connection.execute(f"SELECT uri, status FROM {rows} WHERE status != 'ok'")
    some = iter(lambda: answer.fetchmany(10_000), [])
    return inventory.count_no_images(itertools.chain.from_iterable(some))


def count_labels(table: Table) -> tuple[list[dict[str, Any]], int]:
    """The most frequent labels with count and mean score, and how many labels there are."""
    rows = table.query(
        "SELECT label, count(*), avg(score) FROM predictions WHERE status = 'ok'"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
        LABELS_SHOWN,
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


def pick_sheets(table: Table, labels: int, examples: int) -> list[dict[str, Any]]:
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


def pick_random(table: Table, sample: int) -> list[dict[str, Any]]:
    """Classified rows drawn at random; the same ones each time, whatever the parts' order."""
    rows = table.query(
        f"SELECT {_TILE} FROM predictions WHERE status = 'ok' ORDER BY md5(uri), uri LIMIT ?",
        sample,
    )
    return [tile for (tile,) in rows]


def pick_failures(table: Table, examples: int) -> list[dict[str, Any]]:
    """Per status other than "ok": its count and examples."""
    example = "{uri: uri, error: error, bytes: bytes, format: format}"
    rows = table.query(
        f"""
        SELECT status, count(*), min_by({example}, {{h: md5(uri), u: uri}}, {int(examples)})
        FROM predictions WHERE status != 'ok' GROUP BY 1 ORDER BY 2 DESC, 1
        """
    )
    return [{"status": name, "count": n, "examples": found} for name, n, found in rows]


def describe_archive(table: Table) -> dict[str, Any]:
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


def measure_rate(times: list[tuple[float, int]], bins: int = RATE_BINS) -> dict[str, Any] | None:
    """Images per second over the time the job worked.

    Args:
      times: (second, rows) of each finished part, in order of time.

    Returns:
      `seconds` worked, `pauses` cut out, and `rates`: images/s in equal bins of that time; None
      where there are too few parts to say. The first part has no start, so its rows do not count.
    """
    pauses, clock, marks = 0, 0.0, []
    for (before, _), (now, count) in itertools.pairwise(times):
        if now - before > PAUSE_SECONDS:
            pauses += 1
            continue
        clock += now - before
        marks.append((clock, now - before, count))
    if len(marks) < 3 or clock < INSTANT_SECONDS:
        return None
    bins = min(bins, len(marks))
    width = clock / bins
    totals = [0.0] * bins
    for end, length, count in marks:
        # A part's rows were made during the whole of its interval: spread them over its bins.
        start = end - length
        if length < INSTANT_SECONDS / 1000:  # too short to divide by
            totals[min(int(end / width), bins - 1)] += count
            continue
        index = min(int(start / width), bins - 1)
        while start < end and index < bins:
            stop = end if index == bins - 1 else min(end, (index + 1) * width)
            totals[index] += count * max(0.0, stop - start) / length
            start, index = stop, index + 1
    rates = [total / width for total in totals]
    return {"seconds": clock, "pauses": pauses, "rates": rates, "mean": sum(totals) / clock}


def last_rate(run: dict[str, Any]) -> float | None:
    """Images per second as the last run reported it, for tables of too few parts to show it."""
    rates = run.get("rates")
    rate = rates.get("images_per_second") if isinstance(rates, dict) else None
    return rate if isinstance(rate, int | float) else None


def list_provenance(run: dict[str, Any], dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """What made the table, as (name, text) pairs."""
    provenance = {name: run[name] for name in _PROVENANCE if name in run}
    return flatten(provenance | {"fingerprint": dataset.get("fingerprint")}) + flatten(
        identity_in(dataset)
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A JSON object as (dotted name, text) pairs."""
    pairs = []
    for name, value in tree.items():
        if isinstance(value, dict):
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            if isinstance(value, list):
                value = ", ".join(map(str, value))
            pairs.append((f"{prefix}{name}", "" if value is None else str(value)))
    return pairs
