"""The totals of a run: `run_report.json`, and the summary that the user reads."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import platform
import time
from typing import Any

from imagecensus.jobs.command import process
from imagecensus.model_export.common.ignored_names import left_out_text
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.common.version import __version__
from imagecensus.transforms.dataset.delta_table import Committed
from imagecensus.transforms.dataset.inventory import Totals
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.plan_units import Planned
from imagecensus.transforms.engines.registry import ENGINES
from imagecensus.transforms.local_run import LocalRun
from imagecensus.transforms.storage import store

_PACKAGES = ("apache-beam", "openvino", "tensorflow", "pillow", "pyarrow", "numpy")
_SHOWN_LABELS = 8
_SHOWN_GONE = 1000  # of the images that are gone, in the report
_NOTED = {
    "images_with_more_pages": (
        "file",
        "with more pages or frames than the one that was seen (--pages all sees all)",
    ),
    "images_copied": ("image", "with the same bytes as another one, inferred once"),
    "images_depth_scaled": ("image", "of more than 8 bits, scaled by the range of its values"),
    "images_colour_converted": ("image", "converted from the colour profile"),
}


@dataclasses.dataclass(kw_only=True)
class Run:
    """What happened, gathered while a run goes on."""

    run_id: str
    started: float
    inputs: tuple[str, ...]
    model: str
    model_name: str
    model_digest: str
    fingerprint: str
    engine: str
    runner: str
    precision: str = "f32"
    precision_reason: str = ""
    planned: Planned | None = None
    images: int = 0  # classified in this run
    seconds: float = 0.0  # of the pipeline
    steady_seconds: float = 0.0  # of that, after the model was loaded
    stage_cpu: dict[str, Any] = dataclasses.field(default_factory=dict)
    stage_wall: dict[str, Any] = dataclasses.field(default_factory=dict)
    start_cpu: float = dataclasses.field(default_factory=process.cpu_at_start)
    counters: dict[str, Any] = dataclasses.field(default_factory=dict)
    slow: list[Any] = dataclasses.field(default_factory=list)  # slowest first: uri, stage, seconds
    calls: list[str] = dataclasses.field(default_factory=list)  # of engines that measured theirs
    damaged: int = 0
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)  # of the inputs, by kind
    drop_gone: bool = False
    interrupted: bool = False
    template: str = ""  # where the pipeline was written, in place of being run
    left: str = ""  # the job that was left running
    delta: Committed | None = None  # what the output's Delta table got of it

    def add_stage(self, stage: str, cpu: float, wall: float) -> None:
        self.stage_cpu[stage] = cpu
        self.stage_wall[stage] = wall

    def add_stages(self, stages: LocalRun) -> None:
        """Adds what the pipeline's stages took; call when it has ended.

        `start` is everything before the first image but listing; `overhead` is what the process
        used beside the stages after that: Beam, Arrow, totals. For workers elsewhere both are
        those of this process alone.
        """
        listing = self.stage_cpu.get("list", 0.0)
        here = sum(stages.cpu.values()) - stages.cpu_elsewhere
        overhead = time.process_time() - stages.ready_cpu - here
        steady = time.monotonic() - stages.ready_wall
        start = time.time() - self.started - steady - self.stage_wall.get("list", 0.0)
        self.add_stage("start", stages.ready_cpu - self.start_cpu - listing, start)
        for stage in stages.cpu:
            self.add_stage(stage, stages.cpu[stage], stages.wall[stage])
        self.add_stage("overhead", overhead, 0.0)
        self.steady_seconds = steady

    def provenance(self) -> dict[str, Any]:
        """What the footer of a part says of how it was made."""
        return {
            "fingerprint": self.fingerprint,
            "model_digest": self.model_digest,
            "model_name": self.model_name,
            "engine": self.engine,
            "precision": self.precision,
            "run_id": self.run_id,
            "version": __version__,
        }


def count_totals(run: Run, totals: Totals, planned_rows: int, pending_rows: int) -> dict[str, Any]:
    """The counts that must balance, and whether they do.

    listed = added + already_listed + changed + duplicates, for this run's inputs;
    images = rows + pending, rows = predicted + failed + not_images, for the dataset. What was left
    out of the inputs by rule is counted beside these, by kind; `raw_pairs` of the listed ones are
    raw files beside the JPEG or HEIC of the same shot.
    """
    planned = run.planned
    assert planned is not None  # totals are counted after planning
    return {
        "listed": planned.listed,
        "already_listed": planned.known,
        "changed": planned.changed,
        "duplicates": planned.duplicates,
        "added": planned.added,
        "updated": planned.updated,
        "moved": planned.moved,
        "gone": len(planned.gone),
        "unlisted": len(planned.unlisted),
        "raw_pairs": planned.raw_pairs,
        "images": planned_rows,
        "rows": totals.rows,
        "predicted": totals.predicted,
        "failed": totals.failed,
        "not_images": totals.not_images,
        "left_out": {kind: count for kind, count in run.left_out.items() if count},
        "pending": pending_rows,
        "balanced": (
            planned.listed == planned.added + planned.known + planned.changed + planned.duplicates
            and planned_rows == totals.rows + pending_rows
            and totals.rows == totals.predicted + totals.failed + totals.not_images
            and (pending_rows == 0 or run.interrupted)
        ),
    }


def write_run_report(
    layout: Layout, run: Run, totals: Totals, counts: dict[str, Any]
) -> dict[str, Any]:
    """Writes `run_report.json` and returns what it holds."""
    planned = run.planned
    assert planned is not None  # totals are counted after planning
    report = {
        "run_id": run.run_id,
        "started": _utc(run.started),
        "finished": _utc(time.time()),
        "interrupted": run.interrupted,
        "totals": counts,
        "books": counts,  # the name until 0.1
        "gone": list(planned.gone[:_SHOWN_GONE]),
        "unlisted": list(planned.unlisted[:_SHOWN_GONE]),
        "parts": totals.parts,
        "delta": dataclasses.asdict(run.delta) if run.delta else None,
        "statuses": dict(totals.statuses.most_common()),
        "labels": dict(totals.labels.most_common()),
        "rates": {
            "images": run.images,
            "seconds": round(run.seconds, 3),
            "images_per_second": round(run.images / run.seconds, 2) if run.seconds else None,
            "steady_seconds": round(run.steady_seconds, 3),
            "cpu_seconds_by_stage": {k: round(v, 3) for k, v in run.stage_cpu.items()},
            "wall_seconds_by_stage": {k: round(v, 3) for k, v in run.stage_wall.items()},
        },
        "counters": run.counters,
        "slow_images": run.slow,
        "inputs": [redact(text) for text in run.inputs],
        "model": {"location": run.model, "name": run.model_name, "digest": run.model_digest},
        "fingerprint": run.fingerprint,
        "engine": _engines(run),
        "precision": run.precision,
        "precision_reason": run.precision_reason,
        "calls": run.calls,
        "runner": run.runner,
        "dropped_gone": run.drop_gone,
        "damaged_parts_redone": run.damaged,
        "versions": versions(),
    }
    store.write(layout.run_report, (json.dumps(report, indent=1) + "\n").encode())
    return report


def write_gone(layout: Layout, gone: tuple[str, ...]) -> None:
    """Writes the list of images that are gone, or removes the one of an earlier run."""
    if not gone:
        store.delete(layout.gone)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["uri"], *([uri] for uri in gone)])
    store.write(layout.gone, text.getvalue().encode())


def _engines(run: Run) -> str:
    """The engines that answered, where workers have chosen; else the one of the run."""
    used = [name for name in ENGINES if run.counters.get(f"images_in_{name}")]
    return " and ".join(used) or run.engine


def summary(layout: Layout, report: dict[str, Any]) -> str:
    """One screen for the user."""
    counts, rates = report["totals"], report["rates"]
    lines = []
    if rates["images"]:
        lines.append(
            f"classified {counted(rates['images'], 'image')} in {rates['seconds']:,.1f} s"
            f" ({rates['images_per_second']:,.1f} images/s, {report['engine']}"
            f" {report['precision']})"
        )
    else:
        lines.append("nothing new to classify")
    if report["precision_reason"]:
        lines.append(f"precision  {report['precision']}: {report['precision_reason']}")
    if report["calls"]:
        lines.append(f"calls      {'; '.join(report['calls'])}")
    lines.append(listed_line(counts))
    if counts["left_out"]:
        lines.append(f"left out   {left_out_text(counts['left_out'])}")
    lines += _changes(layout, report)
    lines += dataset_lines(counts, report["statuses"])
    labels = list(report["labels"].items())
    if labels:
        shown = ", ".join(f"{v:,} {k}" for k, v in labels[:_SHOWN_LABELS])
        more = f", and {len(labels) - _SHOWN_LABELS:,} more" if len(labels) > _SHOWN_LABELS else ""
        lines.append(f"labels     {shown}{more}")
    if report["slow_images"]:
        slowest = report["slow_images"][0]
        count = report["counters"].get("images_slow", len(report["slow_images"]))
        lines.append(
            f"slow       {counted(count, 'image')} took over a second; longest:"
            f" {slowest['seconds']:,.1f} s to {slowest['stage']} {slowest['uri']}"
        )
    noted = [
        f"{counted(report['counters'][name], noun)} {text}"
        for name, (noun, text) in _NOTED.items()
        if report["counters"].get(name)
    ]
    if counts["raw_pairs"]:
        noted.append(f"{counted(counts['raw_pairs'], 'raw file')} beside a JPEG or HEIC (raw_of)")
    if noted:
        lines.append("noted      " + "; ".join(noted))
    lines.append(f"table      {layout.parts}")
    if report["delta"]:
        changes = "{added:,} files added, {removed:,} removed".format(**report["delta"])
        lines.append(
            f"delta      {store.join(layout.output, 'delta')}, version"
            f" {report['delta']['version']:,} ({changes})"
        )
    lines.append(f"run report {layout.run_report}")
    return "\n".join(lines)


def _changes(layout: Layout, report: dict[str, Any]) -> list[str]:
    """What became of rows that were there before."""
    counts, lines = report["totals"], []
    if report["damaged_parts_redone"]:
        lines.append(
            f"damaged    {counted(report['damaged_parts_redone'], 'part')} did not hold the rows of"
            " their units: written again"
        )
    if counts["updated"]:
        lines.append(
            f"updated    {counted(counts['updated'], 'row')} took over a list's new values"
        )
    if counts["moved"]:
        lines.append(f"moved      {counted(counts['moved'], 'row')} went along with what moved")
    if counts["gone"]:
        what = "removed" if report["dropped_gone"] else "kept; --drop-gone removes them"
        lines.append(
            f"gone       {counted(counts['gone'], 'image')} not listed any more, see {layout.gone}"
            f" (rows {what})"
        )
    return lines


def listed_line(counts: dict[str, Any]) -> str:
    """What became of what was listed."""
    return (
        f"listed     {counts['listed']:,} = {counts['added']:,} new"
        f" + {counts['already_listed']:,} known + {counts['changed']:,} changed"
        f" + {counted(counts['duplicates'], 'duplicate')}"
    )


def dataset_lines(counts: dict[str, Any], statuses: dict[str, int]) -> list[str]:
    """The totals of a dataset, and the statuses of its rows without a prediction.

    Args:
      counts: `images`, `predicted`, `failed`, `not_images`, `pending` and `balanced`.
      statuses: rows by status.
    """
    verdict = "balanced" if counts["balanced"] else "NOT BALANCED"
    pending = f" + {counts['pending']:,} pending" if counts["pending"] else ""
    no_image = "that is no image" if counts["not_images"] == 1 else "that are no images"
    others = f" + {counts['not_images']:,} {no_image}" if counts["not_images"] else ""
    equation = (
        f"{counted(counts['images'], 'file' if others else 'image')} ="
        f" {counts['predicted']:,} predicted + {counts['failed']:,} failed{others}{pending}"
    )
    lines = [f"dataset    {equation}  ({verdict})"]
    unpredicted = [f"{count:,} {name}" for name, count in statuses.items() if name != "ok"]
    if unpredicted:
        lines.append("statuses   " + ", ".join(unpredicted))
    return lines


def versions() -> dict[str, str | None]:
    """Of this package, Python and the packages that decide what rows say; None: not installed."""
    found: dict[str, str | None] = {"imagecensus": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
