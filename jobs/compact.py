"""`imagecensus compact`: the many small parts of a finished table as few large ones."""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("compact")

import uuid

from imagecensus.jobs.classification.remote_job import RUNNING, read_job, state_of
from imagecensus.jobs.options.compact import CompactOptions
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.dataset import compaction, delta_table
from imagecensus.transforms.dataset.epoch import raise_epoch
from imagecensus.transforms.dataset.layout import Layout, dataset_fingerprint


def main(options: CompactOptions) -> int:
    print(summary(options.output, compact(options.output)))
    return 0


def compact(output: str) -> compaction.Compacted:
    """Merges the parts of an output, local or in a store.

    Raises:
      UserError: no table there, or a run is writing to it.
    """
    layout = Layout(output=output.rstrip("/"))
    fingerprint = dataset_fingerprint(layout)
    run_id = uuid.uuid4().hex[:12]
    delta = delta_table.exists(layout)
    if delta:
        delta_table.check_library()
    with layout.locked() as lock:
        job = read_job(layout)
        if job and state_of(job, layout) == RUNNING:
            raise UserError(f"{job} runs for this output; wait for it, or cancel it")
        raise_epoch(layout.epoch, run_id)  # workers that outlived their run write nothing more
        done = compaction.compact(layout, fingerprint, run_id, check_held=lock.check_held)
        lock.check_held()
        if delta:
            about = {"run_id": run_id, "rows": done.rows, "compacted": True}
            delta_table.commit(layout, (), about, lock.check_held)
    return done


def summary(output: str, done: compaction.Compacted) -> str:
    """One line for the user, and another where images are to be classified yet."""
    rows, parts = counted(done.rows, "row"), counted(done.before, "part")
    if done.before == done.after:
        text = f"{output}: {rows} in {parts} already; nothing to merge"
    else:
        text = f"{output}: {rows}, {parts} merged into {done.after:,}"
    if done.pending:
        text += f"\n{counted(done.pending, 'unit')} without a part yet; run classify again"
    return text
