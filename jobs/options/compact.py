"""The options of `imagecensus compact`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompactOptions(Options):
    """Merges the parts of a table into files of up to 131,072 rows, sorted by uri, and removes
    older revisions. Programs that read the table meanwhile see all rows before, or after; classify
    goes on with the table as ever.
    """

    output: str = argument("the --output of a classify run")
