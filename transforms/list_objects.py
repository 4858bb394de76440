"""Objects of stores listed by workers, where a launcher alone would take too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.begin_units import FENCE_SECONDS
from imagecensus.transforms.dataset.epoch import Fence
from imagecensus.transforms.inputs.object_ranges import MOST_OBJECTS, Group, Spool, list_group

_ROUNDS = 3  # in which ranges that hold too much are cut again


@dataclasses.dataclass(kw_only=True)
class ListObjects(beam.PTransform):
    """Lists groups of ranges of names into files: `PBegin` → `PCollection[str]`, their names.

    A range that holds much more than others is cut again, and its rest spread over the workers.

    Attributes:
      groups: what is to be listed.
      spool: where to, and what is chosen.
      fence: of the run: where a later one has begun, nothing is written.
      most: objects of a range that are listed before it is cut.
    """

    groups: list[Group]
    spool: Spool
    fence: Fence
    most: int = MOST_OBJECTS

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        groups = begin | "Ranges" >> beam.Create(self.groups, reshuffle=False)
        listed = []
        for at in range(_ROUNDS + 1):
            most = self.most if at < _ROUNDS else 0
            found = (
                groups
                | f"Spread{at}" >> beam.Reshuffle()
                | f"List{at}"
                >> beam.ParDo(_ListGroup(self.spool, self.fence, most)).with_outputs(
                    "rest", main="listed"
                )
            )
            listed.append(found.listed)
            groups = found.rest
        return listed | beam.Flatten()


class _ListGroup(beam.DoFn):
    def __init__(self, spool: Spool, fence: Fence, most: int):
        self._spool, self._fence, self._most = spool, fence, most

    def process(self, group: Group) -> Iterator[Any]:
        if not self._fence.is_held():
            LOGGER.warning("a later run has taken this output over; nothing is listed here")
            return
        self._fence.sign(FENCE_SECONDS)
        for rest in list_group(group, self._spool, self._most):
            yield beam.pvalue.TaggedOutput("rest", rest)
        yield group.name
