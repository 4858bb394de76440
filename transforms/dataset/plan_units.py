"""Plans the work of a run: units for new images, revisions of units whose images are others now."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.redact import redact_column
from imagecensus.transforms.dataset.compare import Compared, Comparison, Edit
from imagecensus.transforms.dataset.moves import same_content
from imagecensus.transforms.dataset.work_plan import (
    UNIT_ROWS,
    WHOLE,
    Plan,
    PlanError,
    PlanWriter,
    read_plan,
    read_planned,
    unit_name,
)
from imagecensus.transforms.inputs.column_types import as_text
from imagecensus.transforms.records import (
    LISTED_COLUMNS,
    PLAN_COLUMNS,
    REF_FIELDS,
    TAKEN_COLUMN,
    Unit,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Revising:
    """How units that are in the plan already are revised.

    Attributes:
      whole: what was listed to its end, see `Comparison.judge`; None: nothing is called gone.
      drop_gone: the rows of images that are gone are removed.
      bases: unit name → the revision of the part that it has now; others have none.
      retry: names of the units whose failed rows are classified again.
      failed: unit name → the uris of its failed rows.
      relocate: images under the first uri have moved to the second one, with their rows.
      hashes: unit name → the hashes of the bytes of its images, by uri.
    """

    whole: tuple[str, ...] | None = None
    drop_gone: bool = False
    bases: dict[str, int] = dataclasses.field(default_factory=dict)
    retry: frozenset[str] = frozenset()
    failed: Callable[[str], set[str]] = lambda name: set()
    relocate: tuple[str, str] | None = None
    hashes: Callable[[str], dict[str, str]] = lambda name: {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned(Compared):
    """What planning came to: `listed` = `added` + `known` + `changed` + `duplicates`, in images."""

    added: int
    units: list[Unit]
    again: dict[tuple[str, int], int]  # of revised units: how many images are classified again
    plan: Plan


def plan_units(
    references: Iterable[pa.RecordBatch],
    folder: str,
    fingerprint: str,
    *,
    passthrough: pa.Schema,
    unit_rows: int = UNIT_ROWS,
    limit: int | None = None,
    shard: tuple[int, int] = WHOLE,
    dry_run: bool = False,
    plan: Plan | None = None,
    revising: Revising | None = None,
    before_writing: Callable[[], None] = lambda: None,
) -> Planned:
    """Appends to the plan: units of the new images, and revisions of those that have changed.

    Args:
      references: batches from `list_images`; they may have `LISTED_COLUMNS`.
      folder: where the plan lives.
      fingerprint: of the dataset; goes into the units' names.
      passthrough: the manifests' columns of this dataset; images that lack them get nulls.
      unit_rows: images per unit, the bound of a part's rows.
      limit: stop listing after so many images.
      shard: (i, n): only the images of shard i of n.
      dry_run: count, write nothing.
      plan: of the folder, where it was read already.
      revising: how units of the plan are revised.
      before_writing: called when all is listed, and before each file; what it raises ends the
        planning.
    """
    plan = plan if plan is not None else read_plan(folder, shard)
    revising = revising or Revising()
    own = [pa.field(name, pa.string()) for name in LISTED_COLUMNS]
    schema = pa.schema([*REF_FIELDS, *passthrough, *own])
    with Comparison(plan, schema, revising.relocate, keep_indexes=not dry_run) as comparison:
        cut = _gather(references, comparison, schema, limit, shard)
        compared = comparison.judge(None if cut else revising.whole)
        gone = frozenset(compared.gone)
        moves = same_content(comparison.likely_moves(), plan, revising.hashes, gone)
        compared = comparison.take_moves(moves, compared)
        before_writing()
        writer = PlanWriter(
            folder, plan=plan, shard=shard, dry_run=dry_run, before_writing=before_writing
        )
        units = _cut(comparison.new(), writer, schema, fingerprint, unit_rows)
        writer.flush()
        added = sum(unit.rows for unit in units)
        again = _revise(plan, comparison, writer, fingerprint, revising)
        writer.flush()
    return _planned(compared, added, again, plan.and_files(writer.files), writer)


def _planned(
    compared: Compared, added: int, again: dict[tuple[str, int], int], plan: Plan,
    writer: PlanWriter,
) -> Planned:  # fmt: skip
    return Planned(
        **vars(compared), added=added, again=again, plan=plan,
        units=[unit for file in writer.files for unit in file.units if unit.rows],
    )  # fmt: skip


def _gather(
    references: Iterable[pa.RecordBatch], comparison: Comparison, schema: pa.Schema,
    limit: int | None, shard: tuple[int, int],
) -> bool:  # fmt: skip
    """Hands the listing to the comparison; returns whether it was cut at the limit."""
    listed = 0
    for batch in references:
        if shard != WHOLE:
            digests = uri_digests(batch.column("uri"))
            mine = pa.array(shard_of(digests, shard[1]) == shard[0])
            comparison.add_beside(batch.column("uri").filter(pc.invert(mine)))
            batch = batch.filter(mine)
        if limit is not None:
            batch = batch.slice(0, limit - listed)
        listed += batch.num_rows
        comparison.add(_conform(batch, schema), batch.schema.names)
        fault_injection.reached("listed")
        if limit is not None and listed >= limit:
            return True
    return False


def _cut(
    batches: Iterable[pa.RecordBatch], writer: PlanWriter, schema: pa.Schema, fingerprint: str,
    unit_rows: int,
) -> list[Unit]:  # fmt: skip
    """Cuts new references into units of the same size, but for the last one."""
    rest = schema.empty_table()
    units: list[Unit] = []

    def cut(table: pa.Table, least: int) -> pa.Table:
        table = table.combine_chunks()
        while table.num_rows >= least:
            rows = table.slice(0, unit_rows).to_batches()[0]
            unit = Unit(name=unit_name(rows, fingerprint), plan="", row_group=0, rows=rows.num_rows)
            writer.add(unit, rows)
            units.append(unit)
            table = table.slice(unit_rows)
        return table

    for batch in batches:
        rest = cut(pa.concat_tables([rest, pa.Table.from_batches([batch]).cast(schema)]), unit_rows)
    cut(rest, 1)
    return units


def _revise(
    plan: Plan, comparison: Comparison, writer: PlanWriter, fingerprint: str, revising: Revising
) -> dict[tuple[str, int], int]:
    """Writes a further revision of each unit of which a row changed, goes, or is retried.

    And of those with a column that is text by now: a table has one type for each.

    Returns: (unit's name, revision) → how many of its images are classified again.
    """
    again: dict[tuple[str, int], int] = {}
    for number, file in enumerate(plan.files):
        edits: dict[int, dict[int, Edit | None]] = {}
        for row, edit in comparison.edits(number, revising.drop_gone).items():
            at = int(file.unit_at(np.array([row]))[0])
            start = int(file.ends[at]) - file.units[at].rows
            edits.setdefault(at, {})[row - start] = edit
        retyped = any(
            field.name in file.schema.names and file.schema.field(field.name).type != field.type
            for field in comparison.schema
        )
        for at, unit in enumerate(file.units):
            retried = unit.name in revising.retry and plan.current.get(unit.name) == unit
            present = plan.current.get(unit.name) == unit and unit.rows
            if at in edits or retried or (retyped and present):
                failed = revising.failed(unit.name) if retried else set()
                changes = edits.get(at, {})
                batch = _revised_rows(unit, changes, failed, comparison.schema, revising)
                revised = Unit(
                    name=unit.name, plan="", row_group=0, rows=batch.num_rows,
                    revision=unit.revision + 1, base=revising.bases.get(unit.name, -1),
                    digest=unit_name(batch, fingerprint),
                )  # fmt: skip
                writer.add(revised, batch)
                again[revised.name, revised.revision] = batch.column(TAKEN_COLUMN).null_count
    return again


def _revised_rows(
    unit: Unit, edits: dict[int, Edit | None], failed: set[str], listed: pa.Schema,
    revising: Revising,
) -> pa.RecordBatch:  # fmt: skip
    """The rows in the plan of the next revision of a unit."""
    planned = read_planned(unit)
    base = revising.bases.get(unit.name, -1)
    for index, field in enumerate(planned.schema):
        if field.name in listed.names and listed.field(field.name).type != field.type:
            text = as_text(planned.column(index)).cast(listed.field(field.name).type)
            planned = planned.set_column(index, listed.field(field.name), text)
    fields = {field.name: field for field in (*listed, *planned.schema)}
    fields |= {name: pa.field(name, pa.string()) for name in PLAN_COLUMNS}
    uris = planned.column("uri")
    if base == unit.revision:
        taken = uris
    elif base == unit.base and TAKEN_COLUMN in planned.schema.names:
        taken = planned.column(TAKEN_COLUMN)  # this revision's part was never written: as it was
    else:
        taken = pa.nulls(len(uris), pa.string())
    if failed:
        again = pc.is_in(uris, pa.array(sorted(failed), pa.string()))
        taken = pc.if_else(again, pa.scalar(None, pa.string()), taken)
    columns = {
        name: planned.column(name).cast(field.type)
        if name in planned.schema.names
        else pa.nulls(len(uris), field.type)
        for name, field in fields.items()
    }
    rows = pa.table(columns | {TAKEN_COLUMN: taken}, pa.schema(fields.values()))
    return _edited(rows, edits)


def _edited(rows: pa.Table, edits: dict[int, Edit | None]) -> pa.RecordBatch:
    """The rows with those of `edits` changed or left out. There are few: units may be large."""
    changed: list[dict[str, object]] = []
    order = np.arange(rows.num_rows)
    for at, edit in edits.items():
        if edit is None:
            order[at] = -1
            continue
        [row] = rows.slice(at, 1).to_pylist()
        row |= edit.values | ({TAKEN_COLUMN: None} if edit.again else {})
        order[at] = rows.num_rows + len(changed)
        changed.append(row)
    both = pa.concat_tables([rows, pa.Table.from_pylist(changed, rows.schema)])
    kept = both.take(pa.array(order[order >= 0], pa.int64())).combine_chunks().to_batches()
    return kept[0] if kept else pa.RecordBatch.from_pylist([], rows.schema)


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the schema's columns; absent ones are null, users' own redacted."""
    arrays = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            values = batch.column(index)
            text = field.type == pa.string() and field not in REF_FIELDS
            values = as_text(values) if text else values.cast(field.type)
            arrays.append(values if field in REF_FIELDS else redact_column(values))
        except pa.ArrowException as error:
            raise PlanError(f"column {field.name!r} does not fit {field.type}: {error}") from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def uri_digests(uris: pa.Array) -> np.ndarray:
    """`S16 [N]`: the first 16 bytes of each uri's BLAKE2b."""
    blake2b = hashlib.blake2b
    return np.array([blake2b(u.encode(), digest_size=16).digest() for u in uris.to_pylist()], "S16")


def shard_of(digests: np.ndarray, shards: int) -> np.ndarray:
    """Which of `shards` shards each image belongs to: the same on every machine."""
    words = np.frombuffer(digests.astype("S16").tobytes(), ">u8").reshape(-1, 2)
    return (words[:, 0] % np.uint64(shards)).astype(np.int64)
