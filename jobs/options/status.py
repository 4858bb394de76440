"""The options of `imagecensus status`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatusOptions(Options):
    """Checks the totals of an output and shows what runs for it. Classifies and writes nothing."""

    epilog = (
        "Exit codes: 0 every image has its row; 1 some have none yet, no run has listed its"
        " inputs to their end, or totals do not balance."
    )

    output: str = argument("the --output of a classify run")
    json: bool = option(False, "print one JSON object")
