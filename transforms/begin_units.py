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

# So many units go into the job's graph themselves; of more, the files that list them.
UNITS_IN_GRAPH = 2000
FENCE_SECONDS = 60.0
# An archive that can only be read front to back is read by one worker, up to so many units of it;
# a longer one by at most so many workers, each of which reads it from its start.
UNITS_TOGETHER, PIECES = 64, 4
# A plan file's name, and which of its row groups are to be done, as bits.
PendingUnits = tuple[str, bytes]


def pending_units(units: Iterable[Unit]) -> list[PendingUnits]:
    """The units as what lists them, for the graph: 512 units in one element."""
    groups: dict[str, list[int]] = {}
    for unit in units:
        groups.setdefault(unit.plan, []).append(unit.row_group)
    return [(os.path.basename(plan), _as_bits(found)) for plan, found in groups.items()]


def _as_bits(numbers: list[int]) -> bytes:
    bits = np.zeros(max(numbers) + 1, bool)
    bits[numbers] = True
    return np.packbits(bits).tobytes()


def together(units: Iterable[Unit]) -> Iterator[tuple[Unit, ...]]:
    """The units as workers are to get them: those that follow one another in an archive at once.

    Spread over the workers they would each read the archive from its start.
    """
    for place, group in itertools.groupby(units, work_plan.sequential_place):
        found = list(group)
        size = max(UNITS_TOGETHER, -(-len(found) // PIECES)) if place else 1
        for start in range(0, len(found), size):
            yield tuple(found[start : start + size])


@dataclasses.dataclass(kw_only=True)
class GiveUnits(beam.PTransform):
    """The units of a run, spread over the workers: `PBegin` → `PCollection[Unit]`.

    The graph and the launcher do not grow with the images: of many units the graph has only the
    plan files. Workers read each of these once, and their units carry their references.

    Attributes:
      units: what is to be done.
      folder: of the plan.
      carried: whether references go along with units; else a worker reads a plan file for each
        unit. Within one machine that is the file system's cache.
    """

    units: Collection[Unit]
    folder: str
    carried: bool

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Unit]:
        if len(self.units) < UNITS_IN_GRAPH:
            units = begin | "Units" >> beam.Create(list(together(self.units)), reshuffle=False)
        else:
            files = pending_units(self.units)
            units = (  # `Create` would put them into the graph twice
                begin
                | "Impulse" >> beam.Impulse()
                | "Plan" >> beam.FlatMap(lambda _: files).with_output_types(PendingUnits)
                | "SpreadPlan" >> beam.Reshuffle()
                | "ReadPlan" >> beam.ParDo(_ReadPlan(self.folder, self.carried))
            )
        separate = beam.FlatMap(lambda units: units).with_output_types(Unit)
        return units | "Spread" >> beam.Reshuffle() | "Separate" >> separate


class _ReadPlan(beam.DoFn):
    def __init__(self, folder: str, carried: bool):
        self._folder, self._carried = folder, carried

    def process(self, pending: PendingUnits) -> Iterator[tuple[Unit, ...]]:
        name, bits = pending
        wanted = set(np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8))).tolist())
        file = work_plan.read_plan_file(store.join(self._folder, name))
        units = (unit for unit in file.units if unit.rows and unit.row_group in wanted)
        for found in together(units):
            yield tuple(map(work_plan.with_references, found)) if self._carried else found


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
