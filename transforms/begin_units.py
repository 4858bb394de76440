"""Which units a worker is given: read from the plan on the workers, begun only where it must be."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator

import apache_beam as beam
import numpy as np

from imagecensus.transforms import counters
from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.dataset.epoch import Fence
from imagecensus.transforms.records import Unit
from imagecensus.transforms.storage import store

# A worker gets so many units of a plan file at once, to read that file of some 10 MB once for them;
# fewer where there would be less than so many groups to share among the workers.
UNITS_A_GROUP, GROUPS = 32, 1000
FENCE_SECONDS = 60.0
# An archive that can only be read front to back is read by one worker, up to so many units of it;
# a longer one by at most so many workers, each of which reads it from its start.
UNITS_TOGETHER, PIECES = 64, 4
# A plan file's name, and which of its row groups are to be done, as bits.
PendingUnits = tuple[str, bytes]


def pending_units(units: Iterable[Unit]) -> list[PendingUnits]:
    """The units as what lists them: those of a plan file in one element."""
    groups: dict[str, list[int]] = {}
    for unit in units:
        groups.setdefault(unit.plan, []).append(unit.row_group)
    return [(os.path.basename(plan), _as_bits(found)) for plan, found in groups.items()]


def _as_bits(numbers: list[int]) -> bytes:
    bits = np.zeros(max(numbers) + 1, bool)
    bits[numbers] = True
    return np.packbits(bits).tobytes()


def units_of(pending: PendingUnits, folder: str) -> list[Unit]:
    """The units that an element lists, from their plan file in this folder. Raises PlanError."""
    name, bits = pending
    wanted = set(np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8))).tolist())
    units = work_plan.read_units(store.join(folder, name))
    return [unit for unit in units if unit.rows and unit.row_group in wanted]


def together(units: Iterable[Unit], usual: int) -> Iterator[list[Unit]]:
    """The units as workers are to get them: `usual` at once, or those of one archive.

    That is where they follow one another in an archive that can only be read front to back: spread
    over the workers they would each read it from its start.
    """
    for place, group in itertools.groupby(units, work_plan.sequential_place):
        found = list(group)
        size = max(UNITS_TOGETHER, -(-len(found) // PIECES)) if place else usual
        for start in range(0, len(found), size):
            yield found[start : start + size]


def _cut(pending: tuple[str, Iterable[bytes]], folder: str, usual: int) -> Iterator[PendingUnits]:
    name, [bits] = pending
    for group in together(units_of((name, bits), folder), usual):
        yield from pending_units(group)


@dataclasses.dataclass(kw_only=True)
class GiveUnits(beam.PTransform):
    """The units of a run, spread over the workers: `PBegin` → `PCollection[Unit]`.

    Neither the graph nor what the runner keeps waiting grows with the images: both have the plan
    files and which of their units are meant. Workers read the units, and their references, there.

    Attributes:
      units: what is to be done.
      folder: of the plan.
    """

    units: Collection[Unit]
    folder: str

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Unit]:
        files = pending_units(self.units)
        usual = min(UNITS_A_GROUP, max(1, len(self.units) // GROUPS))
        return (  # `Create` would put the files into the graph twice
            begin
            | "Impulse" >> beam.Impulse()
            | "Plan" >> beam.FlatMap(lambda _: files).with_output_types(PendingUnits)
            # Of two reshuffles Flink leaves the second out: one machine had all units of a file.
            | "SpreadPlan" >> beam.GroupByKey()
            | "Cut" >> beam.FlatMap(_cut, self.folder, usual).with_output_types(PendingUnits)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(units_of, self.folder).with_output_types(Unit)
        )


@dataclasses.dataclass(kw_only=True)
class BeginUnits(beam.PTransform):
    """Passes on the units that are to be done now: `PCollection[Unit]` → `PCollection[Unit]`.

    A runner that lost a machine gives out all units anew: those whose part is there are done. Where
    a later run has begun, none is to be done.

    Attributes:
      parts: their folder.
      fence: of the run; None: nothing can outlive its launcher.
    """

    parts: str
    fence: Fence | None = None

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Unit]:
        return units | beam.ParDo(_BeginUnits(self.parts, self.fence)).with_output_types(Unit)


class _BeginUnits(beam.DoFn):
    def __init__(self, parts: str, fence: Fence | None):
        self._parts, self._fence = parts, fence

    def setup(self) -> None:
        self._looked, self._held = -FENCE_SECONDS, True

    def process(self, unit: Unit) -> Iterator[Unit]:
        if not self._is_held():
            counters.UNITS_FENCED.inc()
        elif not store.exists(parts.part_location(self._parts, unit)):
            yield unit

    def _is_held(self) -> bool:
        now = time.monotonic()
        if self._fence and self._held and now - self._looked >= FENCE_SECONDS:
            self._looked, self._held = now, self._fence.is_held()
            if self._held:
                self._fence.sign(FENCE_SECONDS)
            else:
                LOGGER.warning("a later run has taken this output over; no unit is begun here")
        return self._held
