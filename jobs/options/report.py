"""The options of `imagecensus report`."""

from __future__ import annotations

import dataclasses

from imagecensus.jobs.command.options import Options, argument, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Writes OUTPUT/report.html, for people to look at."""

    output: str = argument("the --output folder of a classify run")
    labels: int = option(8, "labels that get a contact sheet, the most frequent first")
    examples: int = option(4, "images per row of a contact sheet, and examples per failure")
    sample: int = option(16, "images drawn at random")

    def problems(self) -> list[str]:
        names = ("labels", "examples", "sample")
        return [f"--{name} cannot be negative" for name in names if getattr(self, name) < 0]
