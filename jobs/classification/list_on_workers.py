"""Inputs listed by the workers of a runner, in a job before the one that classifies."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa

from imagecensus.jobs.classification.interrupts import run_listing
from imagecensus.jobs.classification.remote_job import named_job
from imagecensus.jobs.classification.runners import beam_runner, template_location
from imagecensus.jobs.classification.worker_errors import user_errors
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.dataset.epoch import fence_of
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.inputs.object_ranges import Group, Spool, cut_input, read_groups
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import is_prefix, may_be_opened
from imagecensus.transforms.list_objects import ListObjects
from imagecensus.transforms.storage.locations import lists_ranges


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersListing:
    """Lists what it can of the inputs of a run when it is first asked for one of them.

    Attributes:
      options: the user's.
      epoch: the number of the run.
      job_name: of the job, where the user names none.
      selection: what is left out; it counts.
    """

    options: ClassifyOptions
    layout: Layout
    run_id: str
    epoch: int
    job_name: str
    selection: Selection

    def listed(self, text: str) -> Iterator[pa.RecordBatch] | None:
        """What workers listed of an input, see `read_groups`; None: they list no such input."""
        groups = self._groups.get(text)
        return None if groups is None else read_groups(text, groups, self._spool, self.selection)

    @functools.cached_property
    def _groups(self) -> dict[str, list[Group]]:
        options = self.options
        columns = (options.uri_column, options.image_column)
        texts = [t for t in options.inputs if lists_ranges(t) and is_prefix(t, *columns)]
        found = {text: cut_input(text) for text in texts}
        if found:
            self._run([group for groups in found.values() for group in groups])
        return found

    @property
    def _spool(self) -> Spool:
        return Spool(
            start=f"{self.layout.listing}{self.run_id}-",
            exclude=self.selection.exclude,
            include=self.selection.include,
            is_opened=functools.partial(may_be_opened, all_pages=self.options.pages == "all"),
        )

    def _run(self, groups: list[Group]) -> None:
        options, layout = self.options, self.layout
        runner, flags = beam_runner(options)
        if template_location(options, flags):
            raise UserError("--list-on-workers: a template is one job; give it without")
        job = named_job(options.runner, flags, f"{self.job_name}-list", self.run_id)
        job = dataclasses.replace(job, lists=True) if job else None
        fence = fence_of(layout.epoch, layout.whole.epoch, self.epoch, layout.signs)
        ranges = sum(len(group.ranges) for group in groups)
        LOGGER.info("workers list %s of names", counted(ranges, "range"))
        with user_errors():
            pipeline = beam.Pipeline(runner=runner, options=flags)
            _ = pipeline | "ListObjects" >> ListObjects(
                groups=groups, spool=self._spool, fence=fence
            )
            run_listing(pipeline, options.runner, job, layout)
