"""What is there of a dataset: its parts, looked through and compared with the plan."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.model_export.common.ignored_names import is_no_image_name
from imagecensus.transforms.dataset.ledger import Found, Ledger, ledger_of, together
from imagecensus.transforms.dataset.parts import PartFile, list_part_files, read_part
from imagecensus.transforms.dataset.work_plan import Plan, unit_name
from imagecensus.transforms.records import Status, Unit
from imagecensus.transforms.storage import store

_COLUMNS = ["uri", "status", "label", "etag_or_mtime"]
_READERS = 16
_OF_IMAGES = {  # statuses that only the content of an image gets
    Status.OK, Status.TRUNCATED, Status.DECODE_ERROR, Status.DECODE_TIMEOUT, Status.DECODE_CRASH,
    Status.INFERENCE_ERROR,
}  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Totals:
    """The totals of a dataset, from its rows."""

    parts: int = 0
    rows: int = 0
    not_images: int = 0  # rows without a prediction whose names say that they are no images
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def predicted(self) -> int:
        return self.statuses[Status.OK.value]

    @property
    def failed(self) -> int:
        return self.rows - self.predicted - self.not_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """An intact part: its rows reproduce the digest of its unit."""

    file: PartFile
    rows: int
    failed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a scan of the parts found, against the plan.

    Attributes:
      parts: unit name → its intact part of the present revision.
      ledger: what these parts hold.
      new: of these, those that were read now.
      bases: unit name → the revision of an earlier part, where the present one is missing.
      pending: units whose part is missing or damaged.
      damaged: locations of damaged parts.
      stale: locations of parts that a later one replaces, or whose unit has no rows any more.
      unplanned: locations of parts that no plan knows.
    """

    parts: dict[str, Part]
    ledger: Ledger
    new: Ledger
    bases: dict[str, int]
    pending: list[Unit]
    damaged: list[str]
    stale: list[str]
    unplanned: list[str]

    @property
    def totals(self) -> Totals:
        rows, not_images, statuses, labels = self.ledger.totals()
        return Totals(
            parts=len(self.parts), rows=rows, not_images=not_images, statuses=statuses,
            labels=labels,
        )  # fmt: skip

    @property
    def with_failures(self) -> set[str]:
        """Names of the units that have failed rows."""
        return {name for name, part in self.parts.items() if part.failed}


def take_inventory(
    folder: str, plan: Plan, fingerprint: str, known: Ledger | None = None
) -> Inventory:
    """Compares the parts with the plan; reads those that `known` does not have, once.

    A part is damaged when it is unreadable, its checksum is wrong, or its rows do not reproduce
    the digest of its unit: one is lost, doubled, swapped or another's.
    """
    known = known or Ledger()
    files: dict[str, dict[int, PartFile]] = {}
    for file in list_part_files(folder):
        files.setdefault(file.unit, {})[file.revision] = file
    asked = [
        (unit, files[unit.name][unit.revision])
        for unit in plan.units
        if unit.revision in files.get(unit.name, ())
    ]
    at = known.find(asked)
    unread = [one for one, row in zip(asked, at, strict=True) if row < 0]
    with ThreadPoolExecutor(_READERS) as pool:
        looked = list(pool.map(lambda one: _look(one[0], one[1], fingerprint), unread))
    damaged = [file for (_, file), part in zip(unread, looked, strict=True) if part is None]
    for file in damaged:
        del files[file.unit][file.revision]
    # In the order of the ledger, so that one of which all is kept is not copied.
    rows = sorted((row, n) for n, row in enumerate(at) if row >= 0)
    kept = known.take([row for row, _ in rows])
    new = ledger_of(part for part in looked if part is not None)
    files_of = [asked[n][1] for _, n in rows]
    files_of += [part.file for part in looked if part is not None]
    ledger = together([kept, new])
    found = Inventory(
        parts={
            file.unit: Part(file=file, rows=rows, failed=failed)
            for file, (rows, failed) in zip(files_of, ledger.rows_and_failed(), strict=True)
        },
        ledger=ledger, new=new, bases={}, pending=[], stale=[], unplanned=[],
        damaged=[file.location for file in damaged],
    )  # fmt: skip
    _compare(plan, files, found)
    return found


def _compare(plan: Plan, files: dict[str, dict[int, PartFile]], found: Inventory) -> None:
    """Finds what is pending, and which files are nobody's."""
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


def _look(unit: Unit, file: PartFile, fingerprint: str) -> Found | None:
    """What a part holds; None: it is damaged, or it is not this unit's."""
    try:
        rows = read_part(file.location, _COLUMNS)
        if rows.num_rows != unit.rows or unit_name(rows, fingerprint) != unit.expected:
            return None
        statuses, labels = (_counts(rows.column(name)) for name in ("status", "label"))
        not_images = count_no_images(unpredicted(rows))
    except FileNotFoundError:
        return None
    except Exception:  # Arrow raises a dozen types for damaged files
        return None
    return Found(
        file=file, digest=unit.expected, rows=rows.num_rows, statuses=statuses, labels=labels,
        failed=rows.num_rows - statuses.get(Status.OK.value, 0), not_images=not_images,
    )  # fmt: skip


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    entries = pc.value_counts(pc.cast(column, pa.string())).to_pylist()
    return {e["values"]: e["counts"] for e in entries if e["values"] is not None}


def failed_uris(part: Part) -> set[str]:
    """The uris of the failed rows of a part."""
    return {uri for uri, _ in unpredicted(read_part(part.file.location, ["uri", "status"]))}


def content_hashes(part: Part) -> dict[str, str]:
    """The hashes of the bytes of the images of a part, by uri, where there is a prediction."""
    try:
        rows = read_part(part.file.location, ["uri", "status", "xxh128"])
    except (OSError, ValueError):  # damaged meanwhile
        return {}
    if "xxh128" not in rows.schema.names:
        return {}
    columns = (pc.cast(rows.column(n), pa.string()).to_pylist() for n in rows.schema.names)
    by_name = dict(zip(rows.schema.names, columns, strict=True))
    triples = zip(by_name["uri"], by_name["status"], by_name["xxh128"], strict=True)
    return {uri: digest for uri, status, digest in triples if status == Status.OK.value and digest}


def unpredicted(rows: pa.Table) -> list[tuple[str, str]]:
    """Uri and status of the rows without a prediction."""
    statuses = pc.cast(rows.column("status"), pa.string())
    without = pc.not_equal(statuses, Status.OK.value)
    columns = (column.filter(without).to_pylist() for column in (rows.column("uri"), statuses))
    return list(zip(*columns, strict=True))


def count_no_images(rows: Iterable[tuple[str, str]]) -> int:
    """How many rows are of files that did not fail, but are no images, as their names say.

    Args:
      rows: uri and status. What was an image as far as it was read counts as one.
    """
    return sum(status not in _OF_IMAGES and is_no_image_name(uri) for uri, status in rows)


def remove(locations: Iterable[str]) -> None:
    """Removes parts, damaged or replaced. Raises StorageError."""
    for location in locations:
        store.delete(location)
