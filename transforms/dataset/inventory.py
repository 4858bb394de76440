"""What is there of a dataset: its parts, looked through and compared with the plan."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.transforms.dataset.parts import PartFile, list_part_files, read_part
from imagecensus.transforms.dataset.work_plan import Plan, unit_name
from imagecensus.transforms.records import Status, Unit
from imagecensus.transforms.storage import store

_COLUMNS = ["uri", "status", "label", "etag_or_mtime"]
_READERS = 16


@dataclasses.dataclass(kw_only=True)
class Totals:
    """The totals of a dataset, from its rows."""

    rows: int = 0
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def predicted(self) -> int:
        return self.statuses[Status.OK.value]

    @property
    def failed(self) -> int:
        return self.rows - self.predicted

    def add(self, found: Part) -> None:
        self.rows += found.rows
        self.statuses.update(found.statuses)
        self.labels.update(found.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What a part holds. Its rows reproduce the digest of its unit."""

    file: PartFile
    rows: int
    statuses: dict[str, int]
    labels: dict[str, int]

    @property
    def failed(self) -> int:
        return self.rows - self.statuses.get(Status.OK.value, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a scan of the parts found, against the plan.

    Attributes:
      parts: unit name → its intact part of the present revision.
      bases: unit name → the revision of an earlier part, where the present one is missing.
      pending: units whose part is missing or damaged.
      damaged: locations of damaged parts.
      stale: locations of parts that a later one replaces, or whose unit has no rows any more.
      unplanned: locations of parts that no plan knows.
    """

    parts: dict[str, Part]
    bases: dict[str, int]
    pending: list[Unit]
    damaged: list[str]
    stale: list[str]
    unplanned: list[str]

    @property
    def totals(self) -> Totals:
        totals = Totals()
        for part in self.parts.values():
            totals.add(part)
        return totals

    @property
    def with_failures(self) -> set[str]:
        """Names of the units that have failed rows."""
        return {name for name, part in self.parts.items() if part.failed}


def take_inventory(
    folder: str, plan: Plan, fingerprint: str, known: Iterable[Part] = ()
) -> Inventory:
    """Compares the parts with the plan; reads those that `known` does not have, once.

    A part is damaged when it is unreadable, its checksum is wrong, or its rows do not reproduce
    the digest of its unit: one is lost, doubled, swapped or another's.
    """
    trusted = {part.file: part for part in known}
    files: dict[str, dict[int, PartFile]] = {}
    for file in list_part_files(folder):
        files.setdefault(file.unit, {})[file.revision] = file
    found = Inventory(parts={}, bases={}, pending=[], damaged=[], stale=[], unplanned=[])
    asked = [
        (unit, files[unit.name][unit.revision])
        for unit in plan.units
        if unit.revision in files.get(unit.name, ())
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        looked = pool.map(
            lambda one: trusted.get(one[1]) or _look(one[0], one[1], fingerprint), asked
        )
        for (unit, file), part in zip(asked, looked, strict=True):
            if part is None:
                found.damaged.append(file.location)
                del files[unit.name][file.revision]
            else:
                found.parts[unit.name] = part
    for unit in plan.current.values():
        others = files.pop(unit.name, {})
        if unit.rows and unit.name not in found.parts:
            found.pending.append(unit)
            lower = [revision for revision in others if revision < unit.revision]
            if lower:
                found.bases[unit.name] = max(lower)
                others.pop(max(lower))
        if unit.rows:
            others.pop(unit.revision, None)
        for revision, file in others.items():
            planned = revision <= unit.revision  # else of a run that this one knows nothing of
            (found.stale if planned else found.unplanned).append(file.location)
    found.unplanned.extend(sorted(f.location for rest in files.values() for f in rest.values()))
    return found


def _look(unit: Unit, file: PartFile, fingerprint: str) -> Part | None:
    """What a part holds; None: it is damaged, or it is not this unit's."""
    try:
        rows = read_part(file.location, _COLUMNS)
        if rows.num_rows != unit.rows or unit_name(rows, fingerprint) != unit.expected:
            return None
        statuses, labels = (_counts(rows.column(name)) for name in ("status", "label"))
    except FileNotFoundError:
        return None
    except Exception:  # Arrow raises a dozen types for damaged files
        return None
    return Part(file=file, rows=rows.num_rows, statuses=statuses, labels=labels)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    entries = pc.value_counts(pc.cast(column, pa.string())).to_pylist()
    return {e["values"]: e["counts"] for e in entries if e["values"] is not None}


def failed_uris(part: Part) -> set[str]:
    """The uris of the failed rows of a part."""
    rows = read_part(part.file.location, ["uri", "status"])
    failed = pc.not_equal(pc.cast(rows.column("status"), pa.string()), Status.OK.value)
    return set(rows.column("uri").filter(failed).to_pylist())


def remove(locations: Iterable[str]) -> None:
    """Removes parts, damaged or replaced. Raises StorageError."""
    for location in locations:
        store.delete(location)
