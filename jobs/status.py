"""`imagecensus status`: what an output holds, what is to be done, what runs. Changes nothing."""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("status")

import dataclasses
import json
import re

from imagecensus.jobs.classification.remote_job import RUNNING, UNKNOWN, read_job, state_of
from imagecensus.jobs.classification.run_report import dataset_lines
from imagecensus.jobs.options.status import StatusOptions
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.dataset import inventory, ledger, work_plan
from imagecensus.transforms.dataset.layout import Layout, dataset_fingerprint
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.lock import Lock

_SHARD_LOCK = re.compile(r"lock-s(\d+)of(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputStatus:
    """What is there, in images but for `parts` and the lists.

    Attributes:
      planned: whether a run has listed its inputs to their end.
      images: ever listed, and not dropped since.
      rows: of the table: `predicted`, `failed`, and `not_images`, whose names
        say that they are none.
      pending: images without a row yet.
      damaged, unplanned: locations of parts that do not count.
      running: who works on it, a line each.
      unknown: jobs of which it cannot be known whether they run.
      balanced: whether every image is exactly one row, or pending.
    """

    planned: bool
    images: int
    rows: int
    predicted: int
    failed: int
    not_images: int
    pending: int
    parts: int
    statuses: dict[str, int]
    damaged: list[str]
    unplanned: list[str]
    running: list[str]
    unknown: list[str]
    balanced: bool

    @property
    def complete(self) -> bool:
        return self.planned and self.balanced and not self.pending


def main(options: StatusOptions) -> int:
    found = read_status(options.output)
    print(json.dumps(dataclasses.asdict(found)) if options.json else describe(found))
    return 0 if found.complete else 1


def read_status(output: str) -> OutputStatus:
    """What there is of an output, local or in a store. Parts that the ledger knows are not read.

    Raises:
      UserError: no output there, or its plan is damaged.
    """
    layout = Layout(output=output.rstrip("/"))
    fingerprint = dataset_fingerprint(layout)
    running, unknown = _running(layout)
    plan = work_plan.read_plan(layout.state)
    known = ledger.read_ledger(layout.state)
    present = inventory.take_inventory(layout.parts, plan, fingerprint, known)
    totals = present.totals
    images = sum(unit.rows for unit in plan.units)
    pending = sum(unit.rows for unit in present.pending)
    return OutputStatus(
        planned=bool(plan.files), images=images, rows=totals.rows,
        predicted=totals.predicted, failed=totals.failed,
        not_images=totals.not_images, pending=pending, parts=totals.parts,
        statuses=dict(totals.statuses.most_common()),
        damaged=present.damaged, unplanned=present.unplanned, running=running, unknown=unknown,
        balanced=images == totals.rows + pending and not present.unplanned,
    )  # fmt: skip


def _running(layout: Layout) -> tuple[list[str], list[str]]:
    """Who works on an output or its shards, and jobs of which that is not known."""
    running, unknown = [], []
    for one in (layout, *_shards(layout)):
        try:
            Lock(one.lock).check()
        except store.StorageError as error:
            holder = re.search(r"\((.*?)\)", str(error))
            running.append(f"{holder[1] if holder else 'another run'} holds the lock")
        job = read_job(one)
        state = state_of(job, one) if job else ""
        if state == RUNNING:
            running.append(str(job))
        elif state == UNKNOWN:
            unknown.append(str(job))
    return running, unknown


def _shards(layout: Layout) -> list[Layout]:
    found = [_SHARD_LOCK.fullmatch(name) for name in store.list_names(layout.state)]
    return [
        dataclasses.replace(layout, shard=(int(match[1]), int(match[2])))
        for match in found
        if match
    ]


def describe(found: OutputStatus) -> str:
    """The status for the user."""
    first, *rest = dataset_lines(dataclasses.asdict(found), found.statuses)
    lines = [f"{first}, in {counted(found.parts, 'part')}", *rest]
    lines += [f"running    {who}" for who in found.running]
    lines += [f"unknown    {job}: its runner does not answer" for job in found.unknown]
    for name, locations in (("damaged", found.damaged), ("unplanned", found.unplanned)):
        if locations:
            lines.append(f"{name:<10} {counted(len(locations), 'part')} left out: {locations[0]}")
    if not found.running:
        nothing = "nothing runs"
        if not found.planned:
            nothing += ", and no run has listed its inputs to their end; run the command again"
        elif found.pending:
            nothing += "; run the same classify command again to do what is pending"
        lines.append(f"running    {nothing}")
    return "\n".join(lines)
