"""Merges the parts of a dataset into few, sorted by uri, at once for those who read meanwhile.

A merged part is the part of a unit as any other, of up to 131,072 rows: reruns revise and retry it,
and the ledger knows it. The plan is written anew with it, so that both are of the same units.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.dataset import inventory, ledger, merging, parts
from imagecensus.transforms.dataset.inventory import Inventory
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.merging import Merge
from imagecensus.transforms.dataset.sorted_rows import SortedRows
from imagecensus.transforms.dataset.work_plan import (
    WHOLE,
    Plan,
    PlanWriter,
    find_references,
    read_plan,
    read_planned,
    unit_name,
)
from imagecensus.transforms.records import TAKEN_COLUMN, Unit
from imagecensus.transforms.storage import store

ROWS = 131_072
_BYTES = 256 << 20  # of a part in memory: rows with embeddings are large
_AT_ONCE = 32_768  # rows that are read between two writes, or those of one part
_READERS = 8
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compacted:
    """What a merge came to.

    Attributes:
      rows: of the table.
      before, after: how many parts there were, and are.
      pending: units that have no part yet: they stay as they are.
    """

    rows: int
    before: int
    after: int
    pending: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """What is merged, and how."""

    layout: Layout
    plan: Plan
    present: Inventory
    fingerprint: str
    rows_per_part: int
    check_held: Callable[[], None]


def compact(
    layout: Layout, fingerprint: str, run_id: str, rows_per_part: int = ROWS, *,
    check_held: Callable[[], None] = lambda: None,
) -> Compacted:  # fmt: skip
    """Merges all parts. The caller holds the lock of the output and has raised its number.

    `check_held` raises where another run has taken the output over.

    Raises:
      UserError: the output holds parts that no plan knows.
      StorageError: a file cannot be read or written; the table is as it was.
    """
    recover(layout)
    plan = read_plan(layout.state)
    known = ledger.read_ledger(layout.state)
    present = inventory.take_inventory(layout.parts, plan, fingerprint, known)
    unplanned = remove_late(layout.state, present.unplanned, fingerprint)
    if unplanned:
        raise UserError(
            f"{unplanned[0]}: not in this dataset's plan; move it away, or run classify"
        )
    before = len(parts.list_part_files(layout.parts))
    rows, pending = present.totals.rows, len(present.pending)
    if before <= -(-rows // rows_per_part):
        return Compacted(rows=rows, before=before, after=before, pending=pending)
    number = _merged_plan_files(layout)
    task = _Task(
        layout=layout, plan=plan, present=present, fingerprint=fingerprint,
        rows_per_part=rows_per_part, check_held=check_held,
    )  # fmt: skip
    merge = Merge(id=f"c{number:04d}{run_id[:4]}", done=False, beside=store.is_bucket(layout.parts))
    try:
        after = _merge(task, merge)
    except OSError as error:
        if merge.beside or error.errno not in _CANNOT:
            raise
        recover(layout)  # this file system exchanges no folders: as in a store, then
        merge = dataclasses.replace(merge, beside=True)
        after = _merge(task, merge)
    return Compacted(rows=rows, before=before, after=after, pending=pending)


def recover(layout: Layout) -> None:
    """Ends a merge that was killed: undone before its files counted, else done."""
    merge = merging.read_merge(layout.state, layout.parts)
    if merge is None:
        return
    for folder in (layout.state, layout.parts):
        for name in store.list_names(folder):
            if name.startswith(("part-", "plan-")) and not merge.counts(name):
                store.delete(store.join(folder, name))
    if not merge.beside:
        shutil.rmtree(_aside(layout), ignore_errors=True)
    merging.forget(layout.state)


def remove_late(state: str, unplanned: list[str], fingerprint: str) -> list[str]:
    """Removes parts of units that a merge took up before a worker, which was late, wrote them.

    Each of their images is in the plan with another unit: their rows would count twice.

    Args:
      state: folder of the dataset's state.
      unplanned: locations of parts that may be of no unit of the plan.
      fingerprint: of the dataset.

    Returns:
      The other parts.
    """
    merged = any(map(_is_merged_plan, store.list_names(state))) if unplanned else False
    if not merged:
        return unplanned
    units = read_plan(state).current
    left = []
    for location in unplanned:
        if parts.unit_of(location) not in units and _is_planned(state, location, fingerprint):
            LOGGER.warning("%s: was written after its rows had been merged; removed", location)
            store.delete(location)
        else:
            left.append(location)
    return left


def _is_planned(state: str, location: str, fingerprint: str) -> bool:
    """Whether a part is one of this dataset, and the plan has each of its images."""
    try:
        rows = parts.read_part(location, ["uri"])
        made_by = json.loads(rows.schema.metadata[parts.PROVENANCE_KEY])
    except Exception:  # Arrow raises a dozen types for damaged files
        return False
    uris = rows.column("uri").to_pylist()
    planned = find_references(state, uris)
    return made_by.get("fingerprint") == fingerprint and len(planned) == len(uris)


def recover_or_refuse(layout: Layout) -> None:
    """What a run does before it reads the plan. Raises UserError for a shard of merged parts."""
    if layout.shard == WHOLE:
        recover(layout)
    elif _merged_plan_files(layout):
        raise UserError(
            f"{layout.output}: `imagecensus compact` has merged the parts of all shards; go on"
            " without --shard"
        )


def _merge(task: _Task, merge: Merge) -> int:
    """Writes all anew, lets it count, removes the rest; returns how many parts there are."""
    layout, present = task.layout, task.present
    pending = {unit.name: unit for unit in present.pending}
    bases = {
        parts.part_location("", pending[name], revision).rpartition("/")[2]
        for name, revision in present.bases.items()
    }
    merge = dataclasses.replace(merge, kept=frozenset(bases))
    folder = layout.parts if merge.beside else _aside(layout)
    version = merge.begin(layout.state)
    if not merge.beside:
        store.make_folders(folder)
        _check_exchange(folder)
    fault_injection.reached("compaction.begun")
    try:
        writer = PlanWriter(layout.state, tag=f"{merge.id}-", before_writing=task.check_held)
        made = _write_merged(task, writer, merge.id, folder)
        for unit in pending.values():
            writer.add(unit, read_planned(unit))
        writer.flush()
        fault_injection.reached("compaction.written")
        task.check_held()
    except store.StorageError:
        _withdraw(layout, merge)
        raise
    if merge.beside:
        merge.finish(layout.state, version)
    else:
        for name in bases:
            os.link(store.join(layout.parts, name), store.join(folder, name))
        _exchange(folder, layout.parts)
    fault_injection.reached("compaction.done")
    recover(layout)
    _renew_ledger(layout, task.fingerprint, merge.id)
    return made + len(bases)


def _withdraw(layout: Layout, merge: Merge) -> None:
    """Removes what a merge wrote that does not count: another run may have forgotten it already."""
    for folder in (layout.state, layout.parts):
        for name in store.list_names(folder):
            if merge.is_own(name):
                store.delete(store.join(folder, name))


def _write_merged(task: _Task, writer: PlanWriter, name: str, folder: str) -> int:
    """Writes the parts of all units that have one, in order of uri; returns how many."""
    present, fingerprint = task.present, task.fingerprint
    units = [unit for unit in task.plan.units if unit.name in present.parts]
    with SortedRows("uri") as rows, SortedRows("uri") as refs:
        made_by = _gather_rows(rows, units, present)
        for some in _some_at_a_time(units):
            tables = [pa.Table.from_batches([read_planned(unit)]) for unit in some]
            refs.add(_without_taken(pa.concat_tables(tables, promote_options="permissive")))
        size = min(task.rows_per_part, max(1, _BYTES // _row_bytes(rows.schema)))
        number = -1
        pairs = zip(refs.batches(size), rows.batches(size), strict=True)
        for number, (planned, table) in enumerate(pairs):
            unit = Unit(
                name=f"{name}-{number:05d}", plan="", row_group=0, rows=planned.num_rows,
                digest=unit_name(planned, fingerprint),
            )  # fmt: skip
            task.check_held()
            parts.write_part(folder, unit, table, made_by | {"fingerprint": fingerprint})
            writer.add(unit, planned.combine_chunks().to_batches()[0])
    return number + 1


def _some_at_a_time(units: list[Unit]) -> Iterator[list[Unit]]:
    """Units whose rows fit into memory together: parts may be large, of an earlier merge."""
    some: list[Unit] = []
    rows = 0
    for unit in units:
        if some and rows + unit.rows > _AT_ONCE:
            yield some
            some, rows = [], 0
        some.append(unit)
        rows += unit.rows
    if some:
        yield some


def _gather_rows(rows: SortedRows, units: list[Unit], present: Inventory) -> dict[str, Any]:
    """Reads all parts; returns what the footers of the merged ones say."""
    made_by: dict[str, Any] = {}
    runs: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        for some in _some_at_a_time(units):
            locations = [present.parts[unit.name].file.location for unit in some]
            tables = list(pool.map(parts.read_part, locations))
            for table in tables:
                made_by = json.loads((table.schema.metadata or {}).get(parts.PROVENANCE_KEY, b"{}"))
                runs.update(made_by.pop("run_ids", ()), {str(made_by.pop("run_id", ""))})
            plain = [table.replace_schema_metadata() for table in tables]
            rows.add(pa.concat_tables(plain, promote_options="permissive").unify_dictionaries())
    return made_by | {"run_ids": sorted(runs - {""})}


def _without_taken(rows: pa.Table) -> pa.Table:
    """Rows of the plan without what their last revision took over."""
    return rows.drop_columns([TAKEN_COLUMN]) if TAKEN_COLUMN in rows.schema.names else rows


def _row_bytes(schema: pa.Schema) -> int:
    """About what a row takes in memory."""
    at = schema.get_field_index("embedding")
    return 1000 + (4 * schema.field(at).type.list_size if at >= 0 else 0)


def _renew_ledger(layout: Layout, fingerprint: str, name: str) -> None:
    """Looks at what was written, and notes only that."""
    found = inventory.take_inventory(layout.parts, read_plan(layout.state), fingerprint)
    if found.damaged:
        raise UserError(
            f"{found.damaged[0]}: was damaged while it was written; run classify again: it redoes"
            " these rows"
        )
    ledger.replace_ledger(layout.state, name, found.ledger)


def _merged_plan_files(layout: Layout) -> int:
    return sum(map(_is_merged_plan, store.list_names(layout.state)))


def _is_merged_plan(name: str) -> bool:
    return name.startswith("plan-c")


def _aside(layout: Layout) -> str:
    return store.join(layout.state, "compacting")


def _check_exchange(folder: str) -> None:
    """Raises OSError where this file system exchanges no folders."""
    one, other = (os.path.join(folder, name) for name in ("one", "other"))
    os.mkdir(one)
    os.mkdir(other)
    _exchange(one, other)
    os.rmdir(one)
    os.rmdir(other)


def _exchange(one: str, other: str) -> None:
    """Two folders get each other's name, in one step. Raises OSError."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # no Linux
        raise OSError(errno.ENOSYS, "folders cannot be exchanged here") from None
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), one)
